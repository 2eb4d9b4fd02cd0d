"""Does the likelihood tell good starts of a deep mixture from bad ones?"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import spearmanr

from vmix.door import check_arrays, prepare
from vmix.engine import Data
from vmix.metrics import accuracy
from vmix.mixture_start import MIXTURE_ROWS, search
from vmix.plan import make_plan
from vmix.pretraining import first_values, pretrain
from vmix.starting import recipe_of


def starts(model: Any, x: np.ndarray, labels: np.ndarray, *, seed: int) -> dict[str, float]:
    """Start the mixture on one set of codes many times; labels are read when all starts are done.

    Args:
        model: a deep mixture.
        x: at most 20,000 rows, shape (N, D).
        labels: shape (N,).
        seed: of networks and starts.

    Returns:
        Accuracy of the likeliest start, of all (mean, worst, best), and their rank correlation with the likelihood.
    """
    if len(x) > MIXTURE_ROWS:
        raise ValueError(f"{len(x)} rows; a start sees {MIXTURE_ROWS} of them: give --rows {MIXTURE_ROWS}")
    arrays = check_arrays((x,), missing=None)
    key = jax.random.key(seed)
    plan = make_plan(prepare(model, arrays), arrays, key=key)
    data, recipe = Data(tuple(jnp.asarray(a) for a in arrays), None, None), recipe_of(plan, None)
    encoders = []
    for view_key in jax.random.split(key, recipe.views):
        draw_key, train_key = jax.random.split(view_key)
        drawn = first_values(plan, key=draw_key, from_prior=False)
        encoders.append(pretrain(plan, data, drawn, recipe, key=train_key)[0])
    found = [run for run, _ in search(plan, data, encoders, recipe, key=jax.random.fold_in(key, 1))]
    values = np.array([run.value for run in found])
    accuracies = np.array([accuracy(labels, np.asarray(run.shares.argmax(1))) for run in found])
    return {
        "accuracy_likeliest": accuracies[values.argmax()],
        "accuracy_mean": accuracies.mean(),
        "accuracy_worst": accuracies.min(),
        "accuracy_best": accuracies.max(),
        "rank_correlation": float(spearmanr(values, accuracies).statistic),
        "num_starts": len(found),
    }
