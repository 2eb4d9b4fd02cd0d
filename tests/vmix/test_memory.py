"""Memory that really runs out, in processes that are held to a limit: nothing is lost, and data on disk fit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vmix import checkpoint

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")]
ROOT = Path(__file__).resolve().parents[2]
HELD = """
import re, resource, sys, time
import numpy as np
import vmix
from vmix.compilation import compile_everything_quickly
compile_everything_quickly()
from vmix.inference import EM, Gibbs
from vmix.models import GaussianMixture

def hold(kind, field, megabytes):
    time.sleep(1.0)  # XLA gives a sweep's memory back a moment after its results
    used = int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read()).group(1)) << 10
    resource.setrlimit(kind, (used + (megabytes << 20), resource.RLIM_INFINITY))
"""
RUNS_OUT = """
x = np.random.default_rng(0).normal(size=(300_000, 2)).astype(np.float32)

def callback(done, _):
    if done == 2 and sys.argv[3]:
        hold(resource.RLIMIT_AS, "VmSize", int(sys.argv[3]))

fit = vmix.fit(
    GaussianMixture(num_components=64), x, engine=Gibbs(num_samples=4, num_warmup=2), seed=0, init="random",
    callback=callback, **({"checkpoint": sys.argv[1], "checkpoint_every": 1e9} if sys.argv[1] else {}),
)
np.savez(sys.argv[2], objective=fit.history["objective"], **fit.posterior)
"""
ON_DISK = """
from vmix import streaming
streaming.CHUNK_BYTES = 8 << 20
x = np.load(sys.argv[1], mmap_mode="r")
engine = EM(num_sweeps=3, tolerance=None)
start = {"loc": np.stack([np.full(16, -3.0), np.full(16, 3.0)])}
hold(resource.RLIMIT_DATA, "VmData", int(sys.argv[2]))
if sys.argv[3] == "in memory":
    x = np.array(x)
fit = vmix.fit(GaussianMixture(num_components=2), x, engine=engine, seed=0, init=start)
print(sorted(fit.posterior["loc"].mean(1).round(1).tolist()))
"""


def run(text, *words):
    given = [sys.executable, "-c", HELD + text, *map(str, words)]
    one_thread = {**os.environ, "NPROC": "1"}  # each thread has memory of its own
    return subprocess.run(given, cwd=ROOT, env=one_thread, capture_output=True, text=True)


def test_a_fit_whose_memory_runs_out_says_what_to_do_and_goes_on_later_to_the_same_bits(tmp_path):
    """A sweep takes 300 MB at a time and is given 40."""
    state, alone, later = tmp_path / "state", tmp_path / "alone.npz", tmp_path / "later.npz"
    died = run(RUNS_OUT, state, later, 40)
    assert died.returncode == 1 and not later.exists()
    last = died.stderr.strip().splitlines()[-1]
    assert last.startswith(f"MemoryError: memory ran out at sweep 2; what was learnt until then is kept in '{state}'")
    assert "fewer restarts or chains, or data on disk" in last
    assert checkpoint.load_config(state)["done"] == 2
    for words in ((state, later, ""), ("", alone, "")):
        done = run(RUNS_OUT, *words)
        assert done.returncode == 0, done.stderr
    found, expected = np.load(later), np.load(alone)
    for name in expected.files:
        np.testing.assert_array_equal(found[name], expected[name])


def test_data_on_disk_of_four_times_the_memory_are_fitted(tmp_path):
    """1.5 GiB in chunks of 8 MiB, in a quarter of it; most of that, 300 MiB, is taken by compiling."""
    file, rows, limit = tmp_path / "rows.npy", 24 << 20, 384
    block = np.random.default_rng(0).normal(size=(1 << 18, 16)).astype(np.float32)
    block += np.where(np.arange(1 << 18) % 2, 3.0, -3.0)[:, None].astype(np.float32)
    on_disk = np.lib.format.open_memmap(file, "w+", np.float32, (rows, 16))
    for i in range(0, rows, len(block)):
        on_disk[i : i + len(block)] = block
    on_disk.flush()
    del on_disk
    assert file.stat().st_size >= 4 * limit << 20
    try:
        found, refused = (run(ON_DISK, file, limit, place) for place in ("on disk", "in memory"))
    finally:
        file.unlink()
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.strip() == "[-3.0, 3.0]"
    assert refused.returncode != 0 and "MemoryError" in refused.stderr
