"""Programs of a user's own, through every engine, against the values they were simulated with.

False alarms: five standard errors on at most 30 numbers a case have a chance below 2e-5 each; seeds are fixed.
"""

import numpy as np
import pytest

from tests.oracles import CASES, fitted

DEFAULT = {
    *((name, "EM") for name in CASES if name not in ("two modalities", "mixture of regressions")),
    ("latent classes", "Gibbs"),
    ("HalfNormal scales", "Gibbs"),
}
CELLS = [
    pytest.param(name, engine, marks=[] if (name, engine) in DEFAULT else pytest.mark.slow)
    for name in CASES
    for engine in ("EM", "SVI", "Gibbs")
]
EM_CASES = [pytest.param(name, marks=[] if (name, "EM") in DEFAULT else pytest.mark.slow) for name in CASES]


@pytest.mark.parametrize(("name", "engine"), CELLS)
def test_simulated_truth_is_recovered_within_five_standard_errors(name, engine):
    case, _, point, _ = fitted(name, engine)
    assert case.worst_error(point) < 5.0


@pytest.mark.parametrize(("name", "engine"), CELLS)
def test_posterior_has_the_shapes_of_the_sites(name, engine):
    case, fit, _, _ = fitted(name, engine)
    draws = (300,) if engine == "Gibbs" else ()
    assert {n: fit.posterior[n].shape for n in case.truth} == {n: draws + v.shape for n, v in case.truth.items()}


@pytest.mark.parametrize(("name", "engine"), CELLS)
def test_score_is_at_least_that_of_the_truth(name, engine):
    case, fit, _, _ = fitted(name, engine)
    truth = fit._predictor.__class__(fit._plan, _as_draw(fit, case), {})
    # a fit may lose to the truth by what the prior asks for, a hundredth of a nat at these sizes
    assert fit.score(*case.data) > truth.per_datum(*case.data).mean() - 0.01


@pytest.mark.parametrize("name", EM_CASES)
def test_em_never_lowers_log_joint(name):
    objective = fitted(name, "EM").fit.history["objective"].astype(float)
    assert len(objective) > 3
    assert np.diff(objective).min() >= -1e-6 * np.abs(objective).max()


@pytest.mark.parametrize("name", EM_CASES)
def test_em_step_compiles_once(name):
    assert fitted(name, "EM").traces == 1


def _as_draw(fit, case):
    """The truth in the place of the fit's globals; a hyper-parameter without a truth keeps the fit's value."""
    first = {name: np.asarray(value[:1]) for name, value in fit._predictor.globals.items()}
    return first | {name: np.asarray(value, np.float32)[None] for name, value in case.truth.items()}
