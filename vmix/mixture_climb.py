"""EM on codes that are computed once: several encoders, and several views from each, with one class between them.

    r_nk ∝ p(c_n = k) prod_v p(codes_vn | c_n = k)                  over all views v
    theta_e <- argmax E_r[log p(codes, theta_e)]                    each encoder e, the mean over its views

What the others say of the class reaches a view as a message, so a sweep over all views is one sweep of EM on the
mixture of all codes.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vmix.assignments import expect
from vmix.first_responsibilities import View
from vmix.log_joint import Batch, Expected, batch_terms, gather, state_log_weights
from vmix.plan import Plan
from vmix.updates import maximise

_RISE = 0.6


class Climbed(NamedTuple):
    """Where EM from some responsibilities has come.

    Attributes:
        globals: of each view.
        objective: at the last E-step, nats per datum.
        shares: responsibilities of that E-step, shape (cells, K).
    """

    globals: dict[str, Array]
    objective: Array
    shares: Array

    @property
    def value(self) -> float:
        """The objective; minus infinity where it is not finite."""
        value = float(self.objective)
        return value if math.isfinite(value) else -math.inf


def climb(
    plan: Plan,
    views: View,
    batch: Batch,
    spread: dict,
    first: Array,
    sweeps: Array | int,
    beta: Array | float,
    *,
    each: int = 1,
) -> Climbed:
    """EM from responsibilities.

    Args:
        plan: the plan.
        views: the encoders' views, stacked, those of one encoder together.
        batch: the rows.
        spread: first statistics of augmented sites.
        first: log responsibilities, shape (cells, K).
        sweeps: after the first update.
        beta: weight of the likelihood in the first of them; it rises to 1 over the first six tenths.
        each: views from each encoder, which share its components.

    Returns:
        Where it has come.
    """
    num_views, num_rows = len(jax.tree.leaves(views.start)[0]), batch.args[0].shape[0]
    rise = jnp.maximum(jnp.floor(_RISE * jnp.asarray(sweeps, float)), 1.0)
    encoders = jax.tree.map(lambda a: a[::each], views)

    def look(i: Array, tempered: Array, seen: tuple[View, dict, Array]) -> tuple:
        """One view's E-step, what the others say of the class given."""
        view, globals_, others = seen
        rows = _rows_of(view, batch)
        terms, log_prior = batch_terms(plan, globals_, view.start.params, rows)
        weights = state_log_weights(plan, terms, rows, beta=tempered) + others
        assigned = expect(plan.layout, terms, jnp.where(i == 0, first, weights))
        expected = gather(plan, terms, assigned, key=None)
        hidden = jax.tree.map(lambda begun, found: jnp.where(i == 0, begun, found), spread, expected.augmented)
        expected = expected._replace(augmented=hidden)
        per_row = assigned.log_total
        if not plan.latents:  # on codes, what the decoder says is the same for every start
            per_row = per_row + plan.layout.sum_cells(terms.base()) + terms.rows
        shares = jnp.broadcast_to(assigned.shares, first.shape)
        return expected, jnp.broadcast_to(per_row, (num_rows,)).sum(), log_prior, shares

    def move(seen: tuple[View, dict, Expected]) -> dict[str, Array]:
        """One encoder's M-step."""
        view, globals_, expected = seen
        return maximise(plan, globals_, view.start.params, _rows_of(view, batch), expected, inside=True)

    def sweep(i: Array, carry: Climbed) -> Climbed:
        globals_ = carry.globals
        others = jnp.zeros((num_views, 1, 1))
        tempered = beta + (1.0 - beta) * jnp.clip(i / rise, 0.0, 1.0)
        if num_views > 1:
            said = jax.lax.map(lambda x: evidence(plan, x[0], x[1], batch), (views, globals_))
            others = tempered * (said.sum(0) - said)
        expected, total, log_prior, shares = jax.lax.map(partial(look, i, tempered), (views, globals_, others))
        # the mean over an encoder's views: copies are no further data, and priors weigh what they weigh without them
        expected = jax.tree.map(lambda a: a.reshape(-1, each, *a.shape[1:]).mean(1), expected)
        moved = jax.lax.map(move, (encoders, jax.tree.map(lambda a: a[::each], globals_), expected))
        globals_ = jax.tree.map(lambda a: jnp.repeat(a, each, 0), moved)
        return Climbed(globals_, (total[0] + log_prior[::each].sum()) / num_rows, shares[0])

    begun = Climbed(views.start.globals, jnp.zeros(()), jnp.exp(first))
    return jax.lax.fori_loop(0, jnp.asarray(sweeps) + 1, sweep, begun)


def _rows_of(view: View, batch: Batch) -> Batch:
    return batch._replace(latents=view.latents, known=view.known)


def evidence(plan: Plan, view: View, globals_: dict, batch: Batch) -> Array:
    """log p(codes | c = k), what one view says of the class, base measures aside, shape (cells, K)."""
    terms, _ = batch_terms(plan, globals_, view.start.params, _rows_of(view, batch))
    codes = {name: part for name, part in terms.compressed.items() if name in plan.latents}
    return terms._replace(compressed=codes, dense=None).likelihood()
