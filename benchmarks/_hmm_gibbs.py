"""Gibbs on a small hidden Markov model against NumPyro's NUTS, in effective samples of the worst mean per second.

NumPyro's `DiscreteHMCGibbs` cannot take part: it has no scan over steps. Nor can dynamax, which has no Gibbs for these.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import NUTS, init_to_value

from benchmarks._effective import ENOUGH, contest, numpyro_blocks, vmix_blocks
from benchmarks._recording import Case
from vmix.models import HMM

# four standard deviations between neighbours: closer, and a long chain swaps states, which no mean survives
NUM_SEQUENCES, NUM_STEPS, NUM_COMPONENTS, SPACING, STAY = 20, 100, 3, 4.0, 0.8


def compare(seed: int, *, budget: float, folder: Path) -> list[dict[str, Any]]:
    """The lines of the case; none if they are in the file already."""
    makers = {"vmix": ours, f"NumPyro {numpyro.__version__}, NUTS with the states summed out": marginal_nuts}
    settings = {"num_sequences": NUM_SEQUENCES, "num_steps": NUM_STEPS, "num_components": NUM_COMPONENTS}
    settings |= {"spacing": SPACING, "stay": STAY, "data_dim": 1, "enough": ENOUGH, "budget": budget}
    cases = {v: Case(benchmark="hmm", case="gibbs", variant=v, seed=seed, settings=settings) for v in makers}
    x = make_data(seed)
    started = {variant: partial(make, x, seed) for variant, make in makers.items()}
    return contest(cases, started, budget=budget, folder=folder)


def make_data(seed: int) -> np.ndarray:
    """Unit Gaussians in a row, in which a sequence stays a while, shape (N, T, 1)."""
    rng = np.random.default_rng(seed)
    state = rng.integers(0, NUM_COMPONENTS, (NUM_SEQUENCES, NUM_STEPS))
    stays = rng.random(state.shape) < STAY
    for t in range(1, NUM_STEPS):
        state[:, t] = np.where(stays[:, t], state[:, t - 1], state[:, t])
    return (SPACING * (state - NUM_COMPONENTS // 2) + rng.normal(size=state.shape)).astype(np.float32)[..., None]


def first_values() -> dict[str, jax.Array]:
    """About the truth: means in order, unit precisions, some stickiness."""
    k = NUM_COMPONENTS
    loc = SPACING * (jnp.arange(k, dtype=jnp.float32) - k // 2)
    transition = STAY * jnp.eye(k) + (1 - STAY) / k
    return {"initial": jnp.full(k, 1 / k), "transition": transition, "loc": loc[:, None], "precision": jnp.ones((k, 1))}


def ours(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """vmix's Gibbs on the zoo's program."""
    return vmix_blocks(HMM(num_components=NUM_COMPONENTS), x, first_values(), seed)


def marginal_nuts(x: np.ndarray, seed: int) -> tuple[Any, Callable]:
    """NumPyro's NUTS on the same priors, the states summed out by the forward recursion."""
    prepared: Any = HMM(num_components=NUM_COMPONENTS).with_data(x)
    k = NUM_COMPONENTS
    a, m0, s0 = jnp.full(k, prepared.concentration / k), jnp.asarray(prepared.loc), jnp.asarray(prepared.scale)
    spread = jnp.asarray(prepared.spread)

    def marginal(x: jax.Array) -> None:
        p = numpyro.sample("initial", dist.Dirichlet(a))
        transition = numpyro.sample("transition", dist.Dirichlet(a + prepared.stickiness * jnp.eye(k)))
        loc = numpyro.sample("loc", dist.Normal(m0, s0).expand([k, 1]).to_event(2))
        tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5 * spread**2).expand([k, 1]).to_event(2))
        each = dist.Normal(loc[:, 0], 1 / jnp.sqrt(tau[:, 0])).log_prob(x)  # (N, T, K)

        def step(alpha: jax.Array, seen: jax.Array) -> tuple[jax.Array, None]:
            return jax.nn.logsumexp(alpha[:, :, None] + jnp.log(transition), 1) + seen, None

        last, _ = jax.lax.scan(step, jnp.log(p) + each[:, 0], each[:, 1:].swapaxes(0, 1))
        numpyro.factor("x", jax.nn.logsumexp(last, 1).sum())

    kernel = NUTS(marginal, init_strategy=init_to_value(values=first_values()))
    return numpyro_blocks(kernel, x, seed, warmup=300, length=50)
