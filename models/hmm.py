"""Hidden Markov model: K states that follow each other, seen through an emission.

    p      ~ Dirichlet(a / K, ..., a / K)                    first state
    A_k    ~ Dirichlet(a / K + kappa [j = k])                transitions out of state k; kappa > 0: sticky
    theta_k                                                  parameters of the emission, below
    c_n,1:T ~ MarkovChain(p, A)
    x_nt   ~ Normal(loc_c, 1 / sqrt(tau_c)),  loc_k ~ Normal(m0, s0),  tau_kd ~ Gamma(3/2, s_d^2 / 2)  "gaussian"
             MultivariateNormal(loc_c, P_c^-1),              P_k ~ Wishart(D + 2, diag(1 / s^2))      (full)
             Poisson(rate_c),                 rate_kd ~ Gamma(1, 1 / mean of the data)              "poisson"
             Categorical(probs_c),            probs_k ~ Dirichlet(1, ..., 1)                        "categorical"

Source: Rabiner (1989), equations 19 to 21 (forward), 24 and 25 (backward), 27 (smoothed) and 40 (updates, there
without priors); the sticky prior: Fox et al. (2011); of precisions: Fraley and
Raftery (2007).
"""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.checks import check_counts, first_rows
from vmix.distributions import MarkovChain
from vmix.models.markov_model import count_values
from vmix.options import ANY, checked
from vmix.priors import check_sequences, data_scale, settle, settled
from vmix.showing import Shown


@checked(emission=("gaussian", "poisson", "categorical"), covariance=("diagonal", "full"), stickiness=0.0, loc=ANY)
@dataclass(frozen=True, kw_only=True)
class HMM(Shown):
    """Hidden Markov model of N sequences of T steps.

    Args:
        num_components: K, the number of states.
        emission: "gaussian" (x real, shape (N, T, D)), "poisson" (counts, (N, T, D)) or "categorical" (whole numbers,
            (N, T)).
        covariance: of the Gaussian emission, "diagonal" or "full".
        concentration: a, total mass of each Dirichlet; None takes K (uniform on the simplex).
        stickiness: kappa, added to the mass of staying.
        num_values: V of the categorical emission; None takes the largest value and one.
        loc: m0, prior mean of the means; None takes the data's.
        scale: s0, prior standard deviation of the means in each column; None takes three times the data's.
        spread: prior guess of a state's width in each column (Gaussian) or mean count (Poisson); None takes the data's.
    """

    num_components: int = 8
    emission: str = "gaussian"
    covariance: str = "diagonal"
    concentration: float | None = None
    stickiness: float = 0.0
    num_values: int | None = None
    loc: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    spread: tuple[float, ...] | None = None

    @property
    def sequence_dims(self) -> int:
        """Dimensions of x."""
        return 2 if self.emission == "categorical" else 3

    def check_data(self, x: Array, mask: Array | None = None) -> None:
        """Check the sequences, and their values against the emission."""
        check_sequences(x, mask, num_dims=self.sequence_dims)
        if self.emission == "categorical":
            count_values(x, mask, self.num_values)
        elif self.emission == "poisson":
            found = first_rows(x)
            there = np.ones(found.shape[:2], bool) if mask is None else first_rows(mask).astype(bool)
            check_counts(np.where(there[..., None], found, 0), "x")

    def with_data(self, x: Array, mask: Array | None = None) -> HMM:
        """Settle what was left open on the data."""
        model = settle(self, concentration=float(self.num_components))
        found = first_rows(x)
        there = np.ones(found.shape[:2], bool) if mask is None else first_rows(mask).astype(bool)
        if self.emission == "categorical":
            return settle(model, num_values=count_values(x, mask, self.num_values))
        if self.emission == "poisson":
            return settle(model, spread=tuple(float(v) for v in np.maximum(np.nanmean(found[there], 0), 1e-3)))
        return settle(model, **data_scale(found[there], num_components=self.num_components)._asdict())

    def model(self, x: Array, mask: Array | None = None) -> None:
        """The generative story; `mask` (N, T) is true where a step exists."""
        k, mask = self.num_components, None if mask is None else mask.astype(bool)
        a = jnp.full(k, settled(self.concentration, "concentration") / k)
        p = numpyro.sample("initial", dist.Dirichlet(a))
        transition = numpyro.sample("transition", dist.Dirichlet(a + self.stickiness * jnp.eye(k)))
        theta = self._parameters(x)
        with numpyro.plate("sequences", x.shape[0]):
            c = numpyro.sample("c", MarkovChain(p, transition, x.shape[1], mask=mask))
            numpyro.sample("x", self._emission(c, theta, mask), obs=x)

    def _parameters(self, x: Array) -> dict[str, Array]:
        """Parameters of the emission, one of each for every state."""
        k, d = self.num_components, x.shape[-1]
        if self.emission == "categorical":
            return {"probs": numpyro.sample("probs", dist.Dirichlet(jnp.ones(self.num_values)).expand([k]))}
        spread = jnp.asarray(self.spread)
        if self.emission == "poisson":
            return {"rate": numpyro.sample("rate", dist.Gamma(1.0, 1.0 / spread).expand([k, d]).to_event(2))}
        m0, s0 = jnp.asarray(self.loc), jnp.asarray(self.scale)
        loc = numpyro.sample("loc", dist.Normal(m0, s0).expand([k, d]).to_event(2))
        if self.covariance == "diagonal":
            tau = numpyro.sample("precision", dist.Gamma(1.5, 0.5 * spread**2).expand([k, d]).to_event(2))
            return {"loc": loc, "precision": tau}
        rate = jnp.diag(spread**2)
        return {
            "loc": loc,
            "precision": numpyro.sample("precision", dist.Wishart(d + 2.0, rate_matrix=rate).expand([k])),
        }

    def _emission(self, c: Array, theta: dict[str, Array], mask: Array | None) -> dist.Distribution:
        """p(x_t | c_t) for every step, absent steps masked."""
        theta = {name: value[c] for name, value in theta.items()}
        if self.emission == "categorical":
            step = dist.Categorical(theta["probs"])
        elif self.emission == "poisson":
            step = dist.Poisson(theta["rate"]).to_event(1)
        elif self.covariance == "diagonal":
            step = dist.Normal(theta["loc"], 1.0 / jnp.sqrt(theta["precision"])).to_event(1)
        else:
            step = dist.MultivariateNormal(theta["loc"], precision_matrix=theta["precision"])
        return (step if mask is None else step.mask(mask)).to_event(1)
