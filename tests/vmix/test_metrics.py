"""Agreement of a clustering with labels, against hand computation and all permutations."""

from itertools import permutations

import numpy as np
import pytest

from vmix import metrics


def entropy(*codes):
    counts = np.unique(np.stack(codes), axis=1, return_counts=True)[1]
    return -np.sum(counts / counts.sum() * np.log(counts / counts.sum()))


@pytest.fixture(params=[(3, 3), (2, 4), (4, 2), (5, 5)])
def pair(request):
    rng = np.random.default_rng(sum(request.param))
    return rng.integers(0, request.param[0], 60), rng.integers(0, request.param[1], 60)


def test_accuracy_equals_the_best_of_all_permutations(pair):
    labels, predicted = pair
    size = max(labels.max(), predicted.max()) + 1
    best = max(np.mean(np.array(order)[predicted] == labels) for order in permutations(range(size)))
    assert metrics.accuracy(labels, predicted) == pytest.approx(best, abs=1e-12)


def test_match_is_the_permutation_behind_accuracy(pair):
    labels, predicted = pair
    renamed = metrics.match(labels, predicted)
    assert sorted(renamed) == list(range(max(labels.max(), predicted.max()) + 1))
    assert np.mean(renamed[predicted] == labels) == pytest.approx(metrics.accuracy(labels, predicted), abs=1e-12)


def test_accuracy_is_one_to_one_not_many_to_one():
    assert metrics.accuracy([0, 0, 1, 1], [0, 1, 2, 3]) == 0.5
    assert metrics.accuracy([0, 1, 2, 3], [0, 0, 0, 0]) == 0.25


def test_renaming_changes_nothing_and_text_is_taken():
    assert metrics.accuracy(["a", "b", "b"], [9, -4, -4]) == 1
    assert set(metrics.clustering(["a", "b", "b"], [9, -4, -4]).values()) == {1.0}


def test_information_measures_equal_their_definitions(pair):
    labels, predicted = pair
    alone, other, both = entropy(labels), entropy(predicted), entropy(labels, predicted)
    shared = alone + other - both
    assert metrics.nmi(labels, predicted) == pytest.approx(2 * shared / (alone + other), abs=1e-12)
    assert metrics.completeness(labels, predicted) == pytest.approx(shared / other, abs=1e-12)
    assert metrics.homogeneity(labels, predicted) == pytest.approx(shared / alone, abs=1e-12)


def test_ari_equals_hand_computation():
    # Pairs together in both: 1; in labels: 2; in predicted: 2; of 6. (1 - 2/3) / (2 - 2/3) does not hold here: by hand
    # the table is [[2, 0], [1, 1]]: index 1, expected 2 * 3 / 6 = 1, maximum 2.5.
    assert metrics.ari([0, 0, 1, 1], [0, 0, 0, 1]) == pytest.approx(0.0, abs=1e-12)
    assert metrics.ari([0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 2, 2]) == pytest.approx((2 - 1.2) / (4.5 - 1.2), abs=1e-12)


def test_clustering_gives_every_measure_as_a_plain_float(pair):
    found = metrics.clustering(*pair)
    assert list(found) == ["accuracy", "nmi", "ari", "completeness", "homogeneity"]
    assert all(type(value) is float for value in found.values())


def test_as_many_classes_as_rows_raise_no_warning():
    assert metrics.clustering(range(30), range(30))["nmi"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("labels", "predicted", "message"),
    [
        ([0, 1], [0, 1, 1], "labels has 2 rows, predicted has 3"),
        ([], [], r"labels has shape \(0,\)"),
        ([0, 1], np.eye(2), r"predicted has shape \(2, 2\).*argmax"),
        ([0, np.nan], [0, 1], "labels has NaN or infinity at row 1"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, predicted, message):
    for measure in (metrics.accuracy, metrics.nmi, metrics.ari, metrics.completeness, metrics.homogeneity):
        with pytest.raises(ValueError, match=message):
            measure(labels, predicted)


@pytest.mark.parametrize("wrong", [[0, -1], [0, 0.5], ["a", "b"]])
def test_match_refuses_what_is_no_index(wrong):
    with pytest.raises(ValueError, match="predicted holds .*expected whole numbers from 0"):
        metrics.match([0, 1], wrong)
    with pytest.raises(ValueError, match="labels has 2 rows, predicted has 3"):
        metrics.match([0, 1], [0, 1, 2])
