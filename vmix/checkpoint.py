"""Checkpoints: a folder with arrays in safetensors and `manifest.json`; whole, verified, and never a pickle.

`manifest.json` names the arrays' file, its size and SHA-256, and carries its own SHA-256. A save writes both files
under new names, syncs them, and renames the manifest over the old one: that one rename is the moment at which the new
checkpoint takes the old one's place. Loading hashes first and parses second. The hashes find damage, not intent.

`set_aside` keeps a checkpoint in a folder of its own while the next one takes its place.
"""
# Length: reading and writing, the tree's and the disk's half of each, must agree with each other.

import hashlib
import json
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from vmix.checks import check_place

FORMAT = 1
MANIFEST = "manifest.json"
PREVIOUS = "previous"
_HEAD = b'{"manifest_sha256": "'
_ARRAYS = re.compile(r"arrays-[0-9a-f]{16}\.safetensors")
_OURS = re.compile(rf"{_ARRAYS.pattern}|manifest-[0-9a-f]{{16}}\.tmp")
_STALE_SECONDS = 3600
_MANIFEST_BYTES = 256 << 20
_NATIVE = {
    "bool",
    "float16",
    "float32",
    "float64",
    *(f"{kind}{n}" for kind in ("int", "uint") for n in (8, 16, 32, 64)),
}
# Kinds that safetensors does not read back into NumPy: their bytes are stored, their kind is in the manifest.
_AS_BYTES = {"bfloat16", "complex64", "complex128"}


class CheckpointCorrupt(ValueError):
    """A checkpoint that is not, byte for byte, what was saved, or of a format that this version cannot read."""


def save(folder: str | os.PathLike[str], tree: Any, config: Mapping[str, Any]) -> None:
    """Save arrays and configuration; a checkpoint already in `folder` stays valid until the new one is complete.

    Args:
        folder: made when missing.
        tree: nested dicts (keys str or int), lists and tuples of NumPy and JAX arrays, typed PRNG keys, int, float,
            bool, str and None. JAX arrays come back as NumPy arrays, keys as keys.
        config: what `jsonable` can write.

    Raises:
        TypeError: a folder that is no path, or something in `tree` or `config` that is none of these; nothing is
            written.
        ValueError: a key that climbs out of its folder (".."); nothing is written.
        OSError: a file in the way, disk full, read-only and the like; the previous checkpoint is intact.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save(folder, {"loc": np.zeros(2), "sweeps": 7}, {"model": "GaussianMixture"})
        >>> load(folder)
        ({'loc': array([0., 0.]), 'sweeps': 7}, {'model': 'GaussianMixture'})
    """
    from safetensors.numpy import save as to_bytes

    check_place(folder, "folder")
    arrays: dict[str, np.ndarray] = {}
    body = {"format": FORMAT, "versions": _versions(), "config": jsonable(config), "tree": _encode(tree, "", arrays)}
    raw, token, folder = to_bytes(arrays), secrets.token_hex(8), Path(folder)
    name = f"arrays-{token}.safetensors"
    file = {"name": name, "nbytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    aside, previous = folder / f"manifest-{token}.tmp", _current(folder)
    with _told(folder), _folder_made(folder), _removed_on_error(folder / name, aside):
        _write(folder / name, raw)
        _write(aside, _signed(json.dumps({"file": file} | body, indent=1, allow_nan=False)))
        _sync(folder)
        os.replace(aside, folder / MANIFEST)
    _sync(folder)
    _sweep(folder, previous)


def set_aside(folder: str | os.PathLike[str]) -> None:
    """Make `folder/previous` the checkpoint that is in `folder`, for as long as the next one may come to harm.

    What was set aside before stays whole until this one is. Files are linked where the disk can, and copied where not.

    Raises:
        OSError: disk full and the like; both checkpoints are as they were.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> save(folder, {}, {"sweeps": 1})
        >>> set_aside(folder)
        >>> save(folder, {}, {"sweeps": 2})
        >>> load_config(folder), load_config(Path(folder) / PREVIOUS)
        ({'sweeps': 2}, {'sweeps': 1})
    """
    folder = Path(folder)
    name, place = _current(folder), folder / PREVIOUS
    if name is None:
        return
    before, aside = _current(place), place / f"manifest-{secrets.token_hex(8)}.tmp"
    with _told(place), _folder_made(place), _removed_on_error(place / name, aside):
        if name != before:
            (place / name).unlink(missing_ok=True)  # half a copy, left by a kill
            _linked(folder / name, place / name)
        _linked(folder / MANIFEST, aside)
        _sync(place)
        os.replace(aside, place / MANIFEST)
    _sync(place)
    _sweep(place, before)


def load(folder: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Load what `save` saved.

    Returns:
        The tree, its arrays as NumPy arrays, and the configuration.

    Raises:
        FileNotFoundError: there is no such folder.
        CheckpointCorrupt: a file is missing, differs by a bit, or is of another format; the message names the file.
    """
    from safetensors.numpy import load as from_bytes

    folder = Path(folder)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not there"
        raise FileNotFoundError(f"{folder} {what}; expected a folder written by `save`: look for a wrong path")
    manifest = _read_manifest(folder / MANIFEST)
    file = folder / manifest["file"]["name"]
    raw = _read(file, nbytes=manifest["file"]["nbytes"])
    if hashlib.sha256(raw).hexdigest() != manifest["file"]["sha256"]:
        raise _corrupt(file, "its SHA-256 differs from the manifest's", "the bytes that were saved")
    try:
        return _decode(manifest["tree"], from_bytes(raw)), manifest["config"]
    except Exception as error:  # signed, but by another hand: whatever a forged manifest leads the readers to
        raise _corrupt(
            folder / MANIFEST, f"does not describe its arrays ({type(error).__name__})", "what `save` wrote"
        ) from error


def load_config(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The configuration alone, without reading the arrays.

    Raises:
        CheckpointCorrupt: as `load`, of the manifest.
    """
    return dict(_read_manifest(Path(folder) / MANIFEST)["config"])


@contextmanager
def understood(file: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Tell of what is taken apart inside, and is not what vmix writes, as `CheckpointCorrupt`; vmix's own errors stay.

    Args:
        file: what is read.
        what: what it should describe.

    Raises:
        CheckpointCorrupt: in place of a KeyError, a ValueError and the like, and of text that is no JSON.
    """
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _corrupt(Path(file), f"is no JSON ({error})", f"{what}, as vmix wrote it") from error
    except OSError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and type(error).__module__.startswith("vmix"):
            raise
        found = f"does not describe {what} ({type(error).__name__}: {error})"
        raise _corrupt(Path(file), found, "what vmix wrote") from error


def jsonable(value: Any, *, where: str = "config") -> Any:
    """Turn `value` into what JSON can hold: infinite numbers and NaN become the strings "inf", "-inf", "nan".

    Args:
        value: nested dicts with text keys, lists, tuples (they become lists), str, None, bool, numbers, paths, arrays.
        where: the name of `value` in messages.

    Raises:
        TypeError: anything else, with its place.

    Example:
        >>> jsonable({"elbo": float("nan"), "sizes": (64, np.int64(3))})
        {'elbo': 'nan', 'sizes': [64, 3]}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [jsonable(item, where=f"{where}[{at}]") for at, item in enumerate(value)]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: jsonable(item, where=f"{where}[{key!r}]") for key, item in value.items()}
    if hasattr(value, "tolist") and hasattr(value, "dtype") and np.dtype(value.dtype).kind in "biufU":
        return jsonable(value.tolist(), where=where)
    raise TypeError(
        f"{where} is a {type(value).__name__}; expected what JSON can hold, dicts with text keys: convert it"
    )


def _encode(value: Any, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    where = f"tree{path}"
    if isinstance(value, Mapping):
        parts = [(key, _part(key, where)) for key in value]
        return {"dict": [[key, _encode(value[key], f"{path}/{part}", arrays)] for key, part in parts]}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_encode(item, f"{path}/{at}", arrays) for at, item in enumerate(value)]}
    if isinstance(value, float) and not isinstance(value, np.generic):
        return {"float": str(value)}
    if value is None or isinstance(value, str | bool | int):
        return {"value": value}
    if hasattr(value, "__array__") and hasattr(value, "dtype"):
        return _encode_array(value, path or "/", arrays)
    raise TypeError(
        f"{where} is a {type(value).__name__}; expected dicts, lists, tuples, arrays and scalars: a NamedTuple or "
        "dataclass is saved as its dict"
    )


def _part(key: Any, where: str) -> str:
    if isinstance(key, int) and not isinstance(key, bool):
        return f"#{key}"
    if not isinstance(key, str):
        raise TypeError(f"{where} has the key {key!r} ({type(key).__name__}); expected text or whole numbers")
    if ".." in re.split(r"[/\\]", key) or key.startswith(("/", "\\")) or "\0" in key:
        raise ValueError(f"{where} has the key {key!r}, which climbs out of its place; expected a plain name")
    return key.replace("~", "~0").replace("/", "~1").replace("#", "~2")


def _encode_array(value: Any, name: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    impl = _key_impl(value)
    if impl:
        import jax

        value = jax.random.key_data(value)
    array = np.asarray(value)
    array = np.asarray(array, array.dtype.newbyteorder("="), order="C")
    kind = array.dtype.name
    if kind not in _NATIVE | _AS_BYTES:
        raise TypeError(
            f"tree{name} has dtype {array.dtype}; expected bool, int, float16 to float64, bfloat16 or complex"
        )
    arrays[name] = array if kind in _NATIVE else np.frombuffer(array.tobytes(), np.uint8)
    return {"array": name, "dtype": kind, "shape": list(array.shape)} | ({"prng_impl": impl} if impl else {})


def _key_impl(value: Any) -> str | None:
    jax = sys.modules.get("jax")  # before JAX is imported there can be no key
    if jax is None or not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return None
    return str(jax.random.key_impl(value))


def _decode(node: dict[str, Any], arrays: dict[str, np.ndarray]) -> Any:
    readers: dict[str, Callable[[Any], Any]] = {
        "dict": lambda items: {key: _decode(item, arrays) for key, item in items},
        "list": lambda items: [_decode(item, arrays) for item in items],
        "tuple": lambda items: tuple(_decode(item, arrays) for item in items),
        "float": float,
        "value": lambda value: value,
        "array": lambda name: _decode_array(node, arrays[name]),
    }
    kind = next(iter(node))
    return readers[kind](node[kind])


def _decode_array(node: dict[str, Any], stored: np.ndarray) -> Any:
    if stored.dtype.name != ("uint8" if node["dtype"] in _AS_BYTES else node["dtype"]):
        raise TypeError(f"{stored.dtype.name} in place of {node['dtype']}")
    if node["dtype"] in _AS_BYTES:
        import ml_dtypes

        stored = stored.view(getattr(ml_dtypes, node["dtype"], node["dtype"]))
    array = np.array(stored.reshape(node["shape"]))
    if "prng_impl" not in node:
        return array
    import jax

    return jax.random.wrap_key_data(jax.numpy.asarray(array), impl=node["prng_impl"])


def _signed(text: str) -> bytes:
    rest = b'",' + text.encode("ascii")[1:]
    return _HEAD + hashlib.sha256(_HEAD + rest).hexdigest().encode("ascii") + rest


def _read_manifest(file: Path) -> dict[str, Any]:
    raw, start = _read(file), len(_HEAD)
    digest, rest = raw[start : start + 64], raw[start + 64 :]
    if not raw.startswith(_HEAD) or hashlib.sha256(_HEAD + rest).hexdigest().encode("ascii") != digest:
        raise _corrupt(file, "its SHA-256 differs from the one inside it", "the bytes that were saved, unedited")
    with understood(file, "a checkpoint"):
        manifest = json.loads(raw)
        number = manifest.get("format", FORMAT)
        if number != FORMAT or isinstance(number, bool):
            found = f"format {number}, written by vmix {manifest.get('versions', {}).get('vmix')}"
            raise CheckpointCorrupt(f"{file}: {found}; expected format {FORMAT}: load it with the vmix that wrote it")
        if not {"format", "file", "tree", "config"} <= set(manifest):
            raise _corrupt(file, f"has the keys {sorted(manifest)}", "format, file, tree and config")
        name = manifest["file"]["name"]
        if not _ARRAYS.fullmatch(name):
            raise _corrupt(file, f"names the file {name!r}", "arrays-*.safetensors in the same folder")
        file_of = {"name": name, "nbytes": int(manifest["file"]["nbytes"]), "sha256": str(manifest["file"]["sha256"])}
        return manifest | {"config": dict(manifest["config"]), "file": file_of}


def _read(file: Path, *, nbytes: int | None = None) -> bytes:
    """The bytes of a regular file, of this size; a pipe would be waited for, and a device has no end."""
    if not file.exists():
        raise _corrupt(file, "is missing", "a file written by `save`")
    if not file.is_file():
        what = "a folder" if file.is_dir() else "no regular file"
        raise _corrupt(file, f"is {what}", "a file written by `save`")
    size, expected = file.stat().st_size, _MANIFEST_BYTES if nbytes is None else nbytes
    if size != nbytes if nbytes is not None else size > expected:
        raise _corrupt(file, f"has {size} bytes", f"{'at most ' if nbytes is None else ''}{expected}")
    return file.read_bytes()


def _corrupt(file: Path, found: str, expected: str) -> CheckpointCorrupt:
    way_out = "restore the folder from a copy, or fit again"
    return CheckpointCorrupt(f"{file}: {found}; expected {expected}: {way_out}")


def _versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": sys.version.split()[0]}
    for name in ("vmix", "jax", "numpyro", "flax", "numpy", "safetensors"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Say of what the system refuses where it happened, that nothing is lost, and the way out; its number stays."""
    try:
        yield
    except OSError as error:
        text = (
            f"{error.strerror or error}: {str(folder)!r} cannot be written; what was saved there before is as it was: "
            "make room, or give another folder"
        )
        raise (OSError(text) if error.errno is None else OSError(error.errno, text)) from error


@contextmanager
def _folder_made(folder: Path) -> Iterator[None]:
    fresh = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        if fresh:
            with suppress(OSError):
                folder.rmdir()
        raise
    if fresh:
        _sync(folder.parent)


@contextmanager
def _removed_on_error(*files: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        # Ctrl-C can arrive just after the rename: what the manifest names by then must stay.
        for file in files:
            if file.name != _current(file.parent):
                with suppress(OSError):
                    file.unlink()
        raise


def _write(file: Path, raw: bytes) -> None:
    with open(file, "xb") as out:
        out.write(raw)
        out.flush()
        os.fsync(out.fileno())


def _linked(file: Path, place: Path) -> None:
    """The same file in another place; a copy where the disk has no links."""
    try:
        os.link(file, place)
    except OSError:
        _write(place, file.read_bytes())


def _sync(folder: Path) -> None:
    if os.name == "nt":  # a folder cannot be opened there
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _current(folder: Path) -> str | None:
    with suppress(OSError, CheckpointCorrupt):
        return str(_read_manifest(folder / MANIFEST)["file"]["name"])
    return None


def _sweep(folder: Path, previous: str | None) -> None:
    # What a kill left behind goes once it is old: a younger file may be another save, still being written.
    current = _current(folder)
    for file in folder.iterdir():
        with suppress(OSError):
            stale = _OURS.fullmatch(file.name) and time.time() - file.stat().st_mtime > _STALE_SECONDS
            if file.name != current and (stale or file.name == previous):
                file.unlink()
