"""One judge of topics for all: document completion in float64, given nothing but the words of each topic.

Half of the tokens of every held-out document are shown. Its proportions theta are estimated from them, with the topics
fixed, and the other half is scored:

    theta <- normalise(sum_w x_w theta phi_w / (theta . phi_w) + a - 1)       a = 1.1, 50 times from equal shares
    held-out = sum_w y_w log(theta . phi_w) / sum_w y_w                       x shown, y hidden

Source: Wallach, Murray, Salakhutdinov and Mimno (2009), section 4.1.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import sparse

DOC_CONCENTRATION = 1.1
STEPS = 50


class Halves(NamedTuple):
    """Counts of shown and of hidden tokens, shape (N, V) each, sparse."""

    shown: sparse.csr_array
    hidden: sparse.csr_array


def split(counts: sparse.csr_array, *, seed: int) -> Halves:
    """Show every token with probability one half.

    Args:
        counts: documents by words, shape (N, V).
        seed: of the split.
    """
    seen = np.random.default_rng(seed).binomial(counts.data.astype(np.int64), 0.5)
    return Halves(_of_cells(counts, seen), _of_cells(counts, counts.data - seen))


def held_out(phi: np.ndarray, halves: Halves) -> float:
    """Log-likelihood of the hidden tokens, nats a token.

    Args:
        phi: words of each topic, shape (K, V), rows that sum to 1.
        halves: the held-out documents.

    Returns:
        Minus infinity if a hidden token is impossible; NaN for topics that have lost their way.
    """
    if not np.isfinite(phi).all():
        return np.nan
    phi = phi.astype(np.float64)
    p = cell_probs(fold_in(phi, halves.shown), phi, halves.hidden)
    with np.errstate(divide="ignore"):
        return float(halves.hidden.data @ np.log(p) / halves.hidden.data.sum())


def fold_in(phi: np.ndarray, counts: sparse.csr_array) -> np.ndarray:
    """The mode of each document's proportions with the topics fixed, by EM, shape (N, K)."""
    num_topics = len(phi)
    theta = np.full((counts.shape[0], num_topics), 1.0 / num_topics)
    words = np.ascontiguousarray(phi.T)
    of_cells, rows = words[counts.indices], _rows(counts)
    for _ in range(STEPS):
        p = np.einsum("ck,ck->c", of_cells, theta[rows])
        ratio = np.divide(counts.data, p, out=np.zeros_like(p), where=p > 0)
        tokens = theta * (sparse.csr_array((ratio, counts.indices, counts.indptr), counts.shape) @ words)
        theta = tokens + (DOC_CONCENTRATION - 1)
        theta /= theta.sum(1, keepdims=True)
    return theta


def cell_probs(theta: np.ndarray, phi: np.ndarray, counts: sparse.csr_array) -> np.ndarray:
    """Probability of the word of each cell that is not zero, shape (cells,)."""
    return np.einsum("ck,ck->c", phi.T[counts.indices], theta[_rows(counts)])


def _rows(counts: sparse.csr_array) -> np.ndarray:
    return np.repeat(np.arange(counts.shape[0]), np.diff(counts.indptr))


def _of_cells(counts: sparse.csr_array, values: np.ndarray) -> sparse.csr_array:
    """The same cells with other values, without those that are zero."""
    found = sparse.csr_array((values, counts.indices, counts.indptr), counts.shape, copy=True)
    found.eliminate_zeros()
    return found
