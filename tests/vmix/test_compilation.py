"""XLA takes the options that this version of jaxlib is given; it ends the process for one that it does not know."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from vmix import compilation
from vmix.driving import work_of
from vmix.inference import EM
from vmix.models import GaussianMixture
from vmix.plan import make_plan


def test_a_function_compiled_quickly_gives_the_same_numbers():
    assert compilation._options(), "this version of jaxlib was not tried: add it to the table"
    x = jnp.arange(4.0)
    assert (compilation.jit_once(lambda x: 2 * x + 1)(x) == 2 * x + 1).all()


def test_xla_starts_with_the_options():
    code = "from vmix import compilation as c; c.compile_everything_quickly(); import os; "
    code += "print(os.environ['XLA_FLAGS']); import jax; print(jax.jit(lambda x: x + 1)(1))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.split()[-1] == "2" and "--xla" in run.stdout, run.stderr[-300:]


def test_a_loop_is_compiled_quickly_only_where_it_is_short(monkeypatch):
    made = []
    monkeypatch.setattr(compilation, "jit_once", lambda f: made.append("quickly") or f)
    compilation.jit_for(lambda x: x, work=compilation.LITTLE_WORK)
    assert made == ["quickly"]
    compilation.jit_for(lambda x: x, work=compilation.LITTLE_WORK + 1)
    assert made == ["quickly"]


def test_work_counts_rows_values_steps_and_states():
    x = np.arange(60, dtype=np.float32).reshape(30, 2)
    plan = make_plan(GaussianMixture(num_components=4).with_data(x), (x,), key=jax.random.key(0))
    assert work_of(plan, EM(num_sweeps=7, restarts=3)) == 30 * 4 * 7 * 3
