"""Log-space arithmetic and categorical draws against float64 and SciPy: hard zeros, far gaps, impossible rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, logsumexp
from scipy.stats import chi2

from vmix.numerics import (
    cholesky_if_definite,
    draw_by_sums,
    log_normalise,
    responsibilities,
    safe_log,
    sample_categorical,
)

pytestmark = pytest.mark.usefixtures("strict_ranks")
INF = np.inf


def test_safe_log_is_log_with_exact_minus_infinity_at_zero():
    p = np.array([0.0, 1e-30, 0.5, 1.0])
    with np.errstate(divide="ignore"), jax.enable_x64():
        np.testing.assert_allclose(safe_log(jnp.asarray(p)), np.log(p), rtol=1e-15)


def test_safe_log_has_gradient_zero_at_zero_and_one_over_p_elsewhere():
    gradient = jax.grad(lambda p: jnp.sum(safe_log(p)))(jnp.array([0.0, 0.25]))
    np.testing.assert_array_equal(gradient, [0.0, 4.0])


def test_log_normalise_matches_scipy_with_hard_zeros():
    rng = np.random.default_rng(0)
    log_weights = rng.normal(size=(20, 7)) * 50
    log_weights[rng.random((20, 7)) < 0.4] = -INF
    log_weights[:, 0] = 400.0 * rng.normal(size=20)
    with jax.enable_x64():
        normalised, log_total = log_normalise(jnp.asarray(log_weights))
    np.testing.assert_allclose(log_total, logsumexp(log_weights, axis=1), rtol=1e-12)
    np.testing.assert_allclose(normalised, log_softmax(log_weights, axis=1), rtol=1e-12, atol=1e-12)


def test_log_normalise_keeps_an_impossible_row_impossible_without_nan():
    log_weights = jnp.array([[-INF, -INF], [0.0, -INF]])
    normalised, log_total = log_normalise(log_weights)
    np.testing.assert_array_equal(log_total, [-INF, 0.0])
    np.testing.assert_array_equal(normalised, [[-INF, -INF], [0.0, -INF]])


def test_log_normalise_gradient_is_the_probabilities_and_never_nan():
    log_weights = jnp.array([[-INF, -INF, -INF], [0.0, -INF, 1.0]])
    gradient = jax.grad(lambda a: log_normalise(a)[1][1])(log_weights)
    np.testing.assert_allclose(gradient, [[0, 0, 0], [0.26894143, 0, 0.73105857]], rtol=1e-6)
    for jacobian in jax.jacrev(log_normalise)(log_weights):
        assert np.all(np.isfinite(jacobian))


def test_sample_categorical_frequencies_match_the_probabilities():
    """Chi-squared on 200,000 draws; false alarms 1e-6."""
    log_weights = np.array([-INF, 3.0, 0.0, -2.0, -INF, 1.0, -INF])
    draws, _ = sample_categorical(jax.random.key(1), jnp.broadcast_to(jnp.asarray(log_weights), (200_000, 7)))
    observed = np.bincount(draws, minlength=7)
    expected = np.exp(log_weights - logsumexp(log_weights)) * 200_000
    assert np.all(observed[expected == 0] == 0)
    possible = expected > 0
    statistic = np.sum((observed - expected)[possible] ** 2 / expected[possible])
    assert statistic < chi2.isf(1e-6, possible.sum() - 1)


@pytest.mark.parametrize("num_entries", [20, 333])
@pytest.mark.parametrize("extreme", [0.0, np.nextafter(np.float32(1), np.float32(0))])
def test_sample_categorical_never_draws_an_impossible_index_at_either_end_of_the_uniform(
    monkeypatch, extreme, num_entries
):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, extreme, dtype))
    rng = np.random.default_rng(2)
    log_weights = rng.normal(size=(500, num_entries)).astype(np.float32) * 5
    log_weights[rng.random((500, num_entries)) < 0.6] = -INF
    log_weights[:, -5:] = -INF
    log_weights[:, 14] = 0.0
    draws = np.asarray(sample_categorical(jax.random.key(0), jnp.asarray(log_weights))[0])
    chosen = log_weights[np.arange(500), draws]
    assert np.all(np.isfinite(chosen))


def test_sample_categorical_survives_gaps_that_underflow():
    log_weights = jnp.array([[-1e4, -2e4, -1.2e4], [1e30, 0.0, -1e30]])
    np.testing.assert_array_equal(sample_categorical(jax.random.key(0), log_weights)[0], [0, 0])


def test_sample_categorical_marks_rows_without_a_distribution():
    log_weights = jnp.array([[-INF, -INF], [jnp.nan, 0.0], [0.0, -INF]])
    draws, total = sample_categorical(jax.random.key(0), log_weights)
    assert draws.dtype == jnp.int32
    np.testing.assert_array_equal(draws, [-1, -1, 0])
    np.testing.assert_array_equal(total, [-INF, np.nan, 0.0])


@pytest.mark.parametrize("num_entries", [1, 2, 32, 33, 200])
def test_sample_categorical_tells_the_log_of_the_total(num_entries):
    log_weights = np.random.default_rng(0).normal(size=(50, num_entries)) * 30
    log_weights[:, num_entries // 2 + 1 :: 2] = -INF
    total = sample_categorical(jax.random.key(0), jnp.asarray(log_weights, jnp.float32))[1]
    np.testing.assert_allclose(total, logsumexp(log_weights, axis=1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("smallest", [1.0, 1e-30, 2e-38])
@pytest.mark.parametrize("num_entries", [5, 40])
def test_draw_by_sums_ends_at_the_last_entry_with_a_weight(num_entries, smallest):
    """Whatever a product with the uniform number rounds to, and where a weight is lost beside the sum before it."""
    weights = np.zeros((num_entries, 3), np.float32)
    weights[1] = smallest
    weights[3, 1] = smallest * 1e-9
    weights[3, 2] = smallest
    uniform = jnp.full(3, np.nextafter(np.float32(1), np.float32(0)))
    drawn, total = draw_by_sums(jnp.asarray(weights), uniform)
    assert drawn[0] == 1 and drawn[1] in (1, 3) and drawn[2] == 3
    np.testing.assert_allclose(total, weights.sum(0), rtol=1e-6)
    np.testing.assert_array_equal(draw_by_sums(jnp.zeros((num_entries, 3)), uniform)[0], [-1, -1, -1])


def test_sample_categorical_asks_for_one_row_a_draw():
    with pytest.raises(ValueError, match=r"shape \(3,\); sample_categorical needs \(N, K\)"):
        sample_categorical(jax.random.key(0), jnp.zeros(3))


def test_cholesky_if_definite_factors_what_it_can_whatever_the_units():
    scale = jnp.array([1e-9, 1.0, 1e9])
    good = jnp.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.3], [0.1, 0.3, 1.5]]) * scale[:, None] * scale[None, :]
    bad = jnp.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    factor, definite = cholesky_if_definite(jnp.stack([good, bad, jnp.zeros((3, 3))]))
    np.testing.assert_array_equal(definite, [True, False, False])
    np.testing.assert_allclose(factor[0] @ factor[0].T, good, rtol=1e-5)
    np.testing.assert_array_equal(factor[1], jnp.eye(3))


def test_responsibilities_equal_softmax_in_float64():
    log_weights = jnp.asarray(np.random.default_rng(3).normal(0.0, 300.0, (50, 7)), jnp.float32).at[0].set(-jnp.inf)
    log_weights = log_weights.at[1, 2].set(-jnp.inf)
    shares, log_total = responsibilities(log_weights)
    wide = np.asarray(log_weights, np.float64)[1:]
    np.testing.assert_allclose(shares[1:], np.exp(log_softmax(wide, axis=1)), atol=1e-6)
    np.testing.assert_allclose(log_total[1:], logsumexp(wide, axis=1), rtol=1e-6)
    assert (shares[0] == 0).all() and np.isneginf(log_total[0])


def test_the_total_of_responsibilities_has_a_finite_gradient():
    log_weights = jnp.array([[-jnp.inf, -jnp.inf], [0.0, -jnp.inf]])
    gradient = jax.grad(lambda w: jnp.where(jnp.isfinite(t := responsibilities(w)[1]), t, 0.0).sum())(log_weights)
    np.testing.assert_array_equal(gradient, [[0.0, 0.0], [1.0, 0.0]])
