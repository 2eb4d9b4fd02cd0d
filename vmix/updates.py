"""Updates of the globals on the compressed expected log joint: closed-form modes, exact draws, gradient ascent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax
from jax import Array
from numpyro.distributions import biject_to

from vmix.log_joint import Batch, Expected, expected_log_joint, site_density
from vmix.program import DISCRETE

if TYPE_CHECKING:
    from vmix.plan import Plan

ASCENT_STEPS = 5


def compresses(plan: Plan, name: str) -> bool:
    """Whether all that hangs on a global is compressed: then its conditional costs the same for any N."""
    children = [plan.sites[child] for child in plan.sites[name].children]
    return all(not child.is_local or child.role == DISCRETE or child.name in plan.frames for child in children)


def maximise(
    plan: Plan,
    globals_: Mapping[str, Array],
    params: Mapping[str, Any],
    batch: Batch,
    expected: Expected,
    *,
    with_prior: bool = True,
    only: tuple[str, ...] | None = None,
    inside: bool = False,
) -> dict[str, Array]:
    """One pass of conditional maximisation over the globals: the M-step.

    Each recognised site moves to the mode of its complete conditional, in program order; the others take a few
    quasi-Newton steps together. No move lowers the expected log joint.

    Args:
        plan: the plan.
        globals_: current values.
        params: network parameters.
        batch: the data; only read by sites that do not compress.
        expected: expected statistics.
        with_prior: maximum a posteriori; False for maximum likelihood, in which latents of a datum keep their prior.
        only: the globals to move; None moves all. Those without a recognised conditional move together or not at all.
        inside: where a mode lies on the edge of the support and has no finite density (a Dirichlet with concentrations
            below 1), take the mean: for starts.

    Returns:
        New values of all globals.
    """
    values = dict(globals_)
    for name, conditional in plan.conditionals.items():
        if only is not None and name not in only:
            continue
        own = with_prior or name in plan.per_datum
        density = site_density(plan, name, values, params, batch, expected, with_prior=own)
        with jax.default_matmul_precision("highest"):
            exponent = conditional.solve(density, conditional.probe(values[name]))
        mode = exponent.mode(values[name])
        if inside:
            mode = jnp.where(jnp.isfinite(exponent.log_prob(mode)), mode, exponent.mean())
        values[name] = jnp.where(jnp.isfinite(mode).all(), mode, values[name])
    if plan.others and (only is None or set(plan.others) <= set(only)):
        values |= _ascend(plan, values, params, batch, expected, with_prior)
    return values


def draw(
    plan: Plan,
    globals_: Mapping[str, Array],
    params: Mapping[str, Any],
    batch: Batch,
    expected: Expected,
    *,
    key: Array,
    beta: Array | float = 1.0,
) -> dict[str, Array]:
    """Draw each recognised global from its complete conditional, in program order.

    Args:
        plan: the plan.
        globals_: current values.
        params: network parameters.
        batch: the data; only read by sites that do not compress.
        expected: statistics under the current assignments.
        key: randomness.
        beta: weight of the local likelihood.

    Returns:
        New values; globals without a recognised conditional keep theirs.
    """
    values = dict(globals_)
    for i, (name, conditional) in enumerate(plan.conditionals.items()):
        density = site_density(plan, name, values, params, batch, expected, beta=beta)
        with jax.default_matmul_precision("highest"):
            exponent = conditional.solve(density, conditional.probe(values[name]))
        values[name] = exponent.sample(jax.random.fold_in(key, i))
    return values


def unconstrain(plan: Plan, globals_: Mapping[str, Array]) -> dict[str, Array]:
    """The globals without a recognised conditional, in unconstrained space."""
    return {name: biject_to(plan.supports[name]).inv(globals_[name]) for name in plan.others}


def constrain(plan: Plan, free: Mapping[str, Array]) -> dict[str, Array]:
    """Back from unconstrained space."""
    return {name: biject_to(plan.supports[name])(value) for name, value in free.items()}


def log_jacobian(plan: Plan, free: Mapping[str, Array]) -> Array:
    """log |d constrained / d unconstrained|, in nats (a scalar)."""
    total = jnp.zeros(())
    for name, value in free.items():
        transform = biject_to(plan.supports[name])
        total += transform.log_abs_det_jacobian(value, transform(value)).sum()
    return total


def others_density(
    plan: Plan,
    globals_: Mapping[str, Array],
    params: Mapping[str, Any],
    batch: Batch,
    expected: Expected,
    *,
    with_prior: bool = True,
    beta: Array | float = 1.0,
) -> Any:
    """The expected log joint of the unrecognised globals together, as a function of their unconstrained values."""
    touched = frozenset().union(*(plan.touched_by(name) for name in plan.others))
    if not with_prior:
        touched -= frozenset(plan.others) - frozenset(plan.per_datum)

    def log_density(free: Mapping[str, Array]) -> Array:
        values = {**globals_, **constrain(plan, free)}
        return expected_log_joint(plan, values, params, batch, expected, only=touched, beta=beta)

    return log_density


def _ascend(
    plan: Plan, values: dict[str, Array], params: Mapping, batch: Batch, expected: Expected, with_prior: bool
) -> dict[str, Array]:
    """A few L-BFGS steps with line search; a pass that does not improve is taken back."""
    density = others_density(plan, values, params, batch, expected, with_prior=with_prior)
    scale = jnp.maximum(expected.counts.sum(), 1.0)

    def loss(free: dict[str, Array]) -> Array:
        return -density(free) / scale

    optimiser = optax.lbfgs()
    value_and_grad = optax.value_and_grad_from_state(loss)
    start = unconstrain(plan, values)

    def step(_: int, carry: tuple) -> tuple:
        free, state = carry
        value, grad = value_and_grad(free, state=state)
        updates, state = optimiser.update(grad, state, free, value=value, grad=grad, value_fn=loss)
        return optax.apply_updates(free, updates), state

    end, _ = jax.lax.fori_loop(0, ASCENT_STEPS, step, (start, optimiser.init(start)))
    better = loss(end) <= loss(start)  # False for NaN as well
    return constrain(plan, jax.tree.map(lambda new, old: jnp.where(better, new, old), end, start))
