"""Faults on purpose: kills while writing, SIGTERM, disks that refuse, files that lie, and no pickle anywhere."""

import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import vmix
from tests.bad_programs import one_mean
from tests.vmix.test_checkpoint import resign, the_arrays
from tests.vmix.test_cli import ToyMixture, calls  # noqa: F401  (a fixture)
from tests.vmix.test_report import FakeFit
from vmix import checkpoint, cli, data, driving, runs
from vmix.checkpoint import CheckpointCorrupt
from vmix.inference import EM

pytestmark = pytest.mark.faults
ROOT = Path(__file__).resolve().parents[2]
WRITER = """
import sys, numpy as np
from vmix import checkpoint
n = int(sys.argv[2])
while True:
    n += 1
    checkpoint.set_aside(sys.argv[1])
    checkpoint.save(sys.argv[1], {"values": np.full(200_000, n)}, {"n": n})
"""


def kill_while_writing(folder, times, seed):
    """Start a process that saves again and again, kill it, and see what is there; so many times."""
    waits, found = np.random.default_rng(seed).uniform(0.0, 0.2, times), 0
    for wait in waits:
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(found)], cwd=ROOT)
        while process.poll() is None and _saved(folder) == found:
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        tree, config = checkpoint.load(folder)
        assert (tree["values"] == config["n"]).all() and config["n"] > found
        found = config["n"]
        if (folder / checkpoint.PREVIOUS / checkpoint.MANIFEST).exists():
            tree, config = checkpoint.load(folder / checkpoint.PREVIOUS)
            assert (tree["values"] == config["n"]).all() and found - 1 <= config["n"] <= found


def _saved(folder):
    try:
        return json.loads((folder / checkpoint.MANIFEST).read_bytes())["config"]["n"]
    except FileNotFoundError:
        return 0


def test_a_kill_while_writing_leaves_a_whole_checkpoint(tmp_path):
    kill_while_writing(tmp_path, times=3, seed=0)


@pytest.mark.slow
def test_fifty_kills_while_writing_leave_a_whole_checkpoint_each(tmp_path):
    kill_while_writing(tmp_path, times=50, seed=1)


def test_half_a_file_beside_the_checkpoint_changes_nothing(tmp_path):
    checkpoint.save(tmp_path, {"values": np.arange(9)}, {"n": 1})
    (tmp_path / f"arrays-{'0' * 16}.safetensors").write_bytes(the_arrays(tmp_path).read_bytes()[:20])
    (tmp_path / f"manifest-{'0' * 16}.tmp").write_bytes(b'{"manifest')
    assert checkpoint.load(tmp_path)[1] == {"n": 1}


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_refuses_is_told_before_the_first_step(tmp_path, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "_write", refuse)
    monkeypatch.setattr(driving.Run, "__call__", lambda *_: pytest.fail("a step was made"))
    x = np.random.default_rng(0).normal(size=(40, 1))
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        vmix.fit(one_mean, x, engine=EM(), seed=0, init={"m": 0.0}, checkpoint=tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_sigterm_ends_a_fit_as_ctrl_c_does_and_exits_143(calls, monkeypatch, tmp_path, capsys):  # noqa: F811
    def fit(program, images, **options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            return FakeFit(images, converged=False, interrupted=True)

    monkeypatch.setitem(vars(vmix), "fit", fit)
    written = []
    monkeypatch.setattr(runs, "write_run", lambda result, *_, **__: written.append(result) or {})
    before = signal.getsignal(signal.SIGTERM)
    words = ["fit", ToyMixture.__name__, "--limit", "50", "--seed", "0", "--out", str(tmp_path / "run")]
    assert cli.main(words) == 143
    assert written[0].interrupted and "saved" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_a_command_leaves_its_state_and_its_run_and_says_how_to_go_on(tmp_path, sent, status):
    """A fit that would take days: nothing of it stands in for anything."""
    script = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a job of a shell ignores it
    script += "; from vmix.cli import main; raise SystemExit(main())"
    words = "fit GaussianMixture --num-components 2 --limit 200 --engine gibbs --seed 0 --num-samples 1 --resume"
    words += " --num-warmup 1000000000 --out"
    command = [sys.executable, "-c", script, *words.split(), str(tmp_path / "run")]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    state = tmp_path / "run.state"
    while process.poll() is None and not (state / checkpoint.MANIFEST).exists():
        time.sleep(0.05)
    time.sleep(5)
    process.send_signal(sent)
    try:
        said = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert process.returncode == status, said
    assert "what was learnt until then is saved; the same command goes on from there" in said, said
    assert "Traceback" not in said
    done = checkpoint.load_config(state)["done"]
    fit = vmix.load(tmp_path / "run" / "checkpoint")
    assert fit.interrupted and done == len(fit.history["objective"])


SCRIPT = """
import sys, numpy as np, vmix
from vmix.inference import Gibbs
from vmix.models import GaussianMixture

x = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
engine = Gibbs(num_samples=1, num_warmup=1_000_000_000)
vmix.fit(GaussianMixture(num_components=2), x, engine=engine, seed=0, checkpoint=sys.argv[1], checkpoint_every=1e9)
print("went on")
"""


@pytest.mark.slow
def test_sigterm_to_a_script_leaves_the_last_state_and_says_how_to_go_on(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "state")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (tmp_path / "state" / checkpoint.MANIFEST).exists():
        time.sleep(0.05)
    time.sleep(5)
    process.send_signal(signal.SIGTERM)
    try:
        out, said = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == -signal.SIGTERM and not out, said
    assert "interrupted after" in said and "the same call goes on from checkpoint=" in said
    assert "Traceback" not in said
    assert checkpoint.load_config(tmp_path / "state")["done"] > 1


def bomb(file, megabytes):
    """An archive of zeros, a thousandth of what it unpacks to."""
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({megabytes << 20},), }}".ljust(117) + "\n"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as out:
        out.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
        for _ in range(megabytes):
            out.write(bytes(1 << 20))


@pytest.mark.parametrize("name", ["a.npz", "a.npy", "a.idx"])
def test_files_that_claim_much_are_refused_in_little_memory(tmp_path, name):
    file = tmp_path / name
    if name == "a.npz":
        bomb(file, megabytes=64)
    elif name == "a.npy":
        header = "{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000,), }".ljust(117) + "\n"
        file.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(8))
    else:
        file.write_bytes(b"\0\0\x08\x03" + b"\xff" * 12 + bytes(8))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="expected|max_bytes"):
            data.load(file, max_bytes=1 << 20)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


class Opened:
    """A pickle that makes a folder when it is read."""

    def __reduce__(self):
        return os.mkdir, ("opened",)


def test_a_pickle_in_place_of_the_arrays_is_not_opened_even_if_signed(tmp_path, monkeypatch):
    import hashlib

    monkeypatch.chdir(tmp_path)
    checkpoint.save("saved", {"values": np.arange(3)}, {})
    raw, arrays = pickle.dumps(Opened()), the_arrays(Path("saved"))
    arrays.write_bytes(raw)
    with pytest.raises(CheckpointCorrupt):
        checkpoint.load("saved")
    file = {"name": arrays.name, "nbytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    resign(Path("saved"), lambda manifest: manifest.update(file=file))
    with pytest.raises(CheckpointCorrupt, match="does not describe its arrays"):
        checkpoint.load("saved")
    assert not Path("opened").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path):
    checkpoint.save(tmp_path, {"values": np.arange(3)}, {})
    for file in (the_arrays(tmp_path), tmp_path / checkpoint.MANIFEST):
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(CheckpointCorrupt, match=f"{file.name}: is no regular file; expected a file written by"):
            checkpoint.load(tmp_path)


def test_a_manifest_that_is_nested_without_end_is_refused(tmp_path):
    checkpoint.save(tmp_path, {"values": np.arange(3)}, {})
    deep = b'"format": 1, "tree": ' + b'{"list": [' * 100_000
    (tmp_path / checkpoint.MANIFEST).write_bytes(checkpoint._signed("{" + deep.decode()))
    with pytest.raises(CheckpointCorrupt, match="manifest.json: (is no JSON|does not describe a checkpoint)"):
        checkpoint.load(tmp_path)


def test_an_archive_of_many_parts_is_held_to_the_limit_as_a_whole(tmp_path):
    np.savez(tmp_path / "a.npz", **{f"part{i}": np.zeros(100_000) for i in range(4)})
    with pytest.raises(ValueError, match="part1.npy: has .* bytes or more; expected at most max_bytes=2"):
        data.load(tmp_path / "a.npz", max_bytes=1_000_000)
