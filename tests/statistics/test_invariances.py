"""What must not matter does not: order of rows, components and features, units and origin of the data, repeated rows.

EM in float64, sweep for sweep from one start, so that the claims hold to rounding. Runs of one model share a compiled
function of the globals and the data.
"""

from __future__ import annotations

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmix.conformance_case import Case
from vmix.engine import Data, Schedule, Start
from vmix.inference import EM
from vmix.models import HMM, LDA, GaussianMixture
from vmix.program import as_program

SWEEPS, ROWS, DIM, K = 8, 40, 3, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(ROWS, DIM)) * [1.0, 2.0, 0.5] + 3.0 * RNG.integers(0, 3, (ROWS, 1))
PRIOR = {"loc": (1.0,) * DIM, "scale": (4.0,) * DIM, "spread": (1.0,) * DIM}
START = {"w": np.array([0.5, 0.3, 0.2]), "loc": X[[0, 11, 22]], "precision": np.ones((K, DIM))}


UNITS = [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e6)]


class Climb:
    """EM sweeps of one program as a function of the start and the data, in float64."""

    def __init__(self, model, data, **options):
        with jax.enable_x64():
            self.case = Case(as_program(model), data, 0)
            self.engine = EM(num_sweeps=SWEEPS, tolerance=None, **options)
            self.run = jax.jit(self._run)
            assert self.case.plan.globals  # the plan is made here, in float64

    def _run(self, globals_, args):
        plan, data, one = self.case.plan, Data(args, None, None), jnp.ones(())
        state = self.engine.init(plan, Start(globals_, plan.params), data, key=jax.random.key(0))

        def sweep(state, _):
            state, info = self.engine.step(plan, state, data, Schedule(one, one))
            return state, info.objective

        state, objective = jax.lax.scan(sweep, state, None, length=SWEEPS)
        return state.globals, objective

    def __call__(self, start, *data):
        with jax.enable_x64():
            globals_, objective = self.run(jax.tree.map(jnp.asarray, start), tuple(map(jnp.asarray, data)))
            return jax.tree.map(np.asarray, globals_), np.asarray(objective)


def assert_same(found, expected, *, rtol=1e-9):
    for name, value in expected[0].items():
        np.testing.assert_allclose(found[0][name], value, rtol=rtol, atol=rtol, err_msg=name)
    np.testing.assert_allclose(found[1], expected[1], rtol=rtol, atol=rtol)


@lru_cache
def mixture():
    return Climb(GaussianMixture(num_components=K, concentration=4.0, **PRIOR), (X,))


@lru_cache
def plain():
    return mixture()(START, X)


def test_order_of_rows_does_not_matter():
    assert_same(mixture()(START, X[RNG.permutation(ROWS)]), plain())


def test_order_of_components_is_kept():
    order = np.array([2, 0, 1])
    found = mixture()({name: value[order] for name, value in START.items()}, X)
    assert_same(found, ({name: value[order] for name, value in plain()[0].items()}, plain()[1]))


def test_order_of_features_is_kept():
    order = np.array([1, 2, 0])
    start = {"w": START["w"], "loc": START["loc"][:, order], "precision": START["precision"][:, order]}
    globals_, objective = plain()
    expected = {"w": globals_["w"], "loc": globals_["loc"][:, order], "precision": globals_["precision"][:, order]}
    assert_same(mixture()(start, X[:, order]), (expected, objective))


@pytest.mark.parametrize(
    ("unit", "offset"), [(1e3, -1e6), *(pytest.param(*case, marks=pytest.mark.slow) for case in UNITS)]
)
def test_units_and_origin_change_parameters_and_nothing_else(unit, offset):
    """x -> a x + b, the prior with it: the same weights, and an objective that is lower by D log a a datum."""
    x = unit * X + offset
    prior = {"loc": tuple(unit * v + offset for v in PRIOR["loc"])}
    prior |= {name: tuple(unit * v for v in PRIOR[name]) for name in ("scale", "spread")}
    start = {"w": START["w"], "loc": unit * START["loc"] + offset, "precision": START["precision"] / unit**2}
    climb = (
        mixture()
        if (unit, offset) == (1.0, 0.0)
        else Climb(GaussianMixture(num_components=K, concentration=4.0, **prior), (x,))
    )
    found, objective = climb(start, x)
    back = {"w": found["w"], "loc": (found["loc"] - offset) / unit, "precision": found["precision"] * unit**2}
    jacobian = DIM * np.log(unit)
    # the prior's density changes with the units as well: K D locations up, K D precisions down by twice as much
    prior_shift = (-K * DIM + 2 * K * DIM) * np.log(unit) / ROWS
    assert_same((back, objective + jacobian - prior_shift), plain(), rtol=1e-7)


@pytest.mark.slow
def test_rows_twice_are_a_weight_of_two():
    """Maximum likelihood: the same parameters, and the same objective a datum."""
    model = GaussianMixture(num_components=K, concentration=4.0, **PRIOR)
    once, twice = (Climb(model, (x,), estimate="ml")(START, x) for x in (X, np.concatenate([X, X])))
    assert_same(({**twice[0]}, twice[1][:0]), ({**once[0]}, once[1][:0]))


@pytest.mark.slow
def test_order_of_states_and_sequences_of_a_chain_is_kept():
    x = X[:36].reshape(6, 6, DIM)
    start = {**{n: START[n] for n in ("loc", "precision")}, "initial": START["w"]}
    start["transition"] = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    climb = Climb(HMM(num_components=K, concentration=4.0, **PRIOR), (x,))
    expected = climb(start, x)
    assert_same(climb(start, x[RNG.permutation(6)]), expected)
    order = np.array([1, 2, 0])

    def permuted(values):
        moved = {name: value[order] for name, value in values.items()}
        return moved | {"transition": moved["transition"][:, order]}

    assert_same(climb(permuted(start), x), (permuted(expected[0]), expected[1]))


@pytest.mark.slow
def test_order_of_topics_words_and_documents_is_kept():
    x = np.random.default_rng(1).poisson(2.0, size=(5, 4))
    climb = Climb(LDA(num_components=2, topic_concentration=1.5, doc_concentration=1.5, max_tokens=30), (x,))
    start = {"phi": np.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]), "theta": np.tile([0.6, 0.4], (5, 1))}
    phi, theta = (climb(start, x)[0][name] for name in ("phi", "theta"))
    objective = climb(start, x)[1]
    words, documents, topics = np.array([2, 0, 3, 1]), np.array([4, 2, 0, 1, 3]), np.array([1, 0])
    moved = climb(
        {"phi": start["phi"][topics][:, words], "theta": start["theta"][documents][:, topics]}, x[documents][:, words]
    )
    assert_same(moved, ({"phi": phi[topics][:, words], "theta": theta[documents][:, topics]}, objective))
