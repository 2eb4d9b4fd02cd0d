"""diagnose: each thing that goes wrong is found, with the way out, and a good fit has no warnings."""

from dataclasses import replace

import numpy as np
import pytest

import vmix
from vmix.diagnosing import of_codes, of_components
from vmix.inference import EM
from vmix.models import GaussianMixture

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (100, 2)) for m in (-5, 5)]).astype(np.float32)


def warned(diagnosis):
    return {finding.name for finding in diagnosis.warnings}


@pytest.fixture(scope="module")
def fit():
    return vmix.fit(GaussianMixture(num_components=2), X[::2], engine=EM(restarts=3), seed=0)


def test_a_good_fit_has_no_warnings(fit):
    found = vmix.diagnose(fit, X[::2], held_out=X[1::2])
    assert not found.warnings
    names = [finding.name for finding in found.findings]
    assert names == ["objective", "restarts", "empty components", "double components", "certainty", "held out"]
    assert str(found).count("\n") == 5 and str(found).startswith("ok    objective: The stopping rule was met")


def test_a_fit_answers_by_itself(fit):
    assert fit.diagnose(X[::2], held_out=X[1::2]) == vmix.diagnose(fit, X[::2], held_out=X[1::2])


def test_rows_that_are_less_likely_than_the_others_are_told(fit):
    found = vmix.diagnose(fit, X[::2], held_out=(X[1::2] + 4,))
    assert warned(found) == {"held out"}
    assert "fewer components, stronger priors, or more data" in str(found)


def test_a_fit_that_still_climbs_is_told_to_go_on(fit):
    climbing = {**fit.history, "objective": np.linspace(-9, -3, 50), "restarts": None}
    (first, *_) = vmix.diagnose(replace(fit, converged=False, history=climbing), X).findings
    assert not first.good and first.remedy == "raise num_sweeps"


def test_draws_are_judged_by_the_objective(fit):
    def drawn(trace):
        posterior = {name: np.repeat(value[None], 200, 0) for name, value in fit.posterior.items()}
        history = {**fit.history, "objective": trace, "restarts": None}
        settings = {"engine": {"num_chains": 1}}
        return replace(fit, engine_name="Gibbs", posterior=posterior, history=history, settings=settings)

    steady = np.random.default_rng(1).normal(-4.0, 0.1, 250)
    assert "mixing" not in warned(vmix.diagnose(drawn(steady), X))
    assert "mixing" in warned(vmix.diagnose(drawn(steady + np.where(np.arange(250) < 150, 0.0, 30.0)), X))


def test_empty_and_double_components_and_unsure_rows_are_named():
    sure = np.eye(4)[np.arange(40) % 2]
    assert [f.good for f in of_components(sure)] == [False, True, True]
    assert "2 of them: 2, 3" in of_components(sure)[0].text
    twice = np.repeat(np.eye(2)[np.arange(40) % 2], 2, 1) / 2
    findings = {f.name: f for f in of_components(twice)}
    assert "0 and 1, 2 and 3" in findings["double components"].text and not findings["certainty"].good
    for shares, entropy in ((sure, "0 nats, of at most 1.4."), (twice, "0.69 nats, of at most 1.4.")):  # log 2 of log 4
        assert of_components(shares)[2].text.endswith(f"mean entropy of the responsibilities is {entropy}")


def test_a_latent_that_carries_nothing_is_told():
    codes = RNG.normal(size=(50, 4)) * np.array([1.0, 1e-3, 1e-3, 1e-3])
    assert not of_codes(codes).good and "1 of 4 dimensions" in of_codes(codes).text
    assert of_codes(codes[:, :2]).good


def test_data_are_asked_for(fit):
    with pytest.raises(TypeError, match=r"vmix\.diagnose\(fit, x\)"):
        vmix.diagnose(fit)


def test_what_is_no_fit_is_refused():
    with pytest.raises(TypeError, match=r"takes a fit, found GaussianMixture: vmix\.diagnose\(vmix\.fit"):
        vmix.diagnose(GaussianMixture(num_components=2), X)
