"""What happened in a fit, step by step."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from vmix.engine import Engine, Info
from vmix.recipe import Stage

UNIT = "nats per datum"


class History(NamedTuple):
    """What happened at each step of each state (restart or chain), shape (states, steps)."""

    info: Info | None
    converged: bool
    interrupted: bool
    nan_restarts: tuple = ()

    def finals(self) -> np.ndarray:
        """The objective each state is judged by: its mean over the last twentieth of the steps, shape (states,)."""
        if self.info is None:
            return np.zeros(1)
        objective = self.info.objective
        return np.asarray(objective[:, -max(1, objective.shape[1] // 20) :].mean(1))

    def ranked(self, order: np.ndarray) -> History:
        """The same with states reordered."""
        if self.info is None:
            return self
        return self._replace(info=jax.tree.map(lambda a: a[order], self.info))

    def record(self, engine: Engine, stages: list[Stage]) -> dict[str, Any]:
        """What `Fit.history` says; of several states the best first."""
        record: dict[str, Any] = {"unit": UNIT, "step_name": engine.step_name, "stages": [s._asdict() for s in stages]}
        record["restarts"] = None
        if self.nan_restarts:
            record["nan_restarts"] = [restart._asdict() for restart in self.nan_restarts]
        if self.info is None:
            return record | {"objective": np.zeros(0)}
        several = self.info.objective.shape[0] > 1
        if several:
            record["restarts"] = [float(v) for v in self.finals()]
        record["objective"] = self.info.objective if several else self.info.objective[0]
        for name, values in self.info.diagnostics.items():
            record[name] = values if several else values[0]
        return record
