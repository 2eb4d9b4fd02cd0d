"""A program of a user's own, covariates before what it observes: questions to its fit, and what its page shows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.inference import EM, Gibbs
from vmix.program import as_program
from vmix.steps import first_observed

GENERATOR = np.random.default_rng(7)
REGION, WEEKS = GENERATOR.integers(0, 2, 80), GENERATOR.integers(1, 9, 80)
KIND = np.repeat([0, 1], 40)
PURCHASES = GENERATOR.poisson(np.array([0.5, 9.0])[KIND] * np.array([0.8, 1.3])[REGION] * WEEKS)


def shop(region, weeks, purchases, num_components=2):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(num_components)))
    with numpyro.plate("components", num_components):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 0.2))
    with numpyro.plate("regions", 2):
        effect = numpyro.sample("effect", dist.Gamma(20.0, 20.0))
    with numpyro.plate("data", len(purchases)):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Poisson(rate[c] * effect[region] * weeks), obs=purchases)


@pytest.fixture(scope="module")
def fit():
    return vmix.fit(shop, REGION, WEEKS, PURCHASES, engine=EM(num_sweeps=20, tolerance=None), seed=0)


def test_site_that_is_not_there_is_refused_with_those_that_are(fit):
    with pytest.raises(KeyError, match="no site 'rates'; expected one of effect, rate, w; did you mean 'rate'"):
        fit.posterior["rates"]


def test_posterior_is_a_dict_and_a_pytree(fit):
    assert isinstance(fit.posterior, dict) and fit.posterior.get("rates") is None
    leaves, tree = jax.tree.flatten(fit.posterior)
    assert len(leaves) == 3 and list(jax.tree.unflatten(tree, leaves)) == ["effect", "rate", "w"]
    with_chain = jax.jit(lambda p: jax.tree.map(lambda v: v[None], p))(fit.posterior)
    assert with_chain["rate"].shape == (1, 2)


def test_dimensions_are_called_by_their_plates(fit):
    tree = fit.to_arviz().posterior
    assert tree["rate"].dims[2:] == ("component",) and tree["effect"].dims[2:] == ("regions",)


def test_observed_array_is_found_wherever_it_stands():
    rows = (REGION[:4], WEEKS[:4], PURCHASES[:4])
    assert first_observed(as_program(shop), rows) == ("x", 2)
    scaled = as_program(lambda region, weeks, y: shop(region, weeks, y * 2))
    assert first_observed(scaled, rows) == (None, 0)


def test_page_draws_what_is_observed_and_calls_the_exact_evidence_so(fit, tmp_path):
    assert fit.score_name == "log evidence"
    page = fit.report(tmp_path / "r.html", REGION, WEEKS, PURCHASES, labels=KIND).read_text("utf-8")
    assert (
        "Values of the data of site x by row" in page and "principal" not in page.split('<h2 id="trust">')[0][-20000:]
    )
    assert '<th scope="col">x</th>' in page and '{"title": {"text": "x"}}' in page
    assert ">log evidence<" in page and ">elbo<" not in page
    means = [PURCHASES.mean(), *(PURCHASES[fit.predict(REGION, WEEKS, PURCHASES) == k].mean() for k in (0, 1))]
    assert all(f">{mean:.1f}<" in page for mean in means)


def test_options_are_not_counted_among_the_data(fit):
    with pytest.raises(ValueError, match=r"takes the data arrays \(region, weeks, purchases\); 1 given"):
        vmix.fit(shop, PURCHASES, engine=EM(), seed=0)


def test_plan_says_where_nuts_needs_all_rows():
    def swayed(region, weeks, purchases):
        effect = numpyro.sample("effect", dist.LogNormal(0.0, 0.5).expand([2]).to_event(1))
        with numpyro.plate("data", len(purchases)):
            numpyro.sample("x", dist.Poisson(effect[region] * weeks), obs=purchases)

    (row,) = [
        row for row in vmix.explain(swayed, REGION, WEEKS, PURCHASES, engine=Gibbs()).rows if row.site == "effect"
    ]
    assert (row.update, row.cost) == ("NUTS on the log joint of all rows", "N K P")
