"""vmix's LDA, by EM and by Gibbs, advanced chunk by chunk as the driver does.

EM finds the mode under the model's default concentrations a and b. Draws need no mode inside the simplex, so Gibbs
takes a - 1 and b - 1: the pseudo-counts that the defaults add in EM.
"""

from __future__ import annotations

import time

import numpy as np

from benchmarks._lda_contest import Contestant
from benchmarks._lda_corpus import Corpus
from benchmarks._sweeps import Sweeps, next_length
from vmix.inference import EM, Gibbs
from vmix.models import LDA

VARIANTS = ("vmix, EM", "vmix, Gibbs")


def contestants(corpus: Corpus, num_components: int, seed: int) -> list[list[Contestant]]:
    """EM and Gibbs, one form each."""
    mode = LDA(num_components=num_components)
    a, b = round(mode.doc_concentration - 1, 6), round(mode.topic_concentration - 1, 6)
    draws = LDA(num_components=num_components, doc_concentration=a, topic_concentration=b)
    return [[Ours(EM(tolerance=None), mode, corpus, seed)], [Ours(Gibbs(num_warmup=0), draws, corpus, seed)]]


class Ours(Contestant):
    """One engine. Its first piece is the driver's start (k-means and three sweeps); all is compiled before."""

    def __init__(self, engine: EM | Gibbs, model: LDA, corpus: Corpus, seed: int) -> None:
        super().__init__(f"vmix, {engine.name}")
        began = time.perf_counter()
        self.length = 1
        self.ours = Sweeps(model, (corpus.train.toarray().astype(np.int32),), engine, seed=seed)
        self.ours.start()
        self._forget()
        self._sweep()
        self._forget()
        self.is_begun = False
        self.seconds_before = time.perf_counter() - began

    def advance(self) -> float:
        """The start, then chunks of sweeps."""
        began, length = time.perf_counter(), self.length
        if not self.is_begun:
            self.ours.start()
            self.is_begun = True
            self.about["seconds_start"] = time.perf_counter() - began
            return 0.0
        self._sweep()
        self.length = next_length(length, time.perf_counter() - began, first=False)
        return float(length)

    def phi(self) -> np.ndarray:
        """EM's last topics; the mean of Gibbs' draws since they were last asked for, or the last draw."""
        if not self.draws:
            return self.ours.values()["phi"]
        mean = self.sums / self.draws
        self._forget()
        return mean

    def _forget(self) -> None:
        self.sums, self.draws = np.zeros(self.ours.values()["phi"].shape), 0

    def _sweep(self) -> None:
        info = self.ours.advance(self.length)
        if "phi" in info.draws:
            self.sums += info.draws["phi"][0].sum(0)
            self.draws += self.length
