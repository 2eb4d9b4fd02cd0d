"""A fit that blows up goes back and on with smaller steps, where that is asked; or says which site it was."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vmix
from vmix.fitting import FitError
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture

Y = np.random.default_rng(0).normal(1.5, 1.0, 40).astype(np.float32)


def steep(y):
    """exp(m): a step that is too large leaves float32 at once."""
    m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.exp(m), 1.0), obs=y)


def fit(engine, **options):
    return vmix.fit(steep, Y, engine=engine, seed=0, init={"m": 0.0}, **options)


@pytest.fixture(scope="module")
def recovered():
    match = "not finite at step [0-9]+.*going on from step [0-9]+ with steps 0.01? times as large"
    with pytest.warns(UserWarning, match=match):
        return fit(SVI(num_steps=200, learning_rate=200.0), on_nan="restart")


def test_steps_that_are_too_large_get_smaller_until_the_fit_ends(recovered):
    assert np.isfinite(recovered.history["objective"]).all() and len(recovered.history["objective"]) == 200
    restarts = recovered.history["nan_restarts"]
    assert 1 <= len(restarts) <= 3
    assert [restart["factor"] for restart in restarts] == pytest.approx([0.1, 0.01, 0.001][: len(restarts)])
    assert np.exp(recovered.posterior["m"]) == pytest.approx(Y.mean(), abs=0.1)


def test_by_default_the_first_one_stops_the_fit_and_says_what_to_do():
    with pytest.raises(FitError, match="not finite at step [0-9]+: .*lower the learning rate") as caught:
        fit(SVI(num_steps=200, learning_rate=200.0))
    assert caught.value.step >= 0


def test_after_three_times_it_stops():
    with pytest.warns(UserWarning, match="going on from step"), pytest.raises(FitError, match="went back 3 times"):
        fit(SVI(num_steps=50, learning_rate=1e9), on_nan="restart")


@pytest.mark.slow
def test_the_step_of_an_optimiser_of_ones_own_is_smaller_too():
    with pytest.warns(UserWarning, match="going on"):
        found = fit(SVI(num_steps=50, optimizer=optax.sgd(1e3)), on_nan="restart")
    assert np.isfinite(found.history["objective"]).all()


@pytest.mark.parametrize("engine", [EM(num_sweeps=2), Gibbs(num_samples=2, num_warmup=2)], ids=lambda e: e.name)
def test_a_fit_without_a_step_size_refuses(engine):
    with pytest.raises(ValueError, match=f'on_nan="restart" makes steps smaller, but {engine.name} has no step size'):
        vmix.fit(steep, Y, engine=engine, seed=0, on_nan="restart")


def test_another_word_is_refused_at_once():
    with pytest.raises(ValueError, match='on_nan must be "stop" or "restart", found \'skip\''):
        vmix.fit(GaussianMixture(), Y, engine=EM(), seed=0, on_nan="skip")
