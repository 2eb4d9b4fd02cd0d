"""Forward and backward recursions of Markov chains on arrays: what the past and the future say at each step.

A batch is one axis `B`. Time leads and states come before the batch, `unary[t, k, b]`: sums over states then run over
long rows. `unary` holds log potentials of the states, in nats, 0 at absent steps. Axes of size one are kept out of
large arrays: XLA reduces those with such an axis 40 times more slowly on a CPU, and a step with one in front takes
three times as long.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vmix.numerics import safe_log

# measured on an H100: a sequential step takes 11 us however wide; the associative form 0.4 ms, and 19 ps for each of
# the T B K^3 terms. The last is for memory: it holds several arrays of T B K^2 numbers.
SHORTEST_ASSOCIATIVE, WIDEST_ASSOCIATIVE, LARGEST_ASSOCIATIVE = 64, 1 << 18, 1 << 27
# multiplications of a step from which a matrix product is the faster sum on a CPU; below, up to six times the slower
LEAST_PRODUCT = 16_384


class Chain(NamedTuple):
    """The log parameters of Markov chains, in nats; minus infinity is impossible, exactly.

    Attributes:
        log_initial: `log p(c_1 = k)` at [k, b], shape `(K, 1)`, shared, or `(K, B)`.
        log_transition: `log p(c_{t+1} = j | c_t = i)` at [i, j, b], shape `(K, K, 1)` or `(K, K, B)`; with the
            moves in front, `(T-1, K, K, 1)` or `(T-1, K, K, B)`, if it varies in time.
        present: Whether a step exists, shape `(T, B)`, a prefix in time; None where every step does.
    """

    log_initial: jax.Array
    log_transition: jax.Array
    present: jax.Array | None = None


class Messages(NamedTuple):
    """What passes along a chain; numbers if `scaled`, else their logarithms; `(T, K, B)` each.

    Attributes:
        evidence: `exp(unary_t)` up to a factor; the initial probabilities are part of the first.
        forward: `p(c_t | unary_1..t-1)`, the prediction; ones at the first step and at absent ones.
        backward: `p(unary_t+1..T | c_t)` up to a factor, ones at the last step; None if not asked for.
        scaled: Boolean scalar.
    """

    evidence: jax.Array
    forward: jax.Array
    backward: jax.Array | None
    scaled: jax.Array


class Arithmetic(NamedTuple):
    """Sums and products over states of plain numbers, or of their logarithms."""

    one: float
    times: Callable  # product
    over: Callable  # (..., K, B) by (..., B); unchanged where the divisor is 0
    total: Callable  # (..., K, B) -> (..., B)
    move: Callable  # (..., K, B), (..., K, K, B) -> (..., K, B): sum_i v_i M_ij
    to_log: Callable
    to_number: Callable
    in_proportion: Callable  # (..., K, B) -> numbers in the same proportions, none so small that all vanish


def _log_sum(terms: jax.Array, axis: int) -> jax.Array:
    top = jnp.max(terms, axis=axis, keepdims=True)
    top = jnp.where(jnp.isneginf(top), 0, top)
    return jnp.squeeze(top, axis) + safe_log(jnp.sum(jnp.exp(terms - top), axis=axis))


def _log_move(vector: jax.Array, matrix: jax.Array) -> jax.Array:
    return _log_sum(vector[..., :, None, :] + matrix, -3)


def _log_over(x: jax.Array, total: jax.Array) -> jax.Array:
    return x - jnp.where(jnp.isneginf(total), 0, total)[..., None, :]


def _log_total(x: jax.Array) -> jax.Array:
    return _log_sum(x, -2)


def _move(vector: jax.Array, matrix: jax.Array) -> jax.Array:
    num_states, batch = vector.shape[-2:]
    if matrix.shape[-1] == 1 and num_states**2 * batch >= LEAST_PRODUCT:
        return jnp.einsum("...ib,...ij->...jb", vector, matrix[..., 0], precision=jax.lax.Precision.HIGHEST)
    return jnp.sum(vector[..., :, None, :] * matrix, axis=-3)


def _log_in_proportion(x: jax.Array) -> jax.Array:
    top = jnp.max(x, axis=-2, keepdims=True)
    return jnp.exp(x - jnp.where(jnp.isneginf(top), 0, top))


def _over(x: jax.Array, total: jax.Array) -> jax.Array:
    return x / jnp.where(total == 0, 1, total)[..., None, :]


def _total(x: jax.Array) -> jax.Array:
    return jnp.sum(x, axis=-2)


def _same(x: jax.Array) -> jax.Array:
    return x


SCALED = Arithmetic(1.0, jnp.multiply, _over, _total, _move, safe_log, to_number=_same, in_proportion=_same)
LOG = Arithmetic(0.0, jnp.add, _log_over, _log_total, _log_move, _same, jnp.exp, in_proportion=_log_in_proportion)


@jax.custom_batching.custom_vmap
def in_any(condition: jax.Array) -> jax.Array:
    """Return a Boolean scalar, under `vmap` whether it holds anywhere in the batch: one branch of a `cond` for all."""
    return condition


@in_any.def_vmap
def _in_any_of_all(axis_size: int, in_batched: list, condition: jax.Array) -> tuple:
    return jnp.any(condition), False


def scaling_is_exact(log_transition: jax.Array) -> jax.Array:
    """Say whether no underflow of the scaled recursions can lose a path that matters.

    Let every transition be at least `m`. A prediction is then at least `m` everywhere, and so is the largest of its
    products with the evidence, whose maximum is 1. A state lost because its product falls below the smallest number
    `tiny` had a share below `tiny / m` of the filter; it adds less than that to any successor, where the leading state
    adds at least `m / K`. So the relative error is below `K tiny / m^2`; backward likewise. This is kept below the
    rounding error `eps`. With one smaller transition the lost state may be the only one that explains the future.

    Args:
        log_transition: Shape `(..., K, K, B)`, nats.

    Returns:
        Boolean scalar; under `vmap` one for the whole batch, so that a `cond` on it stays a branch there.
    """
    precision = jnp.finfo(log_transition.dtype)
    threshold = 0.5 * (jnp.log(precision.tiny) - jnp.log(precision.eps) + jnp.log(log_transition.shape[-2]))
    return ~in_any(~(jnp.min(log_transition, initial=jnp.inf) > threshold))


def runs_associative(method: str, shape: tuple[int, ...]) -> bool:
    """Choose the form of the recursions for this device and these sizes.

    The associative form does `K` times the work in `log T` rounds. On a CPU it loses 3 to 18 times; an accelerator
    gains where a step leaves it idle and steps are many. It always works on logarithms.
    """
    if method != "auto":
        return method == "associative"
    num_steps, num_states, batch = shape
    fits = batch * num_states**3 <= WIDEST_ASSOCIATIVE and num_steps * batch * num_states**2 <= LARGEST_ASSOCIATIVE
    return jax.default_backend() != "cpu" and num_steps >= SHORTEST_ASSOCIATIVE and fits


def _evidence(chain: Chain, unary: jax.Array, arithmetic: Arithmetic) -> tuple[jax.Array, jax.Array]:
    """Return the evidence `(T, K, B)` and the logarithms taken out of it, `(T, B)`."""
    is_first = jnp.arange(unary.shape[0])[:, None, None] == 0
    unary = unary + jnp.where(is_first, chain.log_initial[None], 0)
    if arithmetic is LOG:
        return unary, jnp.zeros_like(unary[:, 0])
    top = jnp.max(unary, axis=1)
    top = jnp.where(jnp.isneginf(top), 0, top)
    return jnp.exp(unary - top[:, None]), top


def _advance(arithmetic: Arithmetic, vector: jax.Array, matrix: jax.Array, linked: jax.Array | None) -> jax.Array:
    """Move `evidence times message` one step, and normalise; ones where the step is absent."""
    message = arithmetic.over(arithmetic.move(vector, matrix), arithmetic.total(vector))
    return message if linked is None else jnp.where(linked[..., None, :], message, arithmetic.one)


def _sequential(chain: Chain, arithmetic: Arithmetic, evidence: jax.Array, *, both: bool) -> tuple:
    """Scan over time; `(forward, backward)` messages, `(T, K, B)` each, the latter None unless `both`.

    The two directions are two scans: stacked in one they are a sixth faster at a hundred sequences, 1.6 times slower at
    one.
    """
    ones = jnp.full_like(evidence[:1], arithmetic.one)
    if evidence.shape[0] == 1:
        return ones, ones if both else None
    links = None if chain.present is None else chain.present[1:]
    matrices = chain.log_transition if arithmetic is LOG else jnp.exp(chain.log_transition)

    def messages(evidence: jax.Array, matrices: jax.Array, *, reverse: bool) -> jax.Array:
        each = matrices if matrices.ndim == 4 else None

        def step(message: jax.Array, inputs: tuple) -> tuple:
            evidence, matrix, linked = inputs
            vector = arithmetic.times(evidence, message)
            message = _advance(arithmetic, vector, matrices if matrix is None else matrix, linked)
            return message, message

        found: jax.Array = jax.lax.scan(step, ones[0], (evidence, each, links), reverse=reverse)[1]
        return found

    forward = jnp.concatenate([ones, messages(evidence[:-1], matrices, reverse=False)])
    if not both:
        return forward, None
    return forward, jnp.concatenate([messages(evidence[1:], jnp.swapaxes(matrices, -2, -3), reverse=True), ones])


def _log_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Multiply matrices of logarithms, `(..., K, K, B)`, up to a factor: it would cost a long chain its digits."""
    product = _log_sum(a[..., :, :, None, :] + b[..., None, :, :, :], -3)
    top = jnp.max(product, axis=(-3, -2), keepdims=True)
    return product - jnp.where(jnp.isneginf(top), 0, top)


def _associative(chain: Chain, evidence: jax.Array, *, both: bool) -> tuple:
    """Combine the steps' matrices in pairs, as logarithms; the messages of `_sequential`.

    Source: Sarkka and Garcia-Fernandez (2021), Temporal parallelization of Bayesian smoothers.
    """
    matrices = chain.log_transition if chain.log_transition.ndim == 4 else chain.log_transition[None]
    links = None if chain.present is None else chain.present[1:]
    ones = jnp.zeros_like(evidence[:1])

    def directions(elements: jax.Array, *, reverse: bool) -> jax.Array:
        if links is not None:
            identity = jnp.where(jnp.eye(elements.shape[-2], dtype=bool), 0.0, -jnp.inf).astype(elements.dtype)
            elements = jnp.where(links[:, None, None, :], elements, identity[..., None])
        product = (lambda later, earlier: _log_product(earlier, later)) if reverse else _log_product
        axis = -2 if reverse else -3
        return _log_sum(jax.lax.associative_scan(product, elements, reverse=reverse), axis)

    forward = jnp.concatenate([ones, directions(evidence[:-1, :, None] + matrices, reverse=False)])
    forward = jnp.concatenate([ones, _advance(LOG, (evidence + forward)[:-1], matrices, links)])
    if not both:
        return forward, None
    backward = jnp.concatenate([directions(evidence[1:, None] + matrices, reverse=True), ones])
    matrices = jnp.swapaxes(matrices, -2, -3)
    return forward, jnp.concatenate([_advance(LOG, (evidence + backward)[1:], matrices, links), ones])


def _run(chain: Chain, unary: jax.Array, arithmetic: Arithmetic, *, both: bool, associative: bool) -> tuple:
    """Return the messages and the log-normaliser `(B,)`."""
    evidence, taken_out = _evidence(chain, unary, arithmetic)
    if associative:
        forward, backward = _associative(chain, evidence, both=both)
    else:
        forward, backward = _sequential(chain, arithmetic, evidence, both=both)
    totals = taken_out + arithmetic.to_log(arithmetic.total(arithmetic.times(evidence, forward)))
    if chain.present is not None:
        totals = jnp.where(chain.present, totals, 0)
    scaled = jnp.asarray(arithmetic is SCALED)
    return Messages(evidence, forward, backward, scaled), sum_over_time(totals)


def sum_over_time(terms: jax.Array) -> jax.Array:
    """Sum over the leading axis in two stages: the rounding error of one running sum grows with its length."""
    num_steps = terms.shape[0]
    block = max(1, int(num_steps**0.5))
    padding = [(0, -num_steps % block)] + [(0, 0)] * (terms.ndim - 1)
    blocks = jnp.pad(terms, padding).reshape(-1, block, *terms.shape[1:])
    return jnp.sum(jnp.sum(blocks, axis=1), axis=0)


def underflow_matters(chain: Chain, messages: Messages) -> jax.Array:
    """Say whether paths that underflow lost from scaled messages may matter, given the evidence; a Boolean scalar.

    Beside each message runs a bound on what it lacks, in units of the smallest number: what was lost before, moved as
    the message was, and one for each product of the step, which may have vanished. Where the share that this can have
    of every filter is below the rounding error, and the share of all paths that the backward messages lack, what is
    lost does not matter.
    """
    evidence, forward, backward, _ = messages
    num_states, precision = evidence.shape[1], jnp.finfo(evidence.dtype)
    allowed = float(precision.eps) / float(precision.tiny)
    links = None if chain.present is None else chain.present[1:]
    matrices = jnp.exp(chain.log_transition)

    def share(lost: jax.Array, evidence: jax.Array, total: jax.Array) -> jax.Array:
        return (_total(evidence * lost) + 3 * num_states) / total

    def lacking(message: jax.Array, matrices: jax.Array, *, reverse: bool) -> tuple[jax.Array, jax.Array]:
        """The largest share on the way, and that at the end, shape `(B,)` each."""
        each = matrices if matrices.ndim == 4 else None
        totals = _total(evidence * message)
        inner, end = (slice(1, None), 0) if reverse else (slice(None, -1), -1)

        def step(carry: tuple, inputs: tuple) -> tuple:
            (lost, largest), (evidence, total, matrix, linked) = carry, inputs
            largest = jnp.maximum(largest, share(lost, evidence, total))
            missed = _move(evidence * lost + 3, matrices if matrix is None else matrix)
            lost = _over(missed + 3 * num_states, total) + 1
            return (lost if linked is None else jnp.where(linked, lost, 0), largest), None

        inputs = evidence[inner], totals[inner], each, links
        begun = jnp.zeros_like(evidence[0]), jnp.zeros_like(totals[0])
        (lost, largest), _ = jax.lax.scan(step, begun, inputs, reverse=reverse)
        last = share(lost, evidence[end], totals[end])
        return jnp.maximum(largest, last), last

    shares = [lacking(forward, matrices, reverse=False)[0]]
    if backward is not None:
        shares.append(lacking(backward, jnp.swapaxes(matrices, -2, -3), reverse=True)[1])
    # infinity times zero is NaN, which is not below either
    return ~jnp.all(jnp.stack(shares) <= allowed)


def run(
    chain: Chain,
    unary: jax.Array,
    method: str,
    reduce: Callable[[Arithmetic, Messages, jax.Array], Any],
    *,
    both: bool,
) -> Any:
    """Run the recursions in the cheapest exact form; `reduce` says what is kept.

    Plain numbers do where the transitions alone say so, or the evidence with them; else logarithms, which take three
    to twenty times as long.
    """

    def form(arithmetic: Arithmetic, *, associative: bool = False) -> Any:
        return reduce(arithmetic, *_run(chain, unary, arithmetic, both=both, associative=associative))

    def watched() -> Any:
        messages, total = _run(chain, unary, SCALED, both=both, associative=False)
        found = reduce(SCALED, messages, total)
        return jax.lax.cond(in_any(underflow_matters(chain, messages)), lambda: form(LOG), lambda: found)

    if runs_associative(method, unary.shape):
        return form(LOG, associative=True)
    return jax.lax.cond(scaling_is_exact(chain.log_transition), lambda: form(SCALED), watched)
