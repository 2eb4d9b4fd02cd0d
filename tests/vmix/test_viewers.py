"""A start whose classes another program finds: its rows, its components, its stages, and what it refuses."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vmix
from vmix import mixture_start, pretraining
from vmix.door import prepare
from vmix.engine import Data, Start
from vmix.inference import EM
from vmix.metrics import accuracy
from vmix.mixture_start import _classes, components_of_classes, mixture_batch
from vmix.models import GaussianMixture, InfiniteVaDE, VaDE
from vmix.plan import make_plan
from vmix.program import ProgramError, as_program
from vmix.recipe import Recipe
from vmix.starting import _plan_of_viewer, describe, recipe_of

KEY = jax.random.key(0)
MODEL = VaDE(num_components=3, latent_dim=6, hidden=(8,), covariance="diagonal")
RECIPE = Recipe(viewer=replace(MODEL, latent_dim=2))


@pytest.fixture(scope="module")
def deep():
    """A plan and images of three kinds, in no order."""
    rng = np.random.default_rng(4)
    labels = rng.permutation(np.repeat([0, 1, 2], 40))
    x = np.clip(0.15 + 0.7 * (rng.random((3, 16)) > 0.5)[labels] + 0.05 * rng.normal(size=(120, 16)), 0, 1)
    x = x.astype(np.float32)
    return make_plan(prepare(MODEL, (x,)), (x,), key=KEY), Data((jnp.asarray(x),), None, None), labels


def of_labels(plan, data, labels):
    """A start whose components are the labels' means of the codes, narrow."""
    start = Start(dict(plan.initial), plan.params)
    codes = np.asarray(mixture_batch(plan, data, start, key=KEY).latents["z"])
    means = jnp.asarray(np.stack([codes[labels == k].mean(0) for k in range(3)]))
    narrow = jnp.full_like(start.globals["precision"], 1.0 / codes.std() ** 2 * 25.0)
    return start._replace(globals=start.globals | {"loc": means, "precision": narrow})


def test_components_on_wide_codes_are_those_of_the_viewers_classes(deep, monkeypatch):
    """Also where both look at a sample of the rows: it is the same one."""
    plan, data, labels = deep
    looking = _plan_of_viewer(plan, as_program(RECIPE.viewer))
    seen = of_labels(looking, data, labels)
    rows = mixture_batch(looking, data, seen, key=KEY)
    np.testing.assert_array_equal(np.asarray(_classes(looking, seen, rows)).argmax(1), labels)
    own = Start(dict(plan.initial), plan.params)
    monkeypatch.setattr(mixture_start, "MIXTURE_ROWS", 90)
    start, stage = components_of_classes(plan, data, own, looking, seen, RECIPE, key=KEY)
    monkeypatch.undo()
    found = np.asarray(_classes(plan, start, mixture_batch(plan, data, start, key=KEY))).argmax(1)
    assert accuracy(labels, found) > 0.95 and (found == labels).mean() > 0.95  # the numbers of the classes, too
    assert start.globals["loc"].shape == (3, 6) and np.isfinite(stage.objective[0])


def test_stages_name_the_viewer(deep):
    plan, _, _ = deep
    lines = describe(plan, replace(RECIPE, views=2))
    assert lines[0].startswith("viewer (VaDE): 2 encoders")
    assert lines[1].startswith("viewer (VaDE): mixture on the codes of all encoders")
    assert lines[2].startswith("autoencoder") and lines[3] == "components of the viewer's classes on the codes"
    assert lines[4].startswith("few data") and len(lines) == 5


def test_a_viewer_with_other_classes_is_refused(deep):
    plan, _, _ = deep
    with pytest.raises(ProgramError, match=r"has the discrete sites \(\('c', 4\).*same record with another latent_dim"):
        _plan_of_viewer(plan, as_program(replace(MODEL, num_components=4)))


def test_a_viewer_without_an_encoder_to_start_is_refused():
    x = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    with pytest.raises(ProgramError, match=r"Recipe\(viewer=.*is for codes of encoders that are trained first"):
        vmix.fit(GaussianMixture(num_components=2), x, engine=EM(), seed=0, init=Recipe(viewer=MODEL))


@pytest.fixture
def quickly(deep, monkeypatch):
    """Names of the stages of a fit with a short autoencoder."""
    monkeypatch.setattr(pretraining, "MIN_PRETRAIN_STEPS", 1)
    _, data, _ = deep

    def stages(model, init=None):
        engine = EM(num_sweeps=1, tolerance=None)
        fit = vmix.fit(model, np.asarray(data.args[0]), engine=engine, seed=0, init=init, progress=False)
        return [stage["name"] for stage in fit.history["stages"]]

    return stages


WIDE = InfiniteVaDE(truncation=4, latent_dim=11, hidden=[8], pretrain_epochs=1, views=1)  # a list cannot be hashed


def test_a_viewer_settles_what_it_left_open_on_the_data(quickly):
    recipe = Recipe(viewer=VaDE(num_components=3, latent_dim=2), pretrain_epochs=1, mixture_restarts=1, settle_steps=0)
    named = ["viewer: autoencoder", "viewer: mixture on codes", "autoencoder", "mixture on codes"]
    assert quickly(MODEL, recipe) == named
    assert quickly(WIDE, replace(WIDE.recipe, mixture_restarts=1, settle_steps=0)) == named


def test_where_nothing_is_looked_for_there_is_no_viewer(quickly):
    """Globals drawn from their prior, and networks that are not trained first."""
    assert quickly(WIDE, "prior") == ["autoencoder"]
    assert quickly(replace(WIDE, pretrain_epochs=0)) == ["mixture on codes"]


def test_what_is_no_program_is_refused_as_a_viewer(deep):
    with pytest.raises(TypeError, match=r"Recipe\(viewer=...\): program must be a NumPyro function"):
        recipe_of(deep[0], Recipe(viewer=3))


def test_all_restarts_share_the_viewers_plan(deep):
    plan, _, _ = deep
    recipe = recipe_of(plan, RECIPE)
    assert _plan_of_viewer(plan, recipe.viewer) is _plan_of_viewer(plan, as_program(recipe.viewer))


def test_infinite_vade_has_a_viewer_where_its_codes_are_wide():
    assert InfiniteVaDE(latent_dim=10).recipe.viewer is None
    assert InfiniteVaDE(latent_dim=64).recipe.viewer == InfiniteVaDE(latent_dim=10)
