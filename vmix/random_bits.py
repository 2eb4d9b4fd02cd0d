"""JAX's random bits on CPUs, with the rounds of Threefry written out: the same bits, many of them several times sooner.

JAX's own code for CPUs loops over the five groups of rounds, which keeps programs small, but writes all numbers to
memory in every group and starts a dozen small kernels a time. Written out they are one kernel: three million draws take
an eighth of the time, a thousand half, a sweep of Gibbs on a small mixture a sixth less, and compiling takes less too.
The few bits of which keys are split keep the loop: a chain of keys, written out, is compiled again into whatever
hangs on it.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.random import threefry2x32_p
from jax.interpreters import mlir

FEWEST = 4
_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)

State = tuple[Array, Array]


def write_rounds_out() -> None:
    """Compile JAX's random bits for CPUs without loops, from now on in this process."""
    mlir.register_lowering(threefry2x32_p, _lowered, platform="cpu")


def threefry(key_1: Array, key_2: Array, count_1: Array, count_2: Array, *, in_a_loop: bool = False) -> State:
    """Threefry-2x32 of 20 rounds: two words of bits for each pair of counts.

    Args:
        key_1: first word of the key, uint32, broadcast against the counts.
        key_2: its second word.
        count_1: first words of the counts, uint32.
        count_2: their second words.
        in_a_loop: whether the groups of four rounds are turns of a loop.

    Source: Salmon, Moraes, Dror and Shaw (2011), Parallel random numbers: as easy as 1, 2, 3.
    """
    keys = [key_1, key_2, key_1 ^ key_2 ^ _PARITY]
    state = count_1 + key_1, count_2 + key_2
    if not in_a_loop:
        for i in range(5):
            state = _group(i, state, _ROTATIONS[i % 2], keys[(i + 1) % 3], keys[(i + 2) % 3])
        return state
    rotations = [jnp.array(four, jnp.uint32) for four in _ROTATIONS]

    def turn(i: Array, carry: tuple) -> tuple:
        state, (now, later), (a, b, c) = carry
        return _group(i, state, now, b, c), [later, now], [b, c, a]

    return lax.fori_loop(0, 5, turn, (state, rotations, keys))[0]


def _group(i: Any, state: State, rotations: Any, key_a: Array, key_b: Array) -> State:
    """Four rounds, and the key's words added."""
    first, second = state
    for j in range(4):
        r = jnp.asarray(rotations[j], jnp.uint32)
        first = first + second
        second = first ^ ((second << r) | (second >> (np.uint32(32) - r)))
    return first + key_a, second + key_b + jnp.asarray(i + 1, jnp.uint32)


def _lowered(context: Any, *operands: Any) -> Any:
    few = math.prod(context.avals_out[0].shape) < FEWEST
    return mlir.lower_fun(partial(threefry, in_a_loop=few), multiple_results=True)(context, *operands)
