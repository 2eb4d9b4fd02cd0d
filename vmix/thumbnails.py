"""Small pictures of many rows in one PNG, for a page that shows them on demand."""

from __future__ import annotations

import io
import math
from typing import NamedTuple

import numpy as np

from vmix.plots import data_uri, image_shape

MAX_THUMBNAIL = 28


class Sheet(NamedTuple):
    """Small pictures of rows in one PNG: row n in line n // columns, place n % columns."""

    uri: str
    width: int
    height: int
    columns: int


def sheet_of(rows: np.ndarray) -> Sheet | None:
    """Rows that are square images on one sheet, in 16 greys, at most 28 pixels wide; None where they are no images.

    Args:
        rows: shape (n, D).
    """
    rows = np.asarray(rows, np.float32).reshape(len(rows), -1)
    shape = image_shape(rows.shape[1])
    if shape is None:
        return None
    from PIL import Image

    stride = -(-shape[0] // MAX_THUMBNAIL)
    small = np.nan_to_num(rows.reshape(len(rows), *shape)[:, ::stride, ::stride])
    columns = math.isqrt(len(small) - 1) + 1
    padded = np.zeros((-(-len(small) // columns) * columns, *small.shape[1:]), np.float32)
    padded[: len(small)] = (small - small.min()) / (small.max() - small.min() or 1.0)
    height, width = padded.shape[1:]
    sheet = padded.reshape(-1, columns, height, width).swapaxes(1, 2).reshape(-1, columns * width)
    image = Image.fromarray((15 * sheet).round().astype(np.uint8), mode="P")
    image.putpalette([17 * shade for shade in range(16) for _ in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True, bits=4)
    return Sheet(data_uri(buffer.getvalue()), width, height, columns)
