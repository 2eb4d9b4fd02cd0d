"""What reports say of words, moves and modalities, against plain sums, on a stand-in for a fit that needs no engine."""

from types import SimpleNamespace

import numpy as np
import pytest

from vmix import findings
from vmix.program import Site
from vmix.steps import bound, reconstruct_rows

PHI = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]])
COUNTS = np.array([[6, 1, 0], [0, 1, 5], [4, 2, 1], [1, 0, 7]])
X = np.array([[0.1, 0.0], [0.9, 1.0], [0.8, 1.0], [1.0, 0.8]], np.float32)


def site(name, role, family, shape, event_dim, children=(), **more):
    return Site(name, role, shape, shape[: len(shape) - event_dim], event_dim, family, (), children=children, **more)


def a_program(x, y, seen):
    """Takes images, words, and which images there are."""


class TwoKinds:
    """Components by the mean of what the images say, where they are seen, and the words, where there are some."""

    num_components, has_latent, sequence_dims = 2, False, None
    posterior = {"phi": np.stack([PHI, PHI])}  # two draws
    _plan = SimpleNamespace(
        program=SimpleNamespace(model=a_program),
        sites={
            "phi": site("phi", "global", "Dirichlet", (2, 3), 1, ("y",)),
            "x": site("x", "observed", "Normal", (4, 2), 1),
            "y": site("y", "observed", "Multinomial", (4, 3), 1),
        },
    )

    def predict_proba(self, x, y, seen):
        told = np.stack([np.where(seen, x.mean(1), np.nan), np.where(y.sum(1), y[:, 2] > y[:, 0], np.nan)])
        second = np.nanmean(told, 0)
        return np.stack([1 - second, second], 1)

    def predict(self, *data):
        return self.predict_proba(*data).argmax(1)

    def reconstruct(self, x, y, seen):
        return {"x": x + y[:, :2], "y": y}


def test_words_of_a_component_are_the_most_probable_of_the_mean_draw():
    (topics,) = findings.topics_of(TwoKinds(), ["red", "green", "blue"])
    np.testing.assert_allclose(topics.probs, PHI)
    assert findings.top_words(topics)[1] == [("blue", "0.800"), ("red", "0.100"), ("green", "0.100")]
    with pytest.raises(ValueError, match="words has 2 names; 'y' has 3 words"):
        findings.topics_of(TwoKinds(), ["red", "green"])
    assert findings.topics_of(TwoKinds(), [["a", "b", "c"]])[0].words == ["a", "b", "c"]


def test_words_left_out_are_scored_by_what_the_images_say():
    fit, labels, seen = TwoKinds(), np.array([0, 1, 0, 1]), np.ones(4, int)
    topics = findings.topics_of(fit)
    without_words, without_images = findings.crossings_of(fit, (X, COUNTS, seen), labels, topics)
    assert without_words.without == "y" and without_images.without == "x"
    assert without_words.same == without_words.accuracy == 0.75  # the third image looks like the other class
    assert without_images.same == without_images.accuracy == 1.0 and without_images.tokens is None
    expected, by_frequency = 0.0, 0.0
    for probs, counts in zip(fit.predict_proba(X, 0 * COUNTS, seen), COUNTS, strict=True):
        for v, count in enumerate(counts):
            expected += count * np.log(probs @ PHI[:, v])
            by_frequency += count * np.log(COUNTS[:, v].sum() / COUNTS.sum())
    assert without_words.tokens == pytest.approx(expected / COUNTS.sum())
    assert without_words.frequencies == pytest.approx(by_frequency / COUNTS.sum())
    assert without_words.examples[0] == {"row": "0", "had": "0, 1", "told": "0, 1, 2"}


def test_moves_are_the_square_that_a_chain_hangs_on():
    moves = np.array([[0.9, 0.1], [0.4, 0.6]])
    chain = {
        "emission": site("emission", "global", "Dirichlet", (2, 2), 1, ("x",)),
        "transition": site("transition", "global", "Dirichlet", (2, 2), 1, ("c",)),
        "c": site("c", "discrete local", "MarkovChain", (3, 5), 1, ("x",), num_steps=5),
        "x": site("x", "observed", "Categorical", (3, 5), 0),
    }
    posterior = {"transition": np.stack([[moves] * 3, [moves.T] * 3])}  # two chains of three draws
    fit = SimpleNamespace(posterior=posterior, _plan=SimpleNamespace(sites=chain))
    np.testing.assert_allclose(findings.moves_of(fit), moves)
    chain.pop("c")
    chain["transition"] = site("transition", "global", "Dirichlet", (2, 2), 1, ("x",))
    assert findings.moves_of(fit) is None


def test_rows_of_several_arrays_are_taken_together():
    shown = bound(TwoKinds(), X, COUNTS, np.ones(4, int))
    np.testing.assert_allclose(reconstruct_rows(shown, X, np.array([3, 1])), (X + COUNTS[:, :2])[[3, 1]])
    np.testing.assert_array_equal(shown.predict(X), [0, 1, 0, 1])
    fit = TwoKinds()
    assert bound(fit, X) is fit
