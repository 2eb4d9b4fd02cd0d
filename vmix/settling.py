"""Networks and components under the bound with the classes of the start held, where the data are few.

    weights, theta <- climb  (1/N) sum_n E_q[log p(x_n, z_n, c_n | theta) - log q(z_n | x_n)] + log p(theta) / N

at c_n, the likeliest class of datum n at the start. An autoencoder that has gone through few data hundreds of times
has codes far from those that the bound asks for. While the bound pulls them in, classes pass through each other,
exchange data, and are not told apart again: with the classes held, the codes come to rest first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import optax
from jax import Array

from vmix.engine import Data, Start, shuffled_batches
from vmix.free_energy import evaluate
from vmix.log_joint import dense_children, gather, has_row_priors
from vmix.plan import Plan
from vmix.pretraining import adam, batches, pretrain_epochs, run_epochs
from vmix.recipe import SILENT, Recipe, Stage, Watch
from vmix.updates import maximise


def settle_epochs(plan: Plan, num_rows: int, recipe: Recipe) -> int:
    """Epochs with the classes held: none where the epochs of pre-training asked for are steps enough by themselves.

    None either where a global's likelihood does not compress, where some rows are another problem, or where every
    datum has a latent without an encoder.
    """
    asked = pretrain_epochs(plan, num_rows, recipe) <= recipe.pretrain_epochs
    if asked or plan.needs_all_rows or plan.per_datum or dense_children(plan) or has_row_priors(plan):
        return 0
    return -(-recipe.settle_steps // batches(plan, num_rows, recipe)[1])


def settle(
    plan: Plan, data: Data, start: Start, recipe: Recipe, *, key: Array, watch: Watch = SILENT
) -> tuple[Start, Stage]:
    """Climb the bound with every datum's class held at what is likeliest at the start.

    Args:
        plan: the plan.
        data: the data.
        start: trained networks, and components fitted to their codes.
        recipe: its batch size and learning rate are used.
        key: randomness.
        watch: told of each epoch as it goes, and asked how far it came before.

    Returns:
        Where it has come, and what the stage did.
    """
    size, steps = batches(plan, data.num_rows, recipe)
    epochs = settle_epochs(plan, data.num_rows, recipe)
    epoch, optimiser = _trainer(plan, size, adam(recipe.learning_rate, epochs * steps))
    held = data._replace(labels=_classes(plan)(start, data, key))

    def one(values: tuple, i: int) -> tuple[tuple, Array]:
        *values, objective = epoch(*values, held, jax.random.fold_in(key, i))
        return tuple(values), objective

    fresh = (start.globals, start.params, optimiser.init(start.params))
    reached = run_epochs("classes held", one, fresh, epochs, watch)
    globals_, params, _ = reached.values
    note = f"{epochs} epochs with every datum's class held, the bound in nats per datum"
    return Start(globals_, params), Stage("classes held", reached.seconds, reached.objective, note)


@lru_cache(maxsize=8)
def _classes(plan: Plan) -> Callable[[Start, Data, Array], dict[str, Array]]:
    """The likeliest value of each discrete site of every datum, shape (N,) or (N, T)."""

    def classes(start: Start, data: Data, key: Array) -> dict[str, Array]:
        found = evaluate(plan, start.globals, start.params, data.args, key=key, labels=data.labels)
        likeliest = plan.layout.to_rows(found.assigned.shares.argmax(-1))
        return {name: values[likeliest] for name, values in plan.layout.state_values().items()}

    return jax.jit(classes)


@lru_cache(maxsize=8)
def _trainer(plan: Plan, size: int, optimiser: optax.GradientTransformation) -> tuple[Callable, Any]:
    """One jitted epoch: steps of the networks, then an update of the globals on the epoch's statistics."""

    def loss(params: dict, globals_: dict, rows: Data, key: Array) -> tuple[Array, tuple]:
        result = evaluate(plan, globals_, params, rows.args, key=key, labels=rows.labels)
        expected = gather(plan, result.terms, result.assigned, key=None)._replace(responsibilities=None)
        return -result.per_datum.mean(), (result.per_datum.mean(), result.log_prior, expected)

    def epoch(globals_: dict, params: dict, opt_state: Any, data: Data, key: Array) -> tuple:
        order_key, draw_key = jax.random.split(key)
        order = shuffled_batches(data.num_rows, size, key=order_key)

        def one(carry: tuple, xs: tuple) -> tuple[tuple, tuple]:
            params, opt_state = carry
            grads, seen = jax.grad(loss, has_aux=True)(params, globals_, data.take(xs[0]), xs[1])
            updates, opt_state = optimiser.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), seen

        (params, opt_state), seen = jax.lax.scan(
            one, (params, opt_state), (order, jax.random.split(draw_key, len(order)))
        )
        per_datum, log_prior, expected = seen
        whole = jax.tree.map(lambda a: a.sum(0) * (data.num_rows / order.size), expected)
        template = data.rows(0, min(2, data.num_rows))
        batch = evaluate(plan, globals_, params, template.args, key=draw_key, labels=template.labels).batch
        moved = maximise(plan, globals_, params, batch, whole, inside=True)
        return moved, params, opt_state, per_datum.mean() + log_prior[0] / data.num_rows

    return jax.jit(epoch), optimiser
