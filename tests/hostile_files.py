"""Every function of vmix that reads files, a valid file for each, and edits that damage files in the usual ways."""

import gzip
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import vmix
from tests.vmix.test_checkpoint import resign
from vmix import checkpoint, compose, data
from vmix.comparing import read_runs, write_comparison
from vmix.configuring import read_options
from vmix.resuming import Keeper
from vmix.runs import is_run, remembered_steps

FORMAT = Path(__file__).parent / "formats" / str(checkpoint.FORMAT)
IDENTITY = checkpoint.load_config(FORMAT / "state")["identity"]
STATES = checkpoint.load(FORMAT / "state")[0]["states"]
MAX_BYTES = 1 << 20
EDITS = ("cut", "flip", "splice", "overwrite", "repeat", "digits", "drop")
# What parsers of sizes stumble over: zero, one, the ends of signed and unsigned numbers, and nesting.
PIECES = [
    b"", b"\0", b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, struct.pack("<Q", 1 << 62), struct.pack(">I", 1 << 31),
    b"9" * 19, b"-1", b"1e999", b"nan", b"inf", b"[" * 300, b"{" * 300, b'"', b"'", b"\n", b",", b"../", b"\xc3\x28",
]  # fmt: skip
# What stands in place of a part of a signed manifest, which only somebody with intent could write.
VALUES = [
    None, True, -1, 0, 2**40, 2**70, 1.5, float("nan"), "", "x", "../x", "arrays-0123456789abcdef.safetensors",
    "float64", "object", [], {}, [[]], [2**40, 2**20], {"array": "/x"}, {"value": []}, {"dict": [[[], {"value": 1}]]},
]  # fmt: skip


class Reader(NamedTuple):
    """One reader of files.

    Attributes:
        path: the file that is damaged, below the folder.
        read: reads it, given the folder.
        verified: whether a checksum stands against every other byte.
    """

    path: str
    read: Callable[[Path], Any]
    verified: bool = False


def edited(raw: bytes, edits: list[tuple[str, float, int]]) -> bytes:
    """The bytes after some edits: (kind, place in [0, 1), a number that says which piece, bit or length)."""
    for kind, place, number in edits:
        at = int(place * len(raw))
        piece = PIECES[number % len(PIECES)]
        if kind == "cut":
            raw = raw[:at]
        elif kind == "flip" and raw:
            raw = raw[:at] + bytes([raw[at] ^ (1 << number % 8)]) + raw[at + 1 :]
        elif kind == "splice":
            raw = raw[:at] + piece + raw[at:]
        elif kind == "overwrite":
            raw = raw[:at] + piece + raw[at + len(piece) :]
        elif kind == "repeat":
            raw = raw[:at] + raw[at : at + 1 + number % 64] * 2 + raw[at + 1 + number % 64 :]
        elif kind == "drop":
            raw = raw[:at] + raw[at + 1 + number % 16 :]
        elif kind == "digits":
            found = [i for i, byte in enumerate(raw) if byte in b"0123456789"]
            at = found[int(place * len(found))] if found else len(raw)
            raw = raw[:at] + str(number).encode() + raw[at + 1 :]
    return raw


def altered(tree: Any, place: float, value: Any) -> Any:
    """A copy of nested lists and dicts with one part, by its place among all, replaced; or taken out for `...`."""
    places = list(_places(tree))
    path = places[int(place * len(places))]
    copy = json.loads(json.dumps(tree))
    part = copy
    for step in path[:-1]:
        part = part[step]
    if value is ...:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return copy


def _places(tree: Any, path: tuple = ()) -> Any:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def forge(folder: Path, place: float, value: Any) -> None:
    """Alter one part of a manifest and sign it again."""

    def change(manifest: dict) -> None:
        new = altered(manifest, place, value)
        manifest.clear()
        manifest.update(new)

    resign(folder, change)


def read_data(name: str, **options: Any) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        found = data.load(folder / name, max_bytes=MAX_BYTES, **options)
        assert found.images.dtype in (np.float32, np.int32) or isinstance(found.images, np.memmap)
        assert found.labels is None or (len(found.labels) == len(found.images) and found.labels.dtype == np.int64)
        return found

    return read


def read_state(folder: Path) -> Any:
    keeper = Keeper(folder / "state", 60.0)
    keeper.belongs_to(IDENTITY)
    return keeper.found(STATES)


def compare(folder: Path) -> Any:
    return write_comparison(read_runs([folder / "run", folder / "other"]), folder / "page.html")


def options(folder: Path) -> Any:
    return read_options(folder / "run.toml", ["model", "seed", "num-components", "set", "engine-option"])


SIGNED = {
    "checkpoint": Reader("tree", lambda folder: checkpoint.load(folder / "tree")),
    "fit": Reader("fit", lambda folder: vmix.load(folder / "fit")),
    "state": Reader("state", read_state),
    "network": Reader("network", lambda folder: compose.load(folder / "network")),
    "compare": Reader("run/checkpoint", compare),
}
READERS = {
    **{f"{name} manifest": Reader(f"{r.path}/manifest.json", r.read, verified=True) for name, r in SIGNED.items()},
    **{f"{name} arrays": Reader(f"{r.path}/arrays", r.read, verified=True) for name, r in SIGNED.items()},
    "npy": Reader("a.npy", read_data("a.npy")),
    "npy mapped": Reader("a.npy", read_data("a.npy", mmap_above=1)),
    "npz": Reader("a.npz", read_data("a.npz")),
    "npz in parts": Reader("split.npz", read_data("split.npz", split="train")),
    "csv": Reader("a.csv", read_data("a.csv", label="kind")),
    "csv without names": Reader("b.csv", read_data("b.csv", label=0)),
    "idx": Reader("a.idx", read_data("a.idx")),
    "idx.gz": Reader("a.idx.gz", read_data("a.idx.gz")),
    "options": Reader("run.toml", options),
    "run's configuration": Reader("run/config.json", lambda f: (is_run(f / "run"), remembered_steps(f / "run"))),
    "compare, configuration": Reader("run/config.json", compare),
    "compare, metrics": Reader("run/metrics.json", compare),
    "compare, latents": Reader("run/latents.npy", compare),
    "compare, labels": Reader("run/labels.csv", compare),
}


def the_file(folder: Path, reader: Reader) -> Path:
    """The file that a reader's `path` names; arrays' names are drawn when they are saved."""
    file = folder / reader.path
    return next(file.parent.glob("arrays-*")) if file.name == "arrays" else file


def write_all(folder: Path) -> None:
    """A small valid file for every reader."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(8, 2)).astype(np.float32)
    checkpoint.save(folder / "tree", {"loc": rows, "seen": [1, None, "a", 0.5]}, {"model": "toy"})
    shutil.copytree(FORMAT, folder, dirs_exist_ok=True)
    shutil.copytree(FORMAT / "run", folder / "other")
    np.save(folder / "a.npy", rows)
    np.savez_compressed(folder / "a.npz", x=rows, y=np.arange(8))
    parts = {"x_train": rows, "y_train": np.arange(8), "x_test": rows[:2], "y_test": np.arange(2)}
    np.savez(folder / "split.npz", **parts)
    (folder / "a.csv").write_text("size,kind,weight\n1.5,cat,3\n2,dog,4\n-1e3,,7\n")
    (folder / "b.csv").write_text("1,0.5\n2,0.25\n1,7\n")
    pixels = bytes([0, 0, 8, 2]) + struct.pack(">2I", 3, 4) + bytes(range(12))
    (folder / "a.idx").write_bytes(pixels)
    (folder / "a.idx.gz").write_bytes(gzip.compress(pixels))
    (folder / "run.toml").write_text('model = "VaDE"\nseed = 3\nnum_components = 4\n[set]\nhidden = [8, 8]\n')
