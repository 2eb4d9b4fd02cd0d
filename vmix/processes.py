"""Several processes that run one fit over the devices of all: what they have to agree on.

The processes are JAX's own (`jax.distributed`); each runs the same script on the same data. Where there is one process,
everything here does nothing.
"""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

Tree = TypeVar("Tree")


def are_several() -> bool:
    """Whether there are other processes in this mesh's context."""
    return jax.process_count() > 1 and not jax.sharding.get_abstract_mesh().empty


def is_first() -> bool:
    """Whether this process writes files."""
    return not are_several() or jax.process_index() == 0


def slowest(seconds: float) -> float:
    """The longest time any process took: a decision by the clock must be the same everywhere."""
    if not are_several():
        return seconds
    from jax.experimental import multihost_utils

    return float(np.max(multihost_utils.process_allgather(np.float32(seconds))))


def first_says(answer: bool) -> bool:
    """What the first process answers."""
    if not are_several():
        return answer
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def on_host(tree: Tree) -> Tree:
    """Arrays as this process can read them: parts that lie with other processes are fetched."""

    def fetched(leaf: Any) -> Any:
        here = not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated
        if here:
            return leaf
        from jax.experimental import multihost_utils

        return multihost_utils.process_allgather(leaf, tiled=True)

    return jax.tree.map(fetched, tree) if are_several() else tree


def put(array: Any, sharding: NamedSharding, *, kind: type | None = None) -> jax.Array:
    """Rows on the devices, as `kind`; of several processes each reads only what its own devices hold."""
    if jax.process_count() == 1:
        return jax.device_put(array, sharding)

    def part(index: Any) -> np.ndarray:
        rows = np.asarray(array[index])
        return rows if kind is None else rows.astype(kind, copy=False)

    return jax.make_array_from_callback(array.shape, sharding, part)
