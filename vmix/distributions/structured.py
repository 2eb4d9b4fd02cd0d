"""What an engine may ask of a prior over many discrete variables a datum, summed out exactly."""

from typing import NamedTuple

import jax
import numpyro.distributions as dist
from numpyro.distributions import constraints


class Posterior(NamedTuple):
    """What one exact pass over `p(c) exp(sum_t unary[t, c_t])` yields.

    Attributes:
        log_normalizer: `log sum_c p(c) exp(sum_t unary[t, c_t])`, nats, shape `(*batch,)`.
        marginals: `p(c_t = k | unary)`, shape `(*batch, T, K)`; zeros at absent steps and where nothing is possible.
        statistics: Expected sufficient statistics, in the shapes of `potentials()`: summed over the data that share
            parameters. They are the gradient of `log_normalizer.sum()` with respect to `potentials()`.
    """

    log_normalizer: jax.Array
    marginals: jax.Array
    statistics: dict[str, jax.Array]


class StructuredDiscrete(dist.Distribution):
    """Base of priors over `T` dependent discrete variables of `K` values: `log p(c) = <potentials, statistics(c)>`.

    A subclass sets `event_shape` to `(T,)` and defines what raises NotImplementedError here. The batch of `unary` may
    be larger than the distribution's own: parameters without a batch serve `(S, T, K)`.

    Where hidden variables `h` beside `c` make the potentials linear, `log p(c, h) = <potentials, statistics(c, h)>`,
    `h` is summed out of every density, `statistics` and `posterior` take its expectation, and `sample_statistics`
    draws it.

    Attributes:
        present: Boolean, whether a step exists, shape `(*batch, T)`; None where every step does.
    """

    has_enumerate_support = False
    present: jax.Array | None = None

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Integers from 0 to `K - 1`, `T` of them."""
        return constraints.independent(constraints.integer_interval(0, self.num_values - 1), 1)

    @property
    def num_values(self) -> int:
        """The number of values `K` of each variable."""
        raise NotImplementedError

    def potentials(self) -> dict[str, jax.Array]:
        """Return log parameters by name, minus infinity for zeros, with the parameters' own batch in front."""
        raise NotImplementedError

    def statistics(self, value: jax.Array) -> dict[str, jax.Array]:
        """Count what happens in `value`, shape `(*batch, T)`; the shapes of `potentials()`, as in `Posterior`."""
        raise NotImplementedError

    def sample_statistics(self, key: jax.Array, value: jax.Array) -> dict[str, jax.Array]:
        """Draw what `value` leaves open, `h ~ p(h | c)`, and count; `statistics(value)` where it leaves nothing open.

        With these in place of `statistics`, the draws of conjugate parameters are exact.
        """
        return self.statistics(value)

    def log_normalizer(self, unary: jax.Array) -> jax.Array:
        """Return `log sum_c p(c) exp(sum_t unary[t, c_t])`.

        Args:
            unary: Log potentials of the values, nats, shape `(*batch, T, K)`.

        Returns:
            Shape `(*batch,)`, nats; minus infinity where nothing is possible. Reverse-mode differentiable in `unary`
            and in the parameters.
        """
        raise NotImplementedError

    def posterior(self, unary: jax.Array) -> Posterior:
        """Return log-normaliser, marginals and expected statistics in one pass."""
        raise NotImplementedError

    def posterior_marginals(self, unary: jax.Array) -> jax.Array:
        """Return `p(c_t = k | unary)`, shape `(*batch, T, K)`."""
        return self.posterior(unary).marginals

    def sample_posterior(self, key: jax.Array, unary: jax.Array) -> jax.Array:
        """Draw `c` from `p(c | unary)` exactly, shape `(*batch, T)`, int32; -1 where nothing is possible."""
        raise NotImplementedError

    def sample_with_total(self, key: jax.Array, unary: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `sample_posterior` and `log_normalizer`, from one pass where a subclass has one for both."""
        return self.sample_posterior(key, unary), self.log_normalizer(unary)

    def mode(self, unary: jax.Array) -> jax.Array:
        """Return the most probable `c` given `unary`, shape `(*batch, T)`, int32; -1 where nothing is possible."""
        raise NotImplementedError
