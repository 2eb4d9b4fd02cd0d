"""Wishart complete conditionals of a precision matrix `P`, or of its Cholesky factor `L`, batched.

`f(P) = c log det P - tr(S P) / 2` with `c = (nu - D - 1) / 2` and the rate matrix `S = V^-1`. The gradient is
`G(P) = c P^-1 - S / 2`, and doubling `P` halves the first term alone, so two gradients give
`c = 2 tr(P (G(P) - G(2 P))) / D` and `S = 2 (G(P) - 2 G(2 P))`. A second derivative along `P` would say the same, but
that of a factorisation is slow, to run and to compile.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.scipy.linalg import solve_triangular
from jax.tree_util import register_dataclass

from vmix.conditionals_contract import Conditional, Exponent, LogDensity, solved_twice
from vmix.numerics import cholesky_if_definite

_HIGHEST = jax.lax.Precision.HIGHEST
# The mean may move from the probe by at most the inverse of this: past it the rate is nothing but rounding.
_SMALLEST_RATE = 1e-5
# A probe within this factor of the mean, as a mean over directions, is as good as the mean itself.
_NEAR_ENOUGH = 30.0


def _symmetric(matrix: jax.Array) -> jax.Array:
    return 0.5 * (matrix + matrix.mT)


def _times(*matrices: jax.Array) -> jax.Array:
    product = matrices[0]
    for matrix in matrices[1:]:
        product = jnp.matmul(product, matrix, precision=_HIGHEST)
    return product


def _diagonal(matrix: jax.Array) -> jax.Array:
    return jnp.diagonal(matrix, axis1=-2, axis2=-1)


def _inverse_factor(matrix: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the lower Cholesky factor of each matrix's inverse, and whether the matrix is positive definite."""
    factor, definite = cholesky_if_definite(matrix[..., ::-1, ::-1])
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    return solve_triangular(factor[..., ::-1, ::-1].mT, identity, lower=True), definite


def _are_near(one: jax.Array, other: jax.Array) -> jax.Array:
    """Whether precision matrices are alike in all directions, each seen from the other; a Boolean scalar."""
    factors = jnp.linalg.cholesky(jnp.stack([one, other]))
    seen = solve_triangular(factors[::-1], factors, lower=True)
    return jnp.all(jnp.sum(jnp.square(seen), axis=(-2, -1)) <= _NEAR_ENOUGH * one.shape[-1])


def _log_jacobian(factor: jax.Array) -> jax.Array:
    """Return `log |dP / dL|` for `P = L L^T`, up to a constant and summed over the batch."""
    diagonal = _diagonal(factor)
    return jnp.sum(_countdown(diagonal) * jnp.log(diagonal))


def _countdown(rows: jax.Array) -> jax.Array:
    """Return `D, D - 1, .. 1` in every row of an array of shape `(*batch, D)`."""
    return jnp.broadcast_to(jnp.arange(rows.shape[-1], 0, -1, dtype=rows.dtype), rows.shape)


@register_dataclass
@dataclass(frozen=True)
class WishartExponent(Exponent):
    """Log density `power log det P - tr(rate P) / 2`: Wishart with `nu = 2 power + D + 1` and scale `rate^-1`.

    `power` has the batch shape, `rate` the site's shape `(*batch, D, D)`.
    """

    power: jax.Array
    rate: jax.Array

    @property
    def degrees_of_freedom(self) -> jax.Array:
        """Return `nu`, of the batch shape."""
        return 2 * self.power + self.rate.shape[-1] + 1

    @property
    def distribution(self) -> dist.Distribution:
        """Wishart with `nu` degrees of freedom."""
        scale_tril = _inverse_factor(self.rate)[0]
        return dist.Wishart(self.degrees_of_freedom, scale_tril=scale_tril, validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `power log det P - tr(rate P) / 2`, summed over the batch."""
        log_det = 2 * jnp.sum(jnp.log(_diagonal(jnp.linalg.cholesky(value))), axis=-1)
        return jnp.sum(self.power * log_det) - 0.5 * jnp.sum(self.rate * value)

    def is_proper(self) -> jax.Array:
        """`nu > D - 1` and the rate matrix is positive definite."""
        return jnp.all(self.power > -1) & jnp.all(_inverse_factor(self.rate)[1])

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `2 power rate^-1`; a matrix of `fallback` where `nu <= D + 1` or the rate is not definite."""
        root, definite = _inverse_factor(self.rate)
        mode = 2 * self.power[..., None, None] * _times(root, root.mT)
        inside = definite & (self.power > 0) & jnp.all(jnp.isfinite(mode), axis=(-2, -1))
        return jnp.where(inside[..., None, None], mode, fallback)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw by Bartlett's decomposition; the draw is symmetric."""
        factor = self.distribution.base_dist.sample(key)
        return _symmetric(_times(factor, factor.mT))


@register_dataclass
@dataclass(frozen=True)
class WishartCholeskyExponent(Exponent):
    """The same for a site whose value is the lower Cholesky factor `L` of the precision matrix."""

    power: jax.Array
    rate: jax.Array

    @property
    def of_precision(self) -> WishartExponent:
        """The member for `P = L L^T`."""
        return WishartExponent(self.power, self.rate)

    @property
    def distribution(self) -> dist.Distribution:
        """Cholesky factor of a Wishart matrix."""
        return self.of_precision.distribution.base_dist

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `power log det P - tr(rate P) / 2 + log |dP / dL|`, summed over the batch."""
        log_det = 2 * jnp.sum(jnp.log(_diagonal(value)), axis=-1)
        trace = jnp.sum(self.rate * _times(value, value.mT))
        return jnp.sum(self.power * log_det) - 0.5 * trace + _log_jacobian(value)

    def is_proper(self) -> jax.Array:
        """`nu > D - 1` and the rate matrix is positive definite."""
        return self.of_precision.is_proper()

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return the factor of largest density: `chol(rate^-1)` times the roots of `2 power + D - i`, i = 0 .. D - 1.

        It is not the factor of `WishartExponent.mode`: the volume element counts.
        """
        root, definite = _inverse_factor(self.rate)
        squares = 2 * self.power[..., None] + _countdown(_diagonal(self.rate))
        inside = definite & jnp.all(squares > 0, axis=-1) & jnp.all(jnp.isfinite(root), axis=(-2, -1))
        mode = root * jnp.sqrt(jnp.maximum(squares, 0))[..., None, :]
        return jnp.where(inside[..., None, None], mode, fallback)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw by Bartlett's decomposition."""
        return self.distribution.sample(key)


@dataclass(frozen=True)
class WishartConditional(Conditional[WishartExponent]):
    """Wishart precision matrices in the last two dimensions."""

    block_ndim: ClassVar[int] = 2
    statistics: ClassVar[str] = "(log det P, P)"
    spread: ClassVar[tuple[float, float]] = (0.1, 0.7)

    @property
    def name(self) -> str:
        """The family's name."""
        return "Wishart"

    def probe(self, current: jax.Array) -> jax.Array:
        """Return `current` with its correlations reduced by a tenth; the identity where it is no matrix of the kind."""
        identity = jnp.broadcast_to(jnp.eye(current.shape[-1], dtype=current.dtype), current.shape)
        usable = cholesky_if_definite(_symmetric(current))[1][..., None, None]
        return jnp.where(usable, _symmetric(current) * (0.9 + 0.1 * identity), identity)

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `A A^T`, `A = L (I + sym(u) / 2 sqrt(D))`, where `L L^T` is `value`."""
        size = value.shape[-1]
        factor = jnp.linalg.cholesky(value)
        root = factor + _times(factor, _symmetric(u)) / (2 * size**0.5)
        return _times(root, root.mT)

    def solve(self, log_density: LogDensity, probe: jax.Array) -> WishartExponent:
        """Find degrees of freedom and rate at the probe, then again at the mean of the first solution."""
        return solved_twice(partial(self._solve_once, log_density), self._move, probe, near=_are_near)

    def _move(self, value: jax.Array, solution: WishartExponent) -> jax.Array:
        """Return the mean of the solution, or `value` where that is no precision matrix."""
        inverse_root = _inverse_factor(value)[0]
        floor = jnp.abs(solution.power)[..., None, None] * _times(inverse_root, inverse_root.mT)
        root, definite = _inverse_factor(solution.rate + 2 * _SMALLEST_RATE * floor)
        mean = solution.degrees_of_freedom[..., None, None] * _times(root, root.mT)
        usable = definite & (solution.power > -1) & cholesky_if_definite(mean)[1]
        return jnp.where(usable[..., None, None], mean, value)

    def _solve_once(self, log_density: LogDensity, value: jax.Array) -> WishartExponent:
        at, doubled = map(_symmetric, jax.lax.map(jax.grad(log_density), jnp.stack([value, 2 * value])))
        power = 2 * jnp.sum(value * (at - doubled), axis=(-2, -1)) / value.shape[-1]
        return WishartExponent(power, 2 * (at - 2 * doubled))

    def scales(self, exponent: WishartExponent, value: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power| + max|L^T rate L|` for both, one number a matrix."""
        return _wishart_scales(exponent.power, exponent.rate, jnp.linalg.cholesky(value))


def _wishart_scales(power: jax.Array, rate: jax.Array, factor: jax.Array) -> tuple[jax.Array, jax.Array]:
    largest = jnp.max(jnp.abs(_times(factor.mT, rate, factor)), axis=(-2, -1))
    scale = (1 + jnp.abs(power) + largest)[..., None, None] / factor.shape[-1] ** 0.5
    scale = jnp.broadcast_to(scale, factor.shape)
    return scale, scale


@dataclass(frozen=True)
class WishartCholeskyConditional(Conditional[WishartCholeskyExponent]):
    """Cholesky factors, in the last two dimensions, of Wishart precision matrices."""

    block_ndim: ClassVar[int] = 2
    statistics: ClassVar[str] = "(log det L L^T, L L^T)"
    spread: ClassVar[tuple[float, float]] = (0.1, 0.7)

    @property
    def name(self) -> str:
        """The family's name."""
        return "WishartCholesky"

    def probe(self, current: jax.Array) -> jax.Array:
        """Return the factor of an interior precision matrix near `current`'s."""
        return jnp.linalg.cholesky(WishartConditional().probe(_times(current, current.mT)))

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `L (tril(u) / sqrt(D) + exp(diag(u) / sqrt(D)))`: any lower factor with a positive diagonal."""
        scaled = u / u.shape[-1] ** 0.5
        identity = jnp.broadcast_to(jnp.eye(u.shape[-1], dtype=u.dtype), u.shape)
        return _times(value, jnp.tril(scaled, -1) + identity * jnp.exp(_diagonal(scaled))[..., None])

    def solve(self, log_density: LogDensity, probe: jax.Array) -> WishartCholeskyExponent:
        """Find degrees of freedom and rate as a function of `P = L L^T`, without the volume element of `L`."""

        def of_precision(precision: jax.Array) -> jax.Array:
            factor = jnp.linalg.cholesky(precision)
            return log_density(factor) - _log_jacobian(factor)

        solved = WishartConditional().solve(of_precision, _times(probe, probe.mT))
        return WishartCholeskyExponent(solved.power, solved.rate)

    def scales(
        self, exponent: WishartCholeskyExponent, value: jax.Array, direction: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power| + max|L^T rate L|` for both, one number a matrix."""
        return _wishart_scales(exponent.power, exponent.rate, value)
