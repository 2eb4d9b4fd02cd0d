"""VAEGMMMLDA: two modalities with one class are found from both, and either tells of the other."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.handlers import seed
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

import vmix
from vmix.engine import Start
from vmix.first_responsibilities import View
from vmix.inference import EM, SVI, Gibbs
from vmix.log_joint import Batch
from vmix.metrics import accuracy
from vmix.mixture_climb import evidence
from vmix.models import VAEGMMMLDA

N = 240
RNG = np.random.default_rng(0)
LABELS = np.arange(N) % 3
IMAGES = np.clip(RNG.normal(np.eye(3)[LABELS].repeat(4, 1) * 0.8 + 0.1, 0.15), 0, 1).astype(np.float32)
WORDS = np.stack([RNG.multinomial(30, p) for p in RNG.dirichlet(np.full(8, 0.3), 3)[LABELS]])
WORDS[5] = 0
SEEN = np.ones(N, int)
SEEN[7] = 0
MODEL = VAEGMMMLDA(num_components=3, latent_dim=2, hidden=(16,), weight=None, starts=2)


@pytest.fixture(scope="module")
def fit():
    return vmix.fit(MODEL, IMAGES, WORDS, SEEN, engine=EM(num_sweeps=3), seed=0)


@pytest.mark.slow
def test_classes_are_found_from_both_modalities_and_from_either(fit):
    assert accuracy(LABELS, fit.predict(IMAGES, WORDS, SEEN)) > 0.98
    assert accuracy(LABELS, fit.predict(IMAGES, 0 * WORDS, SEEN)) > 0.95
    assert accuracy(LABELS, fit.predict(IMAGES, WORDS, 0 * SEEN)) > 0.95


@pytest.mark.slow
def test_an_image_that_was_not_seen_says_nothing(fit):
    scrambled = 1 - IMAGES
    shares = fit.predict_proba(IMAGES, WORDS, 0 * SEEN)
    np.testing.assert_allclose(shares, fit.predict_proba(scrambled, WORDS, 0 * SEEN), atol=1e-6)


@pytest.mark.slow
def test_shares_from_words_alone_are_bayes_rule(fit):
    logits = np.log(fit.posterior["w"]) + WORDS @ np.log(fit.posterior["phi"]).T
    expected = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
    np.testing.assert_allclose(fit.predict_proba(IMAGES, WORDS, 0 * SEEN), expected, atol=1e-4)


@pytest.mark.slow
def test_words_are_expected_from_images(fit):
    words = fit.predict_proba(IMAGES, 0 * WORDS, SEEN) @ fit.posterior["phi"]
    known, marginal = WORDS * np.log(words), WORDS * np.log(WORDS.sum(0) / WORDS.sum())
    assert known.sum() > marginal.sum()


@pytest.mark.slow
def test_words_are_weighed_by_what_they_are_worth_unless_told():
    words = np.concatenate([WORDS[8:], 5 * WORDS[8:]])  # the same shares: what five copies of a token are worth is one
    settled = VAEGMMMLDA(num_components=3).with_data(np.tile(IMAGES[8:], (2, 1)), words)
    assert 15 < settled.weight < 45 and settled.max_tokens == np.ceil(settled.weight)
    assert VAEGMMMLDA(num_components=3, weight=12.5).with_data(IMAGES, WORDS).weight == 12.5
    assert MODEL.with_data(IMAGES, WORDS).weight is None
    with pytest.raises(ValueError, match="weight is 'effective', not settled on data yet"):
        seed(VAEGMMMLDA().model, 0)(IMAGES, WORDS)
    with pytest.raises(ValueError, match='weight must be a number above 0, "effective", or None'):
        VAEGMMMLDA(weight="much")


@pytest.mark.slow
@pytest.mark.parametrize("engine", [SVI(num_steps=200), Gibbs(num_samples=20, num_warmup=20)], ids=["SVI", "Gibbs"])
def test_the_other_engines_find_the_classes(engine):
    fit = vmix.fit(MODEL, IMAGES, WORDS, SEEN, engine=engine, seed=0)
    assert accuracy(LABELS, fit.predict(IMAGES, WORDS, SEEN)) > 0.98


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ((IMAGES, WORDS - 1), "y has -1 at row .* which is negative"),
        ((IMAGES, WORDS + 0.5), "y has .* which is not whole"),
        ((IMAGES, 0 * WORDS), "y has no tokens: every document is all zero"),
        ((2 * IMAGES, WORDS), r"Bernoulli pixels are in \[0, 1\]"),
        ((IMAGES, WORDS, 2 * SEEN), r"seen must have shape \(240,\) and hold 0 and 1 only"),
        ((IMAGES, WORDS, IMAGES), r"seen must have shape \(240,\)"),
        ((IMAGES, WORDS[:9]), "differ in their number of rows"),
    ],
)
def test_data_that_it_cannot_explain_are_refused(data, match):
    with pytest.raises(ValueError, match=match):
        vmix.fit(MODEL, *data, engine=EM(num_sweeps=1), seed=0)


@pytest.mark.slow
def test_another_view_of_the_images_says_nothing_of_the_words(fit):
    """What one encoder says of a class is its codes' density alone: words are the same in every view."""
    plan, k = fit._plan, MODEL.num_components
    codes = np.random.default_rng(1).normal(size=(N, MODEL.latent_dim)).astype(np.float32)
    globals_ = {name: jnp.asarray(fit.posterior[name]) for name in plan.globals}
    view = View(Start(globals_, plan.params), {"z": jnp.asarray(codes)}, {})
    found = evidence(plan, view, globals_, Batch((IMAGES, WORDS, SEEN), {"z": jnp.asarray(codes)}, {}, None, {}))
    loc, precision = fit.posterior["loc"], fit.posterior["precision"]
    expected = np.stack([multivariate_normal(loc[j], np.linalg.inv(precision[j])).logpdf(codes) for j in range(k)], 1)
    seen = SEEN.astype(bool)
    np.testing.assert_allclose((found - found[:, :1])[seen], (expected - expected[:, :1])[seen], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose((found - found[:, :1])[~seen], 0, atol=1e-5)
