"""Globals before a fit: from clustered data, or by EM on the codes of an autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.assignments import expect
from vmix.compilation import LITTLE_WORK, jit_once
from vmix.distortion import distorted
from vmix.engine import Data, Start
from vmix.first_responsibilities import View, features_of, first_shares, spread_statistics_of, stacked
from vmix.log_joint import Batch, batch_terms, guide_factors, state_log_weights
from vmix.merging import price_of_a_component
from vmix.mixture_climb import Climbed, climb
from vmix.plan import Plan
from vmix.program import ProgramError
from vmix.recipe import SILENT, Reached, Recipe, Stage, Watch
from vmix.split_merge import split_merge_proposals

MIXTURE_ROWS = 20_000
_CODE_ROWS = 1_000
FIRST_SWEEPS = 3
MIXTURE_ON_CODES = "mixture on codes"
PROPOSALS, KEPT, PATIENCE = 8, 2, 3
_TRIAL = 0.25
_WORTH = 1e-4


def fit_mixture(
    plan: Plan, data: Data, starts: list[Start], recipe: Recipe, *, key: Array, watch: Watch = SILENT
) -> tuple[Start, Stage]:
    """Globals from clustered data, or, where latents have encoders, by EM on their codes with restarts.

    Args:
        plan: the plan.
        data: the data.
        starts: one for each encoder.
        recipe: the recipe.
        key: randomness.
        watch: told of each start as it goes, and asked for those that were made before.

    Returns:
        The first encoder with its components, and what the stage did.

    Raises:
        ProgramError: for several encoders of latents whose density does not compress.
    """
    restarts, sweeps = _length(plan, recipe)
    # the best, the objectives, the moves taken
    fresh = (starts[0].globals, np.full(restarts, -np.inf, jnp.result_type(float)), np.zeros(restarts, np.int32))
    reached = (watch.recall(watch.place, fresh) if _searches(plan) else None) or Reached(fresh, 0, [], 0.0)
    began = time.perf_counter() - reached.seconds
    try:
        for run, taken in search(plan, data, starts, recipe, key=key, first=reached.done):
            reached = _with(reached, run, taken, seconds=time.perf_counter() - began)
            if _searches(plan):
                watch.report(_stage(plan, recipe), reached.done, restarts, float(reached.values[1].max()))
                watch.retain(watch.place, reached)
    except KeyboardInterrupt:
        if _searches(plan) and reached.done:
            watch.retain(watch.place, reached, at_once=True)
        raise
    chosen, values, moves = reached.values
    order = sorted(range(restarts), key=lambda i: -float(values[i]))
    note = f"{restarts} start(s), {sweeps} sweeps; objectives " + ", ".join(f"{float(values[i]):.4f}" for i in order)
    if any(moves.tolist()):
        note += "; splits and merges taken " + ", ".join(str(int(moves[i])) for i in order)
    stage = Stage(_stage(plan, recipe), reached.seconds, [float(values.max())], note)
    return Start(chosen, starts[0].params), stage


def components_of_classes(
    plan: Plan, data: Data, start: Start, looking: Plan, seen: Start, recipe: Recipe, *, key: Array
) -> tuple[Start, Stage]:
    """Components on an encoder's codes from the classes that another program finds in the same rows.

    Args:
        plan: the plan.
        data: the data.
        start: the program's own networks.
        looking: the plan of the other program.
        seen: its networks and globals.
        recipe: how clusters begin, for sites whose hidden variables have no responsibilities.
        key: randomness.

    Returns:
        The networks with components, and what the stage did.
    """
    began = time.perf_counter()
    theirs = mixture_batch(looking, data, seen, key=key)
    ours = mixture_batch(plan, data, start, key=key)  # the same rows, as the key is the same
    views = stacked([View(start, dict(ours.latents), dict(ours.known or {}))])
    shares = jax.jit(partial(_classes, looking))(seen, theirs)
    spread = spread_statistics_of(plan, start, ours, key=key, clusters=recipe.clusters)
    # one sweep: the update of the components that the classes ask for, and another one from there
    run = _climber(plan, 1, False)(views, ours, spread, shares, 1, 1.0)
    note = f"the classes of {looking.program.name}, 1 sweep"
    return Start(run.globals, start.params), Stage(MIXTURE_ON_CODES, time.perf_counter() - began, [run.value], note)


def _classes(plan: Plan, start: Start, batch: Batch) -> Array:
    """Log responsibilities of some rows by their codes, shape (cells, K)."""
    terms, _ = batch_terms(plan, start.globals, start.params, batch)
    return jnp.log(expect(plan.layout, terms, state_log_weights(plan, terms, batch)).shares)


def _with(reached: Reached, run: Climbed, taken: int, *, seconds: float) -> Reached:
    """What has been reached after another start of the mixture: the best globals, and all objectives and moves."""
    best, values, moves = reached.values
    values, moves = np.array(values), np.array(moves)
    i = reached.done
    if not i or run.value > float(values.max()):
        best = run.globals
    values[i], moves[i] = run.value, taken
    return Reached((best, values, moves), i + 1, [], seconds)


def search(
    plan: Plan, data: Data, starts: list[Start], recipe: Recipe, *, key: Array, first: int = 0
) -> Iterator[tuple[Climbed, int]]:
    """Where each start of the mixture comes to, and how many splits with merges it took, one after another.

    Where the number of clusters is asked of the evidence, each in use has its price taken off the objective.

    Args:
        plan: as for `fit_mixture`.
        data: as for `fit_mixture`.
        starts: as for `fit_mixture`.
        recipe: as for `fit_mixture`.
        key: randomness.
        first: how many starts to leave out, that were made before.
    """
    restarts, sweeps = _length(plan, recipe)
    if first == restarts:
        return
    views = [(start, copy) for start in starts for copy in range(recipe.copies + 1)]
    if len(views) > 1 and not set(plan.latents) & set(plan.frames):
        name = plan.latents[0]
        reason = plan.reasons.get(name, "unknown")
        raise ProgramError(
            f"site {name!r} does not compress ({reason}), so it cannot have several views: use views=1 and copies=0"
        )
    searches = _searches(plan)
    batches = [mixture_batch(plan, data, s, key=key, copy=copy, distort=recipe.distort) for s, copy in views]
    parts = [View(s, dict(b.latents), dict(b.known or {})) for (s, _), b in zip(views, batches, strict=True)]
    seen = jit_once(stacked)(parts)
    work = batches[0].args[0].shape[0] * plan.layout.cells_per_datum * plan.layout.num_states
    little = work * sweeps * restarts * len(views) <= LITTLE_WORK
    quickly = (not searches or little) and not plan.per_datum
    price = price_of_a_component(features_of(plan, seen, batches[0])) if recipe.clusters == "evidence" else 0.0
    for k in jax.random.split(jax.random.fold_in(key, 1), restarts)[first:]:
        shares, spread = _first(plan, recipe.clusters, quickly)(k, seen, batches[0])
        climb = partial(_climber(plan, recipe.copies + 1, quickly), seen, batches[0], spread)
        run, taken = climb(shares, sweeps, recipe.mixture_beta if searches else 1.0), 0
        if searches and recipe.mixture_moves and can_move(plan):
            propose = partial(_proposer(plan), seen, batches[0])
            run, taken = improve(run, climb, propose, moves=recipe.mixture_moves, sweeps=sweeps, key=k)
        used = jnp.unique(jnp.argmax(run.shares, 1)).size if price else 0
        yield run._replace(objective=np.asarray(run.objective) - price * used), taken


def _searches(plan: Plan) -> bool:
    """Whether several starts are compared: where networks have been trained, and there are classes to find."""
    return bool(plan.latents) and bool(plan.layout.discrete)


def _length(plan: Plan, recipe: Recipe) -> tuple[int, int]:
    """Starts, and sweeps of each."""
    return (recipe.mixture_restarts, recipe.mixture_sweeps) if _searches(plan) else (1, FIRST_SWEEPS)


def _stage(plan: Plan, recipe: Recipe) -> str:
    return MIXTURE_ON_CODES if plan.latents else f"{recipe.clusters} start"


def can_move(plan: Plan) -> bool:
    """Whether components can be split and merged: one discrete site, three values or more, children that compress."""
    discrete = {name for name, _ in plan.layout.discrete}
    children = any(discrete & set(plan.sites[name].parents) for name in plan.frames)
    return len(discrete) == 1 and plan.layout.num_states >= 3 and children


def improve(
    run: Climbed, climb: Callable, propose: Callable, *, moves: int, sweeps: int, key: Array
) -> tuple[Climbed, int]:
    """Split one component and merge two others, as long as that raises the objective.

    Args:
        run: where EM has come.
        climb: (log responsibilities, sweeps, first beta) to where EM comes from there.
        propose: (key, responsibilities) to responsibilities after the most promising moves.
        moves: taken at most.
        sweeps: of EM after a move; a quarter of them for a first look at each.
        key: randomness.

    Returns:
        The run, its objective no lower, and the number of moves taken.
    """
    trial = max(int(_TRIAL * sweeps), 1)
    taken = failed = 0
    while taken < moves and failed < PATIENCE:
        key, next_key = jax.random.split(key)
        proposals = propose(next_key, run.shares)
        tried = sorted((climb(_softened(p), trial, 1.0) for p in proposals), key=lambda r: -r.value)
        best = max((climb(_softened(r.shares), sweeps, 1.0) for r in tried[:KEPT]), key=lambda r: r.value)
        if best.value > run.value + _WORTH:
            run, taken, failed = best, taken + 1, 0
        else:
            failed += 1
    return run, taken


def _softened(shares: Array) -> Array:
    """Logarithms, with a little of every state: hard zeros stay out of the first update."""
    return jnp.log(0.98 * shares + 0.02 / shares.shape[1])


@lru_cache(maxsize=8)
def _first(plan: Plan, clusters: str, quickly: bool) -> Callable:
    def first(key: Array, views: View, batch: Batch) -> tuple:
        shares = first_shares(plan, views, batch, key=key, clusters=clusters)
        start = jax.tree.map(lambda a: a[0], views.start)
        spread = spread_statistics_of(plan, start, batch, key=jax.random.fold_in(key, 1), clusters=clusters)
        return jnp.log(shares), spread

    return jit_once(first) if quickly else jax.jit(first)


@lru_cache(maxsize=8)
def _climber(plan: Plan, each: int, quickly: bool) -> Callable:
    def climbed(*given: Any) -> Climbed:
        """Where EM has come, with the globals of the first view alone: it goes on."""
        run = climb(plan, *given, each=each)
        return run._replace(globals=jax.tree.map(lambda a: a[0], run.globals))

    return (jit_once if quickly else jax.jit)(climbed)


@lru_cache(maxsize=8)
def _proposer(plan: Plan) -> Callable:
    def propose(views: View, batch: Batch, key: Array, shares: Array) -> Array:
        return split_merge_proposals(features_of(plan, views, batch), shares, PROPOSALS, key=key)

    return jax.jit(propose)


def mixture_batch(plan: Plan, data: Data, start: Start, *, key: Array, copy: int = 0, distort: float = 0.0) -> Batch:
    """Some rows with their codes: the encoder's moments stand for the latents, computed once.

    The codes of copy 0 are those of the rows as they are; of others, those of rows whose first array is distorted.
    """
    num_rows = data.num_rows
    most = plan.layout.rows_for(MIXTURE_ROWS)
    if num_rows > most and not plan.per_datum:
        data = data.take(jnp.sort(jax.random.permutation(key, num_rows)[:most]))
    if not plan.latents:
        return Batch(data.args, {}, {}, data.labels, data.known)

    moments = _encoder(plan, distort if copy else 0.0)
    copy_key = jax.random.fold_in(key, copy)
    parts = []
    size = plan.layout.rows_for(_CODE_ROWS)
    for first in range(0, data.num_rows, size):
        rows = tuple(a[first : first + size] for a in data.args)
        parts.append(moments(rows, start, jax.random.fold_in(copy_key, first)))
    means, known = jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *parts)
    return Batch(data.args, means, {}, data.labels, known)


@lru_cache(maxsize=8)
def _encoder(plan: Plan, distort: float) -> Callable:
    """Codes of some rows: means of the latents, and statistics and base measures of those that compress."""
    compressed = [name for name in plan.latents if name in plan.frames]

    def moments(rows: tuple, start: Start, key: Array) -> tuple[dict, dict]:
        if distort:
            rows = (distorted(rows[0], strength=distort, key=key), *rows[1:])
        _, factors = guide_factors(plan, start.params, rows, key=key)
        means = {name: factor.mean for name, factor in factors.items()}
        terms, _ = batch_terms(plan, start.globals, start.params, Batch(rows, means, factors))
        size = rows[0].shape[0]
        known = {}
        for name in compressed:
            part = terms.compressed[name]
            base = jnp.broadcast_to(part.base, (size * plan.layout.cells_per_datum,))
            known[name] = (plan.layout.to_rows(part.statistics), plan.layout.to_rows(base))
        return means, known

    return jax.jit(moments)
