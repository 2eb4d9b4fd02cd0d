"""The joint-distribution test (Geweke, 2004): sweeps of a sampler, with fresh data in turn, keep p(theta, c, x).

Chains start at exact draws of the joint distribution and are independent of each other, so the mean over a chain's
sweeps of any function has the function's prior expectation, and its standard error is that of independent numbers:
nothing of the chains' autocorrelation needs to be estimated. A wrong sweep makes a chain drift away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.special import ndtri

from benchmarks._calibration import log_densities, replay, values_of
from vmix.conformance_case import Case
from vmix.engine import Data, Schedule, Start
from vmix.inference import Gibbs
from vmix.plan import Plan
from vmix.program import OBSERVED, as_program

FALSE_ALARM = 1e-4
"""How often the test fails a right sampler, over all statistics of one program together (Bonferroni)."""


@dataclass(frozen=True, kw_only=True)
class Joint:
    """A program for the test.

    Args:
        program: a NumPyro function, or a record with `model` and `guide`.
        data: arrays of a few rows; their values matter only where the program takes something else from them.
        updates: what the plan must say of each global, so that the test tests what it says it does.
        missing: whether NaN in the data means missing.
    """

    program: Any
    data: tuple[np.ndarray, ...]
    updates: Mapping[str, str] = field(default_factory=dict)
    missing: bool = False

    def case(self) -> Case:
        """The program with its plan, whose conditionals must be those that are named."""
        case = Case(as_program(self.program), self.data, 0)
        if self.missing:
            from vmix.plan import make_plan

            case.__dict__["plan"] = make_plan(case.program, self.data, key=jax.random.key(0), missing=True)
        found = {name: option.name for name, option in case.plan.conditionals.items()}
        found |= dict.fromkeys(case.plan.others, "NUTS")
        assert found == dict(self.updates), found
        return case


def scores(
    case: Case, *, num_chains: int, num_sweeps: int, seed: int, wrong: Callable | None = None, chunks: int = 1
) -> dict:
    """|z| of the chains' means of every quantity against fresh draws of the joint distribution.

    Args:
        case: the program.
        num_chains: independent chains, each from an exact draw.
        num_sweeps: sweeps of a chain, each followed by fresh data.
        seed: of everything.
        wrong: spoils a state after every sweep, `(state before, state after) -> state`, to see the test fail.
        chunks: pieces in which a sweep reads the rows, as it does from data on disk.

    Returns:
        Quantity to the larger |z| of two bounded functions of it; heavy tails have no moments to compare.
    """
    plan, template, one = case.plan, case.args(), jnp.ones(())
    engine = Gibbs(num_samples=num_sweeps, num_warmup=0)

    def quantities(values: Mapping[str, Array]) -> Array:
        args = list(template)
        for i, name in enumerate(plan.names(OBSERVED)):
            args[i] = values[name].astype(template[i].dtype)
        found = list(log_densities(case, values, tuple(args)).values())
        return jnp.concatenate([jnp.stack(found), *(_parts(values[name]) for name in sorted(values))])

    def fresh(key: Array) -> Array:
        return quantities(replay(case, key, template, {})[0])

    def chain(key: Array, middle: Array, spread: Array) -> Array:
        first_key, init_key, sweep_key = jax.random.split(key, 3)
        values, args = replay(case, first_key, template, {})
        start = Start({name: values[name] for name in plan.globals}, plan.params)
        state = _still(engine.init(plan, start, Data(args, None, None), key=init_key))
        if plan.latents:  # the engine draws its first latents from the encoder, which is not the joint distribution
            state = state._replace(latents={name: values[name] for name in plan.latents})
            state = state._replace(assignments=_joint_value(case, values))

        def sweep(carry: tuple, key: Array) -> tuple[tuple, Array]:
            before, args = carry
            if chunks > 1:  # draws of what a row has of its own are not kept
                state = _in_chunks(engine, plan, before, args, chunks)
                values, args = replay(case, key, template, state.globals)
            else:
                state, _ = engine.step(plan, before, Data(args, None, None), Schedule(one, one))
                state = state if wrong is None else wrong(before, state)
                values, args = replay(case, key, template, values_of(case, state))
            return (state, args), _bounded((quantities(values) - middle) / spread)

        return jax.lax.scan(sweep, (state, args), jax.random.split(sweep_key, num_sweeps))[1].mean(0)

    chain_key, fresh_key, name_key = jax.random.split(jax.random.key(seed), 3)
    names = _names(case, jax.eval_shape(lambda k: replay(case, k, template, {})[0], name_key))
    apart = np.asarray(jax.jit(jax.vmap(fresh))(jax.random.split(fresh_key, 16 * num_chains)))
    middle = np.median(apart, 0)
    spread = np.subtract(*np.percentile(apart, [75, 25], axis=0))
    spread = np.where(spread > 0, spread, np.maximum(apart.std(0), 1e-12))  # a rare value has quartiles that agree
    keys = jax.random.split(chain_key, num_chains)
    together = np.asarray(jax.jit(jax.vmap(chain, (0, None, None)))(keys, middle, spread), float)
    expected = np.asarray(_bounded((apart - middle) / spread), float)
    error = np.sqrt(together.var(0) / num_chains + expected.var(0) / len(apart))
    gap = np.abs(together.mean(0) - expected.mean(0))
    z = np.where(gap == 0, 0.0, gap / np.maximum(error, 1e-12)).max(0)
    return dict(zip(names, z.tolist(), strict=True))


def _in_chunks(engine: Gibbs, plan: Plan, state: Any, args: tuple, chunks: int) -> Any:
    """One sweep as over data on disk: sums of each piece, then the globals."""
    schedule, pieces = Schedule(jnp.ones(()), jnp.ones(())), np.array_split(np.arange(len(args[0])), chunks)
    rows = [Data(tuple(array[piece] for array in args), None, None) for piece in pieces]
    parts = [engine.reduce(plan, state, data, schedule, i) for i, data in enumerate(rows)]
    total = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *parts)
    return engine.apply(plan, state, total, rows[0], schedule)[0]


def limit(number: int) -> float:
    """The |z| that a right sampler passes in one of `number` quantities, two functions of each, with `FALSE_ALARM`."""
    return float(-ndtri(FALSE_ALARM / (4 * number)))


def _bounded(u: Array) -> Array:
    """A function that sees a shift, and one that sees a change of scale."""
    return jnp.stack([jnp.tanh(u), u**2 / (1.0 + u**2)], -2)


def _parts(value: Array) -> Array:
    """What is compared of one site: first and last element, a weighted sum (entries may sum to one) and mean square."""
    flat = value.reshape(-1).astype(jnp.result_type(float))
    return jnp.stack([flat[0], flat[-1], flat @ jnp.cos(jnp.arange(len(flat))), jnp.square(flat).mean()])


def _names(case: Case, shapes: Mapping[str, Any]) -> list[str]:
    parts = ("first", "last", "weighted sum", "mean square")
    logs = ["log p(theta)", "log p(c | theta)", "log p(x | c, theta)", "log joint"]
    logs += ["log p(x | theta)"] if case.plan.layout.discrete else []
    return [*logs, *(f"{name}: {part}" for name in sorted(shapes) for part in parts)]


def _joint_value(case: Case, values: Mapping[str, Array]) -> Array:
    """The joint state of the discrete sites, as the engine keeps it."""
    found, factor = jnp.zeros((), jnp.int32), 1
    for name, size in case.plan.layout.discrete:
        found, factor = found + factor * values[name], factor * size
    return jnp.broadcast_to(found, (case.args()[0].shape[0],) if found.ndim == 0 else found.shape)


def _still(state: Any) -> Any:
    """The state with step sizes that fit and do not adapt: moving ones would not leave the joint distribution."""
    if state.hmc is not None:
        state = state._replace(hmc=state.hmc._replace(adapt_state=state.hmc.adapt_state._replace(step_size=0.3)))
    if state.moves is not None:
        state = state._replace(moves=state.moves._replace(log_step=jnp.log(jnp.asarray(0.6))))
    return state
