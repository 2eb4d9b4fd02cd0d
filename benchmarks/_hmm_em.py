"""EM on a Gaussian hidden Markov model against hmmlearn and dynamax, sweep by sweep from the same start."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import multivariate_normal

from benchmarks import _hmm_peers as peers
from benchmarks._recording import Case, is_recorded, load_average, record
from benchmarks._sweeps import Sweeps
from vmix.inference import EM
from vmix.models import HMM


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes: N, T, D, K, sweeps a round, timed rounds."""

    covariance: str
    num_sequences: int = 100
    num_steps: int = 1_000
    data_dim: int = 8
    num_components: int = 10
    sweeps: int = 5
    rounds: int = 7


@dataclass
class Contestant:
    """Something that advances by sweeps; the first round (compilation, warming up) is kept out of the timings.

    Args:
        advance: does one round.
        values: where it stands: initial, transition, loc and covariance (full matrices), float64.
        about: what was chosen for it, name to number.
    """

    advance: Callable[[], object]
    values: Callable[[], peers.Values]
    about: dict[str, float]

    def __post_init__(self) -> None:
        self.seconds: list[float] = []

    def run_round(self) -> None:
        """Advance and take the time."""
        began = time.perf_counter()
        self.advance()
        self.seconds.append(time.perf_counter() - began)

    def per_sweep(self, sweeps: int) -> np.ndarray:
        """Seconds a sweep of each timed round."""
        return np.array(self.seconds[1:]) / sweeps


def compare(settings: Settings, seed: int, *, name: str, folder: Path) -> list[dict[str, Any]]:
    """Run one case, interleaved, and record a line a variant: the fastest of each peer's forms.

    Args:
        settings: sizes.
        seed: of the data.
        name: of the case.
        folder: where the results are.

    Returns:
        The lines; none if they are there already.
    """
    chosen = asdict(settings) | {"estimate": "ml"}
    names = ["vmix", *peers.installed(settings.num_steps)]
    cases = {v: Case(benchmark="hmm", case=name, variant=v, seed=seed, settings=chosen) for v in names}
    if all(is_recorded(case, folder) for case in cases.values()):
        return []
    x = make_data(settings, seed)
    start = first_values(settings, x)
    forms = {"vmix": [contest(settings, x, start)]}
    for variant in names[1:]:
        forms[variant] = [Contestant(*form) for form in peers.forms(variant, settings, x, start)]
    for _ in range(1 + settings.rounds):
        for who in (form for every in forms.values() for form in every):
            who.run_round()
    best = {v: min(every, key=lambda who: np.median(who.per_sweep(settings.sweeps))) for v, every in forms.items()}
    metrics = {v: _metrics(who, settings, x) for v, who in best.items()}
    for variant in names[1:]:
        # round by round, so that a drift of the machine's load cancels
        ratio = best[variant].per_sweep(settings.sweeps) / best["vmix"].per_sweep(settings.sweeps)
        metrics["vmix"][f"times_faster_than_{variant.split()[0]}"] = float(np.median(ratio))
    return [record(cases[v], metrics[v], sum(best[v].seconds), folder) for v in names]


def _metrics(contestant: Contestant, settings: Settings, x: np.ndarray) -> dict[str, float]:
    timings = contestant.per_sweep(settings.sweeps)
    return {
        "seconds_per_iteration": float(np.median(timings)),
        "seconds_per_iteration_fastest": float(timings.min()),
        "log_likelihood": log_likelihood(x, **contestant.values()),
        "load": load_average(),
        **contestant.about,
    }


def make_data(settings: Settings, seed: int) -> np.ndarray:
    """Sequences that stay a while in each of K overlapping ellipsoids, shape (N, T, D), float64."""
    rng = np.random.default_rng(seed)
    k, d = settings.num_components, settings.data_dim
    means = rng.normal(0.0, 1.5, (k, d))
    roots = rng.normal(0.0, 1.0, (k, d, d)) / np.sqrt(d) + 0.5 * np.eye(d)
    transition = 0.8 * np.eye(k) + 0.2 * rng.dirichlet(np.ones(k), k)
    shape = (settings.num_sequences, settings.num_steps)
    states = np.empty(shape, int)
    states[:, 0] = rng.integers(0, k, shape[0])
    for t in range(1, shape[1]):
        below = rng.random((shape[0], 1)) > transition[states[:, t - 1]].cumsum(1)[:, :-1]
        states[:, t] = below.sum(1)
    x = means[states] + np.einsum("nti,ntij->ntj", rng.normal(size=(*shape, d)), roots[states].swapaxes(-1, -2))
    # noise of every direction: without it some ellipsoids are so flat that hmmlearn's covariances lose their positive
    # definiteness and dynamax's likelihood is not a number
    x = x + rng.normal(0.0, 0.3, x.shape)
    return x.astype(np.float32).astype(np.float64)  # the same numbers in both precisions


def first_values(settings: Settings, x: np.ndarray) -> dict[str, np.ndarray]:
    """Equal probabilities with some stickiness, the first steps of K sequences as means, the data's precisions."""
    k = settings.num_components
    steps = x.reshape(-1, x.shape[-1])
    diagonal = np.tile(1.0 / steps.var(0), (k, 1))
    full = np.tile(np.linalg.inv(np.atleast_2d(np.cov(steps.T))), (k, 1, 1))
    return {
        "initial": np.full(k, 1.0 / k),
        "transition": 0.5 * np.eye(k) + np.full((k, k), 0.5 / k),
        "loc": steps[:: len(steps) // k][:k].copy(),
        "precision": diagonal if settings.covariance == "diagonal" else full,
    }


def log_likelihood(
    x: np.ndarray, *, initial: np.ndarray, transition: np.ndarray, loc: np.ndarray, covariance: np.ndarray
) -> float:
    """One judge for all: nats per sequence by the scaled forward recursion in float64.

    Args:
        x: sequences, shape (N, T, D).
        initial: probabilities of the first state, shape (K,).
        transition: rows of the transition matrix, shape (K, K).
        loc: means, shape (K, D).
        covariance: full matrices, shape (K, D, D).

    Returns:
        NaN for a contestant that has lost its way: values that are not finite, a covariance that is not one.
    """
    if not all(np.isfinite(value).all() for value in (initial, transition, loc, covariance)):
        return np.nan
    if np.linalg.eigvalsh(covariance).min() <= 0:
        return np.nan
    unary = np.stack([multivariate_normal(m, s).logpdf(x) for m, s in zip(loc, covariance, strict=True)], -1)
    unary = unary.reshape(*x.shape[:2], -1)  # scipy drops the axis of a single sequence
    peak = unary.max(-1, keepdims=True)
    weights = np.exp(unary - peak)
    alpha = initial * weights[:, 0]
    total = peak.sum()
    for t in range(x.shape[1]):
        if t:
            alpha = alpha @ transition * weights[:, t]
        scale = alpha.sum(-1, keepdims=True)
        total += np.log(scale).sum()
        alpha = alpha / scale
    return float(total / len(x))


def contest(settings: Settings, x: np.ndarray, start: dict[str, np.ndarray]) -> Contestant:
    """vmix, advanced as the driver does: one compiled chunk of sweeps a round."""
    model = HMM(num_components=settings.num_components, covariance=settings.covariance)
    engine = EM(estimate="ml", tolerance=None, num_sweeps=settings.sweeps)
    ours = Sweeps(model, (x.astype(np.float32),), engine)
    ours.start_at(start)

    def values() -> peers.Values:
        found = ours.values()
        precision = found.pop("precision")
        diagonal = settings.covariance == "diagonal"
        covariance = np.stack([np.diag(1 / tau) for tau in precision]) if diagonal else np.linalg.inv(precision)
        return {**found, "covariance": covariance}

    return Contestant(lambda: ours.advance(settings.sweeps), values, {"seconds_plan": ours.seconds_plan})
