"""Ranks of a truth among draws of its posterior, and whether they are uniform: pure functions of arrays.

Where theta ~ p(theta), x ~ p(x | theta) and theta_1, ..., theta_L ~ p(theta | x), the rank of f(theta, x) among the
f(theta_l, x) is uniform on 0, ..., L, whatever f is.

Source: Talts et al. (2018); functions of the data as well: Modrak et al. (2023).
"""

from typing import NamedTuple

import numpy as np
from scipy import stats

NUM_BINS = 16


class Verdict(NamedTuple):
    """Two p-values of the hypothesis that ranks are uniform, and how large the deviation is.

    Attributes:
        chi2: of a chi-square test of the counts in bins of equal size.
        ks: of a Kolmogorov-Smirnov test; a rank stands for a uniform point of its own cell.
        shift: mean of the ranks as a fraction of the largest, less a half: positive where draws lie too low.
        spread: variance of the ranks over that of the uniform law: above 1 where draws are too narrow.
    """

    chi2: float
    ks: float
    shift: float
    spread: float


def ranks(truth: np.ndarray, draws: np.ndarray, *, seed: int) -> np.ndarray:
    """How many draws lie below the truth, ties broken at random.

    Args:
        truth: one value a simulation, shape (M,).
        draws: shape (M, L).
        seed: of the ties.

    Returns:
        Whole numbers from 0 to L, shape (M,).

    Raises:
        ValueError: for values that are not finite, or shapes that disagree.
    """
    truth, draws = np.asarray(truth, float), np.asarray(draws, float)
    if draws.ndim != 2 or truth.shape != draws.shape[:1]:
        raise ValueError(f"truth must have shape (M,) and draws (M, L), found {truth.shape} and {draws.shape}")
    if not (np.isfinite(truth).all() and np.isfinite(draws).all()):
        raise ValueError("truth and draws must be finite")
    below = (draws < truth[:, None]).sum(1)
    equal = (draws == truth[:, None]).sum(1)
    return below + np.random.default_rng(seed).integers(0, equal + 1)


def histogram(found: np.ndarray, *, num_draws: int, num_bins: int = NUM_BINS) -> np.ndarray:
    """Counts of ranks in bins of equal size, shape (num_bins,).

    Raises:
        ValueError: where the L + 1 ranks do not divide into the bins.
    """
    if (num_draws + 1) % num_bins:
        raise ValueError(f"{num_draws + 1} ranks do not divide into {num_bins} bins: take {2 * num_bins - 1} draws")
    return np.bincount(found * num_bins // (num_draws + 1), minlength=num_bins)


def judge(found: np.ndarray, *, num_draws: int, seed: int, num_bins: int = NUM_BINS) -> Verdict:
    """Test ranks against the uniform law.

    Args:
        found: ranks, shape (M,).
        num_draws: L.
        seed: of the points inside of the cells.
        num_bins: of the chi-square test.
    """
    counts = histogram(found, num_draws=num_draws, num_bins=num_bins)
    points = (found + np.random.default_rng(seed).random(len(found))) / (num_draws + 1)
    shift = found.mean() / num_draws - 0.5
    spread = found.var() / (((num_draws + 1) ** 2 - 1) / 12)
    return Verdict(
        chi2=float(stats.chisquare(counts).pvalue),
        ks=float(stats.kstest(points, "uniform").pvalue),
        shift=float(shift),
        spread=float(spread),
    )
