"""VAE with a Gaussian mixture on its latent: the Serket pair, as one joint program.

    w     ~ Dirichlet(1, ..., 1)
    loc_k ~ Normal(0, s0)
    c_n   ~ Categorical(w)
    z_n   ~ Normal(loc_{c_n}, I)         ("unit"), or
            Normal(loc_{c_n}, 1 / sqrt(tau)) with tau_d ~ Gamma(2, 2) ("learned")
    x_n   ~ Bernoulli(decoder(z_n))      or Normal(decoder(z_n), s)

    q(z_n | x_n) = Normal(encoder(x_n))

Source: Taniguchi et al. (2020), Serket's VAE+GMM, whose messages are this program's conditionals; the class's factor
is that of Jiang et al. (2017), equation 16.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import checked
from vmix.priors import settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown


@checked(spread=("unit", "learned"), pretrain_epochs=0, pixels=("bernoulli", "gaussian"))
@dataclass(frozen=True, kw_only=True)
class VAEGMM(Shown):
    """VAE and Gaussian mixture of x, shape (N, D).

    Args:
        num_components: K.
        latent_dim: dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        spread: "unit" (z | c has identity covariance) or "learned" (one variance per latent dimension, shared).
        loc_scale: s0, prior standard deviation of the component means.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
    """

    num_components: int = 10
    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    spread: str = "unit"
    loc_scale: float = 10.0
    pretrain_epochs: int = 30

    @property
    def recipe(self) -> Recipe:
        """How a fit begins."""
        return Recipe(pretrain_epochs=self.pretrain_epochs)

    def check_data(self, x: Array) -> None:
        """Check the data against the pixel likelihood."""
        check_pixels(x, self.pixels)

    def with_data(self, x: Array) -> VAEGMM:
        """Settle the widths on the data."""
        return settle(self, hidden=usual_widths(x.shape[1]))

    def model(self, x: Array) -> None:
        """The generative story."""
        k, d = self.num_components, self.latent_dim
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(k)))
        loc = numpyro.sample("loc", dist.Normal(0.0, self.loc_scale).expand([k, d]).to_event(2))
        scale = jnp.ones(d)
        if self.spread == "learned":
            tau = numpyro.sample("precision", dist.Gamma(2.0, 2.0).expand([d]).to_event(1))
            scale = 1.0 / jnp.sqrt(tau)
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            z = numpyro.sample("z", dist.Normal(loc[c], scale).to_event(1))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", p_x, obs=x)

    def guide(self, x: Array) -> None:
        """The encoder."""
        with numpyro.plate("data", x.shape[0]):
            loc, scale = encode(
                x, hidden=settled(self.hidden, "hidden"), latent_dim=self.latent_dim, pixels=self.pixels
            )
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))
