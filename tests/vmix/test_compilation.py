"""XLA takes the options that this version of jaxlib is given; it ends the process for one that it does not know."""

import subprocess
import sys

import jax.numpy as jnp
import pytest

from vmix import compilation


def test_a_function_compiled_quickly_gives_the_same_numbers():
    assert compilation._options(), "this version of jaxlib was not tried: add it to the table"
    x = jnp.arange(4.0)
    assert (compilation.jit_once(lambda x: 2 * x + 1)(x) == 2 * x + 1).all()


@pytest.mark.parametrize("call", ["avoid_lapack_deadlock", "compile_everything_quickly"])
def test_xla_starts_with_the_options(call):
    code = f"from vmix import compilation as c; c.{call}(); import os; print(os.environ['XLA_FLAGS']); "
    code += "import jax; print(jax.jit(lambda x: x + 1)(1))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.split()[-1] == "2" and "--xla" in run.stdout, run.stderr[-300:]
