"""`vmix.fit_many`: a program fitted from many seeds at once, fewer of them as it goes, and with several settings."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmix.checks import as_data, check_positive_int, check_seed
from vmix.door import check_batch, check_engine
from vmix.driving import FitError, Run, joined
from vmix.engine import Engine, Info
from vmix.fitting import Task, begin, factors_at, prepare_task
from vmix.grids import Choice, Fits, applied, in_order_of_programs, is_comparable, program_key, spelled_out
from vmix.history import History
from vmix.lapack import one_blas_thread
from vmix.recipe import Recipe, Stage
from vmix.results import Fit


class _Going(NamedTuple):
    """The seeds that still run, their states, and what happened to each until now."""

    seeds: list[int]
    states: Any
    infos: dict[int, list[Info]]


def fit_many(
    program: Any,
    *data: Any,
    engine: Engine,
    seeds: Sequence[int],
    init: Recipe | str | Mapping[str, Any] | None = None,
    observed: Mapping[str, Any] | None = None,
    messages: Mapping[str, Any] | None = None,
    missing: str | None = None,
    progress: bool | None = None,
    halve_every: int | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    held_out: Any = None,
) -> Fits:
    """Fit a program from several seeds in one compiled loop, and with several settings one after another.

    The program is planned once, with the first seed; each seed has the start and the random numbers that `vmix.fit`
    would give it. Small fits run side by side (`vmap`), large ones and those with networks one after another. Each
    choice of a grid is compiled for itself, once for all its seeds; choices of the same program share its plan.

    Args:
        program: a NumPyro function of the data arrays, or a record with `model` (and `guide`).
        *data: arrays with N rows each, in memory.
        engine: with `restarts=1` and, for Gibbs, `num_chains=1`: the seeds take their place.
        seeds: whole numbers, all different.
        init: where each begins, as for `vmix.fit`.
        observed: known values of discrete sites, as for `vmix.fit`.
        messages: log potentials from elsewhere, as for `vmix.fit`.
        missing: "nan" to read NaN in the data as missing.
        progress: whether to show progress lines; by default where standard error is a terminal.
        halve_every: after each so many steps the half with the lower objective ends there (successive halving); None
            runs all to the end.
        grid: values to try, by name of an option of the program (a field, or a keyword argument of a function) or of
            the engine: `{"num_components": [5, 10]}`. Every combination is fitted from every seed.
        held_out: data to score each fit on, an array, or a tuple of them where the program takes several.

    Returns:
        A fit for each seed, in their order, choice by choice; the list prints as a table and has `best` and `table()`.
        `seconds` is the time of all seeds of a choice. A seed that ended early has a shorter history and
        `converged=False`.

    Raises:
        TypeError: for seeds that are a single number, and a grid that is no dict of lists.
        ValueError: for data or options that cannot be used.
        FitError: if every seed's objective becomes NaN or infinite; of a grid, if that happens for every choice.

    Example:
        >>> import numpy as np, vmix
        >>> from vmix.inference import EM
        >>> from vmix.models import GaussianMixture
        >>> x = np.concatenate([np.random.default_rng(0).normal(m, 1, (50, 2)) for m in (-4, 4)])
        >>> fits = vmix.fit_many(GaussianMixture(num_components=2), x, engine=EM(), seeds=range(3))
        >>> tuple(fit.seed for fit in fits)
        (0, 1, 2)
    """
    check_engine(engine)
    choices = spelled_out(grid, program, engine)
    asked = [applied(choice, program, engine) for choice in choices]
    checked = _checked(seeds, asked[0][1], halve_every)
    for _, options in asked[1:]:
        _checked(checked, options, halve_every)
    shown = None if held_out is None else _check_held_out(held_out, data, missing)
    given = {"init": init, "observed": observed, "messages": messages, "missing": missing}
    found: dict[int, list[Fit]] = {}
    failed: list[tuple[Choice, str]] = []
    task, planned = None, None
    for i in in_order_of_programs(choices, engine):
        model, options = asked[i]
        began, which = time.perf_counter(), program_key(choices[i], engine)
        if task is not None and which == planned:
            check_batch(options, task.data.num_rows)
            options.check(task.plan, task.data.num_rows)
        else:
            task, planned = _planned(model, data, options, checked[0], given), which
        try:
            found[i] = _fit_seeds(task, options, checked, init, progress, halve_every, began)
        except FitError as error:
            if len(failed) + 1 == len(choices):
                raise
            failed.append((choices[i], str(error)))
            continue
        if any(fit.interrupted for fit in found[i]):
            break
    fits = [fit for i in sorted(found) for fit in found[i]]
    taken = [choices[i] for i in sorted(found) for _ in found[i]]
    scores = None if shown is None else [fit.score(*shown) for fit in fits]
    return Fits(fits, taken, held_out=scores, failed=failed, comparable=is_comparable(grid, program))


@one_blas_thread()
def _planned(program: Any, data: tuple, engine: Engine, seed: int, given: Mapping[str, Any]) -> Task:
    """The program planned and its data held; `given` is what `prepare_task` takes by name."""
    task = prepare_task(program, data, engine, seed, **given)
    if task.stream is not None:
        raise ValueError("fit_many takes data in memory, found a memory-mapped array: use vmix.fit for each seed")
    return task


def _check_held_out(held_out: Any, data: tuple, missing: str | None) -> tuple[np.ndarray, ...]:
    """The data to score on, as arrays like those to fit."""
    given = held_out if isinstance(held_out, tuple) else (held_out,)
    arrays = tuple(as_data(array, name="held_out", allow_missing=missing is not None) for array in given)
    shapes, expected = [array.shape[1:] for array in arrays], [np.shape(array)[1:] for array in data]
    if shapes != expected:
        raise ValueError(
            f"held_out has rows of the shapes {shapes}, the data {expected}; expected the same: give as many arrays as "
            "the program takes, as a tuple where there are several"
        )
    return arrays


@one_blas_thread()
def _fit_seeds(
    task: Task,
    engine: Engine,
    seeds: list[int],
    init: Any,
    progress: bool | None,
    halve_every: int | None,
    began: float,
) -> list[Fit]:
    """Fit from every seed in one compiled loop; `began` is when the clock was started."""
    begun, stages = [], dict[int, list[Stage]]()
    for seed in seeds:
        states, stages[seed] = begin(task, engine, init, seed, progress)
        begun.append(states)
    states = jax.tree.map(lambda *parts: jnp.concatenate(parts), *begun)
    going, done, ended = _Going(seeds, states, {seed: [] for seed in seeds}), 0, dict[int, tuple[Any, History]]()
    while going.seeds:
        last = None if halve_every is None or len(going.seeds) == 1 else done + halve_every
        going, done, finished = _rung(task, engine, going, done, last, progress)
        ended |= finished
    estimate = jax.jit(partial(engine.estimate_of, task.plan))
    seconds = time.perf_counter() - began
    fits = []
    for seed in seeds:
        state, history = ended[seed]
        fit = Fit.build(task.plan, engine, estimate(state), history, stages[seed], seed=seed, seconds=seconds)
        fit.factors = factors_at(task.plan, engine, state)
        fits.append(fit)
    return fits


def _rung(
    task: Task, engine: Engine, going: _Going, done: int, last: int | None, progress: bool | None
) -> tuple[_Going, int, dict[int, tuple[Any, History]]]:
    """Run up to a step; who goes on, the step, and the last state and history of who does not."""
    run = Run(task.plan, replace(engine, restarts=len(going.seeds)), task.data, progress)
    states, history = run(going.states, done, last)
    steps = 0
    if history.info is not None:
        steps = history.info.objective.shape[1]
        for i, seed in enumerate(going.seeds):
            going.infos[seed].append(jax.tree.map(lambda a, i=i: a[i : i + 1], history.info))
    done += steps
    over = history.converged or history.interrupted or done >= engine.num_steps_total
    finals = np.nan_to_num(history.finals(), nan=-np.inf)
    order = [] if over else sorted(np.argsort(-finals)[: -(-len(going.seeds) // 2)].tolist())
    ended = {}
    for i, seed in enumerate(going.seeds):
        if i not in order:
            told = History(joined(going.infos[seed]), history.converged, history.interrupted)
            ended[seed] = (jax.tree.map(lambda a, i=i: a[i], states), told)
    kept = np.asarray(order, int)
    left = _Going([going.seeds[i] for i in order], jax.tree.map(lambda a: a[kept], states), going.infos)
    return left, done, ended


def _checked(seeds: Sequence[int], engine: Engine, halve_every: int | None) -> list[int]:
    """The seeds as a list of different whole numbers."""
    if engine.num_states != 1:
        raise ValueError(
            f"fit_many runs one state a seed, found {type(engine).__name__} with {engine.num_states} restarts or "
            "chains; use restarts=1 and num_chains=1, and more seeds"
        )
    if halve_every is not None:
        check_positive_int(halve_every, "halve_every")
    if not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be several whole numbers, found {seeds!r}: seeds=range({seeds!r}), for instance")
    found = list(seeds)
    for seed in found:
        check_seed(seed)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"seeds must be whole numbers, at least one and all different, found {found}")
    return found
