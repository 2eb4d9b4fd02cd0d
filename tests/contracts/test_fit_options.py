"""What the options of `vmix.fit` and of the engines promise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import multivariate_normal

import vmix
from vmix import driving, fitting
from vmix.engine import annealing
from vmix.fitting import ConvergenceWarning, FitError
from vmix.inference import EM, SVI, Gibbs
from vmix.models import VAE
from vmix.plan import make_plan

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (150, 2)) for m in (-2.0, 2.0)]).astype(np.float32)
Y = RNG.normal(1.5, 1.0, 30).astype(np.float32)
START = {"w": np.array([0.5, 0.5]), "loc": np.array([[-1.0, 0.0], [1.0, 0.0]])}


def mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(1), obs=x)


def one_mean(y):
    m = numpyro.sample("m", dist.Normal(0.0, 5.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(m, 1.0), obs=y)


def log_mean(y):
    m = numpyro.sample("m", dist.Normal(5.0, 1.0))
    with numpyro.plate("data", y.shape[0]):
        numpyro.sample("y", dist.Normal(jnp.log(m), 1.0), obs=y)


@pytest.fixture(scope="module")
def plan():
    return make_plan(mixture, (X,), key=jax.random.key(0))


@pytest.fixture
def planned(plan, monkeypatch):
    """One plan for all fits of the mixture: planning is not what these tests are about."""
    monkeypatch.setattr(fitting, "make_plan", lambda *_, **__: plan)


def fit(engine, **options):
    return vmix.fit(mixture, X, engine=engine, **({"seed": 0} | options))


@pytest.fixture(scope="module")
def reference():
    return vmix.fit(mixture, X, engine=EM(), seed=0)


def assert_same(a, b):
    np.testing.assert_array_equal(a.history["objective"], b.history["objective"])
    for name in a.posterior:
        np.testing.assert_array_equal(a.posterior[name], b.posterior[name])


def test_a_seed_gives_the_same_bits_with_and_without_progress(reference):
    assert_same(reference, fit(EM(), progress=True))


@pytest.mark.parametrize(
    "engine", [SVI(num_steps=60, batch_size=50), Gibbs(num_samples=40, num_warmup=10)], ids=lambda e: e.name
)
def test_a_seed_gives_the_same_bits_under_every_engine(engine, planned):
    first = fit(engine)
    assert_same(first, fit(engine, progress=True))
    assert not np.array_equal(first.history["objective"], fit(engine, seed=1).history["objective"])


def test_chunks_follow_the_clock_and_the_result_does_not(planned, monkeypatch):
    fast = fit(EM())
    monkeypatch.setattr(driving, "CHUNK_SECONDS", 0.0)
    assert_same(fast, fit(EM()))


def test_the_stopping_rule_ends_a_fit_that_has_settled(reference):
    objective = reference.history["objective"]
    assert reference.converged
    assert len(objective) < EM().num_sweeps
    assert abs(objective[-1] - objective[-2]) < 1e-5


def test_a_fit_that_has_not_settled_warns(planned):
    with pytest.warns(ConvergenceWarning, match="EM used all 2 sweeps before the objective settled.*raise num_sweeps"):
        assert not fit(EM(num_sweeps=2)).converged


def test_restarts_keep_the_best_and_report_all(planned):
    several = fit(EM(restarts=4, num_sweeps=2, tolerance=None), init="prior")
    finals, objective = several.history["restarts"], several.history["objective"]
    assert len(finals) == 4
    assert finals == sorted(finals, reverse=True)
    assert len(set(finals)) > 1
    assert objective.shape == (4, 2)
    np.testing.assert_allclose(objective[:, -1], finals, rtol=1e-6)
    log_prior = dist.Normal(0.0, 5.0).log_prob(several.posterior["loc"]).sum()
    # the last objective is that of the sweep before the last update, which could only raise it
    assert several.score(X) + float(log_prior) / len(X) >= finals[0] - 1e-5


def test_annealing_rises_to_one_and_stays():
    betas = np.concatenate([annealing((0.2, 80)).values(start, 50) for start in (0, 50)])
    assert betas[0] == pytest.approx(0.2)
    assert (np.diff(betas) >= 0).all()
    assert (betas[80:] == 1).all() and (betas[:80] < 1).all()


def test_an_annealed_fit_ends_at_an_optimum_of_the_objective_itself(reference, planned):
    annealed = fit(EM(anneal=(0.2, 20)))
    assert annealed.history["objective"][-1] == pytest.approx(reference.history["objective"][-1], abs=1e-4)
    assert len(annealed.history["objective"]) > 20


@pytest.mark.parametrize("good_chunks", [0, 2])
def test_ctrl_c_returns_the_last_good_state(good_chunks, planned, monkeypatch):
    kept, calls = driving.on_the_host, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) > good_chunks:
            raise KeyboardInterrupt
        return kept(*args)

    with monkeypatch.context() as patch:
        patch.setattr(driving, "on_the_host", interrupted)
        partial = fit(EM(tolerance=None), init=START)
    done = len(partial.history["objective"])
    assert partial.interrupted and not partial.converged
    assert (done > 0) == (good_chunks > 0)
    if done:
        assert_same(partial, fit(EM(num_sweeps=done, tolerance=None), init=START))
    else:
        np.testing.assert_allclose(partial.posterior["loc"], START["loc"])
    assert partial.predict(X).shape == (300,)


def test_an_objective_that_is_not_finite_names_the_site():
    with pytest.raises(FitError, match="objective is not finite at sweep 0: site 'y' has a log density"):
        vmix.fit(log_mean, Y, engine=EM(num_sweeps=3), seed=0, init={"m": -1.0})


@pytest.mark.parametrize(
    "engine", [EM(num_sweeps=30, batch_size=50, tolerance=None), SVI(num_steps=800, batch_size=50)]
)
def test_minibatches_reach_the_optimum_of_the_whole_data(engine, reference, planned):
    assert fit(engine).score(X) == pytest.approx(reference.score(X), abs=0.02)


def test_svi_of_the_whole_data_reaches_the_em_optimum(reference, planned):
    found = fit(SVI(num_steps=600))
    assert found.score(X) == pytest.approx(reference.score(X), abs=0.01)
    assert found.history["objective"][-1] == pytest.approx(reference.history["objective"][-1], abs=0.01)


def test_maximum_likelihood_leaves_the_prior_out(planned):
    found = fit(EM(estimate="ml", num_sweeps=100, tolerance=None), init=START)
    r = found.predict_proba(X)
    np.testing.assert_allclose(found.posterior["loc"], r.T @ X / r.sum(0)[:, None], atol=1e-4)
    np.testing.assert_allclose(found.posterior["w"], r.mean(0), atol=1e-4)


def test_a_normal_guide_finds_the_conjugate_posterior():
    found = vmix.fit(one_mean, Y, engine=SVI(guide="normal", num_steps=1500), seed=0)
    precision = len(Y) + 1 / 25
    assert found.posterior["m"] == pytest.approx(Y.sum() / precision, abs=4 / np.sqrt(precision * 512) + 0.02)
    evidence = multivariate_normal(cov=np.eye(len(Y)) + 25.0).logpdf(Y) / len(Y)
    assert found.history["objective"][-200:].mean() == pytest.approx(evidence, abs=5e-3)


@pytest.mark.slow
def test_kl_warm_up_begins_without_the_divergence():
    model = VAE(hidden=(4,), latent_dim=1, pixels="gaussian")
    plain, warmed = (vmix.fit(model, X, engine=SVI(num_steps=20, kl_warmup=steps), seed=0) for steps in (None, 10))
    first, later = plain.history["objective"][0], warmed.history["objective"][0]
    assert later > first
    assert np.isfinite(warmed.history["objective"]).all()
