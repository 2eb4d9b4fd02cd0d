"""Clusters from too many: a Gaussian mixture with several times the components wanted, merged pair by pair.

    cost(i, j) = f(i + j) - f(i) - f(j),    f(k) = n_k log n_k - n_k / 2 sum_p log |S_kp|

n_k is the weight of component k and S_kp its covariance in part p; the pair whose union costs least goes first. Small
components are pure and lie where the data are, so the likelihood of what they merge into is seldom reached from as
many starts as there are components; a class of any shape can be put together from them.

Source: the agglomeration is Ward's (1963) with a Gaussian's log-likelihood in place of the sum of squares, as in
Fraley (1998), from soft components in place of single rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vmix.clustering import k_means

OVER = 4
SWEEPS = 40
WIDEST = 32
_ROWS_EACH = 10


class Pool(NamedTuple):
    """Components that may be merged.

    Attributes:
        counts: weight of each, shape (M,).
        means: one array a part, shape (M, D_p).
        scatters: weighted sums of squares about the means, one a part, shape (M, D_p, D_p).
        home: the component that each first one has become part of, shape (M,).
    """

    counts: Array
    means: tuple[Array, ...]
    scatters: tuple[Array, ...]
    home: Array


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
    narrow = tuple(_principal(part, key=k) for part, k in zip(parts, keys[1:], strict=True))
    over = max(num_clusters, min(OVER * num_clusters, parts[0].shape[0] // _ROWS_EACH))
    fine, floors = _fine(narrow, over, key=keys[0])
    home = _merge(_pool(narrow, fine), num_clusters, floors)
    # the homes that are left, in order, are the clusters
    alive = jnp.zeros(over, bool).at[home].set(True)
    cluster = (jnp.cumsum(alive) - 1)[home]
    return fine @ jax.nn.one_hot(cluster, num_clusters, dtype=fine.dtype)


def _principal(part: Array, *, key: Array) -> Array:
    """The first 32 principal directions of a wide part, by a few subspace iterations."""
    if part.shape[1] <= WIDEST:
        return part
    centred = part - part.mean(0)
    directions = jnp.linalg.qr(jax.random.normal(key, (part.shape[1], WIDEST), part.dtype))[0]
    for _ in range(4):
        directions = jnp.linalg.qr(centred.T @ (centred @ directions))[0]
    return centred @ directions


def _floors(pool: Pool) -> tuple[Array, ...]:
    """The variance within components in each part, averaged over its directions."""
    rows = jnp.maximum(pool.counts.sum() - pool.counts.shape[0], 1.0)
    within = (jnp.trace(s, axis1=1, axis2=2).sum() / (rows * s.shape[-1]) for s in pool.scatters)
    return tuple(jnp.maximum(v, 1e-12) for v in within)


def _fine(parts: tuple[Array, ...], over: int, *, key: Array) -> tuple[Array, tuple[Array, ...]]:
    """Responsibilities (N, over) of a Gaussian mixture by EM from k-means, and the variances of its prior."""
    hard = jax.nn.one_hot(k_means(jnp.concatenate(parts, 1), over, key=key), over)
    floors = _floors(_pool(parts, hard))

    def sweep(_: int, shares: Array) -> Array:
        pool = _pool(parts, shares)
        log_weights = jnp.log(pool.counts + 1.0)
        for part, mean, scatter, floor in zip(parts, pool.means, pool.scatters, floors, strict=True):
            log_weights = log_weights + _log_density(part, mean, _covariance(pool.counts, scatter, floor))
        return jax.nn.softmax(log_weights, -1)

    return jax.lax.fori_loop(0, SWEEPS, sweep, 0.98 * hard + 0.02 / over), floors


def _pool(parts: tuple[Array, ...], shares: Array) -> Pool:
    counts = shares.sum(0)
    means = tuple(shares.T @ part / jnp.maximum(counts, 1e-6)[:, None] for part in parts)
    scatters = []
    for part, mean in zip(parts, means, strict=True):
        one = lambda m, r, part=part: ((part - m) * r[:, None]).T @ (part - m)  # noqa: E731
        scatters.append(jax.lax.map(lambda x, one=one: one(*x), (mean, shares.T)))
    return Pool(counts, means, tuple(scatters), jnp.arange(shares.shape[1]))


def _covariance(counts: Array, scatter: Array, floor: Array) -> Array:
    """Covariances under a prior worth D + 2 rows of the floor's variance (empirical Bayes)."""
    width = scatter.shape[-1]
    prior = (width + 2.0) * floor * jnp.eye(width)
    return (scatter + prior) / (counts[..., None, None] + width + 2.0)


def _log_density(part: Array, mean: Array, covariance: Array) -> Array:
    """log N(x_n | mean_k, S_k) but for a constant, shape (N, K)."""
    factor = jnp.linalg.cholesky(covariance)
    eye = jnp.broadcast_to(jnp.eye(mean.shape[1]), factor.shape)
    whiten = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    placed = jnp.einsum("nd,ked->nke", part, whiten) - jnp.einsum("kd,ked->ke", mean, whiten)
    return -0.5 * jnp.square(placed).sum(-1) - jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(-1)


def _merge(pool: Pool, num_clusters: int, floors: tuple[Array, ...]) -> Array:
    """Merge until K are left; returns the home of each first component, shape (M,)."""
    size = pool.counts.shape[0]
    own = _fit(pool.counts, pool.scatters, floors)
    gains = jax.lax.map(lambda i: _gains(pool, own, i, floors), jnp.arange(size))
    gains = jnp.where(jnp.arange(size)[:, None] == jnp.arange(size), -jnp.inf, gains)

    def step(_: int, carry: tuple) -> tuple:
        pool, own, gains = carry
        i, j = jnp.divmod(jnp.argmax(gains), size)
        union = _union(pool, i, j)
        pool = Pool(
            pool.counts.at[i].set(union.counts).at[j].set(0.0),
            tuple(a.at[i].set(b) for a, b in zip(pool.means, union.means, strict=True)),
            tuple(a.at[i].set(b) for a, b in zip(pool.scatters, union.scatters, strict=True)),
            jnp.where(pool.home == j, i, pool.home),
        )
        own = own.at[i].set(_fit(union.counts, union.scatters, floors))
        fresh = _gains(pool, own, i, floors)
        fresh = jnp.where(jnp.isneginf(gains[i]) | (jnp.arange(size) == j), -jnp.inf, fresh)
        gains = gains.at[i].set(fresh).at[:, i].set(fresh).at[j].set(-jnp.inf).at[:, j].set(-jnp.inf)
        return pool, own, gains

    return jax.lax.fori_loop(0, size - num_clusters, step, (pool, own, gains))[0].home


def _fit(counts: Array, scatters: tuple[Array, ...], floors: tuple[Array, ...]) -> Array:
    """f(k) of components with any leading shape, nats."""
    total = jax.scipy.special.xlogy(counts, counts)
    for scatter, floor in zip(scatters, floors, strict=True):
        factor = jnp.linalg.cholesky(_covariance(counts, scatter, floor))
        total = total - counts * jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    return total


def _union(pool: Pool, i: Array, j: Array | slice) -> Pool:
    """Component i together with component j, or with every one."""
    counts = pool.counts[i] + pool.counts[j]
    share = pool.counts[j] / jnp.maximum(counts, 1e-30)
    means, scatters = [], []
    for mean, scatter in zip(pool.means, pool.scatters, strict=True):
        gap = mean[j] - mean[i]
        means.append(mean[i] + share[..., None] * gap)
        between = (pool.counts[i] * share)[..., None, None] * gap[..., :, None] * gap[..., None, :]
        scatters.append(scatter[i] + scatter[j] + between)
    return Pool(counts, tuple(means), tuple(scatters), pool.home)


def _gains(pool: Pool, own: Array, i: Array, floors: tuple[Array, ...]) -> Array:
    """What the likelihood gains if component i is merged with each other, mostly below zero; shape (M,), nats."""
    union = _union(pool, i, slice(None))
    return _fit(union.counts, union.scatters, floors) - own[i] - own
