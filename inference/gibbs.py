"""Blocked Gibbs sampling: exact joint draws of discrete sites, conjugate draws, HMC and encoder proposals for the rest.

A sweep draws, each given all the others,

    z_n ~ p(z_n | c_n, x_n)      Metropolis with the encoder as proposal, then MALA      (latents behind a network)
    c_n ~ p(c_n | z_n, x_n)      exactly, every datum at once
    theta_b ~ p(theta_b | S)     exactly, from the sufficient statistics S               (recognised blocks)
    theta_r ~ p(theta_r | S)     NUTS on the compressed log joint                        (the other globals)

During warm-up, networks take Optax steps on the free energy (Monte-Carlo EM); afterwards they are held fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from numpyro.infer.hmc import hmc

from vmix.assignments import Assigned
from vmix.assignments import draw as assign
from vmix.engine import Data, Info, Partial, Schedule, Start, annealing
from vmix.enumeration import LocalTerms
from vmix.free_energy import evaluate
from vmix.inference.latent_moves import LatentMove, move_latents
from vmix.log_joint import Batch, Expected, batch_terms, gather, guide_factors, has_row_priors, state_log_weights
from vmix.options import Range, checked
from vmix.plan import Plan
from vmix.program import DISCRETE, GLOBAL, LATENT, NETWORK, ProgramError
from vmix.streaming import refuse_streaming
from vmix.updates import compresses, constrain, draw, log_jacobian, others_density, unconstrain

NETWORK_BATCH = 256
MAX_TREE_DEPTH = 6
_AFTER_CHUNKS = 2**31 - 1


class GibbsState(NamedTuple):
    """What the next sweep needs.

    Attributes:
        globals: current values.
        params: network parameters.
        assignments: the joint state of the discrete sites of each datum, shape (N,); (N, T) where there are steps.
        latents: draws of the continuous latents.
        moves: step sizes and acceptance of the latents' moves; None without latents.
        hmc: NumPyro's HMC state of the unrecognised globals; None without any.
        opt_state: Optax state of the networks; None without any.
        sweep: sweeps done.
        key: randomness to come.
    """

    globals: dict[str, Array]
    params: dict[str, Any]
    assignments: Array
    latents: dict[str, Array]
    moves: LatentMove | None
    hmc: Any
    opt_state: Any
    sweep: Array
    key: Array


@checked(num_warmup=0, target_acceptance=Range(above=0.0, below=1.0))
@dataclass(frozen=True, kw_only=True)
class Gibbs:
    """Blocked Gibbs sampling.

    Args:
        num_samples: draws kept, after warm-up.
        num_warmup: sweeps before, in which step sizes and networks adapt.
        num_chains: chains side by side.
        restarts: like `num_chains`, but only the chain with the best mean objective is kept.
        anneal: `(first_beta, num_sweeps)`, the likelihood tempered linearly from first_beta up to 1; it must end
            within the warm-up.
        learning_rate: of Adam on the networks during warm-up.
        target_acceptance: of NUTS on the globals that are not conjugate.
    """

    name: ClassVar[str] = "Gibbs"
    step_name: ClassVar[str] = "sweep"

    num_samples: int = 1000
    num_warmup: int = 500
    num_chains: int = 1
    restarts: int = 1
    anneal: tuple[float, int] | None = None
    learning_rate: float = 1e-3
    target_acceptance: float = 0.8

    tolerance: ClassVar[None] = None

    def __post_init__(self) -> None:
        annealing(self.anneal)
        if self.anneal is not None and self.anneal[1] > self.num_warmup:
            raise ValueError(
                f"Gibbs(anneal=) ends after {self.anneal[1]} sweeps, beyond num_warmup={self.num_warmup}; "
                "draws kept while the likelihood is tempered would not be from the posterior: raise num_warmup"
            )
        if self.num_chains > 1 and self.restarts > 1:
            raise ValueError("Gibbs takes num_chains (all kept) or restarts (the best kept), not both")

    @property
    def num_steps_total(self) -> int:
        """Sweeps in all."""
        return self.num_warmup + self.num_samples

    @property
    def num_states(self) -> int:
        """Chains or restarts run side by side."""
        return max(self.num_chains, self.restarts)

    def check(self, plan: Plan, num_rows: int) -> None:
        """Refuse what cannot be done.

        Raises:
            ProgramError: for a latent with an encoder that has no steps beside a discrete site that has.
        """
        steps = plan.layout.num_steps
        for site in (plan.sites[name] for name in plan.latents):
            if steps is not None and (not site.event_dim or site.shape[-site.event_dim] != steps):
                raise ProgramError(
                    f"Gibbs moves latents step by step, but site {site.name!r} has one value for a whole sequence "
                    f"(shape {site.shape}); give it the steps as the first dimension of its event, or use EM or SVI"
                )

    def init(self, plan: Plan, start: Start, data: Data, *, key: Array) -> GibbsState:
        """The first state: latents from the encoder, assignments from their conditional."""
        latent_key, assign_key, hmc_key, key = jax.random.split(key, 4)
        latents, _ = guide_factors(plan, start.params, data.args, key=latent_key)
        batch = Batch(data.args, latents, {}, data.labels, data.known)
        terms, _ = batch_terms(plan, start.globals, start.params, batch)
        weights = _cells_of(plan, state_log_weights(plan, terms, batch), data)
        draw_key, hidden_key = jax.random.split(assign_key)
        assignments, assigned = assign(draw_key, plan.layout, terms, weights)
        expected = gather(plan, terms, assigned, key=hidden_key)
        moves = LatentMove.start() if plan.latents else None
        opt_state = self._optimiser().init(start.params) if start.params else None
        hmc_state = self._start_hmc(plan, start, batch, expected, hmc_key) if plan.others else None
        return GibbsState(
            start.globals, start.params, assignments, latents, moves, hmc_state, opt_state, jnp.zeros((), int), key
        )

    def step(self, plan: Plan, state: GibbsState, data: Data, schedule: Schedule) -> tuple[GibbsState, Info]:
        """One sweep over every block."""
        names = ("next", "latent", "assign", "global", "net", "hidden")
        keys = dict(zip(names, jax.random.split(state.key, len(names)), strict=True))
        warm = state.sweep < self.num_warmup
        latents, moves = state.latents, state.moves
        diagnostics: dict[str, Array] = {}
        if plan.latents:
            latents, moves = move_latents(plan, state, data, key=keys["latent"], adapt=warm, beta=schedule.beta)
            diagnostics |= {"encoder_acceptance": moves.proposal_rate, "mala_acceptance": moves.mala_rate}
        batch = Batch(data.args, latents, {}, data.labels, data.known)
        terms, log_prior = batch_terms(plan, state.globals, state.params, batch)
        weights = _cells_of(plan, state_log_weights(plan, terms, batch, beta=schedule.beta), data)
        assignments, assigned = assign(keys["assign"], plan.layout, terms, weights)
        total = _log_evidence(plan, terms, assigned, data) + log_prior
        expected = gather(plan, terms, assigned, key=keys["hidden"])
        globals_, hmc_state, moved = self._draw_globals(plan, state, batch, expected, schedule, key=keys["global"])
        diagnostics |= moved
        params, opt_state = state.params, state.opt_state
        if state.params:
            params, opt_state = jax.lax.cond(
                warm,
                lambda: self._network_step(plan, state, globals_, data, keys["net"]),
                lambda: (state.params, state.opt_state),
            )
        new = GibbsState(
            globals_, params, assignments, latents, moves, hmc_state, opt_state, state.sweep + 1, keys["next"]
        )
        return new, Info(total / data.num_rows, diagnostics, globals_)

    def streams(self, plan: Plan) -> str:
        """Data on disk are read in sweeps.

        Raises:
            ProgramError: for programs with latents or networks, or with likelihoods that do not compress.
        """
        if plan.params or plan.latents or plan.per_datum:
            raise refuse_streaming(self, "it has latents or networks", "use SVI(batch_size=...)")
        if plan.needs_all_rows:
            raise refuse_streaming(self, plan.needs_all_rows, "load the data into memory")
        if plan.names(DISCRETE) and has_row_priors(plan):
            why = f"the probabilities of site {plan.names(DISCRETE)[0]!r} differ from datum to datum"
            raise refuse_streaming(self, why, "load the data into memory")
        for name, site in plan.sites.items():
            if site.is_local and site.role != DISCRETE and name not in plan.frames:
                raise refuse_streaming(
                    self, f"site {name!r} does not compress ({plan.reasons.get(name)})", "load the data into memory"
                )
        return "sweeps"

    def reduce(self, plan: Plan, state: GibbsState, rows: Data, schedule: Schedule, chunk: Array | int) -> Partial:
        """Assignments of one chunk, drawn and summed at once."""
        key = jax.random.fold_in(state.key, chunk)
        batch = Batch(rows.args, {}, {}, rows.labels, rows.known)
        terms, _ = batch_terms(plan, state.globals, state.params, batch)
        weights = _cells_of(plan, state_log_weights(plan, terms, batch, beta=schedule.beta), rows)
        draw_key, hidden_key = jax.random.split(key)
        _, assigned = assign(draw_key, plan.layout, terms, weights)
        return Partial(gather(plan, terms, assigned, key=hidden_key), _log_evidence(plan, terms, assigned, rows))

    def apply(
        self, plan: Plan, state: GibbsState, total: Partial, template: Data, schedule: Schedule
    ) -> tuple[GibbsState, Info]:
        """Draws of the globals on the sums of all chunks."""
        next_key, draw_key = jax.random.split(jax.random.fold_in(state.key, _AFTER_CHUNKS))
        batch = Batch(template.args, {}, {}, template.labels, None)
        _, log_prior = batch_terms(plan, state.globals, state.params, batch)
        globals_, hmc_state, diagnostics = self._draw_globals(
            plan, state, batch, total.expected, schedule, key=draw_key
        )
        new = state._replace(globals=globals_, hmc=hmc_state, sweep=state.sweep + 1, key=next_key)
        return new, Info((total.log_evidence + log_prior) / plan.num_rows, diagnostics, globals_)

    def estimate_of(self, plan: Plan, state: GibbsState) -> Start:
        """The current draw and the networks."""
        return Start(state.globals, state.params)

    def update_rule(self, plan: Plan, name: str) -> tuple[str, str]:
        """The update a site gets, and whether it is exact."""
        site = plan.sites[name]
        if site.role == DISCRETE:
            return "joint draw, all values enumerated", "exact"
        if site.role == LATENT and site.has_encoder:
            return "Metropolis, the encoder as proposal, and MALA", "exact (Metropolis)"
        if site.role in (GLOBAL, LATENT):
            if name in plan.conditionals:
                return f"conjugate draw, {plan.conditionals[name].name}", "exact"
            kind = "compressed log joint" if compresses(plan, name) else "log joint of all rows"
            return f"NUTS on the {kind}", "exact (Metropolis)"
        if site.role == NETWORK:
            return "Optax during warm-up, then fixed", "point estimate"
        return "one matrix product" if name in plan.frames else "evaluated in full", "exact"

    def _draw_globals(
        self, plan: Plan, state: GibbsState, batch: Batch, expected: Expected, schedule: Schedule, *, key: Array
    ) -> tuple[dict[str, Array], Any, dict[str, Array]]:
        """Conjugate draws, then NUTS on the rest."""
        globals_ = draw(plan, state.globals, state.params, batch, expected, key=key, beta=schedule.beta)
        if not plan.others:
            return globals_, state.hmc, {}
        hmc_state = self._hmc_sweep(plan, state.hmc, globals_, state.params, batch, expected, schedule.beta)
        return globals_ | constrain(plan, hmc_state.z), hmc_state, {"nuts_acceptance": hmc_state.accept_prob}

    def _optimiser(self) -> optax.GradientTransformation:
        return optax.chain(optax.clip_by_global_norm(100.0), optax.adam(self.learning_rate, eps=1e-4))

    def _network_step(self, plan: Plan, state: GibbsState, globals_: dict, data: Data, key: Array) -> tuple:
        """One Optax step of the networks on the free energy of a random minibatch."""
        index_key, eval_key = jax.random.split(key)
        size = min(plan.layout.rows_for(NETWORK_BATCH), data.num_rows)
        rows = data.take(jax.random.randint(index_key, (size,), 0, data.num_rows))

        def loss(params: dict) -> Array:
            result = evaluate(plan, globals_, params, rows.args, key=eval_key, labels=rows.labels)
            return -result.per_datum.mean()

        updates, opt_state = self._optimiser().update(jax.grad(loss)(state.params), state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    def _start_hmc(self, plan: Plan, start: Start, batch: Batch, expected: Expected, key: Array) -> Any:
        kernel_init, _ = _nuts(plan)
        return kernel_init(
            unconstrain(plan, start.globals),
            num_warmup=self.num_warmup,
            step_size=0.1,
            target_accept_prob=self.target_acceptance,
            max_tree_depth=MAX_TREE_DEPTH,
            model_args=(start.globals, start.params, batch, expected, 1.0),
            rng_key=key,
        )

    def _hmc_sweep(
        self, plan: Plan, state: Any, globals_: dict, params: dict, batch: Batch, expected: Expected, beta: Array
    ) -> Any:
        """One NUTS transition on today's conditional; energy and gradient are recomputed, since it has moved."""
        _, kernel = _nuts(plan)
        potential = _potential(plan)(globals_, params, batch, expected, beta)
        energy, grad = jax.value_and_grad(potential)(state.z)
        fresh = state._replace(potential_energy=energy, z_grad=grad)
        return kernel(fresh, (globals_, params, batch, expected, beta))


@lru_cache(maxsize=16)
def _nuts(plan: Plan) -> tuple:
    return hmc(potential_fn_gen=_potential(plan), algo="NUTS")


def _potential(plan: Plan) -> Any:
    def generate(globals_: dict, params: dict, batch: Batch, expected: Expected, beta: Array) -> Any:
        density = others_density(plan, globals_, params, batch, expected, beta=beta)
        return lambda free: -(density(free) + log_jacobian(plan, free))

    return generate


def _cells_of(plan: Plan, weights: Array, data: Data) -> Array:
    return jnp.broadcast_to(weights, (data.num_rows * plan.layout.cells_per_datum, weights.shape[1]))


def _log_evidence(plan: Plan, terms: LocalTerms, assigned: Assigned, data: Data) -> Array:
    """log p(data | globals, latents) summed over the data, nats."""
    per_row = assigned.log_total + plan.layout.sum_cells(terms.base()) + terms.rows
    if plan.layout.data_dim is None:  # one density of all the data
        return per_row.mean()
    return jnp.broadcast_to(per_row, (data.num_rows,)).sum()
