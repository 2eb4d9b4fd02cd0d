"""The curves of `growth`: what is varied, what is held, and the exponents fitted to their upper points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

MEASURES = ("seconds_per_iteration", "bytes_private")
UPPER = 3
DIAGONAL = {"covariance": "diagonal", "num_data": 20_000, "data_dim": 16, "num_components": 10}
CHAIN = {"covariance": "diagonal", "num_sequences": 4, "num_steps": 1_000, "data_dim": 8, "num_components": 10}
NETWORKS = {"num_data": 5_000, "data_dim": 784, "hidden": [500, 500, 2000], "latent_dim": 10, "batch_size": 256}


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A size that grows while the others stay.

    Args:
        name: of the curve; the case of its lines.
        panel: what the axis of its picture says.
        loop: of `_loops`.
        axis: the size that grows.
        points: its values.
        held: the other sizes.
        expected: exponent of the arithmetic when this size outweighs all else, in words.
        on_disk: whether the data are memory-mapped.
    """

    name: str
    panel: str
    loop: str
    axis: str
    points: tuple[int, ...]
    held: Mapping[str, Any] = field(default_factory=dict)
    expected: str = "1"
    on_disk: bool = False

    def sizes(self, point: int) -> dict[str, Any]:
        """All sizes of a point."""
        return {**self.held, self.axis: point}

    def floats(self, point: int) -> int:
        """About how many numbers a sweep over these data holds at once: data, statistics, probabilities."""
        sizes = self.sizes(point)
        rows = sizes.get("num_data", sizes.get("num_documents", sizes.get("num_sequences", 1)))
        columns = sizes.get("data_dim", sizes.get("num_words", 1))
        states = sizes.get("num_components", sizes.get("truncation", 1))
        each = columns + states + (columns**2 if sizes.get("covariance") == "full" else columns)
        rows = min(rows, 1 << 21) if self.on_disk else rows
        return int(rows * sizes.get("num_steps", 1) * each)


def _mixture(name: str, panel: str, axis: str, points: tuple[int, ...], **more: Any) -> Curve:
    held = DIAGONAL | more.pop("held", {})
    return Curve(name=name, panel=panel, loop="mixture", axis=axis, points=points, held=held, **more)


FULL = {"covariance": "full"}
SHORT = {n: v for n, v in DIAGONAL.items() if n != "num_components"}
ROWS, COMPONENTS, COLUMNS = "N, rows", "K, components or states", "D, columns"
CURVES = (
    _mixture("mixture, rows", ROWS, "num_data", (1_000, 10_000, 100_000, 1_000_000, 10_000_000)),
    _mixture("mixture on disk, rows", ROWS, "num_data", (1_000, 10_000, 100_000, 1_000_000, 10_000_000), on_disk=True),
    _mixture("mixture, components", COMPONENTS, "num_components", (2, 5, 10, 30, 100, 300, 1_000)),
    _mixture("full mixture, components", COMPONENTS, "num_components", (2, 5, 10, 30, 100, 300, 1_000), held=FULL),
    Curve(
        name="DP mixture, truncation",
        panel=COMPONENTS,
        loop="infinite_mixture",
        axis="truncation",
        points=(5, 10, 30, 100, 300, 1_000),
        held=SHORT,
    ),
    Curve(
        name="HMM, states",
        panel=COMPONENTS,
        loop="hmm",
        axis="num_components",
        points=(2, 5, 10, 30, 100, 300),
        held=CHAIN,
        expected="2",
    ),
    _mixture("mixture, columns", COLUMNS, "data_dim", (2, 8, 32, 128, 512)),
    _mixture("full mixture, columns", COLUMNS, "data_dim", (2, 4, 8, 16, 32, 64), held=FULL, expected="2"),
    Curve(
        name="HMM, steps",
        panel="T, steps of each of 4 sequences",
        loop="hmm",
        axis="num_steps",
        points=(100, 300, 1_000, 3_000, 10_000, 30_000),
        held=CHAIN,
    ),
    Curve(
        name="LDA, documents",
        panel="documents",
        loop="lda",
        axis="num_documents",
        points=(100, 300, 1_000, 3_000, 10_000, 30_000),
        held={"num_words": 1_000, "num_components": 10},
    ),
    Curve(
        name="VaDE, latents",
        panel="d, latents",
        loop="vade",
        axis="latent_dim",
        points=(2, 5, 10, 30, 100, 300),
        held=NETWORKS,
        expected="0, then 1",
    ),
)


class Series(NamedTuple):
    """A curve's recorded points in order of size: sizes, and a column for each measure."""

    curve: Curve
    sizes: np.ndarray
    values: dict[str, np.ndarray]


def series(lines: Sequence[dict[str, Any]]) -> list[Series]:
    """The curves that lines are there of, several seeds of a point by their median."""
    found = []
    for curve in CURVES:
        mine = [line for line in lines if line["case"] == curve.name]
        sizes = sorted({line["settings"][curve.axis] for line in mine})
        if not sizes:
            continue
        values = {name: np.array([_median(mine, curve.axis, size, name) for size in sizes]) for name in MEASURES}
        found.append(Series(curve, np.array(sizes, float), values))
    return found


def _median(lines: list[dict[str, Any]], axis: str, size: int, name: str) -> float:
    return float(np.median([line["metrics"][name] for line in lines if line["settings"][axis] == size]))


def exponent(sizes: np.ndarray, values: np.ndarray) -> float:
    """b of values ~ a sizes^b by least squares on the logarithms of the three largest sizes; NaN for fewer than two."""
    sizes, values = sizes[-UPPER:], values[-UPPER:]
    there = values > 0
    if there.sum() < 2:
        return float("nan")
    return float(np.polyfit(np.log(sizes[there]), np.log(values[there]), 1)[0])


def section(lines: list[dict[str, Any]]) -> list[str]:
    """The section of RESULTS.md: a row a curve, then a row a point."""
    parts = ["![Seconds and memory against sizes](results/pictures/growth.png)\n"] if lines else []
    parts += [
        "Exponents are fitted to the three largest sizes; *expected* is that of the arithmetic alone. Memory is "
        "private memory above what the process held after its imports.\n",
        "| curve | from | to | exponent of seconds | expected | exponent of memory | memory at the largest, MB |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    found = series(lines)
    for curve, sizes, values in found:
        time, memory = (exponent(sizes, values[name]) for name in MEASURES)
        ends = [f"{sizes[0]:.0f}", f"{sizes[-1]:.0f}"]
        largest = f"{values['bytes_private'][-1] / 1e6:.0f}"
        cells = [curve.name, *ends, f"{time:.2f}", curve.expected, f"{memory:.2f}", largest]
        parts.append("| " + " | ".join(cells) + " |")
    parts += ["", "| curve | size | seconds a sweep or step | private memory, MB |", "|---|---:|---:|---:|"]
    for curve, sizes, values in found:
        for size, seconds, held in zip(sizes, *(values[name] for name in MEASURES), strict=True):
            parts.append(f"| {curve.name} | {size:.0f} | {seconds:.3g} | {held / 1e6:.0f} |")
    return [*parts, ""]
