"""k-hat and gradients of SVI: a factor that is the posterior passes, one that is far from it is told."""

from dataclasses import replace

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix import importance
from vmix.diagnosing import of_gradients, of_weights
from vmix.inference import SVI

Y = np.random.default_rng(0).normal(1.5, 1.0, 30).astype(np.float32)


def one_mean(y):
    m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


@pytest.fixture(scope="module")
def fit():
    found = vmix.fit(one_mean, Y, engine=SVI(guide="normal", num_steps=40), seed=0)
    precision = len(Y) + 1 / 25
    found.factors = {"m": {"loc": np.float32(Y.sum() / precision), "scale": np.float32(precision**-0.5)}}
    return found


def test_the_posterior_itself_has_weights_that_are_all_the_log_evidence(fit):
    import jax
    from scipy.stats import multivariate_normal

    weights = importance.of_globals(fit, (Y,), key=jax.random.key(0))
    evidence = multivariate_normal(cov=np.eye(len(Y)) + 25.0).logpdf(Y)
    np.testing.assert_allclose(weights, evidence, atol=1e-3)


def test_a_factor_that_is_too_narrow_is_told(fit):
    wide = {"m": {**fit.factors["m"], "scale": 1.3 * fit.factors["m"]["scale"]}}
    narrow = {"m": {**fit.factors["m"], "scale": 0.1 * fit.factors["m"]["scale"]}}
    (good,), (bad,) = (of_weights(replace(fit, factors=factors), (Y,)) for factors in (wide, narrow))
    assert good.good and not bad.good and "k-hat" in bad.text and "Gibbs()" in bad.remedy


def test_some_rows_only_are_not_judged(fit):
    assert of_weights(fit, (Y[:10],)) == []


def test_the_factors_of_a_fit_are_kept_with_it(fit, tmp_path):
    fit.save(tmp_path)
    again = vmix.load(tmp_path, program=one_mean)
    assert again.factors["m"]["scale"] == fit.factors["m"]["scale"]


def test_gradients_are_recorded_and_fall(fit):
    norms = fit.history["gradient_norm"]
    assert norms.shape == (40,) and np.isfinite(norms).all() and (norms > 0).all()


def test_gradients_that_are_cut_or_leap_are_told(fit):
    def judged(norms):
        (found,) = of_gradients(replace(fit, history={**fit.history, "gradient_norm": np.asarray(norms)}))
        return found

    calm = np.r_[np.full(180, 9.0), np.full(20, 0.1)]
    assert judged(calm).good
    assert not judged(np.r_[calm[:-1], 50.0]).good
    cut = judged(np.full(200, 500.0))
    assert not cut.good and "100% of the last are above 100" in cut.text and "learning_rate" in cut.remedy
    assert of_gradients(replace(fit, history={"objective": np.zeros(3)})) == []


@pytest.mark.slow
def test_an_encoder_is_judged_row_by_row():
    from vmix.models import VAE

    x = (np.random.default_rng(0).uniform(size=(64, 9)) < 0.4).astype(np.float32)
    found = vmix.fit(VAE(latent_dim=2, hidden=(8,)), x, engine=SVI(num_steps=30, batch_size=16), seed=0)
    (finding,) = of_weights(found, (x,))
    assert finding.name == "encoder's k-hat" and "of 64 rows" in finding.text
    import jax

    weights = importance.of_encoder(found, (x,), key=jax.random.key(0))
    # the average weight is an unbiased estimate of the evidence, which the bound never exceeds (Jensen)
    assert (
        np.log(np.exp(weights - weights.max(1, keepdims=True)).mean(1)).mean() + weights.max(1).mean() > weights.mean()
    )
