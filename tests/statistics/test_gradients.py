"""Gradients of the evidence in float64: against finite differences, and against the expected log joint (Fisher).

    d log p(x | theta) / d theta = E_{c | x, theta} [d log p(x, c | theta) / d theta]

so what EM climbs and what SVI follows agree wherever they start.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.distributions import biject_to

from benchmarks._calibration import STUDIES, replay
from vmix.assignments import expect
from vmix.log_joint import Batch, batch_terms, expected_log_joint, gather, state_log_weights

NAMES = ["BernoulliMixture", "GaussianMixture, full", "DirichletProcessMixture", "HMM", "LDA"]


@lru_cache
def problem(name):
    """Evidence with prior, and the same by way of expected statistics, as functions of one vector; and a point."""
    with jax.enable_x64():
        case = STUDIES[name].case()
        plan = case.plan
        values, args = jax.jit(lambda key: replay(case, key, case.args(), {}))(jax.random.key(3))
        globals_ = {site: values[site] for site in plan.globals}
        # every entry by itself: simplexes as they are, so that no map of ours is part of the claim
        point, unravel = ravel_pytree({site: biject_to(plan.supports[site]).inv(v) for site, v in globals_.items()})
        batch = Batch(args, {}, {}, None)

        def constrained(free):
            return {site: biject_to(plan.supports[site])(v) for site, v in unravel(free).items()}

        def posterior(globals_):
            terms, prior = batch_terms(plan, globals_, plan.params, batch)
            return terms, prior, expect(plan.layout, terms, state_log_weights(plan, terms, batch))

        def evidence(free):
            terms, prior, assigned = posterior(constrained(free))
            rows = assigned.log_total + plan.layout.sum_cells(terms.base()) + terms.rows
            return jnp.broadcast_to(rows, args[0].shape[:1]).sum() + prior

        def expected(free):
            terms, _, assigned = posterior(constrained(point))
            shares = jnp.broadcast_to(
                assigned.shares, (args[0].shape[0] * plan.layout.cells_per_datum, assigned.shares.shape[1])
            )
            sums = gather(plan, terms, assigned._replace(shares=shares), key=None)
            return expected_log_joint(plan, constrained(free), plan.params, batch, sums, only=frozenset(plan.sites))

        return jax.jit(evidence), jax.jit(jax.grad(evidence)), jax.jit(jax.grad(expected)), np.asarray(point)


@pytest.mark.parametrize("name", [*NAMES[:1], *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])])
def test_gradient_of_the_evidence_equals_finite_differences(name):
    evidence, gradient, _, point = problem(name)
    with jax.enable_x64():
        found = np.asarray(gradient(point))
        steps = 1e-5 * np.eye(len(point))
        numeric = np.array([(evidence(point + s) - evidence(point - s)) / 2e-5 for s in steps])
    np.testing.assert_allclose(found, numeric, rtol=1e-6, atol=1e-6 * np.abs(found).max())


@pytest.mark.parametrize("name", [*NAMES[:1], *(pytest.param(n, marks=pytest.mark.slow) for n in NAMES[1:])])
def test_gradient_of_the_evidence_is_that_of_the_expected_log_joint(name):
    _, gradient, expected, point = problem(name)
    with jax.enable_x64():
        found, other = np.asarray(gradient(point)), np.asarray(expected(point))
    np.testing.assert_allclose(found, other, rtol=1e-9, atol=1e-9 * np.abs(found).max())
