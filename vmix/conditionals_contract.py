"""The contract of a complete conditional: what is solved for, and what every family must say about its coordinates.

As a function of one global site `v` the log joint is `<coefficients, t(v)> + const` when the site's prior is conjugate.
An `Exponent` holds the coefficients; a `Conditional` finds them from two derivatives of any such function.
"""

import abc
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import jax
import jax.numpy as jnp
from numpyro.distributions import Distribution

LogDensity = Callable[[jax.Array], jax.Array]
E = TypeVar("E", bound="Exponent")


def gradient_and_curvature(
    log_density: LogDensity, value: jax.Array, direction: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return the gradient at `value` and the Hessian times `direction`, both in the shape of `value`.

    Example:
        >>> gradient, curvature = gradient_and_curvature(lambda v: -(v**2), jnp.array(3.0), jnp.array(1.0))
        >>> float(gradient), float(curvature)
        (-6.0, -2.0)
    """
    return jax.jvp(jax.grad(log_density), (value,), (direction,))


def solved_twice(
    solve_once: Callable[[jax.Array], E],
    move: Callable[[jax.Array, E], jax.Array],
    probe: jax.Array,
    *,
    near: Callable[[jax.Array, jax.Array], jax.Array] | None = None,
) -> E:
    """Solve at `probe`, then again at `move(probe, first solution)`, where the rounding is smaller.

    A loop and not two calls: the derivatives of a log joint are what takes long to compile.

    Args:
        solve_once: The solution from derivatives at one value.
        move: A better value, given one and its solution.
        probe: The first value.
        near: Whether two values are so near that solving at the second would add nothing; None always solves twice.
    """

    def unfinished(state: tuple[jax.Array, jax.Array, E]) -> jax.Array:
        return state[0] < 2

    def once_more(state: tuple[jax.Array, jax.Array, E]) -> tuple[jax.Array, jax.Array, E]:
        solved, value, _ = state
        exponent = solve_once(value)
        moved = move(value, exponent)
        enough = 0 if near is None else near(value, moved).astype(int)
        return solved + 1 + enough, moved, exponent

    blank = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(solve_once, probe))
    return jax.lax.while_loop(unfinished, once_more, (jnp.zeros((), int), probe, blank))[2]


class Exponent(abc.ABC):
    """The log density of one site up to a constant, as a possibly improper member of an exponential family.

    A likelihood without its prior may be flat in some elements or unbounded; then `mode` still answers, and the other
    methods, which need a proper member, do not.
    """

    @property
    @abc.abstractmethod
    def distribution(self) -> Distribution:
        """The normalised member as a NumPyro distribution; meaningful when it `is_proper`."""

    @abc.abstractmethod
    def log_kernel(self, value: jax.Array) -> jax.Array:
        """Return `<coefficients, t(value)>` summed to a scalar, in nats, without the normaliser."""

    @abc.abstractmethod
    def is_proper(self) -> jax.Array:
        """Return a Boolean scalar: every element's density can be normalised."""

    @abc.abstractmethod
    def mode(self, fallback: jax.Array) -> jax.Array:
        """Return the value that maximises the log density, in the site's shape.

        Args:
            fallback: Value returned, element by element (or block by block), where there is no maximum inside the
                support: no data and no prior, or an unbounded density. Usually the current value.
        """

    @abc.abstractmethod
    def sample(self, key: jax.Array) -> jax.Array:
        """Draw one value of the site's shape, inside the open support also where it would round to its edge."""

    def mean(self) -> jax.Array:
        """Return the expectation of the site, in its shape."""
        return self.distribution.mean

    def expected_point(self) -> jax.Array:
        """Return the point `v` with `t(v) = E[t]`, in the site's shape, where the family has one.

        A log joint that is linear in `t` takes its expectation there. The point may lie off the support.
        """
        raise NotImplementedError(f"{type(self).__name__} has no point at which t(v) is its expectation")

    def log_prob(self, value: jax.Array) -> jax.Array:
        """Return the normalised log density of `value`, summed to a scalar, in nats."""
        return jnp.sum(self.distribution.log_prob(value))


class Conditional(abc.ABC, Generic[E]):
    """One family of complete conditionals: stateless and hashable.

    Its coordinates `retract(value, u)`, with `u` of the value's shape and 0 at `value`, are free of constraints; the
    check of a conditional compares derivatives in `u`.
    """

    block_ndim: ClassVar[int] = 0
    """Trailing dimensions of the value that form one block; different blocks must be independent."""
    statistics: ClassVar[str]
    """What the log joint must be linear in, in words."""
    has_expected_point: ClassVar[bool] = False
    """Whether exponents have an `expected_point`, and the log joint was checked to be linear off the support too."""
    spread: ClassVar[tuple[float, float]] = (0.1, 2.0)
    """Smallest and largest standard deviation of `u` at the points of verification."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The family as the plan prints it."""

    @abc.abstractmethod
    def solve(self, log_density: LogDensity, probe: jax.Array) -> E:
        """Find the natural parameters from derivatives of `log_density`.

        Args:
            log_density: Log joint, or log likelihood alone, as a function of this site, everything else fixed.
            probe: A value inside the support, in the site's shape; it decides the rounding, not the answer.
        """

    @abc.abstractmethod
    def probe(self, current: jax.Array) -> jax.Array:
        """Return an interior point near `current`, away from edges, for any `current`, NaN included."""

    @abc.abstractmethod
    def retract(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return the point with unconstrained coordinates `u` around `value`."""

    @abc.abstractmethod
    def scales(self, exponent: E, value: jax.Array, direction: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the sizes that errors are measured against: of the gradient, and of the curvature along `direction`.

        Sums of the absolute terms of both derivatives in `u`, so that terms which cancel are not called an error. In
        logarithmic coordinates the volume element contributes a term of 1.
        """

    def scatter(self, noise: jax.Array, current: jax.Array) -> jax.Array:
        """Return interior points around `current`, the first ones near and the last ones far.

        Args:
            noise: Standard Normal variables, shape `(n, *current.shape)`.
            current: A value of the site.

        Returns:
            Values, shape `(n, *current.shape)`.
        """
        centre = self.probe(current)
        spreads = jnp.geomspace(*self.spread, len(noise), dtype=noise.dtype).reshape((-1,) + (1,) * centre.ndim)
        return jax.vmap(self.displace, in_axes=(None, 0))(centre, spreads * noise)

    def displace(self, value: jax.Array, u: jax.Array) -> jax.Array:
        """Return a point of the support with coordinates `u` around `value`; `retract` unless that may leave it."""
        return self.retract(value, u)

    def points(self, key: jax.Array, current: jax.Array, n: int) -> jax.Array:
        """Draw `n` interior points around `current`, near and far, of shape `(n, *current.shape)`."""
        return self.scatter(jax.random.normal(key, (n, *current.shape), current.dtype), current)
