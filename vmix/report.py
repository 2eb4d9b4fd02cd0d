"""One self-contained HTML page about a fit: what was fitted, how it went, what it found, how far to trust it.

The page carries its own plotting library and forbids itself every network address, so it opens offline and can be
mailed. It stays below 5 MB whatever the data: scatters show 2,000 rows, and 20 components are drawn.
"""
# Length: every section of the page is one short function, and they are read side by side.

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

from vmix import findings, plots
from vmix.columns import MAX_COLUMNS, profile
from vmix.diagnosing import mixing_of_sites, of_codes, of_components, of_draws, of_gradients, of_history, word
from vmix.pages import write_page
from vmix.steps import Bound, as_rows, describe_rows, reconstruct_rows
from vmix.thumbnails import sheet_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from vmix.results import Fit

MAX_COMPONENTS = 20
MAX_TRACES = 24
MAX_CELLS = 4_000
MAX_TEXT = 200
NUM_EXAMPLES = 8
EXPLANATIONS = {
    "accuracy": "rows right under the best one-to-one match of components and labels",
    "nmi": "normalised mutual information, 1 is perfect",
    "ari": "adjusted Rand index, 0 is chance",
    "completeness": "1 when each label stays in one component",
    "elbo": "evidence lower bound, nats per datum",
    "log evidence": "of the data, parameters given: exact, nats per datum",
    "log density": "of the data, parameters and each datum's latents given, nats per datum",
    "seconds": "time of the fit",
}


def compute_metrics(
    fit: Fit, data: ArrayLike, labels: np.ndarray | None = None, *, predicted: np.ndarray | None = None
) -> dict[str, float | None]:
    """Return the metrics of a fit: those against labels when there are labels and components, `elbo` always.

    Args:
        fit: a fitted model.
        data: rows, shape (N, D), or sequences, shape (N, T, D) or (N, T), which count as their steps.
        labels: true labels, shape (N,) (of steps, (N T,) or (N, T)), or None.
        predicted: components, shape (N,), where they are at hand.

    Returns:
        `accuracy` (one-to-one), `nmi`, `ari`, `completeness` in [0, 1], `elbo` in nats per datum, `seconds`;
        a number that is not finite becomes None, because JSON has no word for it.
    """
    from vmix import metrics

    fit, data, labels = as_rows(fit, np.asarray(data), labels)
    found: dict[str, float] = {}
    if labels is not None and fit.num_components is not None:
        predicted = fit.predict(data) if predicted is None else predicted
        for name in ("accuracy", "nmi", "ari", "completeness"):
            found[name] = getattr(metrics, name)(labels, predicted)
    found |= {"elbo": float(fit.score(data)), "seconds": float(fit.seconds)}
    return {name: value if np.isfinite(value) else None for name, value in found.items()}


def write_report(
    fit: Fit,
    path: str | os.PathLike[str],
    *,
    data: np.ndarray,
    labels: np.ndarray | None = None,
    metrics: Mapping[str, float | None],
    summary: plots.Summary | None = None,
    words: Sequence[Any] | None = None,
    columns: Sequence[str] | None = None,
) -> Path:
    """Write the page.

    Args:
        fit: a fitted model.
        path: the HTML file; its folder is made where it is missing, an older file is replaced at the end.
        data: rows to show, shape (N, D), or sequences, as for `compute_metrics`.
        labels: true labels, as there.
        metrics: name to number, as `compute_metrics` returns.
        summary: what `summarise` returned for the same data; computed here when None.
        words: names of the words of counts, as for `findings.topics_of`.
        columns: names of the columns.

    Returns:
        The path.

    Raises:
        ValueError: when there are not as many labels as rows.
    """
    whole = (fit, getattr(fit, "arrays", (np.asarray(data),)))
    fit, data, labels = as_rows(fit, np.asarray(data), labels)
    if labels is not None and len(labels) != len(data):
        raise ValueError(f"labels has {len(labels)} entries; data has {len(data)} rows: give one label a row, or None")
    summary = summary or plots.summarise(fit, data, columns)
    context = _context(fit, data, labels, metrics, summary) | _special(*whole, labels, words)
    return write_page(path, "report.html.j2", context)


def _special(fit: Any, arrays: tuple, labels: np.ndarray | None, words: Sequence[Any] | None) -> dict[str, Any]:
    """What only some programs have: moves between states, topics, what modalities say of each other."""
    moves, topics = findings.moves_of(fit), findings.topics_of(fit, words)
    inner = fit.fit if isinstance(fit, Bound) else fit
    table = None
    if moves is not None:
        table = [[{"text": f"{p:.2f}", "share": f"{p:.3f}"} for p in row] for row in moves]
    return {
        "moves": table,
        "graph": None if moves is None else findings.graph(moves),
        "least_move": findings.LEAST_MOVE,
        "topics": [{"site": t.site, "parts": findings.top_words(t)[:MAX_COMPONENTS]} for t in topics],
        "crossings": findings.crossings_of(inner, arrays, labels, topics),
    }


def _context(
    fit: Fit, data: np.ndarray, labels: np.ndarray | None, metrics: Mapping[str, float | None], summary: plots.Summary
) -> dict[str, Any]:
    """Gather everything that the template names."""
    history = fit.history
    traces = np.atleast_2d(np.asarray(history["objective"], dtype=np.float64))
    unit = history.get("unit", "nats per datum")
    scatters = _scatters(summary, labels)
    figures = {"objective": _objective_figure(traces, history, word(fit))} | {
        s["id"]: s.pop("figure") for s in scatters
    }
    components = _components(fit, data, labels, summary)
    return {
        "title": f"{fit.model_name}, fitted with {fit.engine_name}",
        "subtitle": f"{describe_rows(fit, data)}, seed {fit.seed}",
        "tiles": [_tile(fit, name, value) for name, value in metrics.items()],
        "plan_text": str(fit.plan),
        "plan_html": Markup(fit.plan._repr_html_()) if hasattr(fit.plan, "_repr_html_") else None,
        "settings": flatten(fit.settings),
        "unit": unit,
        "step_name": history.get("step_name", "step"),
        "last": f"{traces[0, -1]:.4f}" if traces.size else None,
        "num_steps": f"{traces.shape[1]:,}",
        "word": word(fit),
        "num_traces": min(len(traces), MAX_TRACES),
        "stages": [_stage(stage) for stage in history.get("stages") or []],
        "scatters": scatters,
        "thumbnails": sheet_of(data[summary.rows]) if summary.table is None else None,
        "own_scales": summary.table is not None and summary.table.differ,
        "profile": _profile(data, summary),
        "map_of": _map_of(fit, summary),
        "axes": " and ".join(summary.axes) if summary.axes != plots.PRINCIPAL else "two principal directions",
        "latent_dim": None if summary.latent is None else summary.latent.shape[1],
        "num_shown": "all" if len(summary.rows) == len(data) else f"{len(summary.rows):,} of {len(data):,}",
        "reconstructions": _reconstructions(fit, data, summary),
        "components": components,
        "num_components": fit.num_components,
        "all_shown": len(components) < MAX_COMPONENTS,
        "samples": None if components else _samples(fit, data, summary),
        "confusion": _confusion(labels, summary.predicted),
        "checks": _checks(fit, summary),
        "diagnostics": _diagnostics(fit),
        "command": fit.environment.get("command"),
        "environment": flatten({k: v for k, v in fit.environment.items() if k != "command"} | {"seed": fit.seed}),
        "figures": figures,
    }


def _tile(fit: Any, name: str, value: float | None) -> tuple[str, str, float | None, str]:
    """A metric: its key, what it is called, its value, and what it is; `elbo` is called what it is of this fit."""
    shown = getattr(fit, "score_name", name) if name == "elbo" else name
    return name, shown, value, EXPLANATIONS.get(shown, "")


def _map_of(fit: Any, summary: plots.Summary) -> str:
    """What the map of rows is drawn from, in words."""
    if summary.latent is not None:
        what = f"the latent ({summary.latent.shape[1]} dimensions)"
    else:
        site = getattr(fit, "site_shown", None)
        what = "the data" if site is None else f"the data of site {site}"
    return f"Two principal directions of {what}" if summary.axes == plots.PRINCIPAL else f"Values of {what} by row"


def flatten(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Turn nested settings into dotted names and printed values."""
    rows: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            rows += flatten(value, f"{prefix}{name}.")
        else:
            text = "none" if value is None else str(_short(value))
            short = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} \N{HORIZONTAL ELLIPSIS}"
            rows.append((f"{prefix}{name}", short))
    return rows


def _short(value: Any) -> Any:
    """Numbers with six digits, those within a list too: more of them tell a reader nothing."""
    if isinstance(value, list | tuple):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _stage(stage: Mapping[str, Any]) -> dict[str, str]:
    """One row of the table of stages, its objective as a line in a box of 100 by 20."""
    trace = np.asarray(stage.get("objective") or [], dtype=np.float64)
    trace = thin(trace[np.isfinite(trace)], 100)
    spark = ""
    if trace.size > 1:
        low, high = trace.min(), trace.max()
        heights = 19 - 18 * (trace - low) / (high - low if high > low else 1.0)
        spark = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(np.linspace(0, 100, trace.size), heights, strict=True))
    shown = "" if stage.get("seconds") is None else f"{stage['seconds']:.2f}"
    return {"name": stage["name"], "seconds": shown, "spark": spark, "note": stage.get("note") or ""}


def thin(values: np.ndarray, most: int) -> np.ndarray:
    """Keep at most `most` entries, evenly spaced, first and last included."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(len(values), most)).astype(int))]


def _numbers(values: np.ndarray) -> list[float | None]:
    """Numbers short enough for a page, None where they are not finite."""
    return [float(f"{value:.5g}") if np.isfinite(value) else None for value in values.tolist()]


def layout_of(x_title: str, y_title: str, *, legend: bool = False) -> dict[str, Any]:
    """What a plotly layout says about this figure; looks and colours are set by the page's script."""
    axes = {"xaxis": {"title": {"text": html.escape(x_title)}}, "yaxis": {"title": {"text": html.escape(y_title)}}}
    return axes | {"showlegend": legend}


def _objective_figure(traces: np.ndarray, history: Mapping[str, Any], word: str) -> dict[str, Any]:
    """The objective of the best restart over those of the others."""
    steps = thin(np.arange(traces.shape[1]), 1_000)
    lines = []
    for index, trace in reversed(list(enumerate(traces[:MAX_TRACES]))):
        best = index == 0
        line = {"color": plots.COLOURS[0] if best else plots.COLOURS[-1], "width": 2.2 if best else 0.8}
        name = "best" if best else f"{word} ranked {index + 1}"
        # Objectives differ in the fifth digit near the end, so they keep more digits than positions do.
        y = [round(value, 6) if np.isfinite(value) else None for value in trace[steps].tolist()]
        mode = "markers" if len(steps) == 1 else "lines"
        lines.append({"type": "scatter", "mode": mode, "x": (steps + 1).tolist(), "y": y, "line": line, "name": name})
    layout = layout_of(history.get("step_name", "step"), history.get("unit", "nats per datum"))
    layout["yaxis"]["range"] = list(plots.objective_range(traces))
    return {"data": lines, "layout": layout}


def _scatters(summary: plots.Summary, labels: np.ndarray | None) -> list[dict[str, Any]]:
    """One scatter by component and one by label, whichever there are; plain where there is neither."""
    hover = [f"row {row}" for row in summary.rows]
    if summary.predicted is not None and summary.shares is not None:
        pairs = zip(hover, summary.predicted[summary.rows], summary.shares[summary.rows].max(1), strict=True)
        hover = [f"{text}<br>component {c}, probability {p:.3f}" for text, c, p in pairs]
    if labels is not None:
        hover = [f"{text}<br>label {html.escape(str(y))}" for text, y in zip(hover, labels[summary.rows], strict=True)]
    colourings = {"component": summary.predicted, "label": labels}
    found = [(name, groups[summary.rows]) for name, groups in colourings.items() if groups is not None]
    found = found or [("row", np.full(len(summary.rows), "data"))]
    return [
        {
            "id": f"by-{name}",
            "name": name,
            "figure": scatter_figure(summary.points, groups, hover, numbered=True, axes=summary.axes),
        }
        for name, groups in found
    ]


def scatter_figure(
    points: np.ndarray,
    groups: np.ndarray,
    hover: list[str],
    *,
    numbered: bool = False,
    axes: tuple[str, str] = plots.PRINCIPAL,
) -> dict[str, Any]:
    """Points in two principal directions, a colour and a marker a group; numbered, each knows its place among all."""
    symbols = ("circle", "triangle-up", "square", "diamond", "triangle-down", "cross", "x", "star")
    traces = []
    names = np.unique(groups)
    for index, name in enumerate(names):
        members = np.flatnonzero(groups == name)
        symbol = symbols[index // len(plots.COLOURS) % len(symbols)]
        trace: dict[str, Any] = {
            "type": "scatter",
            "mode": "markers",
            "hoverinfo": "text",
            "name": html.escape(str(name)),
        }
        trace["x"], trace["y"] = _numbers(points[members, 0]), _numbers(points[members, 1])
        trace["text"] = [hover[m] for m in members]
        if numbered:
            trace["customdata"] = members.tolist()
        trace["marker"] = {"color": plots.colour(index), "symbol": symbol, "size": 5, "opacity": 0.75}
        traces.append(trace)
    legend = 1 < len(names) <= 30
    layout = layout_of(*axes, legend=legend)
    return {"data": traces, "layout": layout}


def _reconstructions(fit: Fit, data: np.ndarray, summary: plots.Summary) -> plots.Picture | None:
    """Evenly spaced rows above their reconstructions."""
    if not fit.has_latent:
        return None
    rows = thin(summary.rows, 10)
    x = np.asarray(data[rows])
    xhat = np.asarray(reconstruct_rows(fit, data, rows))
    if summary.table is None and plots.image_shape(int(np.size(x[0]))) is not None:
        caption = "Data above, what the decoder makes of their latents below."
        return plots.picture(np.concatenate([x, xhat]), caption, like=x, columns=len(x))
    above, below = x.reshape(len(rows), -1), xhat.reshape(len(rows), -1)
    drawing = plots.png(lambda ax: plots.reconstructions(ax, above, below, None, table=summary.table), size=(7, 3))
    return plots.Picture(plots.data_uri(drawing), "drawing", "Data grey, what the decoder makes of their latents blue.")


def _samples(fit: Fit, data: np.ndarray, summary: plots.Summary) -> plots.Picture:
    """Draws from a model without components."""
    draws = np.asarray(fit.sample(2 * NUM_EXAMPLES, seed=fit.seed, mean=fit.has_latent))
    like = np.asarray(data[:1000])
    return plots.picture(draws, _drawn(fit), like=like, columns=NUM_EXAMPLES, table=summary.table)


def _profile(data: np.ndarray, summary: plots.Summary) -> dict[str, Any] | None:
    """What the columns of a table are in each component."""
    table = summary.table
    if table is None or summary.predicted is None or len(table.loc) > MAX_COLUMNS:
        return None
    return profile(data, summary.predicted, table.names)


def _drawn(fit: Fit) -> str:
    """What the samples are: behind a decoder its means, as the noise of single pixels would hide the shapes."""
    return "Decoder's means of latents drawn from it" if fit.has_latent else "Drawn from it"


def _components(fit: Fit, data: np.ndarray, labels: np.ndarray | None, summary: plots.Summary) -> list[dict[str, Any]]:
    """A card for each of the largest components that hold rows."""
    if summary.predicted is None:
        return []
    counts = np.bincount(summary.predicted, minlength=fit.num_components or 0)
    largest = np.sort(np.argsort(-counts, kind="stable")[:MAX_COMPONENTS])
    return [_component(fit, data, labels, summary, int(k)) for k in largest if counts[k] > 0]


def _component(fit: Fit, data: np.ndarray, labels: np.ndarray | None, summary: plots.Summary, k: int) -> dict[str, Any]:
    """Samples of component k and the data nearest to its middle."""
    members = np.flatnonzero(summary.predicted == k)
    space = thin(members, plots.MAX_POINTS)
    places = np.asarray(data[space] if summary.latent is None else summary.latent[space], dtype=np.float64)
    places = places.reshape(len(places), -1)
    if summary.latent is None and summary.table is not None:
        places = summary.table.even(places)
    distance = np.nansum((places - np.nanmean(places, axis=0)) ** 2, axis=1)
    nearest = np.asarray(data[space[np.argsort(distance, kind="stable")[:NUM_EXAMPLES]]])
    samples = None
    if _has_classes(fit):
        draws = np.asarray(fit.sample(NUM_EXAMPLES, component=k, seed=fit.seed, mean=fit.has_latent))
        samples = plots.picture(draws, _drawn(fit), like=nearest, columns=NUM_EXAMPLES, table=summary.table)
    size = f"{len(members):,} rows ({len(members) / len(data):.1%})"
    if labels is not None:
        names, counts = np.unique(labels[members], return_counts=True)
        size += f", label {names[counts.argmax()]} in {counts.max() / len(members):.0%}"
    middle = "Data nearest to its middle"
    return {
        "index": k,
        "size": size,
        "percent": f"{100 * len(members) / len(data):.2f}",
        "samples": samples,
        "nearest": plots.picture(nearest, middle, like=nearest, columns=NUM_EXAMPLES, table=summary.table),
    }


def _has_classes(fit: Any) -> bool:
    """Whether a datum is of one component, which data can be drawn from; documents have a share of each topic."""
    plan = getattr(fit, "_plan", None)
    return plan is None or bool(plan.layout.discrete)


def _confusion(labels: np.ndarray | None, predicted: np.ndarray | None) -> dict[str, Any] | None:
    """Counts of label by component, with each cell's share of its label."""
    if labels is None or predicted is None:
        return None
    table = plots.confusion_table(labels, predicted)
    if table.counts.size > MAX_CELLS:
        return None
    rows = []
    for name, counts in zip(table.labels, table.counts, strict=True):
        cells = [{"count": f"{count:,}", "share": f"{count / counts.sum():.3f}"} for count in counts]
        rows.append({"label": str(name), "cells": cells})
    return {"components": table.components.tolist(), "rows": rows}


def _checks(fit: Fit, summary: plots.Summary) -> list[dict[str, Any]]:
    """What speaks for the result and what against it, one sentence each, with the way out."""
    found = [*of_history(fit), *of_gradients(fit), *of_draws(fit)]
    if summary.shares is not None:
        found += of_components(summary.shares)
    if summary.latent is not None:
        found.append(of_codes(summary.latent))
    return [{"good": one.good, "text": one.text if one.good else f"{one.text} Try: {one.remedy}."} for one in found]


def _diagnostics(fit: Fit) -> list[dict[str, str]]:
    """Worst split r-hat and effective sample size of each site, where the posterior is made of draws."""
    rows = []
    for site, shape, r_hat, ess in mixing_of_sites(fit):
        shown = ("constant" if r_hat is None else f"{r_hat:.3f}", "constant" if ess is None else f"{ess:,.0f}")
        rows.append({"site": site, "shape": str(shape), "r_hat": shown[0], "ess": shown[1]})
    return rows
