"""k-means with k-means++ seeding, jitted: what a mixture's first responsibilities come from."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import Array

from vmix.numerics import safe_log

LLOYD_STEPS = 15


def k_means(features: Array, num_clusters: int, *, key: Array) -> Array:
    """Cluster rows by k-means++ seeding (Arthur and Vassilvitskii, 2007) and a few Lloyd steps.

    Args:
        features: shape (N, D), finite.
        num_clusters: K.
        key: randomness.

    Returns:
        Cluster of each row, shape (N,), int32.
    """
    centres = plus_plus_centres(features, num_clusters, key=key)

    def lloyd(_: int, centres: Array) -> Array:
        members = jax.nn.one_hot(nearest(features, centres), num_clusters, dtype=features.dtype)
        counts = members.sum(0)[:, None]
        return jnp.where(counts > 0, members.T @ features / jnp.maximum(counts, 1), centres)

    return nearest(features, jax.lax.fori_loop(0, LLOYD_STEPS, lloyd, centres))


def random_centres(features: Array, num_clusters: int, *, key: Array) -> Array:
    """Assign each row to the nearest of K rows drawn at random; shape (N,), int32."""
    rows = jax.random.choice(key, features.shape[0], (num_clusters,), replace=features.shape[0] < num_clusters)
    return nearest(features, features[rows])


def plus_plus_centres(features: Array, num_clusters: int, *, key: Array) -> Array:
    """Rows drawn one after another with probability proportional to squared distance from the nearest so far.

    Of 2 + log K candidates the one that leaves the rows nearest to their centres is taken (the greedy variant, in the
    implementation notes of Arthur and Vassilvitskii): single draws start in a poor mode far more often.
    """
    num_rows = features.shape[0]
    tries = 2 + int(math.log(num_clusters))
    first = features[jax.random.randint(jax.random.fold_in(key, 0), (), 0, num_rows)]
    centres = jnp.broadcast_to(first, (num_clusters, features.shape[1]))

    def add(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        centres, distance = carry
        # all rows equal to a centre: any row will do
        logits = jnp.where(distance.max() > 0, safe_log(distance), jnp.zeros_like(distance))
        rows = jax.random.categorical(jax.random.fold_in(key, i), logits, shape=(tries,))
        left = jax.lax.map(lambda row: jnp.minimum(distance, _squared(features, features[row])), rows)
        best = jnp.argmin(left.sum(1))
        return centres.at[i].set(features[rows[best]]), left[best]

    start = (centres, _squared(features, first))
    return jax.lax.fori_loop(1, num_clusters, add, start)[0]


def _squared(features: Array, centre: Array) -> Array:
    return jnp.square(features - centre).sum(1)


def nearest(features: Array, centres: Array) -> Array:
    """Index of the nearest centre, by one matrix product; shape (N,), int32."""
    return jnp.argmin(jnp.square(centres).sum(1) - 2.0 * features @ centres.T, axis=1).astype(jnp.int32)
