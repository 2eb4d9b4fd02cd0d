"""fit_many over a grid: each fit is the one its settings would give alone; what chooses is comparable and no label."""

from types import SimpleNamespace

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.driving import FitError
from vmix.grids import Fits, applied, spelled_out
from vmix.inference import EM, SVI
from vmix.models import GaussianMixture

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (60, 2)) for m in (-4, 0, 4)]).astype(np.float32)
UNSEEN = np.concatenate([RNG.normal(m, 1.0, (30, 2)) for m in (-4, 0, 4)]).astype(np.float32)
ENGINE = EM(num_sweeps=16, tolerance=None)
GRID = {"num_components": [1, 3]}


def normal(x, scale=1.0):
    loc = numpyro.sample("loc", dist.Normal(0.0, scale))
    with numpyro.plate("data", len(x)):
        numpyro.sample("x", dist.Normal(loc, 1.0), obs=x)


@pytest.fixture(scope="module")
def found():
    return vmix.fit_many(GaussianMixture(), X, engine=ENGINE, seeds=[0, 5], grid=GRID, held_out=UNSEEN)


def test_every_choice_is_fitted_from_every_seed_in_order(found):
    assert isinstance(found, list)
    rows = [(row["num_components"], row["seed"]) for row in found.table()]
    assert rows == [(1, 0), (1, 5), (3, 0), (3, 5)]
    assert [fit.posterior["loc"].shape for fit in found] == [(1, 2), (1, 2), (3, 2), (3, 2)]


@pytest.mark.slow
def test_a_fit_of_the_grid_is_the_fit_it_would_have_been_alone(found):
    alone = vmix.fit(GaussianMixture(num_components=3), X, engine=ENGINE, seed=5)
    np.testing.assert_allclose(found[3].posterior["loc"], alone.posterior["loc"], atol=1e-4)
    assert found[3].settings == alone.settings


def test_best_is_the_highest_held_out_score(found):
    assert found.held_out == pytest.approx([fit.score(UNSEEN) for fit in found])
    assert found.best is found[int(np.argmax(found.held_out))]
    assert found.best.settings["model"]["num_components"] == 3
    assert Fits(found, found.choices, held_out=[-1.0, -3.0, -2.0, np.nan]).best is found[0]


def test_table_prints_a_row_a_fit(found):
    lines = str(found).splitlines()
    names = ["num_components", "seed", "objective", "held_out", "steps", "converged", "seconds"]
    assert lines[0].split() == names and len(lines) == 5


def test_objectives_of_different_programs_do_not_choose(found):
    bare = Fits(found, found.choices, comparable=False)
    with pytest.raises(ValueError, match="give fit_many held_out="):
        _ = bare.best
    assert Fits(found, found.choices).best is found[int(np.argmax(bare.objectives))]


@pytest.mark.slow
def test_failed_choice_is_told_and_the_others_go_on():
    grid = {"learning_rate": [1e-2, 1e30]}
    found = vmix.fit_many(normal, X[:, 0], engine=SVI(num_steps=10, anneal=None), seeds=[0], grid=grid)
    shown = [row["learning_rate"] for row in found.table()] + [choice["learning_rate"] for choice, _ in found.failed]
    assert sorted(shown) == [1e-2, 1e30]
    assert found.best.settings["engine"]["learning_rate"] == 1e-2


def test_every_choice_failing_is_an_error(monkeypatch):
    def lost(*_):
        raise FitError("not finite", 0)

    task = SimpleNamespace(data=SimpleNamespace(num_rows=len(X)), plan=None)
    monkeypatch.setattr("vmix.many._planned", lambda *_: task)
    monkeypatch.setattr("vmix.many._fit_seeds", lost)
    with pytest.raises(FitError):
        vmix.fit_many(GaussianMixture(), X, engine=ENGINE, seeds=[0], grid=GRID)


def test_choices_of_one_program_share_its_plan(monkeypatch):
    planned, fitted = [], []
    task = SimpleNamespace(data=SimpleNamespace(num_rows=len(X)), plan=SimpleNamespace(params={}, names=lambda _: ()))
    monkeypatch.setattr("vmix.many._planned", lambda program, *_: planned.append(program.num_components) or task)
    monkeypatch.setattr("vmix.many._fit_seeds", lambda _, engine, *__: fitted.append(engine.num_sweeps) or [])
    grid = {"num_sweeps": [5, 6], "num_components": [2, 4]}
    vmix.fit_many(GaussianMixture(), X, engine=ENGINE, seeds=[0], grid=grid)
    assert planned == [2, 4] and fitted == [5, 6, 5, 6]


@pytest.mark.parametrize("held_out", [UNSEEN[:, :1], (UNSEEN, UNSEEN), UNSEEN[0, 0]])
def test_held_out_data_of_another_shape_are_refused_before_anything_is_fitted(held_out, monkeypatch):
    monkeypatch.setattr("vmix.many._planned", lambda *_: pytest.fail("planned"))
    with pytest.raises(ValueError, match="held_out"):
        vmix.fit_many(GaussianMixture(), X, engine=ENGINE, seeds=[0], held_out=held_out)


def test_choices_are_all_combinations_and_reach_program_and_engine():
    grid = {"num_components": [2, 4], "num_sweeps": [5, 6]}
    choices = spelled_out(grid, GaussianMixture(), ENGINE)
    assert [tuple(choice.values()) for choice in choices] == [(2, 5), (2, 6), (4, 5), (4, 6)]
    program, engine = applied(choices[2], GaussianMixture(covariance="full"), ENGINE)
    assert program == GaussianMixture(covariance="full", num_components=4)
    assert engine == EM(num_sweeps=5, tolerance=None)


def test_keyword_argument_of_a_function_is_an_option():
    program, _ = applied({"scale": 3.0}, normal, ENGINE)
    assert program.__name__ == "normal" and program.keywords == {"scale": 3.0}
    assert spelled_out({"scale": [1.0]}, normal, ENGINE) == [{"scale": 1.0}]


@pytest.mark.parametrize(
    "grid, message",
    [
        ([1], "grid must be a dict"),
        ({"num_component": [1]}, "did you mean 'num_components'"),
        ({"num_components": 3}, "list of values"),
        ({"num_components": []}, "list of values"),
        ({"covariance": "full"}, "list of values"),
        ({"num_components": [0]}, "num_components"),
        ({"restarts": [1, 2]}, "restarts=1"),
    ],
)
def test_bad_grids_are_refused(grid, message):
    with pytest.raises((TypeError, ValueError), match=message):
        vmix.fit_many(GaussianMixture(), X, engine=ENGINE, seeds=[0], grid=grid)
