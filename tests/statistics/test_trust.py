"""docs/trust.md is what its script makes of the records; mutants that ran were seen, and all still apply."""

from pathlib import Path

import pytest

from benchmarks._mutants import MUTANTS, ROOT
from benchmarks._recording import RESULTS, read
from benchmarks.calibration import LIMIT
from benchmarks.mutants import case_of

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_page_is_what_the_script_makes(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_trust

    assert make_trust.PAGE.read_text(encoding="utf-8") == make_trust.page(), "run python docs/make_trust.py"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.claim)
def test_a_mutant_s_line_is_still_there(mutant):
    assert mutant.changed((ROOT / mutant.file).read_text())


def test_every_mutant_that_ran_was_killed():
    lines = {line["case"]: line for line in read(RESULTS, "mutants")}
    run = [mutant for mutant in MUTANTS if mutant.claim in lines]
    assert len(run) >= 30
    for mutant in run:
        line = lines[mutant.claim]
        assert line["settings"] == dict(case_of(mutant).settings), f"{mutant.claim}: delete its line and run again"
        assert line["metrics"]["killed"] == 1.0, mutant.claim


def test_every_recorded_posterior_is_calibrated():
    for line in read(RESULTS, "calibration"):
        values = [value for name, value in line["metrics"].items() if name.startswith(("smallest p", "p-value"))]
        assert all(value > LIMIT for value in values), line["case"]
