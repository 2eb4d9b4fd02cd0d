"""The command line on sequences: `--steps` from the fit to the report, with the zoo's own models."""

import json
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest

import vmix
from tests.vmix.test_cli import fails, run
from vmix import cli_options, results

STATES = np.repeat([0, 1, 0, 1, 1, 0], 4)
SHORT = ("--num-sweeps", 2, "--engine-option", "tolerance=none", "--seed", 0)


@pytest.fixture(scope="module", autouse=True)
def zoo():
    """The zoo's sequence models, as if they were installed; what is loaded once is kept, compiled functions too."""
    names = ("HMM", "MarkovModel")
    entries = [SimpleNamespace(name=name, load=lambda name=name: getattr(vmix.models, name)) for name in names]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli_options, "metadata", SimpleNamespace(entry_points=lambda *, group: entries))
        patch.setattr(results, "entry_points", lambda *, group: entries)
        patch.setitem(vars(vmix), "load", lru_cache(vmix.load))
        yield


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A file of 24 rows: two columns and the state behind them."""
    x = 5.0 * STATES[:, None] + np.random.default_rng(0).normal(size=(24, 2))
    lines = [f"{a:.3f},{b:.3f},{'uv'[c]}" for (a, b), c in zip(x, STATES, strict=True)]
    file = tmp_path_factory.mktemp("data") / "x.csv"
    file.write_text("\n".join(["a,b,state", *lines]))
    return file


@pytest.fixture(scope="module")
def fitted(table, tmp_path_factory):
    """The folder of a run on four sequences of six steps."""
    folder = tmp_path_factory.mktemp("run")
    words = ["--data", table, "--label-column", "state", "--steps", 6, "--num-components", 2]
    assert run("fit", "HMM", *words, *SHORT, "--out", folder) == 0
    return folder


@pytest.mark.slow
def test_run_has_a_line_for_every_row_and_metrics_by_row(fitted):
    assert (fitted / "labels.csv").read_text().count("\n") == 1 + 24
    assert json.loads((fitted / "metrics.json").read_text())["accuracy"] == 1
    assert json.loads((fitted / "config.json").read_text())["steps"] == 6
    assert "the steps of 4 sequences" in (fitted / "report.html").read_text("utf-8")
    assert {"latent_by_component.png", "latent_by_label.png", "confusion.png", "components.png"} <= {
        path.name for path in (fitted / "plots").iterdir()
    }


@pytest.mark.slow
def test_predict_remembers_the_steps_and_gives_the_labels_of_the_run_again(fitted, table, capsys):
    assert run("predict", fitted, table, "--label-column", "state") == 0
    assert capsys.readouterr().out == (fitted / "labels.csv").read_text()


@pytest.mark.slow
def test_predict_takes_sequences_of_another_length(fitted, table, capsys):
    assert run("predict", fitted, table, "--label-column", "state", "--steps", "all") == 0
    assert capsys.readouterr().out == (fitted / "labels.csv").read_text()
    words = ["predict", fitted, table, "--label-column", "state", "--steps", 7]
    assert "24 rows cannot be cut into sequences of steps=7" in fails(capsys, *words)


@pytest.mark.slow
def test_report_remembers_the_steps(fitted, table, capsys, tmp_path):
    page = tmp_path / "again.html"
    assert run("report", fitted, "--data", table, "--label-column", "state", "--out", page) == 0
    assert "the steps of 4 sequences" in page.read_text("utf-8")


def test_one_column_is_sequences_of_single_values(capsys, tmp_path):
    (tmp_path / "x.csv").write_text("state\n" + "".join(f"{c}\n" for c in STATES))
    words = ["--data", tmp_path / "x.csv", *SHORT, "--out", tmp_path / "run"]
    assert run("fit", "MarkovModel", "--steps", "all", *words) == 0
    assert "24 rows of 1 column, the steps of 1 sequence " in (tmp_path / "run" / "report.html").read_text("utf-8")
    capsys.readouterr()
    assert "--steps T" in fails(capsys, "fit", "MarkovModel", *words)


@pytest.mark.parametrize(
    ("model", "words", "said"),
    [
        ("HMM", ["--steps", 5], "24 rows cannot be cut into sequences of steps=5: 4 would be left over"),
        ("HMM", ["--steps", "most"], "--steps"),
        ("HMM", ["--limit", 20], "found (20, 2). One sequence: x[None] (command line: --steps all"),
        ("MarkovModel", ["--steps", 6], "the rows have 2 columns, but this model takes sequences of single values"),
    ],
)
def test_rows_that_make_no_sequences_are_refused(table, capsys, tmp_path, model, words, said):
    words = ["--data", table, "--label-column", "state", *words, "--seed", 0, "--out", tmp_path / "run"]
    assert said in fails(capsys, "fit", model, *words)
