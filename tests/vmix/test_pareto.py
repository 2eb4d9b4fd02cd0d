"""The shape of a Pareto tail: that of draws whose shape is known, and what NumPyro finds."""

import numpy as np
import pytest
from scipy import stats

from vmix.pareto import fit_shape, khat


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.8, 1.2])
def test_the_shape_of_pareto_draws_is_found(shape):
    draws = np.sort(stats.genpareto(shape).rvs(2_000, random_state=1))
    # the standard error of the maximum likelihood estimate is (1 + k) / sqrt(n); false alarms: 1 in 15,000 each
    assert abs(fit_shape(draws) - shape) < 4 * (1 + shape) / np.sqrt(2_000)


def test_it_is_what_numpyro_finds():
    from numpyro.infer.importance import _psis_khat

    generator = np.random.default_rng(0)
    for size in (100, 1_000, 4_000):
        for log_weights in (
            generator.normal(size=size),
            3 * generator.normal(size=size),
            generator.exponential(size=size),
        ):
            assert khat(log_weights) == pytest.approx(_psis_khat(log_weights), rel=1e-10)


def test_weights_without_a_tail_or_that_are_no_numbers_have_a_shape_too():
    assert khat(np.zeros(100)) == -np.inf
    assert khat(np.r_[np.zeros(99), np.nan]) == np.inf
    assert khat(np.r_[np.full(50, -np.inf), np.random.default_rng(0).normal(size=950)]) < 0.7
    with pytest.raises(ValueError, match="20 weights are given; expected at least 25"):
        khat(np.zeros(20))
