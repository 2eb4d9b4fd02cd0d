"""Multimodal latent Dirichlet allocation: one mixture of topics behind several kinds of counts.

    phi_mk  ~ Dirichlet(b, ..., b)                        words of topic k in modality m
    theta_n ~ Dirichlet(a, ..., a)                        topics of datum n, shared by its modalities
    x_mn    ~ TopicCounts(theta_n, phi_m, total_mn)       for each modality m

A modality that a datum lacks is a row of zeros (no tokens), or of NaN with missing="nan".

Source: Nakamura, Nagai and Iwahashi (2009), whose weights rescale each datum's counts to a common total; each modality
is Blei, Ng and Jordan (2003), equations 2 and 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.distributions import TopicCounts
from vmix.options import checked
from vmix.priors import check_documents, longest_document, scale_counts, settle, settled
from vmix.showing import Shown


@checked()
@dataclass(frozen=True, kw_only=True)
class MLDA(Shown):
    """Multimodal LDA of counts x0, x1, ..., each of shape (N, V_m).

    Args:
        num_components: K, the number of topics.
        weights: total to which each modality's counts are scaled (and rounded) in every datum that has it; None leaves
            the counts as they are.
        doc_concentration: a, of each datum's topics.
        topic_concentration: b, of each topic's words.
        max_tokens: the most tokens of a datum in each modality; None takes the data's.
    """

    num_components: int = 10
    weights: tuple[float, ...] | None = None
    doc_concentration: float = 1.1
    topic_concentration: float = 1.05
    max_tokens: tuple[int, ...] | None = None

    def check_data(self, *x: Array) -> None:
        """Check the counts of each modality."""
        if self.weights is not None and len(self.weights) != len(x):
            raise ValueError(f"weights has {len(self.weights)} entries, but {len(x)} modalities are given: one each")
        for m, counts in enumerate(x):
            check_documents(counts, f"data[{m}]")

    def with_data(self, *x: Array) -> MLDA:
        """Settle the longest document of each modality."""
        longest = [longest_document(c, f"data[{m}]", weight=self._weight(m)) for m, c in enumerate(x)]
        return settle(self, max_tokens=tuple(longest))

    def model(self, *x: Array) -> None:
        """The generative story."""
        k, longest = self.num_components, settled(self.max_tokens, "max_tokens")
        phi = [
            numpyro.sample(f"phi{m}", dist.Dirichlet(jnp.full(counts.shape[1], self.topic_concentration)).expand([k]))
            for m, counts in enumerate(x)
        ]
        with numpyro.plate("data", x[0].shape[0]):
            theta = numpyro.sample("theta", dist.Dirichlet(jnp.full(k, self.doc_concentration)))
            for m, counts in enumerate(x):
                tokens = scale_counts(counts, self._weight(m))
                words = TopicCounts(theta, phi[m], tokens.sum(-1), max_tokens=longest[m])
                numpyro.sample(f"x{m}", words, obs=tokens)

    def _weight(self, m: int) -> float | None:
        return None if self.weights is None else self.weights[m]
