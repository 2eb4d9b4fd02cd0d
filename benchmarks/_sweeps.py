"""vmix advanced sweep by sweep, compiled and chunked as its driver does, for contests that take turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vmix.door import check_arrays, prepare
from vmix.driving import MAX_CHUNK, Run, next_length, on_the_host, stacked
from vmix.engine import Engine, Info, Start
from vmix.fitting import Task, begin, hold
from vmix.lapack import one_blas_thread
from vmix.plan import make_plan
from vmix.streaming import Stream, is_streamed, sample_rows

__all__ = ["MAX_CHUNK", "Sweeps", "next_length"]


class Sweeps:
    """A program under one engine, planned and its data held; `start` or `start_at`, then `advance`.

    Args:
        model: the program.
        arrays: its data; memory-mapped ones stay on disk, as in a fit.
        engine: of one state.
        seed: of plan and start.
    """

    def __init__(self, model: Any, arrays: tuple[np.ndarray, ...], engine: Engine, *, seed: int = 0) -> None:
        began = time.perf_counter()
        checked = check_arrays(arrays, missing=None)
        self.plan = make_plan(prepare(model, checked), checked, key=jax.random.key(seed))
        self.seconds_plan = time.perf_counter() - began
        self.engine, self.seed = engine, seed
        stream = Stream(self.plan, engine, checked, None, seed=seed) if is_streamed(checked) else None
        self.data = hold(self.plan, checked, None) if stream is None else sample_rows(checked, None, seed=seed)
        self.run = Run(self.plan, engine, self.data, False, stream, again=True)
        self.state: Any = None

    def start(self) -> None:
        """Where a fit would start."""
        states, _ = begin(Task(self.plan, self.data, None), self.engine, None, self.seed, False)
        self.state = jax.block_until_ready(states)

    def start_at(self, values: Mapping[str, Any]) -> None:
        """Start at given globals."""
        first = Start({name: jnp.asarray(value, jnp.float32) for name, value in values.items()}, {})
        self.state = stacked([self.engine.init(self.plan, first, self.data, key=jax.random.key(self.seed))])

    def advance(self, sweeps: int) -> Info:
        """So many sweeps, at most MAX_CHUNK, and what they tell, on the host as in the driver."""
        with one_blas_thread():
            self.state, info = self.run.chunk(self.state, self.data, self.run.schedule(0), sweeps)
            jax.block_until_ready(self.state)
        return on_the_host(info, sweeps)

    def values(self) -> dict[str, np.ndarray]:
        """The globals where they stand, float64."""
        return {name: np.asarray(value[0], np.float64) for name, value in self.state.globals.items()}
