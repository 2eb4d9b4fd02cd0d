"""What the conformance checks share: a program with its data, what can be drawn from it, and how a check ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to

from vmix.assignments import expect
from vmix.explaining import Explanation, explain_plan
from vmix.inference import EM
from vmix.log_joint import Batch, batch_terms, state_log_weights
from vmix.plan import Plan, make_plan
from vmix.program import LATENT, NETWORK, OBSERVED, Program

TOLERANCE = 1e-5
"""Largest relative gap between two computations of one density in float64."""


class Skip(Exception):
    """A check does not apply; the message says why."""


class Fault(Exception):
    """A check found a fault; the message says which."""


class Case:
    """A program with its data, and what several checks share."""

    def __init__(self, program: Program, arrays: tuple, seed: int) -> None:
        self.program, self.arrays, self.seed = program, arrays, seed

    def key(self, name: str) -> Array:
        """A key for one purpose."""
        return jax.random.fold_in(jax.random.key(self.seed), sum(map(ord, name)))

    @cached_property
    def plan(self) -> Plan:
        """The plan, made once."""
        return make_plan(self.program, self.arrays, key=self.key("plan"))

    @cached_property
    def explanation(self) -> Explanation:
        """The plan under EM, to print."""
        return explain_plan(self.plan, EM())

    def args(self, num_rows: int | None = None) -> tuple:
        """The first rows, on the device, floats in the default precision."""
        return tuple(as_float(jnp.asarray(a[:num_rows])) for a in self.arrays)

    @cached_property
    def simulate(self) -> Callable[[Array, tuple], tuple[dict, tuple]]:
        """Draw every site from the program: `(key, args) -> (site values, data with the observed sites replaced)`."""
        sources = self.sources

        def draw(key: Array, args: tuple) -> tuple[dict, tuple]:
            free = handlers.uncondition(handlers.seed(self.program.model, key))
            trace = handlers.trace(handlers.substitute(free, data=dict(self.plan.params))).get_trace(*args)
            values = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
            return values, _replaced(args, values, sources)

        return draw

    @cached_property
    def sources(self) -> dict[str, int]:
        """Observed site to the data array that it observes.

        Raises:
            Skip: where a site observes something else, or a prior is improper, so that data cannot be simulated.
        """
        self.needs_proper_priors()
        found: dict[str, int | None] = {}

        def look(key: Array, *args: Array) -> None:
            trace = handlers.trace(handlers.seed(self.program.model, key)).get_trace(*args)
            for name in self.plan.names(OBSERVED):
                found[name] = next((i for i, a in enumerate(args) if trace[name]["value"] is a), None)

        jax.eval_shape(look, self.key("sources"), *self.arrays)
        unknown = [name for name, index in found.items() if index is None]
        if unknown:
            raise Skip(f"site {unknown[0]!r} observes something computed from the data, so data cannot be simulated")
        if any(site.family == "Unit" for site in self.plan.sites.values()):
            raise Skip("the program has a numpyro.factor, so data cannot be simulated from it")
        return {name: index for name, index in found.items() if index is not None}

    def needs_no_networks(self) -> None:
        """Skip a check that does not apply to programs with networks or encoders."""
        if self.plan.names(NETWORK) or self.plan.latents:
            raise Skip("the program has networks or an encoder; this check is for exact updates")

    def needs_shared_globals(self) -> None:
        """Skip a check that changes the number of rows where each row has a latent of its own."""
        if self.plan.layout.data_dim is None:
            raise Skip("the program has no data plate")
        if self.plan.per_datum:
            raise Skip(f"site {self.plan.per_datum[0]!r} has a value for each row and no encoder")

    def needs_proper_priors(self) -> None:
        """Skip a check that draws from the priors where one is improper."""
        improper = [name for name in self.plan.globals if self.plan.sites[name].family == "ImproperUniform"]
        if improper:
            raise Skip(f"the prior of site {improper[0]!r} is improper, so that nothing can be drawn from it")

    def prior_globals(self, name: str) -> dict[str, Array]:
        """A draw of the globals from their prior, in the default precision."""
        self.needs_proper_priors()
        return {n: as_float(v) for n, v in self._draw_prior(self.key(name), self.args()).items()}

    @cached_property
    def _draw_prior(self) -> Callable[[Array, tuple], dict[str, Array]]:
        def draw(key: Array, args: tuple) -> dict[str, Array]:
            trace = handlers.trace(handlers.seed(self.program.model, key)).get_trace(*args)
            return {n: trace[n]["value"] for n in self.plan.globals}

        return jax.jit(draw)

    @cached_property
    def evidence(self) -> Callable[[dict, Batch], tuple[Array, Array]]:
        """Compute log p(x_n, z_n | globals) by the library, shape (N,), and log p(globals)."""
        plan = self.plan

        def compute(globals_: dict, batch: Batch) -> tuple[Array, Array]:
            terms, prior = batch_terms(plan, globals_, plan.params, batch)
            total = expect(plan.layout, terms, state_log_weights(plan, terms, batch)).log_total
            total = total + plan.layout.sum_cells(terms.base()) + terms.rows
            return jnp.broadcast_to(total, batch.args[0].shape[:1]), prior

        return jax.jit(compute)

    def latents(self, num_rows: int) -> dict[str, Array]:
        """Draws of the latents with an encoder from standard Normals, moved into their supports."""
        drawn = {}
        for i, name in enumerate(n for n, s in self.plan.sites.items() if s.role == LATENT and s.has_encoder):
            transform = biject_to(self.plan.supports[name])
            shape = transform.inverse_shape((num_rows, *self.plan.sites[name].shape[1:]))
            drawn[name] = transform(jax.random.normal(jax.random.fold_in(self.key("latents"), i), shape))
        return drawn


def as_float(array: Array) -> Array:
    """Real numbers in the default precision; whole numbers as they are."""
    return array.astype(jnp.result_type(float)) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _replaced(args: tuple, values: Mapping[str, Array], sources: Mapping[str, int]) -> tuple:
    new = list(args)
    for name, index in sources.items():
        new[index] = values[name].reshape(args[index].shape).astype(args[index].dtype)
    return tuple(new)


def relative_gap(found: Any, expected: Any) -> float:
    """Largest error relative to 1 + |expected|; equal infinities agree, NaN does not."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    with np.errstate(invalid="ignore"):
        error = np.where(found == expected, 0.0, np.abs(found - expected) / (1.0 + np.abs(expected)))
    return float(np.max(np.where(np.isnan(error), np.inf, error), initial=0.0))
