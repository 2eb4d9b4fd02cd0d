"""Images and words of one class each: a VAE with a Gaussian mixture on its latent, and topics, as one joint program.

    w      ~ Dirichlet(1, ..., 1)
    loc_k  ~ Normal(0, s0)
    tau_kd ~ Gamma(a0, b0)   precisions ("diagonal"), or    P_k ~ Wishart(d + 2, V)    precision matrices ("full")
    phi_k  ~ Dirichlet(b, ..., b)                words of class k
    c_n    ~ Categorical(w)
    z_n    ~ Normal(loc_c, 1 / sqrt(tau_c))      or    MultivariateNormal(loc_c, P_c^-1)
    x_n    ~ Bernoulli(decoder(z_n))             or    Normal(decoder(z_n), s)
    y_n    ~ Multinomial(total_n, phi_c)

    q(z_n | x_n) = Normal(encoder(x_n))

Every datum has one topic, which is also its component: multimodal LDA in the limit of small concentrations, where the
proportions of a datum have one entry. A datum without words is a row of zeros; one without an image has `seen` 0.
Counts that come together are worth fewer tokens than there are, so total_n is what they are worth; see `weight`.

Source: the joint form of the VAE + GMM + MLDA of Serket (Taniguchi et al., 2020), one topic a datum. The weight
rescales the counts of each datum to a common total, as in Nakamura, Nagai and Iwahashi (2009). The class's factor is
that of Jiang et al. (2017), equation 16, with the words beside the latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.checks import first_rows
from vmix.distributions import ScaledCounts
from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import Range, checked
from vmix.overdispersion import EFFECTIVE, check_weight, settle_weight, settled_weight
from vmix.priors import check_documents, longest_document, scale_counts, settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown


@checked(
    covariance=("diagonal", "full"), pretrain_epochs=0, noise=Range(0.0, below=1.0), pixels=("bernoulli", "gaussian")
)
@dataclass(frozen=True, kw_only=True)
class VAEGMMMLDA(Shown):
    """VAE, Gaussian mixture and topics of images x, shape (N, D), and counts y, shape (N, V).

    A third array `seen`, shape (N,), is 1 where a datum has an image and 0 where x is to be passed over; give it to the
    fit where new data may lack images.

    Args:
        num_components: K, the number of classes: components of the images' latents and topics of the words.
        latent_dim: d, dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        covariance: of z given c, "diagonal" or "full".
        weight: total to which the counts of each datum that has words are scaled: a number; "effective", the
            independent tokens that they are worth (`vmix.overdispersion`); or None, which leaves them.
        topic_concentration: b, of each class's words.
        loc_scale: s0, prior standard deviation of the components' means.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
        noise: fraction of inputs dropped in that training.
        starts: starts of the classes on codes and words, annealed; the likeliest is kept.
        max_tokens: the most tokens of a datum; None takes the data's.
    """

    num_components: int = 10
    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    covariance: str = "full"
    weight: float | str | None = EFFECTIVE
    topic_concentration: float = 1.05
    loc_scale: float = 10.0
    pretrain_epochs: int = 30
    noise: float = 0.0
    starts: int = 16
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        check_weight(self.weight)

    @property
    def recipe(self) -> Recipe:
        """How a fit begins: the likeliest of annealed starts on the codes and the words together."""
        return Recipe(
            pretrain_epochs=self.pretrain_epochs,
            noise=self.noise,
            mixture_restarts=self.starts,
            mixture_sweeps=100,
            mixture_beta=0.2,
        )

    def check_data(self, x: Array, y: Array, seen: Array | None = None) -> None:
        """Check the images against the pixel likelihood, the counts, and which images exist."""
        check_pixels(x, self.pixels)
        check_documents(y, "y")
        if seen is not None and (seen.ndim != 1 or not np.isin(first_rows(seen), (0, 1)).all()):
            raise ValueError(f"seen must have shape ({len(x)},) and hold 0 and 1 only: 1 where a datum has an image")

    def with_data(self, x: Array, y: Array, seen: Array | None = None) -> VAEGMMMLDA:
        """Settle the widths, what the words are worth, and the longest document on the data."""
        rows = first_rows(y)
        weight = settle_weight(self.weight, rows, num_classes=self.num_components)
        longest = longest_document(rows, "y") if weight is None else math.ceil(weight)
        return replace(settle(self, hidden=usual_widths(x.shape[1]), max_tokens=longest), weight=weight)

    def model(self, x: Array, y: Array, seen: Array | None = None) -> None:
        """The generative story."""
        k, d = self.num_components, self.latent_dim
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(k)))
        loc = numpyro.sample("loc", dist.Normal(0.0, self.loc_scale).expand([k, d]).to_event(2))
        if self.covariance == "diagonal":
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5).expand([k, d]).to_event(2))
        else:
            tau = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d) / (d + 2)).expand((k,)))
        phi = numpyro.sample("phi", dist.Dirichlet(jnp.full(y.shape[1], self.topic_concentration)).expand([k]))
        tokens = scale_counts(y, settled_weight(self.weight), whole=False)
        total = jnp.round(tokens.sum(-1)).astype(int)
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            if self.covariance == "diagonal":
                p_z = dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])).to_event(1)
            else:
                p_z = dist.MultivariateNormal(loc[c], precision_matrix=tau[c])
            z = numpyro.sample("z", _where(seen, p_z))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", _where(seen, p_x), obs=x)
            words = ScaledCounts(phi[c], total, total_count_max=self.max_tokens)
            numpyro.sample("y", words, obs=tokens)

    def guide(self, x: Array, y: Array, seen: Array | None = None) -> None:
        """The encoder."""
        with numpyro.plate("data", x.shape[0]):
            loc, scale = encode(
                x, hidden=settled(self.hidden, "hidden"), latent_dim=self.latent_dim, pixels=self.pixels
            )
            numpyro.sample("z", _where(seen, dist.Normal(loc, scale).to_event(1)))


def _where(seen: Array | None, fn: dist.Distribution) -> dist.Distribution:
    """A distribution that counts only where there is an image."""
    return fn if seen is None else fn.mask(seen.astype(bool))
