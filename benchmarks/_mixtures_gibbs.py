"""Gibbs on a small Gaussian mixture against NumPyro, in effective samples of the worst mean per second."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from numpyro.contrib.funsor import config_enumerate
from numpyro.infer import NUTS, DiscreteHMCGibbs, init_to_value

from benchmarks._effective import ENOUGH, contest, numpyro_blocks, vmix_blocks
from benchmarks._recording import Case
from vmix.door import prepare
from vmix.models import GaussianMixture

# four standard deviations between neighbours: closer, and a long chain swaps components, which no mean survives
NUM_DATA, NUM_COMPONENTS, SPACING = 1_000, 5, 4.0


def compare(seed: int, *, budget: float, folder: Path) -> list[dict[str, Any]]:
    """The lines of the case; none if they are in the file already."""
    version = numpyro.__version__
    makers = {
        "vmix": ours,
        f"NumPyro {version}, DiscreteHMCGibbs(NUTS)": discrete_hmc_gibbs,
        f"NumPyro {version}, NUTS with c summed out": marginal_nuts,
    }
    settings = {"num_data": NUM_DATA, "num_components": NUM_COMPONENTS, "spacing": SPACING, "data_dim": 1}
    settings |= {"enough": ENOUGH, "budget": budget}
    cases = {v: Case(benchmark="mixtures", case="gibbs", variant=v, seed=seed, settings=settings) for v in makers}
    x = make_data(seed)
    started = {variant: partial(make, x, seed) for variant, make in makers.items()}
    return contest(cases, started, budget=budget, folder=folder)


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
    """vmix's Gibbs on the zoo's program."""
    return vmix_blocks(GaussianMixture(num_components=NUM_COMPONENTS), x, first_values(), seed)


def discrete_hmc_gibbs(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """NumPyro's sampler of discrete and continuous sites, on the same program.

    `modified=False`: the modified proposal overflows in float32, where it never moves again.
    """
    model = prepare(GaussianMixture(num_components=NUM_COMPONENTS), (x,)).model
    inner = NUTS(model, init_strategy=init_to_value(values=first_values()))
    return numpyro_blocks(DiscreteHMCGibbs(inner, modified=False), x, seed, warmup=200, length=5)


def marginal_nuts(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """NumPyro's NUTS with the assignments summed out, on the same program."""
    model = prepare(GaussianMixture(num_components=NUM_COMPONENTS), (x,)).model
    kernel = NUTS(config_enumerate(model), init_strategy=init_to_value(values=first_values()))
    return numpyro_blocks(kernel, x, seed, warmup=300, length=50)
