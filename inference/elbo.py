"""The ELBO with discrete sites summed out exactly, as a NumPyro loss, and the guide it goes with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to, constraints

from vmix.enumeration import fill_missing
from vmix.free_energy import evaluate
from vmix.plan import Plan

_SCALES = constraints.softplus_positive


class EnumeratedELBO:
    """Minus the ELBO per datum, every discrete local site summed out under each draw of the rest.

    It has the interface of `numpyro.infer.elbo.ELBO`, so `numpyro.infer.SVI` takes it as its loss. A minibatch
    is recognised by `num_rows`: its local terms are weighed by N / B, the globals' terms are not.

    Args:
        plan: the plan of the program.
        num_rows: N, the number of rows of the whole data.
    """

    can_infer_discrete = True
    multi_sample_guide = False

    def __init__(self, plan: Plan, *, num_rows: int) -> None:
        self.plan = plan
        self.num_rows = num_rows

    def loss(self, rng_key: Array, param_map: Mapping, model: Any, guide: Any, *args: Array, **options: Any) -> Array:
        """Minus the ELBO, nats per datum.

        Args:
            rng_key: randomness for the draws from the guide.
            param_map: constrained parameters by name.
            model: ignored; the plan's program is enumerated.
            guide: the guide of globals.
            *args: the data arrays of the batch.
            **options: `labels`, `known`, `beta`, `kl_weight` as in `vmix.free_energy.evaluate`.

        Returns:
            A scalar.
        """
        guide_key, local_key = jax.random.split(rng_key)
        seeded = handlers.substitute(handlers.seed(guide, guide_key), data=dict(param_map))
        sites = handlers.trace(seeded).get_trace(*args)
        plan = self.plan
        globals_ = {name: sites[name]["value"] for name in plan.globals}
        log_q = sum((sites[n]["fn"].log_prob(globals_[n]).sum() for n in plan.globals), jnp.zeros(()))
        result = evaluate(plan, globals_, param_map, args, key=local_key, sampled=True, **options)
        return -(result.per_datum.mean() + (result.log_prior - log_q) / self.num_rows)


def global_guide(plan: Plan, values: Mapping[str, Array], *, kind: str) -> Callable[..., Any]:
    """The user's guide, and independent factors for the globals that it leaves out.

    These are NumPyro's AutoDelta and AutoNormal, names of parameters included; but those run the program outside of
    `jit`, operation by operation, to learn supports and shapes, which the plan knows.

    Args:
        plan: the plan.
        values: initial values of the globals.
        kind: "point" (a Delta each) or "normal" (a Normal each, in unconstrained space).

    Returns:
        A guide over every global; latents with an encoder are drawn by the user's guide.
    """
    guided = guided_globals(plan)
    rest = [name for name in plan.globals if name not in guided]
    factor = _point if kind == "point" else _normal

    def guide(*args: Array) -> None:
        if plan.program.guide is not None:
            plan.program.guide(*(fill_missing(a) if plan.missing else a for a in args))
        for name in rest:
            numpyro.sample(name, factor(name, values[name], plan.supports[name]))

    return guide


def _point(name: str, value: Array, support: constraints.Constraint) -> dist.Distribution:
    loc = numpyro.param(f"{name}_auto_loc", value, constraint=support)
    return dist.Delta(loc, event_dim=jnp.ndim(loc))


def _normal(name: str, value: Array, support: constraints.Constraint) -> dist.Distribution:
    transform = biject_to(support)
    loc = numpyro.param(f"{name}_auto_loc", lambda _: transform.inv(value))
    scale = numpyro.param(f"{name}_auto_scale", lambda _: jnp.full_like(loc, 0.1), constraint=_SCALES)
    return dist.TransformedDistribution(dist.Normal(loc, scale).to_event(loc.ndim), transform)


def guided_globals(plan: Plan) -> tuple[str, ...]:
    """Globals that the user's own guide covers."""
    if plan.program.guide is None:
        return ()
    guide = handlers.seed(plan.program.guide, jax.random.key(0))  # any key: only the names are read
    names: list[str] = []

    def run(*args: Any) -> None:
        names.extend(handlers.trace(guide).get_trace(*args))

    jax.eval_shape(run, *plan.template)
    return tuple(name for name in plan.globals if name in names)
