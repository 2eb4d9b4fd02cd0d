"""tomotopy, scikit-learn and gensim on the documents of `lda`, with priors and options that each has by default.

tomotopy (0.14): collapsed Gibbs in C++, alpha 0.1 and eta 0.01 at first, alpha fitted again every 10 sweeps; one
worker or more, the fastest counts. scikit-learn (1.9): variational Bayes, priors 1 / K, online in batches of 128
documents or on all of them, float64, one process and one BLAS thread; a batch sweep is called as the loop of its `fit`
does, for `fit` itself cannot be stopped and resumed. gensim (4.4): online variational Bayes in chunks of 2,000
documents, priors 1 / K, float32, BLAS at its own thread count. The topics of all are smoothed by their priors.
"""

from __future__ import annotations

import time
import warnings
from functools import cache
from importlib import metadata, util

import numpy as np
from sklearn.decomposition import LatentDirichletAllocation
from threadpoolctl import threadpool_limits

from benchmarks._lda_contest import Contestant
from benchmarks._lda_corpus import Corpus
from benchmarks._peers import thread_counts
from vmix.driving import next_length


@cache
def variants() -> tuple[str, ...]:
    """The peers at hand, with their versions; one that is not is named on the screen."""
    sklearn = f"scikit-learn {metadata.version('scikit-learn')}"
    found = [f"{sklearn}, online", f"{sklearn}, batch"]
    for name, place in (("tomotopy", 0), ("gensim", len(found) + 1)):
        if util.find_spec(name) is None:
            print(f"{name} is left out: not installed")
        else:
            found.insert(place, f"{name} {metadata.version(name)}")
    return tuple(found)


def contestants(corpus: Corpus, num_components: int, seed: int) -> list[list[Contestant]]:
    """The forms of each peer, of which the fastest counts."""
    forms: list[list[Contestant]] = []
    for variant in variants():
        build = (variant, corpus, num_components, seed)
        if variant.startswith("tomotopy"):
            forms.append([Tomotopy(*build, workers=workers) for workers in thread_counts()])
        elif variant.startswith("gensim"):
            forms.append([Gensim(*build)])
        else:
            forms.append([Batch(*build)] if variant.endswith("batch") else [Online(*build)])
    return forms


class Tomotopy(Contestant):
    """`LDAModel.train`, in chunks of sweeps whose length follows the clock as vmix's does; its topics are the last."""

    def __init__(self, variant: str, corpus: Corpus, num_components: int, seed: int, *, workers: int) -> None:
        import tomotopy

        super().__init__(variant)
        began = time.perf_counter()
        self.about, self.length = {"threads": workers}, 1
        self.model = tomotopy.LDAModel(k=num_components, seed=seed)
        counts = corpus.train
        for first, last in zip(counts.indptr[:-1], counts.indptr[1:], strict=True):
            words = np.repeat(counts.indices[first:last], counts.data[first:last])
            if len(words):
                self.model.add_doc([str(word) for word in words])
        self._train(0)
        self.order = np.argsort([int(word) for word in self.model.used_vocabs])
        self.seconds_before = time.perf_counter() - began

    def advance(self) -> float:
        """A chunk of sweeps."""
        began, length = time.perf_counter(), self.length
        self._train(length)
        self.length = next_length(length, time.perf_counter() - began, first=False)
        return float(length)

    def phi(self) -> np.ndarray:
        """The smoothed shares of the last draw."""
        rows = [self.model.get_topic_word_dist(k) for k in range(self.model.k)]
        return np.array(rows, np.float64)[:, self.order]

    def _train(self, sweeps: int) -> None:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The training result may differ", RuntimeWarning)  # so do seconds
            self.model.train(sweeps, workers=self.about["threads"])


class Online(Contestant):
    """scikit-learn's `partial_fit`, a batch at a time; documents in the order of its `fit`, which does not shuffle."""

    method = "online"

    def __init__(self, variant: str, corpus: Corpus, num_components: int, seed: int) -> None:
        super().__init__(variant)
        began = time.perf_counter()
        self.counts, self.first = corpus.train.astype(np.float64), 0
        num_documents, num_words = self.counts.shape
        options = {"learning_method": self.method, "total_samples": num_documents, "n_jobs": 1, "random_state": seed}
        self.model = LatentDirichletAllocation(num_components, **options)
        self.model._init_latent_vars(num_words)
        self.seconds_before = time.perf_counter() - began

    def advance(self) -> float:
        """One batch."""
        batch = self.counts[self.first : self.first + self.model.batch_size]
        with threadpool_limits(1):
            self.model.partial_fit(batch)
        self.first = (self.first + batch.shape[0]) % self.counts.shape[0]
        return batch.shape[0] / self.counts.shape[0]

    def phi(self) -> np.ndarray:
        """The means of the topics' Dirichlet distributions."""
        return self.model.components_ / self.model.components_.sum(1, keepdims=True)


class Batch(Online):
    """scikit-learn's sweeps over all documents."""

    method = "batch"

    def advance(self) -> float:
        """One sweep."""
        with threadpool_limits(1):
            self.model._em_step(self.counts, total_samples=self.counts.shape[0], batch_update=True)
        return 1.0


class Gensim(Contestant):
    """The loop of `LdaModel.update`, a chunk at a time: its chunks, its decaying weight of what is new."""

    def __init__(self, variant: str, corpus: Corpus, num_components: int, seed: int) -> None:
        from gensim.models import LdaModel

        super().__init__(variant)
        began = time.perf_counter()
        counts = corpus.train
        self.documents = [
            list(zip(counts.indices[first:last].tolist(), counts.data[first:last].tolist(), strict=True))
            for first, last in zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
        ]
        words = {word: str(word) for word in range(counts.shape[1])}
        self.model = LdaModel(num_topics=num_components, id2word=words, random_state=seed)
        self.model.state.numdocs = len(self.documents)
        self.first, self.passes = 0, 0
        self.seconds_before = time.perf_counter() - began

    def advance(self) -> float:
        """One chunk."""
        from gensim.models.ldamodel import LdaState

        model = self.model
        chunk = self.documents[self.first : self.first + model.chunksize]
        found = LdaState(model.eta, model.state.sstats.shape, model.dtype)
        model.do_estep(chunk, found)
        steps = model.offset + self.passes + model.num_updates / model.chunksize
        model.do_mstep(steps**-model.decay, found, self.passes > 0)
        self.first += len(chunk)
        if self.first == len(self.documents):
            self.first, self.passes = 0, self.passes + 1
        return len(chunk) / len(self.documents)

    def phi(self) -> np.ndarray:
        """The means of the topics' Dirichlet distributions."""
        return np.asarray(self.model.get_topics(), np.float64)
