"""Metropolis moves of continuous latents behind a network, all data at once.

First the encoder proposes: z' ~ q(z | x), accepted with probability
min(1, p(x | z') p(z' | c) q(z | x) / (p(x | z) p(z | c) q(z' | x))). Then one step of the Metropolis-adjusted
Langevin algorithm moves z along the gradient, its step size tuned in warm-up (Roberts and Rosenthal, 1998).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vmix.engine import Data
from vmix.enumeration import site_log_prob
from vmix.layout import collapse
from vmix.log_joint import Batch, batch_terms, guide_factors, state_log_weights
from vmix.plan import Plan

MALA_TARGET = 0.574
_GAIN = 0.1

Latents = Mapping[str, Array]
LogDensity = Callable[[Latents], Array]


class LatentMove(NamedTuple):
    """Step size of MALA (its logarithm, per datum shared) and the acceptance of both moves in the last sweep."""

    log_step: Array
    proposal_rate: Array
    mala_rate: Array

    @classmethod
    def start(cls) -> LatentMove:
        """A small step, nothing accepted yet."""
        return cls(jnp.log(jnp.asarray(0.1)), jnp.zeros(()), jnp.zeros(()))


def move_latents(
    plan: Plan, state: Any, data: Data, *, key: Array, adapt: Array, beta: Array
) -> tuple[dict[str, Array], LatentMove]:
    """One encoder-proposed move and one MALA move of every datum's latents.

    Args:
        plan: the plan.
        state: a Gibbs state (globals, params, assignments, latents and moves are read).
        data: the data.
        key: randomness.
        adapt: whether the step size still adapts (a Boolean scalar).
        beta: weight of the likelihood of the discrete sites' children.

    Returns:
        New latents, and the step size with acceptance rates.
    """
    propose_key, accept_key, mala_key = jax.random.split(key, 3)

    def log_density(latents: Latents) -> Array:
        return latent_log_density(plan, state.globals, state.params, data, latents, state.assignments, beta=beta)

    def log_proposal(factors: Mapping, latents: Latents) -> Array:
        first, *rest = (_factor_log_prob(plan, factors[n], latents[n]) for n in plan.latents)
        return sum(rest, first)

    proposal, factors = guide_factors(plan, state.params, data.args, key=propose_key)
    gain = log_density(proposal) - log_density(state.latents)
    gain += log_proposal(factors, state.latents) - log_proposal(factors, proposal)
    latents, rate = _accept(plan, accept_key, gain, proposal, state.latents)
    latents, mala_rate = mala(plan, log_density, latents, jnp.exp(state.moves.log_step), key=mala_key)
    log_step = state.moves.log_step + jnp.where(adapt, _GAIN * (mala_rate - MALA_TARGET), 0.0)
    return latents, LatentMove(log_step, rate, mala_rate)


def latent_log_density(
    plan: Plan, globals_: Mapping, params: Mapping, data: Data, latents: Latents, assignments: Array, *, beta: Array
) -> Array:
    """log p(x_n, z_n | c_n) of each cell, up to what does not depend on z; nats, shape (cells,)."""
    batch = Batch(data.args, latents, {}, None, data.known)
    terms, _ = batch_terms(plan, globals_, params, batch)
    weights = state_log_weights(plan, terms, batch, beta=beta)
    states = assignments.reshape(-1, 1)
    weights = jnp.broadcast_to(weights, (states.shape[0], weights.shape[1]))
    return jnp.take_along_axis(weights, states, 1)[:, 0] + terms.base()


def _factor_log_prob(plan: Plan, factor: dist.Distribution, value: Array) -> Array:
    """log q(z) of each cell, shape (cells,)."""
    plain = replace(plan.layout, discrete=())
    steps = plan.layout.num_steps is not None
    return collapse(plain, site_log_prob(factor, value, steps=steps), steps=steps)[:, 0]


def mala(
    plan: Plan, log_density: LogDensity, latents: dict[str, Array], step: Array, *, key: Array
) -> tuple[dict[str, Array], Array]:
    """One Langevin proposal per datum with Metropolis correction; returns latents and the acceptance rate."""
    noise_key, accept_key = jax.random.split(key)
    grad = jax.grad(lambda z: log_density(z).sum())
    here, slope = log_density(latents), grad(latents)
    names = sorted(latents)
    keys = dict(zip(names, jax.random.split(noise_key, len(names)), strict=True))
    noise = {n: jax.random.normal(keys[n], latents[n].shape) for n in names}
    proposal = {n: latents[n] + step**2 / 2 * slope[n] + step * noise[n] for n in names}
    there, back = log_density(proposal), grad(proposal)
    gain = there - here
    for n in names:
        reverse = (latents[n] - proposal[n] - step**2 / 2 * back[n]) / step
        gain += 0.5 * (_squares(plan, noise[n]) - _squares(plan, reverse))
    return _accept(plan, accept_key, gain, proposal, latents)


def _accept(plan: Plan, key: Array, gain: Array, proposal: Latents, current: Latents) -> tuple[dict, Array]:
    accepted = plan.layout.to_rows(jnp.log(jax.random.uniform(key, gain.shape)) < gain)  # False for NaN
    chosen = {}
    for name, value in current.items():
        mask = accepted.reshape(accepted.shape + (1,) * (value.ndim - accepted.ndim))
        chosen[name] = jnp.where(mask, proposal[name], value)
    return chosen, accepted.mean()


def _squares(plan: Plan, array: Array) -> Array:
    cells = plan.layout.to_cells(array)
    return jnp.square(cells).reshape(cells.shape[0], -1).sum(-1)
