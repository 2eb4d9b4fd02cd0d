"""Clusters from too many: a Gaussian mixture with several times the components wanted, merged pair by pair.

    cost(i, j) = f(i + j) - f(i) - f(j)

f is the likelihood of a component (`vmix.gaussian_pool`); the pair whose union costs least goes first. Small components
are pure and lie where the data are, so the likelihood of what they merge into is seldom reached from as many starts as
there are components; a class of any shape can be put together from them.

Where the number is not given, merging stops where the evidence for another component ends:

    sum_k f(k) R / N  -  M P / 2 log R

for M components with P numbers each. R is what the rows are worth, a few thousand at most: codes of a network are no
Gaussians, and with enough rows that alone would ask for ever more components.

Source: the agglomeration is Ward's (1963) with a Gaussian's log-likelihood in place of the sum of squares, as in
Fraley (1998), from soft components in place of single rows. The evidence is that of Biernacki et al. (2000), integrated
completed likelihood, which asks for clusters that stand apart; a likelihood to a power below one, for models that are
nearly right, is Miller and Dunson's (2019).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from vmix.clustering import k_means
from vmix.gaussian_pool import WIDEST, Pool, floors_of, gains, log_likelihood, log_weights_of, pooled, principal, union

OVER = 4
SWEEPS = 40
_ROWS_EACH = 10
# of all parts together; how it was chosen: docs/decisions/0009
ROWS_WORTH = 5_000


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
    home = _merge(pooled(narrow, fine), num_clusters, floors)[0]
    # the homes that are left, in order, are the clusters
    alive = jnp.zeros(over, bool).at[home].set(True)
    cluster = (jnp.cumsum(alive) - 1)[home]
    return fine @ jax.nn.one_hot(cluster, num_clusters, dtype=fine.dtype)


def evidence_clusters(parts: tuple[Array, ...], most: int, *, key: Array) -> Array:
    """Soft clusters, as many as the evidence asks for, the largest first.

    Args:
        parts: features, as for `merged_clusters`.
        most: K, the number of columns.
        key: randomness.

    Returns:
        Responsibilities, shape (N, K); columns of clusters that were merged away are zero.

    Example:
        >>> blobs = jnp.repeat(jnp.array([[0.0, 0.0], [9.0, 0.0]]), 40, 0)
        >>> rows = blobs + jax.random.normal(jax.random.key(0), blobs.shape)
        >>> evidence_clusters((rows,), 6, key=jax.random.key(1)).sum(0).round().tolist()
        [40.0, 40.0, 0.0, 0.0, 0.0, 0.0]
    """
    keys = jax.random.split(key, len(parts) + 1)
    narrow = tuple(principal(part, key=k) for part, k in zip(parts, keys[1:], strict=True))
    num_rows = parts[0].shape[0]
    over = max(2, min(most, num_rows // _ROWS_EACH))
    fine, floors = _fine(narrow, over, key=keys[0])
    home = _merge(pooled(narrow, fine), 1, floors, price=num_rows * price_of_a_component(parts))[1]
    shares = fine @ jax.nn.one_hot(home, over, dtype=fine.dtype)
    ordered = shares[:, jnp.argsort(-shares.sum(0))]
    return jnp.pad(ordered, ((0, 0), (0, most - over)))


def price_of_a_component(parts: tuple[Array, ...]) -> float:
    """What one more component has to bring, nats per datum.

    Args:
        parts: features, as for `merged_clusters`.

    Example:
        >>> round(price_of_a_component((jnp.zeros((1000, 2)),)), 4)
        0.0207
    """
    widths = [min(part.shape[1], WIDEST) for part in parts]
    numbers = 1 + sum(width * (width + 3) // 2 for width in widths)
    worth = min(parts[0].shape[0], ROWS_WORTH // len(parts))
    return 0.5 * numbers * math.log(worth) / worth


def _fine(parts: tuple[Array, ...], over: int, *, key: Array) -> tuple[Array, tuple[Array, ...]]:
    """Responsibilities (N, over) of a Gaussian mixture by EM from k-means, and the variances of its prior."""
    hard = jax.nn.one_hot(k_means(jnp.concatenate(parts, 1), over, key=key), over)
    floors = floors_of(pooled(parts, hard))

    def sweep(_: int, shares: Array) -> Array:
        pool = pooled(parts, shares)
        return jax.nn.softmax(log_weights_of(parts, pool, floors), -1)

    return jax.lax.fori_loop(0, SWEEPS, sweep, 0.98 * hard + 0.02 / over), floors


def _merge(pool: Pool, num_clusters: int, floors: tuple[Array, ...], *, price: float = 0.0) -> tuple[Array, Array]:
    """Merge until K are left; the home of each first component, shape (M,), then and when the evidence was highest."""
    size = pool.counts.shape[0]
    own = log_likelihood(pool.counts, pool.scatters, floors)
    costs = jax.lax.map(lambda i: gains(pool, own, i, floors), jnp.arange(size))
    costs = jnp.where(jnp.arange(size)[:, None] == jnp.arange(size), -jnp.inf, costs)

    def step(_: int, carry: tuple) -> tuple:
        (pool, home, own, costs), best, rise, highest = carry
        i, j = jnp.divmod(jnp.argmax(costs), size)
        rise = rise + costs[i, j] + price
        merged = _join((pool, home, own, costs), i, j, floors)
        better = rise > highest
        return merged, jnp.where(better, merged[1], best), rise, jnp.maximum(rise, highest)

    begun = ((pool, jnp.arange(size), own, costs), jnp.arange(size), jnp.zeros(()), jnp.zeros(()))
    (_, home, _, _), best, _, _ = jax.lax.fori_loop(0, size - num_clusters, step, begun)
    return home, best


def _join(carry: tuple, i: Array, j: Array, floors: tuple[Array, ...]) -> tuple:
    """Component i with component j in it; nothing can be merged with j any more."""
    pool, home, own, costs = carry
    size = pool.counts.shape[0]
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
