"""Fits of data that stay on disk: memory-mapped arrays, read in chunks, never whole.

EM and Gibbs need only sums of sufficient statistics, so a sweep over chunks is the same sweep as in memory. SVI takes
minibatches of random rows. What else touches the data (the plan, the start) sees a sample of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.engine import Data, Engine, Info, Partial, Schedule
from vmix.plan import Plan
from vmix.program import ProgramError
from vmix.sharding import num_parts, read_part, split

CHUNK_BYTES = 64 << 20
SAMPLE_ROWS = 20_000
_Advance = Callable[[Any, Schedule], tuple[Any, Info]]


def is_streamed(arrays: tuple) -> bool:
    """Whether some array stays on disk."""
    return any(isinstance(array, np.memmap) for array in arrays)


def sample_rows(arrays: tuple, labels: Mapping[str, Array] | None, *, seed: int) -> Data:
    """A random sample of rows, in memory."""
    num_rows = arrays[0].shape[0]
    if num_rows <= SAMPLE_ROWS:
        return _load(arrays, labels, slice(None))
    return _load(arrays, labels, np.sort(np.random.default_rng(seed).choice(num_rows, SAMPLE_ROWS, replace=False)))


class _Sweeps(Protocol):
    """What an engine whose `streams` says "sweeps" has."""

    def reduce(self, plan: Plan, state: Any, rows: Data, schedule: Schedule, chunk: Array | int) -> Partial:
        """Sums over one chunk of the data."""

    def apply(self, plan: Plan, state: Any, total: Partial, template: Data, schedule: Schedule) -> tuple[Any, Info]:
        """The rest of the sweep, on the sums of all chunks."""


class _Rows(Protocol):
    """What an engine whose `streams` says "rows" has."""

    @property
    def batch_size(self) -> int | None:
        """Rows a step."""

    def step_rows(self, plan: Plan, state: Any, rows: Data, schedule: Schedule) -> tuple[Any, Info]:
        """One step on the given rows."""


class Stream:
    """One pass after another over data on disk, for one state of an engine.

    Args:
        plan: the plan.
        engine: an engine whose `streams(plan)` says "sweeps" or "rows".
        arrays: the data arrays.
        labels: observed values of discrete sites.
        seed: of the rows that SVI draws.
    """

    def __init__(
        self, plan: Plan, engine: Engine, arrays: tuple, labels: Mapping[str, Array] | None, *, seed: int
    ) -> None:
        self.plan, self.engine, self.arrays, self.labels = plan, engine, arrays, labels
        self.kind = engine.streams(plan)
        self.generator = np.random.default_rng(seed)
        self.mark()
        row_bytes = sum(4 * int(np.prod(array.shape[1:])) for array in arrays)
        self.chunk_rows = int(max(1, min(CHUNK_BYTES // max(row_bytes, 1), arrays[0].shape[0])))
        parts = num_parts()
        self.chunk_rows = max(self.chunk_rows // parts, 1) * parts
        rows = self.kind == "rows"
        self._advance = self._by_rows(cast(_Rows, engine)) if rows else self._by_sweeps(cast(_Sweeps, engine))

    def step(self, state: Any, schedule: Schedule) -> tuple[Any, Info]:
        """One sweep over all chunks (EM, Gibbs), or one step on random rows (SVI)."""
        return self._advance(state, schedule)

    @property
    def num_rows(self) -> int:
        """Rows on disk."""
        return int(self.arrays[0].shape[0])

    def rows(self, first: int, last: int) -> tuple:
        """Rows of every array, in memory."""
        return _load(self.arrays, None, slice(first, last)).args

    def mark(self) -> None:
        """Remember which rows come next, for `rewind`."""
        self._marked = self.generator.bit_generator.state

    def rewind(self) -> None:
        """Draw the same rows again as after the last `mark`."""
        self.generator.bit_generator.state = self._marked

    def _by_rows(self, engine: _Rows) -> _Advance:
        step = jax.jit(lambda state, rows, schedule: engine.step_rows(self.plan, state, split(rows), schedule))
        num_rows = self.arrays[0].shape[0]

        def advance(state: Any, schedule: Schedule) -> tuple[Any, Info]:
            size = min(engine.batch_size or num_rows, num_rows)
            index = np.sort(self.generator.choice(num_rows, size, replace=False))
            return step(state, _load(self.arrays, self.labels, index), schedule)

        return advance

    def _by_sweeps(self, engine: _Sweeps) -> _Advance:
        reduce = jax.jit(lambda state, rows, *rest: engine.reduce(self.plan, state, split(rows), *rest))
        apply = jax.jit(partial(engine.apply, self.plan))

        def advance(state: Any, schedule: Schedule) -> tuple[Any, Info]:
            total: Partial | None = None
            for i, rows in enumerate(self._chunks()):
                part = reduce(state, rows, schedule, i)
                # wait for the chunk before: one is read while one is computed, and no queue of them fills the memory
                total = part if total is None else jax.tree.map(jnp.add, jax.block_until_ready(total), part)
            return apply(state, total, self._template(), schedule)

        return advance

    def _chunks(self) -> Iterator[Data]:
        for first in range(0, self.arrays[0].shape[0], self.chunk_rows):
            last = min(first + self.chunk_rows, self.arrays[0].shape[0])
            yield _load(self.arrays, self.labels, slice(first, last), shared=True)

    def _template(self) -> Data:
        return _load(self.arrays, self.labels, slice(0, 2))


def refuse_streaming(engine: Any, reason: str, way_out: str) -> ProgramError:
    """The error for a program that an engine cannot stream."""
    return ProgramError(f"{engine.name} cannot stream this program from disk: {reason}; {way_out}")


def _load(arrays: tuple, labels: Mapping[str, Array] | None, index: Any, *, shared: bool = False) -> Data:
    """Rows in memory, float64 as float32 and wide integers as int32 (the door has checked their range)."""
    args = []
    for array in arrays:
        kind = np.float32 if np.issubdtype(array.dtype, np.floating) else np.int32
        rows = array[index]
        args.append(read_part(rows, kind=kind) if shared else jnp.asarray(rows.astype(kind)))
    return Data(tuple(args), None if labels is None else {n: values[index] for n, values in labels.items()}, None)
