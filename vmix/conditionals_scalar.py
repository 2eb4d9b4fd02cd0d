"""Gamma, inverse Gamma and Beta complete conditionals, element by element.

With `g = f'(v)` and `h = f''(v)` at one point, each family is two linear equations in two unknowns. They are solved
twice: far from the mode the terms of `g` cancel, so the second time is at the location that the first solution gives.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax.tree_util import register_dataclass

from vmix.conditionals_contract import Conditional, E, Exponent, LogDensity, gradient_and_curvature, solved_twice
from vmix.draws import log_gamma_draws

# A probe moves by at most this factor: past it a coefficient of the first solution is nothing but rounding.
_FARTHEST = 1e5
_SMALLEST_PROBE, _LARGEST_PROBE = 1e-12, 1e12


def _moved(probe: jax.Array, wanted: jax.Array, found: jax.Array) -> jax.Array:
    """Return `probe * wanted / found`, kept within `_FARTHEST`, where negative numbers count as rounded zeros."""
    wanted, found = jnp.maximum(wanted, 0), jnp.maximum(found, 0)
    ratio = jnp.maximum(wanted, found / _FARTHEST) / jnp.maximum(found, wanted / _FARTHEST)
    return probe * jnp.where(jnp.isfinite(ratio) & (ratio > 0), ratio, 1)


def _inside(value: jax.Array) -> jax.Array:
    """Return positive numbers without zeros: a draw may round to the edge of its support."""
    limits = jnp.finfo(value.dtype)
    return jnp.clip(value, limits.tiny, limits.max)


@register_dataclass
@dataclass(frozen=True)
class GammaExponent(Exponent):
    """Log density `power log v - rate v`: Gamma with concentration `power + 1`. Both in the site's shape."""

    power: jax.Array
    rate: jax.Array

    @property
    def distribution(self) -> dist.Distribution:
        """Gamma with concentration `power + 1`."""
        return dist.Gamma(self.power + 1, self.rate, validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `sum(power log v - rate v)`."""
        return jnp.sum(self.power * jnp.log(value) - self.rate * value)

    def is_proper(self) -> jax.Array:
        """Concentration and rate are positive."""
        return jnp.all((self.power > -1) & (self.rate > 0))

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `power / rate`; `fallback` where the density has no maximum on the open half-line (`power <= 0`)."""
        inside = (self.power > 0) & (self.rate > 0)
        mode = self.power / jnp.where(inside, self.rate, 1)
        return jnp.where(inside & (mode > 0) & jnp.isfinite(mode), mode, fallback)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw in log space; what would round to zero is the smallest normal number."""
        log_draw = log_gamma_draws(key, self.power + 1)
        return _inside(jnp.exp(log_draw - jnp.log(self.rate)))


@register_dataclass
@dataclass(frozen=True)
class InverseGammaExponent(Exponent):
    """Log density `-power log v - rate / v`: inverse Gamma with concentration `power - 1`. Both in the site's shape."""

    power: jax.Array
    rate: jax.Array

    @property
    def distribution(self) -> dist.Distribution:
        """Inverse Gamma with concentration `power - 1`."""
        return dist.InverseGamma(self.power - 1, self.rate, validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `-sum(power log v + rate / v)`."""
        return -jnp.sum(self.power * jnp.log(value) + self.rate / value)

    def is_proper(self) -> jax.Array:
        """Concentration and rate are positive."""
        return jnp.all((self.power > 1) & (self.rate > 0))

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `rate / power`; `fallback` where either is not positive."""
        inside = (self.power > 0) & (self.rate > 0)
        mode = self.rate / jnp.where(inside, self.power, 1)
        return jnp.where(inside & (mode > 0) & jnp.isfinite(mode), mode, fallback)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw in log space; what would overflow is the largest finite number."""
        log_draw = log_gamma_draws(key, self.power - 1)
        return _inside(jnp.exp(jnp.log(self.rate) - log_draw))


@register_dataclass
@dataclass(frozen=True)
class BetaExponent(Exponent):
    """Log density `power1 log v + power0 log(1 - v)`: Beta with concentrations `power + 1`; in the site's shape."""

    power1: jax.Array
    power0: jax.Array

    @property
    def distribution(self) -> dist.Distribution:
        """Beta with concentrations `power1 + 1` and `power0 + 1`."""
        return dist.Beta(self.power1 + 1, self.power0 + 1, validate_args=False)

    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `sum(power1 log v + power0 log(1 - v))`."""
        return jnp.sum(self.power1 * jnp.log(value) + self.power0 * jnp.log1p(-value))

    def is_proper(self) -> jax.Array:
        """Both concentrations are positive."""
        return jnp.all((self.power1 > -1) & (self.power0 > -1))

    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return `power1 / (power1 + power0)`, a negative power counting as zero.

        A mode at an edge is one rounding unit inside (0, 1), so that the log density stays finite there; `fallback`
        where no power is positive.
        """
        positive1, positive0 = jnp.maximum(self.power1, 0), jnp.maximum(self.power0, 0)
        total = positive1 + positive0
        inside = (total > 0) & jnp.isfinite(total)
        mode = positive1 / jnp.where(inside, total, 1)
        return jnp.where(inside, _inside_unit_interval(mode), fallback)

    def sample(self, key: jax.Array) -> jax.Array:
        """Draw as a ratio of two Gamma variables in log space, never exactly 0 or 1."""
        key1, key0 = jax.random.split(key)
        log_draw1 = log_gamma_draws(key1, self.power1 + 1)
        log_draw0 = log_gamma_draws(key0, self.power0 + 1)
        limits = jnp.finfo(self.power1.dtype)
        return jnp.clip(jax.nn.sigmoid(log_draw1 - log_draw0), limits.tiny, 1 - limits.epsneg)


def _inside_unit_interval(value: jax.Array) -> jax.Array:
    limits = jnp.finfo(value.dtype)
    return jnp.clip(value, limits.eps, 1 - limits.eps)


class _PositiveCoordinates(Conditional[E]):
    """What the families on the half-line share: coordinates are steps of `log v`."""

    def probe(self, current: jax.Array) -> jax.Array:
        """Return `current` without extremes, whose powers would overflow, and 1 for NaN."""
        return jnp.clip(jnp.where(jnp.isnan(current), 1, current), _SMALLEST_PROBE, _LARGEST_PROBE)

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return `value exp(u)`."""
        return value * jnp.exp(u)


@dataclass(frozen=True)
class GammaConditional(_PositiveCoordinates[GammaExponent]):
    """Independent Gamma elements: `a - 1 = -v^2 h`, `rate = (a - 1) / v - g`."""

    statistics: ClassVar[str] = "(log v, v)"

    @property
    def name(self) -> str:
        """The family's name."""
        return "Gamma"

    def solve(self, log_density: LogDensity, probe: jax.Array) -> GammaExponent:
        """Find concentration and rate at the probe, then again at the mean of the first solution."""
        return solved_twice(partial(self._solve_once, log_density), self._move, probe)

    def _move(self, value: jax.Array, solution: GammaExponent) -> jax.Array:
        return self.probe(_moved(value, solution.power + 1, solution.rate * value))

    def _solve_once(self, log_density: LogDensity, value: jax.Array) -> GammaExponent:
        gradient, curvature = gradient_and_curvature(log_density, value, value)
        power = -value * curvature
        return GammaExponent(power, power / value - gradient)

    def scales(self, exponent: GammaExponent, value: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power| + |rate| v` for both."""
        scale = 1 + jnp.abs(exponent.power) + jnp.abs(exponent.rate) * value
        return scale, scale


@dataclass(frozen=True)
class InverseGammaConditional(_PositiveCoordinates[InverseGammaExponent]):
    """Independent inverse Gamma elements: `rate / v = -(v g + v^2 h)`, `a + 1 = -(2 v g + v^2 h)`."""

    statistics: ClassVar[str] = "(log v, 1 / v)"

    @property
    def name(self) -> str:
        """The family's name."""
        return "InverseGamma"

    def solve(self, log_density: LogDensity, probe: jax.Array) -> InverseGammaExponent:
        """Find concentration and rate at the probe, then again at the mode of the first solution."""
        return solved_twice(partial(self._solve_once, log_density), self._move, probe)

    def _move(self, value: jax.Array, solution: InverseGammaExponent) -> jax.Array:
        return self.probe(_moved(value, solution.rate / value, solution.power))

    def _solve_once(self, log_density: LogDensity, value: jax.Array) -> InverseGammaExponent:
        gradient, curvature = gradient_and_curvature(log_density, value, value)
        steepness = -(value * gradient + value * curvature)
        return InverseGammaExponent(steepness - value * gradient, steepness * value)

    def scales(
        self, exponent: InverseGammaExponent, value: jax.Array, direction: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power| + |rate| / v` for both."""
        scale = 1 + jnp.abs(exponent.power) + jnp.abs(exponent.rate) / value
        return scale, scale


@dataclass(frozen=True)
class BetaConditional(Conditional[BetaExponent]):
    """Independent Beta elements: `power0 = -(v h + g) (1 - v)^2`, `power1 = v^2 (g - (1 - v) h)`."""

    statistics: ClassVar[str] = "(log v, log(1 - v))"

    @property
    def name(self) -> str:
        """The family's name."""
        return "Beta"

    def probe(self, current: jax.Array) -> jax.Array:
        """Return `current` drawn a tenth of the way to the centre, and the centre for NaN."""
        return 0.9 * jnp.clip(jnp.where(jnp.isnan(current), 0.5, current), 0, 1) + 0.05

    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return the point whose logit is `u` larger."""
        raised = value * jnp.exp(u)
        return raised / (raised + (1 - value))

    def solve(self, log_density: LogDensity, probe: jax.Array) -> BetaExponent:
        """Find both concentrations at the probe, then again at the mean of the first solution."""
        return solved_twice(partial(self._solve_once, log_density), self._move, probe)

    def _move(self, value: jax.Array, solution: BetaExponent) -> jax.Array:
        wanted1, wanted0 = jnp.maximum(solution.power1 + 1, 0), jnp.maximum(solution.power0 + 1, 0)
        mean = wanted1 / (wanted1 + wanted0)
        # closer to 1 there are too few floats left to solve with
        limit = 32 * jnp.finfo(mean.dtype).eps
        return jnp.where(jnp.isfinite(mean), jnp.clip(mean, limit, 1 - limit), value)

    def _solve_once(self, log_density: LogDensity, value: jax.Array) -> BetaExponent:
        rest = 1 - value
        gradient, curvature = gradient_and_curvature(log_density, value, value * rest)
        power1 = value * (value * gradient - curvature)
        return BetaExponent(power1, -rest * (rest * gradient + curvature))

    def scales(self, exponent: BetaExponent, value: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return `1 + |power1| (1 - v) + |power0| v` for both."""
        scale = 1 + jnp.abs(exponent.power1) * (1 - value) + jnp.abs(exponent.power0) * value
        return scale, scale
