"""Gibbs against NUTS on the marginalised model, and against the prior (joint-distribution test)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin, summary
from numpyro.infer import MCMC, NUTS, init_to_value
from scipy.special import logsumexp
from scipy.stats import ks_2samp, norm

import vmix
from tests.oracles import fitted, half_normal_case, poisson_case
from vmix.engine import Data, Schedule, Start
from vmix.inference import Gibbs, gibbs
from vmix.plan import make_plan
from vmix.updates import draw


def poisson_marginal(counts):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(3)))
    rate = numpyro.sample("rate", dist.Gamma(1.0, 0.05).expand([3]))
    with numpyro.plate("data", counts.shape[0]):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(w), dist.Poisson(rate)), obs=counts)


def half_normal_marginal(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 10.0).expand([2]))
    scale = numpyro.sample("scale", dist.HalfNormal(3.0).expand([2]))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(w), dist.Normal(loc, scale)), obs=x)


PAIRS = {
    "Poisson mixture": (partial(poisson_case, num_rows=120), poisson_marginal),
    "HalfNormal scales": (partial(half_normal_case, num_rows=100), half_normal_marginal),
}


def nuts_draws(marginal, case):
    kernel = NUTS(marginal, init_strategy=init_to_value(values=dict(case.truth)))
    mcmc = MCMC(kernel, num_warmup=500, num_samples=2000, progress_bar=False)
    mcmc.run(jax.random.key(1), *(jnp.asarray(a) for a in case.data))
    return mcmc.get_samples()


def moments(draws):
    """Mean and variance of the mean, by effective sample size, of each element and of its square."""
    draws = np.asarray(draws, np.float64)
    both = np.stack([draws, draws**2], -1)
    return both.mean(0), both.var(0) / effective_sample_size(both[None])


@pytest.mark.slow
@pytest.mark.parametrize("name", list(PAIRS))
def test_posterior_moments_equal_those_of_nuts(name):
    """First and second moments within 4 Monte-Carlo standard errors: false alarm 12 x 6e-5 a case, seeds fixed."""
    build, marginal = PAIRS[name]
    case = build()
    fit = vmix.fit(case.program, *case.data, engine=Gibbs(num_samples=2000, num_warmup=300), seed=0)
    point = {site: fit.posterior[site].mean(0) for site in case.truth}
    oracle = nuts_draws(marginal, case)
    aligned = case.aligned(point)
    key = "rate" if "rate" in point else "loc"
    order = [int(np.flatnonzero(point[key] == value)[0]) for value in aligned[key]]
    for site in case.truth:
        mean, error = moments(fit.posterior[site][:, order])
        other, other_error = moments(oracle[site])
        z = (mean - other) / np.sqrt(error + other_error)
        assert np.abs(z).max() < 4.0, (site, z)


@pytest.mark.slow
def test_draws_pass_numpyro_s_diagnostics():
    posterior = fitted("HalfNormal scales", "Gibbs").fit.posterior
    for site, values in summary({n: v[None] for n, v in posterior.items()}, group_by_chain=True).items():
        assert np.min(values["n_eff"]) > 30, site  # of 300 draws
        assert np.max(values["r_hat"]) < 1.1, site
        assert np.all(split_gelman_rubin(posterior[site][None]) < 1.1)


def test_gibbs_step_compiles_once():
    assert fitted("HalfNormal scales", "Gibbs").traces == 1


ROWS, CHAINS, SWEEPS = 6, 2000, 8
QUANTITIES = 13
FALSE_ALARM = 1e-3


def small_mixture(x, y):
    """One global of each kind: Dirichlet, Normal and Gamma conditionals, and a HalfNormal that takes NUTS."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(2, 2.0)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    tau = numpyro.sample("tau", dist.Gamma(3.0, 3.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau)), obs=x)
        numpyro.sample("y", dist.Normal(0.0, scale[c]), obs=y)


@pytest.fixture(scope="module")
def small_plan():
    rng = np.random.default_rng(0)
    plan = make_plan(small_mixture, tuple(rng.normal(size=(2, ROWS)).astype(np.float32)), key=jax.random.key(0))
    assert set(plan.conditionals) == {"w", "loc", "tau"} and plan.others == ("scale",)
    return plan


def replay(plan, key, values):
    """Run the program without data, some sites fixed: an exact draw of the others given them."""
    free = handlers.substitute(handlers.uncondition(handlers.seed(small_mixture, key)), data=values)
    trace = handlers.trace(free).get_trace(*(jnp.zeros(ROWS),) * 2)
    log_joint = sum(site["fn"].log_prob(site["value"]).sum() for site in trace.values() if site["type"] == "sample")
    return {name: site["value"] for name, site in trace.items() if site["type"] == "sample"}, log_joint


def successive(plan, key):
    """One chain: an exact joint draw, then sweeps of the sampler, each followed by fresh data."""
    engine = Gibbs(num_samples=SWEEPS, num_warmup=0)
    first_key, init_key, sweep_key = jax.random.split(key, 3)
    values, _ = replay(plan, first_key, {})
    data = Data((values["x"], values["y"]), None, None)
    state = engine.init(plan, Start({n: values[n] for n in plan.globals}, {}), data, key=init_key)
    # no warm-up, so the step size must not adapt: a moving one would not leave the joint invariant
    state = state._replace(hmc=state.hmc._replace(adapt_state=state.hmc.adapt_state._replace(step_size=0.3)))
    one = Schedule(jnp.ones(()), jnp.ones(()))

    def sweep(carry, k):
        state, x, y = carry
        state, _ = engine.step(plan, state, Data((x, y), None, None), one)
        values, log_joint = replay(plan, k, {**state.globals, "c": state.assignments})
        return (state, values["x"], values["y"]), (values, log_joint)

    _, (values, log_joint) = jax.lax.scan(sweep, (state, *data.args), jax.random.split(sweep_key, SWEEPS))
    return jax.tree.map(lambda a: a[-1], (values, log_joint))


def quantities(values, log_joint):
    """Test quantities, each of shape (CHAINS,); several that see how globals, labels and data hang together."""
    w, loc, tau, scale, c, x, y = (values[n] for n in ("w", "loc", "tau", "scale", "c", "x", "y"))
    chosen = jnp.take_along_axis
    found = {
        "w": w[:, 0],
        "loc 0": loc[:, 0],
        "loc 1": loc[:, 1],
        "tau": tau,
        "scale 0": scale[:, 0],
        "scale 1": scale[:, 1],
        "count": (c == 0).sum(1) + 0.1 * w[:, 0],  # a tie-breaker: the test is for continuous quantities
        "log joint": log_joint,
        "square loc": (loc**2).sum(1),
        "weighted loc": (w * loc).sum(1),
        "residual": (tau[:, None] * (x - chosen(loc, c, 1)) ** 2).sum(1),
        "x": x.mean(1),
        "y / scale": ((y / chosen(scale, c, 1)) ** 2).sum(1),
    }
    assert len(found) == QUANTITIES
    return found


def p_values(plan, seed):
    """Kolmogorov-Smirnov p-values: chains after some sweeps against fresh draws of the prior and data."""
    keys = jax.random.split(jax.random.key(seed), 2 * CHAINS)
    after = quantities(*jax.jit(jax.vmap(partial(successive, plan)))(keys[:CHAINS]))
    fresh = quantities(*jax.jit(jax.vmap(lambda k: replay(plan, k, {})))(keys[CHAINS:]))
    return {name: ks_2samp(np.asarray(after[name]), np.asarray(fresh[name])).pvalue for name in after}


def test_gibbs_leaves_joint_invariant(small_plan):
    """Joint-distribution test (Geweke, 2004) with independent chains: false-alarm rate 1e-3 in all (Bonferroni).

    Each chain starts from an exact draw of the joint, so a correct sampler keeps it there and the chains stay
    independent draws of it: the test is exact, without autocorrelation to estimate.
    """
    found = p_values(small_plan, seed=3)
    assert min(found.values()) > FALSE_ALARM / QUANTITIES, found


def test_objective_is_the_log_joint_with_labels_summed_out(small_plan):
    """Of the globals that a sweep begins with, per datum, against numbers from SciPy and NumPyro's priors."""
    values, log_joint = replay(small_plan, jax.random.key(1), {})
    data = Data((values["x"], values["y"]), None, None)
    engine = Gibbs(num_samples=1, num_warmup=0)
    start = Start({n: values[n] for n in small_plan.globals}, {})
    state = engine.init(small_plan, start, data, key=jax.random.key(2))
    _, info = engine.step(small_plan, state, data, Schedule(jnp.ones(()), jnp.ones(())))
    v = {name: np.asarray(value, np.float64) for name, value in values.items()}
    each = np.log(v["w"]) + norm(v["loc"], 1 / np.sqrt(v["tau"])).logpdf(v["x"][:, None])
    each += norm(0.0, v["scale"]).logpdf(v["y"][:, None])
    of_labels = np.take_along_axis(each, v["c"].astype(int)[:, None], 1).sum()
    expected = float(log_joint) - of_labels + logsumexp(each, axis=1).sum()
    np.testing.assert_allclose(info.objective, expected / ROWS, rtol=1e-5)


@pytest.mark.slow
def test_joint_distribution_test_sees_a_conditional_broken_by_a_tenth(small_plan, monkeypatch):
    def broken(*args, **options):
        values = draw(*args, **options)
        return values | {"tau": 1.1 * values["tau"]}

    monkeypatch.setattr(gibbs, "draw", broken)
    found = p_values(small_plan, seed=3)
    assert min(found.values()) < FALSE_ALARM / QUANTITIES, found
