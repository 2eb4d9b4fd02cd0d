"""The free energy of a program on a batch: what every engine climbs, in nats per datum.

    F = E_q[log p(x | z)] + E_q[log p(z | c)] + E_q[log p(c)] - E_q[log q(z | x)] - E_q[log q(c)]

with q(c) at its optimum, so that the three terms in c are one log-sum-exp. Without a latent z it is the exact
log evidence of each datum given the globals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vmix.assignments import Assigned, expect
from vmix.enumeration import LocalTerms
from vmix.families import unwrap
from vmix.layout import Layout, collapse
from vmix.log_joint import Batch, batch_terms, guide_factors, state_log_weights

if TYPE_CHECKING:
    from vmix.plan import Plan


class Evaluation(NamedTuple):
    """The free energy of a batch and what it is made of.

    Attributes:
        per_datum: elbo (the log evidence where there is no latent) of each datum, nats, shape (N,).
        assigned: q(c) of the discrete sites.
        log_prior: log p(globals), nats.
        terms: the local terms.
        batch: the batch with its latents.
    """

    per_datum: Array
    assigned: Assigned
    log_prior: Array
    terms: LocalTerms
    batch: Batch


def evaluate(
    plan: Plan,
    globals_: Mapping[str, Array],
    params: Mapping[str, Any],
    args: tuple,
    *,
    key: Array,
    labels: Mapping[str, Array] | None = None,
    known: Mapping[str, tuple[Array, Array]] | None = None,
    beta: Array | float = 1.0,
    kl_weight: Array | float = 1.0,
    sampled: bool = False,
) -> Evaluation:
    """Evaluate the free energy on a batch.

    Args:
        plan: the plan.
        globals_: values of the globals.
        params: network parameters.
        args: the data arrays of the batch.
        key: randomness for the reparameterised draw of the latents.
        labels: observed values of discrete sites (-1 where unknown), or messages about them.
        known: statistics computed before, by site.
        beta: weight of the likelihood of the discrete sites' children (tempering).
        kl_weight: weight of all terms but the reconstruction, where there is a latent (KL warm-up).
        sampled: take the latents' terms at the draw, so that q(c) = p(c | z) (SVI); by default their closed-form
            expectations are taken where the family has them (EM).

    Returns:
        The evaluation.
    """
    latents, factors = guide_factors(plan, params, args, key=key)
    batch = Batch(args, latents, {} if sampled else factors, labels, known)
    terms, log_prior = batch_terms(plan, globals_, params, batch)
    weights = state_log_weights(plan, terms, batch, beta=beta)
    assigned = expect(plan.layout, terms, weights)
    divergence = assigned.log_total + plan.layout.sum_cells(terms.base_measures() + terms.latents)
    for name, factor in factors.items():
        divergence = divergence + factor_entropy(plan.layout, factor, latents[name], sampled=sampled)
    weight = kl_weight if factors else 1.0
    per_datum = terms.rows + plan.layout.sum_cells(terms.shared) + weight * divergence
    if plan.layout.data_dim is None:  # one density of all the data: each row has an equal share of it
        per_datum = jnp.broadcast_to(per_datum / args[0].shape[0], args[0].shape[:1])
    return Evaluation(per_datum, assigned, log_prior, terms, batch)


def factor_entropy(layout: Layout, factor: dist.Distribution, value: Array, *, sampled: bool) -> Array:
    """-E_q[log q], in closed form where NumPyro has it, else at the draw; nats, shape (N,)."""
    plain = replace(layout, discrete=(), num_steps=None)
    if sampled:
        return -collapse(plain, factor.log_prob(value))[:, 0]
    atom = unwrap(factor)
    try:
        element = atom.base.entropy()
    except NotImplementedError:
        return -collapse(plain, factor.log_prob(value))[:, 0]
    element = jnp.broadcast_to(element, atom.batch_shape + tuple(atom.event_shape[: atom.event_dims]))
    total = element.sum(tuple(range(-atom.event_dims, 0))) if atom.event_dims else element
    return collapse(plain, total)[:, 0]
