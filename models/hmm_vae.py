"""Hidden Markov model in the latent space of a VAE: images that follow each other.

    p      ~ Dirichlet(1, ..., 1)                first state
    A_k    ~ Dirichlet(1, ..., 1)                transitions out of state k
    loc_k  ~ Normal(0, s0)
    tau_kd ~ Gamma(a0, b0)   precisions ("diagonal"), or    P_k ~ Wishart(d + 2, V)    precision matrices ("full")
    c_n,1:T ~ MarkovChain(p, A)
    z_nt   ~ Normal(loc_c, 1 / sqrt(tau_c))    or    MultivariateNormal(loc_c, P_c^-1)
    x_nt   ~ Bernoulli(decoder(z_nt))          or    Normal(decoder(z_nt), s)

    q(z_nt | x_nt) = Normal(encoder(x_nt)),    q(c_n | z_n) at its optimum over whole sequences

Source: the joint form of the VAE + GMM + Markov model of Serket (Taniguchi et al., 2020); the inference over chains
is that of Johnson et al. (2016), with the recursions of Rabiner (1989), equations 19 to 25.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.distributions import MarkovChain
from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import Range, checked
from vmix.priors import check_sequences, settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown


@checked(
    covariance=("diagonal", "full"), pretrain_epochs=0, noise=Range(0.0, below=1.0), pixels=("bernoulli", "gaussian")
)
@dataclass(frozen=True, kw_only=True)
class HMMVAE(Shown):
    """HMM and VAE of x, shape (N, T, D): N sequences of T images.

    Args:
        num_components: K, the number of states.
        latent_dim: d, dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        covariance: of z given c, "diagonal" or "full".
        loc_scale: s0, prior standard deviation of the states' means.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
        noise: fraction of inputs dropped in that training.
        starts: starts of the chain on the codes, annealed; the likeliest is kept.
    """

    num_components: int = 10
    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    covariance: str = "full"
    loc_scale: float = 10.0
    pretrain_epochs: int = 30
    noise: float = 0.0
    starts: int = 16

    sequence_dims: ClassVar[int] = 3  # dimensions of x

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

    def check_data(self, x: Array, mask: Array | None = None) -> None:
        """Check the sequences, and the data against the pixel likelihood."""
        check_sequences(x, mask, num_dims=self.sequence_dims)
        check_pixels(x.reshape(-1, x.shape[-1]), self.pixels)

    def with_data(self, x: Array, mask: Array | None = None) -> HMMVAE:
        """Settle the widths on the data."""
        return settle(self, hidden=usual_widths(x.shape[-1]))

    def model(self, x: Array, mask: Array | None = None) -> None:
        """The generative story; `mask` (N, T) is true where a step exists."""
        k, d = self.num_components, self.latent_dim
        p = numpyro.sample("initial", dist.Dirichlet(jnp.ones(k)))
        transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(k)).expand([k]))
        loc = numpyro.sample("loc", dist.Normal(0.0, self.loc_scale).expand([k, d]).to_event(2))
        if self.covariance == "diagonal":
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5).expand([k, d]).to_event(2))
        else:
            tau = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d) / (d + 2)).expand((k,)))
        with numpyro.plate("sequences", x.shape[0]):
            c = numpyro.sample("c", MarkovChain(p, transition, x.shape[1], mask=mask))
            if self.covariance == "diagonal":
                p_z = dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])).to_event(1)
            else:
                p_z = dist.MultivariateNormal(loc[c], precision_matrix=tau[c])
            z = numpyro.sample("z", _steps(p_z, mask))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", _steps(p_x, mask), obs=x)

    def guide(self, x: Array, mask: Array | None = None) -> None:
        """The encoder, step by step."""
        with numpyro.plate("sequences", x.shape[0]):
            loc, scale = encode(
                x, hidden=settled(self.hidden, "hidden"), latent_dim=self.latent_dim, pixels=self.pixels
            )
            numpyro.sample("z", _steps(dist.Normal(loc, scale).to_event(1), mask))


def _steps(step: dist.Distribution, mask: Array | None) -> dist.Distribution:
    """A distribution of whole sequences from that of a step; absent steps count nowhere."""
    return (step if mask is None else step.mask(mask.astype(bool))).to_event(1)
