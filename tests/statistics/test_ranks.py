"""Ranks against closed forms: uniform where draws are exact, and not where they are shifted, narrow or wide."""

import numpy as np
import pytest

from benchmarks._ranks import histogram, judge, ranks

NUM_SIMULATIONS, NUM_DRAWS = 2000, 31
LIMIT = 1e-4  # false alarms of each p-value


def normal_posterior(*, shift=0.0, scale=1.0):
    """Ranks of m ~ N(0, 1) among draws of its posterior given x ~ N(m, 1), which is N(x / 2, 1 / 2)."""
    rng = np.random.default_rng(0)
    m = rng.normal(size=NUM_SIMULATIONS)
    x = m + rng.normal(size=NUM_SIMULATIONS)
    noise = rng.normal(size=(NUM_SIMULATIONS, NUM_DRAWS))
    draws = x[:, None] / 2 + shift + scale * np.sqrt(0.5) * noise
    return judge(ranks(m, draws, seed=1), num_draws=NUM_DRAWS, seed=2)


def test_ranks_among_draws_of_the_exact_posterior_are_uniform():
    found = normal_posterior()
    assert min(found.chi2, found.ks) > LIMIT
    assert abs(found.shift) < 0.03 and abs(found.spread - 1) < 0.1


@pytest.mark.parametrize(("options", "test"), [({"shift": 0.15}, "ks"), ({"scale": 0.8}, "chi2")])
def test_draws_that_are_shifted_or_too_narrow_are_seen(options, test):
    assert getattr(normal_posterior(**options), test) < LIMIT


def test_narrow_draws_spread_the_ranks_and_low_ones_shift_them_up():
    assert normal_posterior(scale=0.8).spread > 1.1
    assert normal_posterior(scale=1.25).spread < 0.9
    assert normal_posterior(shift=-0.2).shift > 0.05


def test_ranks_count_draws_below_and_break_ties_at_random():
    assert ranks(np.array([0.5, 2.0]), np.array([[0.0, 1.0, 2.0], [0.0, 1.0, 1.5]]), seed=0).tolist() == [1, 3]
    tied = ranks(np.zeros(8000), np.zeros((8000, 3)), seed=0)
    # four equally likely ranks: five standard errors of a count
    assert np.abs(np.bincount(tied, minlength=4) - 2000).max() < 5 * np.sqrt(8000 * 3 / 16)


def test_bins_hold_as_many_ranks_each():
    assert histogram(np.arange(32), num_draws=31).tolist() == [2] * 16
    with pytest.raises(ValueError, match="31 ranks do not divide into 16 bins: take 31 draws"):
        histogram(np.arange(31), num_draws=30)


def test_what_cannot_be_ranked_is_refused():
    with pytest.raises(ValueError, match="finite"):
        ranks(np.array([np.nan]), np.zeros((1, 3)), seed=0)
    with pytest.raises(ValueError, match=r"draws \(M, L\)"):
        ranks(np.zeros(2), np.zeros((3, 3)), seed=0)
