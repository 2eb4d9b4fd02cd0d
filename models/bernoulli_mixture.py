"""Bernoulli mixture (latent class analysis): K profiles of yes and no.

w       ~ Dirichlet(a / K, ..., a / K)
theta_kd ~ Beta(b, b)
c_n     ~ Categorical(w)
x_nd    ~ Bernoulli(theta_{c_n, d})

Source: Bishop (2006), equations 9.47 (the mixture), 9.56 (responsibilities), 9.59 and 9.60 (updates, there without
priors).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.networks import check_pixels
from vmix.options import checked
from vmix.showing import Shown


@checked()
@dataclass(frozen=True, kw_only=True)
class BernoulliMixture(Shown):
    """Bernoulli mixture of x, shape (N, D), in [0, 1] (grey values count as fractions of a yes).

    Args:
        num_components: K.
        concentration: a, the total mass of the Dirichlet; None takes K (uniform on the simplex).
        pseudo_count: b of the Beta prior of each probability.
    """

    num_components: int = 8
    concentration: float | None = None
    pseudo_count: float = 1.5

    def check_data(self, x: Array) -> None:
        """Check that x lies in [0, 1]."""
        check_pixels(x, "bernoulli")

    def model(self, x: Array) -> None:
        """The generative story."""
        k, d, b = self.num_components, x.shape[1], self.pseudo_count
        a = k if self.concentration is None else self.concentration
        w = numpyro.sample("w", dist.Dirichlet(jnp.full(k, a / k)))
        theta = numpyro.sample("theta", dist.Beta(b, b).expand([k, d]).to_event(2))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            numpyro.sample("x", dist.Bernoulli(theta[c]).to_event(1), obs=x)
