"""The door: what comes in from outside is checked once, here; inside, arrays are trusted.

Every message says which argument, what was found, what was expected and the way out.
"""

import operator
import os
import re
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_BLOCK_BYTES = 64 << 20
_SMALL_FLOATS = re.compile(r"^(bfloat16|float[468]_?\w*)$")


def as_data(array: Any, *, name: str, allow_missing: bool = False, min_rows: int = 1) -> np.ndarray:
    """Turn `array` into a float32 or int32 NumPy array that an engine can trust, or say what is wrong.

    Args:
        array: numbers of shape (N, ...): NumPy or JAX array, nested list, numeric pandas DataFrame or Series, memmap.
        name: the argument's name, for the messages.
        allow_missing: let NaN through (it then means "missing"); infinity never passes.
        min_rows: the least N that the caller can use.

    Returns:
        Array of the same shape: float32 for real numbers, int32 for integers, bool for booleans. A memmap is checked
        block by block and comes back as it is, so that it is never read into memory whole; its dtype may be wider.

    Raises:
        TypeError: `array` is None, text, objects, complex, sparse or masked.
        ValueError: no rows or too few, no columns, a scalar, infinite, NaN, or beyond the range of float32 or int32.

    Example:
        >>> as_data([[1.0, 2.0], [3.0, 4.0]], name="x").dtype
        dtype('float32')
        >>> as_data([[1.0], [float("nan")]], name="x")
        Traceback (most recent call last):
        ...
        ValueError: x has NaN at row 1, column 0 (1 value in all); expected finite numbers. Pass missing="nan" \
(command line: --missing nan) if NaN means missing, or fill or drop those rows
    """
    found = _to_numpy(array, name)
    _check_kind(found, name)
    _check_shape(found, name, min_rows)
    for start, block in _blocks(found):
        _check_values(block, name, start, allow_missing)
    if isinstance(found, np.memmap):
        return found
    with np.errstate(invalid="ignore"):  # the cast of a signalling NaN
        if found.dtype == bool:
            return np.ascontiguousarray(found)
        return np.ascontiguousarray(found, dtype=np.float32 if _is_real(found.dtype) else np.int32)


def first_rows(array: Any, *, limit: int = 100_000) -> np.ndarray:
    """The array, or for one that stays on disk its first `limit` rows in memory: enough to plan and to scale by."""
    return np.asarray(array[:limit]) if isinstance(array, np.memmap) else np.asarray(array)


def spread_rows(array: Any, count: int | None) -> np.ndarray:
    """So many rows in memory, evenly spread, as what lies first may be all of one kind; None takes all."""
    if count is None or len(array) <= count:
        return np.asarray(array)
    return np.asarray(array[:: len(array) // count][:count])


def check_same_length(arrays: Sequence[Any], names: Sequence[str]) -> int:
    """Check that all arrays have the same number of rows; returns that number."""
    lengths = [len(array) for array in arrays]
    if len(set(lengths)) > 1:
        found = ", ".join(f"{name} has {length}" for name, length in zip(names, lengths, strict=True))
        raise ValueError(f"the arrays differ in their number of rows: {found}; expected one row per datum in each")
    return lengths[0]


def check_seed(seed: Any) -> int:
    """Check that `seed` is a whole number in [0, 2**32); returns it as an int.

    Raises:
        TypeError: not an integer (None, a float, a bool or a key).
        ValueError: outside [0, 2**32), where the generator would keep the low 32 bits in silence.
    """
    value = _whole(seed, "seed")
    if not 0 <= value < 2**32:
        raise ValueError(f"seed is {value}; expected a whole number from 0 to {2**32 - 1}")
    return value


def check_positive_int(value: Any, name: str) -> int:
    """Check that `value` is a whole number of at least 1; returns it as an int."""
    number = _whole(value, name)
    if number < 1:
        raise ValueError(f"{name} is {number}; expected a whole number of at least 1")
    return number


def check_path(path: Any, name: str, *, kind: str = "a folder") -> None:
    """Check that this is a path.

    Raises:
        TypeError: for anything else.
        ValueError: for an empty text.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} is {path!r}; expected the path of {kind}")
    if path == "":
        raise ValueError(f"{name} is empty; expected the path of {kind} ('.' is the present folder)")


def check_fit(fit: Any) -> None:
    """Check that what a function is asked about is a fit.

    Raises:
        TypeError: for anything else.
    """
    if not hasattr(fit, "predict_proba"):
        raise TypeError(f"fit is of type {type(fit).__name__}; expected what vmix.fit(...) or vmix.load(...) returned")


def check_place(folder: Any, name: str) -> None:
    """Check that there is a folder at this path, or that one can be made there.

    Raises:
        TypeError: for what is no path.
        NotADirectoryError: where a file is in the way.
        ValueError: for a name that the system does not take.
    """
    check_path(folder, name)
    for place in (Path(folder), *Path(folder).parents):
        try:
            taken = place.exists() and not place.is_dir()
        except OSError as error:
            found = f"{str(folder)!r}, which cannot be looked up ({error.strerror})"
            raise ValueError(f"{name} is {found}; expected the path of a folder: give another name") from error
        if taken:
            raise NotADirectoryError(
                f"{name} is {str(folder)!r}, but {str(place)!r} is a file; expected a folder, or a place for a new one"
            )


def check_index(value: Any, size: int, name: str) -> int:
    """Check that `value` is a whole number in [0, size); returns it as an int."""
    number = _whole(value, name)
    if not 0 <= number < size:
        raise ValueError(f"{name} is {number}; this fit has components 0..{size - 1}")
    return number


def check_unit_interval(array: np.ndarray, name: str) -> None:
    """Check that every value lies in [0, 1], as Bernoulli pixels must; NaN (missing) is passed over."""
    low, high = _extremes(array)
    if low < 0 or high > 1:
        way_out = "rescale them, or use a Gaussian likelihood"
        if low >= 0 and high <= 255:
            way_out = f"these look like bytes: divide by 255 ({name} / 255)"
        raise ValueError(f"{name} has values from {low:g} to {high:g}; Bernoulli pixels are in [0, 1]: {way_out}")


def check_counts(array: np.ndarray, name: str) -> None:
    """Check that every value is a whole number of at least 0; NaN (missing) is passed over."""
    for start, block in _blocks(array):
        with np.errstate(invalid="ignore"):
            negative, broken = block < 0, (block != np.floor(block)) & ~np.isnan(block)
        for bad, what in ((negative, "negative"), (broken, "not whole")):
            if bad.any():
                where, value = _first(bad, start), block[tuple(np.argwhere(bad)[0])]
                raise ValueError(
                    f"{name} has {value:g} at {where}, which is {what}; expected counts 0, 1, 2, ...: "
                    "use a real-valued likelihood for other numbers"
                )


def check_width(array: np.ndarray, expected: int, name: str) -> None:
    """Check that `array` has shape (N, expected)."""
    if array.ndim != 2:
        raise ValueError(f"{name} has shape {array.shape}; expected (N, {expected}): reshape it to (-1, {expected})")
    if array.shape[1] != expected:
        plural = "" if array.shape[1] == 1 else "s"
        raise ValueError(
            f"{name} has {array.shape[1]} column{plural}; this model was built for data_dim={expected}: give the "
            "columns it was fitted to, in their order"
        )


def constant_columns(array: np.ndarray) -> np.ndarray:
    """Find the columns that hold one value only (missing values aside).

    Args:
        array: data of shape (N, D), or (N,) for one column.

    Returns:
        Indices of the constant columns, ascending, shape (number of them,).
    """
    low = np.fmin.reduce([np.fmin.reduce(block, axis=0) for _, block in _blocks(array)])
    high = np.fmax.reduce([np.fmax.reduce(block, axis=0) for _, block in _blocks(array)])
    return np.flatnonzero(~np.atleast_1d(np.greater(high, low)))


def warn_constant_columns(array: np.ndarray, name: str) -> np.ndarray:
    """Warn (UserWarning) when columns are constant, naming the first ten; returns their indices.

    Raises:
        ValueError: if every column of two rows or more is constant, or one has no value at all.
    """
    if len(array) < 2:
        return np.zeros(0, int)
    columns = constant_columns(array)
    gone = [int(column) for column in columns if np.isnan(array[:, column] if array.ndim > 1 else array).all()]
    if gone:
        listed = ", ".join(map(str, gone[:10])) + (", ..." if len(gone) > 10 else "")
        raise ValueError(
            f"{name} has no value in column{'s'[: len(gone) > 1]} {listed}: all {len(array)} rows are missing there; "
            "expected at least some values in each column: drop it"
        )
    if columns.size == (array.shape[1] if array.ndim > 1 else 1):
        raise ValueError(
            f"{name} is constant: each column holds one value in all {len(array)} rows, so there is nothing to tell "
            "components apart by; expected columns that vary"
        )
    if columns.size:
        listed = ", ".join(map(str, columns[:10])) + (", ..." if columns.size > 10 else "")
        warnings.warn(
            f"{name} has {columns.size} constant column{'s'[: columns.size > 1]} ({listed}): they tell nothing about "
            "the components, and a variance fitted to them rests on its prior alone. Drop them if that is not meant",
            UserWarning,
            stacklevel=3,
        )
    return columns


def _to_numpy(array: Any, name: str) -> np.ndarray:
    _refuse_containers(array, name)
    if isinstance(array, np.memmap):
        return array
    if type(array).__module__.partition(".")[0] == "pandas":
        return _from_pandas(array, name)
    try:
        return np.asarray(array)
    except ValueError as error:
        raise ValueError(
            f"{name} is not a rectangular array of numbers: its rows differ in length; expected shape (N, D): pad "
            "sequences of different lengths to the longest, and give a mask"
        ) from error
    except TypeError as error:
        raise TypeError(f"{name} ({type(array).__name__}) is not an array of numbers: {error}") from error


def _refuse_containers(array: Any, name: str) -> None:
    """Refuse what holds numbers without being an array of them."""
    kind = type(array).__name__
    if array is None:
        raise TypeError(f"{name} is None; expected an array of numbers of shape (N, D)")
    if hasattr(array, "toarray"):
        raise TypeError(f"{name} is sparse ({kind}); expected a dense array: call {name}.toarray()")
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(f'{name} is a masked array; expected a plain one: {name}.filled(np.nan) with missing="nan"')
    jax = sys.modules.get("jax")  # before JAX is imported nothing is traced
    if jax is not None and isinstance(array, jax.core.Tracer):
        raise TypeError(
            f"{name} is traced by a JAX transformation (jit, vmap, grad), so its values are not known yet; expected an "
            "array of numbers: call this outside of the transformation"
        )
    if isinstance(array, Mapping):
        raise TypeError(f"{name} is a {kind} with keys {list(array)[:5]}; expected one array: give {name}[key]")
    if hasattr(array, "modalities") and hasattr(array, "images"):
        raise TypeError(f"{name} is a data set; expected one array of it: give {name}.images")
    if isinstance(array, Iterable) and not isinstance(array, Sequence) and not hasattr(array, "__array__"):
        raise TypeError(f"{name} is a {kind}; expected an array of numbers of shape (N, D): give list({name})")


def _from_pandas(table: Any, name: str) -> np.ndarray:
    """A frame or a series whose every value is a number; nullable ones arrive as objects, and become floats."""
    frame = table if hasattr(table, "select_dtypes") else table.to_frame(table.name or name)
    text = list(frame.select_dtypes(exclude=["number", "bool"]).columns)
    if text:
        listed = ", ".join(f"{column!r}" for column in text)
        raise TypeError(f"{name} has columns without numbers ({listed}); expected numbers alone: drop or encode them")
    values = np.asarray(table)
    return table.to_numpy(dtype="float64", na_value=np.nan) if values.dtype.hasobject else values


def _check_kind(array: np.ndarray, name: str) -> None:
    kinds = {"U": "text", "S": "text", "T": "text", "c": "complex numbers", "V": "records", "M": "dates", "m": "times"}
    if array.dtype.kind in "biuf" or _is_real(array.dtype):
        return
    if array.dtype.kind == "O":
        _refuse_objects(array, name)
    what = kinds.get(array.dtype.kind, "values")
    way = "encode or convert them"
    if array.dtype.kind == "U" and array.ndim == 0:
        way = f"read a file with vmix.data.load({str(array)!r}).x"
    if array.dtype.kind == "c":
        way = f"give np.abs({name}), or real and imaginary parts as columns"
    raise TypeError(f"{name} holds {what} (dtype {array.dtype}); expected real numbers: {way}")


def _refuse_objects(array: np.ndarray, name: str) -> None:
    """Refuse an array of Python objects, naming the first that is no number."""
    for index in np.ndindex(array.shape):
        value = array[index]
        if not isinstance(value, int | float | np.number | np.bool_):
            raise TypeError(
                f"{name} holds Python objects: {type(value).__name__} at {_place(index, 0)}; expected real numbers: "
                "encode or convert them"
            )
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{name} is beyond int32 at {_place(index, 0)}; expected at most 2147483647: use floats")
    raise TypeError(f"{name} holds numbers as Python objects; expected an array of them: {name}.astype(float)")


def _is_real(dtype: np.dtype) -> bool:
    return dtype.kind == "f" or bool(_SMALL_FLOATS.match(dtype.name))


def _check_shape(array: np.ndarray, name: str, min_rows: int) -> None:
    if array.ndim == 0:
        raise ValueError(f"{name} is a single number; expected an array of shape (N, D)")
    if array.size == 0:
        raise ValueError(f"{name} is empty (shape {array.shape}); expected at least {min_rows} row(s) and one column")
    if len(array) < min_rows:
        rows = "row" if len(array) == 1 else "rows"
        raise ValueError(f"{name} has {len(array)} {rows} (shape {array.shape}); expected at least {min_rows}")


def _check_values(block: np.ndarray, name: str, start: int, allow_missing: bool) -> None:
    if not _is_real(block.dtype):
        limits = np.iinfo(np.int32)
        if block.dtype.kind == "b" or (int(block.min()) >= limits.min and int(block.max()) <= limits.max):
            return
        where = _first((block < limits.min) | (block > limits.max), start)
        raise ValueError(f"{name} is beyond int32 at {where}; expected {limits.min} to {limits.max}: use floats")
    if block.dtype.kind != "f":
        block = block.astype(np.float32)
    finite = np.isfinite(block)
    if not finite.all():
        _refuse_infinite(block, name, start)
        if not allow_missing:
            nan = np.isnan(block)
            count = int(nan.sum())
            raise ValueError(
                f"{name} has NaN at {_first(nan, start)} ({count} value{'s'[: count > 1]} in all); expected finite "
                'numbers. Pass missing="nan" (command line: --missing nan) if NaN means missing, or fill or drop those '
                "rows"
            )
    if block.dtype.itemsize > 4:
        beyond = np.abs(np.where(finite, block, 0)) > np.finfo(np.float32).max
        if beyond.any():
            where = _first(beyond, start)
            raise ValueError(f"{name} is finite but beyond float32 at {where}; expected less than 3.4e38: rescale it")


def _refuse_infinite(block: np.ndarray, name: str, start: int) -> None:
    infinite = np.isinf(block)
    if infinite.any():
        where = _first(infinite, start)
        raise ValueError(f"{name} has an infinite value at {where}; expected finite numbers: repair or drop it")


def _blocks(array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    # Blocks of rows keep a memmap out of memory and the temporary masks small.
    rows = max(1, _BLOCK_BYTES // max(1, array.nbytes // len(array)))
    for start in range(0, len(array), rows):
        yield start, np.asarray(array[start : start + rows])


def _first(bad: np.ndarray, start: int) -> str:
    return _place(tuple(int(index) for index in np.argwhere(bad)[0]), start)


def _place(index: tuple[int, ...], start: int) -> str:
    if not index:
        return "its only entry"
    row, *column = index
    place = f"row {row + start}"
    return place + (f", column {column[0] if len(column) == 1 else tuple(column)}" if column else "")


def _extremes(array: np.ndarray) -> tuple[float, float]:
    pairs = [(np.fmin.reduce(block, axis=None), np.fmax.reduce(block, axis=None)) for _, block in _blocks(array)]
    return float(np.fmin.reduce([low for low, _ in pairs])), float(np.fmax.reduce([high for _, high in pairs]))


def _whole(value: Any, name: str) -> int:
    if not isinstance(value, bool | np.bool_):
        try:
            return operator.index(value)
        except TypeError:
            pass
    kind = type(value).__name__
    shown = f"a {kind}" if hasattr(value, "dtype") else f"{value!r} ({kind})"  # an array's text says little
    raise TypeError(f"{name} is {shown}; expected a whole number such as {name}=3")
