"""A program whose states have explicit durations, each Dirichlet, under every engine."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.distributions import HiddenSemiMarkov
from vmix.inference import EM, SVI, Gibbs
from vmix.priors import without_self_moves

NUM_STATES, LONGEST, NUM_STEPS = 3, 8, 40
LOC = np.array([-4.0, 0.0, 4.0])
MOVE = np.array([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
LASTING = np.array(
    [[0.5, 0.5, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0.25, 0.5, 0.25, 0, 0], [0, 0.1, 0, 0, 0, 0, 0.2, 0.7]], np.float32
)


def durations(x):
    start = numpyro.sample("start", dist.Dirichlet(jnp.ones(NUM_STATES)))
    move = numpyro.sample("move", dist.Dirichlet(jnp.ones((NUM_STATES, NUM_STATES - 1))))
    lasting = numpyro.sample("lasting", dist.Dirichlet(jnp.ones((NUM_STATES, LONGEST))))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([NUM_STATES]).to_event(1))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", HiddenSemiMarkov(start, without_self_moves(move), lasting, x.shape[1]))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(1), obs=x)


@pytest.fixture(scope="module")
def truth():
    chain = HiddenSemiMarkov(jnp.ones(3) / 3, without_self_moves(jnp.asarray(MOVE)), jnp.asarray(LASTING), NUM_STEPS)
    c = np.asarray(chain.sample(jax.random.key(0), (60,)))
    return c, (LOC[c] + np.random.default_rng(0).normal(size=c.shape)).astype(np.float32)


def in_order(fit: vmix.Fit, name: str) -> np.ndarray:
    """A posterior mean, states from the lowest location to the highest."""
    order = np.argsort(np.reshape(fit.posterior["loc"], (-1, NUM_STATES)).mean(0))
    value = np.asarray(fit.posterior[name])
    value = np.reshape(value, (-1, *value.shape[value.ndim - (1 if name in ("start", "loc") else 2) :])).mean(0)
    return np.asarray(without_self_moves(value))[np.ix_(order, order)] if name == "move" else value[order]


def test_every_prior_on_a_semi_markov_chain_is_conjugate(truth):
    rows = {row.site: row.update for row in vmix.explain(durations, truth[1], engine=Gibbs()).rows}
    assert {rows[name] for name in ("start", "move", "lasting")} == {"conjugate draw, Dirichlet"}


@pytest.mark.slow
@pytest.mark.parametrize("engine", [EM(num_sweeps=60), Gibbs(num_samples=60, num_warmup=40)], ids=lambda e: e.name)
def test_durations_and_moves_are_recovered(truth, engine):
    c, x = truth
    fit = vmix.fit(durations, x, engine=engine, seed=0)
    # about 100 segments of each state: three standard errors of a share of a half are 0.15
    assert np.abs(in_order(fit, "lasting") - LASTING).max() < 0.15
    assert np.abs(in_order(fit, "move") - np.asarray(without_self_moves(jnp.asarray(MOVE)))).max() < 0.15
    order = np.argsort(np.reshape(fit.posterior["loc"], (-1, NUM_STATES)).mean(0))
    assert np.mean(order[c] == vmix.sequences.most_probable_path(fit, x)) > 0.98


@pytest.mark.slow
def test_em_never_goes_down_and_svi_climbs(truth):
    climb = np.asarray(vmix.fit(durations, truth[1], engine=EM(num_sweeps=20), seed=1).history["objective"])
    assert np.all(np.diff(climb, axis=-1) > -1e-4 * np.abs(climb).max())
    fit = vmix.fit(durations, truth[1], engine=SVI(num_steps=100), seed=0)
    assert np.isfinite(fit.score(truth[1]))
