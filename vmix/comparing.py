"""Several runs on one page: what each was, how well it did, its objective and its latents, from the folders alone.

Nothing is fitted or predicted again, so the page needs neither the data nor the models.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vmix import checkpoint, data, plots
from vmix.explaining import Explanation
from vmix.pages import write_page
from vmix.program import OBSERVED
from vmix.report import flatten, layout_of, scatter_figure, thin
from vmix.runs import is_run, read_json

MAX_POINTS = 1_000
DIGITS = 4
METRICS = ("accuracy", "nmi", "ari", "completeness", "elbo", "seconds")
# Not completeness, which is 1 where one component holds everything.
RANKED = ("accuracy", "nmi", "ari", "elbo")
# Those of Okabe and Ito that stand out three to one from white and from a dark card alike; strokes tell the rest apart.
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
STROKES = ("solid", "dash", "dot", "dashdot")


class RunRecord(NamedTuple):
    """What a run's folder says of it.

    Attributes:
        name: the folder, as it was given.
        model: name of the model.
        engine: name of the engine.
        seed: its seed.
        metrics: as in metrics.json; None for a number not finite.
        settings: of model and engine, by dotted name, as text.
        objective: of the best restart at each step, nats per datum, shape (steps,).
        step_name: "sweep" or "step".
        converged: whether the stopping rule was met.
        data: the shapes of one datum, an array each, and their kinds.
        families: of the observed sites, which say what the objective's unit measures.
        folder: where it is.
        command: the line that made it, where that is known.
        seal: shape and checksum of the data, where that is known.
    """

    name: str
    model: str
    engine: str
    seed: int
    metrics: Mapping[str, float | None]
    settings: Mapping[str, str]
    objective: np.ndarray
    step_name: str
    converged: bool
    data: tuple
    families: tuple[str, ...]
    folder: Path
    command: str | None
    seal: str | None

    def to_json(self) -> dict[str, Any]:
        """The record without settings and trace, as JSON takes it."""
        last = float(self.objective[-1]) if self.objective.size and np.isfinite(self.objective[-1]) else None
        kept = {name: getattr(self, name) for name in ("model", "engine", "seed", "metrics", "converged")}
        return {"run": self.name, **kept, "objective": last, "steps": int(self.objective.size)}


def read_runs(folders: Sequence[str | os.PathLike[str]]) -> list[RunRecord]:
    """Read the records of runs.

    Args:
        folders: two or more folders that `vmix fit` wrote, each once.

    Returns:
        A record each, in their order.

    Raises:
        ValueError: for fewer than two folders, one given twice, or one that is no run.
        vmix.checkpoint.CheckpointCorrupt: if a file was damaged.
    """
    places = [Path(folder) for folder in folders]
    if len(places) < 2:
        raise ValueError(f"compare needs two runs or more, found {len(places)}; name their folders one after another")
    for place in places:
        if not is_run(place):
            raise ValueError(
                f"{str(place)!r} is no vmix run (no config.json of one); expected the --out of a `vmix fit`"
            )
        if sum(place.resolve() == other.resolve() for other in places) > 1:
            raise ValueError(f"{str(place)!r} is given twice; expected each run once")
    return [_read(place) for place in places]


def write_comparison(records: Sequence[RunRecord], path: str | os.PathLike[str]) -> Path:
    """Write the page.

    Args:
        records: as `read_runs` returns them.
        path: the HTML file; an older one is replaced.

    Returns:
        The path.
    """
    maps = [_map(record, number) for number, record in enumerate(records)]
    figures = {"objectives": _curves(records)} | {m.id: m.figure for m in maps if m.figure}
    seals = {record.seal for record in records} - {None}
    same_data = len({record.data for record in records}) == 1 and len(seals) < 2
    same_unit = same_data and len({record.families for record in records}) == 1
    compared = [name for name in RANKED if (same_unit if name == "elbo" else same_data)]
    names = [name for name in METRICS if any(name in record.metrics for record in records)]
    differing = _differing(records)
    context = {
        "title": f"{len(records)} runs compared",
        "subtitle": ", ".join(sorted({f"{record.model} by {record.engine}" for record in records})),
        "records": records,
        "metrics": names,
        "cells": [[_cell(record, name) for name in names] for record in records],
        "best": _best(records, compared),
        "same_unit": same_unit,
        "num_steps": [_length(record) for record in records],
        "last": [f"{r.objective[-1]:,.4f}" if r.objective.size else "none" for r in records],
        "maps": maps,
        "differing": differing,
        "figures": figures,
    }
    return write_page(path, "compare.html.j2", context)


def _read(folder: Path) -> RunRecord:
    config, saved_as = read_json(folder / "config.json"), folder / "checkpoint"
    tree, saved = checkpoint.load(saved_as)
    metrics = _metrics(folder / "metrics.json")
    with checkpoint.understood(saved_as / checkpoint.MANIFEST, "a fit"):
        history = {**saved["history"], **tree["history"]}
        objective = np.atleast_2d(np.asarray(history["objective"], np.float64))[0]
        data = tuple((tuple(map(int, shape[1:])), str(kind)) for shape, kind in saved["template"])
        families = tuple(str(row.family) for row in Explanation.from_json(saved["plan"]).rows if row.role == OBSERVED)
        converged, step_name = bool(saved["converged"]), str(history.get("step_name", "step"))
    with checkpoint.understood(folder / "config.json", "a run"):
        of = str(config["model"]), str(config["engine"]), int(config["seed"])
        settings, command = dict(flatten(config["settings"])), config.get("command")
        seal = None if config.get("data") is None else str(config["data"])
    course = (objective, step_name, converged)
    return RunRecord(os.fspath(folder), *of, metrics, settings, *course, data, families, folder, command, seal)


def _metrics(path: Path) -> dict[str, float | None]:
    """The numbers of a run; none of a run whose end was cut off, which keeps its checkpoint."""
    if not path.exists():
        return {}
    found = read_json(path)
    for name, value in found.items():
        if not (value is None or (isinstance(value, int | float) and abs(value) < np.inf)):
            raise ValueError(f"{path}: {name} is {value!r}; expected a finite number or null: fit again")
    return found


def _cell(record: RunRecord, name: str) -> str:
    if name not in record.metrics:
        return "none"
    value = record.metrics[name]
    return "not finite" if value is None else f"{value:,.1f}" if name == "seconds" else f"{value:,.{DIGITS}f}"


def _length(record: RunRecord) -> str:
    return f"{record.objective.size:,} {record.step_name}s{', settled' if record.converged else ''}"


def _best(records: Sequence[RunRecord], names: Sequence[str]) -> dict[str, int]:
    """The run that is ahead of all others in each of these metrics as it is printed, where one is."""
    found = {}
    for name in names:
        values = [record.metrics.get(name) for record in records]
        known = [-np.inf if value is None else round(value, DIGITS) for value in values]
        if known.count(max(known)) == 1:
            found[name] = int(np.argmax(known))
    return found


def _differing(records: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """The settings that are not the same in all runs."""
    names = dict.fromkeys(name for record in records for name in record.settings)
    rows = [(name, [record.settings.get(name, "none") for record in records]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1]


def _curves(records: Sequence[RunRecord]) -> dict[str, Any]:
    """The objectives in one figure, over the number of steps, whose scale is logarithmic."""
    lines, ranges = [], []
    for number, record in enumerate(records):
        if not record.objective.size:
            continue
        steps = thin(np.unique(np.geomspace(1, record.objective.size, 500).round().astype(int)), 500)
        y = [round(v, 6) if np.isfinite(v) else None for v in record.objective[steps - 1].tolist()]
        line = {"color": LINES[number % 4], "dash": STROKES[number // 4 % 4 if len(records) > 4 else number % 4]}
        mode = "markers" if len(steps) == 1 else "lines"
        lines.append({"type": "scatter", "mode": mode, "x": steps.tolist(), "y": y, "name": f"{number + 1}"})
        lines[-1] |= {"line": line | {"width": 2.2}}
        ranges.append(plots.objective_range(record.objective[None]))
    layout = layout_of("sweep or step", "objective, nats per datum", legend=True)
    layout["xaxis"]["type"] = "log"
    if ranges:
        layout["yaxis"]["range"] = [min(low for low, _ in ranges), max(high for _, high in ranges)]
    return {"data": lines, "layout": layout}


class Map(NamedTuple):
    """A run's card among the latents: a figure or a picture, and the line below it."""

    id: str
    name: str
    caption: str
    figure: dict[str, Any] | None = None
    uri: str | None = None


def _map(record: RunRecord, number: int) -> Map:
    """The latents in two directions; the run's own picture where it has no latents; nothing where it has neither."""
    place, folder = (f"map-{number}", record.name), record.folder
    picture = folder / "plots" / "latent_by_component.png"
    if (folder / "latents.npy").is_file():
        latents = data.load(folder / "latents.npy").images
        if latents.ndim != 2:
            where = folder / "latents.npy"
            raise ValueError(f"{where}: has shape {latents.shape}; expected (N, latent_dim): fit again")
        rows = thin(np.arange(len(latents)), MAX_POINTS)
        groups = _components(folder, len(latents))[rows]
        hover = [f"row {row}<br>component {group}" for row, group in zip(rows, groups, strict=True)]
        caption = f"{latents.shape[1]} dimensions of the latent, {len(rows):,} rows"
        return Map(*place, caption, figure=scatter_figure(plots.pca_2d(latents[rows]), groups, hover))
    if picture.is_file():
        uri = "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode("ascii")
        return Map(*place, "The data themselves, as there is no latent", uri=uri)
    return Map(*place, "This run has no latent and no components")


def _components(folder: Path, num_rows: int) -> np.ndarray:
    """The component of each row, as labels.csv has it; "data" for all where there are none."""
    path = folder / "labels.csv"
    if not path.is_file():
        return np.full(num_rows, "data")
    found = data.load(path, label="component").labels
    if found is None or len(found) != num_rows:
        raise ValueError(f"{path}: has not one component for each of {num_rows} latents; expected as many: fit again")
    return found
