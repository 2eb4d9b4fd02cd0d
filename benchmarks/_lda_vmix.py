"""vmix's LDA, by EM and by Gibbs, advanced chunk by chunk as the driver does.

EM finds the mode under the model's default concentrations a and b. Draws need no mode inside the simplex, so Gibbs
takes a - 1 and b - 1: the pseudo-counts that the defaults add in EM.
"""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from benchmarks._lda_contest import Contestant
from benchmarks._lda_corpus import Corpus
from vmix import fitting
from vmix.door import check_arrays, prepare
from vmix.inference import EM, Gibbs
from vmix.models import LDA
from vmix.plan import make_plan

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
        self.engine, self.key, self.length = engine, jax.random.key(seed), 1
        arrays = check_arrays((corpus.train.toarray().astype(np.int32),), missing=None)
        self.plan = make_plan(prepare(model, arrays), arrays, key=self.key)
        self.data = fitting.hold(self.plan, arrays, None)
        self.run = fitting._Run(self.plan, engine, self.data, False)
        self.begin = jax.jit(lambda start, data, key: engine.init(self.plan, start, data, key=key))
        self.state: Any = self._start()
        self._forget()
        self._sweep()
        self._forget()
        self.state = None
        self.seconds_before = time.perf_counter() - began

    def advance(self) -> float:
        """The start, then chunks of sweeps."""
        began, length = time.perf_counter(), self.length
        if self.state is None:
            self.state = self._start()
            self.about["seconds_start"] = time.perf_counter() - began
            return 0.0
        self._sweep()
        self.length = fitting._next_length(length, time.perf_counter() - began, first=False)
        return float(length)

    def phi(self) -> np.ndarray:
        """EM's last topics; the mean of Gibbs' draws since they were last asked for, or the last draw."""
        if not self.draws:
            return np.asarray(self.state.globals["phi"][0], np.float64)
        mean = self.sums / self.draws
        self._forget()
        return mean

    def _forget(self) -> None:
        self.sums, self.draws = np.zeros(self.state.globals["phi"].shape[1:]), 0

    def _start(self) -> Any:
        starts, _ = fitting._starts(self.plan, self.engine, self.data, None, self.key, False)
        return jax.block_until_ready(fitting._stack([self.begin(starts[0], self.data, self.key)]))

    def _sweep(self) -> None:
        """A chunk of sweeps; what they tell comes to the host, as in the driver."""
        self.state, info = self.run.chunk(self.state, self.data, self.run._schedule(0), self.length)
        info = fitting._kept(info, self.length)
        if "phi" in info.draws:
            self.sums += info.draws["phi"][0].sum(0)
            self.draws += self.length
