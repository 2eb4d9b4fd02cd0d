"""The prior on covariances of the mixtures: the spread asked for, with the weight of one row."""

import numpy as np
import pytest
from numpyro.handlers import seed, trace

import vmix
from vmix.inference import EM
from vmix.models import HMM, DirichletProcessMixture, GaussianMixture

RNG = np.random.default_rng(0)
SPREAD = (2.0, 0.5, 3.0)
FEW = RNG.normal(size=(7, 3)).astype(np.float32) @ np.array([[1, 0.5, 0], [0, 1, -0.3], [0, 0, 1]], np.float32)


def mode(x, spread):
    """Covariance of one component at the mode, about its mean."""
    rest = x - x.mean(0)
    return (np.diag(np.square(spread)) + rest.T @ rest) / (len(x) + 1)


@pytest.mark.parametrize("covariance", ["diagonal", "full", "tied"])
def test_covariance_is_that_of_the_rows_and_one_more(covariance):
    model = GaussianMixture(num_components=1, covariance=covariance, spread=SPREAD, loc=(0.0,) * 3, scale=(1e4,) * 3)
    fit = vmix.fit(model, FEW, engine=EM(num_sweeps=50), seed=0, progress=False)
    precision = np.asarray(fit.posterior["precision"], float)
    expected = mode(FEW, SPREAD)
    if covariance == "diagonal":
        np.testing.assert_allclose(1 / precision[0], np.diag(expected), rtol=1e-3)
    else:
        np.testing.assert_allclose(np.linalg.inv(precision.reshape(3, 3)), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_sequences_have_the_same_prior(covariance):
    model = HMM(num_components=1, covariance=covariance, spread=SPREAD, loc=(0.0,) * 3, scale=(1e4,) * 3)
    fit = vmix.fit(model, FEW[None], engine=EM(num_sweeps=50), seed=0, progress=False)
    precision = np.asarray(fit.posterior["precision"], float)[0]
    found = np.diag(1 / precision) if covariance == "diagonal" else np.linalg.inv(precision)
    expected = mode(FEW, SPREAD)
    np.testing.assert_allclose(found, np.diag(np.diag(expected)) if covariance == "diagonal" else expected, atol=1e-3)


@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_an_open_number_of_components_changes_nothing_of_their_prior(covariance):
    options = {"covariance": covariance, "spread": SPREAD, "loc": (0.0,) * 3, "scale": (1.0,) * 3}
    one = GaussianMixture(num_components=4, concentration=4.0, **options)
    other = DirichletProcessMixture(truncation=4, **options)
    sites = [trace(seed(model.model, 0)).get_trace(FEW)["precision"] for model in (one, other)]
    densities = [float(site["fn"].log_prob(sites[0]["value"]).sum()) for site in sites]
    assert densities[0] == densities[1]
