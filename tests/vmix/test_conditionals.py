"""Recognition: every family against the textbook's posterior, and what must be refused."""

import re
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vmix.conditionals import candidates, recognise
from vmix.priors import log_stick_breaking


class Program(NamedTuple):
    """A conjugate program: prior and log joint of one site, and its posterior from the textbook."""

    prior: dist.Distribution
    log_joint: Callable[[jax.Array], jax.Array]
    posterior: dist.Distribution


RNG = np.random.default_rng(0)
REALS = RNG.normal(1.0, 2.0, size=(40, 3))
COUNTS = RNG.poisson(4.0, size=(40, 3)).astype(float)
BITS = (RNG.random((40, 3)) < [0.1, 0.5, 0.9]).astype(float)
DESIGN = RNG.normal(size=(40, 4))
TARGETS = DESIGN @ RNG.normal(size=(4, 2)) + 0.3 * RNG.normal(size=(40, 2))


def joint(prior, log_likelihood):
    return lambda v: jnp.sum(prior.log_prob(v)) + log_likelihood(v)


def normal_mean_with_a_large_offset():
    prior = dist.Normal(1e3, 3.0).expand([3])
    data = jnp.asarray(REALS + 1e4)
    precision = 1 / 9 + 40 / 4
    loc = (1e3 / 9 + data.sum(0) / 4) / precision
    log_joint = joint(prior, lambda m: dist.Normal(m, 2.0).log_prob(data).sum())
    return Program(prior, log_joint, dist.Normal(loc, precision**-0.5))


def hyper_mean_of_component_means():
    prior = dist.Normal(0.0, 10.0)
    means = jnp.asarray(REALS[:, 0])
    precision = 0.01 + 40.0
    log_joint = joint(prior, lambda m: dist.Normal(m, 1.0).log_prob(means).sum())
    return Program(prior, log_joint, dist.Normal(means.sum() / precision, precision**-0.5))


def gamma_rate_of_poisson_counts():
    prior = dist.Gamma(2.0, 1.5).expand([3]).to_event(1).mask(True)
    log_joint = joint(prior, lambda v: dist.Poisson(v).log_prob(COUNTS).sum())
    return Program(prior, log_joint, dist.Gamma(2.0 + COUNTS.sum(0), 1.5 + 40))


def exponential_prior_on_the_precision_of_a_normal():
    prior = dist.Exponential(0.5).expand([3])
    log_joint = joint(prior, lambda v: dist.Normal(1.0, v**-0.5).log_prob(jnp.asarray(REALS)).sum())
    return Program(prior, log_joint, dist.Gamma(1.0 + 20, 0.5 + ((REALS - 1) ** 2).sum(0) / 2))


def inverse_gamma_variance_of_a_normal():
    prior = dist.InverseGamma(3.0, 2.0).expand([3])
    log_joint = joint(prior, lambda v: dist.Normal(1.0, jnp.sqrt(v)).log_prob(jnp.asarray(REALS)).sum())
    return Program(prior, log_joint, dist.InverseGamma(3.0 + 20, 2.0 + ((REALS - 1) ** 2).sum(0) / 2))


def beta_probability_of_bernoulli_data():
    prior = dist.Beta(0.5, 0.5).expand([3])
    log_joint = joint(prior, lambda v: dist.Bernoulli(v).log_prob(BITS).sum())
    return Program(prior, log_joint, dist.Beta(0.5 + BITS.sum(0), 0.5 + (1 - BITS).sum(0)))


def stick_breaking_fractions():
    prior = dist.Beta(1.0, 2.5).expand([4])
    counts = jnp.array([50.0, 20.0, 0.0, 10.0, 5.0])

    def log_likelihood(v):
        rest = jnp.concatenate([jnp.ones(1), jnp.cumprod(1 - v)])
        weights = jnp.concatenate([v, jnp.ones(1)]) * rest
        return jnp.sum(counts * jnp.log(weights))

    after = jnp.cumsum(counts[::-1])[::-1][1:]
    return Program(prior, joint(prior, log_likelihood), dist.Beta(1.0 + counts[:-1], 2.5 + after))


DIRICHLET_COUNTS = np.array([[500.0, 0.0, 3.0, 1.0], [1.0, 2.0, 3.0, 4.0]])


def fractions_of_a_long_stick():
    """The last weights are too small for float32; their logarithms are not."""
    prior = dist.Beta(1.0, 2.5).expand([59])
    counts = np.arange(60.0)[::-1] % 7
    after = counts[::-1].cumsum()[::-1][1:]
    log_joint = joint(prior, lambda v: jnp.sum(counts * log_stick_breaking(v)))
    return Program(prior, log_joint, dist.Beta(1.0 + counts[:-1], 2.5 + after))


def dirichlet_weights():
    prior = dist.Dirichlet(jnp.full(4, 0.5)).expand([2])
    log_joint = joint(prior, lambda w: jnp.sum(DIRICHLET_COUNTS * jnp.log(w)))
    return Program(prior, log_joint, dist.Dirichlet(0.5 + DIRICHLET_COUNTS))


def dirichlet_weights_that_the_program_normalises():
    prior = dist.Dirichlet(jnp.full(4, 0.5)).expand([2])
    log_joint = joint(prior, lambda w: jnp.sum(DIRICHLET_COUNTS * jax.nn.log_softmax(jnp.log(w), axis=-1)))
    return Program(prior, log_joint, dist.Dirichlet(0.5 + DIRICHLET_COUNTS))


def wishart_precision_of_normal_data():
    prior = dist.Wishart(5.0, rate_matrix=2 * jnp.eye(3)).expand([2])
    data = np.stack([REALS, COUNTS], 1)

    def log_likelihood(precision):
        return dist.MultivariateNormal(jnp.zeros(3), precision_matrix=precision).log_prob(data).sum()

    rate = 2 * np.eye(3) + np.einsum("nki,nkj->kij", data, data)
    return Program(prior, joint(prior, log_likelihood), dist.Wishart(jnp.full(2, 45.0), rate_matrix=jnp.asarray(rate)))


def cholesky_factor_of_a_wishart_precision():
    prior = dist.WishartCholesky(5.0, rate_matrix=2 * jnp.eye(3))

    def log_likelihood(factor):
        return dist.MultivariateNormal(jnp.zeros(3), precision_matrix=factor @ factor.T).log_prob(REALS).sum()

    rate = 2 * np.eye(3) + REALS.T @ REALS
    return Program(prior, joint(prior, log_likelihood), dist.WishartCholesky(45.0, rate_matrix=jnp.asarray(rate)))


def regression_coefficients_of_two_components():
    prior = dist.Normal(0.0, 2.0).expand([2, 4]).to_event(1)
    target = jnp.asarray(TARGETS)
    precision = np.eye(4) / 4 + DESIGN.T @ DESIGN / 0.09
    loc = np.linalg.solve(precision, DESIGN.T @ TARGETS / 0.09).T
    log_joint = joint(prior, lambda b: dist.Normal(DESIGN @ b.T, 0.3).log_prob(target).sum())
    return Program(prior, log_joint, dist.MultivariateNormal(loc, precision_matrix=jnp.asarray(precision)))


def multivariate_normal_mean():
    prior = dist.MultivariateNormal(jnp.ones(3), covariance_matrix=2 * jnp.eye(3) + 1)
    noise = np.array([[2.0, 0.5, 0.0], [0.5, 1.0, 0.2], [0.0, 0.2, 1.5]])
    prior_precision = np.linalg.inv(2 * np.eye(3) + 1)
    precision = prior_precision + 40 * noise
    loc = np.linalg.solve(precision, prior_precision @ np.ones(3) + noise @ REALS.sum(0))

    def log_likelihood(m):
        return dist.MultivariateNormal(m, precision_matrix=jnp.asarray(noise)).log_prob(REALS).sum()

    return Program(
        prior, joint(prior, log_likelihood), dist.MultivariateNormal(loc, precision_matrix=jnp.asarray(precision))
    )


def random_walk_coupled_across_the_whole_site():
    prior = dist.Normal(0.0, 1.0).expand([5])
    steps = np.diff(np.eye(5), axis=0)
    precision = np.eye(5) + 30 * steps.T @ steps
    loc = np.linalg.solve(precision, 30 * steps.T @ np.ones(4))
    log_joint = joint(prior, lambda m: -15 * jnp.sum((jnp.diff(m) - 1) ** 2))
    return Program(prior, log_joint, dist.MultivariateNormal(loc, precision_matrix=jnp.asarray(precision)))


PROGRAMS = [
    (normal_mean_with_a_large_offset, "Normal"),
    (hyper_mean_of_component_means, "Normal"),
    (gamma_rate_of_poisson_counts, "Gamma"),
    (exponential_prior_on_the_precision_of_a_normal, "Gamma"),
    (inverse_gamma_variance_of_a_normal, "InverseGamma"),
    (beta_probability_of_bernoulli_data, "Beta"),
    (stick_breaking_fractions, "Beta"),
    (fractions_of_a_long_stick, "Beta"),
    (dirichlet_weights, "Dirichlet"),
    (dirichlet_weights_that_the_program_normalises, "Dirichlet (normalised)"),
    (wishart_precision_of_normal_data, "Wishart"),
    (cholesky_factor_of_a_wishart_precision, "WishartCholesky"),
    (regression_coefficients_of_two_components, "Normal (blocks of size 4)"),
    (multivariate_normal_mean, "Normal (blocks of size 3)"),
    (random_walk_coupled_across_the_whole_site, "Normal (blocks of size 5)"),
]


@pytest.mark.parametrize(("program", "name"), PROGRAMS, ids=[program.__name__ for program, _ in PROGRAMS])
def test_recognised_conditional_is_the_textbook_posterior(program, name):
    """Recognised in float32 with errors under 1e-4; then solved in float64, equal to the textbook to 1e-10."""
    prior, log_joint, _ = program()
    verdict = recognise(prior, log_joint, prior.mean, jax.random.key(2))
    assert verdict.conditional is not None, verdict.reason
    assert verdict.conditional.name == name
    assert verdict.relative_error < 1e-4
    with jax.enable_x64():
        found = jax.device_get(jax.jit(partial(solve_and_compare, program, verdict.conditional))())
    np.testing.assert_allclose(found["mean"], found["posterior mean"], rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found["log prob"], found["posterior log prob"], rtol=1e-10, atol=1e-8)
    assert found["is proper"]
    if np.isfinite(found["log joint at mode"]):  # on the edge of a simplex it is not
        assert np.all(found["log joint near mode"] <= found["log joint at mode"])
        np.testing.assert_allclose(found["slope at mode"], 0.0, atol=1e-8 * (1.0 + np.abs(found["slope nearby"]).max()))


def solve_and_compare(program, conditional):
    prior, log_joint, posterior = program()
    exponent = conditional.solve(log_joint, conditional.probe(jnp.asarray(prior.mean)))
    mode = exponent.mode(prior.mean)
    noise = 1e-2 * np.random.default_rng(6).normal(size=(6, *mode.shape))
    value = conditional.displace(posterior.mean, noise[0])
    nearby = jax.vmap(conditional.displace, in_axes=(None, 0))(mode, noise)

    def slope(at):
        return jax.grad(lambda u: log_joint(conditional.displace(at, u)))(jnp.zeros_like(at))

    slopes = jax.vmap(slope)(jnp.stack([mode, nearby[0]]))  # one compilation
    return {
        "mean": exponent.mean(),
        "posterior mean": posterior.mean,
        "log prob": exponent.log_prob(value),
        "posterior log prob": jnp.sum(posterior.log_prob(value)),
        "is proper": exponent.is_proper(),
        "log joint at mode": log_joint(mode),
        "slope at mode": slopes[0],
        "slope nearby": slopes[1],
        "log joint near mode": jax.vmap(log_joint)(nearby),
    }


def logistic(b):
    return dist.Bernoulli(logits=DESIGN @ b).log_prob((DESIGN[:, 0] > 0).astype(float)).sum()


REFUSALS = {
    "a prior with no conjugate family": (
        dist.HalfNormal(1.0),
        lambda v: -v,
        r"^no conjugate family known for HalfNormal$",
    ),
    "logistic regression": (
        dist.Normal(0.0, 1.0).expand([4]),
        logistic,
        r"^the log joint is not linear in \(v, v v\^T\): relative error",
    ),
    "a saturated logistic": (
        dist.Normal(0.0, 1.0),
        lambda v: jax.nn.log_sigmoid(1e3 * v),
        r"^the log joint is not linear in \(v, v\^2\)",
    ),
    "a Gamma prior on a scale": (
        dist.Gamma(2.0, 1.0),
        lambda v: dist.Normal(1.0, v).log_prob(jnp.asarray(REALS)).sum(),
        r"^the log joint is not linear in \(log v, v\): relative error",
    ),
    "a Wishart prior on a covariance": (
        dist.WishartCholesky(5.0, scale_matrix=jnp.eye(3)),
        lambda f: dist.MultivariateNormal(jnp.zeros(3), scale_tril=f).log_prob(REALS).sum(),
        r"^the log joint is not linear in \(log det L L\^T, L L\^T\)",
    ),
    "Gamma elements that meet in a sum": (
        dist.Gamma(2.0, 1.0).expand([2]),
        lambda v: dist.Poisson(v.sum()).log_prob(jnp.arange(5.0)).sum(),
        r"^elements are coupled: relative error",
    ),
    "Dirichlet rows that meet in a product": (
        dist.Dirichlet(jnp.ones(3)).expand([2]),
        lambda w: 50 * jnp.log(jnp.sum(w[0] * w[1])),
        r"^blocks are coupled: relative error",
    ),
    "a Dirichlet likelihood that is linear in w": (
        dist.Dirichlet(jnp.ones(3)),
        lambda w: 5 * w[0],
        r"^the log joint is not linear in log w",
    ),
    "coupled elements, too many for one block": (
        dist.Normal(0.0, 1.0).expand([600]),
        lambda v: -jnp.sum(jnp.diff(v) ** 2),
        r"^elements are coupled.*one dense Normal over all 600 elements is not tried above 512$",
    ),
    "derivatives that are not finite": (
        dist.Normal(0.0, 1.0),
        lambda v: jnp.sqrt(v - 1e9),
        r"^the derivatives of the log joint are not finite",
    ),
    "an improper log joint": (
        dist.Normal(0.0, 1.0),
        lambda v: 0.77 * v**2 + 0.3 * v,
        r"linear in \(v, v\^2\): relative error .*cannot be normalised",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_and_says_why(case):
    prior, log_likelihood, reason = REFUSALS[case]
    verdict = recognise(prior, joint(prior, log_likelihood), prior.mean, jax.random.key(1))
    assert verdict.conditional is None
    assert verdict.relative_error > 0
    assert re.search(reason, verdict.reason), verdict.reason


def test_recognise_asks_for_a_value_of_the_site():
    prior = dist.Gamma(2.0, 1.0).expand([3])
    with pytest.raises(ValueError, match=r"current has shape \(2,\); the prior Gamma needs .* = \(3,\)"):
        recognise(prior, jnp.sum, jnp.ones(2), jax.random.key(0))
    with pytest.raises(TypeError, match="current has dtype int32"):
        recognise(prior, jnp.sum, jnp.ones(3, int), jax.random.key(0))


def test_conditionals_are_stateless_and_hashable():
    for prior in (dist.Normal(0, 1).expand([2, 3]), dist.Gamma(1, 1), dist.Dirichlet(jnp.ones(3))):
        assert candidates(prior) == candidates(prior)
        assert len(set(candidates(prior))) == len(candidates(prior))


def test_blocks_wider_than_the_limit_are_left_out_but_a_multivariate_normal_keeps_its_own():
    names = [option.name for option in candidates(dist.Normal(0, 1).expand([2, 600]))]
    assert names == ["Normal"]
    wide = dist.MultivariateNormal(jnp.zeros(600), scale_tril=jnp.eye(600))
    assert [option.name for option in candidates(wide)] == ["Normal (blocks of size 600)"]
