"""Conformance of the density: what the library computes fast against what NumPyro computes one value at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.infer.util import log_density

from vmix.assignments import given
from vmix.conformance_case import TOLERANCE, Case, Fault, Skip, relative_gap
from vmix.distributions.structured import StructuredDiscrete
from vmix.families import unwrap
from vmix.log_joint import Batch, batch_terms, gather, site_density
from vmix.plan import Plan
from vmix.program import inside_improper

_MAX_ASSIGNMENTS = 512


def check_repeatable(case: Case) -> str:
    """The same values must have the same log density, site by site, at every call and under every key."""

    def run(key: Array, values: dict, args: tuple) -> dict[str, Array]:
        seeded = handlers.substitute(handlers.seed(case.program.model, key), data=values)
        trace = handlers.trace(seeded).get_trace(*args)
        return {n: s["fn"].log_prob(s["value"]) for n, s in trace.items() if s["type"] == "sample"}

    def every(one: Array, other: Array, args: tuple) -> list[dict]:
        # traced three times, and compiled once: what Python changes from call to call is a constant of each trace
        seeded = handlers.substitute(handlers.seed(case.program.model, one), substitute_fn=inside_improper)
        trace = handlers.trace(seeded).get_trace(*args)
        fixed = {n: s["value"] for n, s in trace.items() if s["type"] in ("sample", "param") and not _observed(s)}
        return [run(key, fixed, args) for key in (one, one, other)]

    runs = jax.device_get(jax.jit(every)(case.key("one"), case.key("another"), case.args()))
    for again in runs[1:]:
        if list(again) != list(runs[0]):
            raise Fault(f"the program's sites change from call to call: {sorted(set(again) ^ set(runs[0]))}")
        for name, value in again.items():
            if relative_gap(value, runs[0][name]) > TOLERANCE:
                raise Fault(
                    f"the log density of site {name!r} changes from call to call at the same values; a program must "
                    "not keep state or draw numbers outside of its sample statements"
                )
    return f"{len(runs[0])} sites have the same log density in 3 runs, 2 keys"


def _observed(site: dict) -> bool:
    return site["type"] == "sample" and site["is_observed"]


def check_plan(case: Case) -> str:
    """The program can be planned."""
    plan = case.plan
    exact = [name for name in plan.globals if name in plan.conditionals]
    return f"{len(plan.sites)} sites; {len(exact)} of {len(plan.globals)} globals have a recognised conditional"


def check_rows(case: Case) -> str:
    """What a row says must not depend on the other rows."""
    case.needs_shared_globals()
    num_rows = case.arrays[0].shape[0]
    half = max(num_rows // 2, 1)
    globals_, latents = case.prior_globals("rows"), case.latents(num_rows)
    parts = []
    for rows in (slice(None), slice(0, half), slice(None, None, -1)):
        args = tuple(a[rows] for a in case.args())
        batch = Batch(args, {n: z[rows] for n, z in latents.items()}, {}, None)
        parts.append(jax.device_get(case.evidence(globals_, batch)))
    (all_rows, prior), (first, prior_of_half), (reverse, _) = parts
    gap = max(relative_gap(first, all_rows[:half]), relative_gap(reverse[::-1], all_rows))
    if gap > TOLERANCE:
        raise Fault(
            f"a row's log density depends on which other rows are there (by {gap:.2g} of its size); what stands inside "
            "the data plate must use its own row only: look for sums, means or sorting over the data"
        )
    if relative_gap(prior, prior_of_half) > TOLERANCE:
        raise Fault("the log density outside the data plate depends on the data; move it inside, one term each datum")
    return f"{num_rows} rows say the same in halves and in reverse, to {gap:.1g}"


def numpyro_log_joint(plan: Plan, args: tuple, values: Mapping[str, Array], states: Array) -> Array:
    """NumPyro's own log density of the program with each datum's joint state fixed, in nats."""
    model = handlers.seed(plan.program.model, jax.random.key(0))  # every site is fixed: only networks read the key
    return log_density(model, args, {}, {**values, **plan.layout.values_of(states), **plan.params})[0]


def check_enumeration(case: Case) -> str:
    """The library's sum over discrete sites against a sum over all assignments of a few rows."""
    plan = case.plan
    if not plan.layout.discrete:
        raise Skip("the program has no discrete site")
    case.needs_shared_globals()
    num_states, cells = plan.layout.num_states, plan.layout.cells_per_datum
    num_cells = int(math.log(_MAX_ASSIGNMENTS) / math.log(max(num_states, 2)))
    if cells > max(num_cells, 1):
        raise Skip(f"a datum has {num_states}^{cells} values of its discrete site, too many to try: use fewer steps")
    num_rows = min(max(num_cells // cells, 1), 4, len(case.arrays[0]))
    args, globals_, latents = case.args(num_rows), case.prior_globals("enumeration"), case.latents(num_rows)
    grid = np.stack(np.meshgrid(*[np.arange(num_states)] * num_rows * cells, indexing="ij"), -1)
    grid = grid.reshape(-1, num_rows, *(() if plan.layout.num_steps is None else (cells,)))
    values = {**globals_, **latents}
    log_joints = partial(numpyro_log_joint, plan, args, values)
    every = jax.jit(lambda states: jax.lax.map(log_joints, states))(jnp.asarray(grid))
    naive = float(jax.scipy.special.logsumexp(every))
    evidence, prior = jax.device_get(case.evidence(globals_, Batch(args, latents, {}, None)))
    gap = relative_gap(evidence.sum() + prior, naive)
    if gap > TOLERANCE:
        raise Fault(f"the enumerated log density is {evidence.sum() + prior:.6g}, the naive sum {naive:.6g} nats")
    return f"{len(grid)} assignments of {num_rows} rows sum to the enumerated log density, to {gap:.1g}"


def check_conditionals(case: Case) -> str:
    """Differences of each recognised conditional against differences of NumPyro's log density."""
    plan = case.plan
    if not plan.conditionals:
        raise Skip("no global has a recognised conditional")
    num_rows = min(len(case.arrays[0]), 50) if not plan.per_datum else len(case.arrays[0])
    args, latents = case.args(num_rows), case.latents(num_rows)
    globals_ = case.prior_globals("conditionals")
    states = _some_states(case, globals_, args)
    gaps = {name: _conditional_gap(case, name, globals_, Batch(args, latents, {}, None), states)
            for name in plan.conditionals}  # fmt: skip
    worst = max(gaps, key=gaps.__getitem__)
    if gaps[worst] > TOLERANCE:
        raise Fault(
            f"the conditional of {worst!r} ({plan.conditionals[worst].name}) differs from the log density by "
            f"{gaps[worst]:.2g} of its size"
        )
    return f"{len(gaps)} conditionals equal the log density at random pairs of points, to {gaps[worst]:.1g}"


def _some_states(case: Case, globals_: dict, args: tuple) -> Array:
    """Joint states at random, shape (N,); of a structured site, which may forbid some, a draw, shape (N, T)."""
    plan, num_rows = case.plan, args[0].shape[0]
    if plan.layout.num_steps is None:
        return jax.random.randint(case.key("states"), (num_rows,), 0, plan.layout.num_states)
    (name, _), *_ = plan.layout.discrete
    model = handlers.substitute(handlers.seed(case.program.model, case.key("states")), data={**globals_, **plan.params})
    site = handlers.trace(model).get_trace(*args)[name]
    if type(unwrap(site["fn"]).base).sample_statistics is not StructuredDiscrete.sample_statistics:
        raise Skip(f"the values of site {name!r} leave hidden variables of its prior open")
    return site["value"].reshape(num_rows, -1)


def _conditional_gap(case: Case, name: str, globals_: dict, batch: Batch, states: Array) -> float:
    plan, conditional = case.plan, case.plan.conditionals[name]

    def differences(globals_: dict, batch: Batch, states: Array, noise: Array) -> tuple[Array, Array]:
        terms, _ = batch_terms(plan, globals_, plan.params, batch)
        expected = gather(plan, terms, given(plan.layout, terms, states, key=None), key=None)
        density = site_density(plan, name, globals_, plan.params, batch, expected)
        exponent = conditional.solve(density, conditional.probe(globals_[name]))
        points = conditional.scatter(noise, exponent.mode(globals_[name]))
        values = {**globals_, **batch.latents}
        brute = jax.lax.map(lambda at: numpyro_log_joint(plan, batch.args, {**values, name: at}, states), points)
        return jnp.diff(jax.lax.map(exponent.log_prob, points)), jnp.diff(brute)

    noise = jax.random.normal(case.key(name), (8, *globals_[name].shape))
    return relative_gap(*jax.device_get(jax.jit(differences)(globals_, batch, states, noise)))
