"""Draws of whole paths of a hidden Markov model (forward filter, backward sample) against dynamax, in turns.

Everybody gets the same parameters and the same log likelihoods of every step, float32, and draws a path of every
sequence; `jit` around the peer's own function as its documentation has it, `vmap` over sequences and draws. One judge
in float64 has the mean log joint of paths and data, which both must agree on to within the error of their means.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

from benchmarks import _hmm_em as em
from benchmarks import _hmm_peers as peers
from benchmarks._recording import Case, is_recorded, load_average, record
from vmix.distributions import MarkovChain

Draw = Callable[[jax.Array], jax.Array]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes: N, T, D, K, draws of all paths a round, timed rounds."""

    num_sequences: int = 100
    num_steps: int = 1_000
    data_dim: int = 8
    num_components: int = 10
    draws: int = 5
    rounds: int = 7


class Sampler:
    """Draws all paths so many times a round; the first round is kept out of the timings.

    Args:
        draw: from a key to a path of every sequence, shape (N, T).
        draws: a round.
    """

    def __init__(self, draw: Draw, draws: int) -> None:
        self.draw, self.draws = jax.jit(draw), draws
        self.seconds: list[float] = []
        self.paths: list[np.ndarray] = []

    def run_round(self, key: jax.Array) -> None:
        """Draw, and take the time until the last path is there."""
        keys = jax.random.split(key, self.draws)
        began = time.perf_counter()
        found = [self.draw(one) for one in keys]
        jax.block_until_ready(found)
        self.seconds.append((time.perf_counter() - began) / self.draws)
        self.paths += [np.asarray(paths) for paths in found]


def compare(settings: Settings, seed: int, *, name: str, folder: Path) -> list[dict[str, Any]]:
    """Run one case, interleaved, and record a line a variant.

    Args:
        settings: sizes.
        seed: of data and draws.
        name: of the case.
        folder: where the results are.

    Returns:
        The lines; none if they are there already.
    """
    variants = ["vmix", *(peer for peer in peers.installed(settings.num_steps) if peer.startswith("dynamax"))]
    cases = {v: Case(benchmark="hmm", case=name, variant=v, seed=seed, settings=asdict(settings)) for v in variants}
    if all(is_recorded(case, folder) for case in cases.values()):
        return []
    problem = make_problem(settings, seed)
    makers = {variant: ours if variant == "vmix" else by_dynamax for variant in variants}
    samplers = {variant: Sampler(make(*problem), settings.draws) for variant, make in makers.items()}
    for i in range(1 + settings.rounds):
        for j, sampler in enumerate(samplers.values()):
            sampler.run_round(jax.random.key(seed * 10_000 + 10 * i + j))
    judged = {variant: log_joints(sampler.paths, *problem) for variant, sampler in samplers.items()}
    lines = []
    for variant, sampler in samplers.items():
        timings = np.array(sampler.seconds[1:])
        metrics = {
            "seconds_per_draw": float(np.median(timings)),
            "seconds_per_draw_fastest": float(timings.min()),
            "mean_log_joint": float(judged[variant].mean()),
            "load": load_average(),
        }
        if variant == "vmix":
            for other in variants[1:]:
                ratio = np.array(samplers[other].seconds[1:]) / timings
                metrics[f"times_faster_than_{other.split()[0]}"] = float(np.median(ratio))
        else:
            metrics["gap_to_vmix"] = gap(judged[variant], judged["vmix"])
        lines.append(record(cases[variant], metrics, sum(sampler.seconds) * settings.draws, folder))
    return lines


def make_problem(settings: Settings, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Initial probabilities (K,), transitions (K, K) and log likelihoods of each step (N, T, K), float32 numbers.

    The emissions are broad, so that paths are uncertain and their draws differ.
    """
    sizes = {name: value for name, value in asdict(settings).items() if name in em.Settings.__dataclass_fields__}
    sizes.pop("rounds")
    chosen = em.Settings(covariance="diagonal", **sizes)
    x = em.make_data(chosen, seed)
    start = em.first_values(chosen, x)
    unary = [
        multivariate_normal(m, np.diag(1 / tau)).logpdf(x)
        for m, tau in zip(start["loc"], start["precision"], strict=True)
    ]
    single = (start["initial"], start["transition"], np.stack(unary, -1).reshape(*x.shape[:2], -1))
    return tuple(value.astype(np.float32) for value in single)  # type: ignore[return-value]


def ours(initial: np.ndarray, transition: np.ndarray, unary: np.ndarray) -> Draw:
    """The distribution's own draw from its posterior."""
    parts = (jnp.asarray(initial), jnp.asarray(transition), jnp.asarray(unary))

    def draw(key: jax.Array) -> jax.Array:
        return MarkovChain(parts[0], parts[1], unary.shape[1]).sample_posterior(key, parts[2])

    return draw


def by_dynamax(initial: np.ndarray, transition: np.ndarray, unary: np.ndarray) -> Draw:
    """dynamax's `hmm_posterior_sample`, over sequences by vmap."""
    from dynamax.hidden_markov_model import hmm_posterior_sample

    parts = (jnp.asarray(initial), jnp.asarray(transition), jnp.asarray(unary))

    def draw(key: jax.Array) -> jax.Array:
        keys = jax.random.split(key, len(unary))
        return jax.vmap(lambda k, u: hmm_posterior_sample(k, parts[0], parts[1], u)[1])(keys, parts[2])

    return draw


def log_joints(paths: list[np.ndarray], initial: np.ndarray, transition: np.ndarray, unary: np.ndarray) -> np.ndarray:
    """The judge: log p(c, x) of each path, float64, nats a step, shape (draws, N)."""
    a, p, u = np.log(transition.astype(float)), np.log(initial.astype(float)), unary.astype(float)
    n, t = np.ogrid[: u.shape[0], : u.shape[1]]
    found = [p[c[:, 0]] + a[c[:, :-1], c[:, 1:]].sum(1) + u[n, t, c].sum(1) for c in paths]
    return np.stack(found) / u.shape[1]


def gap(one: np.ndarray, other: np.ndarray) -> float:
    """Difference of the means over draws, averaged over sequences, in its standard errors."""
    error = [np.sqrt((found.var(0, ddof=1) / len(found)).sum()) / found.shape[1] for found in (one, other)]
    return float(abs(one.mean() - other.mean()) / np.hypot(*error))
