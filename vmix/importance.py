"""Importance weights of what a fit inferred: how far its factors are from the posterior that they stand for.

log w = log p(x, latents) - log q(latents) at draws from q, discrete sites summed out. Were q the posterior, all weights
would be alike.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import biject_to

from vmix.free_energy import evaluate
from vmix.log_joint import model_sites

if TYPE_CHECKING:
    from vmix.results import Fit

DRAWS = 1_000
ENCODER_DRAWS = 200
ENCODER_ROWS = 200


def of_globals(fit: Fit, data: tuple, *, key: Array) -> np.ndarray:
    """Log weights of the normal factors of the globals, on the data of the fit.

    Args:
        fit: a fit with `factors`, of a program without an encoder.
        data: the data arrays, all rows.
        key: randomness.

    Returns:
        Nats, shape (1000,).
    """
    plan, rows = fit._plan, tuple(jnp.asarray(a) for a in data)
    point = {name: value[0] for name, value in fit._predictor.globals.items()}
    supports: dict[str, Any] = {}

    def look(values: dict) -> None:
        sites = model_sites(plan, values, {}, fit._predictor.params, rows)
        supports.update({name: sites[name]["fn"].support for name in fit.factors})

    jax.eval_shape(look, point)

    def one(key: Array) -> Array:
        values, log_q = dict(point), jnp.zeros(())
        for i, (name, factor) in enumerate(fit.factors.items()):
            normal, transform = dist.Normal(factor["loc"], factor["scale"]), biject_to(supports[name])
            free = normal.sample(jax.random.fold_in(key, i))
            values[name] = transform(free)
            log_q += normal.log_prob(free).sum() - transform.log_abs_det_jacobian(free, values[name]).sum()
        found = evaluate(plan, values, fit._predictor.params, rows, key=key)
        return found.per_datum.sum() + found.log_prior - log_q

    return np.asarray(jax.jit(partial(jax.lax.map, one))(jax.random.split(key, DRAWS)))


def of_encoder(fit: Fit, data: tuple, *, key: Array) -> np.ndarray:
    """Log weights of the encoder's draws, the globals given, for at most 200 rows spread evenly.

    Args:
        fit: a fit of a program with an encoder.
        data: the data arrays.
        key: randomness.

    Returns:
        Nats, shape (rows, 200).
    """
    plan, params = fit._plan, fit._predictor.params
    index = np.unique(np.linspace(0, len(data[0]) - 1, ENCODER_ROWS).astype(int))
    rows = tuple(jnp.asarray(a[index]) for a in data)
    point = {name: value[0] for name, value in fit._predictor.globals.items()}

    def one(key: Array) -> Array:
        return evaluate(plan, point, params, rows, key=key, sampled=True).per_datum

    return np.asarray(jax.jit(partial(jax.lax.map, one))(jax.random.split(key, ENCODER_DRAWS))).T
