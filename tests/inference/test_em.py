"""EM against scikit-learn's, against itself, and against gradient ascent on the same objective."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture as PeerMixture

import vmix
from vmix.inference import EM
from vmix.models import GaussianMixture

SWEEPS = 25


def overlapping(num_rows: int = 900) -> np.ndarray:
    rng = np.random.default_rng(0)
    loc = np.array([[0.0, 0.0, 0.0], [3.0, 1.0, 0.0], [0.0, 3.0, 2.0]])
    mix = np.array([[1.0, 0.4, 0.0], [0.0, 0.8, 0.3], [0.2, 0.0, 1.2]])
    return loc[rng.choice(3, num_rows, p=[0.5, 0.3, 0.2])] + rng.normal(size=(num_rows, 3)) @ mix


def same_start(x: np.ndarray) -> dict[str, np.ndarray]:
    return {"w": np.full(3, 1 / 3), "loc": x[[10, 500, 800]], "precision": np.ones((3, 3))}


def peer(x: np.ndarray, start: dict[str, np.ndarray], covariance: str) -> PeerMixture:
    short = {"diagonal": "diag", "full": "full"}[covariance]
    model = PeerMixture(
        3,
        covariance_type=short,
        tol=0.0,
        reg_covar=0.0,
        max_iter=SWEEPS,
        weights_init=start["w"],
        means_init=start["loc"],
        precisions_init=start["precision"],
        random_state=0,
    )
    with warnings.catch_warnings():
        # every one of the SWEEPS is wanted
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x)


@pytest.mark.parametrize("covariance", ["diagonal", pytest.param("full", marks=pytest.mark.slow)])
def test_maximum_likelihood_equals_scikit_learn_sweep_for_sweep(covariance):
    x = overlapping()
    start = same_start(x)
    if covariance == "full":
        start["precision"] = np.broadcast_to(np.eye(3), (3, 3, 3)).copy()
    engine = EM(num_sweeps=SWEEPS, estimate="ml", tolerance=None)
    fit = vmix.fit(GaussianMixture(num_components=3, covariance=covariance), x, engine=engine, seed=0, init=start)
    other = peer(x, start, covariance)
    assert fit.score(x) == pytest.approx(other.score(x), abs=1e-4)
    np.testing.assert_allclose(fit.posterior["w"], other.weights_, atol=1e-3)
    np.testing.assert_allclose(fit.posterior["loc"], other.means_, atol=5e-3)
    np.testing.assert_allclose(fit.posterior["precision"], other.precisions_, rtol=1e-2, atol=1e-2)
    objective = fit.history["objective"].astype(float)
    assert np.diff(objective).min() >= -1e-6 * np.abs(objective).max()
    assert objective[-1] == pytest.approx(other.score(x), abs=1e-3)


@pytest.mark.slow
def test_constant_column_stays_finite():
    x = overlapping(300)
    x[:, 1] = 7.0
    with pytest.warns(UserWarning, match=r"x has 1 constant column \(1\)"):
        fit = vmix.fit(GaussianMixture(num_components=3), x, engine=EM(num_sweeps=60, tolerance=1e-4), seed=0)
    assert all(np.isfinite(value).all() for value in fit.posterior.values())
    assert np.isfinite(fit.score(x))
    np.testing.assert_allclose(fit.posterior["loc"][:, 1], 7.0, atol=1e-3)


@pytest.mark.slow
def test_offset_of_ten_thousand_changes_only_the_means():
    # multiples of 2^-8 stay exact in float32 beside 1e4, so any difference is the arithmetic's own
    x = np.round(overlapping(400) * 256) / 256
    model, engine = GaussianMixture(num_components=3), EM(num_sweeps=20, tolerance=None)
    here = vmix.fit(model, x, engine=engine, seed=0)
    there = vmix.fit(model, x + 1e4, engine=engine, seed=0)
    np.testing.assert_allclose(there.posterior["loc"] - 1e4, here.posterior["loc"], atol=5e-3)
    np.testing.assert_allclose(there.posterior["precision"], here.posterior["precision"], rtol=5e-3)
    np.testing.assert_allclose(there.predict_proba(x + 1e4), here.predict_proba(x), atol=5e-3)
    assert there.score(x + 1e4) == pytest.approx(here.score(x), abs=1e-3)
