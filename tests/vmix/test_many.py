"""fit_many: each seed is the fit it would have been alone, and halving keeps the better half."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.driving import Run
from vmix.engine import Info, annealing
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture

X = np.concatenate([np.random.default_rng(0).normal(m, 1.0, (60, 2)) for m in (-3, 0, 3)]).astype(np.float32)
MODEL = GaussianMixture(num_components=4)
ENGINE = EM(num_sweeps=24, tolerance=None)


@pytest.fixture(scope="module")
def fits():
    return vmix.fit_many(MODEL, X, engine=ENGINE, seeds=[3, 0, 7, 5], init="random")


def test_a_seed_is_the_fit_it_would_have_been_alone(fits):
    alone = vmix.fit(MODEL, X, engine=ENGINE, seed=7, init="random")
    assert [fit.seed for fit in fits] == [3, 0, 7, 5]
    np.testing.assert_allclose(fits[2].posterior["loc"], alone.posterior["loc"], atol=1e-4)
    np.testing.assert_allclose(fits[2].history["objective"], alone.history["objective"], atol=1e-4)
    assert fits[2].settings == alone.settings
    assert fits[2].score(X) == pytest.approx(alone.score(X), abs=1e-4)


def one_mean(x):
    m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(m, 1.0), obs=x[:, 0])


def test_normal_factors_are_kept():
    engine = SVI(num_steps=1, guide="normal")
    fits = vmix.fit_many(one_mean, X, engine=engine, seeds=[0, 1])
    assert [set(fit.factors) for fit in fits] == [{"m"}, {"m"}]


def test_seeds_differ(fits):
    assert len({fit.history["objective"][0] for fit in fits}) == 4


def test_halving_ends_the_lower_half_early_and_leaves_the_others_alone(fits):
    halved = vmix.fit_many(MODEL, X, engine=ENGINE, seeds=[3, 0, 7, 5], init="random", halve_every=12)
    lengths = [len(fit.history["objective"]) for fit in halved]
    assert sorted(lengths) == [12, 12, 24, 24]
    reached = [fit.history["objective"][11] for fit in fits]
    assert {i for i, n in enumerate(lengths) if n > 12} == set(np.argsort(reached)[2:].tolist())
    for i in np.flatnonzero(np.asarray(lengths) == 24):
        np.testing.assert_allclose(halved[i].posterior["loc"], fits[i].posterior["loc"], atol=1e-4)


def test_a_halved_fit_predicts_and_is_kept(fits, tmp_path):
    fits[0].save(tmp_path / "one")
    again = vmix.load(tmp_path / "one", program=MODEL.with_data(X))
    np.testing.assert_array_equal(again.predict(X), fits[0].predict(X))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seeds": []}, "at least one and all different"),
        ({"seeds": [1, 1]}, "at least one and all different"),
        ({"seeds": [0.5]}, "seed"),
        ({"seeds": 3}, r"seeds=range\(3\)"),
        ({"seeds": [0], "halve_every": 0}, "halve_every"),
        ({"seeds": [0], "engine": EM(restarts=2)}, "restarts=1"),
        ({"seeds": [0], "engine": Gibbs(num_chains=2)}, "num_chains=1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        vmix.fit_many(MODEL, X, **{"engine": ENGINE, **options})


def test_data_on_disk_are_refused_with_the_way_out(tmp_path):
    np.save(tmp_path / "x.npy", X)
    kept = np.load(tmp_path / "x.npy", mmap_mode="r")
    with pytest.raises(ValueError, match="use vmix.fit for each seed"):
        vmix.fit_many(MODEL, kept, engine=ENGINE, seeds=[0, 1])


def test_one_sweep_of_a_rung_is_not_judged():
    run = Run.__new__(Run)
    run.tolerance, run.judged, run.anneal = 1e-6, 16, annealing(None)
    steady = [Info(np.full((1, 1), -2.0), {}, {})]
    assert not run._converged(steady, 16)
    assert run._converged(4 * steady, 16)
