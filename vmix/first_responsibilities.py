"""Responsibilities before a fit: from a clustering of the data, or of the codes that encoders give them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vmix.clustering import k_means, random_centres
from vmix.engine import Start
from vmix.enumeration import without_masked
from vmix.families import unwrap
from vmix.log_joint import Batch, batch_terms, model_sites, state_log_weights
from vmix.merging import evidence_clusters, merged_clusters
from vmix.numerics import responsibilities
from vmix.plan import Plan
from vmix.program import OBSERVED


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


def stacked(views: list[View]) -> View:
    """Several views as one record, each leaf with the views in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *views)


def start_responsibilities(plan: Plan, start: Start, batch: Batch, *, key: Array, clusters: str) -> Array:
    """Responsibilities of the joint states from a clustering of the data (or codes), shape (cells, K)."""
    views = stacked([View(start, dict(batch.latents), dict(batch.known or {}))])
    return first_shares(plan, views, batch, key=key, clusters=clusters)


def first_shares(plan: Plan, views: View, batch: Batch, *, key: Array, clusters: str) -> Array:
    """Responsibilities from a clustering of what all views and the data show, shape (cells, K)."""
    num_rows = batch.args[0].shape[0] * plan.layout.cells_per_datum
    num_states = plan.layout.num_states
    cluster_key, noise_key = jax.random.split(key)
    features = features_of(plan, views, batch)
    if num_states == 1:
        shares = jnp.ones((num_rows, 1))
    elif not features or len(plan.layout.discrete) > 1:
        shares = jax.random.dirichlet(noise_key, jnp.full(num_states, 0.2), (num_rows,))
    elif clusters == "merge":
        shares = merged_clusters(features, num_states, key=cluster_key)
    elif clusters == "evidence":
        shares = evidence_clusters(features, num_states, key=cluster_key)
    else:
        assign = random_centres if clusters == "random" else k_means
        shares = jax.nn.one_hot(assign(jnp.concatenate(features, 1), num_states, key=cluster_key), num_states)
    # a little of every state keeps hard zeros out of the first update, but what was merged away begins empty
    soft = 0.98 * shares + 0.02 * (shares.mean(0) if clusters == "evidence" else 1.0 / num_states)
    if not batch.labels:
        return soft
    zero = jnp.zeros((num_rows, num_states))
    start, latents, known = jax.tree.map(lambda a: a[0], views)
    flat = _flat_terms(plan, start, batch._replace(latents=latents, known=known), zero)
    return responsibilities(jnp.log(soft) + state_log_weights(plan, flat, batch))[0]


def spread_statistics_of(
    plan: Plan, start: Start, batch: Batch, *, key: Array, clusters: str
) -> dict[str, dict[str, Array]]:
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


def features_of(plan: Plan, views: View, batch: Batch) -> tuple[Array, ...]:
    """What a clustering sees: each child of the discrete sites, centred, each site with unit total variance.

    Those whose density compresses, or, where there are none, those that are observed.
    """

    def of(view: View) -> dict[str, Array]:
        sites = model_sites(plan, view.start.globals, view.latents, view.start.params, batch.args)
        discrete = {name for name, _ in plan.layout.discrete}
        children = [name for name in plan.frames if discrete & set(plan.sites[name].parents)]
        children = children or [name for name in plan.names(OBSERVED) if discrete & set(plan.sites[name].parents)]
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
