"""Array functions that keep log space exact: minus infinity means impossible and stays minus infinity."""

import itertools

import jax
import jax.numpy as jnp

# Entries up to which cumulative sums are written out one by one: one fused loop over the columns.
WRITTEN_OUT = 32


def safe_log(p: jax.Array) -> jax.Array:
    """Return `log p`, with exactly minus infinity and a zero gradient where `p = 0`.

    `jnp.log` has an infinite derivative at 0, and infinity times the zero that follows in the chain rule is NaN.

    Args:
        p: Probabilities or other non-negative numbers, any shape.

    Returns:
        Logarithms in nats, the shape of `p`; NaN where `p < 0`.

    Example:
        >>> float(safe_log(jnp.array(0.0))), float(jax.grad(safe_log)(0.0))
        (-inf, 0.0)
    """
    p = jnp.asarray(p)
    impossible = p == 0
    return jnp.where(impossible, -jnp.inf, jnp.log(jnp.where(impossible, 1, p)))


def log_normalise(log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalise log weights over the last axis: `log w_k - log sum_j w_j`.

    Args:
        log_weights: Unnormalised log weights, shape `(..., K)`; minus infinity for an impossible entry.

    Returns:
        `(normalised, log_total)`: log probabilities of shape `(..., K)` and the log of each row's sum of shape
        `(...,)`, in nats. A row of minus infinities gives minus infinities and a total of minus infinity, and no NaN
        in either, nor in their gradients.

    Example:
        >>> normalised, log_total = log_normalise(jnp.array([0.0, -jnp.inf]))
        >>> normalised.tolist(), float(log_total)
        ([0.0, -inf], 0.0)
    """
    top = jax.lax.stop_gradient(jnp.max(log_weights, axis=-1, keepdims=True))
    top = jnp.where(jnp.isneginf(top), 0, top)
    possible = ~jnp.isneginf(log_weights)
    shifted = jnp.where(possible, log_weights, 0) - top
    total = top + safe_log(jnp.sum(jnp.where(possible, jnp.exp(jnp.where(possible, shifted, 0)), 0), -1, keepdims=True))
    # the inner `where` keeps minus infinity minus minus infinity out of the backward pass as well
    finite_total = jnp.where(jnp.isneginf(total), 0, total)
    normalised = jnp.where(possible, jnp.where(possible, log_weights, 0) - finite_total, -jnp.inf)
    return normalised, jnp.squeeze(total, -1)


def responsibilities(log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Normalise log weights over the last axis, with one exponential an entry: `w_k / sum_j w_j` and the log total.

    Args:
        log_weights: Unnormalised log weights, shape `(..., K)`; minus infinity for an impossible entry.

    Returns:
        `(probabilities, log_total)`: shapes `(..., K)` and `(...,)`, the total in nats. A row of minus infinities gives
        zeros and minus infinity, and no NaN in the gradient of the total.

    Example:
        >>> probabilities, log_total = responsibilities(jnp.array([0.0, -jnp.inf]))
        >>> probabilities.tolist(), float(log_total)
        ([1.0, 0.0], 0.0)
    """
    top = jax.lax.stop_gradient(jnp.max(log_weights, axis=-1, keepdims=True))
    weights = jnp.exp(log_weights - jnp.where(jnp.isneginf(top), 0, top))
    total = jnp.sum(weights, axis=-1, keepdims=True)
    log_total = jnp.where(jnp.isneginf(top), 0, top) + safe_log(total)
    return weights / jnp.where(total > 0, total, 1), jnp.squeeze(log_total, -1)


def sample_categorical(key: jax.Array, log_weights: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw one index per row with probability proportional to `exp(log_weights)`, and tell the log of the row's sum.

    One exponential an entry and one uniform a row: many times faster on a CPU than `jax.random.categorical`, which
    needs one Gumbel variable for every entry.

    Args:
        key: JAX random key.
        log_weights: Unnormalised log weights, shape `(N, K)`; minus infinity for an impossible entry.

    Returns:
        `(indices, log_total)`: shape `(N,)`, int32, and shape `(N,)`, nats. An entry whose weight is zero, also one
        that underflows beside the row's largest, is never drawn. A row that names no distribution (all minus infinity,
        or a NaN in it) gives -1, for which `jax.nn.one_hot` is a row of zeros; its total is minus infinity, or NaN.

    Raises:
        ValueError: `log_weights` is not two-dimensional.

    Example:
        >>> drawn, _ = sample_categorical(jax.random.key(0), jnp.array([[-jnp.inf, 0.0], [3.0, -jnp.inf]]))
        >>> drawn.tolist()
        [1, 0]
    """
    if log_weights.ndim != 2:
        raise ValueError(
            f"log_weights has shape {log_weights.shape}; sample_categorical needs (N, K), one row a draw: "
            "reshape it first"
        )
    # entries in front: a reduction over a few entries is slow on a CPU where they are the innermost axis
    columns = log_weights.T
    top = jnp.max(columns, axis=0, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0, top)
    weights = jnp.exp(columns - top)
    drawn, total = draw_by_sums(weights, jax.random.uniform(key, columns.shape[1:], weights.dtype))
    return drawn, top[0] + jnp.log(total)


def draw_by_sums(weights: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw an entry of each column by one uniform number and cumulative sums; never one of weight zero.

    Args:
        weights: Non-negative, shape `(K, N)`; a column may be NaN as a whole.
        uniform: In [0, 1), shape `(N,)`.

    Returns:
        `(entries, totals)`, shape `(N,)` each: int32, -1 where all weights are zero or NaN; and the sums of columns.
    """
    num_entries = weights.shape[0]
    if num_entries <= WRITTEN_OUT:
        # one fused loop over the columns; the last possible entry is where rounding may end
        sums = list(itertools.accumulate(weights))
        threshold = uniform * sums[-1]
        drawn = jnp.full(uniform.shape, -1, jnp.int32)
        for k in range(num_entries):
            drawn = jnp.where(weights[k] > 0, k, drawn)
        for k in reversed(range(num_entries)):
            drawn = jnp.where((weights[k] > 0) & (sums[k] > threshold), k, drawn)
        return drawn, sums[-1]
    below = jnp.tril(jnp.ones((num_entries, num_entries), weights.dtype))
    # an accelerator's default precision would round the weights to 10 bits
    cumulative = jnp.matmul(below, weights, precision=jax.lax.Precision.HIGHEST)
    entries = jnp.arange(num_entries, dtype=jnp.int32)[:, None]
    possible = weights > 0
    # the matrix product may round two equal sums differently, so the last possible entry is a limit, not a consequence
    last = jnp.max(jnp.where(possible, entries, -1), axis=0)
    threshold = (uniform * cumulative[-1])[None]
    drawn = jnp.min(jnp.where(possible & (cumulative > threshold), entries, num_entries), axis=0)
    return jnp.minimum(drawn, last), cumulative[-1]


def cholesky_if_definite(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Factor symmetric matrices, and say which of them are positive definite to rounding.

    A pivot that is lost in the rounding of its diagonal entry counts as zero, so the answer does not depend on the
    units of the rows.

    Args:
        matrix: Symmetric matrices, shape `(..., D, D)`.

    Returns:
        `(factor, definite)`: lower Cholesky factors of shape `(..., D, D)`, the identity where a matrix is not
        positive definite, and a Boolean of shape `(...,)`.

    Example:
        >>> cholesky_if_definite(jnp.array([[[4.0]], [[0.0]]]))[1].tolist()
        [True, False]
    """
    size = matrix.shape[-1]
    factor = jnp.linalg.cholesky(matrix)
    pivots = jnp.square(jnp.diagonal(factor, axis1=-2, axis2=-1))
    diagonal = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    threshold = 4 * size * jnp.finfo(matrix.dtype).eps
    definite = jnp.all(pivots > threshold * diagonal, axis=-1) & jnp.all(jnp.isfinite(factor), axis=(-2, -1))
    identity = jnp.broadcast_to(jnp.eye(size, dtype=matrix.dtype), matrix.shape)
    return jnp.where(definite[..., None, None], factor, identity), definite
