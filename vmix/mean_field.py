"""Mean-field factors of the latents that every datum has of its own, in the family of their complete conditional.

Given the discrete variables h (tokens' topics, components), the log joint is linear in t(theta_n), so under a factor q
its expectation is its value at the point theta*_n with t(theta*_n) = E_q[t(theta_n)]:

    theta*_n  = exp E_q[log theta_n]                          where t is the logarithm; it does not sum to 1
    q(h_n)    ∝ p(x_n, h_n | theta*_n)                        the E-step, as for a value of theta_n
    q(theta_n) = Dirichlet(a + E_q[counts of h_n])            the complete conditional at expected statistics
    elbo_n    = log p(x_n, theta*_n) - log q(theta*_n)

The last line is the bound after both updates. log p(x_n, theta) is convex in t(theta), so it lies above its tangent at
theta*_n, which is log q's kernel and a constant; the exponential of the tangent integrates to the right-hand side. It
holds at any theta*_n, and takes nothing but what EM for a mode has at hand.

Source: Blei, Ng and Jordan (2003), section 5.2, equations 6 to 8, and appendix A.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
from jax import Array

from vmix.free_energy import Evaluation
from vmix.layout import collapse
from vmix.log_joint import Expected, site_density
from vmix.program import ProgramError

if TYPE_CHECKING:
    from vmix.plan import Plan

MODE, MEAN_FIELD = "mode", "mean-field"


class Factors(NamedTuple):
    """Factors of the latents of each datum, by site, in the site's shape.

    Attributes:
        points: where what hangs on the site takes its expectation, exp E_q[log theta].
        means: E_q[theta].
    """

    points: dict[str, Array]
    means: dict[str, Array]


def check_factors(plan: Plan) -> None:
    """Refuse latents of a datum that have no factor in closed form.

    Raises:
        ProgramError: naming the site, what was found and the way out.
    """
    for name in plan.per_datum:
        conditional = plan.conditionals.get(name)
        if conditional is not None and conditional.has_expected_point:
            continue
        found = plan.reasons.get(name, "unknown") if conditional is None else f"found: {conditional.name}"
        raise ProgramError(
            f'EM(per_datum="mean-field") needs a Dirichlet complete conditional of site {name!r}, in probabilities '
            f'that its children use as they are, not normalised once more ({found}); use EM(per_datum="mode"), SVI() '
            "or Gibbs(), or write a guide with an encoder for it"
        )


def factorise(
    plan: Plan, values: Mapping[str, Array], params: Mapping[str, Any], result: Evaluation, expected: Expected
) -> tuple[Factors, Evaluation]:
    """Update the factors of the latents of each datum, and find the bound.

    Args:
        plan: the plan.
        values: the globals, with the latents of each datum at the points where the E-step was made.
        params: network parameters.
        result: the evaluation at these values.
        expected: its statistics.

    Returns:
        The factors, and the evaluation with the elbo in `per_datum`.
    """
    layout = replace(plan.layout, discrete=(), num_steps=None)
    points, means = {}, {}
    per_datum = result.per_datum  # with log p(theta*_n) in it: a latent of a datum is local
    for name in plan.per_datum:
        conditional, at = plan.conditionals[name], values[name]
        density = site_density(plan, name, values, params, result.batch, expected)
        with jax.default_matmul_precision("highest"):
            exponent = conditional.solve(density, conditional.probe(at))
        points[name], means[name] = exponent.expected_point(), exponent.mean()
        per_datum = per_datum - collapse(layout, exponent.distribution.log_prob(at))[:, 0]
    return Factors(points, means), result._replace(per_datum=per_datum)
