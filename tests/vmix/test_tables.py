"""Tables with names in, and tables with the same names out; ArviZ with names."""

import numpy as np
import pytest
import xarray

import vmix
from vmix.inference import EM, Gibbs
from vmix.models import HMM, GaussianMixture
from vmix.tables import annotate, column_names

X = np.concatenate([np.random.default_rng(0).normal(m, 1, (20, 3)) for m in (0, 6)])
NAMES, ROWS = ["wind", "rain", "sun"], [f"day {n}" for n in range(40)]


@pytest.fixture(scope="module")
def draws():
    engine = Gibbs(num_samples=15, num_warmup=5, num_chains=2)
    return vmix.fit(GaussianMixture(num_components=2, covariance="full"), X, engine=engine, seed=0)


@pytest.fixture(scope="module")
def fit():
    return vmix.fit(GaussianMixture(num_components=2), X, engine=EM(num_sweeps=20, tolerance=None), seed=0)


def table_of(kind):
    if kind == "xarray":
        return xarray.DataArray(X, dims=("day", "sensor"), coords={"day": ROWS, "sensor": NAMES})
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=NAMES, index=ROWS)
    return frame if kind == "pandas" else pytest.importorskip("pyarrow").Table.from_pandas(frame, preserve_index=False)


@pytest.mark.parametrize("kind", ["pandas", "pyarrow", "xarray"])
def test_table_comes_back_as_its_own_kind_with_its_rows(fit, kind):
    table = table_of(kind)
    found = annotate(fit, table)
    assert type(found).__module__.partition(".")[0] == kind and column_names(table) == NAMES
    np.testing.assert_array_equal(np.asarray(found["component"]), fit.predict(X))
    np.testing.assert_allclose(np.asarray(found["probability_1"]), fit.predict_proba(X)[:, 1])
    np.testing.assert_allclose(np.asarray(found["score"]), fit.score_samples(X))
    if kind != "pyarrow":
        assert list(found.index if kind == "pandas" else found["day"].values) == ROWS


@pytest.mark.parametrize("kind", ["pandas", "xarray"])
def test_columns_in_another_order_are_refused_and_plain_arrays_taken(kind, tmp_path):
    """Where names are known they count: silently, rain would have been taken for wind."""
    if kind == "pandas":
        pytest.importorskip("pandas")
    table = table_of(kind)
    pick = (lambda names: table[names]) if kind == "pandas" else (lambda names: table.sel(sensor=names))
    fit = vmix.fit(GaussianMixture(num_components=2), table, engine=EM(num_sweeps=2, tolerance=None), seed=0)
    fit.save(tmp_path / "fit")
    for one in (fit, vmix.load(tmp_path / "fit")):
        with pytest.raises(ValueError, match=r"x has its columns in another order.*'rain'.*fitted to \['wind', 'rain'"):
            one.predict(pick(["rain", "wind", "sun"]))
        with pytest.raises(ValueError, match="x has no column 'sun'"):
            one.score(pick(["rain", "wind"]))
        np.testing.assert_array_equal(one.predict(table), one.predict(X))


def test_plain_arrays_and_sequences_are_refused_with_the_way_out(fit):
    with pytest.raises(TypeError, match=r"ndarray; expected a pandas frame.*fit\.predict"):
        annotate(fit, X)
    chain = vmix.fit(HMM(num_components=2), X.reshape(2, 20, 3), engine=EM(num_sweeps=2, tolerance=None), seed=0)
    with pytest.raises(TypeError, match="HMM was fitted to sequences"):
        annotate(chain, xarray.DataArray(X))
    assert chain.to_arviz().posterior["transition"].dims == ("chain", "draw", "component", "component_again")


def test_arviz_has_names_for_every_dimension_and_the_draws_statistics(draws):
    tree = draws.to_arviz(columns=NAMES)
    posterior, statistics = tree["posterior"], tree["sample_stats"]
    assert posterior["w"].dims == ("chain", "draw", "component")
    assert posterior["loc"].dims == ("chain", "draw", "component", "feature")
    assert posterior["precision"].dims == ("chain", "draw", "component", "feature", "feature_again")
    assert posterior.sizes["chain"] == 2 and posterior.sizes["draw"] == 15
    np.testing.assert_array_equal(posterior["loc"].sel(feature="rain").values, draws.posterior["loc"][..., 1])
    np.testing.assert_array_equal(statistics["objective"].values, draws.history["objective"][:, -15:])


def test_arviz_of_a_point_estimate_is_one_draw(fit):
    tree = fit.to_arviz(columns=table_of("xarray"))
    assert dict(tree["posterior"].sizes) == {"chain": 1, "draw": 1, "component": 2, "feature": 3}
    assert list(tree["posterior"]["feature"].values) == NAMES and "sample_stats" not in tree.children


def test_draws_go_to_numpyros_predictive():
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist
    from numpyro.infer import Predictive

    def poissons(counts):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.1))
        with numpyro.plate("data", len(counts)):
            numpyro.sample("x", dist.Poisson(rate), obs=counts)

    counts = np.random.default_rng(0).poisson(20, 50)
    fit = vmix.fit(poissons, counts, engine=Gibbs(num_samples=200, num_warmup=10), seed=0)
    drawn = Predictive(numpyro.handlers.uncondition(poissons), posterior_samples=fit.posterior)(
        jax.random.key(0), jnp.asarray(counts)
    )["x"]
    assert drawn.shape == (200, 50) and abs(float(drawn.mean()) - counts.mean()) < 5 * (20 / 50) ** 0.5
