"""Predictions of a fitted program: responsibilities, codes, reconstructions, samples, scores."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers

from vmix.checks import as_data, check_positive_int, check_same_length, check_seed, check_width
from vmix.enumeration import collapse
from vmix.free_energy import evaluate
from vmix.log_joint import guide_factors, model_sites
from vmix.plan import Plan
from vmix.program import OBSERVED, ProgramError

CHUNK_ROWS = 4096


class Predictor:
    """A plan with fitted values, ready for new data.

    Args:
        plan: the plan.
        globals_: values of the globals, one or several draws along the first axis.
        params: network parameters.
    """

    def __init__(self, plan: Plan, globals_: dict[str, Array], params: dict[str, Any]) -> None:
        self.plan, self.globals, self.params = plan, globals_, params

    def responsibilities(self, *data: Any) -> np.ndarray:
        """q(c = k), shape (N, K)."""
        if not self.plan.layout.discrete:
            raise ProgramError(
                f"program {self.plan.program.name} has no discrete site, so there are no components to predict"
            )
        return self._rows(self._responsibilities, data)

    def codes(self, *data: Any) -> np.ndarray:
        """Encoder means of the first latent, flattened, shape (N, latent_dim)."""
        if not self.plan.latents:
            raise ProgramError(
                f"program {self.plan.program.name} has no latent with an encoder; use predict_proba(x)"
            )
        return self._rows(self._codes, data)

    def reconstructions(self, *data: Any) -> Any:
        """Mean of the observed sites, shape (N, D); a dict where there are several."""
        return _single(self._rows(self._reconstructions, data))

    def per_datum(self, *data: Any) -> np.ndarray:
        """The elbo or log evidence of each datum in nats, the average density over draws, shape (N,)."""
        return self._rows(self._per_datum, data)

    def sample(self, num_samples: int, *, component: int | None, seed: int, mean: bool) -> Any:
        """New data; see `Fit.sample`."""
        check_positive_int(num_samples, "num_samples")
        check_seed(seed)
        discrete = self.plan.layout.discrete
        if component is not None and not (discrete and 0 <= component < self.plan.layout.num_states):
            raise ValueError(
                f"component is {component!r}; this fit has components 0..{self.plan.layout.num_states - 1}"
                if discrete
                else f"component is {component!r}, but program {self.plan.program.name} has no components"
            )
        fixed = {}
        if component is not None:
            fixed = {name: int(v[component]) for name, v in self.plan.layout.state_values().items()}
        return _single(jax.tree.map(np.asarray, self._draw(num_samples, fixed, jax.random.key(seed), mean=mean)))

    def _rows(self, function: Callable, data: tuple) -> Any:
        """Apply a jitted function chunk by chunk and join the rows."""
        arrays = self._check(data)
        parts = []
        for first in range(0, arrays[0].shape[0], CHUNK_ROWS):
            rows = tuple(jnp.asarray(a[first : first + CHUNK_ROWS]) for a in arrays)
            parts.append(jax.device_get(function(self.globals, self.params, rows)))
        return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)

    def _check(self, data: tuple) -> tuple[np.ndarray, ...]:
        template = self.plan.template
        if len(data) != len(template):
            raise ValueError(f"{len(data)} data array(s) given; the program was fitted to {len(template)}")
        if self.plan.per_datum:
            raise ProgramError(
                f"site {self.plan.per_datum[0]!r} is a latent of each training datum without an encoder, so new data "
                "cannot be predicted; write a guide with an encoder"
            )
        names = ["x"] if len(data) == 1 else [f"data[{i}]" for i in range(len(data))]
        arrays = []
        for array, name, like in zip(data, names, template, strict=True):
            found = as_data(array, name=name, allow_missing=self.plan.missing)
            if found.ndim != like.ndim:
                raise ValueError(f"{name} has {found.ndim} dimension(s); this model was fitted to {like.ndim}")
            if like.ndim > 1:
                check_width(found, like.shape[1], name)
            arrays.append(found.astype(like.dtype) if found.dtype != like.dtype else found)
        check_same_length(arrays, names)
        return tuple(arrays)

    @cached_property
    def _responsibilities(self) -> Callable:
        def compute(globals_: dict, params: dict, rows: tuple) -> Array:
            def one(values: dict) -> Array:
                result = evaluate(self.plan, values, params, rows, key=jax.random.key(0))
                shape = (rows[0].shape[0], self.plan.layout.num_states)
                return jnp.broadcast_to(result.responsibilities, shape)

            return self._over_draws(one, globals_).mean(0)

        return jax.jit(compute)

    @cached_property
    def _per_datum(self) -> Callable:
        def compute(globals_: dict, params: dict, rows: tuple) -> Array:
            def one(values: dict) -> Array:
                # a fixed key: the score of a datum is the same number every time
                result = evaluate(self.plan, values, params, rows, key=jax.random.key(0))
                return jnp.broadcast_to(result.per_datum, (rows[0].shape[0],))

            values = self._over_draws(one, globals_)
            return jax.scipy.special.logsumexp(values, axis=0) - jnp.log(values.shape[0])

        return jax.jit(compute)

    @cached_property
    def _codes(self) -> Callable:
        def compute(_: dict, params: dict, rows: tuple) -> Array:
            _, factors = guide_factors(self.plan, params, rows, key=jax.random.key(0))
            means = [factors[name].mean.reshape(rows[0].shape[0], -1) for name in self.plan.latents]
            return jnp.concatenate(means, 1)

        return jax.jit(compute)

    @cached_property
    def _reconstructions(self) -> Callable:
        names = self.plan.names(OBSERVED)

        def compute(globals_: dict, params: dict, rows: tuple) -> dict[str, Array]:
            def one(values: dict) -> dict[str, Array]:
                result = evaluate(self.plan, values, params, rows, key=jax.random.key(0))
                _, factors = guide_factors(self.plan, params, rows, key=jax.random.key(0))
                latents = {name: factor.mean for name, factor in factors.items()}
                sites = model_sites(self.plan, values, latents, params, rows)
                weights = result.responsibilities
                return {name: self._mean_given(sites[name], weights) for name in names}

            draws = self._over_draws(one, globals_)
            return jax.tree.map(lambda a: a.mean(0), draws)

        return jax.jit(compute)

    def _mean_given(self, site: dict, responsibilities: Array) -> Array:
        """sum_k r_nk E[x | c = k] of an observed site, shape (N, *event)."""
        fn, layout = site["fn"], self.plan.layout
        num_rows, event = site["value"].shape[0], fn.event_shape
        mean = jnp.broadcast_to(fn.mean, fn.batch_shape + event)
        flat = mean.reshape(fn.batch_shape + (-1,))
        columns = [collapse(layout, flat[..., j]) for j in range(flat.shape[-1])] if flat.shape[-1] <= 4 else None
        if columns is not None:
            means = jnp.stack(columns, -1)
        else:
            means = jax.vmap(lambda a: collapse(layout, a), in_axes=-1, out_axes=-1)(flat)
        means = jnp.broadcast_to(means, (num_rows, layout.num_states, means.shape[-1]))
        weights = jnp.broadcast_to(responsibilities, (num_rows, layout.num_states))
        return jnp.einsum("nk,nkd->nd", weights, means).reshape((num_rows, *event))

    def _over_draws(self, one: Callable, globals_: dict) -> Any:
        if not globals_:
            return jax.tree.map(lambda a: a[None], one({}))
        return jax.lax.map(one, globals_)

    def _draw(self, num_samples: int, fixed: dict[str, int], key: Array, *, mean: bool) -> dict[str, Array]:
        plan = self.plan
        rows = tuple(jnp.asarray(a)[jnp.zeros(num_samples, int)] for a in plan.template)
        names = plan.names(OBSERVED)
        pick_key, draw_key = jax.random.split(key)

        @jax.jit
        def run(globals_: dict, params: dict, rows: tuple) -> dict[str, Array]:
            count = next(iter(globals_.values())).shape[0] if globals_ else 1
            pick = jax.random.randint(pick_key, (), 0, count)
            values: dict[str, Any] = {name: value[pick] for name, value in globals_.items()}
            values |= {name: jnp.full((num_samples,), v) for name, v in fixed.items()}
            free = handlers.uncondition(handlers.seed(plan.program.model, draw_key))
            trace = handlers.trace(handlers.substitute(free, data={**values, **params})).get_trace(*rows)
            return {n: trace[n]["fn"].mean if mean else trace[n]["value"] for n in names}

        return run(self.globals, self.params, rows)


def _single(values: Any) -> Any:
    """The only entry of a dict, or the dict."""
    return next(iter(values.values())) if isinstance(values, dict) and len(values) == 1 else values
