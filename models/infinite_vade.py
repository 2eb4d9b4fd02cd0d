"""Infinite variational deep embedding: a Dirichlet-process mixture in the latent space of a VAE, trained jointly.

    v_k ~ Beta(1, a)                         fractions of the stick, k = 1..K-1
    w_k = v_k prod_{j<k} (1 - v_j)
    loc_k ~ Normal(0, s0)
    P_k ~ Wishart(d + 2, V)                  precision matrices ("full"), or
    tau_kd ~ Gamma(a0, b0)                   precisions ("diagonal"), or
    u_kdr ~ Normal(0, 1)                     loadings, with precisions tau_kd ("low-rank"):
                                             P_k^-1 = u_k u_k' + diag(1 / tau_k)
    c_n ~ Categorical(w)
    z_n ~ MultivariateNormal(loc_c, P_c^-1)  or    Normal(loc_c, 1 / sqrt(tau_c))
    x_n ~ Bernoulli(decoder(z_n))            or    Normal(decoder(z_n), s)

    q(z_n | x_n) = Normal(encoder(x_n)),    q(c_n | x_n) at its optimum

Source: the mixture is Ishwaran and James's (2001) truncation, the rest Jiang et al. (2017), equation 16.
Nagpal et al. asked for such a model, as alternating between an encoder and a mixture of its codes had failed them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.networks import check_pixels, decode, encode, usual_widths
from vmix.options import Range, checked
from vmix.priors import kept_components, log_stick_breaking, settle, settled
from vmix.recipe import Recipe
from vmix.showing import Shown

VIEWED = 10


@checked(
    truncation=2,
    covariance=("diagonal", "full", "low-rank"),
    pretrain_epochs=0,
    noise=Range(0.0, below=1.0),
    pixels=("bernoulli", "gaussian"),
)
@dataclass(frozen=True, kw_only=True)
class InfiniteVaDE(Shown):
    """Infinite variational deep embedding of x, shape (N, D).

    Args:
        truncation: K, the largest number of components; most stay empty, and `fit.prune(x)` leaves them out.
        concentration: a; small values ask for few components.
        latent_dim: d, dimension of z.
        hidden: widths of the encoder's hidden layers; the decoder takes them in reverse. None takes 500-500-2000 for
            256 columns or more, 128-128-512 for fewer.
        pixels: "bernoulli" (x in [0, 1]) or "gaussian".
        covariance: of z given c, "full", "diagonal" or "low-rank".
        rank: R, columns of the loadings of a low-rank covariance.
        loc_scale: s0, prior standard deviation of the component means.
        pretrain_epochs: epochs of autoencoder training before the joint fit.
        noise: fraction of inputs dropped in that training.
        views: encoders trained that way, whose codes start the components together; the first goes on. Where d is
            larger than 10 they are encoders of 10 dimensions beside the model's own: the evidence for a component with
            a full covariance in many dimensions is never enough, and classes that few dimensions show hold in many.
    """

    truncation: int = 50
    concentration: float = 1.0
    latent_dim: int = 10
    hidden: tuple[int, ...] | None = None
    pixels: str = "bernoulli"
    covariance: str = "full"
    rank: int = 2
    loc_scale: float = 10.0
    pretrain_epochs: int = 30
    noise: float = 0.0
    views: int = 3

    may_be_empty: ClassVar[bool] = True

    @property
    def recipe(self) -> Recipe:
        """How a fit begins: with as many components as the codes ask for."""
        wide = self.latent_dim > VIEWED and self.pretrain_epochs
        return Recipe(
            clusters="evidence",
            pretrain_epochs=self.pretrain_epochs,
            noise=self.noise,
            views=self.views,
            mixture_restarts=4,
            viewer=replace(self, latent_dim=VIEWED) if wide else None,
        )

    def check_data(self, x: Array) -> None:
        """Check the data against the pixel likelihood."""
        check_pixels(x, self.pixels)

    def with_data(self, x: Array) -> InfiniteVaDE:
        """Settle the widths on the data."""
        return settle(self, hidden=usual_widths(x.shape[1]))

    def pruned(self, globals_: dict[str, Array], keep: tuple[int, ...]) -> tuple[InfiniteVaDE, dict[str, Array]]:
        """The model of some components alone, and its globals."""
        return replace(self, truncation=len(keep)), kept_components(globals_, jnp.asarray(keep))

    def model(self, x: Array) -> None:
        """The generative story."""
        k, d = self.truncation, self.latent_dim
        v = numpyro.sample("v", dist.Beta(1.0, self.concentration).expand([k - 1]).to_event(1))
        log_w = log_stick_breaking(v)
        numpyro.deterministic("w", jnp.exp(log_w))
        loc = numpyro.sample("loc", dist.Normal(0.0, self.loc_scale).expand([k, d]).to_event(2))
        if self.covariance == "full":
            p = numpyro.sample("precision", dist.Wishart(d + 2.0, scale_matrix=jnp.eye(d) / (d + 2)).expand((k,)))
        else:
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5).expand([k, d]).to_event(2))
        if self.covariance == "low-rank":
            u = numpyro.sample("loadings", dist.Normal(0.0, 1.0).expand([k, d, self.rank]).to_event(3))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(logits=log_w))
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
