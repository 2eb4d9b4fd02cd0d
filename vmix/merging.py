"""Clusters from too many: a Gaussian mixture with several times the components wanted, merged pair by pair.

    cost(i, j) = f(i + j) - f(i) - f(j)

f is the likelihood of a component (`vmix.gaussian_pool`); the pair whose union costs least goes first. Small components
are pure and lie where the data are, so the likelihood of what they merge into is seldom reached from as many starts as
there are components; a class of any shape can be put together from them.

Source: the agglomeration is Ward's (1963) with a Gaussian's log-likelihood in place of the sum of squares, as in
Fraley (1998), from soft components in place of single rows.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from vmix.clustering import k_means
from vmix.gaussian_pool import Pool, floors_of, gains, log_likelihood, log_weights_of, pooled, principal, union

OVER = 4
SWEEPS = 40
_ROWS_EACH = 10


def merged_clusters(parts: tuple[Array, ...], num_clusters: int, *, key: Array) -> Array:
    """Soft clusters of rows that are seen in several parts, independent of each other within a cluster.

    Args:
        parts: features, one array a part, shape (N, D_p), finite; parts wider than 32 are cut to their first 32
            principal directions.
        num_clusters: K.
        key: randomness.

    Returns:
        Responsibilities, shape (N, K).

    Example:
        >>> ring = jnp.arange(60.0) / 60 * 6.28
        >>> rings = jnp.concatenate([jnp.stack([jnp.cos(ring), jnp.sin(ring)], 1) * r for r in (1.0, 9.0)])
        >>> merged_clusters((rings,), 2, key=jax.random.key(0)).shape
        (120, 2)
    """
    keys = jax.random.split(key, len(parts) + 1)
    narrow = tuple(principal(part, key=k) for part, k in zip(parts, keys[1:], strict=True))
    over = max(num_clusters, min(OVER * num_clusters, parts[0].shape[0] // _ROWS_EACH))
    fine, floors = _fine(narrow, over, key=keys[0])
    home = _merge(pooled(narrow, fine), num_clusters, floors)
    # the homes that are left, in order, are the clusters
    alive = jnp.zeros(over, bool).at[home].set(True)
    cluster = (jnp.cumsum(alive) - 1)[home]
    return fine @ jax.nn.one_hot(cluster, num_clusters, dtype=fine.dtype)


def _fine(parts: tuple[Array, ...], over: int, *, key: Array) -> tuple[Array, tuple[Array, ...]]:
    """Responsibilities (N, over) of a Gaussian mixture by EM from k-means, and the variances of its prior."""
    hard = jax.nn.one_hot(k_means(jnp.concatenate(parts, 1), over, key=key), over)
    floors = floors_of(pooled(parts, hard))

    def sweep(_: int, shares: Array) -> Array:
        pool = pooled(parts, shares)
        return jax.nn.softmax(log_weights_of(parts, pool, floors), -1)

    return jax.lax.fori_loop(0, SWEEPS, sweep, 0.98 * hard + 0.02 / over), floors


def _merge(pool: Pool, num_clusters: int, floors: tuple[Array, ...]) -> Array:
    """Merge until K are left; returns the home of each first component, shape (M,)."""
    size = pool.counts.shape[0]
    own = log_likelihood(pool.counts, pool.scatters, floors)
    costs = jax.lax.map(lambda i: gains(pool, own, i, floors), jnp.arange(size))
    costs = jnp.where(jnp.arange(size)[:, None] == jnp.arange(size), -jnp.inf, costs)

    def step(_: int, carry: tuple) -> tuple:
        pool, home, own, costs = carry
        i, j = jnp.divmod(jnp.argmax(costs), size)
        both = union(pool, i, j)
        pool = Pool(
            pool.counts.at[i].set(both.counts).at[j].set(0.0),
            tuple(a.at[i].set(b) for a, b in zip(pool.means, both.means, strict=True)),
            tuple(a.at[i].set(b) for a, b in zip(pool.scatters, both.scatters, strict=True)),
        )
        own = own.at[i].set(log_likelihood(both.counts, both.scatters, floors))
        fresh = gains(pool, own, i, floors)
        fresh = jnp.where(jnp.isneginf(costs[i]) | (jnp.arange(size) == j), -jnp.inf, fresh)
        costs = costs.at[i].set(fresh).at[:, i].set(fresh).at[j].set(-jnp.inf).at[:, j].set(-jnp.inf)
        return pool, jnp.where(home == j, i, home), own, costs

    return jax.lax.fori_loop(0, size - num_clusters, step, (pool, jnp.arange(size), own, costs))[1]
