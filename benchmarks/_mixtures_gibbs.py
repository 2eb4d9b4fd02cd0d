"""Gibbs on a small Gaussian mixture against NumPyro, in effective samples of the worst mean per second."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro import handlers
from numpyro.contrib.funsor import config_enumerate
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import NUTS, DiscreteHMCGibbs, init_to_value

from benchmarks._recording import Case, is_recorded, load_average, record
from benchmarks._sweeps import MAX_CHUNK, Sweeps
from vmix.door import prepare
from vmix.inference import Gibbs
from vmix.models import GaussianMixture

# four standard deviations between neighbours: closer, and a long chain swaps components, which no mean survives
NUM_DATA, NUM_COMPONENTS, SPACING = 1_000, 5, 4.0
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


def compare(seed: int, *, budget: float, folder: Path) -> list[dict[str, Any]]:
    """Run the samplers in turn until each has enough effective samples, or its seconds are spent; record a line each.

    Args:
        seed: of data and draws.
        budget: seconds a sampler at most, warm-up apart.
        folder: where the results are.

    Returns:
        The lines; none if they are there already.
    """
    version = numpyro.__version__
    makers = {
        "vmix": ours,
        f"NumPyro {version}, DiscreteHMCGibbs(NUTS)": discrete_hmc_gibbs,
        f"NumPyro {version}, NUTS with c summed out": marginal_nuts,
    }
    settings = {"num_data": NUM_DATA, "num_components": NUM_COMPONENTS, "spacing": SPACING, "data_dim": 1}
    settings |= {"enough": ENOUGH, "budget": budget}
    cases = {v: Case(benchmark="mixtures", case="gibbs", variant=v, seed=seed, settings=settings) for v in makers}
    if all(is_recorded(case, folder) for case in cases.values()):
        return []
    x = make_data(seed)
    samplers = {variant: Sampler(lambda make=make: make(x, seed)) for variant, make in makers.items()}
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
            names = ("DiscreteHMCGibbs", "marginal_NUTS")
            others = [v for v in samplers if v != variant]
            metrics |= {f"times_{n}": rates[variant] / rates[v] for n, v in zip(names, others, strict=True)}
        lines.append(record(cases[variant], metrics, sampler.seconds, folder))
    return lines


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


def make_data(seed: int) -> np.ndarray:
    """Five unit Gaussians in a row, shape (N, 1)."""
    rng = np.random.default_rng(seed)
    component = rng.integers(0, NUM_COMPONENTS, NUM_DATA)
    return (SPACING * (component - NUM_COMPONENTS // 2) + rng.normal(size=NUM_DATA)).astype(np.float32)[:, None]


def first_values() -> dict[str, jax.Array]:
    """The truth: equal weights, means in order, unit precisions."""
    loc = SPACING * (jnp.arange(NUM_COMPONENTS, dtype=jnp.float32) - NUM_COMPONENTS // 2)
    return {
        "w": jnp.full(NUM_COMPONENTS, 1.0 / NUM_COMPONENTS),
        "loc": loc[:, None],
        "precision": jnp.ones((NUM_COMPONENTS, 1)),
    }


def ours(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """vmix, chunk by chunk as the driver runs it, draws brought to the host."""
    engine = Gibbs(num_samples=1000, num_warmup=500)
    sampler = Sweeps(GaussianMixture(num_components=NUM_COMPONENTS), (x,), engine, seed=seed)
    sampler.start_at(first_values())

    def block(_: None) -> tuple[None, np.ndarray]:
        return None, sampler.advance(MAX_CHUNK).draws["loc"][0, :, :, 0]

    for _ in range(engine.num_warmup // MAX_CHUNK + 1):
        block(None)
    return None, block


def discrete_hmc_gibbs(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """NumPyro's sampler of discrete and continuous sites, on the same program.

    `modified=False`: the modified proposal overflows in float32, where it never moves again.
    """
    model = prepare(GaussianMixture(num_components=NUM_COMPONENTS), (x,)).model
    inner = NUTS(model, init_strategy=init_to_value(values=first_values()))
    return _numpyro(DiscreteHMCGibbs(inner, modified=False), x, seed, warmup=200, length=5)


def marginal_nuts(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """NumPyro's NUTS with the assignments summed out, on the same program."""
    model = prepare(GaussianMixture(num_components=NUM_COMPONENTS), (x,)).model
    kernel = NUTS(config_enumerate(model), init_strategy=init_to_value(values=first_values()))
    return _numpyro(kernel, x, seed, warmup=300, length=50)


def _numpyro(kernel: Any, x: np.ndarray, seed: int, *, warmup: int, length: int) -> tuple[Any, Callable]:
    """A kernel's transitions in one compiled scan a block: `MCMC.run` would compile again each time."""
    with handlers.seed(rng_seed=seed):
        state = kernel.init(jax.random.key(seed), warmup, None, (jnp.asarray(x),), {})

    @jax.jit
    def block(state: Any) -> tuple[Any, jax.Array]:
        def one(state: Any, _: None) -> tuple[Any, jax.Array]:
            state = kernel.sample(state, (jnp.asarray(x),), {})
            return state, state.z["loc"][:, 0]

        return jax.lax.scan(one, state, None, length)

    for _ in range(-(-warmup // length) + 1):
        state, draws = block(state)
    jax.block_until_ready(draws)
    return state, block
