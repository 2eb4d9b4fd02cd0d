"""The posterior of the discrete sites given everything else: expected or drawn, plain or structured.

A plain site has one distribution a cell, proportional to the exponential of its log weights. A structured site (a
Markov chain) takes the log weights as unary potentials of its own prior. Either way, what the updates of the globals
need is the same record: responsibilities of the cells, and statistics of the structured prior.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vmix.distributions.structured import StructuredDiscrete
from vmix.enumeration import LocalTerms
from vmix.layout import Layout
from vmix.numerics import responsibilities, sample_categorical

_HIDDEN = 2**31 - 1  # a stream of the key that no draw of values reaches


class Assigned(NamedTuple):
    """Discrete sites in expectation, or as drawn.

    Attributes:
        shares: q(c = k) of each cell, or one at the value drawn, shape (cells, K), or (1, K) where no cell differs.
        log_total: log sum_c p(c) p(children | c) of each datum, base measures aside, nats, shape (N,) or (1,).
        prior: statistics of the structured prior, shaped as its potentials; None without one.
    """

    shares: Array
    log_total: Array
    prior: dict[str, Array] | None


def expect(layout: Layout, terms: LocalTerms, log_weights: Array) -> Assigned:
    """The exact posterior of the discrete sites.

    Args:
        layout: where the dimensions stand.
        terms: the local terms, with the structured prior where there is one.
        log_weights: log weights of each cell, shape (cells, K).

    Returns:
        Expectations. Of a structured prior, the sum of `log_total` over the data is differentiable, the rest is not.
    """
    if terms.prior is None:
        return Assigned(*responsibilities(log_weights), None)
    unary = layout.to_rows(log_weights)
    fixed = jax.lax.stop_gradient((terms.prior, unary))
    found = fixed[0].posterior(fixed[1])
    moving = _linear(found.marginals, unary) + _linear_parameters(terms.prior, found.statistics) / unary.shape[0]
    return Assigned(layout.to_cells(found.marginals), found.log_normalizer + moving, found.statistics)


def draw(key: Array, layout: Layout, terms: LocalTerms, log_weights: Array) -> tuple[Array, Assigned]:
    """Draw the discrete sites of every datum at once.

    Returns:
        The joint state of each cell, shape (N,), or (N, T) where there are steps, and the record that goes with it.
    """
    if terms.prior is None:
        value, total = sample_categorical(key, log_weights)
    else:
        value, total = terms.prior.sample_with_total(key, layout.to_rows(log_weights))
    return value, given(layout, terms, value, key=jax.random.fold_in(key, _HIDDEN))._replace(log_total=total)


def given(layout: Layout, terms: LocalTerms, value: Array, *, key: Array | None) -> Assigned:
    """The record of known values: states of shape (N,), or (N, T) where there are steps; its `log_total` is zero.

    What values leave open of a structured prior is drawn with the key, and expected without one.
    """
    shares = jax.nn.one_hot(value, layout.num_states)
    if terms.prior is None:
        return Assigned(shares, jnp.zeros((1,)), None)
    if terms.prior.present is not None:
        shares = jnp.where(terms.prior.present[..., None], shares, 0.0)
    if key is None:
        return Assigned(layout.to_cells(shares), jnp.zeros((1,)), terms.prior.statistics(value))
    return Assigned(layout.to_cells(shares), jnp.zeros((1,)), terms.prior.sample_statistics(key, value))


def _linear(marginals: Array, unary: Array) -> Array:
    """Zero, with the gradient of the log-normaliser in the unary potentials, which is the marginals; shape (N,)."""
    difference = jnp.where(marginals > 0, unary, 0.0)
    return (marginals * (difference - jax.lax.stop_gradient(difference))).sum((-2, -1))


def _linear_parameters(prior: StructuredDiscrete, statistics: dict[str, Array]) -> Array:
    """Zero, with the gradient of the total log-normaliser in the prior's potentials, which is the statistics."""
    total = jnp.zeros(())
    for name, potential in prior.potentials().items():
        finite = jnp.where(statistics[name] > 0, potential, 0.0)
        total += (statistics[name] * (finite - jax.lax.stop_gradient(finite))).sum()
    return total
