"""Networks before a fit: drawn, and trained as an autoencoder."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vmix.compilation import jit_once
from vmix.distortion import distorted
from vmix.engine import Data, Start, shuffled_batches
from vmix.enumeration import fill_missing
from vmix.log_joint import Batch, batch_terms, guide_factors
from vmix.plan import Plan
from vmix.program import NETWORK, trace_sites
from vmix.recipe import SILENT, Reached, Recipe, Stage, Watch

MIN_PRETRAIN_STEPS = 3_000


class Corruption(NamedTuple):
    """How the encoder's inputs are spoilt: the fraction of entries dropped, and the strength of distortions."""

    noise: float
    distort: float


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

    return jit_once(draw)


def pretrain(
    plan: Plan, data: Data, start: Start, recipe: Recipe, *, key: Array, watch: Watch = SILENT
) -> tuple[Start, Stage]:
    """Train the networks as an autoencoder: maximise log p(x | z) at the encoder's mean of (corrupted) x."""
    size, steps = batches(plan, data.num_rows, recipe)
    epochs = pretrain_epochs(plan, data.num_rows, recipe)
    corruption = Corruption(recipe.noise, recipe.distort)
    epoch, optimiser = _trainer(plan, size, corruption, adam(recipe.learning_rate, epochs * steps))

    def one(values: tuple, i: int) -> tuple[tuple, Array]:
        *values, objective = epoch(*values, start.globals, data, jax.random.fold_in(key, i))
        return tuple(values), objective

    fresh = (start.params, optimiser.init(start.params))
    reached = run_epochs("autoencoder", one, fresh, epochs, watch)
    note = f"{epochs} epochs, reconstruction in nats per datum"
    return Start(start.globals, reached.values[0]), Stage("autoencoder", reached.seconds, reached.objective, note)


def batches(plan: Plan, num_rows: int, recipe: Recipe) -> tuple[int, int]:
    """Rows a step of training, and steps an epoch."""
    size = min(plan.layout.rows_for(recipe.batch_size), num_rows)
    return size, num_rows // size


def pretrain_epochs(plan: Plan, num_rows: int, recipe: Recipe) -> int:
    """Epochs of autoencoder training: those asked for, or more where the data are few."""
    _, steps = batches(plan, num_rows, recipe)
    return max(recipe.pretrain_epochs, -(-MIN_PRETRAIN_STEPS // steps))


def run_epochs(
    name: str, one: Callable[[tuple, int], tuple[tuple, Array]], fresh: tuple, epochs: int, watch: Watch
) -> Reached:
    """Train epoch by epoch, from where the training was left if it was begun before.

    Args:
        name: of the stage.
        one: from the values and the number of the epoch to the values after it and its objective.
        fresh: values at the start.
        epochs: how many.
        watch: told of each epoch.

    Returns:
        Where the training has come.
    """
    reached = watch.recall(watch.place, fresh)
    if reached is None:
        reached = Reached(fresh, 0, [], 0.0)
        watch.retain(watch.place, reached, at_once=True)
    began = time.perf_counter() - reached.seconds
    try:
        for i in range(reached.done, epochs):
            values, value = one(reached.values, i)
            objective = [*reached.objective, float(value)]
            reached = Reached(values, i + 1, objective, time.perf_counter() - began)
            watch.report(name, i + 1, epochs, objective[-1])
            watch.retain(watch.place, reached, at_once=i + 1 == epochs)
    except KeyboardInterrupt:
        watch.retain(watch.place, reached, at_once=True)
        raise
    return reached


@lru_cache(maxsize=8)
def adam(rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a rate that a cosine brings down to a hundredth over so many steps."""
    return optax.adam(optax.cosine_decay_schedule(rate, steps, alpha=0.01))


@lru_cache(maxsize=8)
def _trainer(plan: Plan, size: int, corruption: Corruption, optimiser: optax.GradientTransformation) -> tuple:
    """One jitted epoch of autoencoder training, compiled once for all restarts."""

    def loss(params: dict, globals_: dict, rows: Data, key: Array) -> Array:
        return -reconstruction(plan, globals_, params, rows, corruption=corruption, key=key).mean()

    def epoch(params: dict, opt_state: Any, globals_: dict, data: Data, key: Array) -> tuple:
        order_key, noise_key = jax.random.split(key)
        order = shuffled_batches(data.num_rows, size, key=order_key)

        def one(carry: tuple, xs: tuple) -> tuple[tuple, Array]:
            params, opt_state = carry
            value, grads = jax.value_and_grad(loss)(params, globals_, data.take(xs[0]), xs[1])
            updates, opt_state = optimiser.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), value

        carry, values = jax.lax.scan(one, (params, opt_state), (order, jax.random.split(noise_key, len(order))))
        return *carry, -values.mean()

    return jax.jit(epoch), optimiser


def reconstruction(
    plan: Plan, globals_: dict, params: dict, rows: Data, *, corruption: Corruption, key: Array
) -> Array:
    """log p(x | z) at the encoder's mean of corrupted data, nats per datum, shape (N,)."""
    _, factors = guide_factors(plan, params, corrupted(rows.args, corruption, key=key), key=key)
    latents = {name: factor.mean for name, factor in factors.items()}
    terms, _ = batch_terms(plan, globals_, params, Batch(rows.args, latents, {}), leave_out=plan.latents)
    dense = 0.0 if terms.dense is None else terms.dense.mean(1)
    return terms.rows + plan.layout.sum_cells(terms.shared + dense)


def corrupted(args: tuple, corruption: Corruption, *, key: Array) -> tuple:
    """What the encoder sees in training: the first array distorted, then entries of all real arrays dropped."""
    move_key, *keys = jax.random.split(key, len(args) + 1)
    seen = list(args)
    if corruption.distort:
        seen[0] = distorted(seen[0], strength=corruption.distort, key=move_key)
    if corruption.noise:
        seen = [_drop(a, corruption.noise, k) for a, k in zip(seen, keys, strict=True)]
    return tuple(seen)


def _drop(array: Array, noise: float, key: Array) -> Array:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
    return array * jax.random.bernoulli(key, 1.0 - noise, array.shape)
