"""Few data: after the mixture on the codes, networks and globals climb the bound with the classes held."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmix import pretraining
from vmix.door import prepare
from vmix.engine import Data
from vmix.models import VAE, VaDE
from vmix.plan import make_plan
from vmix.pretraining import first_values
from vmix.recipe import Recipe, Watch
from vmix.settling import settle, settle_epochs
from vmix.starting import describe, make_start

KEY = jax.random.key(0)
RECIPE = Recipe(pretrain_epochs=2, batch_size=16, mixture_restarts=2, mixture_sweeps=4, settle_steps=20)


@pytest.fixture(scope="module")
def few():
    """A small VaDE and 40 rows of two kinds."""
    x = (np.random.default_rng(0).uniform(size=(40, 9)) < np.repeat([[0.2], [0.8]], 20, 0)).astype(np.float32)
    model = VaDE(num_components=2, latent_dim=2, hidden=(6,), covariance="diagonal", views=1)
    plan = make_plan(prepare(model, (x,)), (x,), key=KEY)
    return plan, Data((jnp.asarray(x),), None, None)


def test_classes_are_held_where_epochs_of_pretraining_make_too_few_steps(few):
    plan, _ = few
    assert settle_epochs(plan, 40, RECIPE) == 10
    assert settle_epochs(plan, 16 * 1_500, RECIPE) == 0  # 2 epochs of 1,500 steps
    assert settle_epochs(plan, 16 * 1_499, RECIPE) == 1
    assert settle_epochs(plan, 40, replace(RECIPE, settle_steps=0)) == 0
    assert settle_epochs(replace(plan, reads_data=("loc",)), 40, RECIPE) == 0  # a minibatch is another problem
    alone = make_plan(prepare(VAE(latent_dim=2, hidden=(6,)), few[1].args), few[1].args, key=KEY)
    assert describe(alone, RECIPE) == []


def test_explain_says_that_classes_are_held_and_history_names_the_stage(few, monkeypatch):
    plan, data = few
    assert describe(plan, RECIPE)[-1].startswith("few data: 20 steps of all that is learnt on the bound")
    monkeypatch.setattr(pretraining, "MIN_PRETRAIN_STEPS", 8)
    _, stages = make_start(plan, data, RECIPE, key=KEY)
    assert [stage.name for stage in stages] == ["autoencoder", "mixture on codes", "classes held"]
    assert len(stages[-1].objective) == 10 and stages[-1].objective[-1] > stages[-1].objective[0]


def test_globals_are_modes_given_the_classes_held(few):
    """w has a flat prior: with classes of 14 and 26 data it ends at their shares, whatever the codes say."""
    plan, data = few
    classes = jnp.arange(40) % 3 == 0
    observed = data._replace(labels={"c": jnp.where(classes, 0, 1)})
    start = first_values(plan, key=KEY, from_prior=False)
    found, _ = settle(plan, observed, start, replace(RECIPE, batch_size=40), key=KEY)
    shares = np.array([14, 26]) / 40
    np.testing.assert_allclose(found.globals["w"], shares, atol=1e-5)
    apart = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), found.params, start.params)
    assert min(jax.tree.leaves(apart)) > 1e-4  # encoder and decoder both move


def test_a_stage_that_was_ended_goes_on_to_the_same_bits(few):
    plan, data = few
    start = first_values(plan, key=KEY, from_prior=False)
    kept, reports = [], []

    def report(stage, done, total, objective):
        reports.append((stage, done, total))
        if len(reports) == 4:
            raise KeyboardInterrupt

    def retain(place, reached, *, at_once=False):
        kept.append(reached)

    watch = Watch(report, lambda place, like: kept[-1] if kept else None, retain)
    with pytest.raises(KeyboardInterrupt):
        settle(plan, data, start, RECIPE, key=KEY, watch=watch)
    assert reports[-1] == ("classes held", 4, 10)
    again, stage = settle(plan, data, start, RECIPE, key=KEY, watch=watch)
    alone, whole = settle(plan, data, start, RECIPE, key=KEY)
    jax.tree.map(np.testing.assert_array_equal, again, alone)
    assert stage.objective == whole.objective and len(reports) == 10
