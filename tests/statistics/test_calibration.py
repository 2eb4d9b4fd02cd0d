"""Simulation-based calibration of Gibbs: ranks of simulated truths among posterior draws are uniform.

Every p-value must be above 1e-4. A model has at most 16 statistics and two tests of each, so a right sampler fails with
probability 3e-3 a model at most; seeds are fixed. `benchmarks/calibration.py` records the same at full size.
"""

import numpy as np
import pytest

from benchmarks._calibration import STUDIES, Chain, Factors, simulate
from benchmarks.calibration import LIMIT, NUM_DRAWS, judged, ranked_by_svi
from vmix.inference import gibbs
from vmix.updates import draw


def smallest(name, *, num_simulations, chain):
    truth, draws = simulate(STUDIES[name], sampler=chain, num_simulations=num_simulations, num_draws=NUM_DRAWS, seed=1)
    verdicts = judged(truth, draws, seed=1)[1]
    assert len(verdicts) <= 16
    return {quantity: min(found.chi2, found.ks) for quantity, found in verdicts.items()}


def test_ranks_of_a_small_study_are_uniform():
    found = smallest("BernoulliMixture", num_simulations=200, chain=Chain(num_warmup=40, thin=4))
    assert min(found.values()) > LIMIT, found


def test_what_svi_is_ranked_by_hangs_on_no_latent():
    """SVI has no draws of a document's shares: other shares, the same figures."""
    study, rng = STUDIES["LDA"], np.random.default_rng(0)
    phi = rng.dirichlet(np.ones(5), 2)
    one, other = (study.quantities({"phi": phi, "theta": rng.dirichlet(np.ones(2), 6)}, ()) for _ in range(2))
    assert {name for name in one if one[name] == other[name]} == set(ranked_by_svi(study, one))


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_gibbs_is_calibrated(name):
    found = smallest(name, num_simulations=1000, chain=STUDIES[name].chain)
    assert min(found.values()) > LIMIT, found


@pytest.mark.slow
def test_weights_drawn_too_evenly_are_seen(monkeypatch):
    """A tenth of the way to even weights, where the posterior is wide: the ranks see it."""

    def broken(*args, **options):
        values = draw(*args, **options)
        return values | {"w": 0.9 * values["w"] + 0.1 / values["w"].shape[-1]}

    monkeypatch.setattr(gibbs, "draw", broken)
    found = smallest("BernoulliMixture", num_simulations=1000, chain=Chain(num_warmup=50, thin=5))
    assert min(found.values()) < LIMIT, found


@pytest.mark.slow
def test_ranks_see_that_svi_s_factors_are_not_the_posterior():
    truth, draws = simulate(
        STUDIES["GaussianMixture"],
        sampler=Factors(num_steps=800),
        num_simulations=500,
        num_draws=NUM_DRAWS,
        seed=1,
        start_at_truth=True,
    )
    verdicts = judged(truth, draws, seed=1)[1]
    assert min(min(v.chi2, v.ks) for v in verdicts.values()) < LIMIT
