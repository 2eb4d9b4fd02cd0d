"""Latent Dirichlet allocation: documents that mix K topics.

    phi_k   ~ Dirichlet(b, ..., b)                        words of topic k
    theta_n ~ Dirichlet(a, ..., a)                        topics of document n
    x_n     ~ TopicCounts(theta_n, phi, total_n)          each token has a topic ~ theta_n and a word ~ phi_topic

    q(theta_n | x_n) = logistic Normal(encoder(x_n))      where `amortised`

Source: Blei, Ng and Jordan (2003), equations 2 and 3 (joint, marginal), 6 and 7 (mean-field factors). EM finds the
mode of theta and phi, so a and b are 1 or more there; the encoder is that of Srivastava and Sutton (2017).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.distributions import TopicCounts
from vmix.networks import encode
from vmix.options import checked
from vmix.priors import check_documents, longest_document, settle
from vmix.showing import Shown


@checked()
@dataclass(frozen=True, kw_only=True)
class LDA(Shown):
    """Latent Dirichlet allocation of counts x, shape (N, V): documents by words.

    Args:
        num_components: K, the number of topics.
        doc_concentration: a, of each document's topics.
        topic_concentration: b, of each topic's words.
        amortised: whether an encoder infers theta (for SVI on minibatches); otherwise each document has its own.
        hidden: widths of the encoder's hidden layers.
        max_tokens: the most tokens of a document; None takes the data's.
    """

    num_components: int = 10
    doc_concentration: float = 1.1
    topic_concentration: float = 1.05
    amortised: bool = False
    hidden: tuple[int, ...] = (256,)
    max_tokens: int | None = None

    @property
    def guide(self) -> Callable | None:
        """The encoder, where there is one."""
        return self._encoder if self.amortised else None

    def check_data(self, x: Array) -> None:
        """Check the counts."""
        check_documents(x, "x")

    def with_data(self, x: Array) -> LDA:
        """Settle the longest document."""
        return settle(self, max_tokens=longest_document(x, "x"))

    def model(self, x: Array) -> None:
        """The generative story."""
        k, v = self.num_components, x.shape[1]
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.full(v, self.topic_concentration)).expand([k]))
        with numpyro.plate("documents", x.shape[0]):
            theta = numpyro.sample("theta", dist.Dirichlet(jnp.full(k, self.doc_concentration)))
            numpyro.sample("x", TopicCounts(theta, phi, x.sum(-1), max_tokens=self.max_tokens), obs=x)

    def _encoder(self, x: Array) -> None:
        """A logistic Normal on the simplex, from the proportions of words."""
        with numpyro.plate("documents", x.shape[0]):
            total = jnp.maximum(x.sum(-1, keepdims=True), 1)
            shares = jnp.sqrt(x / total)
            loc, scale = encode(shares, hidden=self.hidden, latent_dim=self.num_components - 1)
            free = dist.Normal(loc, scale).to_event(1)
            numpyro.sample("theta", dist.TransformedDistribution(free, dist.transforms.StickBreakingTransform()))
