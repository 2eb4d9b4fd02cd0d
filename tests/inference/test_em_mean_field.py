"""Variational EM: factors of each document's topics against enumeration, Blei's updates by hand, and scikit-learn."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import linear_sum_assignment
from scipy.special import digamma, gammaln, logsumexp, xlogy
from sklearn.decomposition import LatentDirichletAllocation

import vmix
from vmix import topics
from vmix.conditionals_simplex import DirichletExponent
from vmix.distributions import TopicCounts
from vmix.fitting import FitError
from vmix.inference import EM
from vmix.models import LDA, MLDA
from vmix.program import ProgramError

K, N, V, TOKENS = 3, 150, 20, 60
SMALL = 0.1  # concentration of the documents' topics: below 1, where a mode does not exist


def mean_field(**options):
    return EM(per_datum="mean-field", tolerance=None, **options)


def simulate(seed, *, num_docs=N, modalities=1, tokens=TOKENS):
    rng = np.random.default_rng(seed)
    phi = [np.random.default_rng(m).dirichlet(np.full(V, 0.1), K) for m in range(modalities)]
    theta = rng.dirichlet(np.full(K, SMALL), num_docs)
    return [np.stack([rng.multinomial(tokens, t @ p / (t @ p).sum()) for t in theta]).astype(np.int32) for p in phi]


@pytest.fixture(scope="module")
def documents():
    return simulate(10)[0]


@pytest.fixture(scope="module")
def fit(documents):
    return vmix.fit(LDA(num_components=K, doc_concentration=SMALL), documents, engine=mean_field(), seed=0)


def falls(fit):
    """The largest fall of the objective between sweeps, relative to its size."""
    objective = fit.history["objective"].astype(float)
    return -np.diff(objective).min() / np.abs(objective).max()


def log_dirichlet_integral(alpha):
    return gammaln(alpha).sum(-1) - gammaln(alpha.sum(-1))


def expected_log(alpha):
    return digamma(alpha) - digamma(alpha.sum(-1, keepdims=True))


def test_the_bound_never_falls_below_concentration_one(fit):
    assert falls(fit) < 1e-6
    assert np.isfinite(fit.posterior["theta"]).all() and (fit.posterior["theta"] > 0).all()


def by_hand(x, theta, phi, *, a, b):
    """One sweep from the tokens' factors r[n, v, k] on: the bound term by term, and the new factor and topics."""
    r = theta[:, None, :] * phi.T[None]
    r = r / r.sum(-1, keepdims=True)
    tokens = x[:, :, None] * r
    alpha = a + tokens.sum(1)
    log_theta = expected_log(alpha)
    bound = ((a - 1) * log_theta).sum(-1) - log_dirichlet_integral(np.full(K, a))  # E[log p(theta)]
    bound += (tokens * (log_theta[:, None, :] + np.log(phi.T)[None] - np.log(r))).sum((1, 2))
    bound -= ((alpha - 1) * log_theta).sum(-1) - log_dirichlet_integral(alpha)  # entropy of q(theta)
    bound += gammaln(x.sum(1) + 1) - gammaln(x + 1).sum(1)
    log_prior = (b - 1) * np.log(phi).sum() - K * log_dirichlet_integral(np.full(V, b))
    new = tokens.sum(0).T + b - 1
    return bound.mean() + log_prior / len(x), alpha, new / new.sum(1, keepdims=True)


def test_two_sweeps_are_the_updates_of_blei_ng_and_jordan_written_by_hand(documents):
    rng = np.random.default_rng(0)
    start = {"theta": rng.dirichlet(np.ones(K), N), "phi": rng.dirichlet(np.ones(V), K)}
    model = LDA(num_components=K, doc_concentration=0.3, topic_concentration=1.2)
    found = vmix.fit(model, documents, engine=mean_field(num_sweeps=2), seed=0, init=start)
    first, alpha, phi = by_hand(documents, start["theta"], start["phi"], a=0.3, b=1.2)
    second, alpha, phi = by_hand(documents, np.exp(expected_log(alpha)), phi, a=0.3, b=1.2)
    assert_allclose(found.history["objective"], [first, second], rtol=1e-5)
    assert_allclose(found.posterior["theta"], alpha / alpha.sum(1, keepdims=True), atol=2e-5)
    assert_allclose(found.posterior["phi"], phi, atol=2e-5)


def log_evidence(counts, phi, a):
    """log p(x | phi) with theta integrated out, by enumeration of every token's topic."""
    words = np.repeat(np.arange(len(counts)), counts)
    alpha = np.full(len(phi), a)
    paths = [
        np.log(phi[list(h), words]).sum() + log_dirichlet_integral(alpha + np.bincount(h, minlength=len(phi)))
        for h in product(range(len(phi)), repeat=len(words))
    ]
    coefficient = gammaln(counts.sum() + 1) - gammaln(counts + 1).sum()
    return coefficient + logsumexp(paths) - log_dirichlet_integral(alpha)


@pytest.mark.parametrize("a", [0.05, 2.0])
def test_the_bound_lies_below_the_exact_evidence_and_near_it(a):
    x = np.random.default_rng(1).multinomial(6, [0.4, 0.3, 0.2, 0.1], 15).astype(np.int32)
    model = LDA(num_components=2, doc_concentration=a)
    found = vmix.fit(model, x, engine=mean_field(num_sweeps=60), seed=0)
    exact = np.array([log_evidence(row, found.posterior["phi"].astype(float), a) for row in x])
    gap = exact - found.score_samples(x)
    assert gap.min() > -1e-5 and gap.mean() < 1.0
    assert falls(found) < 1e-6


def test_a_document_without_tokens_has_evidence_one_and_its_prior(fit):
    nothing = np.zeros((1, V), np.int32)
    assert_allclose(fit.score(nothing), 0.0, atol=1e-5)
    assert_allclose(fit.predict_proba(nothing), 1 / K, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "margin"), [(12, 0.0), (TOKENS, 0.005)])
def test_held_out_tokens_are_predicted_no_worse_than_by_the_mode(tokens, margin):
    # a mode needs a concentration above 1; the prior that is right tells most in short documents
    x, new = simulate(10, tokens=tokens)[0], simulate(11, tokens=tokens)[0]
    engines = {SMALL: mean_field(), 1.1: EM(tolerance=None)}
    models = {a: LDA(num_components=K, doc_concentration=a) for a in engines}
    fits = [vmix.fit(models[a], x, engine=engine, seed=0) for a, engine in engines.items()]
    found, other = (topics.perplexity(fit, new, seed=0)["x"].log_likelihood for fit in fits)
    assert found > other - margin


def test_new_documents_get_the_factor_of_scikit_learn_at_the_same_topics(fit):
    new = simulate(12, num_docs=40)[0]
    peer = LatentDirichletAllocation(K, doc_topic_prior=SMALL, max_doc_update_iter=50, mean_change_tol=0.0)
    peer.fit(new)
    peer.exp_dirichlet_component_ = fit.posterior["phi"].astype(float)
    assert_allclose(fit.predict_proba(new), peer.transform(new), atol=1e-3)


def test_topics_and_perplexity_are_near_those_of_scikit_learn(fit, documents):
    # its topics have a Dirichlet factor with prior eta, ours a mode with b = 1 + eta: near, not equal
    settings = {"doc_topic_prior": SMALL, "topic_word_prior": 0.05, "max_iter": 100}
    peers = [LatentDirichletAllocation(K, random_state=s, **settings).fit(documents) for s in range(2)]
    peer = max(peers, key=lambda p: p.score(documents))
    phi = peer.components_ / peer.components_.sum(1, keepdims=True)
    apart = np.abs(fit.posterior["phi"][:, None] - phi[None]).sum(-1) / 2
    assert apart[linear_sum_assignment(apart)].max() < 0.03
    new = simulate(11)[0]
    shown = np.random.default_rng(0).binomial(new.astype(np.int64), 0.5).astype(new.dtype)
    hidden = new - shown
    theirs = xlogy(hidden, peer.transform(shown) @ phi).sum() / hidden.sum()
    assert topics.perplexity(fit, new, seed=0)["x"].log_likelihood == pytest.approx(theirs, abs=0.02)


@pytest.mark.slow
def test_modalities_share_the_factor_and_a_saved_fit_keeps_to_it(tmp_path):
    x = simulate(13, num_docs=80, modalities=2)
    x[0][:10] = 0  # ten documents without the first modality
    model = MLDA(num_components=K, doc_concentration=SMALL)
    found = vmix.fit(model, *x, engine=mean_field(num_sweeps=40, estimate="ml"), seed=0)
    assert falls(found) < 1e-6
    found.save(tmp_path / "fit")
    again = vmix.load(tmp_path / "fit", program=found._plan.program.source)
    new = simulate(14, num_docs=20, modalities=2)
    assert_allclose(again.predict_proba(*new), found.predict_proba(*new), atol=1e-6)
    assert_allclose(again.score_samples(*new), found.score_samples(*new), rtol=1e-6)
    blind = [new[0], np.zeros_like(new[1])]
    theta = found.predict_proba(*blind)
    assert_allclose(topics.word_probs(found, *blind)["x1"], theta @ found.posterior["phi1"], atol=1e-6)


def answers_of_people(answers, picks):
    """Each person has tastes; a hidden class drawn from them explains the answers, and observed picks count them."""
    a = numpyro.sample("a", dist.Gamma(2.0, 1.0))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([K]))
    with numpyro.plate("people", answers.shape[0]):
        theta = numpyro.sample("theta", dist.Dirichlet(a * jnp.ones(K)))
        c = numpyro.sample("c", dist.Categorical(theta))
        numpyro.sample("answers", dist.Normal(loc[c], 1.0), obs=answers)
        numpyro.sample("picks", dist.Multinomial(picks.sum(-1), theta), obs=picks)


@pytest.mark.slow
def test_a_program_of_ones_own_with_a_learned_concentration():
    rng = np.random.default_rng(2)
    theta = rng.dirichlet(np.full(K, 0.4), 300)
    c = (theta.cumsum(1) < rng.random((300, 1))).sum(1)
    answers = (np.array([-4.0, 0.0, 4.0])[c] + rng.normal(size=300)).astype(np.float32)
    picks = np.stack([rng.multinomial(5, t) for t in theta]).astype(np.int32)
    start = {"loc": np.array([-3.0, 0.5, 3.0])}
    found = vmix.fit(answers_of_people, answers, picks, engine=mean_field(num_sweeps=100), seed=0, init=start)
    assert falls(found) < 1e-6
    a, loc = float(found.posterior["a"]), found.posterior["loc"].astype(float)
    assert a == pytest.approx(0.4, abs=0.1)
    log_like = -0.5 * (answers[:, None] - loc) ** 2 - 0.5 * np.log(2 * np.pi)
    alpha = a + picks[:, None, :] + np.eye(K)  # theta integrated out given each value of c
    paths = log_like + log_dirichlet_integral(alpha) - log_dirichlet_integral(np.full(K, a))
    coefficient = gammaln(6) - gammaln(picks + 1).sum(1)
    gap = coefficient + logsumexp(paths, axis=1) - found.score_samples(answers, picks)
    assert gap.min() > -1e-4 and gap.mean() < 0.2


def scores_of_people(x):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]))
    with numpyro.plate("people", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.Normal(z[:, None] * w, 1.0).to_event(1), obs=x)


def normalised_once_more(x):
    phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones(V)).expand([K]))
    with numpyro.plate("documents", x.shape[0]):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(K)))
        weights = jax.nn.softmax(jnp.log(theta), -1)
        numpyro.sample("x", TopicCounts(weights, phi, x.sum(-1), max_tokens=TOKENS), obs=x)


@pytest.mark.parametrize(
    ("program", "x", "message"),
    [
        (scores_of_people, np.random.default_rng(0).normal(size=(30, 2)), "site 'z'.*found: Normal"),
        (normalised_once_more, simulate(15, num_docs=30)[0], r"site 'theta'.*found: Dirichlet \(normalised\)"),
    ],
    ids=["normal", "normalised"],
)
def test_a_latent_without_a_factor_is_refused_by_name(program, x, message):
    with pytest.raises(ProgramError, match=message):
        vmix.explain(program, x, engine=mean_field())


def test_a_mode_that_does_not_exist_is_refused_with_the_way_out(documents):
    with pytest.raises(FitError, match=r"site 'theta' has reached the edge.*EM\(per_datum=\"mean-field\"\)"):
        vmix.fit(LDA(num_components=K, doc_concentration=SMALL), documents, engine=EM(), seed=0)


def test_minibatches_are_refused(documents):
    with pytest.raises(ProgramError, match="cannot take minibatches"):
        vmix.fit(LDA(num_components=K), documents, engine=mean_field(batch_size=10), seed=0)


def test_another_treatment_is_refused():
    with pytest.raises(ValueError, match='must be "mode" or "mean-field", found \'mean\''):
        EM(per_datum="mean")


def test_the_plan_says_what_is_variational(fit):
    rows = {row.site: (row.update, row.exactness) for row in fit.plan.rows}
    assert rows["theta"] == ("mean-field factor, Dirichlet", "variational")
    assert rows["phi"] == ("closed-form mode, Dirichlet", "exact")


def test_expected_point_is_exp_of_the_expected_logarithm():
    alpha = np.array([[0.02, 0.5, 7.0], [1e-3, 2e-3, 300.0]])
    found = np.asarray(DirichletExponent(jnp.asarray(alpha - 1)).expected_point())
    truth = np.exp(expected_log(alpha))
    assert_allclose(found, np.maximum(truth, np.finfo(np.float32).tiny), rtol=2e-3)


def test_topic_counts_keep_their_bound_where_weights_do_not_sum_to_one():
    with jax.enable_x64():
        weights, phi = jnp.array([[0.2, 0.05]]), jnp.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
        x = jnp.array([[2, 1, 3]])
        counts = TopicCounts(weights, phi, x.sum(-1), validate_args=False)
        t, logs = counts.expected_statistics(x), counts.potentials()
        bound = sum((t[name] * logs[name]).sum() for name in t)
        r = weights[0][:, None] * phi / (weights[0] @ phi)
        entropy = -(x[0] * (r * jnp.log(r)).sum(0)).sum()
        assert_allclose(counts.log_prob(x)[0], bound + entropy + counts.base_measure(x)[0], rtol=1e-12)
