"""The benchmark of deep mixtures: its data, and how far learnt weights are from the classes'."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import deep_mixtures
from benchmarks._deep_data import load


def test_imbalanced_rows_keep_a_tenth_of_the_first_class_and_all_of_the_last():
    every = load("digits", rows=None, held_out=False, imbalanced=False)
    thinned = load("digits", rows=None, held_out=False, imbalanced=True)
    kept = np.bincount(thinned.labels) / np.bincount(every.labels)
    assert kept[9] == 1.0 and thinned.name == "digits_imbalanced"
    np.testing.assert_allclose(kept, np.arange(1, 11) / 10, atol=0.12)  # five standard errors of 180 rows at a half


def test_held_out_rows_are_the_last_seventh():
    rows = load("digits", rows=700, held_out=True, imbalanced=False)
    assert len(rows.x) == 600 and len(rows.test_x) == len(rows.test_labels) == 100


@pytest.mark.parametrize(
    ("posterior", "expected"),
    [
        ({"w": np.array([0.25, 0.75])}, 0.0),  # components 0 and 1 are classes 1 and 0
        ({}, 0.25),  # uniform
        ({"v": np.array([0.25, 2 / 3])}, 0.25),  # the third component, .25, is no class's
    ],
)
def test_weights_are_compared_with_the_classes_they_match(posterior, expected):
    labels = np.array([0, 0, 0, 1])
    predicted = np.array([1, 1, 1, 0])
    size = 3 if "v" in posterior else 2
    fit = SimpleNamespace(posterior=posterior, num_components=size)
    assert deep_mixtures.weights_apart(fit, labels, predicted) == pytest.approx(expected, abs=1e-6)
