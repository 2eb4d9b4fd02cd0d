"""Data at the edge of what arithmetic takes: fits stay finite, and are right where the answer is known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vmix
from vmix.conditionals import recognise
from vmix.distributions import TopicCounts
from vmix.inference import EM, SVI, Gibbs
from vmix.models import HMM, LDA, BernoulliMixture, GaussianMixture
from vmix.numerics import responsibilities, sample_categorical

RNG = np.random.default_rng(0)
BLOBS = np.round(64 * (RNG.normal(size=(60, 2)) + 8.0 * (np.arange(60) % 2)[:, None])) / 64
ENGINES = [EM(num_sweeps=15, tolerance=None), Gibbs(num_samples=10, num_warmup=10), SVI(num_steps=50)]


def poisson_mixture(counts):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1e-6).expand([2]).to_event(1))
    with numpyro.plate("data", counts.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("counts", dist.Poisson(rate[c]), obs=counts)


def one_far_away():
    return np.concatenate([RNG.normal(size=(40, 2)), [[1000.0, -1000.0]]])


CASES = {
    "one component": (GaussianMixture(num_components=1), BLOBS),
    "one column": (GaussianMixture(num_components=2), BLOBS[:, :1]),
    "as many components as rows": (GaussianMixture(num_components=6), BLOBS[:6]),
    "more columns than rows": (GaussianMixture(num_components=2, covariance="full"), RNG.normal(size=(8, 12))),
    "rows that repeat": (GaussianMixture(num_components=3), np.repeat(BLOBS[:3], 20, 0)),
    "a component of one row": (GaussianMixture(num_components=2), one_far_away()),
    "gaps of 1000 nats": (GaussianMixture(num_components=2), BLOBS + 100.0 * (np.arange(60)[:, None] % 2)),
    "an offset of 1e6": (GaussianMixture(num_components=2), BLOBS + 1e6),
    "a unit of 1e-6": (GaussianMixture(num_components=2), BLOBS * 1e-6),
    "a unit of 1e6": (GaussianMixture(num_components=2), BLOBS * 1e6),
    "10,000 columns": (GaussianMixture(num_components=2), RNG.normal(size=(20, 10_000)) + np.arange(20)[:, None] % 2),
    "counts up to 1e6": (poisson_mixture, np.where(np.arange(50) % 2, 1_000_000, 0) + RNG.integers(0, 3, 50)),
    "columns that are all yes": (BernoulliMixture(num_components=2), np.repeat(np.array([[1.0, 0.0, 1.0]]), 20, 0)),
    "documents of 1e6 tokens": (LDA(num_components=2), RNG.multinomial(1_000_000, [0.5, 0.25, 0.125, 0.125], 6)),
    "a sequence of two steps": (HMM(num_components=2), BLOBS[:8].reshape(4, 2, 2)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # columns that are constant, and other things that are meant here
@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
@pytest.mark.parametrize("name", CASES)
def test_fits_stay_finite(name, engine):
    model, x = CASES[name]
    fit = vmix.fit(model, x, engine=engine, seed=0)
    assert all(np.isfinite(value).all() for value in fit.posterior.values())
    assert np.isfinite(fit.history["objective"]).all()
    assert np.isfinite(fit.score(x))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.name)
def test_fits_in_float64_stay_in_float64(engine):
    with jax.enable_x64():
        fit = vmix.fit(GaussianMixture(num_components=2), BLOBS, engine=engine, seed=0)
        assert np.isfinite(fit.score(BLOBS))
    for name, value in fit.posterior.items():
        assert value.dtype == np.float64 and np.isfinite(value).all(), name


def test_one_component_has_the_data_s_mean_and_variance():
    fit = vmix.fit(
        GaussianMixture(num_components=1), BLOBS, engine=EM(num_sweeps=3, estimate="ml", tolerance=None), seed=0
    )
    np.testing.assert_allclose(fit.posterior["loc"][0], BLOBS.mean(0), rtol=1e-6)
    np.testing.assert_allclose(fit.posterior["precision"][0], 1 / BLOBS.var(0), rtol=1e-5)
    expected = stats.norm(BLOBS.mean(0), BLOBS.std(0)).logpdf(BLOBS).sum(1).mean()
    assert fit.score(BLOBS) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("unit", "offset"), [(1.0, 1e6), (1e6, 0.0), (1e-6, 0.0)])
def test_float32_fits_do_not_see_units_or_origin(unit, offset):
    """Data in steps of 1/64 and 1e6 leave float32 with steps of 1/16: rounded first, so that both fits see the same."""
    x = np.round(16 * BLOBS) / 16
    model, engine = GaussianMixture(num_components=2), EM(num_sweeps=20, tolerance=None)
    here, there = (vmix.fit(model, y, engine=engine, seed=0) for y in (x, unit * x + offset))
    order = np.argsort(here.posterior["loc"][:, 0])
    other = np.argsort(there.posterior["loc"][:, 0])
    found = (there.posterior["loc"][other].astype(float) - offset) / unit
    np.testing.assert_allclose(found, here.posterior["loc"][order], atol=0.07 if offset else 1e-4)
    np.testing.assert_allclose(
        there.posterior["precision"][other] * unit**2, here.posterior["precision"][order], rtol=1e-3
    )
    shift = 2 * np.log(unit)
    assert there.score(unit * x + offset) == pytest.approx(here.score(x) - shift, abs=5e-3)


@pytest.mark.slow
def test_a_row_far_away_gets_a_component_of_its_own():
    x = one_far_away()
    fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(num_sweeps=30), seed=0)
    assert sorted(np.bincount(fit.predict(x)).tolist()) == [1, 40]


@pytest.mark.parametrize("gap", [90.0, 1000.0, 1e30])
def test_gaps_beyond_underflow_give_exact_zeros_and_totals(gap):
    """A component that is `gap` nats worse counts for exactly nothing, and the total is that of the other."""
    log_weights = jnp.array([[0.0, -gap], [-gap, 0.0], [gap, 0.0], [-gap, -gap]])
    shares, total = responsibilities(log_weights)
    np.testing.assert_array_equal(np.asarray(shares)[3], [0.5, 0.5])
    np.testing.assert_allclose(np.asarray(shares)[:3], [[1, 0], [0, 1], [1, 0]], atol=1e-38)
    np.testing.assert_allclose(total, [0.0, 0.0, gap, np.log(2) - gap], rtol=1e-6)
    drawn = sample_categorical(jax.random.key(0), jnp.repeat(log_weights[:3], 1000, 0))[0].reshape(3, 1000)
    np.testing.assert_array_equal(np.unique(np.asarray(drawn), axis=1), [[0], [1], [0]])


def test_a_million_tokens_have_the_multinomial_s_density():
    counts = np.array([[600_000, 300_000, 100_000], [1_000_000, 0, 0]])
    theta, phi = np.array([[0.3, 0.7], [0.5, 0.5]]), np.array([[0.7, 0.2, 0.1], [0.5, 0.35, 0.15]])
    with jax.enable_x64():
        density = TopicCounts(jnp.asarray(theta), jnp.asarray(phi), jnp.asarray(counts.sum(1))).log_prob(counts)
        expected = [stats.multinomial(n.sum(), p).logpmf(n) for n, p in zip(counts, theta @ phi, strict=True)]
        np.testing.assert_allclose(density, expected, rtol=1e-10)


@pytest.mark.parametrize("rate", [1e-6, 1.0, 1e6])
def test_a_gamma_conditional_of_a_million_events_keeps_its_digits_in_float32(rate):
    counts = jnp.full(10, 1e5)
    prior = dist.Gamma(2.0, 1.0 / rate)

    def log_joint(v):
        return prior.log_prob(v) + dist.Poisson(v / rate).log_prob(counts).sum()

    found = recognise(prior, log_joint, jnp.asarray(rate), key=jax.random.key(0))
    assert found.conditional is not None, found.reason
    exponent = jax.jit(lambda probe: found.conditional.solve(log_joint, probe))(jnp.asarray(rate))
    posterior = exponent.distribution
    np.testing.assert_allclose(posterior.concentration, 2.0 + 1e6, rtol=1e-5)
    np.testing.assert_allclose(posterior.rate, (1.0 + 10.0) / rate, rtol=1e-5)
