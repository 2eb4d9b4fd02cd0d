"""Normal complete conditionals: element by element, or in blocks with a dense precision matrix.

A Normal log density is its own Taylor expansion of second order. It is kept as one, about an anchor near the mode:
`f(v) = f(m) + <g, v - m> - (v - m)^T P (v - m) / 2`. Unlike `P loc`, that survives a location of 1e4 and an element
without any data.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import cho_solve, solve_triangular
from jax.tree_util import register_dataclass

from vmix.conditionals_contract import Conditional, E, Exponent, LogDensity, gradient_and_curvature
from vmix.numerics import cholesky_if_definite


@register_dataclass
@dataclass(frozen=True)
class NormalExponent(Exponent):
    """Independent Normal elements: anchor `m`, gradient `g` there and precision `P`, each in the site's shape."""

    anchor: jax.Array
    gradient: jax.Array
    precision: jax.Array

    @property
    def distribution(self) -> dist.Distribution:
        """Normal with mean `m + g / P` and variance `1 / P`."""
        return dist.Normal(self.mode(self.anchor), jax.lax.rsqrt(self.precision), validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `sum(g (v - m) - P (v - m)^2 / 2)`."""
        shift = value - self.anchor
        return jnp.sum(self.gradient * shift - 0.5 * self.precision * jnp.square(shift))

    def is_proper(self) -> jax.Array:
        """Every precision is positive."""
        return jnp.all((self.precision > 0) & jnp.isfinite(self.gradient))

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `m + g / P`; `fallback` where `P` is not positive."""
        curved = self.precision > 0
        mode = self.anchor + self.gradient / jnp.where(curved, self.precision, 1)
        return jnp.where(curved & jnp.isfinite(mode), mode, fallback)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw `loc + epsilon / sqrt(P)`."""
        noise = jax.random.normal(key, self.anchor.shape, self.anchor.dtype)
        return self.mode(self.anchor) + noise * jax.lax.rsqrt(self.precision)


@register_dataclass
@dataclass(frozen=True)
class NormalBlocksExponent(Exponent):
    """Blocks of D elements: anchor and gradient in the site's shape, precision of shape `(*batch, D, D)`."""

    anchor: jax.Array
    gradient: jax.Array
    precision: jax.Array

    def _blocks(self, value: jax.Array) -> jax.Array:
        return value.reshape(self.precision.shape[:-1])

    @property
    def distribution(self) -> dist.Distribution:
        """Multivariate Normal over the blocks, batch shape and event shape as in `precision`."""
        loc = self._blocks(self.mode(self.anchor))
        return dist.MultivariateNormal(loc, precision_matrix=self.precision, validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `<g, v - m> - (v - m)^T P (v - m) / 2`, summed over the blocks."""
        shift = self._blocks(value - self.anchor)
        return jnp.sum(shift * (self._blocks(self.gradient) - 0.5 * _matvec(self.precision, shift)))

    def is_proper(self) -> jax.Array:
        """Every block's precision matrix is positive definite to rounding."""
        return jnp.all(cholesky_if_definite(self.precision)[1]) & jnp.all(jnp.isfinite(self.gradient))

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `m + P^-1 g`; a block of `fallback` where that block's `P` is not positive definite."""
        factor, definite = cholesky_if_definite(self.precision)
        step = cho_solve((factor, True), self._blocks(self.gradient)[..., None])[..., 0]
        mode = self._blocks(self.anchor) + step
        definite = definite & jnp.all(jnp.isfinite(mode), axis=-1)
        return jnp.where(definite[..., None], mode, self._blocks(fallback)).reshape(self.anchor.shape)

    def mean(self) -> jax.Array:
        """Return the mode, in the site's shape."""
        return self.mode(self.anchor)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw `loc + L^-T epsilon`, where `L L^T = P`."""
        factor, _ = cholesky_if_definite(self.precision)
        noise = jax.random.normal(key, factor.shape[:-1], factor.dtype)
        step = solve_triangular(factor, noise[..., None], lower=True, trans=1)[..., 0]
        return self.mode(self.anchor) + step.reshape(self.anchor.shape)

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the normalised log density of `value`, summed over the blocks, in nats."""
        return jnp.sum(self.distribution.log_prob(self._blocks(value)))


def _matvec(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    # an accelerator's default precision keeps 10 bits, too few to tell a Normal from its neighbours
    return jnp.einsum("...ij,...j->...i", matrix, vector, precision=jax.lax.Precision.HIGHEST)


def _unit(value: jax.Array) -> jax.Array:
    """Return the length of one step of the coordinates: a location has no unit of its own but its size."""
    return 1 + jnp.abs(value)


class _NormalCoordinates(Conditional[E]):
    """What both Normal families share: steps in multiples of the value's own size, short ones and long ones."""

    spread: ClassVar[tuple[float, float]] = (0.01, 10.0)

    def probe(self, current: jax.Array) -> jax.Array:
        """Return `current` with zeros for what is not finite: no point of the line is near an edge."""
        return jnp.where(jnp.isfinite(current), current, 0)

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `value + (1 + |value|) u`."""
        return value + _unit(value) * u


@dataclass(frozen=True)
class NormalConditional(_NormalCoordinates[NormalExponent]):
    """Independent Normal elements: `P = -f''`, `loc = v - f' / f''`."""

    statistics: ClassVar[str] = "(v, v^2)"

    @property
    def name(self) -> str:
        """The family's name."""
        return "Normal"

    def solve(self, log_density: LogDensity, probe: jax.Array) -> NormalExponent:
        """Find precision and location by one gradient and one Hessian-vector product, and refine at the mode."""
        gradient, curvature = gradient_and_curvature(log_density, probe, jnp.ones_like(probe))
        anchor = NormalExponent(probe, gradient, -curvature).mode(probe)
        return NormalExponent(anchor, jax.grad(log_density)(anchor), -curvature)

    def scales(self, exponent: NormalExponent, value: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `|g| + P (|v| + |m|)` and `P |direction|`, in units of the coordinates."""
        unit, precision = _unit(value), jnp.abs(exponent.precision)
        gradient = jnp.abs(exponent.gradient) + precision * (jnp.abs(value) + jnp.abs(exponent.anchor))
        return unit * gradient, unit * precision * unit * jnp.abs(direction)


@dataclass(frozen=True)
class NormalBlocksConditional(_NormalCoordinates[NormalBlocksExponent]):
    """Normal blocks over the trailing dimensions `block_shape`, independent of each other."""

    block_shape: tuple[int, ...]

    statistics: ClassVar[str] = "(v, v v^T)"

    @property
    def block_ndim(self) -> int:  # type: ignore[override]
        """Number of trailing dimensions in one block."""
        return len(self.block_shape)

    @property
    def name(self) -> str:
        """The family's name with the size of a block."""
        return f"Normal (blocks of size {math.prod(self.block_shape)})"

    def solve(self, log_density: LogDensity, probe: jax.Array) -> NormalBlocksExponent:
        """Find each block's precision by D Hessian-vector products and its location by a solve, refined at the mode."""
        gradient, push = jax.linearize(jax.grad(log_density), probe)
        precision = -self._block_hessian(push, probe)
        anchor = NormalBlocksExponent(probe, gradient, precision).mode(probe)
        return NormalBlocksExponent(anchor, jax.grad(log_density)(anchor), precision)

    def _block_hessian(self, push: LogDensity, probe: jax.Array) -> jax.Array:
        """Return the diagonal blocks of the Hessian, shape `(*batch, D, D)`, from its products with vectors."""
        size = math.prod(self.block_shape)
        batch_shape = probe.shape[: probe.ndim - len(self.block_shape)]
        basis = jnp.eye(size, dtype=probe.dtype).reshape((size,) + (1,) * len(batch_shape) + (size,))
        basis = jnp.broadcast_to(basis, (size, *batch_shape, size)).reshape((size, *probe.shape))
        columns = jax.vmap(push)(basis).reshape((size, *batch_shape, size))
        hessian = jnp.moveaxis(columns, 0, -1)
        return 0.5 * (hessian + hessian.mT)

    def scales(
        self, exponent: NormalBlocksExponent, value: jax.Array, direction: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return `|g| + |P| (|v| + |m|)` and `|P| |direction|`, in units of the coordinates."""

        def spread_over_block(vector: jax.Array) -> jax.Array:
            blocks = vector.reshape(exponent.precision.shape[:-1])
            return _matvec(jnp.abs(exponent.precision), blocks).reshape(value.shape)

        unit = _unit(value)
        gradient = jnp.abs(exponent.gradient) + spread_over_block(jnp.abs(value) + jnp.abs(exponent.anchor))
        return unit * gradient, unit * spread_over_block(unit * jnp.abs(direction))
