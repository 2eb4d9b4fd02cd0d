"""The loop around an engine's steps: chunks of about a tenth of a second, compiled once.

Between chunks it draws the progress line, watches for NaN, judges the stopping rule and takes Ctrl-C.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array

from vmix.compilation import jit_for
from vmix.engine import Data, Engine, Info, Schedule, Start, annealing
from vmix.history import History
from vmix.log_joint import guide_factors, model_sites
from vmix.plan import Plan
from vmix.processes import first_says, is_first, on_host, slowest
from vmix.program import DISCRETE, GLOBAL
from vmix.progress import Progress
from vmix.recovering import Place, Recovery, Restart
from vmix.resuming import Keeper, on_interrupt
from vmix.sharding import split, split_components
from vmix.streaming import Stream

CHUNK_SECONDS = 0.1
MAX_CHUNK = 64
JUDGE_EVERY = 16
_CORNERS = ("Dirichlet", "Beta")
SIDE_BY_SIDE = 4_000_000
_LOOKED_AT = 4_000  # rows at a time: they are evaluated for every component


class FitError(FloatingPointError):
    """The objective is not finite; the message names the site and the step.

    Attributes:
        step: the step or sweep, counted from 0.
    """

    def __init__(self, text: str, step: int) -> None:
        super().__init__(text)
        self.step = step


class ConvergenceWarning(UserWarning):
    """The fit used all its sweeps before the objective settled."""


class Run:
    """The chunked loop: compiled once, called until the steps are done; with `again=True`, many times over."""

    def __init__(
        self,
        plan: Plan,
        engine: Engine,
        data: Data,
        progress: bool | None,
        stream: Stream | None = None,
        *,
        each: Callable[[int, Any, list[Info]], None] | None = None,
        keeper: Keeper | None = None,
        recovery: Recovery | None = None,
        again: bool = False,
    ) -> None:
        self.again = again
        self.stream, self.keeper, self.recovery = stream, keeper, recovery
        engine = engine if recovery is None else recovery.engine
        self.plan, self.engine, self.data, self.progress, self.each = plan, engine, data, progress, each
        self.anneal = annealing(engine.anneal)
        # only full-data sweeps without networks are judged: the others' objectives are noisy
        exact = not plan.params and not getattr(engine, "batch_size", None)
        self.tolerance = engine.tolerance if exact else None
        # at fixed sweeps: chunks follow the clock, and the result must not
        self.judged = MAX_CHUNK if self.tolerance is None else JUDGE_EVERY
        self.traces = 0
        self._compile()

    def _compile(self) -> None:
        stream = self.stream
        compiled = jax.jit if self.again else partial(jit_for, work=work_of(self.plan, self.engine))
        self.chunk: Callable = compiled(lambda *given: self._chunk(*given))
        if stream is not None:
            self.stream = Stream(self.plan, self.engine, stream.arrays, stream.labels, seed=0)
            self.stream.generator = stream.generator
            self.chunk = partial(self._streamed, self.stream)

    def __call__(
        self, states: Any, first: int = 0, last: int | None = None, *, before: Info | None = None
    ) -> tuple[Any, History]:
        """Run from step `first` to step `last` or the end, to convergence, or to Ctrl-C; `before` is what happened."""
        total = self.engine.num_steps_total if last is None else min(last, self.engine.num_steps_total)
        infos: list[Info] = [] if before is None else [before]
        done, length, converged, interrupted = first, 1, False, False
        if self.recovery is not None:
            self.recovery.reach(Place(states, infos, done))
        with Progress(total, self.engine.step_name, enabled=self.progress) as bar:
            while done < total and not converged:
                length = min(length, total - done, self.judged - done % self.judged)
                try:
                    began = time.perf_counter()
                    new, info = self.chunk(states, self.data, self.schedule(done), length)
                    info = on_the_host(info, length)
                    seconds = slowest(time.perf_counter() - began)
                except KeyboardInterrupt:
                    interrupted = True
                    break
                except (jax.errors.JaxRuntimeError, ValueError, MemoryError) as error:
                    self._refuse_memory(error, states, infos, done)
                    raise
                try:
                    self._watch(info, states, new, done)
                except FitError as error:
                    states, infos, done = self._back(error)
                    length = 1
                    continue
                states = new
                infos.append(info)
                done += length
                if self.recovery is not None and not done % self.judged:
                    self.recovery.reach(Place(states, infos, done))
                bar.update(done, float(np.max(info.objective[:, -1])), "nats per datum")
                length = 1 if self.each is not None else next_length(length, seconds, first=len(infos) == 1)
                converged = self._converged(infos, done)
                if self.keeper is not None and first_says(self.keeper.due()):
                    self.keep(states, infos, done)
                if self.each is not None and not self._called(done, states, infos):
                    interrupted = True
                    break
        if self.keeper is not None:
            self.keep(states, infos, done, converged=converged)
        if interrupted:
            warnings.warn(on_interrupt(self.engine.step_name, done, self.keeper), UserWarning, stacklevel=3)
        elif total == self.engine.num_steps_total and not converged:
            self._warn()
        return states, History(joined(infos), converged, interrupted, self._nan_restarts())

    def _back(self, error: FitError) -> Place:
        """Where to go on from after an objective that is not finite; the error itself where nothing else was asked."""
        if self.recovery is None:
            raise error
        place = self.recovery.back(error)
        self.engine = self.recovery.engine
        self._compile()
        return place

    def _refuse_memory(self, error: Exception, states: Any, infos: list[Info], done: int) -> None:
        """Where memory ran out, keep the state before it and say what to do; of another error say nothing."""
        if not ran_out_of_memory(error):
            return
        kept = ""
        if self.keeper is not None:
            with suppress(MemoryError):
                self.keep(states, infos, done)
            kept = f"; what was learnt until then is kept in {str(self.keeper.folder)!r}"
        raise MemoryError(
            f"memory ran out at {self.engine.step_name} {done}{kept}; {less_memory(self.engine)}"
        ) from error

    def _nan_restarts(self) -> tuple[Restart, ...]:
        return () if self.recovery is None else self.recovery.taken

    def keep(self, states: Any, infos: list[Info], done: int, *, converged: bool = False) -> None:
        """Leave the state in the keeper's folder."""
        stream = None if self.stream is None else self.stream.generator.bit_generator.state
        assert self.keeper is not None
        whole, restarts = on_host(states), [list(restart) for restart in self._nan_restarts()]
        if is_first():
            told = joined(infos)
            self.keeper.keep(whole, told, done, converged=converged, stream=stream, nan_restarts=restarts)

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
        a_step = data.num_rows * max(self.plan.layout.num_states, 1) * self.engine.num_states
        side_by_side = a_step <= SIDE_BY_SIDE and not self.plan.params
        return jax.vmap(one)(states) if side_by_side else jax.lax.map(one, states)

    def _one_chunk(self, state: Any, *, data: Data, schedule: Schedule, length: Array) -> tuple[Any, Info]:
        # traced here and used again in the loop
        step = jax.jit(partial(self.engine.step, self.plan, data=data), inline=True)
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
        stream.mark()
        for i in range(self.engine.num_states):
            state, steps = jax.tree.map(lambda a, i=i: a[i], states), []
            for j in range(length):
                state, info = stream.step(state, jax.tree.map(lambda a, j=j: a[j], schedule))
                steps.append(info)
            ends.append(state)
            infos.append(stacked(steps))
        return stacked(ends), stacked(infos)

    def schedule(self, done: int) -> Schedule:
        """Inverse temperatures and KL weights of the steps of a chunk that begins at step `done`."""
        warmup = getattr(self.engine, "kl_warmup", None)
        steps = np.arange(done, done + MAX_CHUNK)
        kl = np.clip((steps + 1) / warmup, 0.0, 1.0) if warmup else np.ones(MAX_CHUNK)
        return Schedule(self.anneal.values(done, MAX_CHUNK), cast(Array, kl.astype(jnp.result_type(float))))

    def _converged(self, infos: list[Info], done: int) -> bool:
        """Whether no state's objective rose by more than the tolerance over the last sweeps."""
        if self.tolerance is None or done < self.anneal.steps + 4 or done % self.judged:
            return False
        tail = np.concatenate([info.objective for info in infos[-4:]], 1)[:, -4:]
        if tail.shape[1] < 4:
            return False
        noise = 8 * np.finfo(tail.dtype).eps * np.abs(tail).max()
        return bool(np.all(np.abs(np.diff(tail, axis=1)) < max(self.tolerance, noise)))

    def _watch(self, info: Info, states: Any, new: Any, done: int) -> None:
        """Stop at the first objective that is not finite, if it is so for every state."""
        finite = np.isfinite(info.objective)
        if finite.all(1).any():
            return
        step = done + int(np.argmin(finite[0]))
        if self.stream is not None:  # which rows come next must not hang on how long the chunk was
            self.stream.rewind()
        if step > done:  # once more, to the state whose objective it was
            states, _ = self.chunk(states, self.data, self.schedule(done), step - done)
        before, after = (self.engine.estimate_of(self.plan, jax.tree.map(lambda a: a[0], s)) for s in (states, new))
        with numpyro.validation_enabled(False):  # NumPyro would refuse the parameter that is to be named
            reason = culprit(self.plan, before, self.data if self.stream is None else self.stream) or lost(after)
        raise FitError(f"the objective is not finite at {self.engine.step_name} {step}: {reason}", step)

    def _warn(self) -> None:
        if self.tolerance is not None:
            warnings.warn(
                f"{self.engine.name} used all {self.engine.num_steps_total} {self.engine.step_name}s before the "
                f"objective settled within {self.tolerance:g} nats per datum; raise num_sweeps",
                ConvergenceWarning,
                stacklevel=4,
            )


def work_of(plan: Plan, engine: Engine) -> int:
    """What all steps of a fit have to do: rows times values of the discrete sites, and times thousands of weights.

    Products with weights are made by a library, which is as fast however the rest was compiled.
    """
    weights = sum(leaf.size for leaf in jax.tree.leaves(plan.params))
    a_row = plan.layout.cells_per_datum * plan.layout.num_states + weights // 1_000
    return plan.num_rows * a_row * engine.num_steps_total * engine.num_states


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an error is one of memory: XLA says so on accelerators by a status, on CPUs in the text of another."""
    said = ("RESOURCE_EXHAUSTED", "Out of memory")
    return isinstance(error, MemoryError) or any(words in str(error) for words in said)


def less_memory(engine: Engine) -> str:
    """The way out where memory does not suffice."""
    return (
        f"give {engine.name} a smaller batch_size= where it takes one, fewer restarts or chains, or data on disk "
        '(np.load(file, mmap_mode="r"))'
    )


@contextmanager
def telling_of_memory(engine: Engine, folder: Any) -> Iterator[None]:
    """Before the first step: where memory runs out, say what to do and that the folder's state stands.

    Raises:
        MemoryError: in place of the error of the device.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError, MemoryError) as error:
        if not ran_out_of_memory(error):
            raise
        kept = "" if folder is None else f"; what {str(folder)!r} held before is as it was"
        name = engine.step_name
        raise MemoryError(f"memory ran out before the first {name}{kept}; {less_memory(engine)}") from error


def culprit(plan: Plan, start: Start, data: Data | Stream) -> str | None:
    """Which site's log density is not finite at the last good state, in words; None where all are."""
    bad_global = [name for name, value in start.globals.items() if not bool(jnp.isfinite(value).all())]
    if bad_global:
        named = ", ".join(repr(name) for name in bad_global)
        return f"the values of {named} are not finite: lower the learning rate, or give other starting values (init=)"
    size = data.num_rows if plan.per_datum else min(data.num_rows, _LOOKED_AT)
    sites = _sites_of(plan, start, _rows(data, 0, size))
    for name in plan.globals:
        at = sites[name]
        if not bool(jnp.isfinite(at["fn"].log_prob(at["value"])).all()) and plan.sites[name].family in _CORNERS:
            instead = 'EM(per_datum="mean-field")' if name in plan.per_datum else 'EM(estimate="ml")'
            return (
                f"site {name!r} has reached the edge of its support, where its prior density is not finite, so there "
                f"is no mode: raise its concentration, or use Gibbs(), SVI() or {instead}"
            )
    for first in range(0, data.num_rows, size):
        if first:
            sites = _sites_of(plan, start, _rows(data, first, first + size))
        for name, site in sites.items():
            bad = _not_finite(plan, name, np.asarray(site["fn"].log_prob(site["value"])))
            if bad is not None:
                shown = [first + row for row in bad[:5]]
                rows = f" (rows {shown}{', and more' if len(bad) > 5 else ''})" if shown else ""
                return (
                    f"site {name!r} has a log density that is not finite{rows}; check its data and scale, or lower the "
                    "learning rate"
                )
    return None


def _rows(data: Data | Stream, first: int, last: int) -> tuple:
    """Some rows of the data, in memory or read from disk."""
    return data.rows(first, last) if isinstance(data, Stream) else tuple(a[first:last] for a in data.args)


def _sites_of(plan: Plan, start: Start, args: tuple) -> dict[str, Any]:
    latents, _ = guide_factors(plan, start.params, args, key=jax.random.key(0))  # any key: a diagnosis
    return model_sites(plan, start.globals, latents, start.params, args)


def _not_finite(plan: Plan, name: str, log_prob: np.ndarray) -> list[int] | None:
    """Rows where a site's log density is NaN, or minus infinity whatever the discrete sites are; None without any."""
    dim = plan.layout.data_dim
    if plan.sites[name].role == GLOBAL or dim is None or log_prob.ndim < -dim:
        return [] if np.isnan(log_prob).any() else None
    by_row = np.moveaxis(log_prob, dim, 0).reshape(log_prob.shape[dim], -1)
    bad = np.isnan(by_row).any(1)
    if plan.sites[name].role != DISCRETE:
        bad |= np.isneginf(by_row).all(1)
    return np.flatnonzero(bad).tolist() if bad.any() else None


def lost(start: Start) -> str:
    """What is not finite after the step, in words."""
    parts = {f"site {name!r}": value for name, value in start.globals.items()}
    parts |= {f"network {name!r}": value for name, value in start.params.items()}
    bad = [name for name, v in parts.items() if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(v))]
    named = f"; it left {', '.join(bad)} not finite" if bad else ""
    return (
        f"every site's log density was finite before this step{named}: lower the learning rate, standardise the data, "
        'or give on_nan="restart" (command line: --on-nan restart)'
    )


def joined(infos: list[Info]) -> Info | None:
    """The infos of chunks that followed each other."""
    return jax.tree.map(lambda *parts: np.concatenate(parts, 1), *infos) if infos else None


def on_the_host(info: Info, length: int) -> Info:
    """The steps that ran, on the host (which waits for them)."""
    return jax.tree.map(lambda a: a[:, :length].copy(), jax.device_get(on_host(info)))


def next_length(length: int, seconds: float, *, first: bool) -> int:
    """Chunks of about a tenth of a second; the first chunk's time is compilation and says nothing."""
    if first:
        return 1
    return int(np.clip(length * CHUNK_SECONDS / max(seconds, 1e-5), 1, min(4 * length, MAX_CHUNK)))


def stacked(states: list[Any]) -> Any:
    """Several states as one, with the states in front."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
