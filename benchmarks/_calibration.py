"""What simulation-based calibration runs: models with fixed priors, their simulations, and what is ranked.

A study's prior is settled once, on a reference data set, and every simulation is drawn from the settled program; a
model whose prior followed each data set would not be calibrated, and should not be. All simulations are one compiled
program of the engine's own `init` and `step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to

from vmix.conformance_case import Case
from vmix.engine import Data, Schedule, Start
from vmix.inference import SVI, Gibbs
from vmix.log_joint import Batch
from vmix.models import HMM, LDA, MLDA, BernoulliMixture, DirichletProcessMixture, GaussianMixture, MarkovModel
from vmix.plan import Plan
from vmix.program import GLOBAL, OBSERVED, as_program

Values = Mapping[str, Array]
Quantities = Callable[[Values, tuple], dict[str, Array]]
BATCH = 250

_GIBBS = Gibbs(num_samples=1, num_warmup=0)
_AS_IS = Schedule(1.0, 1.0)  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A model with the data that settle its prior, and what is ranked.

    Args:
        model: a record or a program; `with_data` is called once, on `reference`.
        reference: data arrays; their shapes are those of every simulation.
        quantities: functions of the draw and the data that do not change when components trade labels.
        chain: warm-up and thinning that this posterior needs.
        of_latents: quantities of continuous latents, for which SVI has no draws to rank.
    """

    model: Any
    reference: tuple[np.ndarray, ...]
    quantities: Quantities
    chain: Chain = field(default_factory=lambda: Chain())
    of_latents: tuple[str, ...] = ()

    def case(self) -> Case:
        """The settled program with its plan."""
        settle = getattr(self.model, "with_data", None)
        model = settle(*self.reference) if callable(settle) else self.model
        return Case(as_program(model), self.reference, 0)


def replay(case: Case, key: Array, args: tuple, values: Values) -> tuple[dict[str, Array], tuple]:
    """Run the program without data, some sites fixed: an exact draw of the others given them.

    Args:
        case: the program; its observed sites stand for the data arrays in their order, and further arrays (masks) stay.
        key: randomness.
        args: the data arrays; only shapes matter, and totals where a site takes its own from the data.
        values: sites to fix.

    Returns:
        Values of all sites, and the data arrays with the observed sites replaced.
    """
    free = handlers.uncondition(handlers.seed(case.program.model, key))
    fixed = handlers.substitute(free, data={**case.plan.params, **values})
    with numpyro.validation_enabled(False):
        trace = handlers.trace(fixed).get_trace(*args)
    drawn = {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}
    new = list(args)
    for i, name in enumerate(case.plan.names(OBSERVED)):
        new[i] = jnp.where(jnp.isnan(args[i]), jnp.nan, drawn[name]) if case.plan.missing else drawn[name]
        new[i] = new[i].astype(args[i].dtype)
    return drawn, tuple(new)


def log_densities(case: Case, values: Values, args: tuple) -> dict[str, Array]:
    """Log densities that see how a draw's parts hang together, in nats.

    Returns:
        `log p(theta)`, `log p(c | theta)`, `log p(x | c, theta)` and their sum `log joint`; where there is a discrete
        site, also `log p(x | theta)`, in which it is summed out. Latents count with c.
    """
    roles = {name: site.role for name, site in case.plan.sites.items()}
    with numpyro.validation_enabled(False):
        trace = handlers.trace(handlers.substitute(case.program.model, data=dict(values))).get_trace(*args)
    parts = {"log p(theta)": jnp.zeros(()), "log p(c | theta)": jnp.zeros(()), "log p(x | c, theta)": jnp.zeros(())}
    for name, site in trace.items():
        if site["type"] == "sample":
            kind = {GLOBAL: "log p(theta)", OBSERVED: "log p(x | c, theta)"}.get(roles[name], "log p(c | theta)")
            parts[kind] += site["fn"].log_prob(site["value"]).sum()
    found = {**parts, "log joint": sum(parts.values(), jnp.zeros(()))}
    if case.plan.layout.discrete:
        globals_ = {name: values[name] for name in case.plan.globals}
        latents = {name: values[name] for name in case.plan.latents}
        found["log p(x | theta)"] = case.evidence(globals_, Batch(args, latents, {}, None))[0].sum()
    return found


class Sampler(Protocol):
    """Draws from an engine's posterior: a state from data and a start, and from a state so many draws, stacked."""

    def begin(self, plan: Plan, start: Start, data: Data, *, key: Array) -> Any:
        """The state from which draws are taken."""

    def draws(self, plan: Plan, state: Any, data: Data, *, key: Array, read: Callable, number: int) -> Any:
        """What `read` takes from each of so many states of Gibbs, stacked."""


@dataclass(frozen=True, kw_only=True)
class Chain:
    """Draws by Gibbs.

    Args:
        num_warmup: sweeps before the first draw.
        thin: sweeps from one draw to the next.
    """

    num_warmup: int = 200
    thin: int = 10

    def begin(self, plan: Plan, start: Start, data: Data, *, key: Array) -> Any:
        """A chain after its warm-up."""
        return self._sweeps(plan, _GIBBS.init(plan, start, data, key=key), data, self.num_warmup)

    def draws(self, plan: Plan, state: Any, data: Data, *, key: Array, read: Callable, number: int) -> Any:
        """What is read at every `thin`-th sweep."""

        def keep(state: Any, _: None) -> tuple[Any, Any]:
            state = self._sweeps(plan, state, data, self.thin)
            return state, read(state)

        return jax.lax.scan(keep, state, None, length=number)[1]

    def _sweeps(self, plan: Plan, state: Any, data: Data, number: int) -> Any:
        def sweep(_: Array, state: Any) -> Any:
            return _GIBBS.step(plan, state, data, _AS_IS)[0]

        return jax.lax.fori_loop(0, number, sweep, state)


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Draws from SVI's normal factors of the globals, discrete sites from their conditional given those.

    Args:
        num_steps: of SVI, from the start.
    """

    num_steps: int = 1500

    def begin(self, plan: Plan, start: Start, data: Data, *, key: Array) -> Any:
        """The factors, fitted."""
        engine = SVI(num_steps=self.num_steps, guide="normal")

        def step(_: Array, state: Any) -> Any:
            return engine.step(plan, state, data, _AS_IS)[0]

        state = jax.lax.fori_loop(0, self.num_steps, step, engine.init(plan, start, data, key=key))
        return engine.factors_of(plan, state)

    def draws(self, plan: Plan, state: Any, data: Data, *, key: Array, read: Callable, number: int) -> Any:
        """What is read of independent draws."""

        def one(key: Array) -> Any:
            *noise, init_key = jax.random.split(key, len(state) + 1)
            globals_ = {}
            for (name, factor), k in zip(state.items(), noise, strict=True):
                free = factor["loc"] + factor["scale"] * jax.random.normal(k, factor["loc"].shape)
                globals_[name] = biject_to(plan.supports[name])(free)
            return read(_GIBBS.init(plan, Start(globals_, plan.params), data, key=init_key))

        return jax.lax.map(one, jax.random.split(key, number))


def simulate(
    study: Study, *, sampler: Sampler, num_simulations: int, num_draws: int, seed: int, start_at_truth: bool = False
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Truths from the prior, data from them, and draws of the posterior.

    Args:
        study: what is simulated.
        sampler: how draws are made.
        num_simulations: M.
        num_draws: L, kept of each.
        seed: of everything; the same seed gives the same truths and data to every sampler.
        start_at_truth: start there; by default at another draw of the prior.

    Returns:
        Every quantity of the truths, shape (M,), and of the draws, shape (M, L).
    """
    case = study.case()
    plan, template = case.plan, case.args()
    names = [*plan.globals, *(name for name, _ in plan.layout.discrete)]

    def quantities(values: Values, args: tuple) -> dict[str, Array]:
        return {**study.quantities(values, args), **log_densities(case, values, args)}

    def run(key: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        truth_key, start_key, init_key, draw_key = jax.random.split(key, 4)
        truth, args = replay(case, truth_key, template, {})
        elsewhere = truth if start_at_truth else replay(case, start_key, template, {})[0]
        data = Data(args, None, None)
        start = Start({name: elsewhere[name] for name in plan.globals}, plan.params)
        state = sampler.begin(plan, start, data, key=init_key)

        def read(state: Any) -> dict[str, Array]:
            return quantities(values_of(case, state), args)

        draws = sampler.draws(plan, state, data, key=draw_key, read=read, number=num_draws)
        return quantities({name: truth[name] for name in names}, args), draws

    keys = jax.random.split(jax.random.key(seed), num_simulations)
    batch = min(BATCH, num_simulations)
    truth, draws = jax.device_get(jax.jit(partial(jax.lax.map, run, batch_size=batch))(keys))
    return truth, draws


def values_of(case: Case, state: Any) -> dict[str, Array]:
    """The draw of a state: globals, latents, and discrete sites apart (`state.assignments` is their joint value)."""
    values = {**state.globals, **state.latents}
    for name, of_state in case.plan.layout.state_values().items():
        values[name] = jnp.asarray(of_state)[state.assignments]
    return values


def _same(values: Array, first: int, second: int) -> Array:
    """Whether two rows share their component, as a number; a chain's rows are compared step by step."""
    return (values[first] == values[second]).mean()


def _mixture(values: Values, args: tuple) -> dict[str, Array]:
    w, c = values["w"], values["c"]
    found = {"largest weight": w.max(), "smallest weight": w.min(), "rows 0 and 1 together": _same(c, 0, 1)}
    return found | _emission(values)


def _emission(values: Values) -> dict[str, Array]:
    """Of Gaussian components: what the data see through their assignments."""
    c, loc = values["c"], values["loc"]
    precision = jnp.log(values["precision"])
    return {
        "mean location": loc[..., 0].mean(),
        "largest location": loc[..., 0].max(),
        "mean log precision": precision.mean(),
        "largest log precision": precision.max(),
        "mean location of the data": loc[c][..., 0].mean(),
    }


def _bernoulli(values: Values, args: tuple) -> dict[str, Array]:
    w, theta, c = values["w"], values["theta"], values["c"]
    return {
        "largest weight": w.max(),
        "smallest weight": w.min(),
        "rows 0 and 1 together": _same(c, 0, 1),
        "largest probability": theta.max(),
        "mean probability": theta.mean(),
        "mean probability of row 0": theta[c[0]].mean(),
        "weighted probability": (w @ theta)[0],
    }


def _sticks(values: Values, args: tuple) -> dict[str, Array]:
    v, c = values["v"], values["c"]
    used = (c[:, None] == jnp.arange(len(v) + 1)).any(0).sum()
    found = {
        "concentration": values["concentration"],
        "largest stick": v.max(),
        "first stick": v[0],
        "components used": used.astype(float),
        "rows 0 and 1 together": _same(c, 0, 1),
    }
    return found | _emission(values)


def _chain(values: Values, args: tuple) -> dict[str, Array]:
    initial, transition, c = values["initial"], values["transition"], values["c"]
    return {
        "largest initial": initial.max(),
        "trace of the transitions": jnp.trace(transition),
        "largest transition": transition.max(),
        "share of moves": (c[:, 1:] != c[:, :-1]).mean(),
        "rows 0 and 1 together": _same(c, 0, 1),
    } | _emission(values)


def _markov(values: Values, args: tuple) -> dict[str, Array]:
    initial, transition = values["initial"], values["transition"]
    return {"initial": initial[0], "first move": transition[0, 1], "trace": jnp.trace(transition)}


def _topics(*names: str) -> Quantities:
    def found(values: Values, args: tuple) -> dict[str, Array]:
        theta = values["theta"]
        quantities = {
            "rows 0 and 1 together": theta[0] @ theta[1],
            "largest share": theta.max(),
            "purity": jnp.square(theta).sum(1).mean(),
        }
        for name in names:
            phi = values[name]
            quantities |= {f"largest of {name}": phi.max(), f"word 0 of row 0, {name}": (theta @ phi)[0, 0]}
            quantities[f"two topics of {name}"] = (phi @ phi.T).sum() - jnp.square(phi).sum()
        return quantities

    return found


def _reals(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0, 1.5, shape).astype(np.float32)


def _counts(*shape: int, mean: float) -> np.ndarray:
    return np.random.default_rng(0).poisson(mean, shape)


_PRIOR = {"loc": (0.0, 0.0), "scale": (1.5, 1.5), "spread": (1.0, 1.0)}

STUDIES: dict[str, Study] = {
    "GaussianMixture": Study(
        model=GaussianMixture(num_components=3, concentration=4.0, **_PRIOR),
        reference=(_reals(12, 2),),
        quantities=_mixture,
    ),
    "GaussianMixture, full": Study(
        model=GaussianMixture(num_components=2, covariance="full", **_PRIOR),
        reference=(_reals(12, 2),),
        quantities=lambda values, args: _mixture({**values, "precision": _diagonals(values["precision"])}, args),
    ),
    "BernoulliMixture": Study(
        model=BernoulliMixture(num_components=3),
        reference=((_reals(12, 4) > 0).astype(np.float32),),
        quantities=_bernoulli,
    ),
    "DirichletProcessMixture": Study(
        model=DirichletProcessMixture(truncation=5, concentration=None, **_PRIOR),
        reference=(_reals(12, 2),),
        quantities=_sticks,
        # sticks are not exchangeable: a chain has to visit the orders of its components
        chain=Chain(num_warmup=1000, thin=60),
    ),
    "HMM": Study(model=HMM(num_components=2, **_PRIOR), reference=(_reals(3, 6, 2),), quantities=_chain),
    "MarkovModel": Study(model=MarkovModel(num_values=3), reference=(_counts(4, 8, mean=1.0) % 3,), quantities=_markov),
    "LDA": Study(
        model=LDA(num_components=2, topic_concentration=0.8),
        reference=(_counts(6, 5, mean=2.0),),
        quantities=_topics("phi"),
        of_latents=("largest share", "purity"),
    ),
    "MLDA": Study(
        model=MLDA(num_components=2, topic_concentration=0.8),
        reference=(_counts(5, 4, mean=2.0), _counts(5, 3, mean=2.0)),
        quantities=_topics("phi0", "phi1"),
    ),
}


def _diagonals(matrices: Array) -> Array:
    return jnp.diagonal(matrices, axis1=-2, axis2=-1)
