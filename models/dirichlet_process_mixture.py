"""Dirichlet-process Gaussian mixture: as many components as the data ask for, up to a truncation.

    v_k    ~ Beta(1, a)                      fractions of the stick, k = 1..K-1
    w_k    = v_k prod_{j<k} (1 - v_j)
    loc_k  ~ Normal(m0, s0)
    tau_kd ~ Gamma(3/2, s_d^2 / 2)           precisions ("diagonal"), or
    P_k    ~ Wishart(D + 2, diag(1 / s^2))   precision matrices ("full")
    c_n    ~ Categorical(w)
    x_n    ~ Normal(loc_c, 1 / sqrt(tau_c))    or    MultivariateNormal(loc_c, P_c^-1)

Source: Sethuraman (1994); Ishwaran and James (2001), the sticks, truncated as there; Bishop (2006), equation 9.23, the
responsibilities; Fraley and Raftery (2007), the priors of precisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.options import ANY, checked
from vmix.priors import data_scale, kept_components, log_stick_breaking, settle
from vmix.showing import Shown


@checked(truncation=2, loc=ANY, covariance=("diagonal", "full"))
@dataclass(frozen=True, kw_only=True)
class DirichletProcessMixture(Shown):
    """Dirichlet-process mixture of x, shape (N, D), real.

    Args:
        truncation: K, the largest number of components; some stay empty.
        concentration: a; small values ask for few components. None learns it under a Gamma(2, 2) prior.
        covariance: "diagonal" or "full".
        loc: m0, prior mean of the means; None takes the data's.
        scale: s0, prior standard deviation of the means; None takes three times the data's.
        spread: prior guess of a component's standard deviation; None takes half the data's.
    """

    truncation: int = 20
    concentration: float | None = 1.0
    covariance: str = "diagonal"
    loc: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None

    may_be_empty: ClassVar[bool] = True

    def with_data(self, x: Array) -> DirichletProcessMixture:
        """Settle what was left open on the data."""
        return settle(self, **data_scale(x, num_components=2 ** x.shape[1] if x.ndim == 2 else 1)._asdict())

    def pruned(
        self, globals_: dict[str, Array], keep: tuple[int, ...]
    ) -> tuple[DirichletProcessMixture, dict[str, Array]]:
        """The model of some components alone, and its globals."""
        return replace(self, truncation=len(keep)), kept_components(globals_, jnp.asarray(keep))

    def model(self, x: Array) -> None:
        """The generative story."""
        k, d = self.truncation, x.shape[1]
        a = self.concentration
        if a is None:
            a = numpyro.sample("concentration", dist.Gamma(2.0, 2.0))
        v = numpyro.sample("v", dist.Beta(1.0, a).expand([k - 1]).to_event(1))
        log_w = log_stick_breaking(v)
        numpyro.deterministic("w", jnp.exp(log_w))
        m0, s0, spread = (jnp.asarray(value) for value in (self.loc, self.scale, self.spread))
        loc = numpyro.sample("loc", dist.Normal(m0, s0).expand([k, d]).to_event(2))
        if self.covariance == "diagonal":
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5 * spread**2).expand([k, d]).to_event(2))
        else:
            rate = jnp.diag(spread**2)
            p = numpyro.sample("precision", dist.Wishart(d + 2.0, rate_matrix=rate).expand((k,)))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(logits=log_w))
            if self.covariance == "diagonal":
                numpyro.sample("x", dist.Normal(loc[c], 1.0 / jnp.sqrt(tau[c])).to_event(1), obs=x)
            else:
                numpyro.sample("x", dist.MultivariateNormal(loc[c], precision_matrix=p[c]), obs=x)
