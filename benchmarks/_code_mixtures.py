"""Mixtures fitted to the codes of an encoder that stays as it is, by vmix and by scikit-learn, under one judge."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import sklearn
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning as PeerWarning
from sklearn.mixture import BayesianGaussianMixture
from sklearn.mixture import GaussianMixture as PeerMixture

import vmix
from vmix.fitting import ConvergenceWarning
from vmix.inference import EM
from vmix.models import DirichletProcessMixture, GaussianMixture

PEER = f"scikit-learn {sklearn.__version__}"
VARIANTS = {"kmeans": (PEER,), "gmm": ("vmix", PEER), "dpgmm": ("vmix", PEER)}


@dataclass(frozen=True, kw_only=True)
class MixtureSettings:
    """Alike for both contestants; starts are ranked by each one's own objective."""

    num_components: int = 10
    truncation: int = 50
    concentration: float = 1.0
    kmeans_starts: int = 10
    gmm_starts: int = 4
    dpgmm_starts: int = 1
    sweeps: int = 200

    def of(self, kind: str) -> dict[str, Any]:
        """What a line of this kind of mixture records."""
        starts = {"starts": getattr(self, f"{kind}_starts")}
        if kind == "kmeans":
            return {"num_components": self.num_components, **starts}
        shared = {"covariance": "full", "sweeps": self.sweeps, **starts}
        if kind == "gmm":
            return {"num_components": self.num_components, **shared}
        return {"truncation": self.truncation, "concentration": self.concentration, **shared}


class Density(NamedTuple):
    """A Gaussian mixture at a point: w (K,), loc (K, d), covariance (K, d, d), float64."""

    w: np.ndarray
    loc: np.ndarray
    covariance: np.ndarray


class Clustered(NamedTuple):
    """Components of the test codes; the density, where there is one; seconds of the fit; whether it settled."""

    predicted: np.ndarray
    density: Density | None
    seconds: float
    settled: bool


def cluster(
    kind: str, variant: str, train: np.ndarray, test: np.ndarray, settings: MixtureSettings, *, seed: int
) -> Clustered:
    """Fit one kind of mixture by one contestant to the training codes, and predict the test codes.

    Args:
        kind: "kmeans", "gmm" or "dpgmm".
        variant: one of `VARIANTS[kind]`.
        train: codes, shape (N, d).
        test: codes, shape (M, d).
        settings: sizes.
        seed: of the starts.

    Returns:
        What was found.
    """
    began = time.perf_counter()
    with warnings.catch_warnings():
        for category in (ConvergenceWarning, PeerWarning):
            warnings.simplefilter("ignore", category)  # recorded as `settled`
        fit = (_ours if variant == "vmix" else _peers)(kind, settings, train, seed)
    return Clustered(fit.predict(test), fit.density, time.perf_counter() - began, fit.settled)


def log_likelihood(density: Density, z: np.ndarray) -> float:
    """The judge: mean over rows of log sum_k w_k Normal(z; loc_k, covariance_k), nats per datum, in float64."""
    z = np.asarray(z, np.float64)
    d = z.shape[1]
    joint = np.full((len(z), len(density.w)), -np.inf)
    for k in np.flatnonzero(density.w > 0):
        root = np.linalg.cholesky(density.covariance[k])
        gaps = solve_triangular(root, (z - density.loc[k]).T, lower=True)
        joint[:, k] = np.log(density.w[k]) - np.log(np.diag(root)).sum() - 0.5 * np.square(gaps).sum(0)
    return float(logsumexp(joint, 1).mean() - 0.5 * d * np.log(2 * np.pi))


def density_of_posterior(posterior: Mapping[str, np.ndarray]) -> Density:
    """The density that a vmix fit stands for: weights w, or sticks v, with loc and precision."""
    values = {name: np.asarray(value, np.float64) for name, value in posterior.items()}
    if "w" not in values:
        left = np.cumprod(np.append(1.0, 1.0 - values["v"]))
        values["w"] = np.append(values["v"], 1.0) * left
    return Density(values["w"], values["loc"], np.linalg.inv(values["precision"]))


def density_of_peer(model: Any) -> Density:
    """The density that a scikit-learn mixture stands for, at its point estimates."""
    return Density(*(np.asarray(v, np.float64) for v in (model.weights_, model.means_, model.covariances_)))


class _Fitted(NamedTuple):
    predict: Callable[[np.ndarray], np.ndarray]
    density: Density | None
    settled: bool


def _ours(kind: str, settings: MixtureSettings, z: np.ndarray, seed: int) -> _Fitted:
    """EM with the zoo's own priors at the scale of the codes."""
    model: GaussianMixture | DirichletProcessMixture
    if kind == "gmm":
        model = GaussianMixture(num_components=settings.num_components, covariance="full")
        engine = EM(num_sweeps=settings.sweeps, restarts=settings.gmm_starts)
    else:
        truncation, concentration = settings.truncation, settings.concentration
        model = DirichletProcessMixture(truncation=truncation, concentration=concentration, covariance="full")
        engine = EM(num_sweeps=settings.sweeps, restarts=settings.dpgmm_starts)
    fit = vmix.fit(model, z, engine=engine, seed=seed)
    return _Fitted(fit.predict, density_of_posterior(fit.posterior), fit.converged)


def _peers(kind: str, settings: MixtureSettings, z: np.ndarray, seed: int) -> _Fitted:
    """scikit-learn with its own defaults where the settings say nothing, in float64."""
    wide = np.asarray(z, np.float64)
    if kind == "kmeans":
        means = KMeans(settings.num_components, n_init=settings.kmeans_starts, random_state=seed).fit(wide)
        return _Fitted(lambda x: means.predict(np.asarray(x, np.float64)), None, means.n_iter_ < means.max_iter)
    shared = {"covariance_type": "full", "max_iter": settings.sweeps, "random_state": seed}
    if kind == "gmm":
        model = PeerMixture(n_components=settings.num_components, n_init=settings.gmm_starts, **shared)
    else:
        model = BayesianGaussianMixture(
            n_components=settings.truncation,
            n_init=settings.dpgmm_starts,
            weight_concentration_prior_type="dirichlet_process",
            weight_concentration_prior=settings.concentration,
            **shared,
        )
    model.fit(wide)
    return _Fitted(lambda x: model.predict(np.asarray(x, np.float64)), density_of_peer(model), bool(model.converged_))
