"""The figure of `growth`: a column a size, seconds above memory, both on logarithmic axes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks._growth_curves import MEASURES, exponent, series

# Okabe and Ito's colours, which the colour-blind tell apart; markers tell the curves apart without any
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKERS = ("o", "s", "^", "D")
LABELS = ("seconds a sweep (VaDE: a step)", "private memory of a fit, MB")
SCALES = (1.0, 1e-6)


def draw(lines: Sequence[dict[str, Any]], path: Path) -> None:
    """Save the figure.

    Args:
        lines: of the benchmark.
        path: of the picture.
    """
    found = series(lines)
    panels = list(dict.fromkeys(one.curve.panel for one in found))
    figure = Figure(figsize=(3.3 * len(panels), 6.4), layout="constrained")
    grid = figure.subplots(2, len(panels), squeeze=False, sharex="col", sharey="row")
    for column, panel in enumerate(panels):
        for row, (measure, label, scale) in enumerate(zip(MEASURES, LABELS, SCALES, strict=True)):
            axes = grid[row, column]
            for i, (curve, sizes, values) in enumerate(one for one in found if one.curve.panel == panel):
                name = f"{curve.name.rsplit(',', 1)[0]}: {exponent(sizes, values[measure]):.2f}"
                axes.plot(sizes, scale * values[measure], color=COLOURS[i], marker=MARKERS[i], markersize=4, label=name)
            axes.set(xscale="log", yscale="log")
            axes.grid(which="major", color="0.9", linewidth=0.6)
            axes.legend(title="exponent, upper three points", title_fontsize="x-small", fontsize="x-small")
            if not column:
                axes.set_ylabel(label)
        grid[1, column].set_xlabel(panel)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
