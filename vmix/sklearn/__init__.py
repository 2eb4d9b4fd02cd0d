"""Models of the zoo as scikit-learn estimators: pipelines, grid searches and `clone` work on them.

An estimator's parameters are its model's fields, then `engine`, `engine_options`, `init`, `random_state`, `verbose`.

Example:
    >>> import numpy as np
    >>> from vmix.sklearn import GaussianMixture
    >>> x = np.concatenate([np.random.default_rng(0).normal(m, 1, (50, 2)) for m in (-4, 4)])
    >>> sorted(np.bincount(GaussianMixture(num_components=2, random_state=0).fit_predict(x)).tolist())
    [50, 50]
"""

from vmix.sklearn.estimators import (
    LDA,
    VAE,
    VAEGMM,
    BernoulliMixture,
    DirichletProcessMixture,
    GaussianMixture,
    InfiniteVaDE,
    VaDE,
)
from vmix.sklearn.hmm import HMM

__all__ = [
    "BernoulliMixture",
    "DirichletProcessMixture",
    "GaussianMixture",
    "HMM",
    "InfiniteVaDE",
    "LDA",
    "VAE",
    "VAEGMM",
    "VaDE",
]
