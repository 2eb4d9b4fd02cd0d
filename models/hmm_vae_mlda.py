"""Images and words that follow each other: a Markov chain of classes, a VAE and topics, as one joint program.

    p      ~ Dirichlet(1, ..., 1)                first class
    A_k    ~ Dirichlet(1, ..., 1)                moves out of class k
    loc_k  ~ Normal(0, s0)
    P_k    ~ Wishart(d + 2, V)                   precision matrices
    phi_k  ~ Dirichlet(b, ..., b)                words of class k
    c_n,1:T ~ MarkovChain(p, A)
    z_nt   ~ MultivariateNormal(loc_c, P_c^-1)
    x_nt   ~ Bernoulli(decoder(z_nt))            or    Normal(decoder(z_nt), s)
    y_nt   ~ Multinomial(total_nt, phi_c)

    q(z_nt | x_nt) = Normal(encoder(x_nt)),    q(c_n | z_n, y_n) at its optimum over whole sequences

A step without words is a row of zeros; one without an image has `seen` 0. A step with neither says nothing, so shorter
sequences are padded with such steps. What counts are worth is as in `VAEGMMMLDA`.

Source: the joint form of the four-module example of Serket (VAE + GMM + MLDA + Markov model; Taniguchi et al., 2020),
one topic a step; the inference over chains is that of Johnson et al. (2016), with the recursions of Rabiner (1989),
equations 19 to 25.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.checks import first_rows
from vmix.distributions import MarkovChain, ScaledCounts
from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import Range, checked
from vmix.overdispersion import EFFECTIVE, check_weight, settle_weight, settled_weight
from vmix.priors import check_documents, check_sequences, longest_document, scale_counts, settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown


@checked(pretrain_epochs=0, noise=Range(0.0, below=1.0), pixels=("bernoulli", "gaussian"))
@dataclass(frozen=True, kw_only=True)
class HMMVAEMLDA(Shown):
    """Markov chain, VAE and topics of N sequences of T images x, shape (N, T, D), and counts y, shape (N, T, V).

    A third array `seen`, shape (N, T), is 1 where a step has an image and 0 where x is to be passed over; give it to
    the fit where new data may lack images.

    Args:
        num_components: K, the number of classes: states of the chain, components of the latents, topics of the words.
        latent_dim: d, dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        weight: total to which the counts of each step that has words are scaled: a number; "effective", the independent
            tokens that they are worth (`vmix.overdispersion`); or None, which leaves them.
        topic_concentration: b, of each class's words.
        loc_scale: s0, prior standard deviation of the classes' means.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
        noise: fraction of inputs dropped in that training.
        starts: starts of the chain on codes and words, annealed; the likeliest is kept.
        max_tokens: the most tokens of a step; None takes the data's.
    """

    num_components: int = 10
    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    weight: float | str | None = EFFECTIVE
    topic_concentration: float = 1.05
    loc_scale: float = 10.0
    pretrain_epochs: int = 30
    noise: float = 0.0
    starts: int = 16
    max_tokens: int | None = None

    sequence_dims: ClassVar[int] = 3  # dimensions of x

    def __post_init__(self) -> None:
        check_weight(self.weight)

    @property
    def recipe(self) -> Recipe:
        """How a fit begins: chains have many poor optima, and annealed starts find better ones."""
        return Recipe(
            pretrain_epochs=self.pretrain_epochs,
            noise=self.noise,
            mixture_restarts=self.starts,
            mixture_sweeps=140,
            mixture_beta=0.2,
        )

    def check_data(self, x: Array, y: Array, seen: Array | None = None) -> None:
        """Check the sequences, the images against the pixel likelihood, the counts, and which images exist."""
        check_sequences(x, num_dims=self.sequence_dims)
        check_pixels(x.reshape(-1, x.shape[-1]), self.pixels)
        if y.ndim != 3 or tuple(y.shape[:2]) != tuple(x.shape[:2]):
            raise ValueError(f"y must have shape {(*x.shape[:2], 'V')}, one row of counts a step; found {y.shape}")
        check_documents(y.reshape(-1, y.shape[-1]), "y")
        steps = tuple(x.shape[:2])
        if seen is not None and (tuple(seen.shape) != steps or not np.isin(first_rows(seen), (0, 1)).all()):
            raise ValueError(f"seen must have shape {steps} and hold 0 and 1 only: 1 where a step has an image")

    def with_data(self, x: Array, y: Array, seen: Array | None = None) -> HMMVAEMLDA:
        """Settle the widths, what the words are worth, and the longest document on the data."""
        rows = first_rows(y).reshape(-1, y.shape[-1])
        weight = settle_weight(self.weight, rows, num_classes=self.num_components)
        longest = longest_document(rows, "y") if weight is None else math.ceil(weight)
        return replace(settle(self, hidden=usual_widths(x.shape[-1]), max_tokens=longest), weight=weight)

    def model(self, x: Array, y: Array, seen: Array | None = None) -> None:
        """The generative story."""
        k, d = self.num_components, self.latent_dim
        p = numpyro.sample("initial", dist.Dirichlet(jnp.ones(k)))
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(k)).expand([k]))
        loc = numpyro.sample("loc", dist.Normal(0.0, self.loc_scale).expand([k, d]).to_event(2))
        tau = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d) / (d + 2)).expand((k,)))
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.full(y.shape[-1], self.topic_concentration)).expand([k]))
        tokens = scale_counts(y, settled_weight(self.weight), whole=False)
        total = jnp.round(tokens.sum(-1)).astype(int)
        with numpyro.plate("sequences", x.shape[0]):
            c = numpyro.sample("c", MarkovChain(p, transition, x.shape[1]))
            z = numpyro.sample("z", _steps(dist.MultivariateNormal(loc[c], precision_matrix=tau[c]), seen))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", _steps(p_x, seen), obs=x)
            words = ScaledCounts(phi[c], total, total_count_max=self.max_tokens)
            numpyro.sample("y", words.to_event(1), obs=tokens)

    def guide(self, x: Array, y: Array, seen: Array | None = None) -> None:
        """The encoder, step by step."""
        with numpyro.plate("sequences", x.shape[0]):
            loc, scale = encode(
                x, hidden=settled(self.hidden, "hidden"), latent_dim=self.latent_dim, pixels=self.pixels
            )
            numpyro.sample("z", _steps(dist.Normal(loc, scale).to_event(1), seen))


def _steps(step: dist.Distribution, seen: Array | None) -> dist.Distribution:
    """A distribution of whole sequences from that of a step; steps without an image count nowhere."""
    return (step if seen is None else step.mask(seen.astype(bool))).to_event(1)
