"""The command line, with the fit itself replaced by a stand-in; and once as a process of its own."""

import dataclasses
import os
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import vmix
from tests.vmix.test_report import FakeFit
from vmix import cli, cli_options, inference


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyMixture:
    """A mixture of toys.

    Second paragraph.
    """

    num_components: int = 10
    scale: float = 1.0
    kind: str = "full"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyEngine:
    num_sweeps: int = 5
    restarts: int = 1
    tolerance: float | None = 1e-6


@pytest.fixture
def calls(monkeypatch):
    """Put the toys in place of models, engines and the driver; returns what the driver was called with."""
    seen = []

    def fit(program, images, *, engine, seed, checkpoint, missing, on_nan):
        seen.append((program, engine, seed, images.shape) + ((checkpoint,) if checkpoint else ()))
        seen[-1] += (missing,) if missing else ()
        seen[-1] += (on_nan,) if on_nan != "stop" else ()
        return FakeFit(images, k=program.num_components, seed=seed)

    entry = SimpleNamespace(name="ToyMixture", load=lambda: ToyMixture)
    monkeypatch.setitem(vars(vmix), "fit", fit)
    monkeypatch.setattr(cli_options, "metadata", SimpleNamespace(entry_points=lambda *, group: [entry]))
    for name in ("EM", "SVI", "Gibbs"):
        monkeypatch.setitem(vars(inference), name, ToyEngine)
    return seen


def run(*words):
    return cli.main([str(word) for word in words])


def fails(capsys, *words):
    """The one line on standard error of a command that must exit with 2 and print nothing else."""
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "Traceback" not in err
    return err


def test_fit_writes_the_run_and_prints_metrics_and_the_reports_path(calls, capsys, tmp_path):
    out = tmp_path / "run"
    assert run("fit", "ToyMixture", "--data", "digits", "--limit", 300, "--seed", 7, "--out", out) == 0
    printed = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert {"accuracy", "nmi", "elbo", "report"} <= set(printed)
    assert printed["report"] == str(out / "report.html") and (out / "report.html").exists()
    assert printed["elbo"] == "-20.2500 nats per datum"
    assert calls[0][2:] == (7, (300, 64))


def test_options_reach_the_model_and_the_engine(calls, tmp_path):
    words = ["--num-components", 4, "--set", "scale=2.5", "--set", "kind=tied", "--restarts", 3]
    words += ["--num-sweeps", 9, "--engine-option", "tolerance=none", "--engine", "gibbs"]
    assert run("fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", tmp_path, *words) == 0
    assert calls[0][0] == ToyMixture(num_components=4, scale=2.5, kind="tied")
    assert calls[0][1] == ToyEngine(num_sweeps=9, restarts=3, tolerance=None)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["ToyMixtur"], "there is no model 'ToyMixtur'; expected one of ToyMixture; did you mean 'ToyMixture'?"),
        (["ToyMixture", "--set", "scal=2"], "ToyMixture: there is no hyperparameter 'scal'.*did you mean 'scale'"),
        (["ToyMixture", "--set", "scale"], "'scale' has no value; expected name=value"),
        (["ToyMixture", "--latent-dim", "3"], "no hyperparameter 'latent_dim'; expected one of kind, num_comp"),
        (["ToyMixture", "--num-steps", "3"], "ToyEngine: there is no option 'num_steps'"),
        (["ToyMixture", "--engine-option", "restart=3"], "did you mean 'restarts'"),
        (["ToyMixture", "--engine", "vb"], "svi"),
        (["ToyMixture", "--num-components", "many"], "num-components"),
        (["ToyMixture", "--sed", "1"], "--sed"),
        (["ToyMixture", "--data", "nowhere.npy"], "nowhere.npy"),
    ],
)
def test_wrong_words_are_one_line_and_exit_status_2(calls, capsys, tmp_path, words, said):
    import re

    assert re.search(said, fails(capsys, "fit", *words, "--seed", 0, "--out", tmp_path / "run"))
    assert calls == []


def test_seed_must_be_given(calls, capsys, tmp_path):
    assert "--seed" in fails(capsys, "fit", "ToyMixture", "--out", tmp_path)


def test_folder_is_checked_before_the_fit(calls, capsys, tmp_path):
    (tmp_path / "mine.txt").write_text("")
    assert "no vmix run" in fails(capsys, "fit", "ToyMixture", "--seed", 0, "--out", tmp_path)
    assert calls == []
    assert run("fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", tmp_path, "--overwrite") == 0


@pytest.mark.parametrize("error", [ValueError, TypeError, OSError, FloatingPointError])
def test_error_of_the_library_is_shown_without_a_traceback(calls, capsys, monkeypatch, tmp_path, error):
    def fail(*args, **options):
        raise error("x has\na hole")

    monkeypatch.setitem(vars(vmix), "fit", fail)
    assert fails(capsys, "fit", "ToyMixture", "--seed", 0, "--out", tmp_path) == "vmix: x has a hole\n"
    monkeypatch.setenv("VMIX_DEBUG", "1")
    with pytest.raises(error):
        run("fit", "ToyMixture", "--seed", 0, "--out", tmp_path)


def test_interrupt_that_the_driver_survives_saves_the_run_and_exits_130(calls, capsys, monkeypatch, tmp_path):
    def fit(program, images, **options):
        return FakeFit(images, converged=False, interrupted=True)

    monkeypatch.setitem(vars(vmix), "fit", fit)
    words = ["fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", tmp_path]
    assert run(*words) == 130
    assert (tmp_path / "report.html").exists()
    assert "saved\n" in capsys.readouterr().err
    assert run(*words, "--checkpoint", tmp_path / "state") == 130
    assert "the same command goes on from there" in capsys.readouterr().err


def test_checkpoint_is_passed_on(calls, tmp_path):
    assert run("fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", tmp_path, "--checkpoint", "state") == 0
    assert calls[0][4] == Path("state")


def test_what_to_do_about_nan_is_passed_on(calls, tmp_path):
    words = ("fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", tmp_path)
    assert run(*words, "--on-nan", "restart") == 0
    assert calls[0][4] == "restart"


@pytest.mark.parametrize("interrupted", [True, False])
def test_resume_keeps_the_state_beside_the_run_until_the_fit_has_ended(
    calls, capsys, monkeypatch, tmp_path, interrupted
):
    def fit(program, images, *, engine, seed, checkpoint, missing, on_nan):
        checkpoint.mkdir()
        return FakeFit(images, seed=seed, interrupted=interrupted)

    monkeypatch.setitem(vars(vmix), "fit", fit)
    words = ("fit", "ToyMixture", "--limit", 50, "--seed", 0, "--out", tmp_path / "a.b", "--resume")
    assert run(*words) == (130 if interrupted else 0)
    assert (tmp_path / "a.b.state").is_dir() == interrupted
    assert ("the same command goes on" in capsys.readouterr().err) == interrupted
    assert "give one" in fails(capsys, *words, "--checkpoint", tmp_path / "other")


def test_interrupt_before_there_is_a_fit_exits_130(calls, monkeypatch, tmp_path):
    def fit(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setitem(vars(vmix), "fit", fit)
    assert run("fit", "ToyMixture", "--seed", 0, "--out", tmp_path) == 130


def test_models_lists_names_and_first_lines(calls, capsys):
    assert run("models") == 0
    assert capsys.readouterr().out == "ToyMixture  A mixture of toys.\n"


def test_explain_prints_the_plan_of_the_engine_asked_for(calls, capsys, monkeypatch):
    seen = []

    def explain(program, images, *, engine, missing):
        seen.append(engine)
        return SimpleNamespace(as_text=lambda width: f"the plan in {width}")

    monkeypatch.setitem(vars(vmix), "explain", explain)
    monkeypatch.setenv("COLUMNS", "90")
    assert run("explain", "ToyMixture", "--data", "digits", "--engine", "em", "--num-sweeps", 2) == 0
    assert capsys.readouterr().out == "the plan in 90\n" and seen == [ToyEngine(num_sweeps=2)]


@pytest.fixture
def fitted(calls, monkeypatch, tmp_path, digits, capsys):
    """A run's folder, with `vmix.load` giving the same stand-in back."""
    folder = tmp_path / "run"
    assert run("fit", "ToyMixture", "--limit", 200, "--seed", 0, "--out", folder) == 0
    monkeypatch.setitem(vars(vmix), "load", lambda path: FakeFit(digits.images[:200]))
    capsys.readouterr()
    return folder


def test_predict_gives_the_labels_of_the_run_again(fitted, capsys, tmp_path, digits):
    np.save(tmp_path / "x.npy", digits.images[:200])
    assert run("predict", fitted, tmp_path / "x.npy") == 0
    assert capsys.readouterr().out == (fitted / "labels.csv").read_text()
    assert run("predict", fitted, tmp_path / "x.npy", "--out", tmp_path / "y.csv") == 0
    assert (tmp_path / "y.csv").read_text() == (fitted / "labels.csv").read_text()
    assert run("predict", fitted, tmp_path / "x.npy", "--probabilities") == 0
    table = np.genfromtxt(capsys.readouterr().out.splitlines(), delimiter=",", names=True)
    assert table.dtype.names[2] == "probability_0" and len(table) == 200
    shares = np.stack([table[f"probability_{k}"] for k in range(len(table.dtype.names) - 2)], 1)
    np.testing.assert_array_equal(shares.argmax(1), table["component"])


@pytest.fixture
def customers(tmp_path, digits):
    """A table with names, and columns that are no numbers; one value is missing."""
    lines = [f"C{n},{a:.3f},{'xy'[n % 2]},{b:.3f}" for n, (a, b) in enumerate(digits.images[:40, 20:22])]
    (tmp_path / "customers.csv").write_text("\n".join(["id,age,kind,income", *lines, "C40,0.5,x,NA"]))
    return tmp_path / "customers.csv"


def test_columns_and_what_is_missing_are_said_to_fit_and_remembered_by_predict(
    calls, capsys, monkeypatch, tmp_path, customers
):
    seen = []

    def load(path):
        fake = FakeFit(np.eye(9, 2), k=2, latent=False)
        fake.predict = lambda x: seen.append(x) or np.zeros(len(x), int)
        return fake

    monkeypatch.setitem(vars(vmix), "load", load)
    words = ["--columns", "age, income", "--label-column", "kind", "--limit", 40, "--num-components", 2]
    words += ["--missing", "nan", "--seed", 0, "--out", tmp_path / "run"]
    assert run("fit", "ToyMixture", "--data", customers, *words) == 0
    assert calls[0][3:] == ((40, 2), "nan")
    (tmp_path / "new.csv").write_text("income,kind,age\n1,x,2\n,y,4\n")
    assert run("predict", tmp_path / "run", tmp_path / "new.csv") == 0
    assert run("predict", tmp_path / "run", tmp_path / "new.csv", "--columns", "income,age") == 0
    np.testing.assert_array_equal(seen, [[[2, 1], [4, np.nan]], [[1, 2], [np.nan, 4]]])
    capsys.readouterr()
    (tmp_path / "other.csv").write_text("income,years\n1,2\n")
    assert "asked for column 'age'; expected one of ['income', 'years']" in fails(
        capsys, "predict", tmp_path / "run", tmp_path / "other.csv"
    )
    assert "--missing" in fails(capsys, "fit", "ToyMixture", "--missing", "yes", "--seed", 0, "--out", tmp_path / "b")


def test_columns_that_are_no_numbers_are_named_with_the_options_that_help(calls, capsys, tmp_path, customers):
    said = fails(capsys, "fit", "ToyMixture", "--data", customers, "--seed", 0, "--out", tmp_path / "run")
    assert "found 'C0' in column 'id'" in said and "--columns" in said and "--label-column" in said
    assert not (tmp_path / "run").exists()


def test_report_is_written_again(fitted, capsys):
    (fitted / "report.html").unlink()
    assert run("report", fitted, "--data", "digits", "--limit", 200) == 0
    assert capsys.readouterr().out.strip() == str(fitted / "report.html")
    assert (fitted / "report.html").stat().st_size > 1e6


def test_warnings_are_one_line_that_names_no_place_in_the_code(calls, capsys, monkeypatch):
    def explain(program, images, *, engine, missing):
        warnings.warn("x has 2\nconstant columns", UserWarning, stacklevel=1)
        return SimpleNamespace(as_text=lambda width: "the plan")

    monkeypatch.setitem(vars(vmix), "explain", explain)
    before = warnings.showwarning
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert run("explain", "ToyMixture") == 0
    assert capsys.readouterr() == ("the plan\n", "vmix: warning: x has 2 constant columns\n")
    assert warnings.showwarning is before


def test_folder_that_is_no_run_is_refused(capsys, tmp_path):
    assert "is no vmix run" in fails(capsys, "predict", tmp_path, "x.npy")
    assert "is no vmix run" in fails(capsys, "report", tmp_path / "absent")


@pytest.fixture
def checkout(monkeypatch, tmp_path):
    """A checkout with one benchmark."""
    (tmp_path / "benchmarks").mkdir()
    script = "import sys\nif __name__ == '__main__':\n    print('ran', sys.argv[1:])\n"
    (tmp_path / "benchmarks" / "mixtures.py").write_text(script)
    (tmp_path / "benchmarks" / "_shared.py").write_text("")
    monkeypatch.setattr(vmix, "__file__", str(tmp_path / "vmix" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_benchmark_runs_lists_and_refuses(checkout, capsys):
    assert run("benchmark") == 0
    assert capsys.readouterr().out == "mixtures\n"
    script = checkout / "benchmarks" / "mixtures.py"
    script.write_text('"""How fast are they?\n\nMore."""\n' + script.read_text())
    assert run("benchmark") == 0
    assert capsys.readouterr().out.split(maxsplit=1) == ["mixtures", "How fast are they?\n"]
    assert run("benchmark", "mixtures", "--quick", 3) == 0
    assert capsys.readouterr().out == "ran ['--quick', '3']\n"
    assert "did you mean 'mixtures'" in fails(capsys, "benchmark", "mixture")
    (checkout / "benchmarks" / "mixtures.py").unlink()
    assert "expected a checkout of vmix" in fails(capsys, "benchmark", "mixtures")


def test_help_takes_no_jax_and_answers_at_once():
    code = (
        "import sys, time; from vmix.cli import main; s = main(['fit', '--help']); "
        "print(s, sorted({'jax', 'numpyro', 'sklearn', 'matplotlib'} & set(sys.modules)), time.process_time())"
    )
    root = os.path.dirname(os.path.dirname(os.path.abspath(vmix.__file__)))
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    # Processor time, half a second of it on an idle machine: what else runs there does not count.
    status, modules, seconds = done.stdout.splitlines()[-1].split()
    assert (status, modules) == ("0", "[]") and float(seconds) < 2
    assert "--engine-option" in done.stdout and done.stderr == ""
