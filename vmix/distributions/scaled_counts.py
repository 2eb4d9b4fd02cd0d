"""Multinomial counts that were scaled, so that they may be fractions."""

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln, xlogy
from numpyro.distributions import MultinomialProbs, constraints
from numpyro.util import not_jax_tracer


class ScaledCounts(MultinomialProbs):
    """The multinomial's exponential family at counts x that may be fractions.

    log p(x | probs) = log Gamma(sum_v x_v + 1) - sum_v log Gamma(x_v + 1) + sum_v x_v log probs_v

    Equal to the multinomial at whole counts. Where counts were scaled down (to the independent tokens that they are
    worth, say), the posterior of `probs` and of what `probs` hangs on is that of a likelihood to a power below 1; the
    first two terms do not touch it. Draws are whole.

    Args:
        probs: shape (*batch, V).
        total_count: whole numbers, for draws, shape (*batch,).
        total_count_max: the most of them, where they are traced by JAX.
        validate_args: check the arguments and values where they are known.

    Example:
        >>> half = ScaledCounts(jnp.array([0.5, 0.5]), 1).log_prob(jnp.array([0.5, 0.5]))
        >>> round(float(half), 4)
        -0.4516
    """

    def __init__(
        self,
        probs: Array,
        total_count: Array | int = 1,
        *,
        total_count_max: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(probs, total_count, total_count_max=total_count_max, validate_args=validate_args)

    def log_prob(self, value: Array) -> Array:
        """Return the log density, shape (*batch,), nats."""
        if self._validate_args and not_jax_tracer(value):
            self._validate_sample(value)
        x = jnp.asarray(value, jnp.result_type(float))
        return gammaln(x.sum(-1) + 1) + (xlogy(x, self.probs) - gammaln(x + 1)).sum(-1)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Vectors of numbers of at least 0."""
        return constraints.independent(constraints.nonnegative, 1)
