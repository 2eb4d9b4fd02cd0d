"""Components whose covariance is of low rank but for a diagonal: factor analysis is the oracle for one of them."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from sklearn.decomposition import FactorAnalysis

import vmix
from vmix.inference import EM, SVI, Gibbs
from vmix.models import InfiniteVaDE, VaDE

N, D, RANK = 400, 5, 2
RNG = np.random.default_rng(3)
X = (RNG.normal(size=(N, RANK)) @ RNG.normal(size=(RANK, D)) + RNG.normal(size=(N, D)) * 0.5 + 3.0).astype(np.float32)
IMAGES = (RNG.random((60, 12)) < np.repeat([[0.1], [0.9]], 30, 0)).astype(np.float32)
SMALL = {"latent_dim": 3, "hidden": (8,), "covariance": "low-rank", "rank": 1, "pretrain_epochs": 2, "views": 1}


def factor_analysis(x):
    loc = numpyro.sample("loc", dist.Normal(0.0, 100.0).expand([D]).to_event(1))
    u = numpyro.sample("loadings", dist.Normal(0.0, 100.0).expand([D, RANK]).to_event(2))
    tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5).expand([D]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.LowRankMultivariateNormal(loc, u, 1.0 / tau), obs=x)


def test_maximum_likelihood_is_that_of_factor_analysis():
    fit = vmix.fit(factor_analysis, X, engine=EM(num_sweeps=100, estimate="ml", tolerance=None), seed=0)
    peer = FactorAnalysis(RANK, svd_method="lapack", tol=1e-4, max_iter=5000).fit(X.astype(np.float64))
    u = fit.posterior["loadings"]
    np.testing.assert_allclose(fit.history["objective"][-1], peer.score(X), atol=1e-3)  # float32 sees no further rise
    np.testing.assert_allclose(u @ u.T + np.diag(1 / fit.posterior["precision"]), peer.get_covariance(), atol=0.05)


def test_a_global_that_climbs_by_gradients_starts_off_the_middle_of_its_prior():
    plan = vmix.explain(factor_analysis, X, engine=EM())
    assert "L-BFGS" in str(plan) and "one matrix product" in str(plan)
    fit = vmix.fit(factor_analysis, X, engine=EM(num_sweeps=3, tolerance=None), seed=0)
    assert np.abs(fit.posterior["loadings"]).max() > 0.1  # zero loadings are a saddle, where every sweep would stay


@pytest.mark.slow
@pytest.mark.parametrize("engine", [EM(num_sweeps=2), SVI(num_steps=20), Gibbs(num_samples=5, num_warmup=5)], ids=str)
@pytest.mark.parametrize("model", [VaDE(num_components=2, **SMALL), InfiniteVaDE(truncation=4, **SMALL)], ids=str)
def test_deep_mixtures_of_low_rank_fit_under_every_engine(model, engine):
    fit = vmix.fit(model, IMAGES, engine=engine, seed=0)
    assert np.isfinite(fit.score(IMAGES))
    u = fit.posterior["loadings"]
    assert u.shape[-3:] == (fit.num_components, 3, 1) and jnp.isfinite(u).all()


def test_pruning_keeps_the_loadings_of_the_components_that_stay():
    model = InfiniteVaDE(truncation=4, **SMALL)
    globals_ = {"v": jnp.full(3, 0.5), "loc": jnp.ones((4, 3)), "precision": jnp.ones((4, 3))}
    globals_["loadings"] = jnp.arange(12.0).reshape(4, 3, 1)
    small, kept = model.pruned(globals_, (0, 2))
    assert small.truncation == 2
    np.testing.assert_array_equal(kept["loadings"], globals_["loadings"][jnp.array([0, 2])])
