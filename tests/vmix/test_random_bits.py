"""Threefry written out: the published answers, JAX's own bits, and no loop in what is compiled."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vmix.draws  # what it imports writes the rounds out
from vmix.random_bits import FEWEST, threefry, write_rounds_out

# key, counts, bits: the known answers of Random123, threefry2x32 of 20 rounds
KNOWN = [
    ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
]
# in a process where nothing of vmix is imported, JAX's own bits
THEIRS = """
import jax, jax.numpy as jnp, numpy as np, sys
assert not any(name.startswith("vmix") for name in sys.modules)
keys = jax.random.split(jax.random.key(7), 5)
found = [jax.random.key_data(keys), jax.random.key_data(jax.random.fold_in(keys[0], 3))]
found += [jax.random.permutation(keys[0], 50)]
found += [jax.random.bits(keys[1], (n,), dtype) for n in (1, 3, 4, 5, 1001) for dtype in ("uint8", "uint32")]
found += [jax.jit(jax.vmap(lambda key: jax.random.bits(key, (3, 4))))(keys)]
np.savez(sys.argv[1], *found)
"""


@pytest.mark.parametrize("in_a_loop", [False, True])
@pytest.mark.parametrize(("key", "counts", "bits"), KNOWN)
def test_known_answers(key, counts, bits, in_a_loop):
    words = [jnp.uint32(word) for word in key] + [jnp.full(2, count, jnp.uint32) for count in counts]
    found = threefry(*words, in_a_loop=in_a_loop)
    np.testing.assert_array_equal(found, np.array(bits, np.uint32)[:, None] * np.ones(2, np.uint32))


def test_bits_are_those_of_jax(tmp_path):
    ran = [sys.executable, "-c", THEIRS, str(tmp_path / "theirs.npz")]
    subprocess.run(ran, check=True, timeout=120)
    ours = THEIRS.replace('assert not any(name.startswith("vmix") for name in sys.modules)', "import vmix.draws")
    assert ours != THEIRS
    subprocess.run([*ran[:2], ours, str(tmp_path / "ours.npz")], check=True, timeout=120)
    theirs, found = np.load(tmp_path / "theirs.npz"), np.load(tmp_path / "ours.npz")
    assert len(theirs.files) == 14
    for name in theirs.files:
        np.testing.assert_array_equal(found[name], theirs[name], err_msg=name)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs")
def test_many_bits_are_compiled_without_a_loop_and_few_with_one():
    def text(size):
        return jax.jit(lambda key: jax.random.bits(key, (size,))).lower(jax.random.key(0)).as_text()

    assert "while" not in text(FEWEST) and "while" in text(FEWEST - 1)


def test_it_may_be_asked_for_twice():
    write_rounds_out()
    assert vmix.draws.log_gamma_draws(jax.random.key(0), jnp.ones(3)).shape == (3,)
