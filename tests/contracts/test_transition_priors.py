"""Priors on transitions are programs: a sticky HDP, truncated, under the engines that can take it."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.distributions import MarkovChain
from vmix.fitting import FitError
from vmix.inference import EM, SVI, Gibbs
from vmix.priors import stick_breaking

TRUNCATION = 6


def sticky_hdp_hmm(x, alpha=3.0, kappa=6.0, gamma=2.0):
    v = numpyro.sample("v", dist.Beta(1.0, gamma).expand([TRUNCATION - 1]).to_event(1))
    beta = stick_breaking(v)
    transition = numpyro.sample("transition", dist.Dirichlet(alpha * beta + kappa * jnp.eye(TRUNCATION)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([TRUNCATION]).to_event(1))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(beta, transition, x.shape[1]))
        numpyro.sample("x", dist.Normal(loc[c], 0.5).to_event(1), obs=x)


@pytest.fixture(scope="module")
def truth():
    rng = np.random.default_rng(0)
    move = np.full((3, 3), 0.05) + 0.85 * np.eye(3)
    c = np.zeros((20, 50), int)
    for t in range(1, 50):
        c[:, t] = (rng.random((20, 1)) > move[c[:, t - 1]].cumsum(1)).sum(1)
    return c, (np.array([-4.0, 0.0, 4.0])[c] + 0.5 * rng.normal(size=c.shape)).astype(np.float32)


def purity(labels, components):
    """Share of steps whose state is mostly of their label: states may share a label."""
    table = np.zeros((3, TRUNCATION))
    np.add.at(table, (labels.ravel(), components.ravel()), 1)
    return table.max(0).sum() / table.sum()


def test_rows_given_the_sticks_are_conjugate_and_the_sticks_are_not(truth):
    rows = {row.site: row.update for row in vmix.explain(sticky_hdp_hmm, truth[1], engine=Gibbs()).rows}
    assert rows["transition"] == "conjugate draw, Dirichlet"
    assert rows["v"] == "NUTS on the compressed log joint"


@pytest.mark.slow
def test_a_mode_on_the_edge_is_refused_by_em_with_the_way_out(truth):
    with pytest.raises(FitError, match=r"site 'transition' has reached the edge of its support.*use Gibbs"):
        vmix.fit(sticky_hdp_hmm, truth[1], engine=EM(num_sweeps=10), seed=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", [SVI(num_steps=1500, guide="normal"), Gibbs(num_samples=100, num_warmup=100)], ids=lambda e: e.name
)
def test_the_states_are_found_in_a_truncation_of_twice_as_many(truth, engine):
    c, x = truth
    fit = vmix.fit(sticky_hdp_hmm, x, engine=engine, seed=0)
    assert purity(c, fit.predict(x)) > 0.99
