"""Where a fit begins: named stages that every engine shares.

A mixture starts from a clustering of its data; a deep mixture from an autoencoder, and a mixture fitted on its codes.
Every stage reads the plan, so a program of the user's own gets the same start as a model of the zoo.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vmix.assignments import expect
from vmix.clustering import k_means, random_centres
from vmix.engine import Annealing, Data, Start
from vmix.enumeration import fill_missing, without_masked
from vmix.families import unwrap
from vmix.log_joint import Batch, batch_terms, gather, guide_factors, model_sites, state_log_weights
from vmix.numerics import responsibilities
from vmix.plan import Plan
from vmix.program import NETWORK, trace_sites
from vmix.updates import maximise

MIXTURE_ROWS = 20_000
MIN_PRETRAIN_STEPS = 3_000
_CODE_ROWS = 1_000
_FIRST_SWEEPS = 3


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to begin.

    Args:
        clusters: "k-means", "random" (nearest of K random data) or "prior" (globals drawn from their prior).
        pretrain_epochs: epochs of autoencoder training before a deep mixture, or as many as make 3,000 steps where
            that is more (small data); 0 leaves the networks as drawn.
        noise: fraction of the inputs set to zero in that training (a denoising autoencoder).
        batch_size: rows a step of that training.
        learning_rate: of Adam in that training, decayed by a cosine.
        mixture_restarts: starts of the mixture on the codes; the likeliest is kept.
        mixture_sweeps: EM sweeps of each.
        mixture_beta: weight of the codes' likelihood in the first of those sweeps; it rises to 1 over the first six
            tenths of them (annealing). 1 does not anneal.
    """

    clusters: str = "k-means"
    pretrain_epochs: int = 30
    noise: float = 0.0
    batch_size: int = 256
    learning_rate: float = 1e-3
    mixture_restarts: int = 8
    mixture_sweeps: int = 60
    mixture_beta: float = 1.0

    def __post_init__(self) -> None:
        if self.clusters not in ("k-means", "random", "prior"):
            raise ValueError(f'clusters must be "k-means", "random" or "prior", found {self.clusters!r}')
        if not 0.0 <= self.noise < 1.0:
            raise ValueError(f"noise must be a fraction in [0, 1), found {self.noise!r}")
        if not 0.0 < self.mixture_beta <= 1.0:
            raise ValueError(f"mixture_beta must be in (0, 1], found {self.mixture_beta!r}")


class Stage(NamedTuple):
    """What a stage did: its name, seconds, objective (nats per datum) and a note."""

    name: str
    seconds: float
    objective: list[float]
    note: str


def recipe_of(plan: Plan, choice: Any) -> Recipe:
    """The recipe asked for, the program's own, or the default.

    Raises:
        ValueError: if `choice` is not a recipe or one of its names.
    """
    own = getattr(plan.program.source, "recipe", None)
    default = own if isinstance(own, Recipe) else Recipe()
    if choice is None:
        return default
    if isinstance(choice, Recipe):
        return choice
    if isinstance(choice, str):
        return Recipe(**{**default.__dict__, "clusters": choice})
    raise ValueError(f"init must be a vmix.starting.Recipe, a name or a dict of globals, found {type(choice).__name__}")


def describe(plan: Plan, recipe: Recipe) -> list[str]:
    """The stages that a start will go through, one line each."""
    lines = []
    if pretrains(plan, recipe):
        kind = f"denoising autoencoder ({recipe.noise:.0%} of inputs dropped)" if recipe.noise else "autoencoder"
        lines.append(f"{kind}, {recipe.pretrain_epochs} epochs or more, on the program's own networks")
    if plan.latents and plan.layout.discrete:
        annealed = f" annealed from {recipe.mixture_beta:g}" if recipe.mixture_beta < 1.0 else ""
        lines.append(
            f"mixture on the codes: EM, {recipe.mixture_restarts} starts ({recipe.clusters}), "
            f"{recipe.mixture_sweeps} sweeps{annealed}, the likeliest kept"
        )
    elif plan.layout.discrete:
        lines.append(f"{recipe.clusters} start, {_FIRST_SWEEPS} closed-form updates of the globals")
    return lines


def pretrains(plan: Plan, recipe: Recipe) -> bool:
    """Whether the networks are trained as an autoencoder first: where a latent has both an encoder and components."""
    return bool(plan.latents and plan.layout.discrete and plan.names(NETWORK) and recipe.pretrain_epochs)


def make_start(
    plan: Plan, data: Data, recipe: Recipe, *, key: Array, report: Callable[[str, int, int, float], None]
) -> tuple[Start, list[Stage]]:
    """Go through the stages once.

    Args:
        plan: the plan.
        data: the data.
        recipe: the recipe.
        key: randomness.
        report: called with (stage, done, total, objective) as it goes.

    Returns:
        The start, and what each stage did.
    """
    keys = dict(zip(("draw", "train", "mixture"), jax.random.split(key, 3), strict=True))
    start = first_values(plan, key=keys["draw"], from_prior=recipe.clusters == "prior")
    stages: list[Stage] = []
    if pretrains(plan, recipe):
        start, stage = pretrain(plan, data, start, recipe, key=keys["train"], report=report)
        stages.append(stage)
    if plan.globals and recipe.clusters != "prior":
        start, stage = fit_mixture(plan, data, start, recipe, key=keys["mixture"])
        stages.append(stage)
    return start, stages


def first_values(plan: Plan, *, key: Array, from_prior: bool) -> Start:
    """Fresh network parameters, and globals near the middle of their prior or drawn from it."""
    if not from_prior and not plan.names(NETWORK):
        return Start(dict(plan.initial), {})
    globals_, params = _drawer(plan, from_prior)(key)
    return Start(globals_ if from_prior else dict(plan.initial), params)


@lru_cache(maxsize=8)
def _drawer(plan: Plan, from_prior: bool) -> Callable:
    rows = tuple(fill_missing(a) if plan.missing else a for a in plan.template)
    wanted = plan.globals if from_prior else ()

    def draw(key: Array) -> tuple[dict, dict]:
        fixed = {} if from_prior else plan.initial
        both = trace_sites(plan.program.model, rows, key=key, values=fixed)
        if plan.program.guide is not None:
            both = {**trace_sites(plan.program.guide, rows, key=jax.random.fold_in(key, 1)), **both}
        return (
            {name: both[name]["value"] for name in wanted},
            {name: both[name]["value"] for name in plan.names(NETWORK)},
        )

    return jax.jit(draw)


def pretrain(
    plan: Plan, data: Data, start: Start, recipe: Recipe, *, key: Array, report: Callable
) -> tuple[Start, Stage]:
    """Train the networks as an autoencoder: maximise log p(x | z) at the encoder's mean of (corrupted) x."""
    began = time.perf_counter()
    size = min(plan.layout.rows_for(recipe.batch_size), data.num_rows)
    steps = data.num_rows // size
    epochs = max(recipe.pretrain_epochs, -(-MIN_PRETRAIN_STEPS // steps))
    epoch, optimiser = _trainer(plan, size, recipe.noise, _adam(recipe.learning_rate, epochs * steps))
    params, opt_state = start.params, optimiser.init(start.params)
    objective = []
    for i in range(epochs):
        params, opt_state, value = epoch(params, opt_state, start.globals, data, jax.random.fold_in(key, i))
        objective.append(float(value))
        report("autoencoder", i + 1, epochs, objective[-1])
    note = f"{epochs} epochs, reconstruction in nats per datum"
    return Start(start.globals, params), Stage("autoencoder", time.perf_counter() - began, objective, note)


@lru_cache(maxsize=8)
def _adam(rate: float, steps: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(rate, steps, alpha=0.01))


@lru_cache(maxsize=8)
def _trainer(plan: Plan, size: int, noise: float, optimiser: optax.GradientTransformation) -> tuple:
    """One jitted epoch of autoencoder training, compiled once for all restarts."""

    def loss(params: dict, globals_: dict, rows: Data, key: Array) -> Array:
        return -reconstruction(plan, globals_, params, rows, noise=noise, key=key).mean()

    def epoch(params: dict, opt_state: Any, globals_: dict, data: Data, key: Array) -> tuple:
        order_key, noise_key = jax.random.split(key)
        steps = data.num_rows // size
        order = jax.random.permutation(order_key, data.num_rows)[: steps * size].reshape(steps, size)

        def one(carry: tuple, xs: tuple) -> tuple[tuple, Array]:
            params, opt_state = carry
            value, grads = jax.value_and_grad(loss)(params, globals_, data.take(xs[0]), xs[1])
            updates, opt_state = optimiser.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        carry, values = jax.lax.scan(one, (params, opt_state), (order, jax.random.split(noise_key, steps)))
        return *carry, -values.mean()

    return jax.jit(epoch), optimiser


def reconstruction(plan: Plan, globals_: dict, params: dict, rows: Data, *, noise: float, key: Array) -> Array:
    """log p(x | z) at the encoder's mean, nats per datum, shape (N,)."""
    seen = rows.args
    if noise:
        keys = jax.random.split(key, len(seen))
        seen = tuple(_drop(a, noise, k) for a, k in zip(seen, keys, strict=True))
    _, factors = guide_factors(plan, params, seen, key=key)
    latents = {name: factor.mean for name, factor in factors.items()}
    terms, _ = batch_terms(plan, globals_, params, Batch(rows.args, latents, {}))
    dense = 0.0 if terms.dense is None else terms.dense.mean(1)
    return terms.rows + plan.layout.sum_cells(terms.shared + dense)


def _drop(array: Array, noise: float, key: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array * jax.random.bernoulli(key, 1.0 - noise, array.shape)


def fit_mixture(plan: Plan, data: Data, start: Start, recipe: Recipe, *, key: Array) -> tuple[Start, Stage]:
    """Globals from clustered data, or, where latents have encoders, by EM on their codes with restarts."""
    began = time.perf_counter()
    deep = bool(plan.latents)
    restarts = recipe.mixture_restarts if deep and plan.layout.discrete else 1
    sweeps = recipe.mixture_sweeps if deep and plan.layout.discrete else _FIRST_SWEEPS
    batch = mixture_batch(plan, data, start, key=key)
    anneal = Annealing(recipe.mixture_beta, int(0.6 * sweeps)) if restarts > 1 or deep else Annealing()
    run = _climber(plan, recipe.clusters, sweeps, anneal)
    globals_, objective = run(jax.random.split(jax.random.fold_in(key, 1), restarts), start, batch)
    best = int(jnp.argmax(jnp.where(jnp.isfinite(objective), objective, -jnp.inf)))
    chosen = {name: value[best] for name, value in globals_.items()}
    ranked = sorted((float(v) if jnp.isfinite(v) else -float("inf") for v in objective), reverse=True)
    name = "mixture on codes" if deep else f"{recipe.clusters} start"
    note = f"{restarts} start(s), {sweeps} sweeps; objectives " + ", ".join(f"{v:.4f}" for v in ranked)
    return Start(chosen, start.params), Stage(name, time.perf_counter() - began, [ranked[0]], note)


@lru_cache(maxsize=8)
def _climber(plan: Plan, clusters: str, sweeps: int, anneal: Annealing) -> Callable:
    one = partial(_cluster_and_climb, plan, clusters=clusters, sweeps=sweeps, anneal=anneal)
    return jax.jit(lambda keys, start, batch: jax.lax.map(lambda k: one(start=start, batch=batch, key=k), keys))


def mixture_batch(plan: Plan, data: Data, start: Start, *, key: Array) -> Batch:
    """Some rows with their codes: the encoder's moments stand for the latents, computed once."""
    num_rows = data.num_rows
    most = plan.layout.rows_for(MIXTURE_ROWS)
    if num_rows > most and not plan.per_datum:
        data = data.take(jnp.sort(jax.random.permutation(key, num_rows)[:most]))
    if not plan.latents:
        return Batch(data.args, {}, {}, data.labels, data.known)

    moments = _encoder(plan)
    parts = []
    size = plan.layout.rows_for(_CODE_ROWS)
    for first in range(0, data.num_rows, size):
        rows = tuple(a[first : first + size] for a in data.args)
        parts.append(moments(rows, start, key))
    means, known = jax.tree.map(lambda *pieces: jnp.concatenate(pieces), *parts)
    return Batch(data.args, means, {}, data.labels, known)


@lru_cache(maxsize=8)
def _encoder(plan: Plan) -> Callable:
    """Codes of some rows: means of the latents, and statistics and base measures of those that compress."""
    compressed = [name for name in plan.latents if name in plan.frames]

    def moments(rows: tuple, start: Start, key: Array) -> tuple[dict, dict]:
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


def _cluster_and_climb(
    plan: Plan, *, start: Start, batch: Batch, key: Array, clusters: str, sweeps: int, anneal: Annealing
) -> tuple[dict[str, Array], Array]:
    """Responsibilities from a clustering, then EM sweeps; returns the globals and their objective per datum."""
    first = jnp.log(start_responsibilities(plan, start, batch, key=key, clusters=clusters))
    spread = _spread(plan, start, batch, key=jax.random.fold_in(key, 1), clusters=clusters)
    num_rows = batch.args[0].shape[0]

    def sweep(i: Array, carry: tuple) -> tuple:
        globals_, _ = carry
        terms, log_prior = batch_terms(plan, globals_, start.params, batch)
        weights = state_log_weights(plan, terms, batch, beta=anneal.values(i, 1)[0])
        assigned = expect(plan.layout, terms, jnp.where(i == 0, first, weights))
        expected = gather(plan, terms, assigned, key=None)
        hidden = jax.tree.map(lambda begun, found: jnp.where(i == 0, begun, found), spread, expected.augmented)
        expected = expected._replace(augmented=hidden)
        per_row = assigned.log_total
        if not plan.latents:  # on codes, what the decoder says is the same for every start
            per_row = per_row + plan.layout.sum_cells(terms.base()) + terms.rows
        objective = (jnp.broadcast_to(per_row, (num_rows,)).sum() + log_prior) / num_rows
        return maximise(plan, globals_, start.params, batch, expected, inside=True), objective

    return jax.lax.fori_loop(0, sweeps + 1, sweep, (start.globals, jnp.zeros(())))


def start_responsibilities(plan: Plan, start: Start, batch: Batch, *, key: Array, clusters: str) -> Array:
    """Responsibilities of the joint states from a clustering of the data (or codes), shape (cells, K)."""
    num_rows = batch.args[0].shape[0] * plan.layout.cells_per_datum
    num_states = plan.layout.num_states
    cluster_key, noise_key = jax.random.split(key)
    features = _features(plan, start, batch)
    if num_states == 1:
        hard = jnp.ones((num_rows, 1))
    elif features is None or len(plan.layout.discrete) > 1:
        hard = jax.random.dirichlet(noise_key, jnp.full(num_states, 0.2), (num_rows,))
    else:
        assign = k_means if clusters == "k-means" else random_centres
        hard = jax.nn.one_hot(assign(features, num_states, key=cluster_key), num_states)
    # a little of every state keeps hard zeros out of the first update
    soft = 0.98 * hard + 0.02 / num_states
    if not batch.labels:
        return soft
    zero = jnp.zeros((num_rows, num_states))
    allowed = state_log_weights(plan, _flat_terms(plan, start, batch, zero), batch)
    return responsibilities(jnp.log(soft) + allowed)[0]


def _spread(plan: Plan, start: Start, batch: Batch, *, key: Array, clusters: str) -> dict[str, dict[str, Array]]:
    """Statistics of the augmented sites as if each datum's hidden variables were mostly those of its cluster."""
    terms, _ = batch_terms(plan, start.globals, start.params, batch)
    if not terms.augmented:
        return {}
    shares = []
    for _, value in terms.augmented.values():
        counts = value.astype(jnp.result_type(float))
        shares.append(jnp.sqrt(counts / jnp.maximum(counts.sum(-1, keepdims=True), 1e-30)))
    features = jnp.concatenate(shares, -1)
    size = max(fn.proportions().shape[-1] for fn, _ in terms.augmented.values())
    assign = k_means if clusters == "k-means" else random_centres
    hard = jax.nn.one_hot(assign(features - features.mean(0), size, key=key), size)
    soft = 0.8 * hard + 0.2 / size
    return {name: fn.spread_statistics(value, soft) for name, (fn, value) in terms.augmented.items()}


def _flat_terms(plan: Plan, start: Start, batch: Batch, zero: Array) -> Any:
    terms, _ = batch_terms(plan, start.globals, start.params, batch)
    return terms._replace(log_prior=zero[:1], compressed={}, dense=zero)


def _features(plan: Plan, start: Start, batch: Batch) -> Array | None:
    """What a clustering sees: each child of the discrete sites, centred, each site with unit total variance."""
    sites = model_sites(plan, start.globals, batch.latents, start.params, batch.args)
    discrete = {name for name, _ in plan.layout.discrete}
    parts = []
    for name in plan.frames:
        if not discrete & set(plan.sites[name].parents):
            continue
        value = without_masked(plan.layout, sites[name])
        atom = unwrap(sites[name]["fn"])
        axis = plan.layout.rows_dim - atom.event_dims - atom.base.event_dim
        if plan.sites[name].family == "Categorical":
            value = jax.nn.one_hot(value, atom.base.support.upper_bound + 1)
            axis -= 1
        # the steps of a structured site stand right of the data plate
        front = (axis, axis + 1) if plan.layout.num_steps is not None else (axis,)
        rows = jnp.moveaxis(value, front, range(len(front)))
        rows = plan.layout.to_cells(rows)
        rows = rows.reshape(rows.shape[0], -1).astype(jnp.result_type(float))
        centred = jnp.nan_to_num(rows - jnp.nanmean(rows, 0))
        top = jnp.maximum(jnp.abs(centred).max(), jnp.finfo(centred.dtype).tiny)
        scaled = centred / top
        parts.append(scaled / jnp.sqrt(jnp.maximum(jnp.square(scaled).mean(0).sum(), 1e-30)))
    return jnp.concatenate(parts, 1) if parts else None
