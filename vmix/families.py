"""Exponential families: a likelihood as one matrix product, `log p(x_n | c = k) = <eta_k, t(x_n)> - A_k + h(x_n)`.

The contract and the products are in `vmix.families_protocol`, the families in `vmix.families_scalar` and
`vmix.families_vector`; this module names them all.
"""

from numpyro.distributions import Distribution

from vmix.families_protocol import Atom, Family, Frame, contract, inner, unwrap
from vmix.families_scalar import (
    BernoulliFamily,
    BinomialFamily,
    ExponentialFamily,
    GammaFamily,
    LogNormalFamily,
    NormalFamily,
    PoissonFamily,
)
from vmix.families_vector import (
    CategoricalFamily,
    LowRankMultivariateNormalFamily,
    MultinomialFamily,
    MultivariateNormalFamily,
)

__all__ = ["FAMILIES", "Atom", "Family", "Frame", "contract", "family_of", "inner", "unwrap"]

FAMILIES: tuple[Family, ...] = (
    NormalFamily(),
    MultivariateNormalFamily(),
    LowRankMultivariateNormalFamily(),
    CategoricalFamily(),
    BernoulliFamily(),
    BinomialFamily(),
    MultinomialFamily(),
    PoissonFamily(),
    ExponentialFamily(),
    GammaFamily(),
    LogNormalFamily(),
)


def family_of(base: Distribution) -> Family | None:
    """Return the exponential family of an unwrapped distribution, None if it has none here.

    Args:
        base: a distribution without wrappers; `unwrap(fn).base`.

    Returns:
        The family, always the same instance.

    Example:
        >>> import numpyro.distributions as dist
        >>> family_of(dist.Poisson(2.0)).name
        'Poisson'
        >>> family_of(dist.Cauchy(0.0, 1.0)) is None
        True
    """
    return next((family for family in FAMILIES if family.matches(base)), None)
