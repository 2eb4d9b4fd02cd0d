"""A fit that blows up goes back and on with smaller steps, where that is asked; or says which site it was."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vmix
from vmix import driving, streaming
from vmix.fitting import FitError
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture
from vmix.recovering import Place, Recovery

Y = np.random.default_rng(0).normal(1.5, 1.0, 40).astype(np.float32)


def steep(y):
    """exp(m): a step that is too large leaves float32 at once."""
    m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.exp(m), 1.0), obs=y)


def fit(engine, **options):
    return vmix.fit(steep, Y, engine=engine, seed=0, init={"m": 0.0}, **options)


def one_mean(y):
    m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def counts_of(x):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Poisson(jnp.maximum(m, 0.0)), obs=x)


def test_rows_that_are_impossible_are_named():
    """A rate of 0 has counts of 0 and no others: minus infinity, not NaN."""
    x = np.zeros(12, int)
    x[[7, 9]] = 3
    with pytest.raises(FitError, match=r"at step 0: site 'x' has a log density that is not finite .rows .7, 9.."):
        vmix.fit(counts_of, x, engine=SVI(num_steps=2), seed=0, init={"m": -1.0})


def one_mean_of(x):
    one_mean(x[:, 0])


def test_steps_that_are_too_large_get_smaller_and_the_fit_ends_at_the_optimum():
    engine = SVI(num_steps=100, optimizer=optax.sgd(10.0))  # the curvature is 1: from 2 on, steps grow without end
    match = r"not finite at step [0-9]+.*going on from step [0-9]+ with steps 0\.0*1 times as large"
    with pytest.warns(UserWarning, match=match):
        found = vmix.fit(one_mean, Y, engine=engine, seed=0, init={"m": 0.0}, on_nan="restart")
    assert np.isfinite(found.history["objective"]).all() and len(found.history["objective"]) == 100
    (restart,) = found.history["nan_restarts"]
    assert restart["factor"] == pytest.approx(0.1) and restart["back_to"] == 0 < restart["step"] < 64
    assert found.posterior["m"] == pytest.approx(Y.sum() / (len(Y) + 1 / 25), abs=1e-4)


def test_it_goes_back_to_the_last_place_and_then_to_the_start():
    class Stopped(FloatingPointError):
        step = 130

    recovery = Recovery(None, SVI(optimizer=optax.sgd(1.0)))
    first, later = Place(np.zeros(2), [], 0), Place(np.ones(2), ["infos of 128 steps"], 128)
    recovery.reach(first)
    recovery.reach(later)
    with pytest.warns(UserWarning, match="going on"):
        places = [recovery.back(Stopped("bad")) for _ in range(2)]
    assert [place.done for place in places] == [128, 0]
    broken = Recovery(None, SVI(optimizer=optax.sgd(1.0)))
    broken.reach(first)
    broken.reach(later._replace(states=np.array([1.0, np.inf])))
    with pytest.warns(UserWarning, match="going on"):
        assert broken.back(Stopped("bad")).done == 0


def roots(x, y):
    """No number where m is above a row's x."""
    m = numpyro.sample("m", dist.Normal(0.0, 10.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.sqrt(x - m), 1.0), obs=y)


def roots_of_one(x):
    """The same of one array; the scale is so that m climbs."""
    m = numpyro.sample("m", dist.Normal(0.0, 10.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(9.0 + jnp.sqrt(x[:, 0] - m), 1.0), obs=x[:, 0])


def test_the_site_the_step_and_the_rows_are_named_wherever_the_rows_are(monkeypatch):
    """m climbs towards 9 and passes one row's x, in the third block of rows that are looked at, late in a chunk."""
    monkeypatch.setattr(driving, "_LOOKED_AT", 1_000)
    x = np.full(2_600, 10.0, np.float32)
    x[2_500] = 5.0
    engine = SVI(num_steps=400, optimizer=optax.sgd(0.3))
    with pytest.raises(FitError, match=r"at step [0-9]+: site 'y' has a log density that is not finite .rows .2500.."):
        vmix.fit(roots, x, np.ones_like(x), engine=engine, seed=0, init={"m": 0.0})


def test_rows_of_data_on_disk_are_named_by_their_place_in_the_file(monkeypatch, tmp_path):
    """The start sees a sample of the rows, and the row that spoils it is not among them."""
    monkeypatch.setattr(streaming, "SAMPLE_ROWS", 100)
    x = np.full((600, 1), 10.0, np.float32)
    x[555] = 5.0
    np.save(tmp_path / "x.npy", x)
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    engine = SVI(num_steps=400, batch_size=600, optimizer=optax.sgd(0.3))
    with pytest.raises(FitError, match=r"at step [0-9]+: site 'x' has a log density that is not finite .rows .555.."):
        vmix.fit(roots_of_one, on_disk, engine=engine, seed=0, init={"m": 0.0})


@pytest.mark.slow
def test_a_restart_over_data_on_disk_does_not_hang_on_the_clock(monkeypatch, tmp_path):
    """Chunks are as long as a tenth of a second allows: the rows drawn after going back must not depend on that."""
    np.save(tmp_path / "y.npy", np.repeat(Y, 3)[:, None])
    on_disk = np.load(tmp_path / "y.npy", mmap_mode="r")
    engine, found = SVI(num_steps=60, batch_size=20, optimizer=optax.sgd(10.0)), []
    for length in (1, 7):
        monkeypatch.setattr(driving, "next_length", lambda *_, length=length, **__: length)
        with pytest.warns(UserWarning, match="going on from step 0 with steps 0.1 times as large"):
            fit = vmix.fit(one_mean_of, on_disk, engine=engine, seed=0, init={"m": 0.0}, on_nan="restart")
        found.append(fit.history["objective"])
    np.testing.assert_array_equal(*found)


def test_by_default_the_first_one_stops_the_fit_and_says_what_to_do():
    with pytest.raises(FitError, match="not finite at step [0-9]+: .*lower the learning rate") as caught:
        fit(SVI(num_steps=200, learning_rate=200.0))
    assert caught.value.step >= 0


def test_after_three_times_it_stops():
    with (
        pytest.warns(UserWarning, match="with steps 0.0*1 times as large"),
        pytest.raises(FitError, match="went back 3 times"),
    ):
        fit(SVI(num_steps=50, learning_rate=1e9), on_nan="restart")


@pytest.mark.parametrize("engine", [EM(num_sweeps=2), Gibbs(num_samples=2, num_warmup=2)], ids=lambda e: e.name)
def test_a_fit_without_a_step_size_refuses(engine):
    with pytest.raises(ValueError, match=f'on_nan="restart" makes steps smaller, but {engine.name} has no step size'):
        vmix.fit(steep, Y, engine=engine, seed=0, on_nan="restart")


def test_another_word_is_refused_at_once():
    with pytest.raises(ValueError, match='on_nan must be "stop" or "restart", found \'skip\''):
        vmix.fit(GaussianMixture(), Y, engine=EM(), seed=0, on_nan="skip")
