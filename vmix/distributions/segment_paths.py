"""Paths of semi-Markov chains on arrays: posterior draws, the most probable path, log probability and counts.

The axes are those of `segment_recursions`; a path is `(T, B)`, int32. Runs of equal states are the segments.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vmix.distributions.chain_recursions import sum_over_time
from vmix.distributions.segment_recursions import (
    Segments,
    age_by_one,
    all_beliefs,
    begin,
    leading,
    log_sum,
    within,
)
from vmix.numerics import draw_by_sums


def _draw(log_weights: jax.Array, uniform: jax.Array) -> jax.Array:
    """Draw an entry of `(K, B)` for each of the batch by one uniform `(B,)`; -1 where all are impossible."""
    weights = jnp.exp(log_weights - leading(log_weights))
    return draw_by_sums(weights, uniform)[0]


def _column(array: jax.Array, size: int) -> jax.Array | int:
    return 0 if array.shape[-1] == 1 else jnp.arange(size)


def _into(log_transition: jax.Array, state: jax.Array) -> jax.Array:
    """Return `log_transition[:, state[b], b]` as `(K, B)`."""
    return log_transition[:, state, _column(log_transition, state.shape[0])]


def _ages_of(values: jax.Array, state: jax.Array) -> jax.Array:
    """Return `values[state[b], :, b]` as `(A, B)`; state -1 reads some row."""
    return jnp.take_along_axis(values, jnp.maximum(state, 0)[None, None], axis=0)[0]


def _retrace(carry: tuple, before: tuple, linked: jax.Array | None) -> tuple:
    """Go one step back: to what came before where a segment begins, else to the same state, one step younger."""
    state, age = carry
    begins = age == 0
    new = jnp.where(begins, before[0], state), jnp.where(begins, before[1], age - 1)
    return new if linked is None else tuple(jnp.where(linked, *pair) for pair in zip(new, carry, strict=True))


def _only_present(segments: Segments, path: jax.Array) -> jax.Array:
    return path if segments.present is None else jnp.where(segments.present, path, 0)


def _links(segments: Segments) -> jax.Array | None:
    return None if segments.present is None else segments.present[1:]


def _join(segments: Segments, path: jax.Array, end: jax.Array) -> jax.Array:
    """Add the last step; all -1 where it is impossible, and 0 at absent steps."""
    return _only_present(segments, jnp.where(end < 0, -1, jnp.concatenate([path, end[None]])))


@jax.jit
def sample_posterior(key: jax.Array, segments: Segments, unary: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Draw paths from `p(c | unary)`: filter forward, sample backward. All -1 where no path is possible.

    Returns:
        Paths, and `log sum_c p(c) exp(sum_t unary[t, c_t])` of the filter, shape `(B,)`, nats.
    """
    segments = within(segments, unary.shape[0])
    beliefs, total = all_beliefs(segments, unary)
    uniform = jax.random.uniform(key, (unary.shape[0], 2, unary.shape[-1]), unary.dtype)

    def step(carry: tuple, inputs: tuple) -> tuple:
        belief, linked, uniform = inputs
        leaving = belief + segments.log_duration
        state = _draw(log_sum(leaving, 1) + _into(segments.log_transition, carry[0]), uniform[0])
        carry = _retrace(carry, (state, _draw(_ages_of(leaving, state), uniform[1])), linked)
        return carry, carry[0]

    last = beliefs[-1] + segments.log_tail
    end = _draw(log_sum(last, 1), uniform[-1, 0])
    carry = end, _draw(_ages_of(last, end), uniform[-1, 1])
    path: jax.Array = jax.lax.scan(step, carry, (beliefs[:-1], _links(segments), uniform[:-1]), reverse=True)[1]
    return _join(segments, path, end), total


@jax.jit
def mode(segments: Segments, unary: jax.Array) -> jax.Array:
    """Return the most probable path (Viterbi); all -1 where no path is possible."""
    segments = within(segments, unary.shape[0])

    def forward(best: jax.Array, inputs: tuple) -> tuple:
        here, linked = inputs
        leaving = best + segments.log_duration
        scores = jnp.max(leaving, axis=1)[:, None] + segments.log_transition
        state = jnp.argmax(scores, axis=0).astype(jnp.int32)
        age = jnp.take_along_axis(jnp.argmax(leaving, axis=1).astype(jnp.int32), state, axis=0)
        new = age_by_one(best, jnp.max(scores, axis=0), here)
        # each step's best is moved to 0, or a long chain's sum would lose digits
        new = new - leading(new)
        return (new if linked is None else jnp.where(linked, new, best)), (state, age)

    def backward(carry: tuple, inputs: tuple) -> tuple:
        origin, linked = inputs
        before = tuple(jnp.take_along_axis(array, carry[0][None], axis=0)[0] for array in origin)
        carry = _retrace(carry, before, linked)
        return carry, carry[0]

    scanned: tuple[jax.Array, tuple] = jax.lax.scan(forward, begin(segments, unary), (unary[1:], _links(segments)))
    best, origins = scanned
    last = best + segments.log_tail
    flat = last.reshape(-1, last.shape[-1])
    end, age = jnp.divmod(jnp.argmax(flat, axis=0).astype(jnp.int32), last.shape[1])
    path: jax.Array = jax.lax.scan(backward, (end, age), (origins, _links(segments)), reverse=True)[1]
    return _join(segments, path, jnp.where(jnp.isneginf(jnp.max(flat, axis=0)), -1, end))


class _Last(NamedTuple):
    """The last segment: its state and how many steps of it were seen, `(B,)` each."""

    state: jax.Array
    seen: jax.Array


def _complete(segments: Segments, path: jax.Array) -> tuple[jax.Array, _Last]:
    """Return the log probability without the last segment's duration, `(B,)`, and that segment.

    Linear in the log parameters, so that its gradient with respect to them is the counts.
    """
    num_steps, size = path.shape
    time = jnp.arange(num_steps, dtype=jnp.int32)[:, None]
    moves = path[1:] != path[:-1]
    starts = jnp.concatenate([jnp.zeros_like(path[:1]), jnp.where(moves, time[1:], 0)])
    lasted = time - jax.lax.cummax(starts, axis=0) + 1
    ends = jnp.full((size,), num_steps - 1)
    if segments.present is not None:
        moves = moves & segments.present[1:]
        ends = jnp.maximum(jnp.sum(segments.present, axis=0) - 1, 0)
    move = segments.log_transition[path[:-1], path[1:], _column(segments.log_transition, size)]
    duration = _at(segments.log_duration, path[:-1], lasted[:-1])
    first = segments.log_initial[path[0], _column(segments.log_initial, size)]
    last = _Last(*(jnp.take_along_axis(array, ends[None], axis=0)[0] for array in (path, lasted)))
    return first + sum_over_time(jnp.where(moves, move + duration, 0)), last


def _at(table: jax.Array, state: jax.Array, steps: jax.Array) -> jax.Array:
    """Return `table[state, steps - 1]`, minus infinity beyond the longest duration; the shape of `state`."""
    longest = table.shape[1]
    found = table[state, jnp.minimum(steps, longest) - 1, _column(table, state.shape[-1])]
    return jnp.where(steps <= longest, found, -jnp.inf)


def _exists(segments: Segments, total: jax.Array) -> jax.Array:
    return total if segments.present is None else jnp.where(segments.present[0], total, 0)


@jax.jit
def log_probability(segments: Segments, path: jax.Array) -> jax.Array:
    """Return the log probability of paths `(T, B)`, shape `(B,)`, nats; the last segment counts by its tail."""
    complete, last = _complete(segments, path)
    return _exists(segments, complete + _at(segments.log_tail, *last))


@jax.jit
def counts(segments: Segments, path: jax.Array, key: jax.Array | None) -> Segments:
    """Count first states, moves and durations in paths, in the places and shapes of the parameters.

    Args:
        segments: The parameters; only the last segment's duration is read of them.
        path: States, shape `(T, B)`; a path of -1 counts nowhere.
        key: To draw the duration of the last segment, which is at least what was seen of it; None takes its
            expectation.
    """
    last = _complete(segments, path)[1]
    log_duration = jnp.broadcast_to(segments.log_duration, (*segments.log_duration.shape[:-1], path.shape[-1]))
    longer = jnp.arange(1, log_duration.shape[1] + 1)[:, None] >= last.seen
    weights = jnp.where(longer, _ages_of(log_duration, last.state), -jnp.inf)
    if key is None:
        shares = jnp.exp(weights - leading(weights))
        shares = shares / jnp.maximum(jnp.sum(shares, axis=0), 1)
    else:
        drawn = _draw(weights, jax.random.uniform(key, last.state.shape, weights.dtype))
        shares = jax.nn.one_hot(drawn, weights.shape[0], dtype=weights.dtype, axis=0)

    def total(parameters: Segments) -> jax.Array:
        complete = _complete(parameters, path)[0]
        durations = parameters.log_duration[last.state, :, _column(parameters.log_duration, path.shape[-1])]
        every = _exists(parameters, complete + jnp.sum(shares.T * durations, axis=-1))
        return jnp.sum(jnp.where(path[0] < 0, 0, every))

    zeros = jax.tree.map(jnp.zeros_like, segments._replace(present=None))
    return jax.grad(lambda parameters: total(parameters._replace(present=segments.present)))(zeros)
