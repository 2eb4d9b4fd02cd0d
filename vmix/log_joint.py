"""The log joint of a program under enumeration, and its expectation as a function of one global site.

After the local terms are reduced to expected sufficient statistics, the expected log joint costs O(K P) however
many data there are; conditionals, gradient steps and Hamiltonian moves all run on it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import gammaln, xlogy

from vmix.assignments import Assigned, expect
from vmix.enumeration import LocalTerms, fill_missing, local_terms
from vmix.families import contract, unwrap
from vmix.families_protocol import EXACT
from vmix.program import DISCRETE, trace_sites

if TYPE_CHECKING:
    from vmix.plan import Plan


class Batch(NamedTuple):
    """Some rows of the data with what is known of their latents.

    Attributes:
        args: the data arrays.
        latents: a value of each continuous latent with an encoder, shape (N, ...).
        factors: variational factors of those latents, by name; empty where the values themselves count.
        labels: what is known of discrete sites from elsewhere, one entry a cell; None without any. Whole numbers
            (N,) are observed values, -1 where unknown; real numbers (N, K) are a message, log potentials of the values.
        known: statistics and base measures computed before, by site.
    """

    args: tuple
    latents: Mapping[str, Array]
    factors: Mapping[str, dist.Distribution]
    labels: Mapping[str, Array] | None = None
    known: Mapping[str, tuple[Array, Array]] | None = None


class Expected(NamedTuple):
    """Expected sufficient statistics of a batch under responsibilities.

    Attributes:
        counts: the sum of responsibilities, shape (K,).
        statistics: site to the weighted sum of its statistics, shape (K, P).
        prior: statistics of the structured discrete prior, shaped as its potentials; None without one.
        augmented: site to the statistics of its hidden variables, shaped as its potentials.
        responsibilities: shape (cells, K), for the sites that do not compress; None where every site does.
    """

    counts: Array
    statistics: dict[str, Array]
    prior: dict[str, Array] | None
    augmented: dict[str, dict[str, Array]]
    responsibilities: Array | None

    @property
    def weights(self) -> Array:
        """The responsibilities, where a site needs them.

        Raises:
            ValueError: where they were not kept.
        """
        if self.responsibilities is None:
            raise ValueError("a site does not compress, and the responsibilities that it needs were not kept")
        return self.responsibilities

    @property
    def structured(self) -> dict[str, Array]:
        """The statistics of the structured prior, where there is one.

        Raises:
            ValueError: where they were not kept.
        """
        if self.prior is None:
            raise ValueError("the discrete site has a structured prior, and its statistics were not kept")
        return self.prior


def model_sites(plan: Plan, globals_: Mapping, latents: Mapping, params: Mapping, args: tuple) -> dict[str, dict]:
    """Run the model with every discrete site set to all its values; return its sample sites by name."""
    values = {**globals_, **latents, **plan.layout.enumerated()}
    # every site is fixed, so the key is read only by network initialisers, whose results are replaced
    trace = trace_sites(plan.program.model, args, key=jax.random.key(0), values=values, params=dict(params))
    return {name: site for name, site in trace.items() if site["type"] == "sample"}


def guide_factors(plan: Plan, params: Mapping, args: tuple, *, key: Array) -> tuple[dict, dict]:
    """Run the guide: a reparameterised draw of each latent, and its variational factor."""
    guide = plan.program.guide
    if guide is None or not plan.latents:
        return {}, {}
    filled = tuple(fill_missing(a) if plan.missing else a for a in args)
    trace = trace_sites(guide, filled, key=key, params=dict(params))
    return {n: trace[n]["value"] for n in plan.latents}, {n: trace[n]["fn"] for n in plan.latents}


def batch_terms(
    plan: Plan, globals_: Mapping, params: Mapping, batch: Batch, *, leave_out: Collection[str] = ()
) -> tuple[LocalTerms, Array]:
    """Local terms of a batch but those of the sites to leave out, and the log density of the globals.

    Returns:
        The terms, and log p(globals) in nats (a scalar), densities of latents without an encoder included.
    """
    sites = model_sites(plan, globals_, batch.latents, params, batch.args)
    kept = [name for name in sites if not plan.sites[name].is_global_term and name not in leave_out]
    return _terms(plan, {name: sites[name] for name in kept}, batch), _global_log_prob(plan, sites, plan.global_terms)


def has_row_priors(plan: Plan) -> bool:
    """Whether the discrete sites' log p(c) differs from datum to datum, so that sums over data do not hold it."""
    rows = plan.template[0].shape[0]
    latents = {name: jnp.zeros((rows, *plan.sites[name].shape[1:])) for name in plan.latents}
    batch = Batch(plan.template, latents, {}, None)
    shapes = jax.eval_shape(lambda g, p: batch_terms(plan, g, p, batch)[0].log_prior, plan.initial, plan.params)
    return shapes.shape[0] > 1


def dense_children(plan: Plan) -> list[tuple[str, str]]:
    """Globals with a child whose likelihood does not compress, each with the first of these children."""
    found = []
    for name in plan.globals:
        local = [child for child in plan.sites[name].children if plan.sites[child].is_local]
        dense = [child for child in local if child not in plan.frames and plan.sites[child].role != DISCRETE]
        found += [(name, dense[0])] if dense else []
    return found


def state_log_weights(plan: Plan, terms: LocalTerms, batch: Batch, *, beta: Array | float = 1.0) -> Array:
    """log p(c = k) + beta log p(children | c = k) + messages, impossible against a label; shape (cells, K).

    A structured prior is not in it: these are its unary potentials.
    """
    weights = terms.log_prior + beta * terms.likelihood()
    if plan.layout.num_steps is not None:
        num_cells = batch.args[0].shape[0] * plan.layout.num_steps
        weights = jnp.broadcast_to(weights, (num_cells, plan.layout.num_states))
    for name, labels in (batch.labels or {}).items():
        values = plan.layout.state_values()[name]
        known = plan.layout.to_cells(labels)
        if jnp.issubdtype(known.dtype, jnp.floating):
            weights = weights + known[:, values]
        else:
            weights = jnp.where((known[:, None] < 0) | (known[:, None] == values), weights, -jnp.inf)
    return weights


def expected_statistics(plan: Plan, globals_: Mapping, params: Mapping, batch: Batch, log_weights: Array) -> Expected:
    """Sum a batch's statistics under the posterior that log weights of shape (cells, K) stand for."""
    terms, _ = batch_terms(plan, globals_, params, batch)
    return gather(plan, terms, expect(plan.layout, terms, log_weights), key=None)


def gather(plan: Plan, terms: LocalTerms, assigned: Assigned, *, key: Array | None) -> Expected:
    """Sum the statistics of local terms: one matrix product a site.

    Args:
        plan: the plan.
        terms: the local terms.
        assigned: the discrete sites, expected or drawn.
        key: to draw the hidden variables of augmented sites; None takes their expectations.

    Returns:
        The sums.
    """
    summed = {
        name: jnp.matmul(assigned.shares.T, part.statistics, precision=EXACT) for name, part in terms.compressed.items()
    }
    augmented = {}
    for i, (name, (fn, value)) in enumerate(terms.augmented.items()):
        if key is None:
            augmented[name] = fn.expected_statistics(value)
        else:
            augmented[name] = fn.sample_statistics(jax.random.fold_in(key, i), value)
    dense = terms.dense is not None or terms.log_prior.shape[0] > 1 or bool(plan.per_datum)
    return Expected(assigned.shares.sum(0), summed, assigned.prior, augmented, assigned.shares if dense else None)


def site_density(
    plan: Plan,
    name: str,
    globals_: Mapping[str, Array],
    params: Mapping[str, Any],
    batch: Batch,
    expected: Expected,
    *,
    with_prior: bool = True,
    beta: Array | float = 1.0,
) -> Callable[[Array], Array]:
    """The expected log joint as a function of one global, all else fixed.

    Args:
        plan: the plan.
        name: the global site.
        globals_: values of all globals.
        params: network parameters.
        batch: the data; only read by sites that do not compress.
        expected: expected statistics.
        with_prior: whether the site's own log density counts (not for maximum likelihood).
        beta: weight of the local likelihood, for tempered draws.

    Returns:
        A function from the site's value to nats (a scalar).
    """
    touched = plan.touched_by(name) if with_prior else plan.touched_by(name) - {name}

    def log_density(value: Array) -> Array:
        values = {**globals_, name: value}
        return expected_log_joint(plan, values, params, batch, expected, only=touched, beta=beta)

    return jax.jit(log_density, inline=True)


def expected_log_joint(
    plan: Plan,
    globals_: Mapping[str, Array],
    params: Mapping[str, Any],
    batch: Batch,
    expected: Expected,
    *,
    only: frozenset[str],
    beta: Array | float = 1.0,
) -> Array:
    """E[log p] of the named sites under expected statistics, in nats (a scalar); constants are left out."""
    sites = model_sites(plan, globals_, batch.latents, params, batch.args)
    locals_ = {n: s for n, s in sites.items() if n in only and not plan.sites[n].is_global_term}
    total = _global_log_prob(plan, sites, [n for n in plan.global_terms if n in only])
    if not locals_:
        return total
    # what an augmented site says is in its statistics, so its log density is not wanted
    augmented = {n: unwrap(s["fn"]).base for n, s in locals_.items() if n in expected.augmented}
    terms = _terms(plan, {n: s for n, s in locals_.items() if n not in augmented}, batch)
    counts, likelihood = expected.counts, jnp.zeros(())
    for name, part in terms.compressed.items():
        likelihood += contract(part.eta, expected.statistics[name]).sum() + (counts * part.bias).sum()
    if terms.dense is not None:
        likelihood += _weighted(expected.weights, terms.dense)
    likelihood += terms.shared.sum() + terms.latents.sum() + terms.rows.sum()
    prior = _weighted(counts if terms.log_prior.shape[0] == 1 else expected.weights, terms.log_prior)
    if terms.prior is not None:
        prior += _contract(terms.prior.potentials(), expected.structured)
    for name, fn in augmented.items():
        likelihood += _contract(fn.potentials(), expected.augmented[name])
    return total + prior + beta * likelihood


def _contract(potentials: dict[str, Array], statistics: dict[str, Array]) -> Array:
    """The inner product of log parameters and counts, with 0 * -inf = 0; nats (a scalar)."""
    return sum((_weighted(statistics[name], value) for name, value in potentials.items()), jnp.zeros(()))


def _terms(plan: Plan, locals_: dict[str, dict], batch: Batch) -> LocalTerms:
    return local_terms(
        plan.layout,
        locals_,
        frames=plan.frames,
        factors=batch.factors,
        known=batch.known,
        missing=plan.missing,
        latents=plan.latents,
    )


def _global_log_prob(plan: Plan, sites: dict[str, dict], names: Any) -> Array:
    return sum((_log_prob(sites[n]["fn"], sites[n]["value"]).sum() for n in names), jnp.zeros(()))


def _log_prob(fn: dist.Distribution, value: Array) -> Array:
    """Log density of a global; a Dirichlet's is finite at a corner where its concentration is 1 (NumPyro: NaN)."""
    base, mask = unwrap(fn).base, unwrap(fn).mask
    if base.event_dim == 2:
        # NumPyro's check that a matrix is positive definite is an eigendecomposition; globals never leave their support
        with numpyro.validation_enabled(False):
            return fn.log_prob(value)
    if type(base) is not dist.Dirichlet or not (mask is None or mask is True):
        return fn.log_prob(value)
    a = base.concentration
    log_normaliser = gammaln(a).sum(-1) - gammaln(a.sum(-1))
    return xlogy(a - 1.0, value).sum(-1) - log_normaliser


def _weighted(weights: Array, log_prob: Array) -> Array:
    """sum(weights * log_prob) with 0 * -inf = 0, in the gradient as well."""
    counted = jnp.broadcast_to(weights, jnp.broadcast_shapes(jnp.shape(weights), log_prob.shape)) > 0
    return jnp.where(counted, weights * jnp.where(counted, log_prob, 0.0), 0.0).sum()
