"""What deep mixtures are measured against: k-means on an autoencoder's codes, and a Gaussian mixture on PCA."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from vmix.door import check_arrays, prepare
from vmix.engine import Data
from vmix.log_joint import guide_factors
from vmix.plan import make_plan
from vmix.pretraining import first_values, pretrain
from vmix.starting import recipe_of

RESTARTS = 10
PCA_DIM = 18


def autoencoder_k_means(model: Any, x: np.ndarray, *, seed: int) -> np.ndarray:
    """Clusters of the codes of the autoencoder that the model starts from, shape (N,)."""
    arrays = check_arrays((x,), missing=None)
    key = jax.random.key(seed)
    plan = make_plan(prepare(model, arrays), arrays, key=key)
    data = Data(tuple(jnp.asarray(a) for a in arrays), None, None)
    draw_key, train_key = jax.random.split(key)
    start = first_values(plan, key=draw_key, from_prior=False)
    start, _ = pretrain(plan, data, start, recipe_of(plan, None), key=train_key)
    codes = np.concatenate([_codes(plan, start.params, x[i : i + 4096]) for i in range(0, len(x), 4096)])
    return KMeans(model.num_components, n_init=RESTARTS, random_state=seed).fit_predict(codes)


def _codes(plan: Any, params: dict, rows: np.ndarray) -> np.ndarray:
    _, factors = guide_factors(plan, params, (jnp.asarray(rows),), key=jax.random.key(0))
    return np.asarray(factors["z"].mean)


def pca_mixture(model: Any, x: np.ndarray, *, seed: int) -> np.ndarray:
    """Components of a Gaussian mixture with full covariances on the first 18 principal directions, shape (N,)."""
    codes = PCA(min(PCA_DIM, x.shape[1]), random_state=seed).fit_transform(x)
    mixture = GaussianMixture(model.num_components, n_init=RESTARTS, reg_covar=1e-4, random_state=seed)
    return mixture.fit_predict(codes)


BASELINES = {"autoencoder+kmeans": autoencoder_k_means, "pca+gmm": pca_mixture}
