"""Relaxed one-hot vectors: the Gumbel-softmax (concrete) distribution, on the simplex and in log ratios.

    y = softmax((logits + g) / t),    g_k ~ Gumbel(0, 1)                                    GumbelSoftmax
    u_k = log y_k - log y_K,  k = 1..K-1                                                    GumbelLogRatios

    log p(u) = log Gamma(K) + (K - 1) log t + sum_k (logits_k - t u_k) - K logsumexp_k(logits_k - t u_k),   u_K = 0
    log p(y) = log p(u(y)) - sum_k log y_k

At low temperatures most of y is smaller than floating point holds, and its density is lost with it. The ratios keep
both, and have no constraint: latents of a program are better declared in them.

The divergence between two such distributions of one temperature does not depend on it, and grows with the difference
of the logits without bound; beside a colder prior (a third of the temperature, say) a sure class costs about log K.

Source: Maddison, Mnih and Teh (2017), equations 10 (the draw) and 11 (its density), and appendix C; Jang, Gu and Poole
(2017).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array, lax
from jax.scipy.special import gammaln
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample


def relaxed_one_hot(ratios: Array, *, hard: bool) -> Array:
    """The relaxed one-hot vector of log ratios.

    Args:
        ratios: u, shape (..., K - 1).
        hard: straight-through: the one-hot vector of the largest entry, with the gradient of the relaxed one.

    Returns:
        On the simplex, shape (..., K).

    Example:
        >>> relaxed_one_hot(jnp.array([2.0, 1.0]), hard=True).tolist()
        [1.0, 0.0, 0.0]
    """
    y = jax.nn.softmax(_with_last(ratios))
    if not hard:
        return y
    one_hot = jax.nn.one_hot(jnp.argmax(y, -1), y.shape[-1], dtype=y.dtype)
    return one_hot + (y - lax.stop_gradient(y))


class GumbelLogRatios(dist.Distribution):
    """Log ratios u_k = log y_k - log y_K of a Gumbel-softmax vector: unconstrained, shape (K - 1,).

    Args:
        temperature: t > 0, one number or shape (*batch,).
        logits: log weights of the K classes, shape (*batch, K).
        validate_args: check the arguments and values where they are known.

    Example:
        >>> two = GumbelLogRatios(1.0, jnp.zeros(2))
        >>> round(float(two.log_prob(jnp.zeros(1))), 4), round(float(dist.Logistic(0.0, 1.0).log_prob(0.0)), 4)
        (-1.3863, -1.3863)
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real_vector}
    support = constraints.real_vector
    reparametrized_params = ["temperature", "logits"]

    def __init__(self, temperature: Array | float, logits: Array, *, validate_args: bool | None = None) -> None:
        batch_shape = _check_logits(temperature, logits)
        self.temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.result_type(float)), batch_shape)
        self.logits = jnp.broadcast_to(logits, (*batch_shape, jnp.shape(logits)[-1]))
        super().__init__(batch_shape, (self.logits.shape[-1] - 1,), validate_args=validate_args)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw by Gumbel noise, reparameterised, shape (*sample, *batch, K - 1)."""
        noise = jax.random.gumbel(key, (*sample_shape, *self.logits.shape), self.logits.dtype)
        return _ratios((self.logits + noise) / self.temperature[..., None])

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Return the log density, shape (*batch,), nats."""
        num_values = self.logits.shape[-1]
        terms = self.logits - self.temperature[..., None] * _with_last(value)
        constant = gammaln(float(num_values)) + (num_values - 1) * jnp.log(self.temperature)
        return constant + terms.sum(-1) - num_values * jax.nn.logsumexp(terms, axis=-1)

    @property
    def mean(self) -> Array:
        """The log ratios of the logits over the temperature, shape (*batch, K - 1)."""
        return _ratios(self.logits / self.temperature[..., None])


class RelaxedClass(dist.Distribution):
    """Log ratios given the class c that they relax: p(u | c) = K y_c(u) p(u), with p(u) of equal logits.

    So a class with equal probabilities is read off its relaxed vector, p(c | u) = y_c(u), and p(u) is Gumbel-softmax.

    Args:
        value: c, whole numbers, shape (*batch,).
        temperature: t > 0, a number.
        num_values: K.
        validate_args: check the arguments and values where they are known.

    Example:
        >>> u = jnp.array([0.3, -1.0])
        >>> joint = RelaxedClass(jnp.arange(3), temperature=0.5, num_values=3).log_prob(u) - jnp.log(3.0)
        >>> bool(jnp.allclose(jax.nn.softmax(joint), relaxed_one_hot(u, hard=False)))
        True
    """

    arg_constraints = {"value": constraints.nonnegative_integer}
    support = constraints.real_vector
    pytree_data_fields = ("value", "temperature")
    pytree_aux_fields = ("num_values",)

    def __init__(self, value: Array, *, temperature: float, num_values: int, validate_args: bool | None = None) -> None:
        self.value, self.temperature, self.num_values = value, temperature, num_values
        super().__init__(jnp.shape(value), (num_values - 1,), validate_args=validate_args)

    @property
    def _marginal(self) -> GumbelLogRatios:
        return GumbelLogRatios(self.temperature, jnp.zeros(self.num_values), validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw u, then a class by y(u), and let it trade places with c: all classes are alike under p(u)."""
        shape = (*sample_shape, *self.batch_shape)
        ratio_key, class_key = jax.random.split(key)
        x = _with_last(self._marginal.sample(ratio_key, shape))
        picked, wanted = jax.random.categorical(class_key, x)[..., None], jnp.broadcast_to(self.value, shape)[..., None]
        index = jnp.arange(self.num_values)
        order = jnp.where(index == wanted, picked, jnp.where(index == picked, wanted, index))
        return _ratios(jnp.take_along_axis(x, order, -1))

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Return the log density, shape (*batch,), nats."""
        log_y = jax.nn.log_softmax(_with_last(value))
        chosen = jnp.where(jnp.arange(self.num_values) == jnp.asarray(self.value)[..., None], log_y, 0.0).sum(-1)
        return jnp.log(float(self.num_values)) + chosen + self._marginal.log_prob(value)

    @property
    def mean(self) -> Array:
        """Not known in closed form."""
        raise NotImplementedError


class GumbelSoftmax(dist.Distribution):
    """Relaxed one-hot vectors y on the simplex, shape (K,).

    An entry that has underflowed to zero has no density here; `GumbelLogRatios` has.

    Args:
        temperature: t > 0, one number or shape (*batch,): one-hot vectors as it goes to zero.
        logits: log weights of the K classes, shape (*batch, K).
        validate_args: check the arguments and values where they are known.

    Example:
        >>> y = GumbelSoftmax(0.5, jnp.zeros(3)).sample(jax.random.key(0), (2,))
        >>> y.shape, bool(jnp.allclose(y.sum(-1), 1.0))
        ((2, 3), True)
    """

    arg_constraints = {"temperature": constraints.positive, "logits": constraints.real_vector}
    support = constraints.simplex
    reparametrized_params = ["temperature", "logits"]

    def __init__(self, temperature: Array | float, logits: Array, *, validate_args: bool | None = None) -> None:
        batch_shape = _check_logits(temperature, logits)
        self.temperature = jnp.broadcast_to(jnp.asarray(temperature, jnp.result_type(float)), batch_shape)
        self.logits = jnp.broadcast_to(logits, (*batch_shape, jnp.shape(logits)[-1]))
        super().__init__(batch_shape, self.logits.shape[-1:], validate_args=validate_args)

    @property
    def _log_ratios(self) -> GumbelLogRatios:
        return GumbelLogRatios(self.temperature, self.logits, validate_args=False)

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw by Gumbel noise, reparameterised, shape (*sample, *batch, K)."""
        return relaxed_one_hot(self._log_ratios.sample(key, sample_shape), hard=False)

    @validate_sample
    def log_prob(self, value: Array) -> Array:
        """Return the log density in the first K - 1 entries, shape (*batch,), nats."""
        log_y = jnp.log(value)
        return self._log_ratios.log_prob(_ratios(log_y)) - log_y.sum(-1)

    @property
    def mean(self) -> Array:
        """The class probabilities, softmax(logits): the mean in the limit of low temperatures, shape (*batch, K)."""
        return jax.nn.softmax(self.logits)


def _with_last(ratios: Array) -> Array:
    """(..., K - 1) to (..., K): the last class against itself is zero."""
    return jnp.concatenate([ratios, jnp.zeros_like(ratios, shape=(*ratios.shape[:-1], 1))], -1)


def _ratios(x: Array) -> Array:
    return x[..., :-1] - x[..., -1:]


def _check_logits(temperature: Array | float, logits: Array) -> tuple[int, ...]:
    if not jnp.ndim(logits):
        raise ValueError("logits is a number; expected shape (*batch, K), one entry a class: give a vector")
    try:
        return lax.broadcast_shapes(jnp.shape(temperature), jnp.shape(logits)[:-1])
    except ValueError:
        raise ValueError(
            f"temperature has shape {jnp.shape(temperature)} and logits {jnp.shape(logits)}; expected one temperature, "
            f"or one for each batch entry, shape {jnp.shape(logits)[:-1]}"
        ) from None
