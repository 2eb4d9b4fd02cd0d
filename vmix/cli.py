"""The command line. JAX is imported inside the commands that need it, so that `--help` answers at once.

Exit status: 0 done; 2 an error that the message explains, with no traceback (VMIX_DEBUG=1 shows it); 130 after Ctrl-C.
"""
# Longer than 250 lines because every command's options are its documentation.

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import os
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter

import vmix
from vmix.suggesting import unknown

app = App(
    name="vmix",
    help="Fit latent-variable models with SVI, EM or Gibbs.",
    version=lambda: vmix.__version__,
    help_format="plaintext",
    suppress_keyboard_interrupt=False,
)

EngineName = Literal["svi", "em", "gibbs"]
StepsOption = int | Literal["all"] | None
Pairs = Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Which rows to read."""

    data: str = "digits"
    "A name (digits, mnist, serket) or a file (.npy .npz .csv .idx .idx.gz)."
    label_column: str | None = None
    "The column of a CSV file that holds the labels, by name or number."
    limit: int | None = None
    "Read this many rows at most."
    steps: StepsOption = None
    "For sequence models: each STEPS rows of the file are one sequence; all: the file is one sequence."


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Choice:
    """Options of the model and of the engine; None leaves the default."""

    num_components: int | None = None
    "The model's num_components."
    latent_dim: int | None = None
    "The model's latent_dim."
    num_steps: int | None = None
    "SVI: number of steps."
    num_sweeps: int | None = None
    "EM: number of sweeps."
    num_samples: int | None = None
    "Gibbs: number of draws kept."
    num_warmup: int | None = None
    "Gibbs: number of draws thrown away first."
    batch_size: int | None = None
    "Rows in a minibatch."
    restarts: int | None = None
    "Initialisations to run; the one with the best objective is kept."
    set: Pairs = ()
    "Any hyperparameter of the model, name=value; may be repeated."
    engine_option: Pairs = ()
    "Any option of the engine, name=value; may be repeated."


@app.command
def models() -> None:
    """List the models that are installed, each with the first line of its documentation."""
    entries = _entries()
    width = max(len(name) for name in entries)
    for name, entry in sorted(entries.items()):
        print(f"{name:<{width}}  {_summary_line(entry)}")


@app.command
def explain(model: str, /, *, engine: EngineName = "em", source: Source = Source(), choice: Choice = Choice()) -> None:
    """Print the plan: which update this engine gives each site of MODEL.

    Args:
        model: a name that `vmix models` lists.
        engine: svi, em or gibbs.
        source: which rows to read.
        choice: options of the model and of the engine.
    """
    program, method = _build(model, engine, choice)
    images = _cut(_load(source).images, source.steps, program)
    print(vmix.explain(program, images, engine=method))


@app.command
def fit(
    model: str,
    /,
    *,
    seed: int,
    out: Path,
    engine: EngineName = "em",
    overwrite: bool = False,
    checkpoint: Path | None = None,
    source: Source = Source(),
    choice: Choice = Choice(),
) -> int:
    """Fit MODEL, write the run's folder and print its metrics.

    Args:
        model: a name that `vmix models` lists.
        seed: of everything random.
        out: folder of the run; an earlier run in it is replaced.
        engine: svi, em or gibbs.
        overwrite: write into a folder that holds other things than a run.
        checkpoint: folder in which the fit leaves its state every minute; the same command goes on from there.
        source: which rows to read.
        choice: options of the model and of the engine.
    """
    from vmix.runs import prepare_folder, write_run

    prepare_folder(out, overwrite=overwrite)
    program, method = _build(model, engine, choice)
    dataset = _load(source)
    images = _cut(dataset.images, source.steps, program)
    result = vmix.fit(program, images, engine=method, seed=seed, checkpoint=checkpoint)
    found = write_run(result, out, data=images, labels=_names(dataset), command=_command(), steps=source.steps)
    _print_results(found, out / "report.html")
    if result.interrupted:
        way_on = "; the same command goes on from there" if checkpoint else ""
        _complain(f"interrupted: what was learnt until then is saved{way_on}")
        return 130
    return 0


@app.command
def predict(
    folder: Path,
    file: str,
    /,
    *,
    out: Path | None = None,
    label_column: str | None = None,
    steps: StepsOption = None,
) -> None:
    """Write the most probable component of every row of FILE, as CSV.

    Args:
        folder: a run that `vmix fit` wrote.
        file: a data set's name or a file, with the columns that were fitted.
        out: the CSV file; printed when missing.
        label_column: the column of a CSV file to leave out.
        steps: as for fit; what the run was fitted with when missing.
    """
    from vmix.runs import labels_csv
    from vmix.steps import as_rows

    result = _reload(folder)
    if result.num_components is None:
        raise ValueError(
            f"{result.model_name} has no components to predict; vmix.load(...).transform gives its latents"
        )
    images = _load(Source(data=file, label_column=label_column)).images
    shown = as_rows(result, _cut(images, _steps(steps, folder), result))
    text = labels_csv(shown.fit.predict(shown.data))
    if out is None:
        print(text, end="")
    else:
        out.write_text(text, encoding="utf-8")


@app.command
def report(folder: Path, /, *, source: Source = Source(), out: Path | None = None) -> None:
    """Write a run's report again, on the data given, and print its path.

    Args:
        folder: a run that `vmix fit` wrote.
        source: which rows to show; --steps is what the run was fitted with when missing.
        out: the HTML file; FOLDER/report.html when missing.
    """
    from vmix.plots import summarise
    from vmix.report import compute_metrics, write_report
    from vmix.steps import as_rows

    result, dataset = _reload(folder), _load(source)
    images = _cut(dataset.images, _steps(source.steps, folder), result)
    result, images, labels = as_rows(result, images, _names(dataset))
    summary = summarise(result, images)
    found = compute_metrics(result, images, labels, predicted=summary.predicted)
    path = out or folder / "report.html"
    print(write_report(result, path, data=images, labels=labels, metrics=found, summary=summary))


@app.command
def benchmark(name: str | None = None, /, *options: Annotated[str, Parameter(allow_leading_hyphen=True)]) -> None:
    """Run benchmarks/NAME.py of the checkout; without NAME, list them.

    Args:
        name: the script's name, without .py.
        options: handed to the script.
    """
    import runpy

    scripts = _benchmarks()
    if name is None:
        print("\n".join(sorted(scripts)))
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
        The exit status: 0, 2 or 130.
    """
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        return _run(sys.argv[1:] if arguments is None else list(arguments))


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
    except (CycloptsError, ValueError, TypeError, OSError, FloatingPointError) as error:
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


def _entries() -> dict[str, metadata.EntryPoint]:
    """The installed models by name."""
    entries = {entry.name: entry for entry in metadata.entry_points(group="vmix.models")}
    if not entries:
        raise ValueError("no models are registered under the entry points vmix.models: install vmix (pip install -e .)")
    return entries


def _summary_line(entry: metadata.EntryPoint) -> str:
    """First line of a model's docstring."""
    try:
        return (inspect.getdoc(entry.load()) or "").partition("\n")[0]
    except ImportError as error:  # another package's model must not hide ours
        return f"(cannot be imported: {error})"


def _build(model: str, engine: EngineName, choice: Choice) -> tuple[Any, Any]:
    """Make the model and the engine from the options, each checked against what it takes."""
    from vmix import inference

    entries = _entries()
    if model not in entries:
        raise ValueError(unknown("model", model, entries))
    given = {n: getattr(choice, n) for n in ("num_components", "latent_dim")}
    program = _make(entries[model].load(), "hyperparameter", given, choice.set)
    names = ("num_steps", "num_sweeps", "num_samples", "num_warmup", "batch_size", "restarts")
    given = {n: getattr(choice, n) for n in names}
    kind = {"svi": "SVI", "em": "EM", "gibbs": "Gibbs"}[engine]
    return program, _make(getattr(inference, kind), "option", given, choice.engine_option)


def _make(kind: Any, word: str, given: Mapping[str, Any], pairs: Sequence[str]) -> Any:
    """Call a class with the options that were given, refusing those that it does not take."""
    options = {name: value for name, value in given.items() if value is not None}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise ValueError(f"{word} {pair!r} has no value; expected name=value")
        options[name.strip().replace("-", "_")] = _value(text.strip())
    known = list(inspect.signature(kind).parameters)
    for name in options:
        if name not in known:
            raise ValueError(f"{kind.__name__}: {unknown(word, name, known)}")
    if not inspect.isclass(kind):  # a plain function is a program as it stands
        return functools.partial(kind, **options) if options else kind
    return kind(**options)


def _value(text: str) -> Any:
    """A Python literal where it is one (also true, false, none), the text itself where it is not."""
    word = {"true": "True", "false": "False", "none": "None"}.get(text.lower(), text)
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return text


def _load(source: Source) -> Any:
    """Read the data set."""
    from vmix import data

    label = source.label_column
    column = int(label) if label is not None and label.isdecimal() else label
    return data.load(source.data, limit=source.limit, label=column)


def _cut(images: Any, steps: StepsOption, wanting: Any) -> Any:
    """The rows as the sequences that a model, or a fit, says it wants; as they are where there are no steps."""
    from vmix.steps import to_sequences

    return to_sequences(images, steps, sequence_dims=getattr(wanting, "sequence_dims", None))


def _names(dataset: Any) -> Any:
    """Labels by their names where the data set has them, None without labels."""
    import numpy as np

    classes = dataset.meta.get("classes")
    if dataset.labels is None or classes is None:
        return dataset.labels
    return np.asarray(classes)[dataset.labels]


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


def _command() -> str:
    """The line that was typed."""
    return shlex.join(["vmix", *sys.argv[1:]])
