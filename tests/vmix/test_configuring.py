"""`vmix fit --config`: a file of options, what goes before it, and what is refused; JSON for machines."""

import json

import pytest

from tests.vmix.test_cli import ToyEngine, ToyMixture, calls, fails, run  # noqa: F401
from vmix import configuring, runs
from vmix.cli_options import columns_asked

OPTIONS = """
model = "ToyMixture"
data = "digits"
limit = 50
num_components = 4
seed = 3
engine = "gibbs"
num-sweeps = 9
overwrite = true

[set]
scale = 2.5
kind = "2"

[engine-option]
restarts = 3
"""


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """A run's folder without its plots and report, which other tests look at."""

    def write_run(fit, folder, **others):
        (folder / "metrics.json").write_text('{"elbo": -20.25}')
        return {"elbo": -20.25}

    monkeypatch.setattr(runs, "write_run", write_run)


@pytest.fixture
def file(tmp_path):
    """A file of options that names everything but the folder of the run."""
    path = tmp_path / "run.toml"
    path.write_text(OPTIONS)
    return path


def test_file_gives_every_option(calls, tmp_path, file):  # noqa: F811
    (tmp_path / "mine.txt").write_text("")  # which overwrite = true allows
    assert run("fit", "--config", file, "--out", tmp_path) == 0
    assert calls == [
        (ToyMixture(num_components=4, scale=2.5, kind="2"), ToyEngine(num_sweeps=9, restarts=3), 3, (50, 64))
    ]


def test_command_line_comes_before_the_file(calls, tmp_path, file):  # noqa: F811
    words = ["--num-components", 5, "--set", "scale=1.5", "--limit", 40]
    assert run("fit", "ToyMixture", "--config", file, "--out", tmp_path / "run", *words) == 0
    assert calls[0][0] == ToyMixture(num_components=5, scale=1.5, kind="2") and calls[0][3] == (40, 64)


def test_lists_and_false_reach_the_engine_as_python_values(calls, tmp_path, file):  # noqa: F811
    file.write_text(OPTIONS + "tolerance = [0.5, 80, false]\n")
    assert run("fit", "--config", file, "--out", tmp_path / "run") == 0
    assert calls[0][1].tolerance == (0.5, 80, False)


def test_columns_may_be_a_list_as_in_python(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('columns = ["age", "income, net", 5]')
    assert columns_asked(configuring.read_options(path, ["columns"])["columns"]) == ["age", "income, net", 5]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("num_componets = 3", "run.toml: there is no option 'num_componets'.*did you mean 'num-components'"),
        ("config = 'other.toml'", "there is no option 'config'"),
        ("[fit]\nseed = 0", "there is no option 'fit'"),
        ("[set]\nscal = 2", "there is no hyperparameter 'scal'.*did you mean 'scale'"),
        ("[engine-option]\nrestart = 2", "did you mean 'restarts'"),
        ("set = 'scale=2'", r"set is 'scale=2'; expected a table, \[set\]"),
        ("limit = [1, 2]", r"limit is \[1, 2\]; expected a text, a number, true or false"),
        ("limit = 'few'", "few"),
        ("limit = ", "is not TOML"),
    ],
)
def test_wrong_file_is_one_line_and_exit_status_2(calls, capsys, tmp_path, text, said):  # noqa: F811
    import re

    (tmp_path / "run.toml").write_text(text)
    words = ["fit", "ToyMixture", "--config", tmp_path / "run.toml", "--seed", 0, "--out", tmp_path / "run"]
    assert re.search(said, fails(capsys, *words))
    assert calls == [] and not (tmp_path / "run" / "config.json").exists()
    assert "absent.toml" in fails(capsys, "fit", "--config", tmp_path / "absent.toml")


def test_json_holds_what_is_printed(calls, capsys, tmp_path):  # noqa: F811
    out = tmp_path / "run"
    assert run("fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", out, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["metrics"] == json.loads((out / "metrics.json").read_text())
    assert found["run"] == str(out) and found["report"] == str(out / "report.html")
    assert found["converged"] is True and found["interrupted"] is False
    assert run("models", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"name": "ToyMixture", "summary": "A mixture of toys.", "package": ""}
    ]


def test_plan_as_json(calls, capsys, monkeypatch):  # noqa: F811
    import vmix
    from vmix.explaining import COLUMNS, Explanation, Row

    plan = Explanation("toy under EM", (Row(*COLUMNS),), ("k-means",))
    monkeypatch.setitem(vars(vmix), "explain", lambda *args, **options: plan)
    assert run("explain", "ToyMixture", "--json") == 0
    assert Explanation.from_json(json.loads(capsys.readouterr().out)) == plan


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_written_where_asked_and_nowhere_else(monkeypatch, tmp_path, shell):
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "vmix.completion"
    assert run("--install-completion", "--shell", shell, "--output", path) == 0
    assert "num-components" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["vmix.completion"]
