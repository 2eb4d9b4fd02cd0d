"""Checkpoints come back bit for bit, or not at all."""

import errno
import json
import os
from collections import namedtuple
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vmix import checkpoint
from vmix.checkpoint import CheckpointCorrupt

TREE = {
    "encoder$params": {
        0: {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3).T},
        "0": {"bias": np.zeros((0, 3))},
    },
    "vae/z": [np.float32(1.5), (np.array(True), np.array([1 + 2j])), []],
    "vae~1z": {"#0": np.arange(3, dtype=">i4"), "__metadata__": np.arange(3, dtype=np.uint64)},
    "half": np.array([1.5, -2.5], ml_dtypes.bfloat16),
    "scalars": {"int": 2**70, "bool": True, "float": 0.1, "nan": float("inf"), "none": None, "text": "ü\u2028"},
}
CONFIG = {"model": "VaDE", "hidden": [500, 2000], "rate": 1e-3}


def files(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def the_arrays(folder):
    return next(folder.glob("arrays-*.safetensors"))


def assert_trees_equal(found, expected):
    assert isinstance(found, type(expected)) or isinstance(expected, np.generic)
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_trees_equal(found[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_trees_equal(one, other)
    elif isinstance(expected, np.ndarray | np.generic):
        assert (found.shape, found.dtype.name) == (expected.shape, expected.dtype.name)
        np.testing.assert_array_equal(found, expected)
    else:
        assert found == expected


def resign(folder, change):
    """Write the manifest anew with a valid checksum, as only somebody with intent would."""
    file = folder / checkpoint.MANIFEST
    manifest = json.loads(file.read_bytes())
    del manifest["manifest_sha256"]
    change(manifest)
    file.write_bytes(checkpoint._signed(json.dumps(manifest, indent=1)))


def test_tree_and_config_come_back_equal(tmp_path):
    checkpoint.save(tmp_path / "deep" / "run", TREE, CONFIG)
    tree, config = checkpoint.load(tmp_path / "deep" / "run")
    assert_trees_equal(tree, TREE)
    assert config == CONFIG
    tree["half"][0] = 3  # the arrays are the caller's own


def test_bare_array_and_empty_tree_come_back(tmp_path):
    for tree in (np.arange(3), {}, None, 1.0):
        checkpoint.save(tmp_path, tree, {})
        assert_trees_equal(checkpoint.load(tmp_path)[0], tree)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_typed_keys_come_back_as_keys_of_their_kind(tmp_path, impl):
    keys = jax.random.split(jax.random.key(3, impl=impl), 4)
    checkpoint.save(tmp_path, {"keys": keys, "one": keys[0], "loc": jnp.ones(2, jnp.bfloat16)}, {})
    tree, _ = checkpoint.load(tmp_path)
    assert tree["keys"].dtype == keys.dtype and tree["one"].shape == ()
    np.testing.assert_array_equal(jax.random.normal(tree["keys"][2], (3,)), jax.random.normal(keys[2], (3,)))
    assert isinstance(tree["loc"], np.ndarray) and tree["loc"].dtype == ml_dtypes.bfloat16


def test_manifest_tells_versions_and_sizes(tmp_path):
    checkpoint.save(tmp_path, {"loc": np.ones(3)}, CONFIG)
    manifest = json.loads((tmp_path / "manifest.json").read_bytes())
    assert manifest["format"] == checkpoint.FORMAT and manifest["config"] == CONFIG
    assert {"vmix", "jax", "numpyro", "flax"} <= set(manifest["versions"])
    assert manifest["file"]["nbytes"] == the_arrays(tmp_path).stat().st_size
    assert manifest["tree"] == {"dict": [["loc", {"array": "/loc", "dtype": "float64", "shape": [3]}]]}


def test_config_writes_nan_as_text_and_refuses_objects(tmp_path):
    config = {
        "elbo": np.float32(np.nan),
        "worst": -np.inf,
        "sizes": (1, np.int64(2)),
        "path": Path("a"),
        "w": np.ones(2),
    }
    checkpoint.save(tmp_path, {}, config)
    expected = {"elbo": "nan", "worst": "-inf", "sizes": [1, 2], "path": "a", "w": [1.0, 1.0]}
    assert checkpoint.load(tmp_path)[1] == expected
    with pytest.raises(TypeError, match=r"config\['a'\]\[1\] is a object; expected what JSON can hold"):
        checkpoint.save(tmp_path, {}, {"a": [1, object()]})
    with pytest.raises(TypeError, match="config is a dict; .*text keys"):
        checkpoint.save(tmp_path, {}, {1: 2})


@pytest.mark.parametrize(
    ("tree", "error", "match"),
    [
        ({"a": object()}, TypeError, "tree/a is a object; expected dicts"),
        ({"a": np.array([None])}, TypeError, "tree/a has dtype object"),
        ({"a": np.array(["x"])}, TypeError, "tree/a has dtype <U1"),
        ({(1, 2): 3}, TypeError, r"tree has the key \(1, 2\) \(tuple\)"),
        ({"a": {"../b": 1}}, ValueError, "tree/a has the key '../b', which climbs"),
        ({"..\\b": 1}, ValueError, "climbs out"),
        ({"/etc/b": 1}, ValueError, "climbs out"),
        (namedtuple("State", "a")(1), TypeError, "tree is a State; .*its dict"),
    ],
)
def test_what_cannot_be_saved_is_refused_before_anything_is_written(tmp_path, tree, error, match):
    with pytest.raises(error, match=match):
        checkpoint.save(tmp_path / "run", tree, {})
    assert not (tmp_path / "run").exists()


@pytest.mark.faults
@pytest.mark.parametrize("which", ["manifest", "arrays"])
def test_a_flipped_bit_anywhere_is_refused(tmp_path, which):
    checkpoint.save(tmp_path, TREE, CONFIG)
    file = tmp_path / "manifest.json" if which == "manifest" else the_arrays(tmp_path)
    whole = file.read_bytes()
    places = {0, 1, 10, 25, 60, 86, len(whole) - 1} | set(np.linspace(0, len(whole) - 1, 40).astype(int).tolist())
    for place in sorted(places):
        for bit in (1, 32):
            broken = bytearray(whole)
            broken[place] ^= bit
            file.write_bytes(broken)
            with pytest.raises(CheckpointCorrupt, match=f"{file.name}: its SHA-256 differs .*restore the folder"):
                checkpoint.load(tmp_path)
    file.write_bytes(whole)
    checkpoint.load(tmp_path)


@pytest.mark.faults
def test_truncated_longer_empty_and_missing_files_are_refused(tmp_path):
    checkpoint.save(tmp_path, TREE, CONFIG)
    for file in (tmp_path / "manifest.json", the_arrays(tmp_path)):
        whole = file.read_bytes()
        for broken in (whole[:-1], whole[: len(whole) // 2], b"", whole + b" "):
            file.write_bytes(broken)
            with pytest.raises(CheckpointCorrupt, match=f"{file.name}: (has .* bytes; expected|its SHA-256)"):
                checkpoint.load(tmp_path)
        file.unlink()
        with pytest.raises(CheckpointCorrupt, match=f"{file.name}: is missing"):
            checkpoint.load(tmp_path)
        file.write_bytes(whole)
    with pytest.raises(FileNotFoundError, match="is not there; expected a folder"):
        checkpoint.load(tmp_path / "none")


@pytest.mark.faults
def test_arrays_of_another_checkpoint_are_refused(tmp_path):
    for name, fill in (("a", 1.0), ("b", 2.0)):
        checkpoint.save(tmp_path / name, {"loc": np.full(3, fill)}, {})
    the_arrays(tmp_path / "a").write_bytes(the_arrays(tmp_path / "b").read_bytes())
    with pytest.raises(CheckpointCorrupt, match="its SHA-256 differs"):
        checkpoint.load(tmp_path / "a")


def test_another_format_version_is_refused_with_the_way_out(tmp_path):
    checkpoint.save(tmp_path, {}, {})
    resign(tmp_path, lambda manifest: manifest.update(format=99, versions={"vmix": "7.0"}))
    with pytest.raises(CheckpointCorrupt, match="format 99, written by vmix 7.0; expected format 1: load it with"):
        checkpoint.load(tmp_path)


@pytest.mark.faults
@pytest.mark.parametrize("name", ["../arrays-0123456789abcdef.safetensors", "/etc/passwd", "other.safetensors"])
def test_a_manifest_cannot_name_a_file_elsewhere(tmp_path, name):
    checkpoint.save(tmp_path, {}, {})
    resign(tmp_path, lambda manifest: manifest["file"].update(name=name))
    with pytest.raises(CheckpointCorrupt, match="names the file"):
        checkpoint.load(tmp_path)


def test_saving_again_replaces_and_leaves_nothing_behind(tmp_path):
    for sweep in range(3):
        checkpoint.save(tmp_path, {"loc": np.full(3, sweep)}, {"sweep": sweep})
    assert len(files(tmp_path)) == 2
    assert checkpoint.load(tmp_path)[1] == {"sweep": 2}


@pytest.mark.faults
def test_leftovers_of_a_kill_are_swept_once_old_and_other_files_are_left_alone(tmp_path):
    old, young, foreign = (
        tmp_path / name for name in (f"arrays-{'0' * 16}.safetensors", f"manifest-{'1' * 16}.tmp", "a.csv")
    )
    for file in (old, young, foreign):
        file.write_bytes(b"x")
    for file in (old, foreign):
        os.utime(file, (0, 0))
    checkpoint.save(tmp_path, {}, {})
    assert (old.exists(), young.exists(), foreign.exists()) == (False, True, True)


def fail_at(monkeypatch, function, count):
    """Let the `count`-th call of os.`function` find the disk full."""
    real, calls = getattr(os, function), []

    def failing(*arguments, **options):
        calls.append(function)
        if len(calls) == count:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*arguments, **options)

    monkeypatch.setattr(os, function, failing)


@pytest.mark.faults
@pytest.mark.parametrize(("function", "count"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1)])
def test_a_full_disk_leaves_the_previous_checkpoint_byte_for_byte(tmp_path, monkeypatch, function, count):
    checkpoint.save(tmp_path / "run", TREE, CONFIG)
    before = files(tmp_path / "run")
    with monkeypatch.context() as patch:
        fail_at(patch, function, count)
        with pytest.raises(OSError, match="No space left .*run' cannot be written.*as it was: make room") as told:
            checkpoint.save(tmp_path / "run", {"loc": np.ones(3)}, {})
        assert told.value.errno == errno.ENOSPC
    assert files(tmp_path / "run") == before
    with monkeypatch.context() as patch:
        fail_at(patch, function, count)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path / "fresh", {"loc": np.ones(3)}, {})
    assert not (tmp_path / "fresh").exists()


@pytest.mark.faults
@pytest.mark.parametrize("links", [True, False])
def test_what_is_set_aside_stays_whole_while_the_next_one_is_written(tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: fail())
    for sweep in range(4):
        checkpoint.set_aside(tmp_path)
        checkpoint.save(tmp_path, {"loc": np.full(3, sweep)}, {"sweep": sweep})
        assert checkpoint.load(tmp_path)[1] == {"sweep": sweep}
    checkpoint.set_aside(tmp_path / "none")
    tree, config = checkpoint.load(tmp_path / checkpoint.PREVIOUS)
    assert config == {"sweep": 2} and (tree["loc"] == 2).all()
    assert len(files(tmp_path / checkpoint.PREVIOUS)) == 2 and len(list(tmp_path.iterdir())) == 3


def fail():
    raise OSError(errno.EPERM, "no links here")


@pytest.mark.faults
@pytest.mark.parametrize(("function", "count"), [("fsync", 1), ("fsync", 2), ("fsync", 3), ("replace", 1)])
def test_a_full_disk_while_setting_aside_leaves_both_checkpoints(tmp_path, monkeypatch, function, count):
    monkeypatch.setattr(os, "link", lambda *_: fail())
    for sweep in range(2):
        checkpoint.set_aside(tmp_path)
        checkpoint.save(tmp_path, {"loc": np.full(3, sweep)}, {"sweep": sweep})
    before = files(tmp_path / checkpoint.PREVIOUS)
    with monkeypatch.context() as patch:
        fail_at(patch, function, count)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.set_aside(tmp_path)
    assert files(tmp_path / checkpoint.PREVIOUS) == before
    assert checkpoint.load(tmp_path)[1] == {"sweep": 1}
    checkpoint.set_aside(tmp_path)
    assert checkpoint.load(tmp_path / checkpoint.PREVIOUS)[1] == {"sweep": 1}


@pytest.mark.faults
def test_a_failure_or_interrupt_after_the_rename_leaves_the_new_checkpoint_whole(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {}, {"sweep": 1})
    with monkeypatch.context() as patch:
        fail_at(patch, "fsync", 4)
        with pytest.raises(OSError, match="No space left"):
            checkpoint.save(tmp_path, {}, {"sweep": 2})
    assert checkpoint.load(tmp_path)[1] == {"sweep": 2}
    real = os.replace

    def interrupted(*arguments):
        real(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(tmp_path, {}, {"sweep": 3})
    assert checkpoint.load(tmp_path)[1] == {"sweep": 3}
