"""Contests to convergence and draws of paths: peers are stepped as they step themselves, and one judge scores all."""

import itertools
import json

import numpy as np
import pytest
from sklearn.mixture import BayesianGaussianMixture

from benchmarks import _hmm_draws as draws
from benchmarks import _mixtures_dp as dp
from benchmarks import hmm, mixtures
from benchmarks._code_mixtures import Density, log_likelihood

SMALL = {"num_data": 300, "held_out": 60, "data_dim": 2, "true_components": 3, "truncation": 6}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_peer_stepped_by_turns_is_its_own_fit(covariance):
    settings = dp.Settings(covariance=covariance, **SMALL)
    x, held_out = dp.make_data(settings, 0)
    one = dp.Peer(settings, x, held_out, 3, 1)
    for _ in range(1 + 7):  # the start is a piece
        one.run_piece()
    own = BayesianGaussianMixture(**one.model.get_params()).set_params(max_iter=7).fit(x)
    np.testing.assert_allclose(one.model.means_, own.means_, atol=1e-10)
    np.testing.assert_allclose(one.density().w, own.weights_, atol=1e-10)
    assert one.bound == pytest.approx(own.lower_bound_) and one.sweeps == 7
    shapes = own.covariances_ if covariance == "full" else np.stack([np.diag(v) for v in own.covariances_])
    assert one.points[-1].held_out == pytest.approx(log_likelihood(Density(own.weights_, own.means_, shapes), held_out))


def test_contestant_is_done_when_it_settles_or_has_spent_what_it_has():
    settings = dp.Settings(covariance="full", sweeps=2, **SMALL)
    x, held_out = dp.make_data(settings, 0)
    one = dp.Peer(settings, x, held_out, 0, 1)
    for done in (False, False, True):
        one.run_piece()
        assert one.is_done is done
    one.sweeps, one.settled = 1, True
    assert one.is_done


def test_judge_of_paths_adds_up_to_the_evidence():
    rng = np.random.default_rng(0)
    initial, transition = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(3), 3)
    unary = rng.normal(size=(1, 4, 3))
    every = [np.array([path]) for path in itertools.product(range(3), repeat=4)]
    total = np.logaddexp.reduce(4 * draws.log_joints(every, initial, transition, unary)[:, 0])
    alpha = initial * np.exp(unary[0, 0])
    for t in range(1, 4):
        alpha = alpha @ transition * np.exp(unary[0, t])
    assert total == pytest.approx(np.log(alpha.sum()), abs=1e-12)


def test_gap_is_in_standard_errors():
    one = np.random.default_rng(0).normal(size=(50, 4))
    other = one + 1.0
    error = np.sqrt(2 * (one.var(0, ddof=1) / 50).sum()) / 4
    assert draws.gap(one, other) == pytest.approx(1.0 / error)


@pytest.mark.slow
def test_dirichlet_process_contest_runs_to_convergence(tmp_path):
    mixtures.main(["--case", "dp-full", "--num-data", "1000", "--truncation", "30", "--folder", str(tmp_path)])
    lines = [json.loads(line)["metrics"] for line in (tmp_path / "mixtures.jsonl").read_text().splitlines()]
    assert len(lines) == 2 and all(line["settled"] for line in lines)
    assert lines[0]["held_out"] == pytest.approx(lines[1]["held_out"], abs=2.0)
    mixtures.main(["--case", "dp-full", "--num-data", "1000", "--truncation", "30", "--folder", str(tmp_path)])
    assert len((tmp_path / "mixtures.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the peers
@pytest.mark.parametrize("case", ["draws", "draws-long", "diagonal-long"])
def test_hmm_cases_run_and_are_named(case, tmp_path):
    options = ["--num-sequences", "5", "--num-steps", "40", "--sweeps", "2", "--rounds", "2"]
    hmm.main(["--case", case, *options, "--folder", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / "hmm.jsonl").read_text().splitlines()]
    assert lines[0]["variant"] == "vmix" and {line["case"] for line in lines} == {
        case if case.startswith("draws") else f"em-{case}"
    }
    if "long" in case:
        assert lines[0]["settings"]["num_sequences"] == 1 and lines[0]["settings"]["num_steps"] == 200
    for line in lines[1:] if case.startswith("draws") else []:
        assert line["metrics"]["gap_to_vmix"] < 5
