"""What the recursions of Markov chains are for: log-normaliser with its gradient, marginals, expected counts, filter.

The axes are those of `chain_recursions`: time, states, batch.
"""

import functools

import jax
import jax.numpy as jnp

from vmix.distributions.chain_recursions import LOG, SCALED, Arithmetic, Chain, Messages, run


def _marginals(arithmetic: Arithmetic, chain: Chain, messages: Messages) -> jax.Array:
    belief = arithmetic.times(arithmetic.times(messages.evidence, messages.forward), messages.backward)
    marginals = arithmetic.to_number(arithmetic.over(belief, arithmetic.total(belief)))
    return marginals if chain.present is None else jnp.where(chain.present[:, None, :], marginals, 0)


def _transitions(
    arithmetic: Arithmetic, chain: Chain, messages: Messages, marginals: jax.Array, weights: jax.Array
) -> jax.Array:
    """Sum `weights[b] p(c_t = i, c_{t+1} = j | unary)` over whatever shares a matrix: time, batch, both."""
    pairs = _scaled_pairs if arithmetic is SCALED else _log_pairs
    return pairs(chain, messages, marginals, weights)


def _scaled_pairs(chain: Chain, messages: Messages, marginals: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum `filter_t(i) p(j | i) marginal_{t+1}(j) / prediction_{t+1}(j)`, 0 where nothing is possible."""
    belief = SCALED.times(messages.evidence, messages.forward)
    before = SCALED.over(belief, SCALED.total(belief))[:-1]
    after = (marginals * weights / jnp.where(messages.forward == 0, 1, messages.forward))[1:]
    over_time = () if chain.log_transition.ndim == 4 else 0
    if chain.log_transition.shape[-1] == 1:
        # one small product a step, then a sum: 4 times faster than one contraction over both, which transposes first
        pairs = jnp.einsum("tib,tjb->tij", before, after, precision=jax.lax.Precision.HIGHEST)
        return jnp.exp(chain.log_transition) * jnp.sum(pairs, axis=over_time)[..., None]
    return jnp.exp(chain.log_transition) * jnp.sum(before[:, :, None] * after[:, None], axis=over_time)


def _log_pairs(chain: Chain, messages: Messages, marginals: jax.Array, weights: jax.Array) -> jax.Array:
    """Sum `filter_t(i) p(j | i) evidence_{t+1}(j) backward_{t+1}(j)`, normalised; its factors alone may underflow."""
    belief = LOG.times(messages.evidence, messages.forward)
    after = LOG.times(messages.evidence, messages.backward)[1:]
    # the backward message is a move divided by the total of `after`, so the pairs' total is the product of these two
    before = LOG.over(belief, LOG.total(LOG.times(belief, messages.backward)))[:-1]
    after = LOG.over(after, LOG.total(after))
    weights = weights[None] if chain.present is None else jnp.where(chain.present[1:], weights[None], 0)
    pairs = jnp.exp(before[:, :, None] + chain.log_transition + after[:, None]) * weights[:, None, None, :]
    counts = jnp.sum(pairs, axis=() if chain.log_transition.ndim == 4 else 0)
    return jnp.sum(counts, axis=-1, keepdims=True) if chain.log_transition.shape[-1] == 1 else counts


def _first_states(chain: Chain, marginals: jax.Array, weights: jax.Array) -> jax.Array:
    counts = marginals[0] * weights
    return jnp.sum(counts, axis=-1, keepdims=True) if chain.log_initial.shape[-1] == 1 else counts


@functools.partial(jax.jit, static_argnames="method")
def posterior(chain: Chain, unary: jax.Array, method: str) -> tuple[jax.Array, jax.Array, Chain]:
    """Run forward-backward once.

    Returns:
        Log-normalisers `(B,)` in nats, marginals `(T, K, B)` with zeros at absent steps, and the expected counts, in
        the places and shapes of the parameters.
    """

    def reduce(arithmetic: Arithmetic, messages: Messages, total: jax.Array) -> tuple:
        marginals, ones = _marginals(arithmetic, chain, messages), jnp.ones_like(total)
        counts = _first_states(chain, marginals, ones), _transitions(arithmetic, chain, messages, marginals, ones)
        return total, marginals, Chain(*counts)

    return run(chain, unary, method, reduce, both=True)


@functools.partial(jax.jit, static_argnames="method")
def log_filtered(chain: Chain, unary: jax.Array, method: str) -> jax.Array:
    """Return `log p(c_t | unary_1..t)`, shape `(T, K, B)`; minus infinity where nothing is possible."""

    def reduce(arithmetic: Arithmetic, messages: Messages, total: jax.Array) -> jax.Array:
        belief = arithmetic.times(messages.evidence, messages.forward)
        return arithmetic.to_log(arithmetic.over(belief, arithmetic.total(belief)))

    return run(chain, unary, method, reduce, both=False)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
@functools.partial(jax.jit, static_argnums=2)
def log_normalizer(chain: Chain, unary: jax.Array, method: str) -> jax.Array:
    """Return `log sum_c p(c) exp(sum_t unary[t, c_t])`, shape `(B,)`, nats.

    The gradient is the posterior: marginals for `unary`, expected counts for the parameters. Without a gradient only
    the forward messages are computed.
    """
    return run(chain, unary, method, lambda arithmetic, messages, total: total, both=False)


@functools.partial(jax.jit, static_argnums=2)
def _log_normalizer_forward(chain: Chain, unary: jax.Array, method: str) -> tuple:
    def reduce(arithmetic: Arithmetic, messages: Messages, total: jax.Array) -> tuple:
        return total, (messages, _marginals(arithmetic, chain, messages))

    total, kept = run(chain, unary, method, reduce, both=True)
    return total, (chain, *kept)


@functools.partial(jax.jit, static_argnums=0)
def _log_normalizer_backward(method: str, kept: tuple, cotangent: jax.Array) -> tuple:
    chain, messages, marginals = kept
    branches = [functools.partial(_transitions, arithmetic) for arithmetic in (SCALED, LOG)]
    transitions = jax.lax.cond(messages.scaled, *branches, chain, messages, marginals, cotangent)
    return Chain(_first_states(chain, marginals, cotangent), transitions), marginals * cotangent


log_normalizer.defvjp(_log_normalizer_forward, _log_normalizer_backward)
