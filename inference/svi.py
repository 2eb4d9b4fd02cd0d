"""Stochastic variational inference: NumPyro's SVI on the ELBO with discrete sites summed out.

elbo = E_q(z, theta)[log p(x | z) + log sum_c p(c | theta) p(z | c, theta) - log q(z | x) + log p(theta) - log q(theta)]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpyro.infer
import optax
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to

from vmix.engine import Data, Info, Schedule, Start, annealing, check_ramp, scaled
from vmix.inference.elbo import EnumeratedELBO, global_guide, guided_globals
from vmix.options import checked
from vmix.plan import Plan
from vmix.program import DISCRETE, GLOBAL, LATENT, NETWORK, ProgramError
from vmix.streaming import refuse_streaming

NETWORK_BATCH = 256
CLIP = 100.0
_MEAN_DRAWS = 512


class SVIState(NamedTuple):
    """What the next step needs: NumPyro's state, and the order in which minibatches are drawn."""

    svi: Any
    order: Array
    position: Array
    key: Array


@checked(guide=("point", "normal"))
@dataclass(frozen=True, kw_only=True)
class SVI:
    """Stochastic variational inference.

    Args:
        num_steps: Optax steps.
        batch_size: rows a step; None takes all the data, or 256 rows where there are networks.
        guide: for globals without a guide of the program's own: "point" estimates or "normal" factors.
        optimizer: an Optax transformation in place of Adam with a cosine decay.
        learning_rate: of Adam; None takes 1e-3 where there are networks, 2e-2 without.
        kl_warmup: steps over which the divergence from the prior rises linearly to its full weight.
        restarts: initialisations to run; the one with the best objective is kept.
        anneal: `(first_beta, num_steps)`, the likelihood tempered linearly from first_beta up to 1.
    """

    name: ClassVar[str] = "SVI"
    step_name: ClassVar[str] = "step"

    num_steps: int = 2000
    batch_size: int | None = None
    guide: str = "point"
    optimizer: optax.GradientTransformation | None = None
    learning_rate: float | None = None
    kl_warmup: int | None = None
    restarts: int = 1
    anneal: tuple[float, int] | None = None

    tolerance: ClassVar[None] = None

    def __post_init__(self) -> None:
        annealing(self.anneal)
        check_ramp("SVI(anneal=)", self.anneal and self.anneal[1], "num_steps", self.num_steps)
        check_ramp("SVI(kl_warmup=)", self.kl_warmup, "num_steps", self.num_steps)

    @property
    def num_steps_total(self) -> int:
        """How many steps the driver runs."""
        return self.num_steps

    @property
    def num_states(self) -> int:
        """Restarts run side by side."""
        return self.restarts

    def check(self, plan: Plan, num_rows: int) -> None:
        """Refuse what cannot be done.

        Raises:
            ProgramError: for minibatches of a program with a latent per datum and no encoder, or of one that is another
                problem on some of the rows.
        """
        if plan.needs_all_rows and self._rows(plan, num_rows) < num_rows:
            raise ProgramError(f"SVI cannot take minibatches: {plan.needs_all_rows}; or use SVI(batch_size={num_rows})")
        if plan.per_datum and self._rows(plan, num_rows) < num_rows:
            raise ProgramError(
                f"SVI(batch_size=) needs a guide for the local site {plan.per_datum[0]!r}: write "
                "guide(self, x) with an encoder, or use batch_size=None"
            )

    def init(self, plan: Plan, start: Start, data: Data, *, key: Array) -> SVIState:
        """The first state: NumPyro's parameters at the start's values."""
        svi_key, order_key, key = jax.random.split(key, 3)
        initial = dict(start.params)
        for name in plan.globals:
            value = start.globals[name]
            free = value if self.guide == "point" else biject_to(plan.supports[name]).inv(value)
            initial[f"{name}_auto_loc"] = free
        svi = self._svi(plan)
        known = {name: value for name, value in initial.items() if name in svi.param_names}
        rows = data.take(jnp.arange(self._rows(plan, data.num_rows)))
        state = svi.init(svi_key, *rows.args, init_params=known)
        order = jax.random.permutation(order_key, data.num_rows)
        return SVIState(state, order, jnp.zeros((), jnp.int32), key)

    def step(self, plan: Plan, state: SVIState, data: Data, schedule: Schedule) -> tuple[SVIState, Info]:
        """One Optax step on a minibatch."""
        size = self._rows(plan, data.num_rows)
        rows = data
        if size < data.num_rows:
            state, index = next_rows(state, size)
            rows = data.take(index)
        return self.step_rows(plan, state, rows, schedule)

    def step_rows(self, plan: Plan, state: SVIState, rows: Data, schedule: Schedule) -> tuple[SVIState, Info]:
        """One Optax step on the given rows of the data."""
        inner, loss = self._svi(plan).update(
            state.svi,
            *rows.args,
            labels=rows.labels,
            known=rows.known,
            beta=schedule.beta,
            kl_weight=schedule.kl_weight,
        )
        norm = inner.optim_state[1][1].norm  # NumPyro's optimiser state holds the parameters, then Optax's state
        return state._replace(svi=inner), Info(-loss, {"gradient_norm": norm}, {})

    def streams(self, plan: Plan) -> str:
        """Data on disk are read in minibatches of random rows.

        Raises:
            ProgramError: without a batch size.
        """
        if self.batch_size is None:
            raise refuse_streaming(self, "no batch_size was given", "use SVI(batch_size=1024), say")
        return "rows"

    def estimate_of(self, plan: Plan, state: SVIState) -> Start:
        """Point estimates of the globals (means of their variational factors), and the networks."""
        svi = self._svi(plan)
        params = svi.get_params(state.svi)
        point = self.guide == "point" and not guided_globals(plan)

        def draw(key: Array) -> dict[str, Array]:
            guide = handlers.substitute(handlers.seed(svi.guide, key), data=params)
            sites = handlers.trace(guide).get_trace(*plan.template)
            return {name: sites[name]["value"] for name in plan.globals}

        if point:
            globals_ = draw(state.key)
        else:
            draws = jax.lax.map(draw, jax.random.split(state.key, _MEAN_DRAWS))
            globals_ = {name: values.mean(0) for name, values in draws.items()}
        networks = plan.names(NETWORK)
        return Start(globals_, {name: params[name] for name in networks})

    def factors_of(self, plan: Plan, state: SVIState) -> dict[str, dict[str, Array]]:
        """The normal factors of the globals in unconstrained space: site to "loc" and "scale", each in its shape."""
        params = self._svi(plan).get_params(state.svi)
        found = [name for name in plan.globals if f"{name}_auto_scale" in params]
        return {n: {part: params[f"{n}_auto_{part}"] for part in ("loc", "scale")} for n in found}

    def takes_steps(self, plan: Plan) -> bool:
        """Whether there is a step size."""
        return True

    def with_smaller_steps(self, plan: Plan, factor: float) -> SVI:
        """The same engine with steps `factor` times as large; its states are the same."""
        if self.optimizer is not None:
            return replace(self, optimizer=scaled(self.optimizer, factor))
        return replace(self, learning_rate=factor * self._rate(plan))

    def update_rule(self, plan: Plan, name: str) -> tuple[str, str]:
        """The update a site gets, and whether it is exact."""
        site = plan.sites[name]
        if site.role == DISCRETE:
            return "summed out inside the elbo", "exact"
        if site.role == LATENT and site.has_encoder:
            return "reparameterised draw from the encoder", "variational"
        if site.role in (GLOBAL, LATENT):
            rule = "point estimate" if self.guide == "point" else "normal factor"
            return f"gradient of the elbo, {rule}", "variational"
        if site.role == NETWORK:
            return "Optax on the elbo", "stochastic"
        return "one matrix product" if name in plan.frames else "evaluated in full", "exact"

    def _rows(self, plan: Plan, num_rows: int) -> int:
        default = plan.layout.rows_for(NETWORK_BATCH) if plan.names(NETWORK) else num_rows
        return min(self.batch_size or default, num_rows)

    def _svi(self, plan: Plan) -> numpyro.infer.SVI:
        return _build(plan, plan.num_rows, self.guide, self._optimiser(plan))

    def _optimiser(self, plan: Plan) -> optax.GradientTransformation:
        if self.optimizer is not None:
            return _watched(self.optimizer)
        return _adam(self._rate(plan), self.num_steps)

    def _rate(self, plan: Plan) -> float:
        return self.learning_rate or (1e-3 if plan.names(NETWORK) else 2e-2)


@lru_cache(maxsize=32)
def _adam(rate: float, num_steps: int) -> optax.GradientTransformation:
    schedule = optax.cosine_decay_schedule(rate, num_steps, alpha=0.01)
    return _watched(optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(schedule)))


class Watched(NamedTuple):
    """An optimiser's state, and the norm of the last gradient it was given, nats per datum a unit."""

    inner: Any
    norm: Array


@lru_cache(maxsize=32)
def _watched(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same optimiser, remembering the gradient's norm before it is clipped."""

    def init(params: Any) -> Watched:
        return Watched(optimiser.init(params), jnp.zeros(()))

    def update(grads: Any, state: Watched, params: Any = None) -> tuple[Any, Watched]:
        updates, inner = optimiser.update(grads, state.inner, params)
        squares = (jnp.square(leaf).sum() for leaf in jax.tree.leaves(grads))
        return updates, Watched(inner, jnp.sqrt(sum(squares, jnp.zeros(()))))

    return optax.GradientTransformation(init, update)


@lru_cache(maxsize=32)
def _build(plan: Plan, num_rows: int, kind: str, optimiser: optax.GradientTransformation) -> numpyro.infer.SVI:
    """NumPyro's SVI for a plan; `init` once, because it is there that NumPyro learns the parameters' constraints."""
    guide = global_guide(plan, plan.initial, kind=kind)
    svi = numpyro.infer.SVI(plan.program.model, guide, optimiser, EnumeratedELBO(plan, num_rows=num_rows))
    key = jax.random.key(0)  # any key: only names and constraints are kept
    svi.param_names = frozenset(jax.eval_shape(lambda: svi.get_params(svi.init(key, *plan.template))))
    return svi


def next_rows(state: SVIState, size: int) -> tuple[SVIState, Array]:
    """The next minibatch of a random order; a new order when fewer than `size` rows are left in this one."""

    def reshuffle(state: SVIState) -> SVIState:
        key, order_key = jax.random.split(state.key)
        order = jax.random.permutation(order_key, state.order.shape[0])
        return SVIState(state.svi, order, jnp.zeros((), jnp.int32), key)

    left = state.order.shape[0] - state.position
    state = jax.lax.cond(left < size, reshuffle, lambda same: same, state)
    index = jax.lax.dynamic_slice(state.order, (state.position,), (size,))
    return state._replace(position=state.position + size), index
