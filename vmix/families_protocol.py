"""What an exponential family is: atoms, data frames, the contract, and the two products that evaluate it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import reduce
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from numpyro.distributions import (
    Distribution,
    ExpandedDistribution,
    Independent,
    MaskedDistribution,
    MultivariateNormal,
    Normal,
)

LOG_2PI = math.log(2.0 * math.pi)
# GPUs multiply float32 matrices in TF32 unless told not to: three digits, and a log likelihood needs seven.
EXACT = lax.Precision.HIGHEST

Moments = tuple[Array, Array, Array | None]


class Atom(NamedTuple):
    """A NumPyro distribution without its wrappers.

    An element of the wrapped distribution has shape `batch_shape + event_shape`; the batch shape of `base` is
    right-aligned against `batch_shape + event_shape[:event_dims]`, and may be smaller.

    Attributes:
        base: the innermost distribution, e.g. Normal.
        event_dims: how many batch dimensions of `base` the wrappers read as event (summed over in a log density).
        mask: the product of all masks, broadcastable to the batch shape of `base`; None where there is none.
        batch_shape: batch shape of the wrapped distribution.
        event_shape: event shape of the wrapped distribution, that of `base` included.
    """

    base: Distribution
    event_dims: int
    mask: Array | bool | None
    batch_shape: tuple[int, ...]
    event_shape: tuple[int, ...]


def unwrap(fn: Distribution) -> Atom:
    """Peel `ExpandedDistribution`, `Independent` and `MaskedDistribution`, nested in any order, off a distribution.

    Args:
        fn: any NumPyro distribution. Transformed distributions such as LogNormal are atoms and stay whole.

    Returns:
        The atom; see its fields for the alignment of shapes.

    Example:
        >>> import numpyro.distributions as dist
        >>> atom = unwrap(dist.Normal(0.0, 1.0).expand([3]).to_event(1).expand([100]))
        >>> type(atom.base).__name__, atom.event_dims, atom.batch_shape, atom.event_shape
        ('Normal', 1, (100,), (3,))
    """
    base, event_dims, masks = fn, 0, []
    while isinstance(base, ExpandedDistribution | Independent | MaskedDistribution):
        if isinstance(base, Independent):
            event_dims += base.reinterpreted_batch_ndims
        if isinstance(base, MaskedDistribution):
            masks.append((base._mask, event_dims))
        base = base.base_dist
    return Atom(base, event_dims, _joint_mask(masks, event_dims), tuple(fn.batch_shape), tuple(fn.event_shape))


def _joint_mask(masks: list[tuple[Array | bool, int]], event_dims: int) -> Array | bool | None:
    """Multiply masks, each given with the number of event dimensions its level already sees as batch."""
    if any(mask is False for mask, _ in masks):
        return False
    arrays = [jnp.asarray(mask) for mask, _ in masks if mask is not True]
    seen = [dims for mask, dims in masks if mask is not True]
    padded = [mask.reshape(mask.shape + (1,) * (event_dims - dims)) for mask, dims in zip(arrays, seen, strict=True)]
    return reduce(jnp.logical_and, padded) if padded else None


class Frame(NamedTuple):
    """A data frame `y = (x - shift) / scale`, in which sums of squares survive float32.

    Attributes:
        shift: shape of one datum's element, or () for the identity.
        scale: as shift; positive.
    """

    shift: Array
    scale: Array


class Family(ABC):
    """An exponential family: `log p(x) = <eta, t(y)> - A + h(x)`, with y the framed x.

    Instances are stateless. Every method is a pure function of arrays, may be jitted, and is twice differentiable in
    the parameters of the distribution. Element shapes are right-aligned throughout; a trailing P is the number of
    statistics of one element.
    """

    name: ClassVar[str]
    # Whether a natural parameter may be minus infinity: an outcome that is impossible.
    hard_zeros: ClassVar[bool] = True
    # For each distribution class its parameters.
    members: ClassVar[Mapping[type[Distribution], tuple[str, ...]]]

    def matches(self, base: Distribution) -> bool:
        """Return whether `base` is of this family; by exact class, since a subclass may mean another density."""
        return type(base) in self.members

    def parameters(self, base: Distribution) -> tuple[Array, ...]:
        """Return the arrays that must not vary along the data plate if the likelihood is to compress."""
        return tuple(jnp.asarray(getattr(base, name)) for name in self.members[type(base)])

    def frame(self, value: Array) -> Frame:
        """Choose the frame for data `value` (N, *element_shape); the identity unless the family says otherwise."""
        return Frame(jnp.zeros((), jnp.result_type(float)), jnp.ones((), jnp.result_type(float)))

    @abstractmethod
    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return t(y), shape (*value_batch, P); of `base` only fixed companions (`total_count`) are read."""

    @abstractmethod
    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return eta (*batch, P) and A (*batch,) in nats, for y; batch is that of the parameters with the frame."""

    @abstractmethod
    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return h(x) in nats, shape (*value_batch,): all that is neither <eta, t> nor A, the Jacobian included."""

    def expected_statistics(self, q: Distribution, frame: Frame) -> Array | None:
        """Return E_q[t(y)], shape (*value_batch, P), for a factor q over x; None where there is no closed form."""
        return None


def as_float(value: Array) -> Array:
    """Return `value` as an array of the default float."""
    return jnp.asarray(value, dtype=jnp.result_type(float))


def standard_frame(value: Array) -> Frame:
    """Return mean and standard deviation over axis 0, finite entries only; 0 and 1 for a column that has none.

    Sums run over `(x - min) / (max - min)`: an offset costs no digits, and 1e20 or 1e-20 does not leave float32.
    A constant column gets its value as shift, exactly, and scale 1.

    Args:
        value: data, shape (N, *element_shape).

    Returns:
        The frame, arrays of shape element_shape.
    """
    valid = jnp.isfinite(value)
    count = jnp.maximum(valid.sum(0), 1)
    low = jnp.where(valid, value, jnp.inf).min(0)
    high = jnp.where(valid, value, -jnp.inf).max(0)
    low = jnp.where(low <= high, low, 0.0)
    spread = jnp.where(high > low, high - low, 1.0)
    shift = low + spread * (jnp.where(valid, (value - low) / spread, 0.0).sum(0) / count)
    residual = jnp.where(valid, (value - shift) / spread, 0.0)
    scale = spread * jnp.sqrt(jnp.square(residual).sum(0) / count)
    return Frame(shift, jnp.where(scale > 0, scale, 1.0))


def framed_moments(q: Distribution, frame: Frame, elementwise: type[Distribution]) -> Moments | None:
    """Return mean, variance and lower Cholesky factor of y under a Gaussian factor q; None if it is not one.

    Args:
        q: a factor whose atom is `elementwise`; for Normal, also a MultivariateNormal.
        frame: the frame of y.
        elementwise: Normal, or LogNormal for the moments of log x.

    Returns:
        Mean and variance, shape `q.batch_shape + q.event_shape`, and the factor (*batch, D, D), None if diagonal.
    """
    atom = unwrap(q)
    shape, base = atom.batch_shape + atom.event_shape, atom.base
    if type(base) is elementwise:
        tril, variance = None, jnp.square(as_float(base.scale) / frame.scale)
    elif type(base) is MultivariateNormal and elementwise is Normal:
        tril = base.scale_tril / frame.scale[..., None]
        variance = jnp.square(tril).sum(-1)
    else:
        return None
    loc = (as_float(base.loc) - frame.shift) / frame.scale
    shape = jnp.broadcast_shapes(shape, loc.shape)
    return jnp.broadcast_to(loc, shape), jnp.broadcast_to(variance, shape), tril


def inner(eta: Array, t: Array, *, hard_zeros: bool = True) -> Array:
    """Return `<eta_k, t_n>` for all pairs by one matrix product, with `0 * -inf = 0` and `positive * -inf = -inf`.

    Args:
        eta: natural parameters, shape (..., K, P); entries may be -inf (an impossible outcome).
        t: statistics, shape (..., N, P); not negative where eta may be -inf.
        hard_zeros: whether eta may hold -inf at all; False saves the look.

    Returns:
        Inner products in nats, shape (..., N, K).

    Example:
        >>> import jax.numpy as jnp
        >>> eta = jnp.array([[0.0, -jnp.inf], [-1.0, -2.0]])
        >>> inner(eta, jnp.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[0.0, -1.0], [-inf, -2.0]]
    """
    if not hard_zeros:
        return jnp.matmul(t, eta.swapaxes(-1, -2), precision=EXACT)
    impossible = jnp.isneginf(eta)
    finite = jnp.matmul(t, jnp.where(impossible, 0.0, eta).swapaxes(-1, -2), precision=EXACT)

    def forbid(product: Array) -> Array:
        mass = jnp.matmul((t > 0).astype(product.dtype), impossible.swapaxes(-1, -2).astype(product.dtype))
        return jnp.where(mass > 0, -jnp.inf, product)

    return lax.cond(impossible.any(), forbid, lambda product: product, finite)


def contract(eta: Array, s: Array) -> Array:
    """Return `sum(eta * s)` over the last axis in nats, with `0 * -inf = 0`, also in the derivatives.

    Args:
        eta: natural parameters, shape (..., P); entries may be -inf.
        s: (expected) statistics, broadcastable to eta.

    Returns:
        The contraction, shape (...).

    Example:
        >>> import jax.numpy as jnp
        >>> float(contract(jnp.array([2.0, -jnp.inf]), jnp.array([3.0, 0.0])))
        6.0
    """
    absent = jnp.isneginf(eta) & (s == 0)
    return jnp.where(absent, 0.0, jnp.where(absent, 0.0, eta) * s).sum(-1)
