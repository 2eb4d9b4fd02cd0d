"""The GMM module: classes of codes.

    loc_k ~ Normal(0, 3),  P_k ~ Wishart(d + 2, I / s^2)  or  tau_kj ~ Gamma(3/2, s^2 / 2);  codes in units of their own
    w ~ Dirichlet(1, ..., 1)         where `weighted`, and no module below has c; else uniform
    c_n ~ Categorical(w)
    z_n ~ Normal(loc_c, P_c^-1)

The prior of a class that modules downstream share is theirs, so w is uniform then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.checks import check_positive_int
from vmix.compose.module import (
    CLASSES,
    CODES,
    VALUES,
    Belief,
    GraphError,
    Inputs,
    Module,
    from_above,
    from_below,
    log,
    normalised,
    potentials_for,
)
from vmix.compose.program_module import log_evidence
from vmix.engine import Data, Schedule, Start
from vmix.first_responsibilities import start_responsibilities
from vmix.inference import EM
from vmix.log_joint import Batch
from vmix.plan import Plan, make_plan

# a quarter of the sweeps at each temperature's end is enough to settle; chosen by the objective
FIRST_BETA, RISE = 0.2, 0.6
PLAN_ROWS = 256
ENGINE = EM()


@dataclass(frozen=True, kw_only=True)
class Components:
    """The program of the GMM module: codes z of unit spread, shape (N, d)."""

    num_components: int
    covariance: str
    weighted: bool

    def model(self, z: Array) -> None:
        """The generative story."""
        k, d = self.num_components, z.shape[1]
        spread = k ** (-1.0 / d)
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(k))) if self.weighted else jnp.full(k, 1.0 / k)
        loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([k, d]).to_event(2))
        if self.covariance == "diagonal":
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5 * spread**2).expand([k, d]).to_event(2))
        else:
            rate = spread**2 * jnp.eye(d)
            p = numpyro.sample("precision", dist.Wishart(d + 2.0, rate_matrix=rate).expand([k]))
        with numpyro.plate("data", z.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            if self.covariance == "diagonal":
                numpyro.sample("z", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])).to_event(1), obs=z)
            else:
                numpyro.sample("z", dist.MultivariateNormal(loc[c], precision_matrix=p[c]), obs=z)


class Climb(NamedTuple):
    """Several runs side by side.

    Attributes:
        globals: values of the globals, each with the runs in front.
        objective: of each run's last sweep, nats per datum, shape (runs,).
    """

    globals: dict[str, Array]
    objective: Array


class GMM(Module):
    """Gaussian mixture as a module, fitted by annealed EM with restarts, the likeliest kept.

    Args:
        num_components: K.
        covariance: "full" or "diagonal".
        weighted: whether classes have weights of their own, where no module below shares them; they are alike
            by default (with weights, annealing lets classes die, and the objective ends lower).
        restarts: runs from random starts at an update without messages from below, beside one that goes on from the
            last classes; with messages there is that one alone.
        sweeps: of EM, at each update; annealed over the first part where the start is random.
        name: a name for files and messages.
        category: labels of the rows, for reporting only.
    """

    kind = "gmm"
    accepts = (CODES, VALUES)
    sends = CLASSES

    def __init__(
        self,
        num_components: int,
        *,
        covariance: str = "full",
        weighted: bool = False,
        restarts: int = 16,
        sweeps: int = 100,
        name: str | None = None,
        category: Any = None,
    ) -> None:
        super().__init__(name=name, category=category)
        for value, label in ((num_components, "num_components"), (restarts, "restarts"), (sweeps, "sweeps")):
            check_positive_int(value, label)
        if covariance not in ("full", "diagonal"):
            raise ValueError(f'covariance must be "full" or "diagonal", found {covariance!r}')
        self.num_components, self.covariance, self.weighted = num_components, covariance, bool(weighted)
        self.restarts, self.sweeps = restarts, sweeps

    @property
    def num_values(self) -> int:
        """K."""
        return self.num_components

    def settings(self) -> dict[str, Any]:
        """The options to make this module again."""
        return {n: getattr(self, n) for n in ("num_components", "covariance", "weighted", "restarts", "sweeps", "name")}

    def learn(self, inputs: Inputs, seed: int) -> None:
        """EM on the codes, with what came from below as a factor.

        Raises:
            GraphError: for more components than rows.
        """
        data = self.take(from_above(self, inputs))
        if data.num_rows < self.num_components:
            raise GraphError(
                f"{self.name} has {self.num_components} components, but {self.upstream[0].name} sends only "
                f"{data.num_rows} rows; expected at least as many rows: ask for fewer components"
            )
        below = from_below(self, inputs)
        starts, first = self.starts(data, 0 if below is not None else self.restarts, seed)
        message = jnp.zeros(starts.shape[1:]) if below is None else jnp.asarray(below, jnp.float32)
        plan = self.plan_of(data.args[0].shape[1])
        self.keep(_CLIMB(plan, ENGINE, starts, data, message, betas(self.sweeps, first)))

    def take(self, codes: np.ndarray) -> Data:
        """The codes in units of their spread, which is remembered."""
        codes = np.asarray(codes, np.float32)
        spread = np.maximum(codes.std(0), 1e-6 * max(float(np.abs(codes).max()), 1e-6))
        self._frame = {"centre": codes.mean(0), "spread": spread}
        return Data((jnp.asarray((codes - codes.mean(0)) / spread),), None, None)

    def starts(self, data: Data, restarts: int, seed: int) -> tuple[Array, Array]:
        """Soft classes to start from: the last ones, where there are, then random clusterings.

        Returns:
            Responsibilities, shape (runs, N, K), and the first beta of each run.
        """
        found = []
        rows = data.args[0].shape[0]
        if self.belief is not None and self.belief.value.shape[0] == rows:
            found.append(jnp.asarray(self.belief.value, jnp.float32)[None])
        kept = len(found)
        restarts = restarts or (0 if kept else self.restarts)
        if restarts:
            keys = jax.random.split(jax.random.key(seed), restarts)
            random = _CLUSTER(self.plan_of(data.args[0].shape[1]), keys, data)
            # as many runs as later, with the last classes: the program is compiled once
            found.append(random if kept else jnp.concatenate([random, random[:1]]))
        first = jnp.asarray([1.0] * kept + [FIRST_BETA] * (sum(map(len, found)) - kept))
        return 0.999 * jnp.concatenate(found) + 0.001 / self.num_components, first

    def keep(self, climb: Climb) -> None:
        """Take the best run's parameters, in the codes' own units."""
        objective = np.asarray(climb.objective)
        best = int(np.argmax(np.where(np.isfinite(objective), objective, -np.inf)))
        self.params = self._frame | {n: np.asarray(v[best]) for n, v in climb.globals.items()}

    def infer(self, inputs: Inputs) -> Belief:
        """Responsibilities given the codes and the messages from below."""
        codes, below = inputs[self.upstream[0]], from_below(self, inputs)
        if codes is None:
            evidence = np.zeros((1 if below is None else len(below), self.num_components)) + self._log_weights()
        else:
            evidence = self._evidence(codes)
        # a shared class has its prior below; until that is heard of, all classes are alike
        prior = -np.log(self.num_components) if below is None and "w" not in self.settled(self.params) else below
        value, total = normalised(evidence if prior is None else evidence + prior)
        return Belief(value, evidence, float(total.mean()))

    def _evidence(self, codes: np.ndarray) -> np.ndarray:
        """log w_k N(z_n | k), without w where the class is shared, in the codes' own units, nats, shape (N, K)."""
        params = self.settled(self.params)
        frame = {n: params[n] for n in ("centre", "spread")}
        z = jnp.asarray((np.asarray(codes, np.float32) - frame["centre"]) / frame["spread"])
        globals_ = {n: jnp.asarray(v) for n, v in params.items() if n not in frame}
        found = np.asarray(_LOOK(self.plan_of(z.shape[1]), globals_, {}, (z,)), np.float64)
        uniform = 0.0 if "w" in params else np.log(self.num_components)
        return found + uniform - np.log(frame["spread"].astype(np.float64)).sum()

    def _log_weights(self) -> np.ndarray:
        params = self.settled(self.params)
        return log(params["w"]) if "w" in params else np.zeros(self.num_components)

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """To a module upstream the mean of each row's class, sum_k r_nk mu_k; downstream log potentials of the class.

        With cavity messages the potentials leave out what the receiver itself said; in the manner of the original
        they are the log responsibilities, which have it in them once more.
        """
        if other in self.upstream:
            params = self.settled(self.params)
            means = params["centre"] + params["spread"] * params["loc"]
            return (belief.value @ means).astype(np.float32)
        if self.messages == "serket":
            return log(belief.value)
        return potentials_for(self, belief, inputs, other)

    def plan_of(self, width: int) -> Plan:
        """The plan for codes of `width` columns."""
        shared = any(CLASSES in m.accepts for m in self.downstream)
        program = Components(
            num_components=self.num_components, covariance=self.covariance, weighted=self.weighted and not shared
        )
        return _planned(program, width)


@lru_cache(maxsize=16)
def _planned(program: Components, width: int) -> Plan:
    """The plan depends on shapes alone, so any data of unit spread will do."""
    points = np.random.default_rng(0).normal(size=(PLAN_ROWS, width)).astype(np.float32)
    return make_plan(program, (points,), key=jax.random.key(0))


def cluster(plan: Plan, keys: Array, data: Data) -> Array:
    """Soft classes from a k-means for each key, shape (runs, N, K)."""
    batch, start = Batch(data.args, {}, {}), Start(plan.initial, {})
    return jax.lax.map(lambda k: start_responsibilities(plan, start, batch, key=k, clusters="k-means"), keys)


def betas(sweeps: int, first: Array) -> Array:
    """The tempering of each sweep and run, shape (sweeps, runs): `first` at sweep 0, 1 from three fifths on."""
    rise = jnp.clip(jnp.arange(sweeps) / max(int(RISE * sweeps), 1), 0.0, 1.0)[:, None]
    return first + (1.0 - first) * rise


def em_states(plan: Plan, engine: EM, data: Data, runs: int) -> Any:
    """The engine's states at the middle of the prior, the same for every run."""
    state = engine.init(plan, Start(plan.initial, {}), data, key=jax.random.key(0))  # EM on all rows draws nothing
    return jax.tree.map(lambda a: jnp.broadcast_to(a, (runs, *a.shape)), state)


def em_sweep(plan: Plan, engine: EM, states: Any, data: Data, messages: Array, beta: Array) -> tuple[Any, Array]:
    """One sweep of every run: its own message (runs, N, K) and beta (runs,)."""
    plan = replace(plan, num_rows=data.num_rows)  # it was made on a sample

    def one(run: tuple) -> tuple[Any, Array]:
        state, message, beta = run
        held = data._replace(labels={"c": message})
        state, info = engine.step(plan, state, held, Schedule(beta, jnp.ones(())))
        return state, info.objective

    # one after another: side by side they share little, as factorisations go matrix by matrix on a CPU (vmix/lapack.py)
    return jax.lax.map(one, (states, messages, beta))


def climb(plan: Plan, engine: EM, starts: Array, data: Data, message: Array, betas: Array) -> Climb:
    """EM from soft classes, a message fixed: a first update on the start alone, then a sweep for each beta."""
    runs = starts.shape[0]
    states = em_states(plan, engine, data, runs)
    states, objective = em_sweep(plan, engine, states, data, jnp.log(starts), jnp.zeros(runs))
    messages = jnp.broadcast_to(message, starts.shape)

    def sweep(i: Array, carry: tuple) -> tuple:
        return em_sweep(plan, engine, carry[0], data, messages, betas[i])

    states, objective = jax.lax.fori_loop(0, betas.shape[0], sweep, (states, objective))
    return Climb(states.globals, objective)


def together(
    plan: Plan, engine: EM, starts: Array, data: Data, betas: Array, partner: Any, below: Callable
) -> tuple[Climb, Any]:
    """A mixture and the module below it by messages, several runs side by side: each sweep one up and one down.

    Evidence goes up, the cavity comes down, and each moves its own parameters on its own statistics: one sweep of EM
    on the joint model, so the total evidence (with the priors) never falls once beta is 1.

    Args:
        plan: of the mixture.
        engine: of the mixture.
        starts: soft classes to start from, shape (runs, N, K).
        data: the codes.
        betas: weight of the mixture's evidence, shape (sweeps, runs).
        partner: the other module's parameters, runs leading.
        below: (sweep, partner, evidence) to the partner updated, its messages (runs, N, K), and the total evidence of
            each run in nats per datum.

    Returns:
        The mixtures with the total evidence, and the partners.
    """
    runs = starts.shape[0]
    states, _ = em_sweep(plan, engine, em_states(plan, engine, data, runs), data, jnp.log(starts), jnp.zeros(runs))

    def sweep(i: Array, carry: tuple) -> tuple:
        states, partner, _ = carry
        evidence = jax.lax.map(lambda g: log_evidence(plan, g, {}, data.args), states.globals)
        partner, cavity, total = below(i, partner, betas[i][:, None, None] * evidence)
        states, _ = em_sweep(plan, engine, states, data, cavity, betas[i])
        return states, partner, total

    states, partner, total = jax.lax.fori_loop(0, betas.shape[0], sweep, (states, partner, jnp.zeros(runs)))
    return Climb(states.globals, total), partner


_CLUSTER = jax.jit(cluster, static_argnums=0)
_CLIMB = jax.jit(climb, static_argnums=(0, 1))
_LOOK = jax.jit(log_evidence, static_argnums=0)
