"""Paths of Markov chains on arrays: posterior and prior draws, the most probable path, a path's log probability.

The axes are those of `chain_recursions`: time, states, batch; a path is `(T, B)`, int32.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from vmix.distributions.chain_recursions import (
    LOG,
    Arithmetic,
    Chain,
    Messages,
    run,
    runs_associative,
    sum_over_time,
)
from vmix.numerics import draw_by_sums


def _columns(matrix: jax.Array, state: jax.Array) -> jax.Array:
    """Return `matrix[:, state[b], b]` as `(K, B)`; state -1 reads some column."""
    state = jnp.maximum(state, 0)
    return matrix[:, state, 0 if matrix.shape[-1] == 1 else jnp.arange(state.shape[0])]


def _matrices(matrices: jax.Array) -> tuple[Any, Any]:
    """Split off what a scan over steps takes as input; the other is shared."""
    return (matrices, None) if matrices.ndim == 4 else (None, matrices)


def _follow(origins: jax.Array, end: jax.Array) -> jax.Array:
    """The path to `end` where every step's state is a function of the next one's: functions composed in pairs.

    Args:
        origins: State of each step given that the next one's is k, shape `(T - 1, K, B)`; -1 is no state.
        end: Last state, shape `(B,)`.

    Returns:
        States of all steps but the last, shape `(T - 1, B)`, int32.
    """

    def compose(later: jax.Array, earlier: jax.Array) -> jax.Array:
        return jnp.where(later < 0, -1, jnp.take_along_axis(earlier, jnp.maximum(later, 0), axis=-2))

    composed = jax.lax.associative_scan(compose, origins, reverse=True)
    path = jnp.take_along_axis(composed, jnp.maximum(end, 0)[None, None], axis=1)[:, 0]
    return jnp.where(end < 0, -1, path)


def _only_present(chain: Chain, path: jax.Array) -> jax.Array:
    return path if chain.present is None else jnp.where(chain.present, path, 0)


@functools.partial(jax.jit, static_argnames="method")
def sample_posterior(key: jax.Array, chain: Chain, unary: jax.Array, method: str) -> tuple[jax.Array, jax.Array]:
    """Draw paths from `p(c | unary)`: filter forward, sample backward. All -1 where no path is possible.

    Returns:
        Paths, and `log sum_c p(c) exp(sum_t unary[t, c_t])` of the filter, shape `(B,)`, nats.
    """
    uniform = jax.random.uniform(key, (unary.shape[0], unary.shape[-1]), unary.dtype)
    links = None if chain.present is None else chain.present[1:]

    def backward(arithmetic: Arithmetic, messages: Messages, total: jax.Array) -> tuple[jax.Array, jax.Array]:
        beliefs = arithmetic.times(messages.evidence, messages.forward)
        matrices = chain.log_transition if arithmetic is LOG else jnp.exp(chain.log_transition)
        end = draw_by_sums(arithmetic.in_proportion(beliefs[-1]), uniform[-1])[0]
        if runs_associative(method, unary.shape):
            weights = arithmetic.times(beliefs[:-1, :, None], matrices)
            weights = weights if links is None else jnp.where(links[:, None, None], weights, beliefs[:-1, :, None])
            weights = arithmetic.in_proportion(jnp.swapaxes(weights, 1, 2))
            origins = jax.vmap(jax.vmap(draw_by_sums, in_axes=(0, None)))(weights, uniform[:-1])[0]
            return jnp.concatenate([_follow(origins, end), end[None]]), total
        each, shared = _matrices(matrices)

        def step(after: jax.Array, inputs: tuple) -> tuple:
            belief, matrix, linked, uniform = inputs
            weights = arithmetic.times(belief, _columns(shared if matrix is None else matrix, after))
            weights = weights if linked is None else jnp.where(linked, weights, belief)
            state = draw_by_sums(arithmetic.in_proportion(weights), uniform)[0]
            return state, state

        path: jax.Array = jax.lax.scan(step, end, (beliefs[:-1], each, links, uniform[:-1]), reverse=True)[1]
        return jnp.concatenate([path, end[None]]), total

    path, total = run(chain, unary, method, backward, both=False)
    path = _only_present(chain, path)
    # what the filter rules out late may look possible early
    return jnp.where(jnp.any(path < 0, axis=0), _only_present(chain, jnp.full_like(path, -1)), path), total


@functools.partial(jax.jit, static_argnames=("num_steps", "batch"))
def sample_prior(key: jax.Array, chain: Chain, *, num_steps: int, batch: int) -> jax.Array:
    """Draw paths from the prior."""
    uniform = jax.random.uniform(key, (num_steps, batch), chain.log_initial.dtype)
    each, shared = _matrices(jnp.swapaxes(LOG.in_proportion(chain.log_transition), -2, -3))

    def step(before: jax.Array, inputs: tuple) -> tuple:
        matrix, uniform = inputs
        state = draw_by_sums(_columns(shared if matrix is None else matrix, before), uniform)[0]
        return state, state

    first = jnp.broadcast_to(chain.log_initial, (chain.log_initial.shape[0], batch))
    start = draw_by_sums(LOG.in_proportion(first), uniform[0])[0]
    path: jax.Array = jax.lax.scan(step, start, (each, uniform[1:]))[1]
    return _only_present(chain, jnp.concatenate([start[None], path]))


@jax.jit
def mode(chain: Chain, unary: jax.Array) -> jax.Array:
    """Return the most probable path (Viterbi); all -1 where no path is possible, the lowest states among equals."""
    each, shared = _matrices(chain.log_transition)
    states = jnp.arange(unary.shape[1], dtype=jnp.int32)[:, None]

    def forward(best: jax.Array, inputs: tuple) -> tuple:
        here, matrix, linked = inputs
        scores = best[:, None, :] + (shared if matrix is None else matrix)
        new, origin = jnp.max(scores, axis=0) + here, jnp.argmax(scores, axis=0).astype(jnp.int32)
        # each step's best is moved to 0, or a long chain's sum would lose digits
        top = jnp.max(new, axis=0)
        new = new - jnp.where(jnp.isneginf(top), 0, top)
        if linked is None:
            return new, origin
        return jnp.where(linked, new, best), jnp.where(linked, origin, states)

    def backward(after: jax.Array, origin: jax.Array) -> tuple:
        state = jnp.take_along_axis(origin, after[None], axis=0)[0]
        return state, state

    links = None if chain.present is None else chain.present[1:]
    best = chain.log_initial + unary[0]
    scanned: tuple[jax.Array, jax.Array] = jax.lax.scan(forward, best, (unary[1:], each, links))
    best, origins = scanned
    end = jnp.argmax(best, axis=0).astype(jnp.int32)
    path: jax.Array = jax.lax.scan(backward, end, origins, reverse=True)[1]
    path = jnp.where(jnp.isneginf(jnp.max(best, axis=0)), -1, jnp.concatenate([path, end[None]]))
    return _only_present(chain, path)


@jax.jit
def log_probability(chain: Chain, path: jax.Array) -> jax.Array:
    """Return `log p(c_1) + sum_t log p(c_{t+1} | c_t)` of paths `(T, B)`: shape `(B,)`, nats.

    Linear in the chain's two log parameters: its gradient with respect to them is the path's counts.
    """

    def column(array: jax.Array) -> jax.Array | int:
        return 0 if array.shape[-1] == 1 else jnp.arange(path.shape[-1])

    first = chain.log_initial[path[0], column(chain.log_initial)]
    time = (jnp.arange(path.shape[0] - 1)[:, None],) if chain.log_transition.ndim == 4 else ()
    moves = chain.log_transition[(*time, path[:-1], path[1:], column(chain.log_transition))]
    if chain.present is not None:
        first = jnp.where(chain.present[0], first, 0)
        moves = jnp.where(chain.present[1:], moves, 0)
    return first + sum_over_time(moves)
