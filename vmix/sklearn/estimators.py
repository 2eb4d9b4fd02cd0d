"""The estimators whose data are rows, each a model of the zoo and the names that its results get."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_is_fitted, check_non_negative

from vmix import models
from vmix.sklearn.base import FLOATS, Codes, Components, Scored, Transformed

MIXTURE = {"weights_": "w", "means_": "loc", "precisions_": "precision"}


class GaussianMixture(Components, Scored, record=models.GaussianMixture):
    """Gaussian mixture of rows.

    Attributes:
        weights_: weights, shape (K,).
        means_: means, shape (K, D).
        precisions_: precisions (K, D), or precision matrices (K, D, D), or one (D, D) where they are tied.
    """

    _sites = MIXTURE


class DirichletProcessMixture(Components, Scored, record=models.DirichletProcessMixture):
    """Gaussian mixture with as many components as the data ask for, up to a truncation; some may stay empty.

    Attributes:
        weights_: weights, shape (K,).
        means_: means, shape (K, D).
        precisions_: precisions (K, D), or precision matrices (K, D, D).
    """

    _sites = MIXTURE


class BernoulliMixture(
    Components,
    Scored,
    record=models.BernoulliMixture,
    more={"binarize": None},
    more_doc="\n    binarize: what is above this number becomes 1, the rest 0; None takes X as it is, in [0, 1].",
):
    """Bernoulli mixture of rows in [0, 1].

    Attributes:
        weights_: weights, shape (K,).
        probs_: probability of a yes in each component, shape (K, D).
    """

    _sites = {"weights_": "w", "probs_": "theta"}

    def _read(self, X: ArrayLike, *, reset: bool = False) -> tuple[np.ndarray, ...]:
        (rows,) = super()._read(X, reset=reset)
        return (rows,) if self.binarize is None else (np.where(np.isnan(rows), rows, rows > self.binarize),)


class VAE(Codes, record=models.VAE):
    """Variational autoencoder of rows."""


class VAEGMM(Components, Codes, record=models.VAEGMM):
    """VAE with a Gaussian mixture on its latent.

    Attributes:
        weights_: weights, shape (K,).
        means_: means of z, shape (K, latent_dim).
        precisions_: precisions of z (latent_dim,), where they are learned.
    """

    _sites = MIXTURE


class VaDE(Components, Codes, record=models.VaDE):
    """Variational deep embedding of rows.

    Attributes:
        weights_: weights, shape (K,), where they are learned.
        means_: means of z, shape (K, latent_dim).
        precisions_: precisions of z, shape (K, latent_dim), or matrices (K, latent_dim, latent_dim).
    """

    _sites = MIXTURE


class InfiniteVaDE(Components, Codes, record=models.InfiniteVaDE):
    """VaDE with as many components as the codes ask for, up to a truncation; most stay empty.

    Attributes:
        weights_: weights, shape (K,).
        means_: means of z, shape (K, latent_dim).
        precisions_: precisions of z, shape (K, latent_dim), or matrices (K, latent_dim, latent_dim).
    """

    _sites = MIXTURE


class LDA(Transformed, record=models.LDA, gaps=False):
    """Latent Dirichlet allocation: `transform` gives each document's share of each topic, shape (N, K).

    Counts may be sparse; they are made dense. `score` is in nats per document.

    Attributes:
        components_: probability of each word in each topic, shape (K, V).
    """

    _sites = {"components_": "phi"}

    def _transformation(self) -> Callable[..., np.ndarray]:
        return self._fitted().predict_proba

    @property
    def _n_features_out(self) -> int:
        return self.num_components

    def _read(self, X: ArrayLike, *, reset: bool = False) -> tuple[np.ndarray, ...]:
        """Counts, dense and in the precision given; vmix refuses those that are not whole."""
        if not reset:
            check_is_fitted(self)
        counts = self._validated(X, dtype=[*FLOATS, np.int64, np.int32], accept_sparse="csr", reset=reset)
        dense = counts.toarray() if hasattr(counts, "toarray") else counts
        check_non_negative(dense, type(self).__name__)
        return (dense,)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = tags.input_tags.positive_only = True
        tags.input_tags.categorical = True  # scikit-learn's word for whole numbers
        return tags
