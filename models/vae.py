"""Variational autoencoder.

    z_n ~ Normal(0, I)
    x_n ~ Bernoulli(decoder(z_n))    or    Normal(decoder(z_n), s)

    q(z_n | x_n) = Normal(encoder(x_n))

Source: Kingma and Welling (2014), equations 3 (the bound) and 10 (its estimate, with the divergence in closed form).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import checked
from vmix.priors import settle, settled
from vmix.showing import Shown


@checked(pixels=("bernoulli", "gaussian"))
@dataclass(frozen=True, kw_only=True)
class VAE(Shown):
    """Variational autoencoder of x, shape (N, D).

    Args:
        latent_dim: dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
    """

    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"

    def check_data(self, x: Array) -> None:
        """Check the data against the pixel likelihood."""
        check_pixels(x, self.pixels)

    def with_data(self, x: Array) -> VAE:
        """Settle the widths on the data."""
        return settle(self, hidden=usual_widths(x.shape[1]))

    def model(self, x: Array) -> None:
        """The generative story."""
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand([self.latent_dim]).to_event(1))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", p_x, obs=x)

    def guide(self, x: Array) -> None:
        """The encoder."""
        with numpyro.plate("data", x.shape[0]):
            loc, scale = encode(
                x, hidden=settled(self.hidden, "hidden"), latent_dim=self.latent_dim, pixels=self.pixels
            )
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))
