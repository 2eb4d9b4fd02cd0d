"""How many independent tokens a datum's counts are worth.

Counts of features that come together (co-occurrences, bags of visual words) vary more from datum to datum than a
multinomial allows, so its likelihood is overconfident: a class is certain from one modality, and no other is heard.
Between classes k and l the evidence a token is s_n = sum_v x_nv log(phi_kv / phi_lv) / total_n, and

    tokens = sum_kl Var_multinomial(one token's log(phi_k / phi_l) | k) / sum_kl Var_data(s_n | k)

is the total that gives the multinomial the variance that the data have.

Source: the magnitude adjustment of composite likelihoods (Pauli, Racugno and Ventura, 2011), as a ratio of the two
variances in the directions between classes; quasi-likelihood (Wedderburn, 1974) is the same with one dispersion.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MOST_ROWS = 20_000
SMOOTHING = 0.05
EFFECTIVE = "effective"


def check_weight(weight: float | str | None) -> None:
    """Check the total to which counts are to be scaled.

    Raises:
        ValueError: if it is not a number above 0, "effective", or None.
    """
    if not (weight is None or weight == EFFECTIVE or (isinstance(weight, int | float) and weight > 0)):
        raise ValueError(f'weight must be a number above 0, "{EFFECTIVE}", or None, found {weight!r}')


def settle_weight(weight: float | str | None, counts: Any, *, num_classes: int) -> float | None:
    """The total as a number: "effective" becomes what the counts are worth, None leaves them as they are."""
    return effective_tokens(counts, num_classes=num_classes) if isinstance(weight, str) else weight


def settled_weight(weight: float | str | None) -> float | None:
    """A total that was settled on data.

    Raises:
        ValueError: for one that was not.
    """
    if isinstance(weight, str):
        raise ValueError(f"weight is {weight!r}, not settled on data yet: run model.with_data(x, y), as a fit does")
    return weight


def effective_tokens(counts: Any, *, num_classes: int) -> float:
    """The total to which each datum's counts should be scaled, at most their mean total.

    The classes are k-means clusters of the square roots of the words' shares; word probabilities are taken from one
    half of the data and variances from the other, both ways. No labels are needed, and it matters little which classes.

    Args:
        counts: shape (N, V), whole numbers or fractions of at least 0; rows of zeros (or NaN) are passed over.
        num_classes: how many clusters to tell apart.

    Returns:
        Tokens.

    Raises:
        ValueError: without any tokens.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> words = rng.dirichlet(np.ones(50), 3)
        >>> ones = np.stack([rng.multinomial(20, words[i % 3]) for i in range(300)])
        >>> 15 < effective_tokens(ones, num_classes=3) <= 20
        True
        >>> effective_tokens(5 * ones, num_classes=3) < 22
        True
    """
    x = np.nan_to_num(np.asarray(counts, np.float64))
    totals = x.sum(1)
    if not totals.any():
        raise ValueError("counts has no tokens: every row is all zero; drop this modality, or give its counts")
    x, totals = x[totals > 0], totals[totals > 0]
    rng = np.random.default_rng(0)
    if len(x) > MOST_ROWS:
        kept = np.sort(rng.choice(len(x), MOST_ROWS, replace=False))
        x, totals = x[kept], totals[kept]
    mean = float(totals.mean())
    if num_classes < 2 or len(x) < 4 * num_classes:
        return mean
    shares = x / totals[:, None]
    classes = _clusters(shares, num_classes)
    first = rng.permutation(len(x)) % 2 == 0
    pairs = [_variances(shares, classes, half, mean, num_classes) for half in (first, ~first)]
    expected, found = np.sum(pairs, 0)
    return float(min(expected / found, mean)) if found > 0 else mean


def _clusters(shares: np.ndarray, num_classes: int) -> np.ndarray:
    import warnings

    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than classes
        return KMeans(num_classes, n_init=3, random_state=0).fit_predict(np.sqrt(shares))


def _variances(
    shares: np.ndarray, classes: np.ndarray, half: np.ndarray, mean: float, num_classes: int
) -> tuple[float, float]:
    """One token's variance under the multinomial, and the data's, summed over rows and pairs of classes."""
    sums = np.stack([shares[half & (classes == k)].sum(0) for k in range(num_classes)]) + SMOOTHING / mean
    phi = sums / sums.sum(1, keepdims=True)
    logs = np.log(phi)
    scores, rest = shares[~half] @ logs.T, classes[~half]
    expected = found = 0.0
    for k in range(num_classes):
        own = scores[rest == k]
        if len(own) < 2 or not (half & (classes == k)).any():
            continue
        ratios = logs[k] - logs
        expected += len(own) * float((ratios**2 @ phi[k] - (ratios @ phi[k]) ** 2).sum())
        found += len(own) * float((own[:, [k]] - own).var(0, ddof=1).sum())
    return expected, found
