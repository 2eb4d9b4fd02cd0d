"""Where dimensions stand: the data plate, the values of the discrete sites, and the steps of a structured one.

A *cell* is what one discrete variable belongs to: a datum, or one step of a datum where the discrete site is structured
(a chain over T steps). Terms about the discrete site are matrices over cells, (N T, K); N data have N cells otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array


@dataclass(frozen=True)
class Layout:
    """Where things stand in a batch shape `[values of discrete sites..., plates...]`.

    Attributes:
        data_dim: the data plate's dimension, counted from the right (-1 is the last); None without a data plate.
        nesting: the number of plate dimensions.
        discrete: the discrete local sites and their numbers of values, in program order.
        num_steps: T, the steps of the structured discrete site; None without one. A child of it has these steps as
            the first dimension of its event.
    """

    data_dim: int | None
    nesting: int
    discrete: tuple[tuple[str, int], ...] = ()
    num_steps: int | None = None

    @property
    def rows_dim(self) -> int:
        """The data plate's dimension, where a site needs one.

        Raises:
            ValueError: without a data plate.
        """
        if self.data_dim is None:
            raise ValueError('no data plate; write the sites of a datum under numpyro.plate("data", x.shape[0])')
        return self.data_dim

    @property
    def num_states(self) -> int:
        """The number of joint values of the discrete sites (1 without any)."""
        return math.prod(size for _, size in self.discrete)

    @property
    def value_sizes(self) -> tuple[int, ...]:
        """Sizes of the enumeration dimensions, leftmost first (the last discrete site is leftmost)."""
        return tuple(size for _, size in reversed(self.discrete))

    @property
    def cells_per_datum(self) -> int:
        """T, or 1 without a structured site."""
        return self.num_steps or 1

    def rows_for(self, cells: int) -> int:
        """How many data make about so many cells, at least one."""
        return max(1, cells // self.cells_per_datum)

    def enumerated(self) -> dict[str, Array]:
        """All values of each discrete site, each in its own leftmost dimension."""
        steps = () if self.num_steps is None else (1,)
        return {
            name: jnp.arange(size).reshape((size,) + (1,) * (self.nesting + i) + steps)
            for i, (name, size) in enumerate(self.discrete)
        }

    def state_values(self) -> dict[str, Array]:
        """The value of each discrete site in each joint state: name to shape (num_states,)."""
        grids = jnp.unravel_index(jnp.arange(self.num_states), self.value_sizes) if self.discrete else ()
        return {name: grid for (name, _), grid in zip(reversed(self.discrete), grids, strict=True)}

    def values_of(self, states: Array) -> dict[str, Array]:
        """The value of each discrete site in the joint state of each cell, in the shapes that the program gives them.

        Args:
            states: shape (N,), or (N, T) where there are steps.
        """
        shape = (states.shape[0], *(1,) * (-self.rows_dim - 1), *states.shape[1:])
        return {name: value[states].reshape(shape) for name, value in self.state_values().items()}

    def to_rows(self, cells: Array) -> Array:
        """From cells to data: (N T, ...) to (N, T, ...); unchanged without steps."""
        return cells if self.num_steps is None else cells.reshape(-1, self.num_steps, *cells.shape[1:])

    def to_cells(self, rows: Array) -> Array:
        """From data to cells: (N, T, ...) to (N T, ...); unchanged without steps."""
        return rows if self.num_steps is None else rows.reshape(-1, *rows.shape[2:])

    def sum_cells(self, per_cell: Array) -> Array:
        """Sums over the cells of each datum: (N T,) or (1,) to (N,) or (1,)."""
        if self.num_steps is None:
            return per_cell
        if per_cell.shape[0] == 1:
            return per_cell * self.num_steps
        return per_cell.reshape(-1, self.num_steps).sum(1)


def is_enumerated(layout: Layout, batch_shape: tuple[int, ...]) -> bool:
    """Whether a batch shape has an enumeration dimension, so its site is a child of a discrete one."""
    return len(batch_shape) > layout.nesting


def collapse(layout: Layout, log_prob: Array, *, steps: bool = False) -> Array:
    """Sum a log density over every plate but the data plate.

    Args:
        layout: where the dimensions stand.
        log_prob: log densities, shape `[values..., plates...]`, or `[values..., plates..., T]` with steps.
        steps: whether the last dimension is that of the steps.

    Returns:
        Matrix at [n, k], shape (N or 1, K or 1); over cells, (N T or 1, K or 1), with steps.
    """
    num_discrete = len(layout.discrete)
    log_prob = log_prob if steps else log_prob[..., None]
    full = log_prob.reshape((1,) * (num_discrete + layout.nesting + 1 - log_prob.ndim) + log_prob.shape)
    data_axis = full.ndim - 1 + layout.data_dim if layout.data_dim is not None else None
    summed = tuple(axis for axis in range(num_discrete, full.ndim - 1) if axis != data_axis)
    matrix = full.sum(summed)
    if data_axis is None:
        matrix = matrix[..., None, :]
    if steps:
        matrix = jnp.broadcast_to(matrix, (*matrix.shape[:-1], layout.num_steps))
    matrix = matrix.reshape(*matrix.shape[:-2], -1)
    if math.prod(matrix.shape[:-1]) == 1:
        return matrix.reshape(-1)[:, None]
    return jnp.broadcast_to(matrix, layout.value_sizes + matrix.shape[-1:]).reshape(layout.num_states, -1).T
