"""Observed distributions with hidden discrete variables of their own, summed out of the density."""

from jax import Array
from numpyro.distributions import Distribution


class Augmented(Distribution):
    """An observed distribution `p(x | theta) = sum_h p(x, h | theta)` whose complete-data density is linear.

    `log p(x, h | theta) = <potentials(theta), t(x, h)> + base(x)`: the potentials are logarithms of parameters, the
    statistics `t` count how often each parameter is used. An engine needs nothing else: EM takes the expected
    statistics, Gibbs the drawn ones, and SVI the gradient of `log_prob`, in which `h` is summed out. At the posterior
    of `h` the bound of EM is the density itself,
    `<potentials, E[t]> + base + entropy of h = log_prob`.

    The parameters need not be normalised: under a mean-field factor q an engine takes them at `exp(E_q[log theta])`,
    which sums to less than 1. `log_prob` is then `log sum_h exp(<potentials, t> + base)` as it stands, a bound's share,
    and the statistics are those of `h` in proportion to its terms.

    The class is abstract: a subclass gives the four methods below besides those of a NumPyro distribution.
    """

    def potentials(self) -> dict[str, Array]:
        """Return the logarithm of each parameter.

        Returns:
            Name to log parameter in nats, in that parameter's own shape (not the batch shape); minus infinity, exactly,
            where the parameter is zero.
        """
        raise NotImplementedError

    def expected_statistics(self, value: Array) -> dict[str, Array]:
        """Return `E[t(x, h) | x, theta]`, summed over the data: the gradient of the sum of `log_prob` by potentials.

        Args:
            value: data, shape `(*batch, *event)`.

        Returns:
            Name to expected statistic, the shapes of `potentials()`.
        """
        raise NotImplementedError

    def sample_statistics(self, key: Array, value: Array) -> dict[str, Array]:
        """Draw `h ~ p(h | x, theta)` and return `t(x, h)`, summed over the data.

        Args:
            key: JAX random key.
            value: data, shape `(*batch, *event)`.

        Returns:
            Name to drawn statistic, the shapes of `potentials()`; whole numbers in the potentials' dtype.
        """
        raise NotImplementedError

    def spread_statistics(self, value: Array, shares: Array) -> dict[str, Array]:
        """Return the statistics if each datum's hidden variables were spread as `shares`: where a start comes from.

        Args:
            value: data, shape `(*batch, *event)`.
            shares: share of each value of the hidden variables, shape `(*batch, K)`.

        Returns:
            Name to statistic, the shapes of `potentials()`.
        """
        raise NotImplementedError

    def proportions(self) -> Array:
        """Return the probability of each value of a datum's hidden variables, shape `(*batch, K)`."""
        raise NotImplementedError

    def base_measure(self, value: Array) -> Array:
        """Return `base(x)`, the part of `log p(x, h | theta)` that depends on neither `h` nor the parameters.

        Args:
            value: data, shape `(*batch, *event)`.

        Returns:
            Shape `(*batch,)`, nats per datum.
        """
        raise NotImplementedError
