"""Topic models under the three engines, against simulated topics and updates written out by hand."""

import jax
import numpy as np
import pytest
from numpyro import handlers
from scipy.optimize import linear_sum_assignment

import vmix
from vmix import topics
from vmix.distributions import TopicCounts
from vmix.inference import EM, SVI, Gibbs
from vmix.models import LDA, MLDA

K, N, V, TOKENS = 3, 150, 20, 60


def simulate(seed, *, num_docs=N, modalities=1):
    rng = np.random.default_rng(seed)
    phi = [np.random.default_rng(m).dirichlet(np.full(V, 0.1), K) for m in range(modalities)]
    theta = rng.dirichlet(np.full(K, 0.2), num_docs)
    x = [np.stack([rng.multinomial(TOKENS, t @ p / (t @ p).sum()) for t in theta]).astype(np.int32) for p in phi]
    return x, theta, phi


def distance(found, truth):
    """Total variation of each topic from the one it is matched with."""
    apart = np.abs(found[:, None] - truth[None]).sum(-1) / 2
    return apart[linear_sum_assignment(apart)]


@pytest.fixture(scope="module")
def documents():
    return simulate(10)


@pytest.fixture(scope="module")
def em(documents):
    return vmix.fit(LDA(num_components=K), documents[0][0], engine=EM(num_sweeps=300, tolerance=1e-5), seed=0)


@pytest.fixture(scope="module")
def both():
    x, _, _ = simulate(11, modalities=2)
    x[0][:10] = 0  # ten documents without the first modality, ten without the second
    x[1][10:20] = 0
    return vmix.fit(MLDA(num_components=K), *x, engine=EM(num_sweeps=150, tolerance=None), seed=0)


def test_em_recovers_the_topics(em, documents):
    assert distance(em.posterior["phi"], documents[2][0]).max() < 0.1


def test_em_never_lowers_the_log_joint(em):
    assert np.diff(em.history["objective"]).min() > -1e-5


def test_a_sweep_is_the_update_written_by_hand(documents):
    x = documents[0][0]
    rng = np.random.default_rng(0)
    theta, phi = rng.dirichlet(np.ones(K), N), rng.dirichlet(np.ones(V), K)
    model = LDA(num_components=K, doc_concentration=1.3, topic_concentration=1.2)
    fit = vmix.fit(model, x, engine=EM(num_sweeps=1, tolerance=None), seed=0, init={"theta": theta, "phi": phi})
    ratio = x / (theta @ phi)
    per_document, per_topic = theta * (ratio @ phi.T) + 0.3, phi * (theta.T @ ratio) + 0.2
    np.testing.assert_allclose(fit.posterior["theta"], per_document / per_document.sum(1, keepdims=True), atol=2e-6)
    np.testing.assert_allclose(fit.posterior["phi"], per_topic / per_topic.sum(1, keepdims=True), atol=2e-6)


@pytest.mark.slow
def test_svi_climbs_to_em_s_topics(em, documents):
    fit = vmix.fit(LDA(num_components=K), documents[0][0], engine=SVI(num_steps=1200), seed=0)
    assert distance(fit.posterior["phi"], em.posterior["phi"]).max() < 0.05


@pytest.mark.slow
def test_gibbs_averages_near_the_topics(documents):
    engine = Gibbs(num_samples=100, num_warmup=100)
    fit = vmix.fit(LDA(num_components=K), documents[0][0], engine=engine, seed=0)
    assert fit.posterior["theta"].shape == (100, N, K)
    assert distance(fit.posterior["phi"].mean(0), documents[2][0]).max() < 0.12


def test_new_documents_are_folded_in(em, documents):
    x, theta, phi = documents[0][0], *simulate(12, num_docs=40)[1:]
    np.testing.assert_allclose(em.predict_proba(x), em.posterior["theta"], atol=5e-3)
    new = simulate(12, num_docs=40)[0][0]
    apart = np.abs(em.posterior["phi"][:, None] - phi[0][None]).sum(-1)
    order = linear_sum_assignment(apart)[1]
    error = np.abs(em.predict_proba(new) - theta[:, order]).mean()
    assert error < 0.06


def test_a_loaded_fit_folds_in_as_before(em, tmp_path):
    new = simulate(12, num_docs=10)[0][0]
    em.save(tmp_path / "fit")
    again = vmix.load(tmp_path / "fit", program=em._plan.program.source)
    np.testing.assert_allclose(again.predict_proba(new), em.predict_proba(new), atol=1e-6)


def test_perplexity_lies_between_the_truth_and_the_words_frequencies(em, documents):
    new, theta, phi = simulate(13, num_docs=100)
    found = topics.perplexity(em, new[0], seed=0)["x"]
    frequency = (documents[0][0].sum(0) + 1) / (documents[0][0].sum() + V)
    plain = np.exp(-(new[0] * np.log(frequency)).sum() / new[0].sum())
    best = np.exp(-(new[0] * np.log(theta @ phi[0] + 1e-30)).sum() / new[0].sum())
    assert best < found.perplexity < 0.8 * plain
    assert found.perplexity == pytest.approx(np.exp(-found.log_likelihood))


def test_one_modality_predicts_the_other(both):
    x, theta, phi = simulate(14, num_docs=60, modalities=2)
    blind = [x[0], np.zeros_like(x[1])]
    found = topics.word_probs(both, *blind)["x1"]
    truth = theta @ phi[1]
    marginal = simulate(11, modalities=2)[0][1].sum(0)
    apart = np.abs(found - truth).sum(1).mean() / 2
    assert apart < 0.5 * np.abs(marginal / marginal.sum() - truth).sum(1).mean() / 2


def test_an_absent_modality_says_nothing(both):
    x, _, _ = simulate(14, num_docs=5, modalities=2)
    alone = both.predict_proba(x[0], np.zeros_like(x[1]))
    phi, theta = both.posterior["phi0"], alone[0]
    for _ in range(200):
        theta = theta * ((x[0][0] / (theta @ phi)) @ phi.T) + 0.1
        theta /= theta.sum()
    np.testing.assert_allclose(alone[0], theta, atol=2e-3)


def test_weights_scale_every_datum_to_one_total():
    x, _, _ = simulate(15, num_docs=30, modalities=2)
    model = MLDA(num_components=K, weights=(200.0, 50.0)).with_data(*x)
    seeded = handlers.seed(model.model, jax.random.key(0))
    sites = handlers.trace(seeded).get_trace(*(jax.numpy.asarray(array) for array in x))
    for name, weight, most in zip(("x0", "x1"), (200, 50), model.max_tokens, strict=True):
        tokens = np.asarray(sites[name]["value"])
        assert (tokens == np.round(tokens)).all() and tokens.sum(1).max() <= most
        np.testing.assert_allclose(tokens.sum(1), weight, atol=V / 2)


@pytest.mark.slow
def test_an_encoder_serves_new_documents_in_minibatches(documents):
    model = LDA(num_components=K, amortised=True, hidden=(64,))
    fit = vmix.fit(model, documents[0][0], engine=SVI(num_steps=3000, batch_size=50), seed=0)
    assert distance(fit.posterior["phi"], documents[2][0]).max() < 0.15
    assert fit.predict_proba(documents[0][0][:7]).shape == (7, K)


def test_a_document_without_tokens_gets_its_prior(em):
    np.testing.assert_allclose(em.predict_proba(np.zeros((1, V), np.int32)), 1 / K, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (LDA(), -np.ones((20, 4), np.int32), "negative"),
        (LDA(), np.full((20, 4), 0.5), "not whole"),
        (LDA(), np.zeros((20, 4), np.int32), "x has no tokens"),
        (LDA(), np.ones((20, 4, 2), np.int32), r"must have shape \(N, V\)"),
        (MLDA(weights=(1.0, 2.0)), np.ones((20, 4), np.int32), "2 entries, but 1 modalities"),
    ],
)
def test_bad_counts_are_refused_at_the_door(model, x, message):
    with pytest.raises(ValueError, match=message):
        vmix.fit(model, x, engine=EM(), seed=0)


def test_a_modality_that_is_missing_everywhere_is_refused():
    x = np.ones((20, 4), np.int32)
    with pytest.raises(ValueError, match=r"data\[1\] has no tokens"):
        vmix.fit(MLDA(num_components=2), x, np.zeros_like(x), engine=EM(), seed=0)


def test_concentrations_must_be_positive():
    with pytest.raises(ValueError, match=r"doc_concentration=\) must be a finite number above 0"):
        LDA(doc_concentration=0.0)
    with pytest.raises(ValueError, match="weights=.* must be a tuple of finite numbers above 0"):
        MLDA(weights=(0.0,))


@pytest.mark.slow
def test_a_fit_without_topics_has_no_words():
    x = np.random.default_rng(0).normal(size=(30, 2))
    fit = vmix.fit(vmix.models.GaussianMixture(num_components=2), x, engine=EM(num_sweeps=2, tolerance=None), seed=0)
    with pytest.raises(ValueError, match="no topic counts"):
        topics.word_probs(fit, x)


def test_topic_counts_are_a_numpyro_distribution_with_a_mean():
    counts = TopicCounts(np.array([0.25, 0.75]), np.array([[1.0, 0.0], [0.5, 0.5]]), 8)
    np.testing.assert_allclose(counts.mean, [5.0, 3.0])
