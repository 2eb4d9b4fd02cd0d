"""A program planned and compiled once, then run again and again on new arrays of the same shapes."""

from __future__ import annotations

import warnings
from dataclasses import fields, replace
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.door import prepare
from vmix.driving import MAX_CHUNK, ConvergenceWarning, Run
from vmix.engine import Data, Engine, Schedule, Start
from vmix.plan import make_plan
from vmix.starting import make_start, recipe_of


class _Weighted(Run):
    """A run in which the divergence from the prior has a weight of its own."""

    kl_weight = 1.0

    def schedule(self, done: int) -> Schedule:
        """The schedule of a run, with this weight at every step."""
        return (
            super()
            .schedule(done)
            ._replace(kl_weight=cast(Array, np.full(MAX_CHUNK, self.kl_weight, jnp.result_type(float))))
        )


class Stepper:
    """Runs of one program by one engine.

    Args:
        program: a NumPyro function, or a record with `model`.
        engine: restarts and annealing are used by the first run alone.
        arrays: the data of the first run.
        kl_weight: weight of the divergence of latents from their prior.
        seed: a whole number.
    """

    def __init__(self, program: Any, engine: Engine, arrays: tuple, *, kl_weight: float, seed: int) -> None:
        self.plan = make_plan(prepare(program, arrays), arrays, key=jax.random.key(seed))
        self.num_rows = arrays[0].shape[0]
        self.kl_weight = kl_weight
        self.engines = {"first": engine, "again": _single(engine)}
        self._runs: dict[str, Any] = {}
        engine.check(self.plan, self.num_rows)

    def run(self, data: Data, start: Start | None, *, seed: int) -> tuple[Start, np.ndarray]:
        """Run the engine's steps.

        Args:
            data: the data.
            start: where to begin; None goes through the stages of a start, once for each restart.
            seed: a whole number.

        Returns:
            The best state's estimate, and the objective at each of its steps, nats per datum.
        """
        kind = "first" if start is None else "again"
        engine, keys = self.engines[kind], jax.random.split(jax.random.key(seed), 2)
        starts = [start] if start is not None else self._starts(data, engine.num_states, keys[0])
        if kind not in self._runs:
            run = _Weighted(self.plan, engine, data, False, again=True)
            run.kl_weight = self.kl_weight
            self._runs[kind] = (run, jax.jit(lambda s, d, k: engine.init(self.plan, s, d, key=k)))
        run, begin = self._runs[kind]
        run.data = data
        split = jax.random.split(keys[1], len(starts))
        states = [begin(s, data, k) for s, k in zip(starts, split, strict=True)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the next round goes on
            states, history = run(jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
        finals = history.finals()
        best = int(np.argmax(np.where(np.isfinite(finals), finals, -np.inf)))
        state = jax.tree.map(lambda a: a[best], states)
        return engine.estimate_of(self.plan, state), history.info.objective[best]

    def _starts(self, data: Data, count: int, key: Array) -> list[Start]:
        recipe = recipe_of(self.plan, None)
        return [make_start(self.plan, data, recipe, key=k)[0] for k in jax.random.split(key, count)]


def _single(engine: Engine) -> Engine:
    """The engine without restarts, chains and annealing."""
    known = {f.name for f in fields(engine)}
    return replace(engine, **{n: v for n, v in {"restarts": 1, "num_chains": 1, "anneal": None}.items() if n in known})
