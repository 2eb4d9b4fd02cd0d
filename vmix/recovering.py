"""A fit whose objective is no number any more goes back to where it was one, and on with smaller steps."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import jax
import numpy as np

from vmix.engine import Engine, Info
from vmix.plan import Plan

MOST = 3
FACTOR = 0.1
ON_NAN = ("stop", "restart")


class Restart(NamedTuple):
    """One time that a fit went back.

    Attributes:
        step: the step or sweep whose objective was not finite.
        back_to: the step from which it went on.
        factor: size of the steps from there on, as a share of those asked for.
    """

    step: int
    back_to: int
    factor: float


class Place(NamedTuple):
    """Where a run stands: its states, the infos of its chunks, and the steps done."""

    states: Any
    infos: list[Info]
    done: int


class Recovery:
    """Where to go on from, at most three times, and by which engine.

    Args:
        plan: the plan.
        engine: the engine asked for.
        taken: what happened before, in a fit that goes on from its folder.
    """

    def __init__(self, plan: Plan, engine: Engine, taken: tuple[Restart, ...] = ()) -> None:
        self.plan, self.taken = plan, tuple(taken)
        self.engine = engine
        for _ in taken:
            self.engine = smaller_steps(plan, self.engine)
        self._start: Place | None = None
        self._last: Place | None = None
        self._tried = -1

    def reach(self, place: Place) -> None:
        """Remember a place to go back to: where the run begins, and every so many steps, whatever the clock says."""
        self._last = Place(place.states, list(place.infos), place.done)
        self._start = self._start or self._last

    def back(self, error: Any) -> Place:
        """Go back to the last place, or to the start where that is not finite or was tried before.

        Args:
            error: a `vmix.driving.FitError`.

        Returns:
            Where to go on from; `engine` has smaller steps from now on.

        Raises:
            vmix.driving.FitError: after the third time.
        """
        if len(self.taken) >= MOST or self._start is None or self._last is None:
            tried = f"the fit went back {len(self.taken)} times, down to steps {FACTOR**MOST:g} times as large"
            raise type(error)(f"{error}; {tried}", error.step) from error
        fresh = self._last.done != self._tried and all_finite(self._last.states)
        place = self._last if fresh else self._start
        self._tried = place.done
        self.engine = smaller_steps(self.plan, self.engine)
        self.taken += (Restart(error.step, place.done, FACTOR ** (len(self.taken) + 1)),)
        name = self.engine.step_name
        warnings.warn(
            f"{error}; going on from {name} {place.done} with steps {self.taken[-1].factor:g} times as large",
            UserWarning,
            stacklevel=5,
        )
        self._last = place
        return Place(place.states, list(place.infos), place.done)


def check_on_nan_word(on_nan: str) -> None:
    """Refuse another word.

    Raises:
        ValueError: naming the argument.
    """
    if on_nan not in ON_NAN:
        raise ValueError(f'on_nan must be "stop" or "restart", found {on_nan!r}')


def check_on_nan(on_nan: str, plan: Plan, engine: Engine) -> None:
    """Refuse to go back where nothing could be made smaller.

    Raises:
        ValueError: for a fit whose steps have no size.
    """
    if on_nan == "restart" and not _takes_steps(plan, engine):
        raise ValueError(
            f'on_nan="restart" makes steps smaller, but {engine.name} has no step size for program '
            f'{plan.program.name}, which has no networks or whose draws take none; leave on_nan="stop", and '
            "standardise the data or change the priors"
        )


def smaller_steps(plan: Plan, engine: Engine) -> Any:
    """The engine with steps a tenth as large."""
    return engine.with_smaller_steps(plan, FACTOR)  # type: ignore[attr-defined]


def all_finite(states: Any) -> bool:
    """Whether every number of the states is finite."""
    leaves = (np.asarray(leaf) for leaf in jax.tree.leaves(states) if jax.numpy.issubdtype(leaf.dtype, np.inexact))
    return all(bool(np.isfinite(leaf).all()) for leaf in leaves)


def _takes_steps(plan: Plan, engine: Engine) -> bool:
    takes = getattr(engine, "takes_steps", None)
    return takes is not None and takes(plan)
