"""EM on a Gaussian mixture against scikit-learn and pomegranate, sweep by sweep from the same start."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import sklearn
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as Peer
from threadpoolctl import threadpool_limits

import vmix
from benchmarks import _mixtures_pomegranate as pomegranate
from benchmarks import _peers as peers
from benchmarks._recording import Case, is_recorded, load_average, record
from benchmarks._sweeps import Sweeps
from vmix.free_energy import evaluate
from vmix.inference import EM
from vmix.models import GaussianMixture

PEERS = {"float64": np.float64, "float32": np.float32}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes: N, D, K, sweeps a round, timed rounds."""

    covariance: str
    num_data: int = 100_000
    data_dim: int = 16
    num_components: int = 10
    sweeps: int = 5
    rounds: int = 7


class Contestant:
    """Something that advances by sweeps; the first round (compilation, warming up) is kept out of the timings.

    Args:
        advance: does one round.
        log_likelihood: of the data where it stands, nats per datum.
    """

    def __init__(self, advance: Callable[[], object], log_likelihood: Callable[[], float]) -> None:
        self.advance, self.log_likelihood = advance, log_likelihood
        self.seconds: list[float] = []

    def run_round(self) -> None:
        """Advance and take the time."""
        began = time.perf_counter()
        self.advance()
        self.seconds.append(time.perf_counter() - began)

    def per_sweep(self, sweeps: int) -> np.ndarray:
        """Seconds a sweep of each timed round."""
        return np.array(self.seconds[1:]) / sweeps


def compare(settings: Settings, seed: int, *, folder: Path, data: str = "ellipsoids") -> list[dict[str, Any]]:
    """Run one case, interleaved, and record a line a variant: the faster number of threads of each peer.

    Args:
        settings: sizes.
        seed: of the data.
        folder: where the results are.
        data: "ellipsoids", or "mnist": its first N images in D principal directions.

    Returns:
        The lines; none if they are there already.
    """
    others = {f"scikit-learn {sklearn.__version__}, {name}": name for name in PEERS} | pomegranate.installed()
    chosen = asdict(settings) | {"estimate": "ml"}
    name = f"em-{settings.covariance}" if data == "ellipsoids" else f"em-{data}"
    cases = {v: Case(benchmark="mixtures", case=name, variant=v, seed=seed, settings=chosen) for v in ("vmix", *others)}
    if all(is_recorded(case, folder) for case in cases.values()):
        return []
    x = make_data(settings, seed) if data == "ellipsoids" else principal_directions(settings)
    start = first_values(settings, x)
    ours, seconds_plan = contest(settings, x, start)
    forms = {
        variant: {t: peer(settings, x.astype(PEERS[kind]), start, t) for t in peers.thread_counts()}
        if kind in PEERS
        else {t: Contestant(*pomegranate.form(settings, x, start, t)) for t in peers.torch_threads()}
        for variant, kind in others.items()
    }
    for _ in range(1 + settings.rounds):
        for contestant in (ours, *(one for both in forms.values() for one in both.values())):
            contestant.run_round()
    mine = _metrics(ours, settings) | {"seconds_plan": seconds_plan, "seconds_compile": ours.seconds[0]}
    lines = [("vmix", mine, ours)]
    for variant, both in forms.items():
        threads = min(both, key=lambda t: np.median(both[t].per_sweep(settings.sweeps)))
        best = both[threads]
        lines.append((variant, _metrics(best, settings) | {"threads": threads}, best))
        # round by round, so that a drift of the machine's load cancels
        ratio = best.per_sweep(settings.sweeps) / ours.per_sweep(settings.sweeps)
        mine[f"times_faster_than_{others[variant]}"] = float(np.median(ratio))
    return [record(cases[variant], metrics, sum(who.seconds), folder) for variant, metrics, who in lines]


def principal_directions(settings: Settings) -> np.ndarray:
    """The first images of MNIST in their principal directions, shape (N, D), float64."""
    images = np.asarray(vmix.data.load("mnist").images[: settings.num_data], np.float64)
    found = PCA(settings.data_dim, svd_solver="covariance_eigh").fit_transform(images)
    return found.astype(np.float32).astype(np.float64)  # the same numbers in both precisions


def _metrics(contestant: Contestant, settings: Settings) -> dict[str, float]:
    timings = contestant.per_sweep(settings.sweeps)
    return {
        "seconds_per_iteration": float(np.median(timings)),
        "seconds_per_iteration_fastest": float(timings.min()),
        "log_likelihood": contestant.log_likelihood(),
        "load": load_average(),
    }


def make_data(settings: Settings, seed: int) -> np.ndarray:
    """K overlapping ellipsoids with correlated columns, shape (N, D), float64."""
    rng = np.random.default_rng(seed)
    k, d = settings.num_components, settings.data_dim
    means = rng.normal(0.0, 1.5, (k, d))
    roots = rng.normal(0.0, 1.0, (k, d, d)) / np.sqrt(d) + 0.5 * np.eye(d)
    component = rng.integers(0, k, settings.num_data)
    noise = rng.normal(size=(settings.num_data, d))
    x = np.empty((settings.num_data, d))
    for j in range(k):
        x[component == j] = means[j] + noise[component == j] @ roots[j].T
    return x.astype(np.float32).astype(np.float64)  # the same numbers in both precisions


def first_values(settings: Settings, x: np.ndarray) -> dict[str, np.ndarray]:
    """Equal weights, the first K rows as means, the precisions of the whole data."""
    k = settings.num_components
    if settings.covariance == "diagonal":
        precision = np.tile(1.0 / x.var(0), (k, 1))
    else:
        precision = np.tile(np.linalg.inv(np.cov(x.T)), (k, 1, 1))
    return {"w": np.full(k, 1.0 / k), "loc": x[:k].copy(), "precision": precision}


def contest(settings: Settings, x: np.ndarray, start: dict[str, np.ndarray]) -> tuple[Contestant, float]:
    """vmix, advanced as the driver does: one compiled chunk of sweeps a round; and the seconds of planning."""
    model = GaussianMixture(num_components=settings.num_components, covariance=settings.covariance)
    engine = EM(estimate="ml", tolerance=None, num_sweeps=settings.sweeps)
    ours = Sweeps(model, (x.astype(np.float32),), engine)
    ours.start_at(start)

    def log_likelihood() -> float:
        values = {name: value[0] for name, value in ours.state.globals.items()}
        # the data are an argument: as constants they would be folded into the program, for minutes
        judge = jax.jit(lambda v, args: evaluate(ours.plan, v, {}, args, key=jax.random.key(0)).per_datum)
        return float(np.asarray(judge(values, ours.data.args), np.float64).mean())

    return Contestant(lambda: ours.advance(settings.sweeps), log_likelihood), ours.seconds_plan


def peer(settings: Settings, x: np.ndarray, start: dict[str, np.ndarray], threads: int) -> Contestant:
    """scikit-learn with a number of threads: the two calls of its own loop, so that no set-up is counted."""
    model = Peer(
        settings.num_components,
        covariance_type={"diagonal": "diag", "full": "full"}[settings.covariance],
        weights_init=start["w"].astype(x.dtype),
        means_init=start["loc"].astype(x.dtype),
        precisions_init=start["precision"].astype(x.dtype),
        reg_covar=0.0,
        tol=0.0,
        max_iter=settings.sweeps,
    )

    def advance() -> None:
        with threadpool_limits(threads):
            if not hasattr(model, "means_"):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", ConvergenceWarning)  # a few sweeps are all that is asked for
                    model.fit(x)
                return
            for _ in range(settings.sweeps):
                _, log_responsibilities = model._e_step(x)
                model._m_step(x, log_responsibilities)

    return Contestant(advance, lambda: float(np.mean(model.score_samples(x), dtype=np.float64)))
