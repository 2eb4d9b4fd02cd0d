"""Samplers in turns, in effective samples of the worst mean per second; those of `mixtures` and `hmm` are drawn so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size

from benchmarks._recording import Case, is_recorded, load_average, record
from benchmarks._sweeps import MAX_CHUNK, Sweeps
from vmix.inference import Gibbs

# 400 effective samples bring the error of the estimated effective size to about a tenth
ENOUGH = 400
BLOCK_SECONDS = 5.0


class Sampler:
    """A sampler that draws in blocks of about five seconds; compiling and warming up are timed apart.

    Args:
        start: compiles, warms up and returns the state and its block function; that maps a state to a new state and
            draws of the means, shape (draws, K).
    """

    def __init__(self, start: Callable[[], tuple[Any, Callable]]) -> None:
        began = time.perf_counter()
        self.state, self.block = start()
        self.seconds_before, self.seconds = time.perf_counter() - began, 0.0
        self.draws: list[np.ndarray] = []

    def run_round(self) -> None:
        """Draw for about five seconds."""
        began = time.perf_counter()
        while time.perf_counter() - began < BLOCK_SECONDS:
            self.state, draws = self.block(self.state)
            self.draws.append(np.asarray(draws))
        self.seconds += time.perf_counter() - began

    def effective(self) -> np.ndarray:
        """Effective samples of each mean, shape (K,)."""
        return np.atleast_1d(effective_sample_size(np.concatenate(self.draws)[None]))

    def summary(self) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means and their Monte-Carlo standard errors, shape (K,) each."""
        draws = np.concatenate(self.draws).astype(np.float64)
        return draws.mean(0), draws.std(0) / np.sqrt(self.effective())


def contest(
    cases: Mapping[str, Case], makers: Mapping[str, Callable[[], tuple[Any, Callable]]], *, budget: float, folder: Path
) -> list[dict[str, Any]]:
    """Run the samplers in turn until each has enough effective samples, or its seconds are spent; record a line each.

    Args:
        cases: variant to the line's case; "vmix" is compared with the others.
        makers: variant to what starts it, see `Sampler`.
        budget: seconds a sampler at most, warm-up apart.
        folder: where the results are.

    Returns:
        The lines; none if they are there already.
    """
    if all(is_recorded(case, folder) for case in cases.values()):
        return []
    samplers = {variant: Sampler(make) for variant, make in makers.items()}
    waiting = dict(samplers)
    while waiting:
        for sampler in waiting.values():
            sampler.run_round()
        waiting = {v: s for v, s in waiting.items() if s.effective().min() < ENOUGH and s.seconds < budget}
    rates = {v: s.effective().min() / s.seconds for v, s in samplers.items()}
    lines = []
    for variant, sampler in samplers.items():
        metrics = _metrics(sampler, samplers["vmix"])
        if variant == "vmix":
            metrics |= {f"times_{_short(v)}": rates[variant] / rates[v] for v in samplers if v != variant}
        lines.append(record(cases[variant], metrics, sampler.seconds, folder))
    return lines


def _short(variant: str) -> str:
    """The sampler's name in the name of a ratio."""
    return "DiscreteHMCGibbs" if "DiscreteHMCGibbs" in variant else "marginal_NUTS"


def _metrics(sampler: Sampler, reference: Sampler) -> dict[str, float]:
    (mean, error), (other, other_error) = sampler.summary(), reference.summary()
    return {
        "effective_per_second": sampler.effective().min() / sampler.seconds,
        "effective_samples": sampler.effective().min(),
        "num_draws": len(np.concatenate(sampler.draws)),
        "seconds_before": sampler.seconds_before,
        # how far the means are from vmix's, the worst, in standard errors of the difference
        "gap_to_vmix": float((np.abs(mean - other) / np.hypot(error, other_error)).max()),
        "load": load_average(),
    }


def vmix_blocks(model: Any, x: np.ndarray, first: dict[str, jax.Array], seed: int) -> tuple[Any, Callable]:
    """vmix's Gibbs from first values, chunk by chunk as the driver runs it, draws brought to the host."""
    engine = Gibbs(num_samples=1000, num_warmup=500)
    sampler = Sweeps(model, (x,), engine, seed=seed)
    sampler.start_at(first)

    def block(_: None) -> tuple[None, np.ndarray]:
        return None, sampler.advance(MAX_CHUNK).draws["loc"][0, :, :, 0]

    for _ in range(engine.num_warmup // MAX_CHUNK + 1):
        block(None)
    return None, block


def numpyro_blocks(kernel: Any, x: np.ndarray, seed: int, *, warmup: int, length: int) -> tuple[Any, Callable]:
    """A kernel's transitions in one compiled scan a block: `MCMC.run` would compile again each time."""
    with handlers.seed(rng_seed=seed):
        state = kernel.init(jax.random.key(seed), warmup, None, (jnp.asarray(x),), {})

    @jax.jit
    def block(state: Any) -> tuple[Any, jax.Array]:
        def one(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = kernel.sample(state, (jnp.asarray(x),), {})
            return state, state.z["loc"][:, 0]  # the one column

        return jax.lax.scan(one, state, None, length)

    for _ in range(-(-warmup // length) + 1):
        state, draws = block(state)
    jax.block_until_ready(draws)
    return state, block
