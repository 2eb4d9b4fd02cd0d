"""Damaged and hostile files: every reader gives a value or a clear error, in bounded time and memory."""

import re
import shutil
import subprocess
import sys
import tracemalloc
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.hostile_files import EDITS, READERS, SIGNED, VALUES, edited, forge, the_file, write_all
from vmix.compose import GraphError
from vmix.program import ProgramError

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
SECONDS = 20  # far above what a read takes, far below a hang
BYTES = 64 << 20
EDIT = st.tuples(st.sampled_from(EDITS), st.floats(0, 1, exclude_max=True), st.integers(0, 2**64))


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    write_all(folder)
    for reader in READERS.values():
        reader.read(folder)  # compiles what is compiled, and shows that the files are whole
    return folder


def read_or_refuse(reader, folder):
    """What is read, or None where it is refused by an error that names what is wrong."""
    tracemalloc.start()
    try:
        return reader.read(folder)
    except (ValueError, OSError) as error:  # CheckpointCorrupt and GraphError are ValueErrors
        named = str(folder) in str(error) or isinstance(error, GraphError | ProgramError) or "installed" in str(error)
        assert named, f"it names no file: {type(error).__name__}: {error}"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < BYTES, f"{peak} bytes"


def fuzz(name, folder, count):
    reader = READERS[name]
    file = the_file(folder, reader)
    whole = file.read_bytes()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=SECONDS * 1000,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(EDIT, min_size=1, max_size=4))
    @example([("splice", 0.5, 12)])
    @example([("repeat", 0.5, 8), ("drop", 0.00390625, 8)])  # a member's name in an archive that is no text
    def claim(edits):
        damaged = edited(whole, edits)
        file.write_bytes(damaged)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_or_refuse(reader, folder)
        assert found is None or damaged == whole or not reader.verified, "other bytes than were saved"

    try:
        claim()
    finally:
        file.write_bytes(whole)


def fuzz_signed(name, folder, count):
    reader, place = SIGNED[name], folder / SIGNED[name].path
    whole = (place / "manifest.json").read_bytes()

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=SECONDS * 1000,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.floats(0, 1, exclude_max=True), st.sampled_from([*VALUES, ...]))
    def claim(at, value):
        (place / "manifest.json").write_bytes(whole)
        forge(place, at, value)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read_or_refuse(reader, folder)

    try:
        claim()
    finally:
        (place / "manifest.json").write_bytes(whole)


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(name, valid):
    fuzz(name, valid, count=12 if "compare" in name else 40)


@pytest.mark.parametrize("name", SIGNED)
def test_manifests_signed_by_another_hand_are_read_or_refused(name, valid):
    fuzz_signed(name, valid, count=12 if name in ("compare", "fit") else 40)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_damaged_files_are_read_or_refused(name, valid, tmp_path):
    shutil.copytree(valid, tmp_path, dirs_exist_ok=True)
    fuzz(name, tmp_path, count=200 if "compare" in name else 2_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNED)
def test_thousands_of_signed_manifests_are_read_or_refused(name, valid, tmp_path):
    shutil.copytree(valid, tmp_path, dirs_exist_ok=True)
    fuzz_signed(name, tmp_path, count=200 if name in ("compare", "fit") else 1_000)


def guided(name, seconds, folder):
    """Bytes that grow by what they reach of the reader's code, for so many seconds."""
    if find_spec("atheris") is None:
        pytest.skip("atheris is not installed: there are no wheels for this platform")
    options = [f"-max_total_time={seconds}", "-seed=1", f"-artifact_prefix={folder}/"]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.fuzz_readers", name, *options], cwd=ROOT, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert int(re.search(r"Done (\d+) runs", ended.stderr)[1]) > 10
    assert not list(folder.iterdir()), "bytes that led to an error"


@pytest.mark.parametrize("name", ["npy", "csv", "options"])
def test_search_by_coverage_finds_no_crash(name, tmp_path):
    guided(name, 3, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", READERS)
def test_a_minute_of_search_by_coverage_finds_no_crash(name, tmp_path):
    guided(name, 60, tmp_path)
