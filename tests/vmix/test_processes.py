"""Fits over the devices of two processes: what one process finds, in both."""

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

import vmix
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture

SCRIPT = """
import json, sys
import jax, numpy as np

number, address, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
jax.distributed.initialize(address, num_processes=2, process_id=number)

import vmix
from vmix import checkpoint, processes, sharding, streaming
from vmix.compilation import compile_everything_quickly
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture

compile_everything_quickly()
mesh = jax.make_mesh((jax.device_count(),), ("data",))
rng = np.random.default_rng(0)
x = (rng.normal(size=(803, 2)) + 4 * (np.arange(803) % 2)[:, None]).astype(np.float32)
model = GaussianMixture(num_components=2)


def found(engine, x, **kept):
    fit = vmix.fit(model, x, engine=engine, seed=0, mesh=mesh, **kept)
    return {name: fit.posterior[name].tolist() for name in ("loc", "w")}


"""


def in_two_processes(code, folder):
    """What the code prints last in each process, as JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT + code, str(number), address, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        ended = [process.communicate(timeout=300) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], ended[0][1] + ended[1][1]
    return [json.loads(out.splitlines()[-1]) for out, _ in ended]


def furthest(found, engine):
    """How far the processes' answers are from what one process finds."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(803, 2)) + 4 * (np.arange(803) % 2)[:, None]).astype(np.float32)
    one = vmix.fit(GaussianMixture(num_components=2), x, engine=engine, seed=0).posterior
    return max(float(np.abs(one[name] - np.asarray(part[name])).max()) for part in found for name in part)


@pytest.mark.slow  # CI runs it by name
def test_em_from_disk_finds_what_one_process_finds_and_the_first_alone_writes(tmp_path):
    answers = in_two_processes(
        """
np.save(f"{folder}/x{number}.npy", x)
reads, saves = [], []
kept = np.load(f"{folder}/x{number}.npy", mmap_mode="r")
streaming.CHUNK_BYTES = 3200  # 400 rows, twice, and 3 that each process has whole
put, save = processes.put, checkpoint.save
sharding.put = lambda *args, **kind: reads.append(put(*args, **kind)) or reads[-1]
checkpoint.save = lambda *args: saves.append(save(*args))
em = found(EM(num_sweeps=5, tolerance=None), kept, checkpoint=f"{folder}/kept", checkpoint_every=0)
held = {shard.data.shape[0] for array in reads for shard in array.addressable_shards if array.shape[0] == 400}
with sharding.over(mesh):
    agreed = [processes.slowest(3.0 - number), processes.first_says(number == 0)]
print(json.dumps([em, sorted(held), len(saves), agreed]))
""",
        tmp_path,
    )
    found, held, saves, agreed = zip(*answers, strict=True)
    assert agreed == ([3.0, True], [3.0, True])
    assert held == ([100], [100]) and saves[0] > 1 and saves[1] == 0
    assert furthest(found, EM(num_sweeps=5, tolerance=None)) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("engine, near", [(Gibbs(num_samples=20, num_warmup=5), 1e-4), (SVI(num_steps=150), 1e-3)])
def test_every_engine_finds_what_one_process_finds(engine, near, tmp_path):
    answers = in_two_processes(f"print(json.dumps(found({engine!r}, x)))", tmp_path)
    assert answers[0] == answers[1]
    assert furthest(answers, engine) < near
