"""Exponential families over numbers: Normal, LogNormal, Exponential, Gamma, Poisson, Bernoulli, Binomial."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.special import gammaln
from numpyro.distributions import (
    BernoulliLogits,
    BernoulliProbs,
    BinomialLogits,
    BinomialProbs,
    Chi2,
    Distribution,
    Exponential,
    Gamma,
    LogNormal,
    Normal,
    Poisson,
)

from vmix.families_protocol import LOG_2PI, Family, Frame, as_float, framed_moments, standard_frame
from vmix.numerics import safe_log


class NormalFamily(Family):
    """Normal(loc, scale): t = (y, y^2), eta = (m/s^2, -1/(2 s^2)), A = m^2/(2 s^2) + log s + log(2 pi)/2.

    Here m = (loc - shift)/scale_frame and s = scale/scale_frame.
    """

    name = "Normal"
    hard_zeros = False
    members = {Normal: ("loc", "scale")}

    def frame(self, value: Array) -> Frame:
        """Return mean and standard deviation over the data, element by element."""
        return standard_frame(as_float(value))

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (y, y^2)."""
        y = (as_float(value) - frame.shift) / frame.scale
        return jnp.stack([y, jnp.square(y)], -1)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return eta and A of the framed Normal."""
        # XLA rewrites (a/f)/(s/f) as (a f)/(f s), which leaves float32 for f = 1e20: so the two ratios stay apart
        scale = as_float(base.scale)
        standardised, ratio = (as_float(base.loc) - frame.shift) / scale, frame.scale / scale
        eta = jnp.broadcast_arrays(standardised * ratio, -0.5 * jnp.square(ratio))
        return jnp.stack(eta, -1), 0.5 * jnp.square(standardised) - jnp.log(ratio) + 0.5 * LOG_2PI

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return the Jacobian, -log scale_frame."""
        return jnp.broadcast_to(-jnp.log(frame.scale), jnp.broadcast_shapes(jnp.shape(value), frame.scale.shape))

    def expected_statistics(self, q: Distribution, frame: Frame) -> Array | None:
        """Return (E y, (E y)^2 + Var y) for q a Normal or a MultivariateNormal (its marginals)."""
        moments = framed_moments(q, frame, Normal)
        return None if moments is None else _second_moments(moments[0], moments[1])


class LogNormalFamily(Family):
    """LogNormal(loc, scale): the Normal family in log x, with h(x) = -log x more."""

    name = "LogNormal"
    hard_zeros = False
    members = {LogNormal: ("loc", "scale")}

    def frame(self, value: Array) -> Frame:
        """Return mean and standard deviation of log x over the data, element by element."""
        return standard_frame(jnp.log(as_float(value)))

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (y, y^2), y the framed log x."""
        return NormalFamily().statistics(base, jnp.log(as_float(value)), frame)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return eta and A of the framed Normal of log x."""
        return NormalFamily().natural(base, frame)

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return -log x - log scale_frame."""
        return -jnp.log(as_float(value)) - jnp.log(frame.scale)

    def expected_statistics(self, q: Distribution, frame: Frame) -> Array | None:
        """Return (E y, (E y)^2 + Var y) for q a LogNormal."""
        moments = framed_moments(q, frame, LogNormal)
        return None if moments is None else _second_moments(moments[0], moments[1])


def _second_moments(mean: Array, variance: Array) -> Array:
    return jnp.stack([mean, jnp.square(mean) + variance], -1)


class ExponentialFamily(Family):
    """Exponential(rate): t = x, eta = -rate, A = -log rate, h = 0."""

    name = "Exponential"
    members = {Exponential: ("rate",)}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (x,)."""
        return as_float(value)[..., None]

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (-rate,) and -log rate."""
        rate = as_float(base.rate)
        return -rate[..., None], -jnp.log(rate)

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return zero."""
        return jnp.zeros_like(as_float(value))


class GammaFamily(Family):
    """Gamma(a, b), also Chi2: t = (log x, x), eta = (a - 1, -b), A = log Gamma(a) - a log b, h = 0."""

    name = "Gamma"
    members = {Gamma: ("concentration", "rate"), Chi2: ("concentration", "rate")}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (log x, x)."""
        x = as_float(value)
        return jnp.stack([jnp.log(x), x], -1)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (a - 1, -b) and log Gamma(a) - a log b."""
        a, b = jnp.broadcast_arrays(as_float(base.concentration), as_float(base.rate))
        return jnp.stack([a - 1, -b], -1), gammaln(a) - a * jnp.log(b)

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return zero."""
        return jnp.zeros_like(as_float(value))


class PoissonFamily(Family):
    """Poisson(rate): t = x, eta = log rate (-inf at rate 0), A = rate, h = -log x!."""

    name = "Poisson"
    members = {Poisson: ("rate",)}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (x,)."""
        return as_float(value)[..., None]

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (log rate,) and rate."""
        rate = as_float(base.rate)
        return safe_log(rate)[..., None], rate

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return -log x!."""
        return -gammaln(as_float(value) + 1)


class BernoulliFamily(Family):
    """Bernoulli(p): t = (x, 1 - x), eta = (log p, log(1 - p)), A = 0, h = 0; x may be any number in [0, 1].

    Both logarithms are kept, so that p = 0 and p = 1 stay exact.
    """

    name = "Bernoulli"
    members = {BernoulliProbs: ("probs",), BernoulliLogits: ("logits",)}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (x, 1 - x)."""
        x = as_float(value)
        return jnp.stack([x, 1 - x], -1)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (log p, log(1 - p)) and zero."""
        return _two_logs(base, probs=isinstance(base, BernoulliProbs))

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return zero."""
        return jnp.zeros_like(as_float(value))


class BinomialFamily(Family):
    """Binomial(n, p): t = (x, n - x), eta = (log p, log(1 - p)), A = 0, h = log(n choose x); n may vary by datum."""

    name = "Binomial"
    members = {BinomialProbs: ("probs",), BinomialLogits: ("logits",)}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return (x, n - x)."""
        x = as_float(value)
        return jnp.stack(jnp.broadcast_arrays(x, _total_count(base, x) - x), -1)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (log p, log(1 - p)) and zero."""
        return _two_logs(base, probs=isinstance(base, BinomialProbs))

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return log(n choose x)."""
        x = as_float(value)
        n = _total_count(base, x)
        return gammaln(n + 1) - gammaln(x + 1) - gammaln(n - x + 1)


def _two_logs(base: Distribution, *, probs: bool) -> tuple[Array, Array]:
    """Return ((log p, log(1 - p)), 0) from probabilities or from logits."""
    if probs:
        p = as_float(base.probs)
        certain = p == 1
        both = safe_log(p), jnp.where(certain, -jnp.inf, jnp.log1p(-jnp.where(certain, 0.0, p)))
    else:
        logits = as_float(base.logits)
        both = jax.nn.log_sigmoid(logits), jax.nn.log_sigmoid(-logits)
    return jnp.stack(both, -1), jnp.zeros_like(both[0])


def _total_count(base: Distribution, value: Array) -> Array:
    """Return the trials n, right-aligned with `value`: NumPyro pads them to the rank of the parameters."""
    count = as_float(base.total_count)
    excess = max(count.ndim - value.ndim, 0)
    if any(size != 1 for size in count.shape[:excess]):
        raise ValueError(
            f"total_count has shape {count.shape}, the counts {value.shape}: expected one number of trials per datum, "
            "the same for every component; move what differs between components into probs or logits"
        )
    return count.reshape(count.shape[excess:])
