"""Square images distorted at random, for networks that shall not see position, slant and size; and set straight.

Source: deskewing by second moments is the usual preparation of MNIST (LeCun et al., 1998).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.ndimage import map_coordinates

from vmix.checks import as_data

# at strength 1: pixels of 28, radians, log factor, slope
_SHIFT, _TURN, _SCALE, _SHEAR = 2.0 / 28.0, 0.2, 0.15, 0.2


def _seen(x: Array, *, mass: bool = False) -> Array:
    """Images as an array, checked where their values are known: inside of compiled code the caller has done it."""
    if isinstance(x, jax.core.Tracer):
        return x
    found = as_data(x, name="x", allow_missing=True)
    if found.dtype == np.float32 and np.isnan(found).any():
        raise ValueError("x has NaN; expected finite pixels: fill in what is missing, or drop those images")
    if found.ndim > 2 and found.shape[-1] == found.shape[-2]:
        pixels = found.shape[-1] ** 2
        raise ValueError(
            f"x has shape {found.shape}, which are images in two dimensions; expected (..., {pixels}), a row of pixels "
            f"each: x.reshape(-1, {pixels}), or x.reshape(-1, {found.shape[-1]}) if each row is an image of its own"
        )
    if mass and found.min() < 0:
        raise ValueError(
            f"x has pixels down to {found.min():g}; expected none below 0, since ink counts as mass: give x - x.min()"
        )
    if found.dtype != np.float32:
        raise TypeError(f"x holds {found.dtype}; expected real numbers, between which is interpolated: x.astype(float)")
    side_of(found.shape[-1], "x")
    return jnp.asarray(found)


def side_of(width: int, name: str) -> int:
    """The side of square images with so many pixels.

    Raises:
        ValueError: for rows that are no square images.
    """
    side = math.isqrt(width)
    if side * side != width:
        raise ValueError(f"{name} has rows of {width} pixels; distortions need square images: use distort=0")
    return side


def distorted(x: Array, *, strength: float, key: Array) -> Array:
    """Images moved, turned, scaled and sheared at random, each by its own draw.

    Args:
        x: square images in the last axis, shape (..., side^2).
        strength: of all four; at 1 up to 2 pixels of 28, 0.2 radians, 15 % and a slope of 0.2.
        key: randomness.

    Returns:
        The shape of `x`; what comes in from outside is 0.

    Raises:
        TypeError: for whole numbers, or a key that is none.
        ValueError: for rows that are no square images, or a strength below 0.

    Example:
        >>> distorted(jnp.zeros((1, 16)), strength=1.0, key=jax.random.key(0)).shape
        (1, 16)
    """
    if not strength >= 0:
        raise ValueError(f"strength is {strength}; expected a number of at least 0")
    if not isinstance(key, Array):
        raise TypeError(f"key is {key!r}; expected a key of JAX: jax.random.key(0)")
    x = _seen(x)
    side = side_of(x.shape[-1], "x")
    images = x.reshape(-1, side, side)
    draws = strength * jax.random.uniform(key, (images.shape[0], 6), minval=-1.0, maxval=1.0)
    centre = (side - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(side), jnp.arange(side), indexing="ij")) - centre

    def one(image: Array, draw: Array) -> Array:
        where = jnp.einsum("ij,jab->iab", _matrix(draw), grid) + centre
        row, column = where + _SHIFT * side * draw[4:, None, None]
        return map_coordinates(image, [row, column], order=1)

    return jax.vmap(one)(images, draws).reshape(x.shape)


def straightened(x: Array) -> Array:
    """Images moved to the middle and sheared upright, each by its own moments.

    With ink as mass, m its mean and S its covariance (rows, columns), the pixel at offset (i, j) from the middle is
    read at m + (i, j + i S_01 / S_00): afterwards rows and columns are uncorrelated.

    Args:
        x: square images in the last axis, non-negative, shape (..., side^2).

    Returns:
        The shape of `x`; an empty image, or one of a single row, is not sheared.

    Raises:
        TypeError: for whole numbers.
        ValueError: for rows that are no square images, or pixels below 0.

    Example:
        >>> straightened(jnp.eye(9).reshape(1, 81)).reshape(9, 9).sum(0).argmax().item()
        4
    """
    x = _seen(x, mass=True)
    side = side_of(x.shape[-1], "x")
    images = x.reshape(-1, side, side)
    offsets = jnp.arange(side) - (side - 1) / 2
    i, j = jnp.meshgrid(offsets, offsets, indexing="ij")

    def one(image: Array) -> Array:
        mass = jnp.maximum(image.sum(), jnp.finfo(image.dtype).tiny)
        row, column = (image * i).sum() / mass, (image * j).sum() / mass
        spread = (image * (i - row) ** 2).sum()
        slope = jnp.where(spread > 0.0, (image * (i - row) * (j - column)).sum() / spread, 0.0)
        middle = (side - 1) / 2
        return map_coordinates(image, [i + row + middle, j + column + slope * i + middle], order=1)

    return jax.lax.map(one, images, batch_size=1_000).reshape(x.shape)


def _matrix(draw: Array) -> Array:
    turn, slope = _TURN * draw[0], _SHEAR * draw[1]
    rotation = jnp.array([[jnp.cos(turn), -jnp.sin(turn)], [jnp.sin(turn), jnp.cos(turn)]])
    shear = jnp.eye(2).at[0, 1].set(slope)
    return rotation @ shear @ jnp.diag(jnp.exp(_SCALE * draw[2:4]))
