"""Contests by turns: vmix advances as a fit does, and every script runs from end to end in small sizes."""

import json

import numpy as np
import pytest

import vmix
from benchmarks import hmm, lda, mixtures
from benchmarks._sweeps import Sweeps
from vmix.inference import EM
from vmix.models import GaussianMixture

SMALL = {
    "mixtures": (mixtures, ["--case", "em-diagonal", "--num-data", "500", "--rounds", "1"]),
    "hmm": (hmm, ["--case", "diagonal", "--num-sequences", "10", "--num-steps", "40", "--rounds", "1"]),
    "lda": (lda, ["--case", "simulated", "--tokens", "20000", "--num-components", "5", "--num-words", "100"]),
}
MORE = {"lda": ["--budget", "1", "--held-out", "20"]}


@pytest.mark.slow
def test_advancing_by_turns_is_a_fit():
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(200, 2)) + 5 * (np.arange(200) % 2)[:, None]).astype(np.float32)
    model = GaussianMixture(num_components=2)
    fit = vmix.fit(model, x, engine=EM(num_sweeps=6, tolerance=None), seed=0)
    turns = Sweeps(model, (x,), EM(tolerance=None), seed=0)
    turns.start()
    objective = [turns.advance(sweeps).objective[0] for sweeps in (2, 4)]
    np.testing.assert_allclose(np.concatenate(objective), fit.history["objective"], rtol=1e-5)
    np.testing.assert_allclose(turns.values()["loc"], fit.posterior["loc"], rtol=1e-4)


def test_turns_go_on_where_they_were():
    x = np.random.default_rng(0).normal(size=(50, 1)).astype(np.float32)
    turns = Sweeps(GaussianMixture(num_components=2), (x,), EM(tolerance=None))
    turns.start_at({"w": [0.5, 0.5], "loc": [[-1.0], [1.0]], "precision": [[1.0], [1.0]]})
    objective = np.concatenate([turns.advance(sweeps).objective[0] for sweeps in (2, 4)])
    assert len(objective) == 6 and (np.diff(objective) > 0).all()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the peers
@pytest.mark.parametrize("name", SMALL)
def test_contest_runs_and_records_a_line_for_each(name, tmp_path):
    script, options = SMALL[name]
    script.main([*options, *MORE.get(name, []), "--seeds", "0", "--folder", str(tmp_path)])
    lines = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
    assert any(line["variant"].startswith("vmix") for line in lines) and len(lines) > 1
