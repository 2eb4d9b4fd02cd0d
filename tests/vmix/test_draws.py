"""Gamma draws have the law that they claim, from tiny to huge concentrations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from vmix.draws import log_gamma_draws

N = 20_000


@pytest.mark.parametrize("concentration", [0.02, 0.5, 1.0, 1.7, 30.0, 1e4])
def test_draws_follow_the_gamma_law(concentration):
    draws = np.asarray(log_gamma_draws(jax.random.key(3), jnp.full(N, concentration)), np.float64)
    assert np.isfinite(draws).all()
    law = stats.loggamma(concentration)
    assert stats.kstest(draws, law.cdf).pvalue > 1e-3


def test_logarithms_of_tiny_draws_are_finite():
    draws = np.asarray(log_gamma_draws(jax.random.key(0), jnp.full(1_000, 1e-3)))
    assert np.isfinite(draws).all() and draws.min() < -100


def test_elements_of_several_concentrations_are_independent():
    concentration = jnp.array([0.3, 2.0, 50.0])
    draws = np.asarray(jax.vmap(lambda k: log_gamma_draws(k, concentration))(jax.random.split(jax.random.key(1), N)))
    correlation = np.corrcoef(draws.T)
    np.testing.assert_allclose(correlation, np.eye(3), atol=4 / np.sqrt(N))


def test_what_has_no_law_is_not_a_number():
    draws = np.asarray(log_gamma_draws(jax.random.key(0), jnp.array([jnp.nan, -1.0, 0.0, 2.0])))
    assert np.isnan(draws[:3]).all() and np.isfinite(draws[3])
