"""Expectation-maximisation: exact responsibilities, closed-form modes, gradients for the rest.

A sweep is

    r_nk ∝ p(c_n = k | theta) exp E_q[log p(children_n | c_n = k, theta)]        (E-step, exact)
    S = sum_n r_nk E_q[t(x_n)]                                                   (compression)
    theta_b <- argmax E[log p(theta_b, ...)]   for each block b                  (M-step, on S alone)

A latent that every datum has of its own is moved to its mode with the globals, or gets a mean-field factor
(`vmix.mean_field`): then the sweep is one of variational EM (Blei, Ng and Jordan, 2003).

Where there are networks, Optax takes steps on the same free energy over minibatches, with S kept as a running
average over about one pass through the data (Cappe and Moulines, 2009).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from vmix.engine import (
    Data,
    Info,
    Partial,
    Schedule,
    Start,
    annealing,
    check_ramp,
    scaled,
    shuffled_batches,
    sum_over_blocks,
)
from vmix.free_energy import Evaluation, evaluate
from vmix.log_joint import Batch, Expected, dense_children, gather, has_row_priors
from vmix.mean_field import MEAN_FIELD, MODE, check_factors, factorise
from vmix.options import checked
from vmix.plan import Plan
from vmix.program import DISCRETE, GLOBAL, LATENT, NETWORK, ProgramError
from vmix.streaming import refuse_streaming
from vmix.updates import maximise

NETWORK_BATCH = 256
BLOCK_ROWS = 1 << 17  # bounds memory; smaller blocks are slower, for their products use one core


class EMState(NamedTuple):
    """What the next sweep needs.

    Attributes:
        globals: values of the globals; of a site with a mean-field factor, its mean.
        params: network parameters.
        opt_state: of the networks' optimiser.
        running: running statistics, for minibatches.
        key: randomness.
        points: sites with a mean-field factor, at exp(E_q[log theta]), where the E-step takes them.
    """

    globals: dict[str, Array]
    params: dict[str, Any]
    opt_state: Any
    running: Expected | None
    key: Array
    points: dict[str, Array]

    @property
    def values(self) -> dict[str, Array]:
        """The globals as the E-step takes them."""
        return {**self.globals, **self.points}

    @property
    def average(self) -> Expected:
        """The running statistics, which minibatches need.

        Raises:
            ValueError: in a state that was made for sweeps over all rows.
        """
        if self.running is None:
            raise ValueError("this state has no running statistics; make it by init with the same batch_size")
        return self.running


@checked(per_datum=(MODE, MEAN_FIELD), estimate=("map", "ml"), tolerance=0.0)
@dataclass(frozen=True, kw_only=True)
class EM:
    """Expectation-maximisation.

    Args:
        num_sweeps: sweeps at most; a sweep is one pass over the data.
        batch_size: rows a minibatch; None takes all the data, or 256 rows where there are networks.
        estimate: "map" (with the priors of the globals) or "ml" (without; latents of a datum keep theirs).
        per_datum: what a continuous latent gets that every datum has of its own and no encoder infers: "mode", its most
            probable value, or "mean-field", a factor in the family of its complete conditional, which must be a
            Dirichlet. Then the objective is the evidence lower bound, and concentrations may be below 1.
        tolerance: stop when the objective rises by less, nats per datum a sweep; None never stops early.
            Only full-data sweeps without networks are judged.
        learning_rate: of Adam on the networks, decayed by a cosine over all sweeps.
        optimizer: an Optax transformation for the networks in place of Adam.
        restarts: initialisations to run; the one with the best objective is kept.
        anneal: `(first_beta, num_sweeps)`, the likelihood tempered linearly from first_beta up to 1.
    """

    name: ClassVar[str] = "EM"
    step_name: ClassVar[str] = "sweep"

    num_sweeps: int = 200
    batch_size: int | None = None
    estimate: str = "map"
    per_datum: str = MODE
    tolerance: float | None = 1e-6
    learning_rate: float = 1e-3
    optimizer: optax.GradientTransformation | None = None
    restarts: int = 1
    anneal: tuple[float, int] | None = None

    def __post_init__(self) -> None:
        annealing(self.anneal)
        check_ramp("EM(anneal=)", self.anneal and self.anneal[1], "num_sweeps", self.num_sweeps)

    @property
    def num_steps_total(self) -> int:
        """How many sweeps the driver runs at most."""
        return self.num_sweeps

    @property
    def num_states(self) -> int:
        """Restarts run side by side."""
        return self.restarts

    def check(self, plan: Plan, num_rows: int) -> None:
        """Refuse what cannot be done.

        Raises:
            ProgramError: for minibatches where a global's likelihood does not compress or some rows are another
                problem, and for mean-field factors that have no closed form.
        """
        if self.per_datum == MEAN_FIELD:
            check_factors(plan)
        if self._rows(plan, num_rows) < num_rows:
            self._refuse_dense(plan, "cannot take minibatches", f"use EM(batch_size={num_rows}), or SVI")

    def _refuse_dense(self, plan: Plan, what: str, way_out: str) -> None:
        """Refuse globals whose likelihood needs all the data at every update."""
        if plan.needs_all_rows:
            raise ProgramError(f"EM {what}: {plan.needs_all_rows}; {way_out}")
        if plan.names(DISCRETE) and has_row_priors(plan):
            name = plan.names(DISCRETE)[0]
            raise ProgramError(f"EM {what}: the probabilities of site {name!r} differ from datum to datum; {way_out}")
        for name, child in dense_children(plan):
            raise ProgramError(
                f"EM {what}: site {name!r} has the child {child!r}, whose likelihood does not compress "
                f"({plan.reasons.get(child, 'unknown')}); {way_out}"
            )

    def init(self, plan: Plan, start: Start, data: Data, *, key: Array) -> EMState:
        """The first state; with minibatches, one pass gathers the statistics at the start."""
        opt_state = self._optimiser(plan, data.num_rows).init(start.params) if start.params else None
        running = None
        if self._rows(plan, data.num_rows) < data.num_rows:
            running = self._all_statistics(plan, start, data, key)
        names = plan.per_datum if self.per_datum == MEAN_FIELD else ()
        # the first E-step is made at the start itself
        points = {name: start.globals[name] for name in names}
        return EMState(start.globals, start.params, opt_state, running, key, points)

    def step(self, plan: Plan, state: EMState, data: Data, schedule: Schedule) -> tuple[EMState, Info]:
        """One sweep."""
        if self._rows(plan, data.num_rows) < data.num_rows:
            return self._minibatch_sweep(plan, state, data, schedule)
        return self._full_sweep(plan, state, data, schedule)

    def streams(self, plan: Plan) -> str:
        """Data on disk are read in sweeps.

        Raises:
            ProgramError: for programs with networks, or with likelihoods that do not compress.
        """
        if plan.params:
            raise refuse_streaming(self, "it has networks", "use SVI(batch_size=...)")
        self._refuse_dense(plan, "cannot stream this program from disk", "load the data into memory")
        return "sweeps"

    def reduce(self, plan: Plan, state: EMState, rows: Data, schedule: Schedule, chunk: Array | int) -> Partial:
        """The E-step on one chunk."""
        result, _, _ = self._evaluate_and_step(plan, state, rows, schedule, state.key, plan.num_rows)
        return Partial(gather(plan, result.terms, result.assigned, key=None), result.per_datum.sum())

    def apply(
        self, plan: Plan, state: EMState, total: Partial, template: Data, schedule: Schedule
    ) -> tuple[EMState, Info]:
        """The M-step on the sums of all chunks."""
        result, _, _ = self._evaluate_and_step(plan, state, template, schedule, state.key, plan.num_rows)
        return self._finish_sweep(plan, state, total, result, plan.num_rows)

    def estimate_of(self, plan: Plan, state: EMState) -> Start:
        """The globals and networks of a state."""
        return Start(state.globals, state.params)

    def takes_steps(self, plan: Plan) -> bool:
        """Whether there is a step size: that of the networks' optimiser."""
        return bool(plan.params)

    def with_smaller_steps(self, plan: Plan, factor: float) -> EM:
        """The same engine with steps of the networks `factor` times as large; its states are the same."""
        if self.optimizer is not None:
            return replace(self, optimizer=scaled(self.optimizer, factor))
        return replace(self, learning_rate=factor * self.learning_rate)

    def update_rule(self, plan: Plan, name: str) -> tuple[str, str]:
        """The update a site gets, and whether it is exact."""
        site = plan.sites[name]
        if site.role == DISCRETE:
            return "responsibilities, all values enumerated", "exact"
        if site.role == LATENT and site.has_encoder:
            closed = name in plan.frames
            return "encoder's moments E_q[t(z)]" if closed else "one draw from the encoder", "variational"
        if site.role == LATENT and self.per_datum == MEAN_FIELD:
            return f"mean-field factor, {plan.conditionals[name].name}", "variational"
        if site.role in (GLOBAL, LATENT):
            if name in plan.conditionals:
                return f"closed-form mode, {plan.conditionals[name].name}", "exact"
            return "L-BFGS on the expected log joint", "numerical"
        if site.role == NETWORK:
            return "Optax on the free energy", "stochastic"
        return "one matrix product" if name in plan.frames else "evaluated in full", "exact"

    def _rows(self, plan: Plan, num_rows: int) -> int:
        default = plan.layout.rows_for(NETWORK_BATCH) if plan.names(NETWORK) else num_rows
        return min(self.batch_size or default, num_rows)

    def _optimiser(self, plan: Plan, num_rows: int) -> optax.GradientTransformation:
        if self.optimizer is not None:
            return self.optimizer
        batches = max(num_rows // self._rows(plan, num_rows), 1)
        rate = optax.cosine_decay_schedule(self.learning_rate, self.num_sweeps * batches, alpha=0.01)
        return optax.chain(optax.clip_by_global_norm(100.0), optax.adam(rate, eps=1e-4))

    def _full_sweep(self, plan: Plan, state: EMState, data: Data, schedule: Schedule) -> tuple[EMState, Info]:
        if not state.params and self._is_reducible(plan, state, data, schedule):
            size = plan.layout.rows_for(BLOCK_ROWS)
            total = sum_over_blocks(lambda rows: self.reduce(plan, state, rows, schedule, 0), data, block_rows=size)
            return self.apply(plan, state, total, data.rows(0, min(2, data.num_rows)), schedule)
        key, draw_key = jax.random.split(state.key)
        before = state.params
        result, params, opt_state = self._evaluate_and_step(plan, state, data, schedule, draw_key, data.num_rows)
        expected = gather(plan, result.terms, result.assigned, key=None)
        state = state._replace(params=params, opt_state=opt_state, key=key)
        if state.points:
            factors, result = factorise(plan, state.values, before, result, expected)
            state = state._replace(globals={**state.globals, **factors.means}, points=factors.points)
        total = Partial(expected, result.per_datum.sum())
        return self._finish_sweep(plan, state, total, result, data.num_rows)

    def _is_reducible(self, plan: Plan, state: EMState, data: Data, schedule: Schedule) -> bool:
        """Whether sums of statistics are all that the M-step needs of the data."""
        if plan.needs_all_rows or plan.per_datum:
            return False
        shapes = jax.eval_shape(lambda rows: self.reduce(plan, state, rows, schedule, 0), data)
        return shapes.expected.responsibilities is None and all(
            child in {*plan.frames, *shapes.expected.augmented, *plan.names(DISCRETE), *plan.global_terms}
            for name in plan.globals
            for child in plan.sites[name].children
        )

    def _finish_sweep(
        self, plan: Plan, state: EMState, total: Partial, result: Evaluation, num_rows: int
    ) -> tuple[EMState, Info]:
        objective = (self._log_prior(result) + total.log_evidence) / num_rows
        globals_ = self._m_step(plan, state, result.batch, total.expected)
        return state._replace(globals=globals_), Info(objective, {}, {})

    def _minibatch_sweep(self, plan: Plan, state: EMState, data: Data, schedule: Schedule) -> tuple[EMState, Info]:
        num_rows = data.num_rows
        size = self._rows(plan, num_rows)
        key, order_key, draw_key = jax.random.split(state.key, 3)
        order = shuffled_batches(num_rows, size, key=order_key)
        keys = jax.random.split(draw_key, order.shape[0])

        def one(carry: EMState, xs: tuple) -> tuple[EMState, Array]:
            index, batch_key = xs
            rows = data.take(index)
            result, params, opt_state = self._evaluate_and_step(plan, carry, rows, schedule, batch_key, num_rows)
            fresh = gather(plan, result.terms, result.assigned, key=None)
            running = blend(carry.average, fresh, weight=size / num_rows, scale=num_rows / size)
            carry = carry._replace(params=params, opt_state=opt_state, running=running)
            globals_ = self._m_step(plan, carry, result.batch, running)
            objective = result.per_datum.mean() + self._log_prior(result) / num_rows
            return carry._replace(globals=globals_), objective

        state, objectives = jax.lax.scan(one, state, (order, keys))
        return state._replace(key=key), Info(objectives.mean(), {}, {})

    def _evaluate_and_step(
        self, plan: Plan, state: EMState, data: Data, schedule: Schedule, key: Array, num_rows: int
    ) -> tuple[Evaluation, dict, Any]:
        """The E-step on some rows, and one Optax step of the networks on minus their mean free energy."""

        def loss(params: Mapping) -> tuple[Array, Evaluation]:
            result = evaluate(
                plan,
                state.values,
                params,
                data.args,
                key=key,
                labels=data.labels,
                known=data.known,
                beta=schedule.beta,
                kl_weight=schedule.kl_weight,
            )
            return -result.per_datum.mean(), result

        if not state.params:
            return loss(state.params)[1], state.params, None
        grads, result = jax.grad(loss, has_aux=True)(state.params)
        updates, opt_state = self._optimiser(plan, num_rows).update(grads, state.opt_state, state.params)
        return result, optax.apply_updates(state.params, updates), opt_state

    def _log_prior(self, result: Evaluation) -> Array | float:
        """The priors' share of the objective: none for maximum likelihood, which does not climb it."""
        return result.log_prior if self.estimate == "map" else 0.0

    def _m_step(self, plan: Plan, state: EMState, batch: Batch, expected: Expected) -> dict[str, Array]:
        """New values of the globals; sites with a mean-field factor stay at its mean."""
        frozen = jax.lax.stop_gradient((state.values, state.params))
        moved = tuple(name for name in plan.globals if name not in state.points)
        found = maximise(plan, *frozen, batch, expected, with_prior=self.estimate == "map", only=moved)
        return found | {name: state.globals[name] for name in state.points}

    def _all_statistics(self, plan: Plan, start: Start, data: Data, key: Array) -> Expected:
        """Statistics of all rows at the start, gathered batch by batch (leftover rows count by proportion)."""
        size = self._rows(plan, data.num_rows)
        order = jnp.arange(data.num_rows // size * size).reshape(-1, size)

        def one(index: Array) -> Expected:
            rows = data.take(index)
            result = evaluate(
                plan, start.globals, start.params, rows.args, key=key, labels=rows.labels, known=rows.known
            )
            return gather(plan, result.terms, result.assigned, key=None)._replace(responsibilities=None)

        sums = jax.tree.map(lambda a: a.sum(0), jax.lax.map(one, order))
        return jax.tree.map(lambda a: a * (data.num_rows / order.size), sums)


def blend(running: Expected, fresh: Expected, *, weight: float, scale: float) -> Expected:
    """(1 - weight) running + weight * scale * fresh, a decaying average of statistics of the whole data."""
    fresh = fresh._replace(responsibilities=None)
    return jax.tree.map(lambda old, new: (1.0 - weight) * old + weight * scale * new, running, fresh)
