"""Data sets by name, and the user's own files: shapes, dtypes and sizes are checked, nothing is ever unpickled."""
# Length: each of four formats refuses its own kinds of damage by name.

import array as flat
import csv
import difflib
import gzip
import hashlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from vmix.checks import as_data, check_path, check_positive_int, check_same_length
from vmix.downloading import download
from vmix.suggesting import knows_its_options

Split = Literal["train", "test", "all"]
_GIB = 1 << 30
_LABEL_KEYS = ("y", "labels", "label", "digit", "target")
_IMAGE_KEYS = ("x", "images", "image", "data")
_IDX_DTYPES = {8: ">u1", 9: ">i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}
_SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")
# What spreadsheets and statistics programs write where a value is missing; float() reads "nan" by itself.
_NO_VALUE = ("", "na", "n/a", "null", "none")
# SHA-256 over the sorted SHA-256s of (784 pixel bytes, one label byte): the rows of each split, whatever their order.
_MNIST_ROWS = {
    "train": "54e1ab866c9484947dd4821c52bb7a43938f555d6b046be6af55247f8e6ffc64",
    "test": "97b756d55950f1841ebd48df7379b9b2fc87a10d63e08d6213dad41d564e8508",
}
# As Keras publishes it.
_MNIST_URL = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
_MNIST_SHA256 = "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1"
_Found = tuple[np.ndarray, np.ndarray | None, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Dataset:
    """What `load` returns.

    Attributes:
        images: the data, shape (N, D), or (N,) for a file of one column; float32 or int32, or a memmap.
        labels: classes as int64 of shape (N,), or None.
        name: the data set's name, or the file's.
        meta: where it came from; `image_shape`, `classes` (the names behind text labels) and the like where known.
        modalities: further arrays with the same rows, by name (Serket: "image" and "speech").
    """

    images: np.ndarray
    labels: np.ndarray | None
    name: str
    meta: dict[str, Any] = field(default_factory=dict)
    modalities: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def x(self) -> np.ndarray:
        """The data, for those that are no images."""
        return self.images


@knows_its_options
def load(
    name_or_path: str | os.PathLike[str],
    *,
    split: Split = "all",
    limit: int | None = None,
    label: str | int | None = None,
    columns: Sequence[str | int] | None = None,
    max_bytes: int = 8 * _GIB,
    mmap_above: int = _GIB,
) -> Dataset:
    """Load a data set by name ("digits", "mnist", "serket") or from a .npy, .npz, .csv or IDX file.

    "mnist" is looked for in `$VMIX_DATA/mnist.npz`, then in the cache (`$VMIX_CACHE`, else `~/.cache/vmix`), then
    fetched into the cache and verified by its checksum. A file's numbers are kept as they are, but uint8 arrays of
    three or more dimensions are images: they are divided by 255. Three and more dimensions are flattened to (N, D).

    Args:
        name_or_path: a name; or a path, for an .npz also "file.npz::key".
        split: "train", "test" or "all" (train, then test) where the data set or an .npz with x_train, y_train, x_test,
            y_test has them.
        limit: keep the first `limit` rows.
        label: the label column of a .csv (name, or index from 0), or the label key of an .npz.
        columns: the columns of a .csv to read, in this order (names, or indices from 0); all but the label's when None.
        max_bytes: refuse a file that is larger than this when decompressed.
        mmap_above: an .npy file larger than this comes back as a read-only np.memmap, its values unread and unscaled.

    Returns:
        A `Dataset`.

    Raises:
        TypeError: an option of another kind, or one that there is not: NaN in a file is kept, `vmix.fit(missing="nan")`
            says what it means.
        ValueError: no such name or file, or a file that is damaged, too large, or holds something other than numbers.

    Example:
        >>> digits = load("digits")
        >>> digits.images.shape, float(digits.images.max()), digits.labels.shape
        ((1797, 64), 1.0, (1797,))
    """
    if split not in ("train", "test", "all"):
        raise ValueError(f'split is {split!r}; expected "train", "test" or "all"')
    check_path(name_or_path, "name_or_path", kind='a file, or the name of a data set ("digits", "mnist", "serket")')
    if isinstance(columns, str) or not (columns is None or isinstance(columns, Iterable)):
        raise TypeError(f"columns is {columns!r}; expected a list of names or indices, as ['age', 'income']")
    check_positive_int(max_bytes, "max_bytes")
    check_positive_int(mmap_above, "mmap_above")
    if columns is not None and not str(name_or_path).lower().endswith(".csv"):
        raise _bad(name_or_path, f"asked for columns {list(columns)}", "a .csv file: only there columns have names")
    if label is not None and not str(name_or_path).partition("::")[0].lower().endswith((".csv", ".npz")):
        raise _bad(name_or_path, f"asked for label {label!r}", "a .csv or .npz file: only there labels have names")
    rows = slice(None if limit is None else check_positive_int(limit, "limit"))
    named = {"digits": _digits, "mnist": _mnist, "serket": _serket}.get(str(name_or_path))
    if named:
        if split != "all" and named is not _mnist:
            raise _bad(name_or_path, f"asked for split {split!r}", "split='all': it has no train/test split")
        return named(split, rows, max_bytes)
    path, _, key = str(name_or_path).partition("::")
    file = Path(path).expanduser()
    if not file.is_file():
        close = difflib.get_close_matches(path, ("digits", "mnist", "serket"), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        if file.is_dir():
            hint = "; it is a folder: give a file in it"
        elif "://" in path:
            hint = "; addresses are not fetched: download it, and give the file"
        raise ValueError(f"{path!r} is neither a data set (digits, mnist, serket) nor a file{hint}")
    lower = file.name.lower()
    if lower.endswith(".npz"):
        return _own(file, _from_npz(file, (key or None, label), split, max_bytes), rows)
    if key or split != "all":
        raise _bad(file, f"asked for key {key!r} and split {split!r}", "neither: only an .npz file has keys and splits")
    if lower.endswith(".csv"):
        return _own(file, _from_csv(file, label, columns, max_bytes), rows)
    if lower.endswith(".npy"):
        return _own(file, (_from_npy(file, max_bytes, mmap_above), None, {}), rows)
    if lower.endswith((".idx", ".idx.gz", "-ubyte", "-ubyte.gz")):
        return _own(file, (parse_idx(_read_bytes(file, max_bytes), str(file)), None, {}), rows)
    raise _bad(file, "the name tells no known kind", ".npy, .npz, .csv, .idx, .idx.gz, -ubyte or -ubyte.gz")


def header_of(path: str | os.PathLike[str]) -> list[str] | None:
    """The names in the first row of a .csv file; None where these are numbers, and for other files."""
    file = Path(path).expanduser()
    if not (file.name.lower().endswith(".csv") and file.is_file()):
        return None
    with open(file, newline="", encoding="utf-8-sig", errors="replace") as stream:
        first: list[str] = next(csv.reader(stream), [])
    return first if first and _numbers(first) is None else None


def parse_idx(raw: bytes, where: str) -> np.ndarray:
    """Read an array from the bytes of an IDX file; a ValueError starts with `where`, the file's name."""
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in _IDX_DTYPES or raw[3] == 0:
        raise _bad(where, f"starts with {raw[:4]!r}", "an IDX magic number such as b'\\x00\\x00\\x08\\x03'")
    dtype, offset = np.dtype(_IDX_DTYPES[raw[2]]), 4 + 4 * raw[3]
    shape = struct.unpack(f">{raw[3]}I", raw[4:offset]) if len(raw) >= offset else ()
    expected = offset + math.prod(shape) * dtype.itemsize
    if not shape or len(raw) != expected:
        raise _bad(where, f"has {len(raw)} bytes", f"{expected} for shape {shape}: get the file again")
    return np.frombuffer(raw, dtype, offset=offset).reshape(shape)


def cache_folder() -> Path:
    """The folder for downloaded data: `$VMIX_CACHE`, else `$XDG_CACHE_HOME/vmix`, else `~/.cache/vmix`."""
    return Path(os.environ.get("VMIX_CACHE") or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/vmix").expanduser()


def _bad(where: object, found: str, expected: str) -> ValueError:
    return ValueError(f"{where}: {found}; expected {expected}")


def _digits(_: Split, rows: slice, __: int) -> Dataset:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.data[rows] / 16).astype(np.float32)
    return Dataset(images, bunch.target[rows].astype(np.int64), "digits", {"image_shape": (8, 8)})


def _serket(_: Split, rows: slice, max_bytes: int) -> Dataset:
    file = Path(os.environ.get("VMIX_DATA") or os.devnull).expanduser() / "serket_mnist_spoken_digits.npz"
    if not file.is_file():
        keys = "image (N, 784) uint8, speech (N, V) counts, digit (N,)"
        raise _bad(file.name, "the file was not found", f"it in the folder that VMIX_DATA names, with keys {keys}")
    arrays = _npz_arrays(file, ("image", "speech", "digit"), max_bytes)
    check_same_length(list(arrays.values()), list(arrays))
    modalities = {"image": _unit(arrays["image"][rows]), "speech": as_data(arrays["speech"][rows], name="speech")}
    labels = arrays["digit"][rows].astype(np.int64)
    return Dataset(modalities["image"], labels, "serket", {"source": str(file), "image_shape": (28, 28)}, modalities)


def _mnist(split: Split, rows: slice, max_bytes: int) -> Dataset:
    own = Path(os.environ.get("VMIX_DATA") or os.devnull).expanduser() / "mnist.npz"
    file = own if own.is_file() else cache_folder() / "mnist.npz"
    if not file.is_file():
        _fetch_mnist(file)
    arrays = _npz_arrays(file, _SPLIT_KEYS, max_bytes)
    for key, values in arrays.items():
        if values.dtype != np.uint8 or values.shape[1:] != ((28, 28) if key[0] == "x" else ()):
            raise _bad(file, f"{key} is {values.dtype} {values.shape}", "uint8 images (n, 28, 28), labels (n,)")
    images, labels = _split_of(arrays, split, file)
    verified = _mnist_verified(arrays)
    if not verified and file != own:
        raise _bad(file, "its checksum is not MNIST's", "the file as fetched: delete it to fetch it again")
    meta = {"source": str(file), "image_shape": (28, 28), "verified": verified}
    return Dataset(_unit(images[rows].reshape(-1, 784)), labels[rows].astype(np.int64), "mnist", meta)


def _fetch_mnist(file: Path) -> None:
    try:
        download(_MNIST_URL, file, sha256=_MNIST_SHA256, max_bytes=1 << 25)
    except OSError as error:
        raise ValueError(
            f"mnist: no file, and it could not be fetched ({error}); expected mnist.npz (uint8 x_train (60000, 28, "
            "28), y_train (60000,), x_test (10000, 28, 28), y_test (10000,)) in the folder that VMIX_DATA names, or at "
            f"{file}. load('digits') needs no download"
        ) from error


def _mnist_verified(arrays: dict[str, np.ndarray]) -> bool:
    for part, expected in _MNIST_ROWS.items():
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        rows = np.concatenate([images.reshape(len(images), -1), labels[:, None]], axis=1)
        digests = sorted(hashlib.sha256(row).digest() for row in rows)
        if hashlib.sha256(b"".join(digests)).hexdigest() != expected:
            return False
    return True


def _own(file: Path, found: _Found, rows: slice) -> Dataset:
    values, labels, meta = found
    if values.ndim == 0:
        raise _bad(file, "holds a single number", "an array of shape (N, D)")
    meta = {"source": str(file)} | meta | ({"image_shape": values.shape[1:]} if values.ndim > 2 else {})
    if labels is not None:
        check_same_length([values, labels], [f"{file}: data", "labels"])
        labels, classes = _codes(labels[rows], str(file))
        meta |= classes
    values, pixels = values[rows], values.ndim > 2 and values.dtype == np.uint8
    if not isinstance(values, np.memmap):
        values = as_data(values, name=str(file), allow_missing=True)
        values = _unit(values) if pixels else values
    return Dataset(values.reshape(len(values), -1) if values.ndim > 2 else values, labels, file.name, meta)


def _unit(pixels: np.ndarray) -> np.ndarray:
    return np.divide(pixels, np.float32(255), dtype=np.float32, casting="unsafe")


def _codes(labels: np.ndarray, where: str) -> tuple[np.ndarray, dict[str, Any]]:
    if labels.ndim != 1:
        raise _bad(where, f"labels have shape {labels.shape}", "one per row, (N,)")
    with suppress(ValueError):
        numbers = labels.astype(np.float64)
        if (np.abs(numbers) < 2**63).all() and (numbers == np.round(numbers)).all():
            return numbers.astype(np.int64), {}
    classes, codes = np.unique(labels.astype(str), return_inverse=True)
    if "nan" in classes:
        raise _bad(where, "labels have NaN", "a class for every row")
    return codes.astype(np.int64), {"classes": classes.tolist()}


def _read_bytes(file: Path, max_bytes: int) -> bytes:
    try:
        # Reading to the end, and one byte beyond the limit, is what makes gzip check its CRC and a bomb show itself.
        with gzip.open(file) if file.name.lower().endswith(".gz") else open(file, "rb") as stream:
            raw = stream.read(max_bytes + 1)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise _bad(file, f"damaged gzip data ({error})", "a whole .gz file: get it again") from error
    _check_size(file, len(raw), max_bytes)
    return raw


def _check_size(where: object, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise _bad(where, f"has {size} bytes or more", f"at most max_bytes={max_bytes}: raise it if you trust the file")


def _from_npy(file: Path, max_bytes: int, mmap_above: int) -> np.ndarray:
    size = file.stat().st_size
    with open(file, "rb") as stream:
        if size <= mmap_above:
            return _read_npy(stream, size, str(file), max_bytes)
        dtype, shape, fortran = _npy_header(stream, size, str(file))
        return np.memmap(file, dtype, "r", stream.tell(), shape, "F" if fortran else "C")


def _read_npy(stream: IO[bytes], size: int, where: str, max_bytes: int) -> np.ndarray:
    _check_size(where, size, max_bytes)
    dtype, shape, fortran = _npy_header(stream, size, where)
    values = np.frombuffer(stream.read(), dtype)
    return values.reshape(shape[::-1]).T if fortran else values.reshape(shape)


def _npy_header(stream: IO[bytes], size: int, where: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except Exception as error:  # the header parser raises whatever a mutilated header leads it to
        raise _bad(where, f"no readable .npy header ({error})", "a file by np.save") from error
    if dtype.kind not in "biuf":
        raise _bad(where, f"holds {dtype}", "plain numbers: objects are pickles, and never loaded")
    expected = stream.tell() + math.prod(shape) * dtype.itemsize
    if size != expected or min(shape, default=0) < 0:
        raise _bad(where, f"has {size} bytes", f"{expected} for shape {shape}: get the file again")
    return dtype, shape, fortran


@contextmanager
def _npz(file: Path) -> Iterator[dict[str, Callable[[int], np.ndarray]]]:
    try:
        with zipfile.ZipFile(file) as archive:
            read = partial(_npz_member, archive, file)
            yield {info.filename.removesuffix(".npy"): partial(read, info) for info in archive.infolist()}
    except Exception as error:  # zipfile raises half a dozen kinds for a damaged archive
        if isinstance(error, ValueError) and not isinstance(error, UnicodeError):  # ours; the other is a damaged name
            raise
        raise _bad(file, f"damaged .npz ({error})", "a file by np.savez: get it again") from error


def _npz_member(archive: zipfile.ZipFile, file: Path, info: zipfile.ZipInfo, max_bytes: int) -> np.ndarray:
    with archive.open(info) as stream:
        return _read_npy(stream, info.file_size, f"{file}::{info.filename}", max_bytes)


def _npz_arrays(file: Path, keys: tuple[str, ...], max_bytes: int) -> dict[str, np.ndarray]:
    with _npz(file) as members:
        missing = [key for key in keys if key not in members]
        if missing:
            raise _bad(file, f"has the keys {sorted(members)}", f"{missing} among them")
        found: dict[str, np.ndarray] = {}
        for key in keys:  # the limit is for all of them
            found[key] = members[key](max_bytes - sum(values.nbytes for values in found.values()))
        return found


def _from_npz(file: Path, asked: tuple[str | None, str | int | None], split: Split, max_bytes: int) -> _Found:
    with _npz(file) as members:
        names = list(members)
    (key, label), arrays = asked, partial(_npz_arrays, file, max_bytes=max_bytes)
    if key is None and set(_SPLIT_KEYS) <= set(names):
        return *_split_of(arrays(_SPLIT_KEYS), split, file), {}
    if split != "all":
        raise _bad(file, f"asked for split {split!r}, found keys {names}", f"{list(_SPLIT_KEYS)} for a split")
    label = str(label) if label is not None else next((name for name in _LABEL_KEYS if name in names), None)
    labels = None if label in (None, key) else arrays((label,))[label]
    key = key or next((name for name in _IMAGE_KEYS if name in names), None)
    if key is None:
        rest = arrays(tuple(name for name in names if name != label))
        tables = [name for name, values in rest.items() if values.ndim >= 2]
        if len(tables) != 1:
            raise _bad(file, f"cannot tell which of {names} is the data", f"a choice: '{file}::KEY'")
        key = tables[0]
    return arrays((key,))[key], labels, {}


def _split_of(arrays: dict[str, np.ndarray], split: Split, file: Path) -> tuple[np.ndarray, np.ndarray]:
    for part in ("train", "test"):
        check_same_length([arrays[f"x_{part}"], arrays[f"y_{part}"]], [f"{file}::x_{part}", f"y_{part}"])
    if split != "all":
        return arrays[f"x_{split}"], arrays[f"y_{split}"]
    images = np.concatenate([arrays["x_train"], arrays["x_test"]])
    return images, np.concatenate([arrays["y_train"], arrays["y_test"]])


def _from_csv(file: Path, label: str | int | None, columns: Sequence[str | int] | None, max_bytes: int) -> _Found:
    _check_size(file, file.stat().st_size, max_bytes)
    try:
        with open(file, newline="", encoding="utf-8-sig") as stream:
            return _csv_table(csv.reader(stream, strict=True), file, label, columns)
    except (csv.Error, UnicodeDecodeError) as error:
        raise _bad(file, str(error), "comma-separated text in UTF-8") from error


def _csv_table(reader: Any, file: Path, label: str | int | None, columns: Sequence[str | int] | None) -> _Found:
    rows = filter(None, reader)
    first: list[str] = next(rows, [])
    at_label = None if label is None else _place_of(label, first, file, "label column")
    kept = [at for at in range(len(first)) if at != at_label]
    if columns is not None:
        kept = [_place_of(column, first, file, "column") for column in columns]
    if columns is not None and (at_label in kept or len(set(kept)) < len(kept) or not kept):
        raise _bad(file, f"asked for columns {columns!r}, label {label!r}", "columns, each once, beside the label's")
    header = [first[at] for at in kept]
    named = any(isinstance(one, str) for one in (label, *(columns or ()))) or _numbers(header) is None
    values, labels = flat.array("d"), []
    for row in rows if named else chain([first], rows):
        where = f"{file}, line {reader.line_num}"
        if len(row) != len(first):
            raise _bad(where, f"has {len(row)} cells", f"{len(first)} as in the first row")
        labels += [] if at_label is None else [row[at_label]]
        numbers = _numbers([row[at] for at in kept])
        if numbers is None:
            at = next(at for at in kept if _numbers([row[at]]) is None)
            ways = "say which columns are data, columns=[...] (--columns), or labels, label= (--label-column)"
            raise _bad(where, f"found {row[at]!r} in column {first[at] if named else at!r}", f"a number: {ways}")
        values.extend(numbers)
    if not values:
        raise _bad(file, "has no rows of numbers", "at least one")
    table = np.frombuffer(values, np.float64).reshape(-1, len(header))
    return table, np.array(labels) if labels else None, {"columns": header} if named else {}


def _place_of(column: str | int, first: list[str], file: Path, what: str) -> int:
    """Where a column is, by its name in the first row or by its number, which may count from the end."""
    try:
        return first.index(column) if isinstance(column, str) else range(len(first))[column]
    except (ValueError, IndexError) as error:
        raise _bad(file, f"asked for {what} {column!r}", f"one of {first[:20]}, or an index") from error


def _numbers(cells: list[str]) -> list[float] | None:
    # float() would take 1_000 for a number, no spreadsheet writes that.
    if "_" in "".join(cells):
        return None
    try:
        return [math.nan if cell.strip().lower() in _NO_VALUE else float(cell) for cell in cells]
    except ValueError:
        return None
