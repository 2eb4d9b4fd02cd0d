"""Globals before a fit: from clustered data, or by EM on the codes of an autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vmix.assignments import expect
from vmix.clustering import k_means, random_centres
from vmix.engine import Annealing, Data, Start
from vmix.enumeration import without_masked
from vmix.families import unwrap
from vmix.log_joint import Batch, batch_terms, gather, guide_factors, model_sites, state_log_weights
from vmix.merging import merged_clusters
from vmix.numerics import responsibilities
from vmix.plan import Plan
from vmix.program import ProgramError
from vmix.recipe import Recipe, Stage
from vmix.updates import maximise

MIXTURE_ROWS = 20_000
_CODE_ROWS = 1_000
FIRST_SWEEPS = 3


class View(NamedTuple):
    """One encoder's view of the data; several are stacked along a leading axis.

    Attributes:
        start: the networks, and values of the globals.
        latents: codes of the rows.
        known: statistics and base measures computed before, by site.
    """

    start: Start
    latents: dict[str, Array]
    known: dict[str, tuple[Array, Array]]


def fit_mixture(plan: Plan, data: Data, starts: list[Start], recipe: Recipe, *, key: Array) -> tuple[Start, Stage]:
    """Globals from clustered data, or, where latents have encoders, by EM on their codes with restarts.

    Args:
        plan: the plan.
        data: the data.
        starts: one for each encoder.
        recipe: the recipe.
        key: randomness.

    Returns:
        The first encoder with its components, and what the stage did.

    Raises:
        ProgramError: for several encoders of latents whose density does not compress.
    """
    began = time.perf_counter()
    deep = bool(plan.latents)
    if len(starts) > 1 and not set(plan.latents) & set(plan.frames):
        name = plan.latents[0]
        reason = plan.reasons.get(name, "unknown")
        raise ProgramError(f"site {name!r} does not compress ({reason}), so it cannot have several views: use views=1")
    restarts = recipe.mixture_restarts if deep and plan.layout.discrete else 1
    sweeps = recipe.mixture_sweeps if deep and plan.layout.discrete else FIRST_SWEEPS
    batches = [mixture_batch(plan, data, start, key=key) for start in starts]
    views = _stacked([View(s, dict(b.latents), dict(b.known or {})) for s, b in zip(starts, batches, strict=True)])
    anneal = Annealing(recipe.mixture_beta, int(0.6 * sweeps)) if restarts > 1 or deep else Annealing()
    run = _climber(plan, recipe.clusters, sweeps, anneal)
    globals_, objective = run(jax.random.split(jax.random.fold_in(key, 1), restarts), views, batches[0])
    best = int(jnp.argmax(jnp.where(jnp.isfinite(objective), objective, -jnp.inf)))
    chosen = {name: value[best, 0] for name, value in globals_.items()}
    ranked = sorted((float(v) if jnp.isfinite(v) else -float("inf") for v in objective), reverse=True)
    name = "mixture on codes" if deep else f"{recipe.clusters} start"
    note = f"{restarts} start(s), {sweeps} sweeps; objectives " + ", ".join(f"{v:.4f}" for v in ranked)
    return Start(chosen, starts[0].params), Stage(name, time.perf_counter() - began, [ranked[0]], note)


@lru_cache(maxsize=8)
def _climber(plan: Plan, clusters: str, sweeps: int, anneal: Annealing) -> Callable:
    one = partial(_cluster_and_climb, plan, clusters=clusters, sweeps=sweeps, anneal=anneal)
    return jax.jit(lambda keys, views, batch: jax.lax.map(lambda k: one(views=views, batch=batch, key=k), keys))


def _stacked(views: list[View]) -> View:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *views)


def mixture_batch(plan: Plan, data: Data, start: Start, *, key: Array) -> Batch:
    """Some rows with their codes: the encoder's moments stand for the latents, computed once."""
    num_rows = data.num_rows
    most = plan.layout.rows_for(MIXTURE_ROWS)
    if num_rows > most and not plan.per_datum:
        data = data.take(jnp.sort(jax.random.permutation(key, num_rows)[:most]))
    if not plan.latents:
        return Batch(data.args, {}, {}, data.labels, data.known)

    moments = _encoder(plan)
    parts = []
    size = plan.layout.rows_for(_CODE_ROWS)
    for first in range(0, data.num_rows, size):
        rows = tuple(a[first : first + size] for a in data.args)
        parts.append(moments(rows, start, key))
    means, known = jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *parts)
    return Batch(data.args, means, {}, data.labels, known)


@lru_cache(maxsize=8)
def _encoder(plan: Plan) -> Callable:
    """Codes of some rows: means of the latents, and statistics and base measures of those that compress."""
    compressed = [name for name in plan.latents if name in plan.frames]

    def moments(rows: tuple, start: Start, key: Array) -> tuple[dict, dict]:
        _, factors = guide_factors(plan, start.params, rows, key=key)
        means = {name: factor.mean for name, factor in factors.items()}
        terms, _ = batch_terms(plan, start.globals, start.params, Batch(rows, means, factors))
        size = rows[0].shape[0]
        known = {}
        for name in compressed:
            part = terms.compressed[name]
            base = jnp.broadcast_to(part.base, (size * plan.layout.cells_per_datum,))
            known[name] = (plan.layout.to_rows(part.statistics), plan.layout.to_rows(base))
        return means, known

    return jax.jit(moments)


def _cluster_and_climb(
    plan: Plan, *, views: View, batch: Batch, key: Array, clusters: str, sweeps: int, anneal: Annealing
) -> tuple[dict[str, Array], Array]:
    """Responsibilities from a clustering, then EM sweeps; returns each view's globals, and the objective per datum."""
    first = jnp.log(_first_shares(plan, views, batch, key=key, clusters=clusters))
    start = jax.tree.map(lambda a: a[0], views.start)
    spread = _spread(plan, start, batch, key=jax.random.fold_in(key, 1), clusters=clusters)
    num_views, num_rows = len(jax.tree.leaves(views.start)[0]), batch.args[0].shape[0]

    def update(i: Array, view: View, globals_: dict, others: Array) -> tuple[dict, Array, Array]:
        """One view's sweep, what the others say of the class given."""
        rows = _rows_of(view, batch)
        terms, log_prior = batch_terms(plan, globals_, view.start.params, rows)
        weights = state_log_weights(plan, terms, rows, beta=anneal.values(i, 1)[0]) + others
        assigned = expect(plan.layout, terms, jnp.where(i == 0, first, weights))
        expected = gather(plan, terms, assigned, key=None)
        hidden = jax.tree.map(lambda begun, found: jnp.where(i == 0, begun, found), spread, expected.augmented)
        expected = expected._replace(augmented=hidden)
        per_row = assigned.log_total
        if not plan.latents:  # on codes, what the decoder says is the same for every start
            per_row = per_row + plan.layout.sum_cells(terms.base()) + terms.rows
        moved = maximise(plan, globals_, view.start.params, rows, expected, inside=True)
        return moved, jnp.broadcast_to(per_row, (num_rows,)).sum(), log_prior

    def sweep(i: Array, carry: tuple) -> tuple:
        globals_, _ = carry
        others = jnp.zeros((num_views, 1, 1))
        if num_views > 1:
            said = jax.lax.map(lambda x: _evidence(plan, x[0], x[1], batch), (views, globals_))
            others = anneal.values(i, 1)[0] * (said.sum(0) - said)
        moved, total, log_prior = jax.lax.map(lambda x: update(i, *x), (views, globals_, others))
        return moved, (total[0] + log_prior.sum()) / num_rows

    return jax.lax.fori_loop(0, sweeps + 1, sweep, (views.start.globals, jnp.zeros(())))


def _rows_of(view: View, batch: Batch) -> Batch:
    return batch._replace(latents=view.latents, known=view.known)


def _evidence(plan: Plan, view: View, globals_: dict, batch: Batch) -> Array:
    """log p(codes | c = k), what one view says of the class, base measures aside, shape (cells, K)."""
    terms, _ = batch_terms(plan, globals_, view.start.params, _rows_of(view, batch))
    codes = {name: part for name, part in terms.compressed.items() if name in plan.latents}
    return terms._replace(compressed=codes, dense=None).likelihood()


def start_responsibilities(plan: Plan, start: Start, batch: Batch, *, key: Array, clusters: str) -> Array:
    """Responsibilities of the joint states from a clustering of the data (or codes), shape (cells, K)."""
    views = _stacked([View(start, dict(batch.latents), dict(batch.known or {}))])
    return _first_shares(plan, views, batch, key=key, clusters=clusters)


def _first_shares(plan: Plan, views: View, batch: Batch, *, key: Array, clusters: str) -> Array:
    num_rows = batch.args[0].shape[0] * plan.layout.cells_per_datum
    num_states = plan.layout.num_states
    cluster_key, noise_key = jax.random.split(key)
    features = _features(plan, views, batch)
    if num_states == 1:
        shares = jnp.ones((num_rows, 1))
    elif not features or len(plan.layout.discrete) > 1:
        shares = jax.random.dirichlet(noise_key, jnp.full(num_states, 0.2), (num_rows,))
    elif clusters == "merge":
        shares = merged_clusters(features, num_states, key=cluster_key)
    else:
        assign = random_centres if clusters == "random" else k_means
        shares = jax.nn.one_hot(assign(jnp.concatenate(features, 1), num_states, key=cluster_key), num_states)
    # a little of every state keeps hard zeros out of the first update
    soft = 0.98 * shares + 0.02 / num_states
    if not batch.labels:
        return soft
    zero = jnp.zeros((num_rows, num_states))
    start, latents, known = jax.tree.map(lambda a: a[0], views)
    flat = _flat_terms(plan, start, batch._replace(latents=latents, known=known), zero)
    return responsibilities(jnp.log(soft) + state_log_weights(plan, flat, batch))[0]


def _spread(plan: Plan, start: Start, batch: Batch, *, key: Array, clusters: str) -> dict[str, dict[str, Array]]:
    """Statistics of the augmented sites as if each datum's hidden variables were mostly those of its cluster."""
    terms, _ = batch_terms(plan, start.globals, start.params, batch)
    if not terms.augmented:
        return {}
    shares = []
    for _, value in terms.augmented.values():
        counts = value.astype(jnp.result_type(float))
        shares.append(jnp.sqrt(counts / jnp.maximum(counts.sum(-1, keepdims=True), 1e-30)))
    features = jnp.concatenate(shares, -1)
    size = max(fn.proportions().shape[-1] for fn, _ in terms.augmented.values())
    assign = random_centres if clusters == "random" else k_means
    hard = jax.nn.one_hot(assign(features - features.mean(0), size, key=key), size)
    soft = 0.8 * hard + 0.2 / size
    return {name: fn.spread_statistics(value, soft) for name, (fn, value) in terms.augmented.items()}


def _flat_terms(plan: Plan, start: Start, batch: Batch, zero: Array) -> Any:
    terms, _ = batch_terms(plan, start.globals, start.params, batch)
    return terms._replace(log_prior=zero[:1], compressed={}, dense=zero)


def _features(plan: Plan, views: View, batch: Batch) -> tuple[Array, ...]:
    """What a clustering sees: each child of the discrete sites, centred, each site with unit total variance."""

    def of(view: View) -> dict[str, Array]:
        sites = model_sites(plan, view.start.globals, view.latents, view.start.params, batch.args)
        discrete = {name for name, _ in plan.layout.discrete}
        children = [name for name in plan.frames if discrete & set(plan.sites[name].parents)]
        return {name: _unit(_values(plan, name, sites[name])) for name in children}

    found = jax.lax.map(of, views)
    # what was observed is the same in every view
    return tuple(part for name, stack in found.items() for part in (stack if name in plan.latents else stack[:1]))


def _values(plan: Plan, name: str, site: dict) -> Array:
    """A site's values, one row a cell."""
    value = without_masked(plan.layout, site)
    atom = unwrap(site["fn"])
    axis = plan.layout.rows_dim - atom.event_dims - atom.base.event_dim
    if plan.sites[name].family == "Categorical":
        value = jax.nn.one_hot(value, atom.base.support.upper_bound + 1)
        axis -= 1
    # the steps of a structured site stand right of the data plate
    front = (axis, axis + 1) if plan.layout.num_steps is not None else (axis,)
    rows = plan.layout.to_cells(jnp.moveaxis(value, front, range(len(front))))
    return rows.reshape(rows.shape[0], -1).astype(jnp.result_type(float))


def _unit(rows: Array) -> Array:
    centred = jnp.nan_to_num(rows - jnp.nanmean(rows, 0))
    scaled = centred / jnp.maximum(jnp.abs(centred).max(), jnp.finfo(centred.dtype).tiny)
    return scaled / jnp.sqrt(jnp.maximum(jnp.square(scaled).mean(0).sum(), 1e-30))
