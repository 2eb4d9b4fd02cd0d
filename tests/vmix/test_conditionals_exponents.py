"""Exponents: probes far from the mode, likelihoods without a prior, draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import digamma, multigammaln, polygamma

from vmix.conditionals_contract import solved_twice
from vmix.conditionals_normal import (
    NormalBlocksConditional,
    NormalBlocksExponent,
    NormalConditional,
    NormalExponent,
)
from vmix.conditionals_scalar import (
    BetaConditional,
    BetaExponent,
    GammaConditional,
    GammaExponent,
    InverseGammaConditional,
    InverseGammaExponent,
)
from vmix.conditionals_simplex import DirichletConditional, DirichletExponent, SoftmaxDirichletConditional
from vmix.conditionals_wishart import (
    WishartCholeskyConditional,
    WishartCholeskyExponent,
    WishartConditional,
    WishartExponent,
)

pytestmark = pytest.mark.usefixtures("strict_ranks")
FAR = np.array([1e-6, 1e-3, 1.0, 1e3, 1e6], np.float32)
POSITIVE_DEFINITE = np.array([[2.0, 0.5, -0.3], [0.5, 1.0, 0.2], [-0.3, 0.2, 3.0]], np.float32)


def solved(conditional, log_density, probe):
    return jax.jit(lambda at: conditional.solve(log_density, at))(jnp.asarray(probe))


@pytest.mark.parametrize("concentration", [0.3, 2.0, 5e4])
def test_gamma_is_solved_in_float32_from_a_probe_a_million_times_too_small_or_large(concentration):
    power, rate = concentration - 1, concentration / FAR
    exponent = solved(GammaConditional(), lambda v: jnp.sum(power * jnp.log(v) - rate * v), np.ones(5, np.float32))
    np.testing.assert_allclose(exponent.power + 1, np.full(5, concentration), rtol=3e-6)
    np.testing.assert_allclose(exponent.rate, rate, rtol=3e-6)


@pytest.mark.parametrize("concentration", [0.3, 2.0, 5e4])
def test_inverse_gamma_is_solved_in_float32_from_a_probe_a_million_times_too_small_or_large(concentration):
    power, rate = concentration + 1, concentration * FAR
    exponent = solved(
        InverseGammaConditional(), lambda v: -jnp.sum(power * jnp.log(v) + rate / v), np.ones(5, np.float32)
    )
    np.testing.assert_allclose(exponent.power - 1, np.full(5, concentration), rtol=1e-5)
    np.testing.assert_allclose(exponent.rate, rate, rtol=1e-5)


def test_beta_keeps_a_small_concentration_beside_one_of_a_million():
    concentration1 = np.array([1e6, 0.5, 3.0, 1e4, 0.01], np.float32)
    concentration0 = np.array([0.5, 1e6, 1e4, 0.1, 0.01], np.float32)
    exponent = solved(
        BetaConditional(),
        lambda v: jnp.sum((concentration1 - 1) * jnp.log(v) + (concentration0 - 1) * jnp.log1p(-v)),
        np.full(5, 0.3, np.float32),
    )
    np.testing.assert_allclose(exponent.power1 + 1, concentration1, rtol=2e-5)
    np.testing.assert_allclose(exponent.power0 + 1, concentration0, rtol=2e-5)


@pytest.mark.parametrize("corner", [0, 4])
@pytest.mark.parametrize("conditional", [DirichletConditional(), SoftmaxDirichletConditional()], ids=lambda c: type(c))
def test_dirichlet_keeps_a_small_concentration_beside_one_of_a_million_from_a_probe_in_a_corner(conditional, corner):
    concentration = np.array([1e6, 1e3, 1.0, 0.5, 0.01], np.float32)

    def log_density(w):
        entries = w / w.sum() if isinstance(conditional, SoftmaxDirichletConditional) else w
        return jnp.sum((concentration - 1) * jnp.log(entries))

    exponent = solved(conditional, log_density, conditional.probe(jax.nn.one_hot(corner, 5)))
    np.testing.assert_allclose(exponent.power + 1, concentration, rtol=5e-4)
    np.testing.assert_allclose((exponent.power + 1)[:4], concentration[:4], rtol=5e-6)


def wishart_density(power, rate):
    def log_density(precision):
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(precision), axis1=-2, axis2=-1)))
        return power * log_det - 0.5 * jnp.sum(rate * precision)

    return log_density


@pytest.mark.parametrize("degrees_of_freedom", [4.0, 1e4])
def test_wishart_is_solved_in_float32_from_a_probe_a_million_times_too_small_or_large(degrees_of_freedom):
    rate = degrees_of_freedom * POSITIVE_DEFINITE * FAR[:, None, None]
    probe = np.broadcast_to(np.eye(3, dtype=np.float32), (5, 3, 3))
    exponent = solved(WishartConditional(), wishart_density((degrees_of_freedom - 4) / 2, rate), probe)
    np.testing.assert_allclose(exponent.degrees_of_freedom, np.full(5, degrees_of_freedom), rtol=3e-6)
    np.testing.assert_allclose(exponent.rate / FAR[:, None, None], rate / FAR[:, None, None], rtol=2e-5)
    np.testing.assert_array_equal(exponent.rate, exponent.rate.mT)


def test_normal_is_solved_in_float32_far_from_the_probe():
    loc, precision = np.array([1e6, -1e-3, 0.0, 50.0], np.float32), np.array([1e-4, 1e6, 1.0, 1e3], np.float32)

    def log_density(v):
        return -0.5 * jnp.sum(precision * (v - loc) ** 2)

    for conditional in (NormalConditional(), NormalBlocksConditional((4,))):
        exponent = solved(conditional, log_density, np.full(4, -3.0, np.float32))
        np.testing.assert_allclose(exponent.mean(), loc, rtol=1e-6, atol=1e-6)


def test_probe_is_interior_whatever_the_current_value():
    bad = np.array([np.nan, np.inf, 0.0, -1.0, 1e-30], np.float32)
    for conditional in (GammaConditional(), InverseGammaConditional()):
        assert np.all((conditional.probe(bad) > 0) & np.isfinite(conditional.probe(bad)))
    beta = BetaConditional().probe(np.array([np.nan, 0.0, 1.0, 2.0, 0.5], np.float32))
    assert np.all((beta > 0.01) & (beta < 0.99))
    rows = np.array([[np.nan, 1.0], [0.0, 0.0], [0.0, 1.0], [-1.0, 2.0]], np.float32)
    simplex = DirichletConditional().probe(rows)
    assert np.all(simplex > 0.01)
    np.testing.assert_allclose(simplex.sum(-1), np.ones(4), rtol=1e-6)
    matrices = np.stack([np.full((2, 2), np.nan), np.ones((2, 2)), np.zeros((2, 2)), np.eye(2)]).astype(np.float32)
    for conditional in (WishartConditional(), WishartCholeskyConditional()):
        assert np.all(np.linalg.eigvalsh(conditional.probe(matrices)) > 0.01)
    assert np.all(np.isfinite(NormalConditional().probe(bad)))


def test_mode_of_a_likelihood_without_data_is_the_fallback_and_never_nan():
    """Element or block 0 has data; 1 has none; 2 is unbounded or has its mode on an edge that is not in the support."""
    fallback = jnp.array([7.0, 7.0, 7.0])
    gamma = GammaExponent(jnp.array([4.0, 0.0, -0.5]), jnp.array([2.0, 0.0, 3.0]))
    np.testing.assert_array_equal(gamma.mode(fallback), [2, 7, 7])
    inverse_gamma = InverseGammaExponent(jnp.array([4.0, 0.0, 3.0]), jnp.array([2.0, 0.0, 0.0]))
    np.testing.assert_array_equal(inverse_gamma.mode(fallback), [0.5, 7, 7])
    normal = NormalExponent(jnp.zeros(3), jnp.array([4.0, 0.0, 1.0]), jnp.array([2.0, 0.0, -1.0]))
    np.testing.assert_array_equal(normal.mode(fallback), [2, 7, 7])
    precision = jnp.stack([2 * jnp.eye(2), jnp.zeros((2, 2)), jnp.ones((2, 2))])
    blocks = NormalBlocksExponent(jnp.zeros((3, 2)), jnp.array([[4.0, 2.0], [0.0, 0.0], [1.0, 1.0]]), precision)
    np.testing.assert_allclose(blocks.mode(jnp.full((3, 2), 7.0)), [[2, 1], [7, 7], [7, 7]], rtol=1e-6)
    dirichlet = DirichletExponent(jnp.array([[3.0, 1.0], [0.0, 0.0], [2.0, -0.5]]))
    np.testing.assert_array_equal(dirichlet.mode(jnp.full((3, 2), 0.5)), [[0.75, 0.25], [0.5, 0.5], [1, 0]])
    for family in (WishartExponent, WishartCholeskyExponent):
        mode = family(jnp.array([1.0, 0.0, -9.0]), jnp.stack([2 * jnp.eye(2), jnp.zeros((2, 2)), jnp.eye(2)])).mode(
            jnp.full((3, 2, 2), 7.0)
        )
        assert np.all(np.isfinite(mode)) and not np.any(mode[0] == 7)
        np.testing.assert_array_equal(mode[1:], np.full((2, 2, 2), 7))


def test_beta_mode_on_an_edge_stays_inside_the_interval():
    mode = BetaExponent(jnp.array([5.0, 0.0, 3.0, 0.0, -0.5]), jnp.array([0.0, 5.0, 1.0, 0.0, -0.5])).mode(
        jnp.full(5, 0.4)
    )
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(mode, [1 - eps, eps, 0.75, 0.4, 0.4], rtol=1e-7)


def test_improper_exponents_say_so():
    one = jnp.ones(())
    assert not GammaExponent(-1 * one, one).is_proper()
    assert not GammaExponent(one, 0 * one).is_proper()
    assert not InverseGammaExponent(one, one).is_proper()
    assert not BetaExponent(one, -1 * one).is_proper()
    assert not DirichletExponent(jnp.array([1.0, -1.5])).is_proper()
    assert not NormalExponent(one, one, 0 * one).is_proper()
    assert not NormalBlocksExponent(jnp.zeros(2), jnp.zeros(2), jnp.ones((2, 2))).is_proper()
    assert not WishartExponent(-1 * one, jnp.eye(2)).is_proper()
    assert WishartExponent(-0.5 * one, jnp.eye(2)).is_proper()


def assert_mean(draws, expected, variance):
    """Every mean within five standard errors: false alarms 6e-7 a number, 2e-5 for this file."""
    error = np.abs(np.mean(np.asarray(draws, np.float64), axis=0) - expected)
    np.testing.assert_array_less(error, 5 * np.sqrt(np.asarray(variance) / len(draws)) + 1e-30)


def draws_of(exponent, n=20_000):
    with jax.numpy_rank_promotion("allow"):  # inside NumPyro's Wishart
        return jax.jit(jax.vmap(exponent.sample))(jax.random.split(jax.random.key(11), n))


def test_gamma_and_inverse_gamma_draws_have_the_moments_of_their_family():
    concentration, rate = np.array([0.2, 3.0, 400.0]), np.array([1e-3, 2.0, 1e4])
    draws = draws_of(GammaExponent(jnp.asarray(concentration - 1), jnp.asarray(rate)))
    log_moments = digamma(concentration), polygamma(1, concentration)
    assert_mean(draws, concentration / rate, concentration / rate**2)
    assert_mean(np.log(draws), log_moments[0] - np.log(rate), log_moments[1])
    inverse = draws_of(InverseGammaExponent(jnp.asarray(concentration + 1), jnp.asarray(rate)))
    assert_mean(1 / inverse, concentration / rate, concentration / rate**2)
    assert_mean(np.log(inverse), np.log(rate) - log_moments[0], log_moments[1])


def test_beta_and_dirichlet_draws_have_the_moments_of_their_family():
    concentration = np.array([0.5, 2.0, 30.0])
    total = concentration.sum()
    mean = concentration / total
    variance = mean * (1 - mean) / (total + 1)
    draws = draws_of(DirichletExponent(jnp.asarray(concentration - 1)))
    np.testing.assert_allclose(draws.sum(-1), np.ones(20_000), rtol=1e-6)
    assert_mean(draws, mean, variance)
    assert_mean(draws**2, variance + mean**2, np.var(np.asarray(draws) ** 2, axis=0))
    beta = draws_of(BetaExponent(jnp.asarray(concentration - 1), jnp.asarray(total - concentration - 1)))
    assert_mean(beta, mean, variance)


def test_normal_draws_have_the_moments_of_their_family():
    precision = jnp.asarray(np.stack([POSITIVE_DEFINITE, 100 * POSITIVE_DEFINITE]))
    exponent = NormalBlocksExponent(jnp.full((2, 3), 5.0), jnp.ones((2, 3)), precision)
    centred = np.asarray(draws_of(exponent)) - np.asarray(exponent.mean())
    covariance = np.linalg.inv(precision)
    diagonal = np.diagonal(covariance, axis1=-2, axis2=-1)
    assert_mean(centred, np.zeros((2, 3)), diagonal)
    products = centred[..., :, None] * centred[..., None, :]
    assert_mean(products, covariance, diagonal[..., :, None] * diagonal[..., None, :] + covariance**2)
    elementwise = NormalExponent(jnp.full(2, 5.0), jnp.ones(2), jnp.array([0.5, 50.0]))
    centred = np.asarray(draws_of(elementwise)) - np.array([7.0, 5.02])
    assert_mean(centred, np.zeros(2), [2, 0.02])
    assert_mean(centred**2, np.array([2, 0.02]), 2 * np.array([2, 0.02]) ** 2)


def test_wishart_draws_have_the_moments_of_their_family():
    degrees_of_freedom, scale = np.array([2.5, 40.0]), np.linalg.inv(POSITIVE_DEFINITE)
    rate = jnp.broadcast_to(jnp.asarray(POSITIVE_DEFINITE), (2, 3, 3))
    power = jnp.asarray((degrees_of_freedom - 4) / 2)
    draws = np.asarray(draws_of(WishartExponent(power, rate)))
    np.testing.assert_array_equal(draws, np.swapaxes(draws, -1, -2))
    diagonal = np.diagonal(scale)
    variance = degrees_of_freedom[:, None, None] * (scale**2 + diagonal[:, None] * diagonal[None, :])
    assert_mean(draws, degrees_of_freedom[:, None, None] * scale, variance)
    factors = np.asarray(draws_of(WishartCholeskyExponent(power, rate)))
    halves = (degrees_of_freedom[:, None] - np.arange(3)) / 2
    log_det = 2 * np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(-1)
    expected = digamma(halves).sum(-1) + 3 * np.log(2) + np.linalg.slogdet(scale)[1]
    assert_mean(log_det, expected, polygamma(1, halves).sum(-1))


def test_draws_at_tiny_concentrations_stay_inside_the_support():
    tiny = jnp.full((50, 4), -0.999)
    one = jnp.ones((50, 4))
    for exponent in (DirichletExponent(tiny), BetaExponent(tiny, tiny), GammaExponent(tiny, one)):
        draws = draws_of(exponent, n=40)
        assert np.all((draws > 0) & np.isfinite(draws))
        assert isinstance(exponent, GammaExponent | DirichletExponent) or np.all(draws < 1)
    inverse = draws_of(InverseGammaExponent(1.001 * one, one), n=40)
    assert np.all((inverse > 0) & np.isfinite(inverse))


def test_wishart_log_prob_matches_the_textbook():
    power, nu, size = jnp.asarray(3.0), 2 * 3.0 + 4, 3
    rate, value = POSITIVE_DEFINITE, np.eye(3, dtype=np.float32) + 0.1
    expected = (
        3.0 * np.linalg.slogdet(value)[1]
        - 0.5 * np.trace(rate @ value)
        + 0.5 * nu * (np.linalg.slogdet(rate)[1] - size * np.log(2))
        - multigammaln(nu / 2, size)
    )
    with jax.numpy_rank_promotion("allow"):  # inside NumPyro
        found = WishartExponent(power, jnp.asarray(rate)).log_prob(jnp.asarray(value))
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("spread", [1e-3, 1.0, 1e3])
def test_wishart_is_solved_from_a_probe_far_from_its_mean(spread):
    """At the identity one of the two terms of the gradient is lost beside the other; the second solve finds it."""
    x = spread * np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
    scatter = jnp.asarray(x.T @ x)

    def log_density(precision):
        return 150.0 * jnp.linalg.slogdet(precision)[1].sum() - 0.5 * (scatter * precision[0]).sum()

    found = jax.jit(lambda p: WishartConditional().solve(log_density, p))(jnp.eye(3)[None])
    np.testing.assert_allclose(found.power, 150.0, rtol=1e-4)
    np.testing.assert_allclose(found.rate[0], scatter, rtol=1e-3, atol=1e-3 * float(scatter.max()))


@pytest.mark.parametrize(
    ("near", "place"), [(None, 1.0), (lambda value, moved: moved > 0.5, 0.0), (lambda value, moved: moved > 5.0, 1.0)]
)
def test_second_solve_is_left_out_where_the_first_value_was_near(near, place):
    found = solved_twice(lambda value: value, lambda value, solution: value + 1.0, jnp.zeros(()), near=near)
    assert float(found) == place
