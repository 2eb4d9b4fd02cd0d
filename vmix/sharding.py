"""Rows over several devices, and components where the mesh has a second axis; XLA adds up the sums.

A fit reads the mesh from JAX's own context (`jax.set_mesh`); without one everything here does nothing.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vmix.processes import are_several, put

Tree = TypeVar("Tree")


def check_mesh(mesh: Mesh | None) -> Mesh | None:
    """The mesh with every axis left to XLA.

    Args:
        mesh: of one axis, over which the rows are split, `jax.make_mesh((8,), ("data",))`, or of two, the second for
            the components, `jax.make_mesh((4, 2), ("data", "components"))`; or None.

    Raises:
        TypeError: for anything else.
        ValueError: for a mesh of more axes.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"mesh must be a jax.sharding.Mesh, found {type(mesh).__name__}; for all devices: "
            'jax.make_mesh((jax.device_count(),), ("data",))'
        )
    if len(mesh.axis_names) not in (1, 2):
        raise ValueError(f"mesh must have one axis (rows) or two (rows, components), found {mesh.axis_names}")
    return Mesh(mesh.devices, mesh.axis_names, axis_types=(AxisType.Auto,) * len(mesh.axis_names))


def over(mesh: Mesh | None) -> AbstractContextManager:
    """A context in which rows are split over the mesh."""
    return nullcontext() if mesh is None else jax.set_mesh(mesh)


def num_parts() -> int:
    """Parts that the rows are split into in this context."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape[mesh.axis_names[0]]


def placed(rows: Tree, mesh: Mesh | None) -> Tree:
    """Put rows on the devices: split where their number divides evenly, or else whole on each."""
    if mesh is None:
        return rows

    return jax.tree.map(lambda array: put(array, _in_parts(array, mesh)), rows)


def read_part(rows: Any, *, kind: type) -> jax.Array:
    """Rows of an array on disk, as `kind`; of several processes each reads what its own devices hold."""
    if not are_several():
        return jnp.asarray(rows.astype(kind))
    return put(rows, _in_parts(rows, jax.sharding.get_mesh()), kind=kind)


def _in_parts(rows: Any, mesh: Mesh) -> NamedSharding:
    """Split where the number of rows divides evenly, or else whole on each device."""
    even = rows.shape[0] % mesh.shape[mesh.axis_names[0]] == 0
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names[0] if even else None))


def split(rows: Tree) -> Tree:
    """Inside `jit`: work on these rows in as many parts as there are devices, in even parts or not."""
    if num_parts() == 1:
        return rows
    spec = PartitionSpec(jax.sharding.get_abstract_mesh().axis_names[0])
    return jax.tree.map(lambda a: jax.lax.with_sharding_constraint(a, spec), rows)


def split_components(state: Tree, num_components: int) -> Tree:
    """Inside `jit`: split what has a row for every component over the mesh's second axis, if it has one."""
    names = jax.sharding.get_abstract_mesh().axis_names
    if len(names) < 2:
        return state
    spec = PartitionSpec(names[1])

    def part(leaf: Any) -> Any:
        of_components = leaf.ndim > 0 and leaf.shape[0] == num_components > 1
        return jax.lax.with_sharding_constraint(leaf, spec) if of_components else leaf

    return jax.tree.map(part, state)
