"""The command line. JAX is imported inside the commands that need it, so that `--help` answers at once.

Exit status: 0 done; 2 an error that the message explains, with no traceback (VMIX_DEBUG=1 shows it); 130 after Ctrl-C;
143 after SIGTERM, which ends a fit as Ctrl-C does: its state is kept, and its run written.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

import vmix
from vmix.cli_options import (
    ALL_ROWS,
    DEFAULTS,
    Choice,
    EngineName,
    MissingOption,
    OnNan,
    Source,
    StepsOption,
    build,
    cut,
    entries_of_models,
    load,
    names,
    package_of,
    summary_line,
)
from vmix.configuring import from_file
from vmix.signals import sigterm_as_interrupt
from vmix.suggesting import unknown

app = App(
    name="vmix",
    help="Fit latent-variable models with SVI, EM or Gibbs.",
    version=lambda: vmix.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
    config=from_file,
)
app.register_install_completion_command(add_to_startup=False)  # a user's start-up files are the user's

Json = Annotated[bool, Parameter(name="--json", negative="")]
Probabilities = Annotated[bool, Parameter(negative="")]


@app.command
def models(*, as_json: Json = False) -> None:
    """List the models that are installed, each with the first line of its documentation.

    Args:
        as_json: print JSON: a list of name, summary and package.
    """
    entries = sorted(entries_of_models().items())
    if as_json:
        _print_json([{"name": n, "summary": summary_line(e), "package": package_of(e)} for n, e in entries])
        return
    width = max(len(name) for name, _ in entries)
    for name, entry in entries:
        package = package_of(entry)
        print(f"{name:<{width}}  {summary_line(entry)}{f' [{package}]' if package not in ('', 'vmix') else ''}")


@app.command
def new(name: str, /) -> None:
    """Write a package NAME with a model of your own to start from: its test, its entry point, a README.

    Args:
        name: of the package, a Python identifier in small letters; its folder must not exist.
    """
    from vmix.scaffold import model_name, write_package

    folder = write_package(name)
    print(f"{folder}/ has the model {model_name(name)} and its test; next: cd {folder} && pip install -e '.[test]'")


@app.command
def explain(
    model: str,
    *,
    engine: EngineName = "em",
    missing: MissingOption = None,
    as_json: Json = False,
    source: Source = ALL_ROWS,
    choice: Choice = DEFAULTS,
) -> None:
    """Print the plan: which update this engine gives each site of MODEL.

    Args:
        model: a name that `vmix models` lists.
        engine: svi, em or gibbs.
        missing: nan: empty cells and NaN are missing values, and summed out; refused when not said.
        as_json: print JSON: title, rows and stages.
        source: which rows to read.
        choice: options of the model and of the engine.
    """
    from vmix.explaining import WIDTH

    program, method = build(model, engine, choice)
    images = cut(load(source).images, source.steps, program)
    plan = vmix.explain(program, images, engine=method, missing=missing)
    if as_json:
        _print_json(plan.to_json())
    else:
        print(plan.as_text(shutil.get_terminal_size((WIDTH, 24)).columns))


@app.command
def fit(
    model: str,
    *,
    seed: int,
    out: Path,
    engine: EngineName = "em",
    overwrite: bool = False,
    checkpoint: Path | None = None,
    resume: bool = False,
    config: Path | None = None,
    missing: MissingOption = None,
    on_nan: OnNan = "stop",
    as_json: Json = False,
    source: Source = ALL_ROWS,
    choice: Choice = DEFAULTS,
) -> int:
    """Fit MODEL, write the run's folder and print its metrics.

    Args:
        model: a name that `vmix models` lists.
        seed: of everything random.
        out: folder of the run; an earlier run in it is replaced.
        engine: svi, em or gibbs.
        overwrite: write into a folder that holds other things than a run.
        checkpoint: folder in which the fit leaves its state every minute; the same command goes on from there.
        resume: keep that state beside the run, in OUT.state, until the fit has ended, and go on from one that is there.
        config: a TOML file of these options; what the command line says comes first.
        missing: nan: empty cells and NaN are missing values, and summed out; refused when not said.
        on_nan: stop, or restart: where the objective is not finite, go back and on with steps a tenth as large.
        as_json: print JSON: the metrics, the paths of the run and the report, whether it converged.
        source: which rows to read.
        choice: options of the model and of the engine.
    """
    from vmix.runs import prepare_folder, write_run

    if resume and checkpoint:
        raise ValueError("--resume keeps the state in OUT.state, --checkpoint in a folder of your choice: give one")
    state = out.with_name(f"{out.name}.state") if resume else checkpoint
    program, method = build(model, engine, choice)
    dataset = load(source)
    images = cut(dataset.images, source.steps, program)
    prepare_folder(out, overwrite=overwrite)
    result = vmix.fit(program, images, engine=method, seed=seed, checkpoint=state, missing=missing, on_nan=on_nan)
    read_as = {"steps": source.steps, "columns": dataset.meta.get("columns")}
    found = write_run(result, out, data=images, labels=names(dataset), command=_command(), **read_as)
    if as_json:
        ended = {"converged": result.converged, "interrupted": result.interrupted}
        _print_json({"run": str(out), "report": str(out / "report.html"), "metrics": found, **ended})
    else:
        _print_results(found, out / "report.html")
    if result.interrupted:
        way_on = "; the same command goes on from there" if state else ""
        _complain(f"interrupted: what was learnt until then is saved{way_on}")
        return 130
    if resume:
        shutil.rmtree(state, ignore_errors=True)  # type: ignore[arg-type]
    return 0


@app.command
def predict(
    folder: Path,
    file: str,
    /,
    *,
    out: Path | None = None,
    label_column: str | None = None,
    columns: str | None = None,
    steps: StepsOption = None,
    probabilities: Probabilities = False,
) -> None:
    """Write the most probable component of every row of FILE, as CSV.

    Args:
        folder: a run that `vmix fit` wrote.
        file: a data set's name or a file, with the columns that were fitted.
        out: the CSV file; printed when missing.
        label_column: the column of a CSV file to leave out.
        columns: as for fit; those of a file with names are found by the names that were fitted when missing.
        steps: as for fit; what the run was fitted with when missing.
        probabilities: write a column for each component beside, with its probability in the row.
    """
    from vmix.runs import labels_csv
    from vmix.steps import as_rows

    result = _reload(folder)
    if result.num_components is None:
        raise ValueError(
            f"{result.model_name} has no components to predict; vmix.load(...).transform gives its latents"
        )
    images = load(Source(data=file, label_column=label_column, columns=columns), run=folder).images
    shown = as_rows(result, cut(images, _steps(steps, folder), result))
    shares = shown.fit.predict_proba(shown.data) if probabilities else None
    text = labels_csv(shown.fit.predict(shown.data) if shares is None else shares.argmax(1), shares)
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


@app.command
def report(folder: Path, /, *, source: Source = ALL_ROWS, out: Path | None = None) -> None:
    """Write a run's report again, on the data given, and print its path.

    Args:
        folder: a run that `vmix fit` wrote.
        source: which rows to show; --steps and --columns are what the run was fitted with when missing.
        out: the HTML file; FOLDER/report.html when missing.
    """
    from vmix.plots import summarise
    from vmix.report import compute_metrics, write_report
    from vmix.steps import as_rows

    result, dataset = _reload(folder), load(source, run=folder)
    images = cut(dataset.images, _steps(source.steps, folder), result)
    result, images, labels = as_rows(result, images, names(dataset))
    summary = summarise(result, images, dataset.meta.get("columns"))
    found = compute_metrics(result, images, labels, predicted=summary.predicted)
    path = out or folder / "report.html"
    print(write_report(result, path, data=images, labels=labels, metrics=found, summary=summary))


@app.command
def compare(*folders: Path, out: Path = Path("comparison.html"), as_json: Json = False) -> None:
    """Write one page about several runs: metrics, objectives in one figure, latents side by side.

    Args:
        folders: two or more runs that `vmix fit` wrote.
        out: the HTML file; an older one is replaced.
        as_json: print JSON: the page, and of each run what it was and how well it did.
    """
    from vmix.comparing import read_runs, write_comparison

    records = read_runs(folders)
    page = write_comparison(records, out)
    if as_json:
        _print_json({"page": str(page), "runs": [record.to_json() for record in records]})
    else:
        print(page)


@app.command
def benchmark(name: str | None = None, /, *options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run benchmarks/NAME.py of the checkout; without NAME, list them with what each asks.

    Args:
        name: the script's name, without .py.
        options: handed to the script.
    """
    import runpy

    scripts = _benchmarks()
    if name is None:
        for one, path in sorted(scripts.items()):
            print(f"{one:<18} {_question(path)}".rstrip())
        return
    if name not in scripts:
        raise ValueError(unknown("benchmark", name, scripts))
    script = scripts[name]
    sys.path.insert(0, str(script.parent.parent))
    sys.argv = [str(script), *options]
    runpy.run_path(str(script), run_name="__main__")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: words after `vmix`; those of the process when None.

    Returns:
        The exit status: 0, 2, 130 or 143.
    """
    with warnings.catch_warnings(), sigterm_as_interrupt() as seen:
        warnings.showwarning = _show_warning
        warnings.filterwarnings("ignore", "interrupted after ")  # `fit` says so in words of its own
        status = _run(sys.argv[1:] if arguments is None else list(arguments))
        return 143 if seen and status == 130 else status


def _run(words: list[str]) -> int:
    """Run one command; its errors become lines and exit statuses."""
    try:
        status = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return status if isinstance(status, int) else 0
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output, such as `head`, has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (CycloptsError, ValueError, TypeError, OSError, FloatingPointError, MemoryError) as error:
        if os.environ.get("VMIX_DEBUG") == "1":
            raise
        _complain(str(error) or type(error).__name__)
        return 2


def _show_warning(message: Warning | str, *where: Any, **more: Any) -> None:
    """A warning as one line: the place in the code that raised it tells a user of the command line nothing."""
    _complain(f"warning: {message}", style="yellow")


def _complain(message: str, *, style: str = "red") -> None:
    """One line on standard error, coloured on a terminal."""
    from rich.console import Console
    from rich.text import Text

    line = Text("vmix: " + " ".join(message.split()), style=style)
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def _print_results(found: Mapping[str, float | None], path: Path) -> None:
    """The table at the end of a fit, on standard output."""
    units = {"elbo": " nats per datum", "seconds": " s"}
    for name, value in found.items():
        print(f"{name:<13} {'not finite' if value is None else f'{value:.4f}'}{units.get(name, '')}")
    print(f"{'report':<13} {path}")


def _print_json(content: Any) -> None:
    """JSON on standard output, for machines: no NaN, no infinity."""
    import json

    print(json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False))


def _reload(folder: Path) -> Any:
    """The fit that a run's folder holds."""
    from vmix.runs import is_run

    if not is_run(folder):
        raise ValueError(f"{str(folder)!r} is no vmix run (no config.json of one); expected the --out of a `vmix fit`")
    return vmix.load(folder / "checkpoint")


def _steps(given: StepsOption, folder: Path) -> StepsOption:
    """The steps asked for, or those that the run was fitted with."""
    from vmix.runs import remembered_steps

    return remembered_steps(folder) if given is None else given


def _benchmarks() -> dict[str, Path]:
    """The benchmark scripts of the checkout, by name."""
    for root in (Path(vmix.__file__).resolve().parent.parent, Path.cwd()):
        found = {p.stem: p for p in (root / "benchmarks").glob("*.py") if not p.stem.startswith("_")}
        if found:
            return found
    raise ValueError("no folder benchmarks/ here; expected a checkout of vmix: run this from its root")


def _question(script: Path) -> str:
    """The first line of a script: what it asks."""
    import ast

    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _command() -> str:
    """The line that was typed."""
    return shlex.join(["vmix", *sys.argv[1:]])
