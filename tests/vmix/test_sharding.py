"""Fits over eight devices: what one device finds, with the rows left where they are."""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import vmix
from vmix.inference import EM
from vmix.models import GaussianMixture

SETUP = """
import json, sys
import jax, numpy as np
import vmix
import vmix.fitting
from vmix.compilation import compile_everything_quickly
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture

compile_everything_quickly()
rng = np.random.default_rng(0)
rows = lambda n: (rng.normal(size=(n, 3)) + 4 * np.eye(4, 3)[np.arange(n) % 4]).astype(np.float32)
model = GaussianMixture(num_components=4)
by_rows, by_both = jax.make_mesh((8,), ("data",)), jax.make_mesh((4, 2), ("data", "components"))

def gap(x, engine, mesh):
    devices, place = [], vmix.fitting.placed

    def placed(rows, mesh):
        devices.append(1 if mesh is None else mesh.size)
        return place(rows, mesh)

    vmix.fitting.placed = placed
    one, many = (vmix.fit(model, x, engine=engine, seed=0, mesh=m) for m in (None, mesh))
    vmix.fitting.placed = place
    assert devices == [1, 8], devices
    return max(float(np.abs(one.posterior[name] - many.posterior[name]).max()) for name in ("loc", "w"))
"""


def on_eight_devices(code):
    """What the code prints last, as JSON, where there are eight devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [sys.executable, "-c", SETUP + code], env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.slow  # CI runs it by name
def test_em_finds_what_one_device_finds_with_rows_that_do_not_divide_evenly():
    assert on_eight_devices("print(gap(rows(803), EM(num_sweeps=10, tolerance=None), by_both))") < 1e-5


@pytest.mark.slow
def test_gibbs_draws_what_one_device_draws():
    assert on_eight_devices("print(gap(rows(800), Gibbs(num_samples=10, num_warmup=10), by_rows))") < 1e-5


def test_blocks_of_rows_stay_on_their_devices():
    text, total = on_eight_devices("""
from vmix.engine import Data, sum_over_blocks
from vmix.sharding import check_mesh, over, placed, split

mesh = check_mesh(by_rows)
x = rows(1600)
with over(mesh):
    data = placed(Data((x,), None, None), mesh)
    add = jax.jit(lambda data: sum_over_blocks(lambda rows: rows.args[0].T @ rows.args[0], split(data), block_rows=404))
    text = add.lower(data).compile().as_text()
    assert data.args[0].addressable_shards[0].data.shape == (200, 3)
    print(json.dumps([text, float(np.abs(np.asarray(add(data)) - x.T @ x).max())]))
""")
    assert "f32[50,3]" in text and "all-reduce" in text and "all-gather" not in text
    assert total < 1e-2


def test_what_has_a_row_for_every_component_is_split_over_the_second_axis():
    shapes = on_eight_devices("""
from vmix.sharding import check_mesh, over, split_components

with over(check_mesh(by_both)):
    state = jax.jit(lambda s: split_components(s, 4))({"loc": np.ones((4, 3)), "v": np.ones(3)})
    print(json.dumps([state[name].addressable_shards[0].data.shape for name in ("loc", "v")]))
""")
    assert shapes == [[2, 3], [3]]


@pytest.mark.slow
def test_svi_and_a_stream_find_what_one_device_finds(tmp_path):
    gaps = on_eight_devices(f"""
x = rows(803)
np.save({str(tmp_path / "x.npy")!r}, x)
kept = np.load({str(tmp_path / "x.npy")!r}, mmap_mode="r")
svi, em = SVI(num_steps=40, batch_size=200), EM(num_sweeps=10, tolerance=None)
print(json.dumps([gap(x, svi, by_rows), gap(kept, em, by_rows)]))
""")
    assert max(gaps) < 1e-4


@pytest.mark.parametrize("mesh, message", [(8, "found int"), ("many", "found str")])
def test_what_is_no_mesh_is_refused_with_the_way_out(mesh, message):
    with pytest.raises(TypeError, match=message + r".*jax\.make_mesh"):
        vmix.fit(GaussianMixture(num_components=2), np.ones((9, 2)), engine=EM(), seed=0, mesh=mesh)


def test_mesh_of_three_axes_is_refused():
    mesh = jax.make_mesh((1, 1, 1), ("a", "b", "c"))
    with pytest.raises(ValueError, match="one axis .rows. or two"):
        vmix.fit(GaussianMixture(num_components=2), np.ones((9, 2)), engine=EM(), seed=0, mesh=mesh)
