"""JAX's setting for matrix products reaches networks alone: statistics and conditionals stay in full float32."""

import jax
import numpy as np

from vmix.driving import Run
from vmix.fitting import _like, prepare_task
from vmix.inference import EM
from vmix.models import GaussianMixture


def test_products_of_a_mixture_keep_full_precision_under_a_lower_setting():
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    engine = EM()
    model = GaussianMixture(num_components=2)
    task = prepare_task(model, (x,), engine, 0, init=None, observed=None, messages=None, missing=None)
    states = _like(task, engine, 0)  # shapes alone: nothing is compiled
    run = Run(task.plan, engine, task.data, False)
    with jax.default_matmul_precision("bfloat16"):
        traced = str(jax.make_jaxpr(run._chunk, static_argnums=3)(states, task.data, run.schedule(0), 1))
    products = traced.count("dot_general[")
    assert products > 2 and traced.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products
