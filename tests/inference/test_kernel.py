"""The NumPyro kernel: chains, keys, ArviZ, and agreement with NUTS on the marginalised model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer import MCMC

from vmix.inference import GibbsKernel

WARMUP, DRAWS = 50, 400


def poisson_mixture(counts, num_components=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(num_components, 2.0)))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([num_components]).to_event(1))
    with numpyro.plate("data", counts.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Poisson(rate[c]), obs=counts)


@pytest.fixture(scope="module")
def counts():
    generator = np.random.default_rng(0)
    return np.concatenate([generator.poisson(3.0, 40), generator.poisson(25.0, 60)])


@pytest.fixture(scope="module")
def sequential(counts):
    labels = np.full(100, -1)
    labels[[0, 99]] = 1, 0
    mcmc = MCMC(
        GibbsKernel(poisson_mixture, init="random", observed={"c": labels}), num_warmup=WARMUP, num_samples=DRAWS,
        num_chains=2,
        chain_method="sequential", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.key(1), counts, extra_fields=("gibbs.assignments",))
    return mcmc


@pytest.fixture(scope="module")
def vectorized(counts):
    mcmc = MCMC(
        GibbsKernel(poisson_mixture), num_warmup=WARMUP, num_samples=DRAWS, num_chains=3,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(jax.random.PRNGKey(2), counts)
    return mcmc


@pytest.mark.slow
def test_chains_one_after_another_give_draws_in_numpyros_shapes(sequential):
    assert sequential.get_samples()["rate"].shape == (2 * DRAWS, 2)
    grouped = sequential.get_samples(group_by_chain=True)
    assert grouped["rate"].shape == (2, DRAWS, 2) and grouped["w"].shape == (2, DRAWS, 2)
    assert sequential.get_extra_fields()["gibbs.assignments"].shape == (2 * DRAWS, 100)


@pytest.mark.slow
def test_observed_assignments_are_never_redrawn(sequential):
    assignments = np.asarray(sequential.get_extra_fields()["gibbs.assignments"])
    assert (assignments[:, 0] == 1).all() and (assignments[:, 99] == 0).all()


@pytest.mark.slow
def test_chains_side_by_side_differ_and_find_both_components(vectorized):
    rate = np.sort(vectorized.get_samples(group_by_chain=True)["rate"], -1)
    assert rate.shape == (3, DRAWS, 2)
    assert not np.array_equal(rate[0], rate[1])
    np.testing.assert_allclose(rate.mean((0, 1)), [3.0, 25.0], rtol=0.15)


@pytest.mark.slow
def test_summary_prints_every_global(vectorized, capsys):
    vectorized.print_summary()
    printed = capsys.readouterr().out
    assert "rate[0]" in printed and "w[1]" in printed and "r_hat" in printed


@pytest.mark.slow
def test_arviz_reads_the_chains(sequential):
    import arviz_base

    tree = arviz_base.from_numpyro(sequential)
    assert tree["posterior"]["rate"].shape == (2, DRAWS, 2)
    assert tree["sample_stats"]["objective"].shape == (2, DRAWS)
    assert tree["observed_data"]["x"].shape == (100,)


@pytest.mark.slow
def test_posterior_mean_of_separated_components_is_conjugate_within_four_monte_carlo_errors(vectorized, counts):
    # ordered rates are far apart, so each label's posterior is near the conjugate one of its own counts
    low, high = counts[counts < 12], counts[counts >= 12]
    rate = np.sort(np.asarray(vectorized.get_samples()["rate"]), -1)
    for draws, own in zip(rate.T, (low, high), strict=True):
        shape, scale = 2.0 + own.sum(), 0.2 + own.size
        error = np.sqrt(shape) / scale / np.sqrt(draws.size / 4)  # neighbouring draws are nearly independent
        assert abs(draws.mean() - shape / scale) < 4 * error


@pytest.mark.slow
def test_a_warm_state_is_continued(counts):
    mcmc = MCMC(GibbsKernel(poisson_mixture, init="random"), num_warmup=5, num_samples=5, progress_bar=False)
    mcmc.warmup(jax.random.key(3), counts)
    before = mcmc.post_warmup_state.gibbs.sweep
    mcmc.run(jax.random.key(4), counts)
    assert before == 5 and mcmc.last_state.gibbs.sweep == 10


def test_keyword_arguments_are_refused(counts):
    mcmc = MCMC(GibbsKernel(poisson_mixture), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(TypeError, match="takes its data arrays in order"):
        mcmc.run(jax.random.key(0), counts=counts)


def test_start_values_are_refused_with_the_way_out(counts):
    mcmc = MCMC(GibbsKernel(poisson_mixture), num_warmup=1, num_samples=1, progress_bar=False)
    with pytest.raises(TypeError, match="init="):
        mcmc.run(jax.random.key(0), counts, init_params={"w": jnp.ones(2) / 2})


def test_chains_started_in_compiled_code_are_refused(counts):
    kernel = GibbsKernel(poisson_mixture)
    with pytest.raises(ValueError, match="sequential"):
        jax.eval_shape(lambda key: kernel.init(key, 1, None, (counts,), None), jax.random.key(0))
