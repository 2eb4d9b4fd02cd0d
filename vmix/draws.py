"""Gamma variables drawn all at once: JAX's own sampler takes one element after another on a CPU."""

import jax
import jax.numpy as jnp

from vmix.random_bits import write_rounds_out

write_rounds_out()

_ROUNDS = 64  # a proposal is accepted with probability .95 or more; this only ends what has no answer


def log_gamma_draws(key: jax.Array, concentration: jax.Array) -> jax.Array:
    """Draw logarithms of Gamma variables of rate 1.

    Every element is proposed at once and kept when it is accepted; a few rounds accept all.

    Args:
        key: JAX random key.
        concentration: above 0, any shape; its dtype is the result's.

    Returns:
        Logarithms, the shape of `concentration`, finite also where the variable itself would round to zero; NaN where
        the concentration is NaN or not above 0.

    Source:
        Marsaglia and Tsang (2000); below 1 by G(a) = G(a + 1) U^(1/a), section 6.

    Example:
        >>> draws = log_gamma_draws(jax.random.key(0), jnp.full(100_000, 3.0))
        >>> bool(abs(jnp.exp(draws).mean() - 3.0) < 0.03)
        True
    """
    concentration = jnp.asarray(concentration)
    dtype = concentration.dtype
    proper = concentration > 0
    small = concentration < 1
    d = jnp.where(proper, concentration + small, 1) - 1 / 3
    c = 1 / jnp.sqrt(9 * d)
    boost_key, loop_key = jax.random.split(key)

    def is_open(state: tuple) -> jax.Array:
        i, _, waiting = state
        return (i < _ROUNDS) & jnp.any(waiting)

    def propose(state: tuple) -> tuple:
        i, found, waiting = state
        normal_key, uniform_key = jax.random.split(jax.random.fold_in(loop_key, i))
        x = jax.random.normal(normal_key, d.shape, dtype)
        t = c * x * (3 + c * x * (3 + c * x))  # (1 + c x)^3 - 1, without cancellation
        inside = t > -1
        log_v = jnp.log1p(jnp.where(inside, t, 0))
        bound = 0.5 * x**2 + d * (log_v - t)
        accepted = inside & (-jax.random.exponential(uniform_key, d.shape, dtype) < bound)
        return i + 1, jnp.where(waiting & accepted, log_v, found), waiting & ~accepted

    start = (jnp.zeros((), jnp.int32), jnp.full(d.shape, jnp.nan, dtype), proper)
    _, log_v, _ = jax.lax.while_loop(is_open, propose, start)
    log_u = -jax.random.exponential(boost_key, d.shape, dtype)
    boost = jnp.where(small, log_u / jnp.where(proper, concentration, 1), 0)
    return jnp.log(d) + log_v + boost
