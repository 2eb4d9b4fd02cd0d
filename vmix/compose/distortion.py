"""Random distortions of square images, for networks that shall not see position, slant and size."""

from __future__ import annotations

import math

import numpy as np

# at strength 1: pixels of 28, radians, log factor, slope
_SHIFT, _TURN, _SCALE, _SHEAR = 2.0 / 28.0, 0.2, 0.15, 0.2


def distorted(x: np.ndarray, *, strength: float, seed: int) -> np.ndarray:
    """Images moved, turned, scaled and sheared at random, each by its own draw.

    Args:
        x: square images, one a row, shape (N, side^2).
        strength: of all four; at 1 up to 2 pixels of 28, 0.2 radians, 15 % and a slope of 0.2.
        seed: a whole number.

    Returns:
        Shape (N, side^2), within the range of `x`.

    Raises:
        ValueError: for rows that are no square images.

    Example:
        >>> image = np.zeros((1, 16), np.float32)
        >>> distorted(image, strength=1.0, seed=0).shape
        (1, 16)
    """
    from scipy.ndimage import affine_transform

    side = math.isqrt(x.shape[1])
    if side * side != x.shape[1]:
        raise ValueError(f"x has rows of {x.shape[1]} pixels; distortions need square images: use distort=0")
    rng = np.random.default_rng(seed)
    centre, out = np.full(2, (side - 1) / 2), np.empty_like(x)
    for i, image in enumerate(x.reshape(-1, side, side)):
        turn, shear = strength * rng.uniform(-1, 1, 2) * (_TURN, _SHEAR)
        scale = np.exp(strength * _SCALE * rng.uniform(-1, 1, 2))
        move = strength * _SHIFT * side * rng.uniform(-1, 1, 2)
        rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        matrix = rotation @ np.array([[1.0, shear], [0.0, 1.0]]) @ np.diag(scale)
        out[i] = affine_transform(image, matrix, offset=centre - matrix @ centre + move, order=1).reshape(-1)
    return np.clip(out, x.min(), x.max())
