"""A callback sees every sweep and the fit so far, and changes nothing."""

import numpy as np
import pytest

import vmix
from vmix.inference import EM
from vmix.models import GaussianMixture

X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
X[:30] += 4.0
MODEL = GaussianMixture(num_components=2)


def test_callback_sees_every_sweep_and_the_fit_so_far():
    seen = []

    def watch(number, so_far):
        seen.append((number, so_far().history["objective"][-1] if number in (1, 5) else None))

    engine = EM(num_sweeps=5, tolerance=None)
    fit = vmix.fit(MODEL, X, engine=engine, seed=0, callback=watch)
    alone = vmix.fit(MODEL, X, engine=engine, seed=0)
    assert [number for number, _ in seen] == [1, 2, 3, 4, 5]
    assert seen[0][1] == fit.history["objective"][0] and seen[4][1] == fit.history["objective"][-1]
    np.testing.assert_array_equal(fit.history["objective"], alone.history["objective"])
    np.testing.assert_array_equal(fit.predict_proba(X), alone.predict_proba(X))


def test_callback_does_not_keep_em_from_stopping():
    numbers = []
    fit = vmix.fit(MODEL, X, engine=EM(num_sweeps=400), seed=0, callback=lambda n, _: numbers.append(n))
    assert fit.converged and len(numbers) == len(fit.history["objective"]) < 400


def test_ctrl_c_in_a_callback_keeps_what_was_fitted():
    def stop(number, _):
        if number == 3:
            raise KeyboardInterrupt

    fit = vmix.fit(MODEL, X, engine=EM(num_sweeps=5, tolerance=None), seed=0, callback=stop)
    assert fit.interrupted and len(fit.history["objective"]) == 3


def test_callback_must_be_a_function():
    with pytest.raises(TypeError, match="callback must be a function of .number, make_fit., found int"):
        vmix.fit(MODEL, X, engine=EM(), seed=0, callback=3)
