"""A run's folder: configuration, metrics, labels, latents, checkpoint, plots and the report of one fit.

```
config.json   what was fitted and how: model, engine, seed, settings, versions, command, steps, columns,
              shape and checksum of the data
metrics.json  accuracy (one-to-one), nmi, ari, completeness where there are labels; elbo and seconds always
labels.csv    row,component: the most probable component of every row, for models that have components
latents.npy   the encoder's latent of every row, float32 (N, latent_dim), for models that have one
checkpoint/   what `vmix.load` reads
plots/        PNG files
report.html   one self-contained page
```

A row is a datum; where data are sequences, it is a step: step t of sequence n, of T steps each, is row n T + t.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vmix import checkpoint, plots
from vmix.report import compute_metrics, write_report
from vmix.resuming import fingerprint
from vmix.steps import Steps, as_rows, reconstruct_rows

if TYPE_CHECKING:
    from vmix.results import Fit

FORMAT = "vmix run 1"
_FILES = ("metrics.json", "labels.csv", "latents.npy", "report.html")


def prepare_folder(folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Make the folder of a run and see that it can be written, before hours are spent on the fit.

    An older run's files stay until `write_run` replaces them.

    Args:
        folder: where the run goes; made where it is missing, parents too.
        overwrite: write into a folder that holds other things than a run; they are left alone.

    Returns:
        The folder.

    Raises:
        ValueError: the folder is a file, or holds things that are no run of vmix.
        OSError: the folder cannot be made or written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={str(folder)!r} is a file; expected a folder: give another name")
    if not overwrite and folder.is_dir() and any(folder.iterdir()) and not is_run(folder):
        raise ValueError(
            f"out={str(folder)!r} holds files that are no vmix run; expected a new or empty folder, or an earlier run: "
            "give another folder, or overwrite=True (--overwrite) to write beside them"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            f"out={str(folder)!r} cannot be written ({error.strerror}); expected a place for the run's files: give "
            "another folder"
        ) from error
    return folder


def is_run(folder: str | os.PathLike[str]) -> bool:
    """Return whether the folder's `config.json` says that it is a run of vmix."""
    try:
        return str(read_json(Path(folder) / "config.json").get("format", "")).startswith("vmix run")
    except (OSError, ValueError):
        return False


def remembered_steps(folder: str | os.PathLike[str]) -> Steps | None:
    """Return the steps that the rows of the fitted file were cut into, as `write_run` was told."""
    steps = read_json(Path(folder) / "config.json").get("steps")
    if not (steps in (None, "all") or (isinstance(steps, int) and not isinstance(steps, bool) and steps > 0)):
        raise ValueError(f'{Path(folder) / "config.json"}: steps is {steps!r}; expected null, "all" or a whole number')
    return steps


def remembered_columns(folder: str | os.PathLike[str]) -> list[str] | None:
    """Return the names of the columns that were fitted, as `write_run` was told; None where they had none."""
    columns = read_json(Path(folder) / "config.json").get("columns")
    if columns is not None and not (isinstance(columns, list) and all(isinstance(name, str) for name in columns)):
        raise ValueError(f"{Path(folder) / 'config.json'}: columns is {columns!r}; expected null or a list of names")
    return columns


def read_json(path: Path) -> dict[str, Any]:
    """What a run's file holds, by name.

    Raises:
        vmix.checkpoint.CheckpointCorrupt: if it is no JSON, or no names.
        OSError: if it cannot be read.
    """
    with checkpoint.understood(path, "part of a run"):
        return dict(json.loads(path.read_text(encoding="utf-8")).items())


def write_run(
    fit: Fit,
    folder: str | os.PathLike[str],
    *,
    data: np.ndarray,
    labels: np.ndarray | None = None,
    command: str | None = None,
    steps: Steps | None = None,
    columns: Sequence[str] | None = None,
) -> dict[str, float | None]:
    """Write everything about a fit; the checkpoint comes first, so that no later failure loses what was learnt.

    Args:
        fit: a fitted model.
        folder: as `prepare_folder` returned it; the files of an earlier run in it are replaced.
        data: what was fitted: rows, shape (N, D), or sequences.
        labels: true labels of the rows (of the steps), shape (N,), or None; used for metrics and colours only.
        command: the line that made the run, for the record.
        steps: what the rows of the file were cut into, for `remembered_steps`; None where they were not.
        columns: names of the columns of the file, for `remembered_columns`.

    Returns:
        The metrics, as in metrics.json: shares in [0, 1], `elbo` in nats per datum; None for a number not finite.
    """
    folder = Path(folder)
    _clear(folder)
    # of data on disk only some rows would be read, and the same data in memory would look like others
    seal = None if isinstance(data, np.memmap) else fingerprint((data,))[0]
    _write_json(folder / "config.json", _config(fit, command, steps, columns) | {"data": seal})
    fit.save(folder / "checkpoint")
    fit, data, labels = as_rows(fit, data, labels)
    summary = plots.summarise(fit, data, columns)
    metrics = compute_metrics(fit, data, labels, predicted=summary.predicted)
    _write_json(folder / "metrics.json", metrics)
    if summary.predicted is not None:
        write_labels(folder / "labels.csv", summary.predicted)
    if summary.latent is not None:
        np.save(folder / "latents.npy", summary.latent.astype(np.float32), allow_pickle=False)
    _write_plots(fit, folder / "plots", data, labels, summary)
    write_report(fit, folder / "report.html", data=data, labels=labels, metrics=metrics, summary=summary)
    return metrics


def write_labels(path: str | os.PathLike[str], predicted: np.ndarray) -> None:
    """Write a CSV of `row,component`.

    Args:
        path: the file.
        predicted: components, shape (N,).
    """
    Path(path).write_text(labels_csv(predicted), encoding="utf-8")


def labels_csv(predicted: np.ndarray, shares: np.ndarray | None = None) -> str:
    r"""Return the text of `labels.csv`, and with responsibilities of shape (N, K) a column of them for each component.

    Example:
        >>> labels_csv(np.array([4, 0]))
        'row,component\n0,4\n1,0\n'
        >>> labels_csv(np.array([1]), np.array([[0.25, 0.75]]))
        'row,component,probability_0,probability_1\n0,1,0.25,0.75\n'
    """
    more = [[]] * len(predicted) if shares is None else shares.tolist()
    head = ["row", "component", *(f"probability_{k}" for k in range(0 if shares is None else shares.shape[1]))]
    lines = [[str(n), str(c), *(f"{p:.6g}" for p in ps)] for n, (c, ps) in enumerate(zip(predicted, more, strict=True))]
    return "".join(",".join(line) + "\n" for line in [head, *lines])


def _clear(folder: Path) -> None:
    """Take away what an earlier run left and this one may not write again; nothing else."""
    if is_run(folder):
        for name in _FILES:
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "plots", ignore_errors=True)


def _config(fit: Fit, command: str | None, steps: Steps | None, columns: Sequence[str] | None) -> dict[str, Any]:
    """What config.json says."""
    config = {"format": FORMAT, "model": fit.model_name, "engine": fit.engine_name, "seed": fit.seed}
    config |= {"settings": fit.settings, "environment": fit.environment}
    named = None if columns is None else list(columns)
    return config | {"command": command or fit.environment.get("command"), "steps": steps, "columns": named}


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON that every reader takes: no NaN, no infinity."""
    text = json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def _write_plots(fit: Fit, folder: Path, data: np.ndarray, labels: np.ndarray | None, summary: plots.Summary) -> None:
    """Draw each picture that this fit has something for."""
    folder.mkdir(exist_ok=True)
    _draw(folder / "objective.png", (7, 4), lambda ax: plots.objective(ax, fit.history))
    _draw_groups(folder, labels, summary)
    table = summary.table
    shape = plots.image_shape(int(np.size(data[0]))) if table is None else None
    if fit.has_latent:
        rows = summary.rows[:: max(1, len(summary.rows) // 10)][:10]
        x, xhat = np.asarray(data[rows]), reconstruct_rows(fit, data, rows)
        _draw(
            folder / "reconstructions.png", (8, 2.4), lambda ax: plots.reconstructions(ax, x, xhat, shape, table=table)
        )
    if summary.predicted is not None and fit.num_components is not None:
        counts = np.bincount(summary.predicted, minlength=fit.num_components)
        held = np.flatnonzero(counts)[:20]
        samples = np.stack(
            [np.asarray(fit.sample(8, component=int(k), seed=fit.seed, mean=fit.has_latent)) for k in held]
        )
        look: dict[str, Any] = {"names": held, "table": table}
        _draw(folder / "components.png", (6, 7), lambda ax: plots.component_samples(ax, samples, shape, **look))
        _draw(folder / "weights.png", (7, 3.5), lambda ax: plots.component_weights(ax, counts / counts.sum()))


def _draw_groups(folder: Path, labels: np.ndarray | None, summary: plots.Summary) -> None:
    """The scatter by component and by label, and the two against each other."""
    for name, groups in {"component": summary.predicted, "label": labels}.items():
        if groups is not None:
            _draw_scatter(folder / f"latent_by_{name}.png", summary, np.asarray(groups), f"coloured by {name}")
    if labels is not None and summary.predicted is not None:
        predicted = summary.predicted
        _draw(folder / "confusion.png", (7, 6), lambda ax: plots.confusion(ax, np.asarray(labels), predicted))


def _draw_scatter(path: Path, summary: plots.Summary, groups: np.ndarray, title: str) -> None:
    """One scatter of the rows shown."""
    _draw(path, (7, 6), lambda ax: plots.latent_scatter(ax, summary.points, groups[summary.rows], title, summary.axes))


def _draw(path: Path, size: tuple[float, float], paint: Callable[[Any], None]) -> None:
    """Paint a picture into a file."""
    path.write_bytes(plots.png(paint, size=size))
