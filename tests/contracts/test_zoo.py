"""Every model of the zoo under every engine: one line fits, and everything a fit offers has the right shape."""

from functools import lru_cache

import numpy as np
import pytest

import vmix
from vmix.inference import EM, SVI, Gibbs
from vmix.models import (
    GMVAE,
    VAE,
    VAEGMM,
    BernoulliMixture,
    DirichletProcessMixture,
    GaussianMixture,
    InfiniteVaDE,
    VaDE,
)

ROWS, COLUMNS, K, DIM = 120, 16, 3, 2
NETWORK = {"latent_dim": DIM, "hidden": (12,)}
MODELS = {
    "GaussianMixture": GaussianMixture(num_components=K),
    "GaussianMixture full": GaussianMixture(num_components=K, covariance="full"),
    "BernoulliMixture": BernoulliMixture(num_components=K),
    "DirichletProcessMixture": DirichletProcessMixture(truncation=K),
    "VAE": VAE(**NETWORK),
    "GMVAE": GMVAE(num_components=K, mixture_hidden=(8,), **NETWORK),
    "GMVAE soft": GMVAE(num_components=K, mixture_hidden=(8,), relaxation="soft", **NETWORK),
    "GMVAE hard": GMVAE(num_components=K, mixture_hidden=(8,), relaxation="hard", **NETWORK),
    "VAEGMM": VAEGMM(num_components=K, pretrain_epochs=2, **NETWORK),
    "VaDE": VaDE(num_components=K, pretrain_epochs=2, covariance="diagonal", views=1, **NETWORK),
    "InfiniteVaDE": InfiniteVaDE(truncation=K, pretrain_epochs=2, views=1, **NETWORK),
}
ENGINES = {
    "EM": EM(num_sweeps=4, tolerance=None),
    "SVI": SVI(num_steps=6),
    "Gibbs": Gibbs(num_samples=5, num_warmup=3),
}
STEPS = {"EM": 4, "SVI": 6, "Gibbs": 8}
# each engine, and networks; all cells with -m "slow or not slow"
DEFAULT = {("BernoulliMixture", "Gibbs"), ("VAE", "SVI")}


@pytest.fixture(scope="module")
def x(digits):
    # the middle columns: the border of the digits is constant
    return digits.images.reshape(-1, 8, 8)[:ROWS, 2:6, 2:6].reshape(ROWS, COLUMNS)


@lru_cache
def zoo_fit(model, engine, seed=0):
    x = vmix.data.load("digits").images.reshape(-1, 8, 8)[:ROWS, 2:6, 2:6].reshape(ROWS, COLUMNS)
    return vmix.fit(MODELS[model], x, engine=ENGINES[engine], seed=seed)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((m, e), marks=[] if (m, e) in DEFAULT else pytest.mark.slow, id=f"{m}-{e}")
        for m in MODELS
        for e in ENGINES
    ],
)
def cell(request):
    model, engine = request.param
    return model, engine, zoo_fit(model, engine)


def has_latent(model):
    return "VA" in model.upper()


def test_objective_is_finite_at_every_step(cell):
    _, engine, fit = cell
    assert fit.history["objective"].shape == (STEPS[engine],)
    assert np.isfinite(fit.history["objective"]).all()
    assert fit.history["unit"] == "nats per datum"


def test_posterior_is_finite_and_draws_come_first(cell):
    _, engine, fit = cell
    for name, value in fit.posterior.items():
        assert np.isfinite(value).all(), name
        assert value.shape[: engine == "Gibbs"] == (5,) * (engine == "Gibbs")
        assert value.shape[engine == "Gibbs" :] == fit._plan.sites[name].shape


def test_predictions_are_distributions_over_components(cell, x):
    model, _, fit = cell
    if model == "VAE":
        with pytest.raises(ValueError, match="no discrete site"):
            fit.predict(x)
        return
    proba = fit.predict_proba(x)
    assert proba.shape == (ROWS, K)
    np.testing.assert_allclose(proba.sum(1), 1.0, atol=1e-5)
    np.testing.assert_array_equal(fit.predict(x), proba.argmax(1))


def test_codes_have_the_latent_s_dimension(cell, x):
    model, _, fit = cell
    if has_latent(model):
        codes = fit.transform(x)
        assert codes.shape == (ROWS, DIM) and np.isfinite(codes).all()
    else:
        with pytest.raises(ValueError, match="no latent"):
            fit.transform(x)


def test_score_is_the_mean_of_the_scores_of_the_data(cell, x):
    _, _, fit = cell
    each = fit.score_samples(x)
    assert each.shape == (ROWS,) and np.isfinite(each).all()
    assert fit.score(x) == pytest.approx(each.mean(), rel=1e-6)


def test_reconstructions_and_samples_look_like_the_data(cell, x):
    model, _, fit = cell
    assert fit.reconstruct(x).shape == (ROWS, COLUMNS)
    new = fit.sample(7, component=None if model == "VAE" else 1)
    assert new.shape == (7, COLUMNS) and np.isfinite(new).all()
    np.testing.assert_array_equal(new, fit.sample(7, component=None if model == "VAE" else 1))


def test_saved_and_loaded_fit_says_the_same(cell, x, tmp_path):
    model, _, fit = cell
    fit.save(tmp_path / "fit")
    again = vmix.load(tmp_path / "fit", program=None if _installed(model) else fit._plan.program.source)
    np.testing.assert_allclose(again.score_samples(x), fit.score_samples(x), rtol=1e-6)
    if model != "VAE":
        np.testing.assert_array_equal(again.predict_proba(x), fit.predict_proba(x))
    if has_latent(model):
        np.testing.assert_array_equal(again.transform(x), fit.transform(x))
    assert set(again.posterior) == set(fit.posterior)


def _installed(model):
    from importlib.metadata import entry_points

    return model.split()[0] in {entry.name for entry in entry_points(group="vmix.models")}
