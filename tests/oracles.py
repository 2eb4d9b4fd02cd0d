"""Programs as a user would write them, with simulated truth and its standard errors; several tests share their fits.

Standard errors are those of the complete data (labels known): sigma / sqrt(N w_k) for a mean, and so on. The truths are
separated well enough that unknown labels add little, and tests allow five of them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple
from unittest.mock import patch

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from scipy.optimize import linear_sum_assignment
from scipy.stats import chi2

import vmix
from vmix import driving, fitting
from vmix.inference import EM, SVI, Gibbs


@dataclass(frozen=True)
class Case:
    """A program with data, the values they came from, and standard errors; `shared` sites have no component axis."""

    program: Callable[..., None]
    data: tuple[np.ndarray, ...]
    truth: Mapping[str, np.ndarray]
    errors: Mapping[str, np.ndarray]
    shared: tuple[str, ...] = ()

    def aligned(self, posterior: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The named estimates with components in the truth's order (the assignment of least squared error)."""
        found = {name: np.asarray(posterior[name], float) for name in self.truth}
        cost = 0.0
        for name in set(self.truth) - set(self.shared):
            gap = (found[name][:, None] - self.truth[name][None]) / self.errors[name][None]
            cost = cost + (gap**2).reshape(*gap.shape[:2], -1).sum(-1)
        order = np.argsort(linear_sum_assignment(cost)[1])
        return {name: value if name in self.shared else value[order] for name, value in found.items()}

    def worst_error(self, posterior: Mapping[str, np.ndarray]) -> float:
        """Largest error of the aligned estimates, in standard errors."""
        found = self.aligned(posterior)
        return max(float(np.abs((found[n] - self.truth[n]) / self.errors[n]).max()) for n in self.truth)


def poisson_mixture(counts: Array) -> None:
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 0.05))
    with numpyro.plate("data", counts.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("counts", dist.Poisson(rate[c]), obs=counts)


def latent_classes(answers: Array) -> None:
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(3)).expand([2, 8]).to_event(2))
    with numpyro.plate("data", answers.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("answers", dist.Categorical(theta[c]).to_event(1), obs=answers)


def two_modalities(image: Array, sound: Array) -> None:
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    middle = numpyro.sample("middle", dist.Normal(0.0, 10.0))
    look = numpyro.sample("look", dist.Normal(middle, 4.0).expand([3, 2]).to_event(2))
    pitch = numpyro.sample("pitch", dist.Normal(middle, 4.0).expand([3]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0))
    with numpyro.plate("data", image.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("image", dist.Normal(look[c], 1.0).to_event(1), obs=image)
        numpyro.sample("sound", dist.Normal(pitch[c], 1.0 / jnp.sqrt(tau)), obs=sound)


def regressions(features: Array, y: Array) -> None:
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("data", y.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("y", dist.Normal((slope[c] * features).sum(-1), 1.0 / jnp.sqrt(tau[c])), obs=y)


def half_normal_scales(x: Array) -> None:
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        loc = numpyro.sample("loc", dist.Normal(0.0, 10.0))
        scale = numpyro.sample("scale", dist.HalfNormal(3.0))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], scale[c]), obs=x)


def _labels(rng: np.random.Generator, w: np.ndarray, num_rows: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the expected size of each component, and the standard error of its weight."""
    return rng.choice(w.size, num_rows, p=w), num_rows * w, np.sqrt(w * (1 - w) / num_rows)


def poisson_case(*, num_rows: int = 900) -> Case:
    rng = np.random.default_rng(1)
    w, rate = np.array([0.5, 0.3, 0.2]), np.array([3.0, 20.0, 50.0])
    c, size, w_error = _labels(rng, w, num_rows)
    truth, errors = {"w": w, "rate": rate}, {"w": w_error, "rate": np.sqrt(rate / size)}
    return Case(poisson_mixture, (rng.poisson(rate[c]),), truth, errors)


def latent_class_case(*, num_rows: int = 800) -> Case:
    rng = np.random.default_rng(2)
    w = np.array([0.6, 0.4])
    theta = np.stack([np.roll([0.8, 0.12, 0.08], shift) for shift in (0, 1)])[:, None].repeat(8, 1)
    c, size, w_error = _labels(rng, w, num_rows)
    answers = (rng.random((num_rows, 8, 1)) > theta[c].cumsum(-1)).sum(-1)
    theta_error = np.sqrt(theta * (1 - theta) / size[:, None, None])
    return Case(latent_classes, (answers,), {"w": w, "theta": theta}, {"w": w_error, "theta": theta_error})


def two_modality_case(*, num_rows: int = 600) -> Case:
    rng = np.random.default_rng(3)
    # the image confuses components 0 and 1, the sound 1 and 2: only together do they tell all three
    w, tau = np.array([0.4, 0.3, 0.3]), np.array(0.5)
    look, pitch = np.array([[0.0, 2.0], [0.0, 2.0], [6.0, -2.0]]), np.array([-6.0, 4.0, 4.0])
    c, size, w_error = _labels(rng, w, num_rows)
    image = look[c] + rng.normal(size=(num_rows, 2))
    sound = pitch[c] + rng.normal(size=num_rows) / np.sqrt(tau)
    truth = {"w": w, "look": look, "pitch": pitch, "tau": tau}
    errors = {
        "w": w_error,
        "look": np.sqrt(1 / size)[:, None],
        "pitch": np.sqrt(1 / (tau * size)),
        "tau": tau * np.sqrt(2 / num_rows),
    }
    return Case(two_modalities, (image, sound), truth, errors, shared=("tau",))


def regression_case(*, num_rows: int = 600) -> Case:
    rng = np.random.default_rng(4)
    w, slope, tau = np.array([0.6, 0.4]), np.array([[4.0, 1.0], [-4.0, 2.0]]), np.array([4.0, 1.0])
    c, size, w_error = _labels(rng, w, num_rows)
    features = np.stack([rng.uniform(1, 3, num_rows), rng.normal(size=num_rows)], 1)
    y = (slope[c] * features).sum(1) + rng.normal(size=num_rows) / np.sqrt(tau[c])
    slope_error = 1 / np.sqrt(size[:, None] * tau[:, None] * (features**2).mean(0))
    truth = {"w": w, "slope": slope, "tau": tau}
    return Case(regressions, (features, y), truth, {"w": w_error, "slope": slope_error, "tau": tau * np.sqrt(2 / size)})


def half_normal_case(*, num_rows: int = 500) -> Case:
    rng = np.random.default_rng(5)
    w, loc, scale = np.array([0.6, 0.4]), np.array([-4.0, 4.0]), np.array([0.7, 1.5])
    c, size, w_error = _labels(rng, w, num_rows)
    x = rng.normal(loc[c], scale[c])
    errors = {"w": w_error, "loc": scale / np.sqrt(size), "scale": scale / np.sqrt(2 * size)}
    return Case(half_normal_scales, (x,), {"w": w, "loc": loc, "scale": scale}, errors)


CASES: dict[str, Callable[..., Case]] = {
    "Poisson mixture": poisson_case,
    "latent classes": latent_class_case,
    "two modalities": two_modality_case,
    "mixture of regressions": regression_case,
    "HalfNormal scales": half_normal_case,
}


ENGINES = {
    "EM": EM(),
    "SVI": SVI(num_steps=600, learning_rate=5e-2),
    "Gibbs": Gibbs(num_samples=300, num_warmup=100),
}


class Fitted(NamedTuple):
    """A case, its fit, the point that stands for it (draws averaged), and how often the step was traced."""

    case: Case
    fit: vmix.Fit
    point: dict[str, np.ndarray]
    traces: int


@lru_cache
def fitted(case_name: str, engine_name: str) -> Fitted:
    """Fit a case once for all tests; engines share seed 0 and so the start."""
    case, runs = CASES[case_name](), []

    class Recorded(driving.Run):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)
            runs.append(self)

    with patch.object(fitting, "Run", Recorded):
        fit = vmix.fit(case.program, *case.data, engine=ENGINES[engine_name], seed=0)
    sampled = engine_name == "Gibbs"
    point = {name: value.mean(0) if sampled else value for name, value in fit.posterior.items()}
    return Fitted(case, fit, point, runs[0].traces)


def check_path_frequencies(draws: np.ndarray, p: np.ndarray, *, num_states: int) -> None:
    """A chi-square test of drawn paths, shape (draws, steps), against p in the order of enumeration.

    Rare paths count together; the false-alarm rate is 1e-4.
    """
    counts = np.bincount(np.ravel_multi_index(draws.T, (num_states,) * draws.shape[1]), minlength=len(p))
    assert not np.any(counts[p == 0])
    rare = p * len(draws) < 5
    observed, expected = (np.append(a[~rare], a[rare].sum()) for a in (counts, p * len(draws)))
    kept = expected > 0
    statistic = np.sum((observed[kept] - expected[kept]) ** 2 / expected[kept])
    assert statistic < chi2.isf(1e-4, kept.sum() - 1)
