"""Gaussian mixture: K ellipsoids.

    w    ~ Dirichlet(a / K, ..., a / K)                      weights
    loc_k ~ Normal(m0, s0)                                   means
    tau_kd ~ Gamma(3/2, s_d^2 / 2)                           precisions ("diagonal"), or
    P_k  ~ Wishart(D + 2, diag(1 / s^2))                     precision matrices ("full"; one P for all: "tied")
    c_n  ~ Categorical(w)
    x_n  ~ Normal(loc_c, 1 / sqrt(tau_c))    or    MultivariateNormal(loc_c, P_c^-1)

Source: Bishop (2006), equations 9.23 (responsibilities) and 9.24 to 9.26 (updates, there without priors); Fraley and
Raftery (2007), priors at the scale of the data: a covariance of diag(s^2) on average, s the `spread`, with the weight
of one row; what is left open `with_data` sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.options import ANY, checked
from vmix.priors import DataScale, data_scale, settle, settled
from vmix.showing import Shown


@checked(loc=ANY, covariance=("diagonal", "full", "tied"))
@dataclass(frozen=True, kw_only=True)
class GaussianMixture(Shown):
    """Gaussian mixture of x, shape (N, D), real.

    Args:
        num_components: K.
        covariance: "diagonal", "full" or "tied" (one full matrix for all components).
        concentration: a, the total mass of the Dirichlet; None takes K (uniform on the simplex).
        loc: m0, prior mean of the means; None takes the data's.
        scale: s0, prior standard deviation of the means in each column; None takes three times the data's.
        spread: prior guess of a component's standard deviation in each column; None takes the data's / K^(1/D).
    """

    num_components: int = 8
    covariance: str = "diagonal"
    concentration: float | None = None
    loc: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None

    def with_data(self, x: Array) -> GaussianMixture:
        """Settle what was left open on the data."""
        found: DataScale = data_scale(x, num_components=self.num_components)
        return settle(self, concentration=float(self.num_components), **found._asdict())

    def model(self, x: Array) -> None:
        """The generative story."""
        k, d, a = self.num_components, x.shape[1], settled(self.concentration, "concentration")
        w = numpyro.sample("w", dist.Dirichlet(jnp.full(k, a / k)))
        m0, s0, spread = (jnp.asarray(v) for v in (self.loc, self.scale, self.spread))
        loc = numpyro.sample("loc", dist.Normal(m0, s0).expand([k, d]).to_event(2))
        if self.covariance == "diagonal":
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5 * spread**2).expand([k, d]).to_event(2))
        else:
            shape = (k,) if self.covariance == "full" else ()
            rate = jnp.diag(spread**2)
            p = numpyro.sample("precision", dist.Wishart(d + 2.0, rate_matrix=rate).expand(shape))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            if self.covariance == "diagonal":
                numpyro.sample("x", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])).to_event(1), obs=x)
            else:
                precision = p[c] if self.covariance == "full" else p
                numpyro.sample("x", dist.MultivariateNormal(loc[c], precision_matrix=precision), obs=x)
