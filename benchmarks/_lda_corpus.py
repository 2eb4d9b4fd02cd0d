"""The documents of `lda`: spoken digits as counts of sounds, and a corpus simulated from known topics."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

import vmix

TOKENS_A_DOCUMENT = 200
THETA_CONCENTRATION, PHI_CONCENTRATION = 0.1, 0.05


class Corpus(NamedTuple):
    """Documents by words, sparse counts.

    Attributes:
        train: shape (N, V).
        held_out: shape (H, V).
        phi: the words of the true topics, shape (K, V), where they are known.
    """

    train: sparse.csr_array
    held_out: sparse.csr_array
    phi: np.ndarray | None

    @property
    def num_tokens(self) -> int:
        """Tokens to learn from."""
        return int(self.train.sum())


def speech(settings: dict[str, Any]) -> Corpus:
    """The speech counts of the Serket pairs; the last documents are held out."""
    counts = vmix.data.load("serket").modalities["speech"]
    held_out = settings["held_out"]
    return _with_known_words(counts[:-held_out], counts[-held_out:], None)


def simulate(settings: dict[str, Any], seed: int) -> Corpus:
    """Documents of Poisson(200) tokens from Dirichlet(0.1) proportions of topics of Dirichlet(0.05) words."""
    rng = np.random.default_rng(seed)
    num_topics, num_words, held_out = (settings[name] for name in ("num_components", "num_words", "held_out"))
    num_documents = settings["tokens"] // TOKENS_A_DOCUMENT + held_out
    phi = rng.dirichlet(np.full(num_words, PHI_CONCENTRATION), num_topics)
    theta = rng.dirichlet(np.full(num_topics, THETA_CONCENTRATION), num_documents)
    of_topic = rng.multinomial(rng.poisson(TOKENS_A_DOCUMENT, num_documents), theta)
    documents = np.concatenate([np.repeat(np.arange(num_documents), n) for n in of_topic.T])
    words = np.concatenate([rng.choice(num_words, n, p=p) for n, p in zip(of_topic.sum(0), phi, strict=True)])
    shape = (num_documents, num_words)
    counts = sparse.coo_array((np.ones(len(words), np.int32), (documents, words)), shape).tocsr()
    return _with_known_words(counts[:-held_out], counts[-held_out:], phi)


def _with_known_words(train: Any, held_out: Any, phi: np.ndarray | None) -> Corpus:
    """Leave out the words that no training document has: tomotopy knows no others."""
    known = np.flatnonzero(np.asarray(train.sum(0)).ravel())
    if phi is not None:
        phi = phi[:, known] / phi[:, known].sum(1, keepdims=True)
    return Corpus(sparse.csr_array(train[:, known]), sparse.csr_array(held_out[:, known]), phi)
