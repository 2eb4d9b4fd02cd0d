"""The curves of `lda`: held-out log-likelihood against own seconds, as a picture and as numbers."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks._lda_contest import Contestant


def draw(best: Sequence[Contestant], truth: float | None, path: Path) -> None:
    """Save `path` and, beside it, its points as CSV.

    Args:
        best: contestants, with their points.
        truth: what the true topics score, where they are known.
        path: of the picture.
    """
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    for who in best:
        points = sorted({point for point in who.points if np.isfinite(point.held_out)})
        axes.plot(
            *zip(*points, strict=True),
            marker="o",
            markersize=3,
            label=f"{who.variant} ({who.seconds_before:.1f} s before)",
        )
    if truth is not None:
        axes.axhline(truth, color="0.4", linestyle="--", linewidth=1, label="the true topics")
    axes.set(xscale="log", xlabel="own seconds; reading, planning and compiling come before")
    axes.set_ylabel("held-out log-likelihood, nats a token")
    axes.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    rows = [(who.variant, f"{p.seconds:.4f}", f"{p.held_out:.6f}") for who in best for p in who.points]
    with path.with_suffix(".csv").open("w", newline="") as file:
        csv.writer(file).writerows([("variant", "seconds", "held_out"), *rows])
