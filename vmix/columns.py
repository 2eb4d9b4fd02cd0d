"""Columns of a table: their names, and how pages draw them, in their own standard deviations where sizes differ.

Incomes in thousands beside ages in tens: in one picture the first would be all there is to see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_COLUMNS = 30
DIFFERENT = 10.0  # times the smallest standard deviation, from which on columns are drawn in their own
MAX_NAME = 24


class Columns(NamedTuple):
    """How columns are drawn.

    Attributes:
        names: one a column; None where they have none.
        loc: what is taken from them, shape (D,); zeros where their sizes are alike.
        scale: what they are divided by, shape (D,); ones where their sizes are alike.
    """

    names: list[str] | None
    loc: np.ndarray
    scale: np.ndarray

    @property
    def differ(self) -> bool:
        """Whether they are drawn in their own standard deviations."""
        return bool((self.scale != 1).any())

    def even(self, rows: np.ndarray) -> np.ndarray:
        """Rows of these columns, shape (n, D), in the unit they are drawn in; others as they are."""
        rows = np.asarray(rows, np.float64)
        return (rows - self.loc) / self.scale if rows.shape[-1] == len(self.loc) else rows


def columns_of(rows: np.ndarray, names: Sequence[str] | None = None) -> Columns:
    """Judge the sizes of columns; missing entries are left out.

    Args:
        rows: some rows of the table, shape (n, D).
        names: of the columns.

    Raises:
        ValueError: for another number of names than columns.

    Example:
        >>> rows = np.array([[20.0, 30_000.0], [40.0, 50_000.0]])
        >>> columns_of(rows).even(rows).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
        >>> columns_of(rows / [1, 1_000]).differ
        False
    """
    loc, scale = _moments(np.asarray(rows, np.float64))
    if names is not None and len(names) != len(loc):
        raise ValueError(f"columns has {len(names)} names; the data have {len(loc)} columns: give one for each")
    short = None if names is None else [n if len(n) <= MAX_NAME else f"{n[: MAX_NAME - 1]}\u2026" for n in names]
    vary = scale[scale > 0]
    if vary.size == 0 or vary.max() <= DIFFERENT * vary.min():
        return Columns(short, np.zeros_like(loc), np.ones_like(scale))
    return Columns(short, loc, np.where(scale > 0, scale, 1.0))


def kind_of(table: Any) -> str | None:
    """The library a table is of: "pandas", "pyarrow" or "xarray"; None for plain arrays.

    Example:
        >>> kind_of(np.zeros((2, 2))) is None
        True
    """
    library = type(table).__module__.partition(".")[0]
    return library if library in ("pandas", "pyarrow", "xarray") else None


def column_names(table: Any) -> list[str] | None:
    """Names of a table's columns; None where it has none.

    Args:
        table: a frame, an Arrow table, an xarray array whose last dimension has coordinates, or names themselves.

    Raises:
        TypeError: for what holds no names.
    """
    kind = kind_of(table)
    if kind == "pandas":
        return [str(name) for name in (table.columns if hasattr(table, "columns") else [table.name])]
    if kind == "pyarrow":
        return [str(name) for name in table.column_names]
    if kind == "xarray":
        last = table.dims[-1]
        return [str(name) for name in table.coords[last].values] if last in table.coords else None
    if isinstance(table, str) or not np.iterable(table):
        raise TypeError(
            f"columns is {table!r}; expected the names of the columns, one for each, or a table that has them"
        )
    return None if isinstance(table, np.ndarray) and table.ndim > 1 else [str(name) for name in table]


def names_of(table: Any) -> list[str] | None:
    """Names of the columns of a frame, an Arrow table or a labelled xarray array of rows; None where there are none."""
    kind = kind_of(table)
    if kind is None or (kind == "pandas" and not hasattr(table, "columns")):
        return None
    if kind == "xarray" and (table.ndim != 2 or table.coords.get(table.dims[-1], np.zeros(0)).dtype.kind not in "UO"):
        return None  # numbers along the last dimension are steps or places, not names
    return column_names(table)


def check_names(table: Any, fitted: list[str] | None, name: str) -> None:
    """Check that a table has the columns that were fitted, in their order; what has no names is not judged.

    Raises:
        ValueError: for other columns, or another order.
    """
    found = names_of(table)
    if fitted is None or found is None or found == fitted:
        return
    gone = [column for column in fitted if column not in found]
    what = f"no column {gone[0]!r}" if gone else "its columns in another order, or others beside them"
    raise ValueError(
        f"{name} has {what}: {found[:10]}; this model was fitted to {fitted[:10]}: give these columns, in this order"
    )


def profile(data: np.ndarray, predicted: np.ndarray, names: Sequence[str] | None = None) -> dict[str, Any]:
    """Mean of each column over the rows of each component, beside that over all rows; missing entries are left out.

    Args:
        data: rows, shape (N, D).
        predicted: component of each row, shape (N,).
        names: of the columns; their numbers when None.

    Returns:
        `names`, and `lines` of a name and cells: the mean as text, and as `share` how far it lies from that over all
        rows, 1 standing for two standard deviations or more.

    Example:
        >>> found = profile(np.array([[1.0], [np.nan], [7.0]]), np.array([0, 0, 1]), ["age"])
        >>> [(line["name"], line["cells"][0]["text"]) for line in found["lines"]]
        [('all rows', '4.00'), ('0', '1.00'), ('1', '7.00')]
    """
    data = np.asarray(data, np.float64).reshape(len(data), -1)
    loc, scale = _moments(data)
    lines = [("all rows", loc)] + [(str(k), _moments(data[predicted == k])[0]) for k in np.unique(predicted)]
    found = []
    for name, means in lines:
        far = np.nan_to_num(np.abs(means - loc) / np.where(scale > 0, 2 * scale, np.inf)).clip(0, 1)
        texts = [_text(mean, width) for mean, width in zip(means, scale, strict=True)]
        cells = [{"text": text, "share": f"{share:.3f}"} for text, share in zip(texts, far, strict=True)]
        found.append({"name": name, "cells": cells})
    return {"names": [str(name) for name in (range(len(loc)) if names is None else names)], "lines": found}


def _moments(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column over what is known of it; NaN and 0 where nothing is."""
    known = np.isfinite(rows)
    count = known.sum(0)
    loc = np.where(known, rows, 0.0).sum(0) / np.maximum(count, 1)
    scale = np.sqrt((np.where(known, rows - loc, 0.0) ** 2).sum(0) / np.maximum(count, 1))
    return np.where(count > 0, loc, np.nan), scale


def _text(mean: float, scale: float) -> str:
    """A mean with as many digits as its column's standard deviation makes worth reading."""
    if not math.isfinite(mean):
        return "none"
    digits = 2 - math.floor(math.log10(scale)) if scale > 0 else 2
    return f"{mean:,.{max(digits, 0)}f}" if digits <= 6 else f"{mean:.4g}"
