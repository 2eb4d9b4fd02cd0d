"""Components as pooled rows: weights, means and scatters, what their likelihood is, and what a union would cost.

    f(k) = n_k log n_k - n_k / 2 sum_p log |S_kp|

n_k is the weight of component k and S_kp its covariance in part p: the log-likelihood of a Gaussian mixture on rows
that belong to its components, but for a constant. Rows may be seen in several parts, independent within a component.

Source: Fraley (1998), with soft components in place of single rows.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

WIDEST = 32


class Pool(NamedTuple):
    """Components.

    Attributes:
        counts: weight of each, shape (M,).
        means: one array a part, shape (M, D_p).
        scatters: weighted sums of squares about the means, one a part, shape (M, D_p, D_p).
    """

    counts: Array
    means: tuple[Array, ...]
    scatters: tuple[Array, ...]


def principal(part: Array, *, key: Array) -> Array:
    """The first 32 principal directions of a wide part, by a few subspace iterations."""
    if part.shape[1] <= WIDEST:
        return part
    centred = part - part.mean(0)
    directions = jnp.linalg.qr(jax.random.normal(key, (part.shape[1], WIDEST), part.dtype))[0]
    for _ in range(4):
        directions = jnp.linalg.qr(centred.T @ (centred @ directions))[0]
    return centred @ directions


def pooled(parts: tuple[Array, ...], shares: Array) -> Pool:
    """Components of rows with responsibilities `shares`, shape (N, M)."""
    counts = shares.sum(0)
    means = tuple(shares.T @ part / jnp.maximum(counts, 1e-6)[:, None] for part in parts)
    scatters = []
    for part, mean in zip(parts, means, strict=True):
        one = lambda m, r, part=part: ((part - m) * r[:, None]).T @ (part - m)  # noqa: E731
        scatters.append(jax.lax.map(lambda x, one=one: one(*x), (mean, shares.T)))
    return Pool(counts, means, tuple(scatters))


def floors_of(pool: Pool) -> tuple[Array, ...]:
    """The variance within components in each part, averaged over its directions."""
    rows = jnp.maximum(pool.counts.sum() - pool.counts.shape[0], 1.0)
    within = (jnp.trace(s, axis1=1, axis2=2).sum() / (rows * s.shape[-1]) for s in pool.scatters)
    return tuple(jnp.maximum(v, 1e-12) for v in within)


def covariance(counts: Array, scatter: Array, floor: Array) -> Array:
    """Covariances under a prior worth D + 2 rows of the floor's variance (empirical Bayes)."""
    width = scatter.shape[-1]
    prior = (width + 2.0) * floor * jnp.eye(width)
    return (scatter + prior) / (counts[..., None, None] + width + 2.0)


def log_density(part: Array, mean: Array, covariance: Array) -> Array:
    """log N(x_n | mean_k, S_k) but for a constant, shape (N, K)."""
    factor = jnp.linalg.cholesky(covariance)
    eye = jnp.broadcast_to(jnp.eye(mean.shape[1]), factor.shape)
    whiten = jax.scipy.linalg.solve_triangular(factor, eye, lower=True)
    placed = jnp.einsum("nd,ked->nke", part, whiten) - jnp.einsum("kd,ked->ke", mean, whiten)
    return -0.5 * jnp.square(placed).sum(-1) - jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(-1)


def log_weights_of(parts: tuple[Array, ...], pool: Pool, floors: tuple[Array, ...]) -> Array:
    """log n_k N(row | k) of rows but for a constant, one more row counted in each component, shape (N, M)."""
    found = jnp.log(pool.counts + 1.0)
    for part, mean, scatter, floor in zip(parts, pool.means, pool.scatters, floors, strict=True):
        found = found + log_density(part, mean, covariance(pool.counts, scatter, floor))
    return found


def log_likelihood(counts: Array, scatters: tuple[Array, ...], floors: tuple[Array, ...]) -> Array:
    """f(k) of components with any leading shape, nats."""
    total = jax.scipy.special.xlogy(counts, counts)
    for scatter, floor in zip(scatters, floors, strict=True):
        factor = jnp.linalg.cholesky(covariance(counts, scatter, floor))
        total = total - counts * jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)).sum(-1)
    return total


def union(pool: Pool, i: Array, j: Array | slice) -> Pool:
    """Component i together with component j, or with every one."""
    counts = pool.counts[i] + pool.counts[j]
    share = pool.counts[j] / jnp.maximum(counts, 1e-30)
    means, scatters = [], []
    for mean, scatter in zip(pool.means, pool.scatters, strict=True):
        gap = mean[j] - mean[i]
        means.append(mean[i] + share[..., None] * gap)
        between = (pool.counts[i] * share)[..., None, None] * gap[..., :, None] * gap[..., None, :]
        scatters.append(scatter[i] + scatter[j] + between)
    return Pool(counts, tuple(means), tuple(scatters))


def gains(pool: Pool, own: Array, i: Array, floors: tuple[Array, ...]) -> Array:
    """What the likelihood gains if component i is merged with each other, mostly below zero; shape (M,), nats."""
    both = union(pool, i, slice(None))
    return log_likelihood(both.counts, both.scatters, floors) - own[i] - own
