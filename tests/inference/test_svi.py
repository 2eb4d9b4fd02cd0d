"""SVI against EM: with point estimates of the globals both climb the same objective."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.infer.autoguide import AutoDelta, AutoNormal

from tests.oracles import fitted
from vmix.inference.elbo import global_guide
from vmix.plan import make_plan

SHARED = [
    "two modalities",
    pytest.param("HalfNormal scales", marks=pytest.mark.slow),
    pytest.param("latent classes", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("name", SHARED)
def test_map_from_the_same_start_is_em_s_optimum(name):
    em, svi = fitted(name, "EM"), fitted(name, "SVI")
    assert svi.fit.history["objective"][0] == pytest.approx(em.fit.history["objective"][0], abs=1e-3)
    assert svi.fit.history["objective"][-1] == pytest.approx(em.fit.history["objective"][-1], abs=0.01)
    for site, value in em.point.items():
        np.testing.assert_allclose(svi.point[site], value, rtol=0.02, atol=0.02, err_msg=site)


@pytest.mark.parametrize("name", SHARED)
def test_svi_step_compiles_once(name):
    assert fitted(name, "SVI").traces == 1


def test_responsibilities_agree_with_em_s():
    em, svi = fitted("two modalities", "EM"), fitted("two modalities", "SVI")
    data = em.case.data
    np.testing.assert_allclose(svi.fit.predict_proba(*data), em.fit.predict_proba(*data), atol=0.02)


def three_globals(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.array([2.0, 3.0])))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 1.0).expand([2]).to_event(1))
    loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], rate[c]), obs=x)


@pytest.mark.parametrize(
    ("kind", "build"), [pytest.param("normal", AutoNormal, marks=pytest.mark.slow), ("point", AutoDelta)]
)
def test_the_guide_of_globals_is_numpyro_s_autoguide(kind, build):
    x = np.random.default_rng(0).normal(size=20).astype(np.float32)
    plan = make_plan(three_globals, (x,), key=jax.random.key(0))
    hidden = handlers.block(three_globals, hide=["c", "x"])

    def density(guide, given):
        seeded = handlers.seed(handlers.substitute(guide, data=given), jax.random.key(1))
        sites = handlers.trace(seeded).get_trace(x)
        samples = [site for site in sites.values() if site["type"] == "sample"]
        return sum(site["fn"].log_prob(site["value"]).sum() for site in samples), set(sites)

    ours = handlers.trace(handlers.seed(global_guide(plan, plan.initial, kind=kind), jax.random.key(2))).get_trace(x)
    params = {name: site["value"] for name, site in ours.items() if site["type"] == "param"}
    values = {name: ours[name]["value"] for name in ("w", "rate", "loc")}
    free = {f"{name}_unconstrained": biject_to(plan.supports[name]).inv(value) for name, value in values.items()}
    own, names = density(global_guide(plan, plan.initial, kind=kind), params | values)
    numpyro_s, auto_names = density(build(hidden), params | values | free)
    assert set(params) <= auto_names and names <= auto_names
    np.testing.assert_allclose(own, numpyro_s, rtol=1e-5)
