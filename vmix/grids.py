"""Fits of several settings: which settings a grid spells out, and the fits with one table to choose by."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial, update_wrapper
from itertools import product
from typing import Any

import numpy as np

from vmix.results import Fit
from vmix.suggesting import unknown

Choice = dict[str, Any]
# options of an engine that change what it climbs, and so what its objective can be compared with
CHANGES_OBJECTIVE = ("estimate", "per_datum", "guide")


class Fits(list[Fit]):
    """A list of fits that prints as a table, and tells which of them is the best.

    Attributes:
        choices: what each fit took from the grid, by option; empty dicts without a grid.
        held_out: mean score of held-out data of each, nats per datum; None where none were given.
        failed: choices all of whose seeds lost a finite objective, with what the error said.
    """

    def __init__(
        self,
        fits: Iterable[Fit],
        choices: Sequence[Choice],
        *,
        held_out: Sequence[float] | None = None,
        failed: Sequence[tuple[Choice, str]] = (),
        comparable: bool = True,
    ) -> None:
        super().__init__(fits)
        self.choices, self.failed = list(choices), list(failed)
        self.held_out = None if held_out is None else list(held_out)
        self._comparable = comparable

    @property
    def objectives(self) -> list[float]:
        """What each fit came to: its objective, the mean over the last twentieth of its steps, nats per datum."""
        found = []
        for fit in self:
            objective = np.atleast_2d(np.asarray(fit.history["objective"]))[0]
            found.append(float(objective[-max(len(objective) // 20, 1) :].mean()) if objective.size else -np.inf)
        return found

    @property
    def best(self) -> Fit:
        """The fit with the highest score of held-out data; without any, the highest objective.

        Raises:
            ValueError: where no data were held out and the grid changes what the objective measures: that of a larger
                model, or of another prior, says nothing about which is better.
        """
        if self.held_out is None and not self._comparable:
            raise ValueError(
                "objectives of different programs cannot be compared: give fit_many held_out=, data to choose by"
            )
        scores = self.objectives if self.held_out is None else self.held_out
        return self[int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))]

    def table(self) -> list[dict[str, Any]]:
        """A row a fit: choice, seed, objective, held-out score, steps, convergence, seconds of its choice."""
        rows = []
        for i, (fit, objective) in enumerate(zip(self, self.objectives, strict=True)):
            score = {} if self.held_out is None else {"held_out": self.held_out[i]}
            steps = int(np.atleast_2d(np.asarray(fit.history["objective"])).shape[1])
            ended = {"steps": steps, "converged": fit.converged, "seconds": fit.seconds}
            rows.append({**self.choices[i], "seed": fit.seed, "objective": objective, **score, **ended})
        return rows

    def __str__(self) -> str:
        rows = self.table()
        if not rows:
            return "no fits"
        lines = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        text = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        return "\n".join([*text, *(f"failed, {choice}: {why}" for choice, why in self.failed)])


def spelled_out(grid: Mapping[str, Sequence[Any]] | None, program: Any, engine: Any) -> list[Choice]:
    """Every combination of a grid's values, the last option varying fastest; one empty choice without a grid.

    Args:
        grid: values to try, by name of an option of the program's or the engine's.
        program: the program.
        engine: the engine.

    Returns:
        The choices.

    Raises:
        TypeError: if the grid is no dict of several values each.
        ValueError: for an option that neither has, or both have.
    """
    if grid is None:
        return [{}]
    if not isinstance(grid, Mapping):
        raise TypeError(f'grid must be a dict, as {{"num_components": [5, 10]}}, found {type(grid).__name__}')
    mine, theirs = _options(program), {field.name for field in fields(engine)}
    for name, values in grid.items():
        if name in mine and name in theirs:
            raise ValueError(f"grid names {name!r}, an option of the program and of the engine; make two calls instead")
        if name not in mine | theirs:
            raise ValueError("grid: " + unknown("option", name, mine | theirs))
        if isinstance(values, str | bytes) or not isinstance(values, Iterable) or not list(values):
            raise TypeError(f"grid[{name!r}] must be a list of values to try, found {values!r}")
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def applied(choice: Choice, program: Any, engine: Any) -> tuple[Any, Any]:
    """The program and the engine with the options of a choice; their own checks judge the values."""
    mine = _options(program)
    model = {name: value for name, value in choice.items() if name in mine}
    options = {name: value for name, value in choice.items() if name not in mine}
    if model:
        is_record = is_dataclass(program) and not isinstance(program, type)
        program = replace(program, **model) if is_record else _with_arguments(program, model)
    return program, replace(engine, **options) if options else engine


def program_key(choice: Choice, engine: Any) -> tuple:
    """What of a choice concerns the program: choices with the same key share a plan."""
    theirs = {field.name for field in fields(engine)}
    return tuple((name, id(value)) for name, value in choice.items() if name not in theirs)


def in_order_of_programs(choices: Sequence[Choice], engine: Any) -> list[int]:
    """The choices' places, those of the same program one after another."""
    keys = [program_key(choice, engine) for choice in choices]
    return sorted(range(len(choices)), key=lambda i: keys.index(keys[i]))


def is_comparable(grid: Mapping[str, Any] | None, program: Any) -> bool:
    """Whether all points of a grid climb the same objective."""
    return not any(name in _options(program) or name in CHANGES_OBJECTIVE for name in grid or {})


def _options(program: Any) -> set[str]:
    """Fields of a record; keyword arguments of a function."""
    if is_dataclass(program) and not isinstance(program, type):
        return {field.name for field in fields(program) if field.init}
    if not inspect.isfunction(program):
        return set()
    parameters = inspect.signature(program).parameters.values()
    return {p.name for p in parameters if p.default is not p.empty}


def _with_arguments(program: Any, values: Choice) -> Any:
    return update_wrapper(partial(program, **values), program)


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
