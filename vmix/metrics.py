"""How well a clustering agrees with labels. All figures lie in [0, 1] (ari: up to 1), higher is better.

`accuracy` is always one to one: each component may claim one class only. scikit-learn and SciPy are imported when used.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

Labels = Sequence[Any] | np.ndarray


def accuracy(labels: Labels, predicted: Labels) -> float:
    """Share of rows that agree under the best one-to-one matching of components with classes.

    `max over matchings m of mean(labels_n == m(predicted_n))`, by the Hungarian algorithm. Where the numbers of
    components and classes differ, those left over match nothing.

    Args:
        labels: class of each row, shape (N,).
        predicted: component of each row, shape (N,).

    Returns:
        Accuracy in [0, 1].

    Raises:
        ValueError: empty, not one-dimensional, of unequal length, or NaN.

    Example:
        >>> accuracy([0, 0, 1, 1], [5, 5, 3, 5])
        0.75

    Source: Yang, Xu, Nie, Yan, Zhuang (2010).
    """
    from scipy.optimize import linear_sum_assignment

    table = _contingency(labels, predicted)
    return float(table[linear_sum_assignment(table, maximize=True)].sum() / table.sum())


def match(labels: Labels, predicted: Labels) -> np.ndarray:
    """Find the renaming of components that `accuracy` uses.

    Args:
        labels: class of each row, whole numbers from 0, shape (N,).
        predicted: component of each row, whole numbers from 0, shape (N,).

    Returns:
        A permutation of 0, ..., M-1, where M-1 is the largest number seen: component k is called `match(...)[k]`, and
        `accuracy(labels, predicted) == mean(match(...)[predicted] == labels)`.

    Raises:
        ValueError: as `accuracy`; also numbers that are negative or not whole.

    Example:
        >>> match([2, 2, 0, 1], [0, 0, 1, 2])
        array([2, 0, 1])
    """
    from scipy.optimize import linear_sum_assignment

    classes, components = (_numbers(*pair) for pair in ((labels, "labels"), (predicted, "predicted")))
    _contingency(labels, predicted)
    size = int(max(classes.max(), components.max())) + 1
    table = np.zeros((size, size), np.int64)
    np.add.at(table, (components, classes), 1)
    return linear_sum_assignment(table, maximize=True)[1]


def nmi(labels: Labels, predicted: Labels) -> float:
    """Normalised mutual information, `2 I(labels; predicted) / (H(labels) + H(predicted))`; 1 where both H are 0."""
    return _scored("normalized_mutual_info_score", labels, predicted)


def ari(labels: Labels, predicted: Labels) -> float:
    """Rand index of pairs of rows, adjusted for chance: 0 on average for random clusterings, 1 for equal ones."""
    return _scored("adjusted_rand_score", labels, predicted)


def completeness(labels: Labels, predicted: Labels) -> float:
    """How far each class lies in one component, `1 - H(predicted | labels) / H(predicted)`."""
    return _scored("completeness_score", labels, predicted)


def homogeneity(labels: Labels, predicted: Labels) -> float:
    """How far each component holds one class, `1 - H(labels | predicted) / H(labels)`."""
    return _scored("homogeneity_score", labels, predicted)


def clustering(labels: Labels, predicted: Labels) -> dict[str, float]:
    """All of them at once.

    Example:
        >>> clustering([0, 0, 1, 1], [1, 1, 0, 0])
        {'accuracy': 1.0, 'nmi': 1.0, 'ari': 1.0, 'completeness': 1.0, 'homogeneity': 1.0}
    """
    return {measure.__name__: measure(labels, predicted) for measure in (accuracy, nmi, ari, completeness, homogeneity)}


def _contingency(labels: Labels, predicted: Labels) -> np.ndarray:
    rows, columns = _codes(labels, predicted)
    table = np.zeros((rows.max() + 1, columns.max() + 1), np.int64)
    np.add.at(table, (rows, columns), 1)
    return table


def _codes(labels: Labels, predicted: Labels) -> tuple[np.ndarray, np.ndarray]:
    codes = []
    for given, name in ((labels, "labels"), (predicted, "predicted")):
        try:
            values = np.asarray(given)
        except ValueError as error:
            raise ValueError(f"{name} has rows of different lengths; expected one class per row, (N,)") from error
        if values.ndim != 1 or values.size == 0:
            way = "take argmax of probabilities" if values.ndim > 1 else "give one for each datum"
            raise ValueError(f"{name} has shape {values.shape}; expected one class per row, (N,): {way}")
        if values.dtype.kind == "O" and len({type(value) for value in values}) > 1:
            kinds = sorted({type(value).__name__ for value in values})
            raise ValueError(f"{name} mixes {', '.join(kinds)}; expected classes of one kind: drop or rename others")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ValueError(
                f"{name} has NaN or infinity at row {np.argmin(np.isfinite(values))}; expected classes: drop it"
            )
        codes.append(np.unique(values, return_inverse=True)[1])
    if len(codes[0]) != len(codes[1]):
        raise ValueError(f"labels has {len(codes[0])} rows, predicted has {len(codes[1])}; expected one each per datum")
    return codes[0], codes[1]


def _numbers(given: Labels, name: str) -> np.ndarray:
    values = np.asarray(given)
    if values.dtype.kind not in "biuf" or (values.size and (values.min() < 0 or (values != np.floor(values)).any())):
        raise ValueError(f"{name} holds {values.dtype} values such as {values[:3]}; expected whole numbers from 0")
    return values.astype(np.int64)


def _scored(name: str, labels: Labels, predicted: Labels) -> float:
    from sklearn import metrics

    codes = _codes(labels, predicted)
    with warnings.catch_warnings():
        # Many classes in few rows look like regression targets to scikit-learn; here they are classes all the same.
        warnings.filterwarnings("ignore", message="The number of unique classes")
        return float(getattr(metrics, name)(*codes))
