"""Gaussian-mixture VAE: a mixture whose components are shaped anew by a second latent, datum by datum.

    w_n ~ Normal(0, I)
    c_n ~ Categorical(1 / K)
    z_n ~ Normal(loc_c(w_n), scale_c(w_n))           loc_k and scale_k by one network of w
    x_n ~ Bernoulli(decoder(z_n))                    or Normal(decoder(z_n), s)

    q(z_n, w_n | x_n) = Normal(encoder(x_n)),    q(c_n | z_n, w_n) = p(c_n | z_n, w_n)

    p(u_n | c_n) = K y_c(u_n) p(u_n)                 log ratios u of y ~ GumbelSoftmax(t0, 0), so that p(c | u) = y_c
    z_n ~ Normal(sum_k y_k loc_k(w_n), sum_k y_k scale_k(w_n))          y = softmax(u), or its one-hot vector ("hard")

    q(u_n | x_n) = GumbelSoftmax(t, classifier(x_n)), as log ratios

The lines with u are those of a relaxation: c then has a relaxed one-hot vector y_n of its own, by which z mixes the
components.

Source: Dilokthanakul et al. (2016), section 3.2 (the bound), whose four terms the tests write out; for the relaxations
Jang, Gu and Poole (2017), and Maddison, Mnih and Teh (2017), equations 10 (the relaxed draw) and 11 (its density).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.distributions import GumbelLogRatios, RelaxedClass
from vmix.distributions.gumbel_softmax import relaxed_one_hot
from vmix.networks import MLP, GaussianEncoder, check_pixels, decode, encode, network, usual_widths
from vmix.options import Range, checked
from vmix.priors import settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown


@checked(relaxation=("soft", "hard"), pretrain_epochs=0, noise=Range(0.0, below=1.0), pixels=("bernoulli", "gaussian"))
@dataclass(frozen=True, kw_only=True)
class GMVAE(Shown):
    """Gaussian-mixture VAE of x, shape (N, D).

    Args:
        num_components: K.
        latent_dim: dimension of z.
        mixture_dim: dimension of w, from which the mixture is made; None takes latent_dim.
        mixture_hidden: widths of the hidden layers from w to the components.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        relaxation: None (c is summed out exactly), "soft" (a relaxed one-hot vector mixes the components) or "hard"
            (its one-hot vector does, with the relaxed gradient).
        temperature: t, of the relaxed vectors given x.
        prior_temperature: t0, of those of the prior. With as high a one as t a sure class costs far more than log K,
            and the vectors stay even.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
        noise: fraction of inputs dropped in that training.
    """

    num_components: int = 10
    latent_dim: int = 10
    mixture_dim: int | None = None
    mixture_hidden: tuple[int, ...] = (128,)
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    relaxation: str | None = None
    temperature: float = 0.6
    prior_temperature: float = 0.2
    pretrain_epochs: int = 0
    noise: float = 0.0

    @property
    def recipe(self) -> Recipe:
        """How a fit begins: as published, with the joint fit itself."""
        return Recipe(pretrain_epochs=self.pretrain_epochs, noise=self.noise)

    def check_data(self, x: Array) -> None:
        """Check the data against the pixel likelihood."""
        check_pixels(x, self.pixels)

    def with_data(self, x: Array) -> GMVAE:
        """Settle the widths on the data."""
        return settle(self, hidden=usual_widths(x.shape[1]), mixture_dim=self.latent_dim)

    def model(self, x: Array) -> None:
        """The generative story."""
        k = self.num_components
        mixture_dim = settled(self.mixture_dim, "mixture_dim")
        with numpyro.plate("data", x.shape[0]) as n:
            w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([mixture_dim]).to_event(1))
            c = numpyro.sample("c", dist.Categorical(logits=jnp.zeros(k)))
            loc, scale = self._components(w)
            if self.relaxation is None:
                loc, scale = loc[n, c], scale[n, c]
            else:
                u = numpyro.sample("u", RelaxedClass(c, temperature=self.prior_temperature, num_values=k))
                y = relaxed_one_hot(u, hard=self.relaxation == "hard")[..., None]
                loc, scale = (y * loc).sum(-2), (y * scale).sum(-2)
            z = numpyro.sample("z", dist.Normal(loc, scale).to_event(1))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", p_x, obs=x)

    def guide(self, x: Array) -> None:
        """The encoders."""
        hidden, mixture_dim = settled(self.hidden, "hidden"), settled(self.mixture_dim, "mixture_dim")
        d = self.latent_dim
        with numpyro.plate("data", x.shape[0]):
            loc, scale = encode(x, hidden=hidden, latent_dim=d + mixture_dim, pixels=self.pixels)
            numpyro.sample("w", dist.Normal(loc[:, d:], scale[:, d:]).to_event(1))
            if self.relaxation is not None:
                sizes = (x.shape[1], *hidden, self.num_components)
                classifier = network("classifier", partial(MLP, sizes))
                numpyro.sample("u", GumbelLogRatios(self.temperature, classifier(x)))
            numpyro.sample("z", dist.Normal(loc[:, :d], scale[:, :d]).to_event(1))

    def _components(self, w: Array) -> tuple[Array, Array]:
        """loc_k(w) and scale_k(w), each (N, K, latent_dim)."""
        k, d = self.num_components, self.latent_dim
        sizes = (w.shape[-1], *self.mixture_hidden)
        components = network("components", partial(GaussianEncoder, sizes, k * d, first_scale=1.0, first_spread=1.0))
        loc, scale = components(w)
        return loc.reshape(-1, k, d), scale.reshape(-1, k, d)
