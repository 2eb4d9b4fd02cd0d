"""Variational deep embedding: clusters in the latent space of a VAE, trained jointly.

    w      ~ Dirichlet(1, ..., 1)
    loc_k  ~ Normal(0, s0)
    tau_kd ~ Gamma(a0, b0)           precisions ("diagonal", as published), or
    P_k    ~ Wishart(d + 2, V)       precision matrices ("full"), or
    u_kdr  ~ Normal(0, 1)            loadings, with precisions tau_kd ("low-rank"):
                                     P_k^-1 = u_k u_k' + diag(1 / tau_k)
    c_n    ~ Categorical(w)
    z_n    ~ Normal(loc_c, 1 / sqrt(tau_c))    or    MultivariateNormal(loc_c, P_c^-1)
    x_n    ~ Bernoulli(decoder(z_n))           or    Normal(decoder(z_n), s)

    q(z_n | x_n) = Normal(encoder(x_n)),    q(c_n | x_n) at its optimum

Source: Jiang et al. (2017), equation 16 (q(c | x) = p(c | z)); the bound has the five terms that the tests write out.
Where we differ: full covariances, and a start from the codes of two encoders with one class between them, as single
ones often merge two classes. `VaDE(covariance="diagonal", views=1, mixture_restarts=8)` is the model as published.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import Range, checked
from vmix.priors import settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown


@checked(
    covariance=("diagonal", "full", "low-rank"),
    weights=("learned", "uniform"),
    pretrain_epochs=0,
    noise=Range(0.0, below=1.0),
    pixels=("bernoulli", "gaussian"),
)
@dataclass(frozen=True, kw_only=True)
class VaDE(Shown):
    """Variational deep embedding of x, shape (N, D).

    Args:
        num_components: K.
        latent_dim: d, dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        covariance: of z given c, "full", "diagonal" or "low-rank".
        rank: R, columns of the loadings of a low-rank covariance.
        weights: w, "learned", or "uniform": 1 / K each.
        loc_scale: s0, prior standard deviation of the component means.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
        noise: fraction of inputs dropped in that training.
        views: encoders trained that way, whose codes start the components together; the first goes on.
        mixture_restarts: starts of the components on those codes; the likeliest is kept.
    """

    num_components: int = 10
    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    covariance: str = "full"
    rank: int = 2
    weights: str = "learned"
    loc_scale: float = 10.0
    pretrain_epochs: int = 30
    noise: float = 0.0
    views: int = 2
    mixture_restarts: int = 16

    @property
    def recipe(self) -> Recipe:
        """How a fit begins."""
        return Recipe(
            pretrain_epochs=self.pretrain_epochs,
            noise=self.noise,
            views=self.views,
            mixture_restarts=self.mixture_restarts,
        )

    def check_data(self, x: Array) -> None:
        """Check the data against the pixel likelihood."""
        check_pixels(x, self.pixels)

    def with_data(self, x: Array) -> VaDE:
        """Settle the widths on the data."""
        return settle(self, hidden=usual_widths(x.shape[1]))

    def model(self, x: Array) -> None:
        """The generative story."""
        k, d = self.num_components, self.latent_dim
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(k))) if self.weights == "learned" else jnp.full(k, 1.0 / k)
        loc = numpyro.sample("loc", dist.Normal(0.0, self.loc_scale).expand([k, d]).to_event(2))
        if self.covariance == "full":
            p = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d) / (d + 2)).expand((k,)))
        else:
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5).expand([k, d]).to_event(2))
        if self.covariance == "low-rank":
            u = numpyro.sample("loadings", dist.Normal(0.0, 1.0).expand([k, d, self.rank]).to_event(3))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            if self.covariance == "full":
                z = numpyro.sample("z", dist.MultivariateNormal(loc[c], precision_matrix=p[c]))
            elif self.covariance == "low-rank":
                z = numpyro.sample("z", dist.LowRankMultivariateNormal(loc[c], u[c], 1.0 / tau[c]))
            else:
                z = numpyro.sample("z", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])).to_event(1))
            p_x = decode(z, like=x, hidden=settled(self.hidden, "hidden"), pixels=self.pixels)
            numpyro.sample("x", p_x, obs=x)

    def guide(self, x: Array) -> None:
        """The encoder."""
        with numpyro.plate("data", x.shape[0]):
            loc, scale = encode(
                x, hidden=settled(self.hidden, "hidden"), latent_dim=self.latent_dim, pixels=self.pixels
            )
            numpyro.sample("z", dist.Normal(loc, scale).to_event(1))
