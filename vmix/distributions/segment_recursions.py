"""Recursions of semi-Markov chains on arrays, over states and the steps that they have lasted (their ages).

The axes are those of `chain_recursions`: time, states, ages, and one batch axis `B` at the end. A step costs
`K (K + A)` for `K` states and `A` ages, at most the longest duration and the number of steps. All of it runs on
logarithms, in nats, because durations and moves have exact zeros.

Source: Yu (2010), Hidden semi-Markov models, section 2.2; here a segment that the end cuts off counts by the
probability that it lasts at least as long.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vmix.distributions.chain_recursions import sum_over_time
from vmix.numerics import safe_log


class Segments(NamedTuple):
    """The log parameters of semi-Markov chains, in nats; minus infinity is impossible, exactly.

    Attributes:
        log_initial: `log p(first state is k)` at [k, b], shape `(K, 1)`, shared, or `(K, B)`.
        log_transition: `log p(next state is j | k)` at [k, j, b], shape `(K, K, 1)` or `(K, K, B)`.
        log_duration: `log p(k lasts a + 1 steps)` at [k, a, b], shape `(K, D, 1)` or `(K, D, B)`.
        log_tail: `log p(k lasts at least a + 1 steps)`, the shape of `log_duration`.
        present: Whether a step exists, shape `(T, B)`, a prefix in time; None where every step does.
    """

    log_initial: jax.Array
    log_transition: jax.Array
    log_duration: jax.Array
    log_tail: jax.Array
    present: jax.Array | None = None


def log_sum(terms: jax.Array, axis: int) -> jax.Array:
    """Return the log of the sum of exponentials; minus infinity, with zero gradients, where all are impossible."""
    top = jnp.max(jax.lax.stop_gradient(terms), axis=axis, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0, top)
    return jnp.squeeze(top, axis) + safe_log(jnp.sum(jnp.exp(terms - top), axis=axis))


def log_tail(log_duration: jax.Array) -> jax.Array:
    """Return `log sum_{e >= d} exp(log_duration[k, e])` at [k, d], the shape of the argument, `(K, D, B)`."""

    def step(later: jax.Array, here: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = log_sum(jnp.stack([later, here]), 0)
        return total, total

    by_duration = jnp.moveaxis(log_duration, 1, 0)
    tails: jax.Array = jax.lax.scan(step, jnp.full_like(by_duration[0], -jnp.inf), by_duration, reverse=True)[1]
    return jnp.moveaxis(tails, 0, 1)


def within(segments: Segments, num_steps: int) -> Segments:
    """Leave out durations that no complete segment of `num_steps` steps can have; the tails still count them."""
    return segments._replace(
        log_duration=segments.log_duration[:, :num_steps], log_tail=segments.log_tail[:, :num_steps]
    )


def leading(values: jax.Array) -> jax.Array:
    """Return the largest entry for each of the batch, `(..., B)` to `(B,)`, 0 where all are impossible; a constant.

    What is subtracted to keep numbers small is added again, so that its gradient would be rounding error.
    """
    top = jnp.max(jax.lax.stop_gradient(values), axis=tuple(range(values.ndim - 1)))
    return jnp.where(jnp.isneginf(top), 0, top)


def begin(segments: Segments, unary: jax.Array) -> jax.Array:
    """Return the log potentials of the first step: age one for sure; shape `(K, A, B)`."""
    first = (segments.log_initial + unary[0])[:, None]
    ages = segments.log_duration.shape[1]
    return jnp.pad(first, ((0, 0), (0, ages - 1), (0, 0)), constant_values=-jnp.inf)


def age_by_one(belief: jax.Array, entering: jax.Array, here: jax.Array) -> jax.Array:
    """Move the ages on, let new segments enter `(K, B)`, and weigh by the evidence `(K, B)`."""
    return jnp.concatenate([entering[:, None], belief[:, :-1]], axis=1) + here[:, None]


def _forward(segments: Segments, unary: jax.Array, *, keep: bool) -> tuple[jax.Array, jax.Array, Any]:
    """Filter forward.

    Returns:
        `log p(c_T = k, age, unary)` up to what was taken out, `(K, A, B)`; what was taken out, `(T, B)`; if `keep` the
        beliefs of the steps before the last, `(T-1, K, A, B)`, else None.
    """

    def step(belief: jax.Array, inputs: tuple) -> tuple:
        here, present = inputs
        leaving = log_sum(belief + segments.log_duration, 1)
        new = age_by_one(belief, log_sum(leaving[:, None] + segments.log_transition, 0), here)
        top = leading(new)
        new = new - top
        if present is not None:
            new, top = jnp.where(present, new, belief), jnp.where(present, top, 0)
        return new, (top, belief if keep else None)

    first = begin(segments, unary)
    top = leading(first)
    later = None if segments.present is None else segments.present[1:]
    # the reverse pass keeps one belief a step and computes the rest again
    last, (tops, kept) = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), first - top, (unary[1:], later))
    return last, jnp.concatenate([top[None], tops]), kept


@jax.jit
def log_normalizer(segments: Segments, unary: jax.Array) -> jax.Array:
    """Return `log sum_c p(c) exp(sum_t unary[t, c_t])`, shape `(B,)`, nats; 0 for a sequence without steps.

    Its gradient is the posterior: marginals for `unary`, and for the log parameters expected counts, those of
    durations with the last segment's spread over all that it may yet have.
    """
    segments = within(segments, unary.shape[0])
    last, tops, _ = _forward(segments, unary, keep=False)
    return _total(segments, last, tops)


def _total(segments: Segments, last: jax.Array, tops: jax.Array) -> jax.Array:
    """Return the log-normaliser, shape `(B,)`, from what `_forward` returns."""
    end = last + segments.log_tail
    total = sum_over_time(tops) + log_sum(end.reshape(-1, end.shape[-1]), 0)
    return total if segments.present is None else jnp.where(segments.present[0], total, 0)


@jax.jit
def filtered(segments: Segments, unary: jax.Array) -> jax.Array:
    """Return `p(c_t = k | unary_1..t)`, shape `(T, K, B)`; zeros where nothing is possible."""
    segments = within(segments, unary.shape[0])
    beliefs, _ = all_beliefs(segments, unary)
    states = log_sum(beliefs + segments.log_tail[None], 2)
    weights = jnp.exp(states - jax.vmap(leading)(states)[:, None])
    total = jnp.sum(weights, axis=1, keepdims=True)
    return weights / jnp.where(total > 0, total, 1)


def all_beliefs(segments: Segments, unary: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Filter forward, for durations cut by `within`.

    Returns:
        `log p(c_t = k, age, unary_1..t)` up to a factor a step, `(T, K, A, B)`, and the log-normaliser, `(B,)`, nats.
    """
    last, tops, kept = _forward(segments, unary, keep=True)
    return jnp.concatenate([kept, last[None]]), _total(segments, last, tops)
