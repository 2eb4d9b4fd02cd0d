"""What the commands share: their options, and the model, engine and data that these stand for. JAX is not imported."""

from __future__ import annotations

import ast
import csv
import dataclasses
import functools
import inspect
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from vmix.suggesting import unknown

EngineName = Literal["svi", "em", "gibbs"]
StepsOption = int | Literal["all"] | None
MissingOption = Literal["nan"] | None
OnNan = Literal["stop", "restart"]
Pairs = Annotated[tuple[str, ...], Parameter(negative_iterable=(), show_default=False)]


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Which rows to read."""

    data: str = "digits"
    "A name (digits, mnist, serket) or a file (.npy .npz .csv .idx .idx.gz)."
    label_column: str | None = None
    "The column of a CSV file that holds the labels, by name or number."
    columns: str | None = None
    "The columns of a CSV file to read, by name or number: age,income. All but the labels' when missing."
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


ALL_ROWS = Source()
DEFAULTS = Choice()


def entries_of_models() -> dict[str, metadata.EntryPoint]:
    """The installed models by name."""
    entries = {entry.name: entry for entry in metadata.entry_points(group="vmix.models")}
    if not entries:
        raise ValueError("no models are registered under the entry points vmix.models: install vmix (pip install -e .)")
    return entries


def summary_line(entry: metadata.EntryPoint) -> str:
    """First line of a model's docstring."""
    try:
        return (inspect.getdoc(entry.load()) or "").partition("\n")[0]
    except (ImportError, AttributeError) as error:  # another package's model must not hide ours
        return f"(cannot be imported: {error})"


def package_of(entry: metadata.EntryPoint) -> str:
    """The package that registers a model; empty where that is not known."""
    found = getattr(entry, "dist", None)
    return "" if found is None else found.name


def build(model: str, engine: EngineName, choice: Choice) -> tuple[Any, Any]:
    """Make the model and the engine from the options, each checked against what it takes."""
    from vmix import inference

    entries = entries_of_models()
    if model not in entries:
        own = "a program of your own: vmix.fit in Python, or vmix new to make it a package"
        raise ValueError(f"{unknown('model', model, entries)} ({own})")
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


def load(source: Source, *, run: Path | None = None) -> Any:
    """Read the data set; with a run's folder the columns that it was fitted to, where the source asks for none."""
    from vmix import data

    label = None if source.label_column is None else _column(source.label_column)
    columns = columns_asked(source.columns) or _fitted_columns(source.data, run)
    return data.load(source.data, limit=source.limit, label=label, columns=columns)


def columns_asked(text: str | None) -> list[str | int] | None:
    """Columns as a list: names, in quotes where they have a comma, or numbers.

    Example:
        >>> columns_asked('age, "income, net",5')
        ['age', 'income, net', 5]
    """
    return None if text is None else [_column(name.strip()) for name in next(csv.reader([text], skipinitialspace=True))]


def _fitted_columns(path: str, run: Path | None) -> list[str] | None:
    """The names of the columns that were fitted, for a file that has names too."""
    from vmix import data
    from vmix.runs import remembered_columns

    return None if run is None or data.header_of(path) is None else remembered_columns(run)


def _column(text: str) -> str | int:
    return int(text) if text.isdecimal() else text


def cut(images: Any, steps: StepsOption, wanting: Any) -> Any:
    """The rows as the sequences that a model, or a fit, says it wants; as they are where there are no steps."""
    from vmix.steps import to_sequences

    return to_sequences(images, steps, sequence_dims=getattr(wanting, "sequence_dims", None))


def names(dataset: Any) -> Any:
    """Labels by their names where the data set has them, None without labels."""
    import numpy as np

    classes = dataset.meta.get("classes")
    if dataset.labels is None or classes is None:
        return dataset.labels
    return np.asarray(classes)[dataset.labels]
