"""`vmix.fit`: the one driver of every engine.

It checks at the door, plans, goes through the stages of the start, and then runs the engine's jitted steps in
chunks of about a tenth of a second. Between chunks it draws the progress line, watches for NaN, judges the
stopping rule and takes Ctrl-C.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from jax.sharding import Mesh

from vmix.checks import check_seed
from vmix.door import (
    check_arrays,
    check_components,
    check_engine,
    check_labels,
    check_messages,
    given_globals,
    join_messages,
    prepare,
)
from vmix.engine import Data, Engine, Info, Schedule, Start, annealing
from vmix.enumeration import local_terms
from vmix.log_joint import guide_factors, model_sites
from vmix.plan import Plan, make_plan
from vmix.pretraining import first_values
from vmix.program import DISCRETE, GLOBAL, OBSERVED
from vmix.progress import Progress
from vmix.recipe import Recipe, Stage
from vmix.results import Fit, History
from vmix.sharding import check_mesh, over, placed, split, split_components
from vmix.starting import make_start, recipe_of
from vmix.streaming import Stream, is_streamed, sample_rows

CHUNK_SECONDS = 0.1
MAX_CHUNK = 64
JUDGE_EVERY = 16
_CORNERS = ("Dirichlet", "Beta")
KNOWN_BYTES = 2 << 30
SIDE_BY_SIDE = 4_000_000


class FitError(FloatingPointError):
    """The objective is not finite; the message names the site and the step."""


class ConvergenceWarning(UserWarning):
    """The fit used all its sweeps before the objective settled."""


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
) -> Fit:
    """Fit a program to data.

    Args:
        program: a NumPyro function of the data arrays, or a record with `model` (and `guide`).
        *data: arrays with N rows each, handed to the program in this order.
        engine: `SVI(...)`, `EM(...)` or `Gibbs(...)` from `vmix.inference`.
        seed: a whole number; the same seed gives the same result on the same device.
        init: a `vmix.starting.Recipe`, the name of a clustering ("k-means", "random", "prior"), or values of
            globals to start from, by site.
        observed: known values of discrete sites, by site: whole numbers of shape (N,), -1 where unknown.
        messages: log potentials of the values of discrete sites from elsewhere, by site, nats, shape (N, K), or
            (N, T, K) where the site has steps: a factor that multiplies each datum's joint density.
        missing: "nan" to read NaN in the data as missing; by default NaN is refused.
        progress: whether to show a progress line; by default where standard error is a terminal.
        callback: called after every sweep or step with their number and a function that makes the fit so far:
            `callback=lambda n, fit: print(n, fit().score(x))`. What it makes is compiled anew each time.
        mesh: devices that share the rows, `jax.make_mesh((8,), ("data",))`, and by a second axis the components. All
            else is on each of them; statistics are sums, so the result is what one device finds, but for rounding.

    Returns:
        The fit.

    Raises:
        ValueError: for data or options that cannot be used (`ProgramError` for a program that cannot be planned).
        FitError: if the objective becomes NaN or infinite.

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
    mesh = check_mesh(mesh)
    with over(mesh):
        arrays = check_arrays(data, missing=missing)
        program = prepare(program, arrays)
        keys = dict(zip(("plan", "start", "init"), jax.random.split(jax.random.key(seed), 3), strict=True))
        plan = make_plan(program, arrays, key=keys["plan"], missing=missing is not None)
        num_rows = arrays[0].shape[0]
        check_components(plan, num_rows)
        engine.check(plan, num_rows)
        labels = join_messages(check_labels(plan, observed, num_rows), check_messages(plan, messages, num_rows))
        stream = Stream(plan, engine, arrays, labels, seed=seed) if is_streamed(arrays) else None
        held = hold(plan, arrays, labels) if stream is None else sample_rows(arrays, labels, seed=seed)
        held = placed(held, mesh)
        starts, stages = _starts(plan, engine, held, init, keys["start"], progress)
        begin = jax.jit(lambda start, data, key: engine.init(plan, start, data, key=key))
        states = _stack([begin(s, held, k) for s, k in zip(starts, _split(keys["init"], starts), strict=True)])

        def finish(states: Any, history: History) -> Fit:
            return _finish(plan, engine, states, history, stages, seed=seed, seconds=time.perf_counter() - began)

        def each(done: int, states: Any, infos: list[Info]) -> None:
            if callback is not None:
                callback(done, lambda: finish(states, History(_joined(infos), False, False)))

        run = _Run(plan, engine, held, progress, stream, each=each if callback is not None else None)
        return finish(*run(states))


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


def _starts(
    plan: Plan, engine: Engine, data: Data, init: Any, key: Array, progress: bool | None
) -> tuple[list[Start], list[Stage]]:
    """One start for each restart or chain; a start that is given is shared."""
    if isinstance(init, Mapping):
        start = first_values(plan, key=key, from_prior=False)
        return [Start(given_globals(plan, start.globals, init), start.params)] * engine.num_states, []
    recipe = recipe_of(plan, init)
    starts: list[Start] = []
    stages: list[Stage] = []
    with Progress(None, "start", enabled=progress) as bar:

        def report(stage: str, done: int, total: int, objective: float) -> None:
            bar.update(done, objective, f"nats per datum, {stage}, epoch {done} of {total}")

        for k in _split(key, range(engine.num_states)):
            start, done = make_start(plan, data, recipe, key=k, report=report)
            starts.append(start)
            stages = stages or done
    return starts, stages


class _Run:
    """The chunked loop: compiled once, called until the steps are done."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        data: Data,
        progress: bool | None,
        stream: Stream | None = None,
        *,
        each: Callable[[int, Any, list[Info]], None] | None = None,
    ) -> None:
        self.plan, self.engine, self.data, self.progress, self.each = plan, engine, data, progress, each
        self.anneal = annealing(engine.anneal)
        # only full-data sweeps without networks are judged: the others' objectives are noisy
        exact = not plan.params and not getattr(engine, "batch_size", None)
        self.tolerance = engine.tolerance if exact else None
        # at fixed sweeps: chunks follow the clock, and the result must not
        self.judged = MAX_CHUNK if self.tolerance is None else JUDGE_EVERY
        self.traces = 0
        self.chunk = jax.jit(self._chunk) if stream is None else partial(self._streamed, stream)

    def __call__(self, states: Any) -> tuple[Any, History]:
        """Run to the end, to convergence, or to Ctrl-C."""
        total = self.engine.num_steps_total
        infos: list[Info] = []
        done, length, converged, interrupted = 0, 1, False, False
        with Progress(total, self.engine.step_name, enabled=self.progress) as bar:
            while done < total and not converged:
                length = min(length, total - done, self.judged - done % self.judged)
                try:
                    began = time.perf_counter()
                    new, info = self.chunk(states, self.data, self._schedule(done), length)
                    info = _kept(info, length)
                    seconds = time.perf_counter() - began
                except KeyboardInterrupt:
                    interrupted = True
                    break
                self._watch(info, states, done)
                states = new
                infos.append(info)
                done += length
                bar.update(done, float(np.max(info.objective[:, -1])), "nats per datum")
                length = 1 if self.each is not None else _next_length(length, seconds, first=len(infos) == 1)
                converged = self._converged(infos, done)
                if self.each is not None and not self._called(done, states, infos):
                    interrupted = True
                    break
        return states, self._history(infos, converged, interrupted)

    def _called(self, done: int, states: Any, infos: list[Info]) -> bool:
        """Call back; whether it ran to its end (False after Ctrl-C)."""
        try:
            self.each(done, states, infos)  # type: ignore[misc]
        except KeyboardInterrupt:
            return False
        return True

    def _chunk(self, states: Any, data: Data, schedule: Schedule, length: Array) -> tuple[Any, Info]:
        """`length` steps of every state; infos come in a buffer of MAX_CHUNK rows."""
        self.traces += 1
        data = split(data)
        one = partial(self._one_chunk, data=data, schedule=schedule, length=length)
        if self.engine.num_states == 1:
            return jax.tree.map(lambda a: a[None], one(jax.tree.map(lambda a: a[0], states)))
        work = data.num_rows * max(self.plan.layout.num_states, 1) * self.engine.num_states
        side_by_side = work <= SIDE_BY_SIDE and not self.plan.params
        return jax.vmap(one)(states) if side_by_side else jax.lax.map(one, states)

    def _one_chunk(self, state: Any, *, data: Data, schedule: Schedule, length: Array) -> tuple[Any, Info]:
        step = partial(self.engine.step, self.plan, data=data)
        first = jax.tree.map(lambda a: a[0], schedule)
        shapes = jax.eval_shape(lambda s: step(s, schedule=first)[1], state)
        buffer = jax.tree.map(lambda a: jnp.zeros((MAX_CHUNK, *a.shape), a.dtype), shapes)

        def body(i: Array, carry: tuple) -> tuple:
            state, buffer = carry
            state = split_components(state, self.plan.layout.num_states)
            state, info = step(state, schedule=jax.tree.map(lambda a: a[i], schedule))
            return state, jax.tree.map(lambda b, v: b.at[i].set(v), buffer, info)

        return jax.lax.fori_loop(0, length, body, (state, buffer))

    def _streamed(self, stream: Stream, states: Any, data: Data, schedule: Schedule, length: int) -> tuple[Any, Info]:
        """`length` steps of every state over data on disk."""
        ends, infos = [], []
        for i in range(self.engine.num_states):
            state, steps = jax.tree.map(lambda a, i=i: a[i], states), []
            for j in range(length):
                state, info = stream.step(state, jax.tree.map(lambda a, j=j: a[j], schedule))
                steps.append(info)
            ends.append(state)
            infos.append(_stack(steps))
        return _stack(ends), _stack(infos)

    def _schedule(self, done: int) -> Schedule:
        warmup = getattr(self.engine, "kl_warmup", None)
        steps = jnp.arange(done, done + MAX_CHUNK)
        kl = jnp.clip((steps + 1) / warmup, 0.0, 1.0) if warmup else jnp.ones(MAX_CHUNK)
        return Schedule(self.anneal.values(done, MAX_CHUNK), kl)

    def _converged(self, infos: list[Info], done: int) -> bool:
        """Whether no state's objective rose by more than the tolerance over the last sweeps."""
        if self.tolerance is None or done < self.anneal.steps + 4 or done % self.judged:
            return False
        tail = np.concatenate([info.objective for info in infos[-4:]], 1)[:, -4:]
        noise = 8 * np.finfo(tail.dtype).eps * np.abs(tail).max()
        return bool(np.all(np.abs(np.diff(tail, axis=1)) < max(self.tolerance, noise)))

    def _watch(self, info: Info, states: Any, done: int) -> None:
        """Stop at the first objective that is not finite, if it is so for every state."""
        finite = np.isfinite(info.objective)
        if finite.all(1).any():
            return
        step = done + int(np.argmin(finite[0]))
        estimate = self.engine.estimate_of(self.plan, jax.tree.map(lambda a: a[0], states))
        with numpyro.validation_enabled(False):  # NumPyro would refuse the parameter that is to be named
            reason = culprit(self.plan, estimate, self.data)
        raise FitError(f"the objective is not finite at {self.engine.step_name} {step}: {reason}")

    def _history(self, infos: list[Info], converged: bool, interrupted: bool) -> History:
        if self.tolerance is not None and not converged and not interrupted:
            warnings.warn(
                f"{self.engine.name} used all {self.engine.num_steps_total} {self.engine.step_name}s before the "
                f"objective settled within {self.tolerance:g} nats per datum; raise num_sweeps",
                ConvergenceWarning,
                stacklevel=4,
            )
        return History(_joined(infos), converged, interrupted)


def culprit(plan: Plan, start: Start, data: Data) -> str:
    """Which site's log density is not finite at the last good state, in words."""
    size = min(data.num_rows, 2_000) if not plan.per_datum else data.num_rows
    args = tuple(a[:size] for a in data.args)
    latents, _ = guide_factors(plan, start.params, args, key=jax.random.key(0))  # any key: a diagnosis
    bad_global = [name for name, value in start.globals.items() if not bool(jnp.isfinite(value).all())]
    if bad_global:
        return f"site {bad_global[0]!r} itself is not finite"
    for name in plan.globals:
        at = model_sites(plan, start.globals, latents, start.params, args)[name]
        if not bool(jnp.isfinite(at["fn"].log_prob(at["value"])).all()) and plan.sites[name].family in _CORNERS:
            instead = 'EM(per_datum="mean-field")' if name in plan.per_datum else 'EM(estimate="ml")'
            return (
                f"site {name!r} has reached the edge of its support, where its prior density is not finite, so there "
                f"is no mode: raise its concentration, or use Gibbs(), SVI() or {instead}"
            )
    for name, site in model_sites(plan, start.globals, latents, start.params, args).items():
        log_prob = np.asarray(site["fn"].log_prob(site["value"]))
        hard = plan.sites[name].role not in (GLOBAL, DISCRETE) and np.isneginf(log_prob).all()
        if np.isnan(log_prob).any() or hard:
            rows = np.unique(np.argwhere(~np.isfinite(log_prob))[:, -1])[:5].tolist() if log_prob.ndim else []
            return (
                f"site {name!r} has a log density that is not finite (rows {rows}); check its data and scale, or lower "
                "the learning rate"
            )
    return "every site's log density was finite before this step; lower the learning rate, or standardise the data"


def _finish(
    plan: Plan, engine: Engine, states: Any, history: History, stages: list[Stage], *, seed: int, seconds: float
) -> Fit:
    finals = history.finals()
    order = np.argsort(-np.where(np.isfinite(finals), finals, -np.inf))
    best = jax.tree.map(lambda a: a[int(order[0])], states)
    estimate = jax.jit(partial(engine.estimate_of, plan))(best)
    return Fit.build(plan, engine, estimate, history.ranked(order), stages, seed=seed, seconds=seconds)


def _joined(infos: list[Info]) -> Info | None:
    return jax.tree.map(lambda *parts: np.concatenate(parts, 1), *infos) if infos else None


def _kept(info: Info, length: int) -> Info:
    """The steps that ran, on the host (which waits for them)."""
    return jax.device_get(jax.tree.map(lambda a: a[:, :length], info))


def _next_length(length: int, seconds: float, *, first: bool) -> int:
    """Chunks of about a tenth of a second; the first chunk's time is compilation and says nothing."""
    if first:
        return 1
    return int(np.clip(length * CHUNK_SECONDS / max(seconds, 1e-5), 1, min(4 * length, MAX_CHUNK)))


def _split(key: Array, items: Any) -> Array:
    return jax.random.split(key, len(items))


def _stack(states: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
