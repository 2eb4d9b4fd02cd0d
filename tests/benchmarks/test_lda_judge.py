"""The judge of topics: it prefers the true ones, and says what a computation by hand says."""

import numpy as np
import pytest
from scipy import sparse

from benchmarks import _lda_corpus as corpora
from benchmarks import _lda_judge as judge
from benchmarks._lda_contest import Point, seconds_to_reach

SETTINGS = {"tokens": 20_000, "num_components": 5, "num_words": 100, "held_out": 60}


@pytest.fixture(scope="module")
def corpus():
    return corpora.simulate(SETTINGS, 0)


@pytest.fixture(scope="module")
def halves(corpus):
    return judge.split(corpus.held_out, seed=0)


def test_halves_share_out_every_token(corpus, halves):
    assert (halves.shown + halves.hidden != corpus.held_out).nnz == 0
    assert abs(halves.shown.sum() / corpus.held_out.sum() - 0.5) < 0.02
    again = judge.split(corpus.held_out, seed=0)
    assert (again.shown != halves.shown).nnz == 0


def test_true_topics_beat_permuted_and_uniform_ones(corpus, halves):
    phi, rng = corpus.phi, np.random.default_rng(1)
    permuted = np.stack([rng.permutation(row) for row in phi])
    uniform = np.full_like(phi, 1 / phi.shape[1])
    truth = judge.held_out(phi, halves)
    assert judge.held_out(uniform, halves) == pytest.approx(-np.log(phi.shape[1]))
    assert truth > judge.held_out(uniform, halves) + 0.5
    assert truth > judge.held_out(permuted, halves) + 0.5


def test_order_of_topics_does_not_matter(corpus, halves):
    assert judge.held_out(corpus.phi[::-1], halves) == pytest.approx(judge.held_out(corpus.phi, halves), abs=1e-10)


def test_one_document_is_scored_as_by_hand():
    phi = np.random.default_rng(2).dirichlet(np.full(6, 0.5), 3)
    shown, hidden = np.array([3, 0, 1, 0, 2, 0]), np.array([1, 2, 0, 0, 1, 0])
    theta = np.full(3, 1 / 3)
    for _ in range(judge.STEPS):
        tokens = np.zeros(3)
        for word, count in enumerate(shown):
            joint = theta * phi[:, word]
            tokens += count * joint / joint.sum()
        theta = (tokens + judge.DOC_CONCENTRATION - 1) / (tokens + judge.DOC_CONCENTRATION - 1).sum()
    value = sum(count * np.log(theta @ phi[:, word]) for word, count in enumerate(hidden)) / hidden.sum()
    pair = judge.Halves(sparse.csr_array(shown[None]), sparse.csr_array(hidden[None]))
    np.testing.assert_allclose(judge.fold_in(phi, pair.shown)[0], theta, atol=1e-12)
    assert judge.held_out(phi, pair) == pytest.approx(value, abs=1e-12)


def test_impossible_token_and_lost_topics_are_not_hidden():
    pair = judge.Halves(sparse.csr_array([[1, 1, 0]]), sparse.csr_array([[0, 0, 1]]))
    phi = np.array([[1.0, 0.0, 0.0]])
    assert judge.held_out(phi, pair) == -np.inf
    assert np.isnan(judge.held_out(phi * np.nan, pair))


def test_words_of_no_training_document_are_left_out(corpus):
    assert (corpus.train.sum(0) > 0).all()
    assert corpus.train.shape[1] == corpus.held_out.shape[1] == corpus.phi.shape[1]
    np.testing.assert_allclose(corpus.phi.sum(1), 1)


def test_seconds_to_reach_a_goal_lie_on_the_curve():
    curve = [Point(1.0, -np.inf), Point(2.0, -7.0), Point(4.0, -6.0)]
    assert seconds_to_reach(-6.5, curve) == pytest.approx(3.0)
    assert seconds_to_reach(-7.5, curve) == 2.0
    assert seconds_to_reach(-5.0, curve) is None
    assert seconds_to_reach(np.nan, curve) is None
