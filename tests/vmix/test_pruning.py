"""Pruning leaves out the components that hold no data, and nothing else changes."""

import jax.numpy as jnp
import numpy as np
import pytest

import vmix
from vmix.inference import EM, Gibbs
from vmix.models import DirichletProcessMixture, GaussianMixture
from vmix.priors import kept_sticks, stick_breaking

RNG = np.random.default_rng(0)
X = (np.repeat([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]], 40, 0) + RNG.normal(size=(120, 2))).astype(np.float32)
MODEL = DirichletProcessMixture(truncation=8, concentration=0.5)


@pytest.fixture(scope="module")
def fit():
    return vmix.fit(MODEL, X, engine=EM(num_sweeps=200), seed=0)


@pytest.fixture(scope="module")
def small(fit):
    return fit.prune(X, least=0.05)


def test_kept_sticks_share_the_weights_of_the_others():
    v = RNG.uniform(0.1, 0.9, 7)
    keep = np.array([6, 1, 7])
    w = np.asarray(stick_breaking(jnp.asarray(v)))[keep]
    np.testing.assert_allclose(stick_breaking(kept_sticks(jnp.asarray(v), keep)), w / w.sum(), rtol=1e-4)


def test_pruned_fit_predicts_the_same_components_in_their_old_order(fit, small):
    shares = fit.predict_proba(X)
    keep = np.flatnonzero(shares.mean(0) >= 0.05)
    assert small.num_components == len(keep) == fit.components_used(X, least=0.05) < 8
    certain = shares[:, keep].sum(1) > 0.999
    assert certain.mean() > 0.5
    np.testing.assert_array_equal(keep[small.predict(X[certain])], fit.predict(X[certain]))
    np.testing.assert_array_equal(small.posterior["loc"], fit.posterior["loc"][keep])
    assert small.settings["model"]["truncation"] == len(keep)


def test_pruned_fit_is_saved_and_loaded(small, tmp_path):
    small.save(tmp_path / "run")
    again = vmix.load(tmp_path / "run")
    assert again.num_components == small.num_components
    np.testing.assert_allclose(again.predict_proba(X), small.predict_proba(X), atol=1e-6)


@pytest.mark.slow
def test_gibbs_tells_how_sure_the_number_of_components_is():
    fit = vmix.fit(MODEL, X, engine=Gibbs(num_samples=60, num_warmup=40), seed=0)
    used = fit.components_used(X, least=0.02)
    assert used.shape == (32,) and used.min() >= 3 and np.median(used) <= 5
    small = fit.prune(X, least=0.02)
    assert small.posterior["loc"].shape == (60, small.num_components, 2)
    assert small.predict(X).max() < small.num_components <= 8


@pytest.mark.slow
def test_pruning_says_what_it_cannot_do(fit):
    with pytest.raises(ValueError, match=r"least must be a share of the data in \[0, 1\), found 2"):
        fit.components_used(X, least=2)
    with pytest.raises(ValueError, match="at least 2 have to stay: give a smaller `least`"):
        fit.prune(X, least=0.9)
    other = vmix.fit(GaussianMixture(num_components=2), X, engine=EM(num_sweeps=2, tolerance=None), seed=0)
    with pytest.raises(TypeError, match="GaussianMixture cannot be pruned.*no method `pruned"):
        other.prune(X)


def test_samples_of_one_component_after_another_are_its_own(small):
    """All components share one compiled function."""
    for k in range(small.num_components):
        drawn = small.sample(200, component=k, seed=1)
        spread = 5.0 / np.sqrt(200 * small.posterior["precision"][k])
        assert (np.abs(drawn.mean(0) - small.posterior["loc"][k]) < spread).all()
