"""Conformance of the updates: EM climbs, Gibbs leaves the joint distribution alone, simulated truth is recovered."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro.distributions import biject_to
from scipy.special import ndtri

from vmix.assignments import expect
from vmix.conformance_case import Case, Fault, Skip, as_float
from vmix.engine import Data, Schedule, Start
from vmix.first_responsibilities import start_responsibilities
from vmix.inference import EM, Gibbs
from vmix.log_joint import Batch, batch_terms, gather, state_log_weights
from vmix.metrics import accuracy
from vmix.plan import Plan
from vmix.updates import maximise

FALSE_ALARMS = 1e-3
"""How often the joint-distribution test fails a right program, over all its statistics together."""
SWEEPS = 20
_RESTARTS = 4
_REPLICATES = 2000
_FEW_ROWS = 8
_RECOVERY_TOLERANCE = 1e-3


class _Climb:
    """EM as two compiled functions, for several starts and several data sets of one shape."""

    def __init__(self, case: Case) -> None:
        self.plan, self.engine = case.plan, EM(num_sweeps=SWEEPS, tolerance=None)
        self.begin, self.sweeps = jax.jit(self._begin), jax.jit(self._sweeps)

    def _begin(self, keys: Array, globals_: dict, args: tuple) -> dict:
        """Globals after one update from clustered data, one start a key."""
        batch = Batch(args, {}, {}, None)
        start = Start(globals_, self.plan.params)

        def one(key: Array) -> dict:
            first = start_responsibilities(self.plan, start, batch, key=key, clusters="k-means")
            terms, _ = batch_terms(self.plan, globals_, self.plan.params, batch)
            expected = gather(self.plan, terms, expect(self.plan.layout, terms, jnp.log(first)), key=None)
            return maximise(self.plan, globals_, self.plan.params, batch, expected)

        return jax.lax.map(one, keys)

    def _sweeps(self, globals_: dict, args: tuple) -> tuple[dict, Array]:
        """`SWEEPS` sweeps; returns the globals and the objective before each, nats per datum."""
        data, one = Data(args, None, None), jnp.ones(())
        state = self.engine.init(self.plan, Start(globals_, self.plan.params), data, key=jax.random.key(0))

        def sweep(state: Any, _: None) -> tuple[Any, Array]:
            state, info = self.engine.step(self.plan, state, data, Schedule(one, one))
            return state, info.objective

        state, objective = jax.lax.scan(sweep, state, None, length=SWEEPS)
        return state.globals, objective


def _climb(case: Case) -> _Climb:
    case.needs_no_networks()
    if not case.plan.globals:
        raise Skip("the program has no global to update")
    if "climb" not in case.__dict__:
        case.__dict__["climb"] = _Climb(case)
    return case.__dict__["climb"]


def check_em(case: Case) -> str:
    """No sweep from a prior draw may lower the log joint."""
    objective = np.asarray(_climb(case).sweeps(case.prior_globals("em"), case.args())[1])
    if not np.isfinite(objective).all():
        raise Fault(f"the objective is not finite at sweep {int(np.argmin(np.isfinite(objective)))}")
    drop = float(np.max(-np.diff(objective), initial=0.0))
    if drop > 1e-8 * (1.0 + np.abs(objective).max()):
        raise Fault(f"a sweep lowers the log joint by {drop:.2g} nats per datum")
    return f"{SWEEPS} sweeps from a prior draw, {objective[0]:.4f} to {objective[-1]:.4f} nats per datum, no step down"


def check_gibbs(case: Case) -> str:
    """Joint-distribution test: sweeps started at draws from p(globals, c, x) must leave the globals at their prior.

    Geweke (2004) compares moments of one long chain that redraws the data with prior moments; here each replicate is
    a new draw followed by a few sweeps, so that replicates are independent and the paired z scores are exact in the
    limit.
    """
    plan = case.plan
    case.needs_no_networks()
    if not plan.globals:
        raise Skip("the program has no global to draw")
    case.needs_shared_globals()
    args = case.args(_FEW_ROWS)
    replicates = _REPLICATES if not plan.others else _REPLICATES // 8
    engine, one = Gibbs(num_samples=1, num_warmup=0), jnp.ones(())
    simulate = case.simulate

    def replicate(key: Array) -> tuple[dict, dict, Array]:
        draw_key, init_key = jax.random.split(key)
        values, fresh = simulate(draw_key, args)
        before = {name: values[name] for name in plan.globals}
        data = Data(fresh, None, None)
        state = engine.init(plan, Start(before, plan.params), data, key=init_key)

        def sweep(state: Any, _: None) -> tuple[Any, Array]:
            state, info = engine.step(plan, state, data, Schedule(one, one))
            return state, info.objective

        state, objective = jax.lax.scan(sweep, state, None, length=3)
        return before, state.globals, objective

    keys = jax.random.split(case.key("gibbs"), replicates)
    before, after, objective = jax.device_get(jax.jit(lambda k: jax.lax.map(replicate, k, batch_size=250))(keys))
    pairs = {"log joint": (objective[:, :1], objective[:, -1:])}
    for name in plan.globals:
        free = jax.vmap(biject_to(plan.supports[name]).inv)
        flat = [np.asarray(free(jnp.asarray(v[name]))).reshape(replicates, -1) for v in (before, after)]
        pairs[name] = (flat[0], flat[1])
    scores = {name: _paired_scores(*pair) for name, pair in pairs.items()}
    count = sum(score.size for score in scores.values())
    limit = float(-ndtri(FALSE_ALARMS / count / 2))
    worst = max(scores, key=lambda name: scores[name].max())
    if not scores[worst].max() < limit:
        raise Fault(
            f"{worst!r} is not left at its distribution: z = {scores[worst].max():.1f}, at most {limit:.1f} is "
            f"expected of a right program (false alarms: {FALSE_ALARMS:g})"
        )
    return f"{count} statistics of {replicates} replicates, largest z = {scores[worst].max():.1f} of {limit:.1f}"


def _paired_scores(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """|z| of the mean differences of two bounded functions of each column: heavy tails have no moments to compare."""
    middle = np.median(before, 0)
    spread = np.maximum(np.subtract(*np.percentile(before, [75, 25], axis=0)), 1e-12)
    first, second = ((values - middle) / spread for values in (before, after))
    scores = []
    for function in (np.tanh, lambda u: u**2 / (1.0 + u**2)):
        difference = function(second) - function(first)
        error = difference.std(0) / math.sqrt(len(difference))
        scores.append(np.abs(difference.mean(0)) / np.maximum(error, 1e-12))
    return np.nan_to_num(np.concatenate(scores), nan=np.inf)


def check_recovery(case: Case) -> str:
    """EM on simulated data must reach the log joint of the truth, from one of a few clustered starts."""
    plan, climb, args = case.plan, _climb(case), case.args()
    values, fresh = jax.device_get(jax.jit(case.simulate)(case.key("recovery"), args))
    truth = {name: as_float(jnp.asarray(values[name])) for name in plan.globals}
    middle = {name: as_float(value) for name, value in plan.initial.items()}
    at_truth = float(climb.sweeps(truth, fresh)[1][0])
    starts = climb.begin(jax.random.split(case.key("starts"), _RESTARTS), middle, fresh)
    best, objective = None, -math.inf
    for i in range(_RESTARTS):
        globals_ = {name: value[i] for name, value in starts.items()}
        for _ in range(5):
            globals_, trajectory = climb.sweeps(globals_, fresh)
        if float(trajectory[-1]) > objective:
            best, objective = globals_, float(trajectory[-1])
    if best is None or objective < at_truth - _RECOVERY_TOLERANCE:
        raise Fault(
            f"on simulated data EM ends at {objective:.4f} nats per datum and the truth has {at_truth:.4f}: the best "
            f"of {_RESTARTS} starts is a poor optimum, or an update is wrong"
        )
    return f"fit {objective:.4f}, truth {at_truth:.4f} nats per datum; {_errors(plan, best, truth, values, fresh)}"


def _errors(plan: Plan, best: dict, truth: dict, values: dict, args: tuple) -> str:
    """How far the fit is from the truth, in terms that do not change when components trade labels."""
    parts = []
    for name in plan.globals:
        found, expected = (np.sort(np.atleast_1d(v[name]), axis=0) for v in (best, truth))
        error = np.sqrt(np.mean((found - expected) ** 2)) / max(np.sqrt(np.mean(expected**2)), 1e-12)
        parts.append(f"{name} {error:.1%}")
    text = "relative error of sorted values: " + ", ".join(parts)
    if not plan.layout.discrete:
        return text
    terms, _ = batch_terms(plan, best, plan.params, Batch(args, {}, {}, None))
    weights = state_log_weights(plan, terms, Batch(args, {}, {}, None))
    states = expect(plan.layout, terms, weights).shares.argmax(1)
    shape = [int(size) for _, size in plan.layout.discrete]
    drawn = np.ravel_multi_index([np.asarray(values[n]).ravel() for n, _ in plan.layout.discrete], shape, order="F")
    found = np.broadcast_to(np.asarray(states), drawn.shape)
    return f"{text}; accuracy of assignments {accuracy(drawn, found):.3f}"
