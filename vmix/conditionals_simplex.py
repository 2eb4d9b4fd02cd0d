"""Dirichlet complete conditionals on the last dimension, batched over the others.

Most log joints treat the entries of `w` as if they were independent; then `alpha_k - 1 = w_k df/dw_k` exactly, at any
point and without cancellation. Where the log joint normalises `w` itself, only derivatives along the simplex have a
meaning: with softmax logits `u`, `df/du = (alpha - 1) - T w` where `T = sum(alpha - 1)`.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.special import digamma
from jax.tree_util import register_dataclass

from vmix.conditionals_contract import Conditional, Exponent, LogDensity, gradient_and_curvature
from vmix.draws import log_gamma_draws


@register_dataclass
@dataclass(frozen=True)
class DirichletExponent(Exponent):
    """Log density `sum_k power_k log w_k`: Dirichlet with concentration `power + 1`, in the site's shape."""

    power: jax.Array

    @property
    def distribution(self) -> dist.Distribution:
        """Dirichlet with concentration `power + 1`."""
        return dist.Dirichlet(self.power + 1, validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `sum(power log w)`."""
        return jnp.sum(self.power * jnp.log(value))

    def is_proper(self) -> jax.Array:
        """Every concentration is positive."""
        return jnp.all((self.power > -1) & jnp.isfinite(self.power))

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `power / sum(power)`, a negative power counting as zero.

        An entry with `alpha_k <= 1` is exactly zero, on the edge of the closed simplex; a row of `fallback` where all
        entries are such.
        """
        positive = jnp.maximum(self.power, 0)
        total = jnp.sum(positive, axis=-1, keepdims=True)
        inside = (total > 0) & jnp.isfinite(total)
        return jnp.where(inside, positive / jnp.where(inside, total, 1), fallback)

    def expected_point(self) -> jax.Array:
        """Return `exp E[log w] = exp(digamma(alpha_k) - digamma(sum alpha))`, which sums to less than 1."""
        alpha = self.power + 1
        log_point = digamma(alpha) - digamma(jnp.sum(alpha, axis=-1, keepdims=True))
        # an entry that rounds to 0 would have an infinite density; a bound touches at any point inside
        return jnp.maximum(jnp.exp(log_point), jnp.finfo(alpha.dtype).tiny)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw normalised Gamma variables in log space; no entry is zero, even for concentrations of 1e-3."""
        log_draws = log_gamma_draws(key, self.power + 1)
        return jnp.maximum(jax.nn.softmax(log_draws, axis=-1), jnp.finfo(self.power.dtype).tiny)


def _tilted(w: jax.Array, u: jax.Array) -> jax.Array:
    """Return the point of the simplex with softmax logits `log w + u`."""
    raised = w * jnp.exp(u - jnp.max(u, axis=-1, keepdims=True))
    return raised / jnp.sum(raised, axis=-1, keepdims=True)


class _SimplexFamily(Conditional[DirichletExponent]):
    """What both ways to solve for a Dirichlet share."""

    block_ndim: ClassVar[int] = 1
    statistics: ClassVar[str] = "log w"

    @property
    def name(self) -> str:
        """The family's name."""
        return "Dirichlet"

    def probe(self, current: jax.Array) -> jax.Array:
        """Return `current` mixed with a tenth of the centre, and the centre for a row that is no distribution."""
        centre = jnp.full_like(current, 1 / current.shape[-1])
        total = jnp.sum(current, axis=-1, keepdims=True)
        usable = (total > 0) & jnp.isfinite(total) & jnp.all(current >= 0, axis=-1, keepdims=True)
        return 0.9 * jnp.where(usable, current / jnp.where(usable, total, 1), centre) + 0.1 * centre

    def displace(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `softmax(log w + u)`."""
        return _tilted(value, u)


@dataclass(frozen=True)
class DirichletConditional(_SimplexFamily):
    """Dirichlet rows by entries that vary independently: `alpha_k - 1 = w_k df/dw_k`."""

    has_expected_point: ClassVar[bool] = True

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `w exp(u)`, off the simplex."""
        return value * jnp.exp(u)

    def solve(self, log_density: LogDensity, probe: jax.Array) -> DirichletExponent:
        """Find the concentrations by one gradient."""
        return DirichletExponent(probe * jax.grad(log_density)(probe))

    def scales(
        self, exponent: DirichletExponent, value: jax.Array, direction: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power|` for both."""
        scale = 1 + jnp.abs(exponent.power)
        return scale, scale


@dataclass(frozen=True)
class SoftmaxDirichletConditional(_SimplexFamily):
    """Dirichlet rows by softmax logits: `df/du = (alpha - 1) - T w`, with `T` from one Hessian-vector product."""

    @property
    def name(self) -> str:
        """The family's name, another than that of entries that are used as they are."""
        return "Dirichlet (normalised)"

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `softmax(log w + u)`."""
        return _tilted(value, u)

    def solve(self, log_density: LogDensity, probe: jax.Array) -> DirichletExponent:
        """Find the total at the probe, then the concentrations at the mean that it implies."""
        heaviest = jax.nn.one_hot(jnp.argmax(probe, axis=-1), probe.shape[-1], dtype=probe.dtype)
        gradient, curvature = gradient_and_curvature(
            lambda u: log_density(_tilted(probe, u)), jnp.zeros_like(probe), heaviest
        )
        variance = jnp.sum(heaviest * probe * (1 - probe), axis=-1, keepdims=True)
        total = -jnp.sum(heaviest * curvature, axis=-1, keepdims=True) / jnp.where(variance > 0, variance, 1)
        first = DirichletExponent(gradient + total * probe)
        mean = self._mean_of(first, probe)
        gradient = jax.grad(lambda u: log_density(_tilted(mean, u)))(jnp.zeros_like(probe))
        return DirichletExponent(gradient + total * mean)

    def _mean_of(self, first: DirichletExponent, probe: jax.Array) -> jax.Array:
        # a concentration that is lost in the rounding of the largest one may come out negative
        floor = jnp.finfo(probe.dtype).eps * jnp.max(jnp.abs(first.power), axis=-1, keepdims=True)
        concentration = jnp.maximum(first.power + 1, jnp.maximum(floor, jnp.finfo(probe.dtype).eps))
        mean = concentration / jnp.sum(concentration, axis=-1, keepdims=True)
        return jnp.where(jnp.all(jnp.isfinite(mean), axis=-1, keepdims=True), mean, probe)

    def scales(
        self, exponent: DirichletExponent, value: jax.Array, direction: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power| + |T| w` for both."""
        total = jnp.abs(jnp.sum(exponent.power, axis=-1, keepdims=True))
        scale = 1 + jnp.abs(exponent.power) + total * value
        return scale, scale
