"""`vmix.fit`: the one driver of every engine.

It checks at the door, plans, goes through the stages of the start, and then runs the engine's steps
(`vmix.driving`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh

from vmix.checks import check_seed
from vmix.columns import names_of
from vmix.compilation import jit_for, jit_once
from vmix.door import (
    check_arrays,
    check_batch,
    check_components,
    check_engine,
    check_folder,
    check_labels,
    check_messages,
    check_start,
    check_states,
    given_globals,
    join_messages,
    prepare,
)
from vmix.driving import ConvergenceWarning, FitError, Run, joined, stacked, telling_of_memory, work_of
from vmix.engine import Data, Engine, Info, Start
from vmix.enumeration import local_terms
from vmix.history import History
from vmix.lapack import one_blas_thread
from vmix.layout import Layout
from vmix.log_joint import model_sites
from vmix.plan import Plan, make_plan
from vmix.pretraining import first_values
from vmix.processes import on_host
from vmix.program import OBSERVED, Program, Site
from vmix.progress import Progress
from vmix.recipe import Recipe, Stage, Watch
from vmix.recovering import Recovery, Restart, check_on_nan, check_on_nan_word
from vmix.results import Fit, settings_of
from vmix.resuming import Keeper, density_digest, described_start, fingerprint
from vmix.sharding import check_mesh, over, placed
from vmix.signals import ends_by_sigterm
from vmix.starting import make_start, recipe_of
from vmix.streaming import Stream, is_streamed, sample_rows

KNOWN_BYTES = 2 << 30

__all__ = ["ConvergenceWarning", "FitError", "Task", "begin", "factors_at", "fit", "hold", "prepare_task"]


def fit(
    program: Any,
    *data: Any,
    engine: Engine,
    seed: int,
    init: Recipe | str | Mapping[str, Any] | None = None,
    observed: Mapping[str, Any] | None = None,
    messages: Mapping[str, Any] | None = None,
    missing: str | None = None,
    progress: bool | None = None,
    callback: Callable[[int, Callable[[], Fit]], None] | None = None,
    mesh: Mesh | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: float | None = None,
    on_nan: str = "stop",
) -> Fit:
    """Fit a program to data.

    Args:
        program: a NumPyro function of the data arrays, or a record with `model` (and `guide`).
        *data: arrays with N rows each, handed to the program in this order.
        engine: `SVI(...)`, `EM(...)` or `Gibbs(...)` from `vmix.inference`.
        seed: a whole number; the same seed gives the same result on the same device.
        init: a `vmix.recipe.Recipe`, the name of a clustering ("k-means", "random", "merge", "evidence", "prior"),
            or values of globals to start from, by site.
        observed: known values of discrete sites, by site: whole numbers of shape (N,), -1 where unknown.
        messages: log potentials of the values of discrete sites from elsewhere, by site, nats, shape (N, K), or
            (N, T, K) where the site has steps: a factor that multiplies each datum's joint density.
        missing: "nan" to read NaN in the data as missing; by default NaN is refused.
        progress: whether to show a progress line; by default where standard error is a terminal.
        callback: called after every sweep or step with their number and a function that makes the fit so far:
            `callback=lambda n, fit: print(n, fit().score(x))`. What it makes is compiled anew each time.
        mesh: devices that share the rows, `jax.make_mesh((8,), ("data",))`, and by a second axis the components. All
            else is on each of them; statistics are sums, so the result is what one device finds, but for rounding.
        checkpoint: a folder in which the fit leaves its state as it goes. The same call goes on from there, to the
            same bits on the same device, however it was ended; when it has ended it gives the fit at once. SIGTERM
            lets it keep its state first, then ends the process, unless the program takes that signal itself.
        checkpoint_every: seconds between two saves, at least; 60 by default.
        on_nan: "stop" with an error when the objective is not finite any more, or "restart": go back to the last finite
            state and on with steps a tenth as large, at most three times, each with a warning and a line in
            `history["nan_restarts"]`.

    Returns:
        The fit.

    Raises:
        ValueError: for data or options that cannot be used (`ProgramError` for a program that cannot be planned).
        FitError: if the objective becomes NaN or infinite.
        MemoryError: if memory runs out; `checkpoint` then holds the state before it.

    Example:
        >>> import vmix, numpy as np
        >>> from vmix.models import GaussianMixture
        >>> from vmix.inference import EM
        >>> x = np.concatenate([np.random.default_rng(0).normal(m, 1, (50, 2)) for m in (-4, 4)])
        >>> fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(), seed=0)
        >>> sorted(np.bincount(fit.predict(x)).tolist())
        [50, 50]
    """
    began = time.perf_counter()
    check_seed(seed)
    check_engine(engine)
    if not (callback is None or callable(callback)):
        raise TypeError(f"callback must be a function of (number, make_fit), found {type(callback).__name__}")
    if not (progress is None or isinstance(progress, bool)):
        raise TypeError(f"progress must be True, False or None (where there is a terminal), found {progress!r}")
    check_folder(checkpoint, checkpoint_every)
    check_on_nan_word(on_nan)
    mesh = check_mesh(mesh)
    with ends_by_sigterm(checkpoint is not None), over(mesh), one_blas_thread():
        keeper = None if checkpoint is None else Keeper(checkpoint, checkpoint_every)

        def look(program: Program, arrays: tuple, sites: Mapping[str, Site]) -> None:
            if keeper is not None:
                factors = (observed, messages, missing)
                keeper.belongs_to(_identity(program, arrays, sites, engine, init, seed, factors))

        with telling_of_memory(engine, checkpoint):
            task = prepare_task(
                program,
                data,
                engine,
                seed,
                init=init,
                observed=observed,
                messages=messages,
                missing=missing,
                mesh=mesh,
                look=look,
            )
        plan, held = task.plan, task.data
        check_on_nan(on_nan, plan, engine)
        if keeper is not None:
            keeper.belongs_to({**keeper.identity, "log density": density_digest(plan)})
        kept = None if keeper is None else keeper.found(_like(task, engine, seed))
        with telling_of_memory(engine, checkpoint):
            states, stages = (kept.states, kept.stages) if kept else begin(task, engine, init, seed, progress, keeper)

        def finish(states: Any, history: History) -> Fit:
            return _finish(plan, engine, states, history, stages, seed=seed, seconds=time.perf_counter() - began)

        def each(done: int, states: Any, infos: list[Info]) -> None:
            if callback is not None:
                callback(done, lambda: finish(states, History(joined(infos), False, False)))

        taken = tuple(Restart(*restart) for restart in kept.nan_restarts) if kept else ()
        recovery = Recovery(plan, engine, taken) if on_nan == "restart" else None
        run = Run(
            plan, engine, held, progress, task.stream, each=each if callback else None, keeper=keeper, recovery=recovery
        )
        if kept is not None:
            if task.stream is not None:
                task.stream.generator.bit_generator.state = kept.stream or {}
            if kept.converged:
                return finish(states, History(kept.info, True, False, taken))
            return finish(*run(states, kept.done, before=kept.info))
        if keeper is not None:
            keeper.stages = stages
            run.keep(states, [], 0)
        return finish(*run(states))


def _identity(
    program: Program, arrays: tuple, sites: Mapping[str, Site], engine: Engine, init: Any, seed: int, factors: tuple
) -> dict[str, Any]:
    """Whose state a folder holds: all that can be told before the plan is made."""
    observed, messages, missing = factors
    return {
        "program": program.name,
        "settings": settings_of(program.source),
        "sites": [[site.name, site.role, site.family, list(site.shape)] for site in sites.values()],
        "engine": engine.name,
        "options": settings_of(engine),
        "seed": seed,
        "data": fingerprint(arrays),
        "start": described_start(init),
        "observed": described_start(observed),
        "messages": described_start(messages),
        "missing": missing,
    }


def _like(task: Task, engine: Engine, seed: int) -> Any:
    """The structure of an engine's states."""
    key = jax.random.key(seed)
    start = first_values(task.plan, key=key, from_prior=False)
    shape = jax.eval_shape(lambda start, data: engine.init(task.plan, start, data, key=key), start, task.data)
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct((engine.num_states, *a.shape), a.dtype), shape)


class Task(NamedTuple):
    """A program that is planned, and its data on the device; of data on disk a sample, and how to read them."""

    plan: Plan
    data: Data
    stream: Stream | None


def prepare_task(
    program: Any,
    data: tuple,
    engine: Engine,
    seed: int,
    *,
    init: Any,
    observed: Mapping[str, Any] | None,
    messages: Mapping[str, Any] | None,
    missing: str | None,
    mesh: Mesh | None = None,
    look: Callable[[Program, tuple, Mapping[str, Site]], None] | None = None,
) -> Task:
    """Check and plan; arguments and errors as for `fit`. `look` may refuse what was read, before a compilation."""
    arrays = check_arrays(data, missing=missing)
    num_rows = arrays[0].shape[0]
    check_batch(engine, num_rows)
    program = prepare(program, arrays)

    def factors(layout: Layout) -> tuple[dict[str, Array] | None, dict[str, Array]]:
        return check_labels(layout, observed, num_rows), check_messages(layout, messages, num_rows)

    def judge(sites: Mapping[str, Site], layout: Layout) -> None:
        check_components(program, layout, num_rows)
        check_start(sites, init)
        factors(layout)
        if look is not None:
            look(program, arrays, sites)

    plan = make_plan(program, arrays, key=_keys(seed)["plan"], missing=missing is not None, judge=judge)
    plan = replace(plan, columns=tuple(names_of(table) for table in data))
    engine.check(plan, num_rows)
    check_states(plan, engine)
    labels = join_messages(*factors(plan.layout))
    stream = Stream(plan, engine, arrays, labels, seed=seed) if is_streamed(arrays) else None
    held = hold(plan, arrays, labels) if stream is None else sample_rows(arrays, labels, seed=seed)
    return Task(plan, placed(held, mesh), stream)


def begin(
    task: Task, engine: Engine, init: Any, seed: int, progress: bool | None, keeper: Keeper | None = None
) -> tuple[Any, list[Stage]]:
    """The engine's first states, stacked, and the stages that were gone through."""
    plan, keys = task.plan, _keys(seed)
    with Progress(None, "start", enabled=progress) as bar:

        def report(stage: str, done: int, total: int, objective: float) -> None:
            bar.update(done, objective, f"nats per datum, {stage}, epoch {done} of {total}")

        watch = Watch(report) if keeper is None else Watch(report, keeper.recall, keeper.retain)
        starts, stages = _starts(task, engine, init, keys["start"], watch)
    first = _beginner(plan, cast(Hashable, engine))
    states = [first(s, task.data, k) for s, k in zip(starts, _split(keys["init"], starts), strict=True)]
    return jit_once(stacked)(states), stages


@lru_cache(maxsize=8)
def _beginner(plan: Plan, engine: Any) -> Callable:
    return jit_for(lambda start, data, key: engine.init(plan, start, data, key=key), work=work_of(plan, engine))


def _keys(seed: int) -> dict[str, Array]:
    return dict(zip(("plan", "start", "init"), jax.random.split(jax.random.key(seed), 3), strict=True))


def hold(plan: Plan, arrays: tuple, labels: dict[str, Array] | None) -> Data:
    """Put the data on the device, with the statistics of compressed observed sites where they fit in memory."""
    args = tuple(jnp.asarray(a) for a in arrays)
    names = [name for name in plan.frames if plan.sites[name].role == OBSERVED]
    if not names or plan.latents:
        return Data(args, labels, None)

    def statistics(args: tuple) -> dict[str, tuple[Array, Array]]:
        sites = model_sites(plan, plan.initial, {}, plan.params, args)
        terms = local_terms(plan.layout, {n: sites[n] for n in names}, frames=plan.frames, missing=plan.missing)
        cells = args[0].shape[0] * plan.layout.cells_per_datum
        known = {n: (part.statistics, jnp.broadcast_to(part.base, (cells,))) for n, part in terms.compressed.items()}
        return jax.tree.map(plan.layout.to_rows, known)

    shapes = jax.eval_shape(statistics, args)
    if sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)) > KNOWN_BYTES:
        return Data(args, labels, None)
    return Data(args, labels, jax.jit(statistics)(args))


def _starts(task: Task, engine: Engine, init: Any, key: Array, watch: Watch) -> tuple[list[Start], list[Stage]]:
    """One start for each restart or chain; a start that is given is shared."""
    plan, num = task.plan, engine.num_states
    if isinstance(init, Mapping):
        start = first_values(plan, key=key, from_prior=False)
        return [Start(given_globals(plan, start.globals, init), start.params)] * num, []
    recipe = recipe_of(plan, init)
    keys = _split(key, range(num))
    made = [make_start(plan, task.data, recipe, key=k, watch=watch.at(f"{i + 1} of {num}")) for i, k in enumerate(keys)]
    return [start for start, _ in made], made[0][1]


def _finish(
    plan: Plan, engine: Engine, states: Any, history: History, stages: list[Stage], *, seed: int, seconds: float
) -> Fit:
    finals = history.finals()
    order = np.argsort(-np.where(np.isfinite(finals), finals, -np.inf))
    best = jit_once(lambda states, i: jax.tree.map(lambda a: a[i], states))(states, order[0])
    estimate = on_host(jax.jit(partial(engine.estimate_of, plan))(best))
    fit = Fit.build(plan, engine, estimate, history.ranked(order), stages, seed=seed, seconds=seconds)
    fit.factors = factors_at(plan, engine, best)
    return fit


def factors_at(plan: Plan, engine: Engine, state: Any) -> dict[str, dict[str, np.ndarray]]:
    """The normal factors of the globals in a state, for engines that have some; see `Fit.factors`."""
    factors_of = getattr(engine, "factors_of", None)
    return {} if factors_of is None else jax.tree.map(np.asarray, on_host(factors_of(plan, state)))


def _split(key: Array, items: Any) -> Array:
    return jax.random.split(key, len(items))
