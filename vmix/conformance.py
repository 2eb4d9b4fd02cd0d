"""`vmix.check_program`: does a program mean what the library takes it to mean?

Every check compares the library's fast path with something slow and independent: NumPyro's own log density for one
assignment at a time, a sum over all assignments, the joint distribution itself. Numbers are computed in float64.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from scipy.special import ndtri

from vmix.compilation import jit
from vmix.engine import Data, Schedule, Start
from vmix.explaining import Explanation, explain_plan
from vmix.fitting import check_arrays, prepare
from vmix.inference import EM, Gibbs
from vmix.log_joint import Batch, batch_terms, gather, site_density, state_log_weights
from vmix.metrics import accuracy
from vmix.numerics import log_normalise
from vmix.plan import Plan, make_plan
from vmix.program import LATENT, NETWORK, OBSERVED, Program, ProgramError, as_program
from vmix.starting import start_responsibilities
from vmix.updates import maximise

FALSE_ALARMS = 1e-3
"""How often the joint-distribution test fails a right program, over all its statistics together."""
TOLERANCE = 1e-5
SWEEPS = 20
_RESTARTS = 4
_MAX_ASSIGNMENTS = 512
_REPLICATES = 2000
_FEW_ROWS = 8
_MAX_ROWS = 500
_RECOVERY_TOLERANCE = 1e-3

_SINGLE = ("repeatable", "plan", "gibbs")
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Check(NamedTuple):
    """One check: its name, what came of it ("passed", "failed", "skipped"), why in words, and its seconds."""

    name: str
    status: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Conformance:
    """What `check_program` found; true where nothing failed.

    Attributes:
        program: name of the program.
        plan: the plan under EM; None where there is none.
        checks: one record a check, in order.
    """

    program: str
    plan: Explanation | None = field(repr=False)
    checks: tuple[Check, ...]

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == FAILED)

    def __str__(self) -> str:
        lines = [str(self.plan)] if self.plan is not None else []
        lines += [_line(check) for check in self.checks]
        count = {status: sum(c.status == status for c in self.checks) for status in (PASSED, FAILED, SKIPPED)}
        return "\n".join([*lines, f"{self.program}: " + ", ".join(f"{n} {status}" for status, n in count.items())])


class _Skip(Exception):
    """A check does not apply; the message says why."""


class _Fault(Exception):
    """A check found a fault; the message says which."""


def check_program(program: Any, *data: Any, seed: int, verbose: bool = True) -> Conformance:
    """Check a program against slow, independent computations.

    The checks: the program is a fixed density (`repeatable`); it can be planned (`plan`); rows are independent
    (`rows`); discrete sites are summed out right (`enumeration`); recognised conditionals are those of NumPyro's own
    log density (`conditionals`); EM never lowers the log joint (`em`); Gibbs leaves the joint distribution as it is
    (`gibbs`, after Geweke 2004); EM on simulated data does at least as well as the truth (`recovery`).

    Args:
        program: a NumPyro function of the data arrays, or a record with `model` (and `guide`).
        *data: the data arrays; a few hundred rows are enough, and no more than 500 are used.
        seed: of every random choice; a right program fails the `gibbs` check for one seed in a thousand.
        verbose: print the plan, and each check as it is done.

    Returns:
        The record: `bool(result)`, `result.checks`, `print(result)`.

    Raises:
        ValueError: for data that cannot be used.
    """
    arrays = tuple(array[:_MAX_ROWS] for array in check_arrays(data, missing=None))
    wrapped = prepare(program, arrays) if _settles(program) else as_program(program)
    case = _Case(wrapped, arrays, seed)
    checks: list[Check] = []
    for name, run in _CHECKS.items():
        check = _run(name, run, case)
        checks.append(check)
        if verbose:
            if name == "plan" and check.status == PASSED:
                print(case.explanation)
            print(_line(check), flush=True)
        if name in ("repeatable", "plan") and check.status == FAILED:
            break
    planned = case.explanation if any(c.name == "plan" and c.status == PASSED for c in checks) else None
    return Conformance(wrapped.name, planned, tuple(checks))


def _settles(program: Any) -> bool:
    return callable(getattr(as_program(program).source, "with_data", None))


def _line(check: Check) -> str:
    return f"{check.status:8}{check.name:14}{check.detail} ({check.seconds:.1f} s)"


def _run(name: str, function: Callable[[_Case], str], case: _Case) -> Check:
    began = time.perf_counter()
    try:
        # the plan is judged in the precision of a fit, and draws need no more
        with numpyro.validation_enabled(False), jax.enable_x64(name not in _SINGLE):
            status, detail = PASSED, function(case)
    except _Skip as reason:
        status, detail = SKIPPED, str(reason)
    except (_Fault, ProgramError) as reason:
        status, detail = FAILED, str(reason)
    except Exception as error:  # whatever a user's program raises is a finding, not the end of the other checks
        status, detail = FAILED, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return Check(name, status, detail, time.perf_counter() - began)


class _Case:
    """A program with its data, and what several checks share."""

    def __init__(self, program: Program, arrays: tuple, seed: int) -> None:
        self.program, self.arrays, self.seed = program, arrays, seed

    def key(self, name: str) -> Array:
        """A key for one purpose."""
        return jax.random.fold_in(jax.random.key(self.seed), sum(map(ord, name)))

    @cached_property
    def plan(self) -> Plan:
        return make_plan(self.program, self.arrays, key=self.key("plan"))

    @cached_property
    def explanation(self) -> Explanation:
        return explain_plan(self.plan, EM())

    def args(self, num_rows: int | None = None) -> tuple:
        """The first rows, on the device, floats in the default precision."""
        return tuple(_cast(jnp.asarray(a[:num_rows])) for a in self.arrays)

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
            _Skip: where a site observes something else, so that data cannot be simulated.
        """
        found: dict[str, int | None] = {}

        def look(key: Array, *args: Array) -> None:
            trace = handlers.trace(handlers.seed(self.program.model, key)).get_trace(*args)
            for name in self.plan.names(OBSERVED):
                found[name] = next((i for i, a in enumerate(args) if trace[name]["value"] is a), None)

        jax.eval_shape(look, self.key("sources"), *self.arrays)
        unknown = [name for name, index in found.items() if index is None]
        if unknown:
            raise _Skip(f"site {unknown[0]!r} observes something computed from the data, so data cannot be simulated")
        if any(site.family == "Unit" for site in self.plan.sites.values()):
            raise _Skip("the program has a numpyro.factor, so data cannot be simulated from it")
        return {name: index for name, index in found.items() if index is not None}

    def needs_no_networks(self) -> None:
        """Skip a check that does not apply to programs with networks or encoders."""
        if self.plan.names(NETWORK) or self.plan.latents:
            raise _Skip("the program has networks or an encoder; this check is for exact updates")

    def needs_shared_globals(self) -> None:
        """Skip a check that changes the number of rows where each row has a latent of its own."""
        if self.plan.layout.data_dim is None:
            raise _Skip("the program has no data plate")
        if self.plan.per_datum:
            raise _Skip(f"site {self.plan.per_datum[0]!r} has a value for each row and no encoder")

    def prior_globals(self, name: str) -> dict[str, Array]:
        """A draw of the globals from their prior, in the default precision."""
        return {n: _cast(v) for n, v in self._draw_prior(self.key(name), self.args()).items()}

    @cached_property
    def _draw_prior(self) -> Callable[[Array, tuple], dict[str, Array]]:
        def draw(key: Array, args: tuple) -> dict[str, Array]:
            trace = handlers.trace(handlers.seed(self.program.model, key)).get_trace(*args)
            return {n: trace[n]["value"] for n in self.plan.globals}

        return jit(draw)

    @cached_property
    def evidence(self) -> Callable[[dict, Batch], tuple[Array, Array]]:
        """Compute log p(x_n, z_n | globals) by the library, shape (N,), and log p(globals)."""
        plan = self.plan

        def compute(globals_: dict, batch: Batch) -> tuple[Array, Array]:
            terms, prior = batch_terms(plan, globals_, plan.params, batch)
            total = log_normalise(state_log_weights(plan, terms, batch))[1] + terms.base()
            return jnp.broadcast_to(total, batch.args[0].shape[:1]), prior

        return jit(compute)

    def latents(self, num_rows: int) -> dict[str, Array]:
        """Draws of the latents with an encoder from standard Normals, moved into their supports."""
        drawn = {}
        for i, name in enumerate(n for n, s in self.plan.sites.items() if s.role == LATENT and s.has_encoder):
            shape = (num_rows, *self.plan.sites[name].shape[1:])
            drawn[name] = jax.random.normal(jax.random.fold_in(self.key("latents"), i), shape)
        return drawn


def _cast(array: Array) -> Array:
    return array.astype(jnp.result_type(float)) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _replaced(args: tuple, values: Mapping[str, Array], sources: Mapping[str, int]) -> tuple:
    new = list(args)
    for name, index in sources.items():
        new[index] = values[name].reshape(args[index].shape).astype(args[index].dtype)
    return tuple(new)


def _repeatable(case: _Case) -> str:
    """The same values must have the same log density, site by site, at every call and under every key."""

    def run(key: Array, values: dict, args: tuple) -> dict[str, Array]:
        seeded = handlers.substitute(handlers.seed(case.program.model, key), data=values)
        trace = handlers.trace(seeded).get_trace(*args)
        return {n: s["fn"].log_prob(s["value"]) for n, s in trace.items() if s["type"] == "sample"}

    def every(one: Array, other: Array, args: tuple) -> list[dict]:
        # traced three times, and compiled once: what Python changes from call to call is a constant of each trace
        trace = handlers.trace(handlers.seed(case.program.model, one)).get_trace(*args)
        fixed = {n: s["value"] for n, s in trace.items() if s["type"] in ("sample", "param") and not _observed(s)}
        return [run(key, fixed, args) for key in (one, one, other)]

    runs = jax.device_get(jit(every)(case.key("one"), case.key("another"), case.args()))
    for again in runs[1:]:
        if list(again) != list(runs[0]):
            raise _Fault(f"the program's sites change from call to call: {sorted(set(again) ^ set(runs[0]))}")
        for name, value in again.items():
            if _gap(value, runs[0][name]) > TOLERANCE:
                raise _Fault(
                    f"the log density of site {name!r} changes from call to call at the same values; a program must "
                    "not keep state or draw numbers outside of its sample statements"
                )
    return f"{len(runs[0])} sites have the same log density in 3 runs, 2 keys"


def _observed(site: dict) -> bool:
    return site["type"] == "sample" and site["is_observed"]


def _planned(case: _Case) -> str:
    plan = case.plan
    exact = [name for name in plan.globals if name in plan.conditionals]
    return f"{len(plan.sites)} sites; {len(exact)} of {len(plan.globals)} globals have a recognised conditional"


def _rows(case: _Case) -> str:
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
    gap = max(_gap(first, all_rows[:half]), _gap(reverse[::-1], all_rows))
    if gap > TOLERANCE:
        raise _Fault(
            f"a row's log density depends on which other rows are there (by {gap:.2g} of its size); what stands inside "
            "the data plate must use its own row only: look for sums, means or sorting over the data"
        )
    if _gap(prior, prior_of_half) > TOLERANCE:
        raise _Fault("the log density outside the data plate depends on the data; move it inside, one term each datum")
    return f"{num_rows} rows say the same in halves and in reverse, to {gap:.1g}"


def _gap(found: Any, expected: Any) -> float:
    """Largest error relative to 1 + |expected|; equal infinities agree, NaN does not."""
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    with np.errstate(invalid="ignore"):
        error = np.where(found == expected, 0.0, np.abs(found - expected) / (1.0 + np.abs(expected)))
    return float(np.max(np.where(np.isnan(error), np.inf, error), initial=0.0))


def _log_joint(plan: Plan, args: tuple, values: Mapping[str, Array], states: Array) -> Array:
    """NumPyro's own log density of the program with each datum's joint state fixed, in nats."""
    model = handlers.seed(plan.program.model, jax.random.key(0))  # every site is fixed: only networks read the key
    column = (-1,) + (1,) * (-(plan.layout.data_dim or -1) - 1)
    fixed = {n: v[states].reshape(column) for n, v in plan.layout.state_values().items()}
    return log_density(model, args, {}, {**values, **fixed, **plan.params})[0]


def _enumeration(case: _Case) -> str:
    """The library's sum over discrete sites against a sum over all assignments of a few rows."""
    plan = case.plan
    if not plan.layout.discrete:
        raise _Skip("the program has no discrete site")
    case.needs_shared_globals()
    num_states = plan.layout.num_states
    num_rows = min(max(int(math.log(_MAX_ASSIGNMENTS) / math.log(max(num_states, 2))), 1), 4, len(case.arrays[0]))
    args, globals_, latents = case.args(num_rows), case.prior_globals("enumeration"), case.latents(num_rows)
    grid = np.stack(np.meshgrid(*[np.arange(num_states)] * num_rows, indexing="ij"), -1).reshape(-1, num_rows)
    values = {**globals_, **latents}
    every = jit(lambda v, a, s: jax.lax.map(partial(_log_joint, plan, a, v), s))(values, args, jnp.asarray(grid))
    naive = float(jax.scipy.special.logsumexp(every))
    evidence, prior = jax.device_get(case.evidence(globals_, Batch(args, latents, {}, None)))
    gap = _gap(evidence.sum() + prior, naive)
    if gap > TOLERANCE:
        raise _Fault(f"the enumerated log density is {evidence.sum() + prior:.6g}, the naive sum {naive:.6g} nats")
    return f"{len(grid)} assignments of {num_rows} rows sum to the enumerated log density, to {gap:.1g}"


def _conditionals(case: _Case) -> str:
    """Differences of each recognised conditional against differences of NumPyro's log density."""
    plan = case.plan
    if not plan.conditionals:
        raise _Skip("no global has a recognised conditional")
    num_rows = min(len(case.arrays[0]), 50) if not plan.per_datum else len(case.arrays[0])
    args, latents = case.args(num_rows), case.latents(num_rows)
    globals_ = case.prior_globals("conditionals")
    states = jax.random.randint(case.key("states"), (num_rows,), 0, plan.layout.num_states)
    gaps = {name: _conditional_gap(case, name, globals_, Batch(args, latents, {}, None), states)
            for name in plan.conditionals}  # fmt: skip
    worst = max(gaps, key=gaps.__getitem__)
    if gaps[worst] > TOLERANCE:
        raise _Fault(
            f"the conditional of {worst!r} ({plan.conditionals[worst].name}) differs from the log density by "
            f"{gaps[worst]:.2g} of its size"
        )
    return f"{len(gaps)} conditionals equal the log density at random pairs of points, to {gaps[worst]:.1g}"


def _conditional_gap(case: _Case, name: str, globals_: dict, batch: Batch, states: Array) -> float:
    plan, conditional = case.plan, case.plan.conditionals[name]

    def differences(globals_: dict, batch: Batch, states: Array, noise: Array) -> tuple[Array, Array]:
        terms, _ = batch_terms(plan, globals_, plan.params, batch)
        expected = gather(plan, terms, jax.nn.one_hot(states, plan.layout.num_states))
        density = site_density(plan, name, globals_, plan.params, batch, expected)
        exponent = conditional.solve(density, conditional.probe(globals_[name]))
        points = conditional.scatter(noise, exponent.mode(globals_[name]))
        values = {**globals_, **batch.latents}
        brute = jax.lax.map(lambda at: _log_joint(plan, batch.args, {**values, name: at}, states), points)
        return jnp.diff(jax.lax.map(exponent.log_prob, points)), jnp.diff(brute)

    noise = jax.random.normal(case.key(name), (8, *globals_[name].shape))
    return _gap(*jax.device_get(jit(differences)(globals_, batch, states, noise)))


class _Climb:
    """EM as two compiled functions, for several starts and several data sets of one shape."""

    def __init__(self, case: _Case) -> None:
        self.plan, self.engine = case.plan, EM(num_sweeps=SWEEPS, tolerance=None)
        self.begin, self.sweeps = jit(self._begin), jit(self._sweeps)

    def _begin(self, keys: Array, globals_: dict, args: tuple) -> dict:
        """Globals after one update from clustered data, one start a key."""
        batch = Batch(args, {}, {}, None)
        start = Start(globals_, self.plan.params)

        def one(key: Array) -> dict:
            first = start_responsibilities(self.plan, start, batch, key=key, clusters="k-means")
            terms, _ = batch_terms(self.plan, globals_, self.plan.params, batch)
            return maximise(self.plan, globals_, self.plan.params, batch, gather(self.plan, terms, first))

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


def _climb(case: _Case) -> _Climb:
    case.needs_no_networks()
    if not case.plan.globals:
        raise _Skip("the program has no global to update")
    if "climb" not in case.__dict__:
        case.__dict__["climb"] = _Climb(case)
    return case.__dict__["climb"]


def _em(case: _Case) -> str:
    """No sweep from a prior draw may lower the log joint."""
    objective = np.asarray(_climb(case).sweeps(case.prior_globals("em"), case.args())[1])
    if not np.isfinite(objective).all():
        raise _Fault(f"the objective is not finite at sweep {int(np.argmin(np.isfinite(objective)))}")
    drop = float(np.max(-np.diff(objective), initial=0.0))
    if drop > 1e-8 * (1.0 + np.abs(objective).max()):
        raise _Fault(f"a sweep lowers the log joint by {drop:.2g} nats per datum")
    return f"{SWEEPS} sweeps from a prior draw, {objective[0]:.4f} to {objective[-1]:.4f} nats per datum, no step down"


def _gibbs(case: _Case) -> str:
    """Joint-distribution test: sweeps started at draws from p(globals, c, x) must leave the globals at their prior.

    Geweke (2004) compares moments of one long chain that redraws the data with prior moments; here each replicate is
    a new draw followed by a few sweeps, so that replicates are independent and the paired z scores are exact in the
    limit.
    """
    plan = case.plan
    case.needs_no_networks()
    if not plan.globals:
        raise _Skip("the program has no global to draw")
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
    before, after, objective = jax.device_get(jit(lambda k: jax.lax.map(replicate, k, batch_size=250))(keys))
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
        raise _Fault(
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


def _recovery(case: _Case) -> str:
    """EM on simulated data must reach the log joint of the truth, from one of a few clustered starts."""
    plan, climb, args = case.plan, _climb(case), case.args()
    values, fresh = jax.device_get(jit(case.simulate)(case.key("recovery"), args))
    truth = {name: _cast(jnp.asarray(values[name])) for name in plan.globals}
    middle = {name: _cast(value) for name, value in plan.initial.items()}
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
        raise _Fault(
            f"on simulated data EM ends at {objective:.4f} nats per datum and the truth has {at_truth:.4f}: the best "
            f"of {_RESTARTS} starts is a poor optimum, or an update is wrong"
        )
    return f"fit {objective:.4f}, truth {at_truth:.4f} nats per datum; {_errors(plan, best, truth, values, fresh)}"


def _errors(plan: Plan, best: dict, truth: dict, values: dict, args: tuple) -> str:
    """How far the fit is from the truth, in terms that do not change when components trade labels."""
    parts = []
    for name in plan.globals:
        found, expected = (np.sort(np.asarray(v[name]), axis=0) for v in (best, truth))
        error = np.sqrt(np.mean((found - expected) ** 2)) / max(np.sqrt(np.mean(expected**2)), 1e-12)
        parts.append(f"{name} {error:.1%}")
    text = "relative error of sorted values: " + ", ".join(parts)
    if not plan.layout.discrete:
        return text
    terms, _ = batch_terms(plan, best, plan.params, Batch(args, {}, {}, None))
    states = state_log_weights(plan, terms, Batch(args, {}, {}, None)).argmax(1)
    shape = [int(size) for _, size in plan.layout.discrete]
    drawn = np.ravel_multi_index([np.asarray(values[n]).ravel() for n, _ in plan.layout.discrete], shape, order="F")
    found = np.broadcast_to(np.asarray(states), drawn.shape)
    return f"{text}; accuracy of assignments {accuracy(drawn, found):.3f}"


_CHECKS: dict[str, Callable[[_Case], str]] = {
    "repeatable": _repeatable,
    "plan": _planned,
    "rows": _rows,
    "enumeration": _enumeration,
    "conditionals": _conditionals,
    "em": _em,
    "gibbs": _gibbs,
    "recovery": _recovery,
}
