"""Masked and missing data, and known assignments: each equals leaving the entries out, or pinning them, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp
from scipy.stats import norm

import vmix
from vmix.free_energy import evaluate
from vmix.inference import EM, SVI, Gibbs
from vmix.models import VAE, GaussianMixture

W, LOC, SCALE = np.array([0.4, 0.6]), np.array([[-2.0, 0.0, 1.0], [2.0, 1.0, -1.0]]), 1.0


def mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2, 3]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], SCALE).to_event(1), obs=x)


def masked_mixture(x, seen):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2, 3]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], SCALE).mask(seen == 1).to_event(1), obs=x)


def masked_rows(x, seen):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2, 3]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        with numpyro.handlers.mask(mask=seen == 1):
            numpyro.sample("x", dist.Normal(loc[c], SCALE).to_event(1), obs=x)


def simulate(num_rows, *, missing, separation=1.0, seed=0):
    rng = np.random.default_rng(seed)
    c = rng.choice(2, num_rows, p=W)
    x = (separation * LOC[c] + SCALE * rng.normal(size=(num_rows, 3))).astype(np.float32)
    return np.where(rng.random(x.shape) < missing, np.float32(np.nan), x), c


def log_evidence(x, w, loc):
    """sum_k w_k prod_{d seen} Normal(x_d; loc_kd, 1), a row at a time, by hand."""
    element = norm.logpdf(x[:, None, :], loc[None], SCALE)
    joint = np.log(w) + np.where(np.isnan(x)[:, None, :], 0.0, element).sum(-1)
    total = logsumexp(joint, axis=1)
    return total, np.exp(joint - total[:, None])


X, C = simulate(600, missing=0.25)
SEEN = ~np.isnan(X)
FILLED = np.where(SEEN, X, 7.0).astype(np.float32)
START = {"w": np.array([0.5, 0.5]), "loc": 0.5 * LOC}
ENGINES = [EM(num_sweeps=3, tolerance=None), SVI(num_steps=400), Gibbs(num_samples=50, num_warmup=5)]
EXACT = EM(num_sweeps=30, tolerance=None)


@pytest.fixture(scope="module")
def em():
    return vmix.fit(mixture, X, engine=EXACT, seed=0, init=START, missing="nan")


def test_missing_entries_are_marginalised_exactly(em):
    total, responsibilities = log_evidence(X, em.posterior["w"].astype(float), em.posterior["loc"].astype(float))
    np.testing.assert_allclose(em.score_samples(X), total, atol=2e-4)
    np.testing.assert_allclose(em.predict_proba(X), responsibilities, atol=2e-4)


def test_em_with_missing_entries_equals_the_textbook(em):
    w, loc = START["w"], START["loc"]
    for _ in range(30):
        r = log_evidence(X, w, loc)[1]
        counts, sums = r.T @ SEEN, r.T @ np.nan_to_num(X)
        w, loc = r.sum(0) / len(X), sums / (counts + SCALE**2 / 25.0)
    np.testing.assert_allclose(em.posterior["w"], w, atol=1e-4)
    np.testing.assert_allclose(em.posterior["loc"], loc, atol=1e-3)


def test_missing_entries_leave_the_truth_within_reach(em):
    errors = SCALE / np.sqrt(len(X) * 0.75 * W)[:, None]
    assert (np.abs(em.posterior["loc"] - LOC) < 5 * errors).all()


def test_em_with_missing_entries_never_lowers_the_objective(em):
    assert (np.diff(em.history["objective"]) > -2e-6).all()


@pytest.mark.parametrize("engine", [EXACT])
def test_a_mask_on_entries_equals_missing_entries(em, engine):
    fit = vmix.fit(masked_mixture, FILLED, SEEN, engine=engine, seed=0, init=START)
    np.testing.assert_allclose(fit.posterior["loc"], em.posterior["loc"], atol=1e-4)
    np.testing.assert_allclose(fit.score_samples(FILLED, SEEN), em.score_samples(X), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [EXACT, SVI(num_steps=200)])
def test_a_mask_on_rows_equals_dropping_them(engine):
    full, _ = simulate(300, missing=0.0, seed=1)
    seen = np.arange(300) < 200
    fit = vmix.fit(masked_rows, np.where(seen[:, None], full, 50.0), seen, engine=engine, seed=0, init=START)
    dropped = vmix.fit(mixture, full[:200], engine=engine, seed=0, init=START)
    # a row that says nothing about x still is a draw of c: the weights' likelihood is flat in it at their optimum
    np.testing.assert_allclose(fit.posterior["loc"], dropped.posterior["loc"], atol=0.02)


def test_svi_reaches_the_em_optimum_with_missing_entries(em):
    fit = vmix.fit(mixture, X, engine=SVI(num_steps=600), seed=0, init=START, missing="nan")
    assert fit.score(X) == pytest.approx(em.score(X), abs=0.01)
    np.testing.assert_allclose(fit.posterior["loc"], em.posterior["loc"], atol=0.03)


@pytest.fixture(scope="module")
def gibbs():
    labels = np.where(np.arange(len(X)) % 3 == 0, C, -1)
    engine = Gibbs(num_samples=300, num_warmup=100)
    return labels, vmix.fit(mixture, X, engine=engine, seed=0, init=START, missing="nan", observed={"c": labels})


def test_gibbs_recovers_the_truth_with_missing_entries_and_labels(gibbs):
    _, fit = gibbs
    mean, spread = fit.posterior["loc"].mean(0), fit.posterior["loc"].std(0)
    assert (np.abs(mean - LOC) < 5 * spread).all()
    assert (spread < 3 * SCALE / np.sqrt(len(X) * 0.75 * W)[:, None]).all()


@pytest.mark.slow
def test_a_whole_row_may_be_missing():
    x = np.array(X)
    x[3] = np.nan
    fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(num_sweeps=5, tolerance=None), seed=0, missing="nan")
    np.testing.assert_allclose(fit.predict_proba(x)[3], fit.posterior["w"], atol=1e-5)
    assert np.isfinite(fit.history["objective"]).all()


def test_an_encoder_sees_zeros_where_a_value_is_missing():
    x, _ = simulate(60, missing=0.1)
    engine = SVI(num_steps=20)
    fit = vmix.fit(VAE(hidden=(4,), latent_dim=1, pixels="gaussian"), x, engine=engine, seed=0, missing="nan")
    assert np.isfinite(fit.history["objective"]).all()
    np.testing.assert_array_equal(fit.transform(x), fit.transform(np.nan_to_num(x)))


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
def test_labelled_rows_are_pinned(engine):
    # labels that have nothing to do with x: were a row free, it would leave its label
    x, c = simulate(200, missing=0.0, seed=3)
    labels = np.random.default_rng(4).integers(0, 2, len(c))
    fit = vmix.fit(mixture, x, engine=engine, seed=0, init=START, observed={"c": labels})
    draws = fit.posterior["loc"] if engine.name == "Gibbs" else fit.posterior["loc"][None]
    counts = np.bincount(labels)[:, None]
    expected = np.stack([x[labels == k].sum(0) for k in (0, 1)]) / (counts + SCALE**2 / 25.0)
    tolerance = {"EM": 1e-4, "SVI": 0.02, "Gibbs": 5 / np.sqrt(counts.min() * 50)}[engine.name]
    np.testing.assert_allclose(draws.mean(0), expected, atol=tolerance)


def test_labelled_rows_have_one_hot_responsibilities(em):
    labels = np.where(np.arange(len(X)) % 2 == 0, 1 - C, -1)
    globals_ = {name: jnp.asarray(value) for name, value in em.posterior.items()}
    options = {"key": jax.random.key(0), "labels": {"c": jnp.asarray(labels)}}
    r = np.asarray(evaluate(em._plan, globals_, {}, (jnp.asarray(X),), **options).assigned.shares)
    np.testing.assert_array_equal(r[labels >= 0], np.eye(2)[labels[labels >= 0]])
    np.testing.assert_allclose(r[labels < 0], em.predict_proba(X)[labels < 0], atol=1e-6)


@pytest.mark.slow
def test_labels_name_the_components_of_an_overlapping_mixture():
    x, c = simulate(800, missing=0.0, separation=0.35, seed=2)
    labels = np.full(len(c), -1)
    for k in (0, 1):
        labels[np.flatnonzero(c == k)[:60]] = k
    free, taught = (
        vmix.fit(mixture, x, engine=EM(num_sweeps=100, tolerance=None), seed=0, init="random", observed=known)
        for known in (None, {"c": labels})
    )
    rest = labels < 0
    # with labels the components have names, so that no assignment is searched for
    named = (taught.predict(x) == c)[rest].mean()
    assert named > 0.7
    # the labels' own evidence is in the objective: under either naming, the unlabelled optimum has less of it
    for order in ([0, 1], [1, 0]):
        named_free = {name: value[order] for name, value in free.posterior.items()}
        engine = EM(num_sweeps=1, tolerance=None)
        before = vmix.fit(mixture, x, engine=engine, seed=0, init=named_free, observed={"c": labels})
        assert taught.history["objective"][-1] > before.history["objective"][0]
