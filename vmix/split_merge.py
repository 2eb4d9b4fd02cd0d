"""Moves that EM cannot make: one component split in two while two others become one.

    total(i, j, k) = f(i + j) - f(i) - f(j) + f(k') + f(k'') - f(k),    i, j, k different

f is the likelihood of a component (`vmix.gaussian_pool`) and k', k'' are the halves of k, by EM of two Gaussians on its
rows alone. The triples with the largest totals are worth trying; what they are worth is for the caller's own objective
to say.

Source: Ueda, Nakano, Ghahramani and Hinton (2000), with likelihoods in place of their criteria for both.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from vmix.gaussian_pool import floors_of, gains, log_likelihood, log_weights_of, pooled, principal

TRIES = 6
SWEEPS = 15
_PAIRS = 4


def split_merge_proposals(parts: tuple[Array, ...], shares: Array, count: int, *, key: Array) -> Array:
    """Responsibilities after the most promising moves.

    Args:
        parts: features, one array a part, shape (N, D_p), finite; parts wider than 32 are cut to their first 32
            principal directions.
        shares: responsibilities, shape (N, K), K at least 3.
        count: moves wanted; no more than there are triples.
        key: randomness.

    Returns:
        Responsibilities after each move, the most promising first, shape (count, N, K).

    Example:
        >>> x = jnp.concatenate([jnp.zeros(20), jnp.full(20, 3.0), jnp.full(20, 9.0)])[:, None]
        >>> x = x + 0.01 * jax.random.normal(jax.random.key(0), x.shape)
        >>> wrong = jax.nn.one_hot(jnp.repeat(jnp.array([0, 1, 2]), jnp.array([40, 10, 10])), 3)
        >>> moved = split_merge_proposals((x,), wrong, 1, key=jax.random.key(1))[0]
        >>> sorted(jnp.bincount(moved.argmax(1)).tolist())
        [20, 20, 20]
    """
    num_clusters = shares.shape[1]
    keys = jax.random.split(key, len(parts) + 1)
    narrow = tuple(principal(part, key=k) for part, k in zip(parts, keys[1:], strict=True))
    pool = pooled(narrow, shares)
    floors = floors_of(pool)
    own = log_likelihood(pool.counts, pool.scatters, floors)
    every = jnp.arange(num_clusters)
    merged = jax.lax.map(lambda i: gains(pool, own, i, floors), every)

    tries = jax.random.split(keys[0], num_clusters * TRIES)
    split = jax.lax.map(lambda x: _halves(narrow, shares[:, x[0]], floors, key=x[1]), (jnp.repeat(every, TRIES), tries))
    second, value = (a.reshape(num_clusters, TRIES, *a.shape[1:]) for a in split)
    best = value.argmax(1)
    second, won = second[every, best], value[every, best] - own

    upper = jnp.where(every[:, None] < every, merged, -jnp.inf).ravel()
    cost, pair = jax.lax.top_k(upper, min(_PAIRS * count, num_clusters * (num_clusters - 1) // 2))
    i, j = (index[:, None] for index in jnp.divmod(pair, num_clusters))
    total = jnp.where((i != every) & (j != every), cost[:, None] + won, -jnp.inf)
    ranked = jnp.argsort(-total.ravel())[:count]
    first, third = jnp.divmod(ranked, num_clusters)
    triples = (i[first, 0], j[first, 0], third)
    return jax.lax.map(lambda triple: _moved(shares, second, *triple), triples)


def _moved(shares: Array, second: Array, i: Array, j: Array, k: Array) -> Array:
    both, parting = shares[:, i] + shares[:, j], shares[:, k] * second[k]
    return shares.at[:, i].set(both).at[:, j].set(parting).at[:, k].add(-parting)


def _halves(parts: tuple[Array, ...], weights: Array, floors: tuple[Array, ...], *, key: Array) -> tuple[Array, Array]:
    """Two Gaussians on weighted rows by EM, from two of the rows; the second's share of each row, and f of both."""
    one_key, other_key = jax.random.split(key)
    whole = jnp.concatenate(parts, 1)
    apart = jnp.square(whole - whole[_drawn(one_key, weights)]).sum(1)
    nearer = jnp.square(whole - whole[_drawn(other_key, weights * apart)]).sum(1) < apart

    def sweep(_: int, carry: tuple) -> tuple:
        second, _ = carry
        pool = pooled(parts, jnp.stack([weights * (1.0 - second), weights * second], 1))
        log_weights = log_weights_of(parts, pool, floors)
        return jax.nn.softmax(log_weights, -1)[:, 1], log_likelihood(pool.counts, pool.scatters, floors).sum()

    return jax.lax.fori_loop(0, SWEEPS, sweep, (0.05 + 0.9 * nearer, jnp.zeros(())))


def _drawn(key: Array, weights: Array) -> Array:
    """One row, with probability proportional to its weight."""
    return jnp.searchsorted(jnp.cumsum(weights), jax.random.uniform(key) * weights.sum()).clip(0, weights.shape[0] - 1)
