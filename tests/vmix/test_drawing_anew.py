"""New data of a program with covariates: each row hangs on those it is given."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.inference import EM


def line(u, y):
    slope = numpyro.sample("slope", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", u.shape[0]):
        numpyro.sample("y", dist.Normal(slope * u, 0.1), obs=y)


@pytest.fixture(scope="module")
def fit():
    u = np.linspace(-1.0, 1.0, 40).astype(np.float32)
    return vmix.fit(line, u, 3 * u, engine=EM(num_sweeps=3, tolerance=None), seed=0, progress=False)


def test_draws_follow_the_covariates_given_and_not_the_data_beside_them(fit, tmp_path):
    """Exactly, in the mean; the draws by five standard errors of their scale, 0.1."""
    u = np.array([0.0, 2.0, -5.0], np.float32)
    means = fit.sample(3, given=(u, np.full(3, 99.0)), mean=True)
    np.testing.assert_allclose(means, float(fit.posterior["slope"]) * u, rtol=1e-6)
    drawn = fit.sample(3, given=(u, np.zeros(3)), seed=1)
    assert 0 < np.abs(drawn - means).max() < 0.5
    fit.save(tmp_path / "fit")
    again = vmix.load(tmp_path / "fit", program=line).sample(3, given=(u, np.zeros(3)), seed=1)
    np.testing.assert_array_equal(again, drawn)


def test_given_is_one_row_a_sample_of_every_array(fit):
    with pytest.raises(ValueError, match="given has 2 rows; expected one for each of 3 samples"):
        fit.sample(3, given=(np.ones(2), np.ones(2)))
    with pytest.raises(ValueError, match="1 data array.* given; the program was fitted to 2"):
        fit.sample(3, given=(np.ones(3),))


@pytest.mark.parametrize("is_loaded", [False, True])
def test_covariates_are_asked_for_by_name_where_none_are_given(fit, tmp_path, is_loaded):
    if is_loaded:
        fit.save(tmp_path / "fit")
        fit = vmix.load(tmp_path / "fit", program=line)
    with pytest.raises(ValueError, match=r"draws of program line hang on data\[0\], .* 3 row.* given=\(...\)"):
        fit.sample(3)


def two_sites(x, y, kept):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", x.shape[0]), numpyro.handlers.mask(mask=kept > 0):
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        numpyro.sample("y", dist.Binomial(y.astype(int) + 1, 0.5), obs=y)


def test_arrays_that_are_observed_or_mask_data_are_not_asked_for():
    """The totals of y are read off y itself, which a site observes."""
    x = np.linspace(-1.0, 1.0, 40).astype(np.float32)
    data = x, np.arange(40) % 3, np.ones(40, np.float32)
    fit = vmix.fit(two_sites, *data, engine=EM(num_sweeps=2, tolerance=None), seed=0, progress=False)
    assert {name: drawn.shape for name, drawn in fit.sample(3).items()} == {"x": (3,), "y": (3,)}
