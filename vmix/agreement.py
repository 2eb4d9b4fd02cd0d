"""What a program must keep to, so that its enumeration over values and its sums over rows mean what it says.

Enumeration sets a discrete site to `arange(K)` in a dimension of its own. A program that uses more than a row's own
value (a mean, a roll, a sort over the data plate) still runs then, and its numbers mean something else. So the planner
runs it once more with a value for each row, and compares.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.distributions.structured import StructuredDiscrete
from vmix.enumeration import has_steps, site_log_prob
from vmix.families import family_of, unwrap
from vmix.layout import collapse, is_enumerated
from vmix.log_joint import Batch, model_sites
from vmix.program import DISCRETE, ProgramError, Site, trace_sites

if TYPE_CHECKING:
    from vmix.plan import Plan

TOLERANCE = 1e-2
"""Largest gap that passes, relative to the size of a row's log densities; rounding is far below, a mean far above."""


LARGEST = 20_000_000
"""Most numbers that a site's log density may hold before it is summed: it is compared in full, and compiled quickly."""


class Gap(NamedTuple):
    """The largest gap of one site: relative, and at which cell, with both log densities in nats."""

    relative: Array
    cell: Array
    enumerated: Array
    direct: Array


def uneven_states(plan: Plan, batch: Batch) -> tuple[Batch, Array]:
    """Some rows, and joint states for them: small ones more often, so that no mean is that of all values.

    There are no rows where all are too many and cannot be cut, because the planner took all: the program may hold their
    number, or have a latent for each.

    Args:
        plan: the plan.
        batch: the rows that are planned with.

    Returns:
        Rows, and states of shape (N,), or (N, T) where there are steps.
    """
    num_rows, steps = batch.args[0].shape[0], plan.layout.num_steps
    numbers = max((math.prod(site.shape) for site in plan.sites.values() if site.is_local), default=1)
    most = max(LARGEST * plan.num_rows // max(numbers * plan.layout.num_states, 1), 2)
    few = num_rows if num_rows <= most else most if num_rows < plan.num_rows else 0
    uniform = np.random.default_rng(few).random((few,) if steps is None else (few, steps))
    states = (plan.layout.num_states * uniform**2).astype(np.int32)
    return jax.tree.map(lambda a: a[:few], batch), jnp.asarray(states)


def gaps(
    plan: Plan, globals_: Mapping[str, Array], params: Mapping[str, Any], batch: Batch, states: Array
) -> dict[str, Gap]:
    """Compare the log density of each child of a discrete site, enumerated, with that at one state a row.

    Args:
        plan: the plan.
        globals_: values of the globals.
        params: network parameters.
        batch: some rows of the data, with values of the latents.
        states: the joint state of each cell, shape (N,), or (N, T) where there are steps.

    Returns:
        Site to its largest gap.
    """
    layout = plan.layout
    if not (layout.discrete and states.size):
        return {}
    fixed = layout.values_of(states)
    every = model_sites(plan, globals_, batch.latents, params, batch.args)
    # any key: every site is fixed
    values = {**globals_, **batch.latents, **fixed}
    one = trace_sites(plan.program.model, batch.args, key=jax.random.key(0), values=values, params=dict(params))
    found = {}
    for name, site in every.items():
        if name in fixed or not is_enumerated(layout, site["fn"].batch_shape):
            continue
        matrix, direct = (_matrix(plan, s) for s in (site, one[name]))
        cells = max(matrix.shape[0], direct.shape[0], states.size)
        matrix, direct = jnp.broadcast_to(matrix, (cells, matrix.shape[1])), jnp.broadcast_to(direct[:, 0], (cells,))
        here = jnp.take_along_axis(matrix, states.reshape(-1, 1), 1)[:, 0]
        finite = jnp.where(jnp.isfinite(matrix), matrix, here[:, None])
        size = 1.0 + jnp.abs(direct) + finite.max(1) - finite.min(1)
        relative = jnp.where(here == direct, 0.0, jnp.abs(here - direct) / size)
        worst = jnp.argmax(jnp.where(jnp.isnan(relative), 0.0, relative))
        found[name] = Gap(relative[worst], worst, here[worst], direct[worst])
    return found


def _matrix(plan: Plan, site: dict) -> Array:
    steps = has_steps(plan.layout, site)
    log_prob = site_log_prob(site["fn"], site["value"], missing=plan.missing, steps=steps)
    return collapse(plan.layout, log_prob, steps=steps)


def refuse_gaps(plan: Plan, found: Mapping[str, Gap]) -> None:
    """Refuse a program whose rows use more than their own values of the discrete sites.

    Raises:
        ProgramError: naming the site and the row.
    """
    for name, gap in found.items():
        if float(gap.relative) > TOLERANCE:
            discrete = next(site for site, _ in plan.layout.discrete if site in plan.sites[name].parents)
            row = int(gap.cell) // plan.layout.cells_per_datum
            raise ProgramError(
                f"site {name!r} uses {discrete!r} of other rows than its own: at row {row} its log density is "
                f"{gap.direct:.4g} nats when each row has one value, and {gap.enumerated:.4g} when all values are "
                f"enumerated; index with the row's own value, as loc[{discrete}], without a mean, roll, sort or cumsum "
                "over the data plate"
            )


def refuse_half_masked(plan: Plan, sites: Mapping[str, dict]) -> None:
    """Refuse a mask on a discrete site whose children have none: a masked row keeps its prior, and says nothing.

    Raises:
        ProgramError: naming both sites.
    """
    for name, _ in plan.layout.discrete:
        for child in plan.sites[name].children if _is_masked(sites[name]) else ():
            if not _is_masked(sites[child]):
                raise ProgramError(
                    f"site {name!r} is masked, but {child!r}, which depends on it, is not; mask both over the rows "
                    "that are absent, or neither"
                )


def check_steps(plan: Plan, info: Site, site: dict) -> None:
    """Refuse a child of a structured site that has no dimension for its steps.

    Raises:
        ProgramError: naming both sites.
    """
    if (
        plan.layout.num_steps is None
        or has_steps(plan.layout, site)
        or not is_enumerated(plan.layout, site["fn"].batch_shape)
    ):
        return
    chain = plan.layout.discrete[0][0]
    raise ProgramError(
        f"site {info.name!r} depends on {chain!r}, but the first dimension of its event is not its "
        f"{plan.layout.num_steps} steps (batch shape {info.batch_shape}, {info.event_dim} event dimension(s), value "
        f"{info.shape}); write x of shape (N, T, ...) and make T part of the event: "
        f"dist.Normal(loc[c], scale[c]).to_event(2) for x of shape (N, T, D)"
    )


def same_for_every_row(plan: Plan, name: str, site: dict) -> Array:
    """What a site says outside of the data plate, or of every row alike: a number that depends on its parameters."""
    base, layout = unwrap(site["fn"]).base, plan.layout
    if plan.sites[name].is_global_term:
        parts = [site["fn"].log_prob(site["value"])]
    elif isinstance(base, StructuredDiscrete):
        parts = list(base.potentials().values())
    elif plan.sites[name].role == DISCRETE:
        prior = collapse(layout, base.log_prob(site["value"]))
        parts = [prior] if prior.shape[0] == 1 else []
    else:
        family = family_of(base)
        parts = [] if family is None else list(family.parameters(base))
    return sum((part.sum() for part in parts), jnp.zeros(()))


def _is_masked(site: dict) -> bool:
    mask = unwrap(site["fn"]).mask
    return not (mask is None or mask is True)
