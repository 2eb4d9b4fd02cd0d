"""Networks with Gaussian pixels work in the units of their data."""

from __future__ import annotations

import numpy as np
import pytest

import vmix
from vmix.inference import SVI
from vmix.models import VAE

SCALE = 1024.0  # a power of two: nothing is rounded


@pytest.fixture(scope="module")
def fits():
    """The same data in two units."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(120, 2)) @ rng.normal(size=(2, 6)) + 0.1 * rng.normal(size=(120, 6))).astype(np.float32)
    model, engine = VAE(latent_dim=2, hidden=(8,), pixels="gaussian"), SVI(num_steps=300, learning_rate=1e-2)
    return [(x * s, vmix.fit(model, x * s, engine=engine, seed=0)) for s in (1.0, SCALE)]


def test_codes_do_not_depend_on_the_unit(fits):
    (x, plain), (y, scaled) = fits
    np.testing.assert_array_equal(plain.transform(x), scaled.transform(y))
    np.testing.assert_allclose(SCALE * plain.reconstruct(x), scaled.reconstruct(y), rtol=1e-5, atol=1e-3)


def test_density_changes_by_the_jacobian(fits):
    (x, plain), (y, scaled) = fits
    assert plain.score(x) - scaled.score(y) == pytest.approx(x.shape[1] * np.log(SCALE), abs=1e-3)


def test_data_of_a_small_unit_far_from_zero_are_explained():
    rng = np.random.default_rng(1)
    x = (rng.normal(size=(200, 1)) @ rng.normal(size=(1, 8)) + 0.1 * rng.normal(size=(200, 8))).astype(np.float32)
    x = 1e-2 * x + 0.5
    model = VAE(latent_dim=1, hidden=(8,), pixels="gaussian")
    fit = vmix.fit(model, x, engine=SVI(num_steps=600, learning_rate=1e-2), seed=0)
    left = np.square(fit.reconstruct(x) - x).mean() / x.var(0).mean()
    assert left < 0.2


def test_units_do_not_move_and_columns_that_are_constant_are_no_unit():
    x = np.ones((30, 3), np.float32)
    fit = vmix.fit(VAE(latent_dim=1, hidden=(4,), pixels="gaussian"), x, engine=SVI(num_steps=5), seed=0)
    units = fit.params["decoder$params"]["units"]
    assert np.all(units["centre"] == 1.0) and units["spread"] == 1.0
