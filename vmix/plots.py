"""Pictures of a fit, each drawn on an Axes that the caller owns.

Colours are those of Okabe and Ito (2008), black replaced by grey so that they also read on a dark page, and viridis;
from the ninth group on the colours come again with another marker. Nothing here shows, saves or keeps a figure open.
"""
# Length: each picture is a function that users call by itself, with its docstring.

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vmix.checks import check_fit, check_positive_int, check_same_length
from vmix.columns import MAX_COLUMNS, Columns, columns_of
from vmix.steps import as_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vmix.results import Fit

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
MAX_POINTS = 2_000
MAX_SIDE = 40
MAX_NAMED = 12
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
PRINCIPAL = ("first principal direction", "second principal direction")


def colour(index: int) -> str:
    """Return the colour of group number `index`, as `#RRGGBB`."""
    return COLOURS[index % len(COLOURS)]


def pca_2d(z: np.ndarray) -> np.ndarray:
    """Project rows onto their first two principal directions; a missing entry counts as its column's mean.

    Args:
        z: rows, shape (N, L).

    Returns:
        Scores of shape (N, 2), in the unit of `z`; the second column is zero where L = 1. The sign of a direction is
        fixed by making its largest weight positive.

    Example:
        >>> pca_2d(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0]]))[:, 0]
        array([-2.,  0.,  2.])
    """
    z = np.asarray(z, dtype=np.float64)
    if z.ndim != 2:
        raise ValueError(f"z has shape {z.shape}; expected rows, (N, L): give z.reshape(len(z), -1)")
    known = np.isfinite(z)
    means = np.where(known, z, 0.0).sum(0) / np.maximum(known.sum(0), 1)
    centred = np.where(known, z - means, 0.0)
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :2]
    strongest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[strongest, np.arange(directions.shape[1])])
    scores = centred @ directions
    return np.pad(scores, ((0, 0), (0, 2 - scores.shape[1])))


def image_shape(width: int) -> tuple[int, int] | None:
    """Return the sides of a square image of `width` pixels, or None when `width` is no square of 4 or more.

    Example:
        >>> image_shape(64), image_shape(784), image_shape(13)
        ((8, 8), (28, 28), None)
    """
    side = math.isqrt(width)
    return (side, side) if side * side == width and side >= 4 else None


def mosaic(images: np.ndarray, shape: tuple[int, int], *, columns: int) -> np.ndarray:
    """Lay images out in rows of `columns`, one pixel of NaN between them.

    Args:
        images: flat images, shape (n, height * width).
        shape: (height, width).
        columns: images in a row.

    Returns:
        One picture, shape (rows * (height + 1) - 1, columns * (width + 1) - 1), NaN where there is no image.
    """
    height, width = shape
    if np.size(images) != len(images) * height * width:
        raise ValueError(f"images has shape {np.shape(images)}; expected (n, {height * width}), pixels of {shape}")
    rows = -(-len(images) // check_positive_int(columns, "columns"))
    picture = np.full((rows * (height + 1), columns * (width + 1)), np.nan)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1), index % columns * (width + 1)
        picture[top : top + height, left : left + width] = np.reshape(image, shape)
    return picture[:-1, :-1]


def objective(ax: Axes, history: Mapping[str, Any]) -> None:
    """Draw the objective against the sweep or step; with restarts the best is in front, the others behind it in grey.

    Args:
        ax: where to draw.
        history: `fit.history`: `objective` of shape (steps,) or (restarts, steps), `unit`, `step_name`.
    """
    traces = np.atleast_2d(np.asarray(history["objective"], dtype=np.float64))
    steps = np.arange(1, traces.shape[1] + 1)
    for trace in traces[1:]:
        ax.plot(steps, trace, color="#999999", linewidth=0.7, alpha=0.5)
    ax.plot(steps, traces[0], color=COLOURS[0], linewidth=1.8, marker="o" if len(steps) == 1 else None)
    lowest, highest = objective_range(traces)
    ax.set_ylim(lowest, highest)
    ax.set_xlabel(history.get("step_name", "step"))
    ax.set_ylabel(f"objective ({history.get('unit', 'nats per datum')})")


def objective_range(traces: np.ndarray) -> tuple[float, float]:
    """Return limits that show the best trace's climb after its first tenth, and not the depth that it started from.

    Args:
        traces: objectives, shape (restarts, steps), the best first, in any unit.

    Returns:
        (low, high) in the same unit; (0, 1) where nothing is finite.
    """
    settled = traces[0, traces.shape[1] // 10 :]
    settled = settled[np.isfinite(settled)]
    if settled.size == 0:
        return 0.0, 1.0
    low, high = float(np.quantile(settled, 0.02)), float(settled.max())
    margin = max(0.08 * (high - low), 1e-4 * max(1.0, abs(high)))  # below that a climb is float32's rounding
    return low - margin, high + margin


def latent_scatter(ax: Axes, z2: np.ndarray, groups: np.ndarray, title: str, axes: tuple[str, str] = PRINCIPAL) -> None:
    """Scatter points coloured by group, each group's name written at its median.

    Args:
        ax: where to draw.
        z2: points, shape (N, 2), as `pca_2d` returns.
        groups: component or label of each point, shape (N,), of any type that sorts.
        title: heading, drawn as it stands (no mathematics).
        axes: what the two axes are.
    """
    for index, group in enumerate(np.unique(groups)):
        points = z2[groups == group]
        marker = MARKERS[index // len(COLOURS) % len(MARKERS)]
        look: dict[str, Any] = {"color": colour(index), "marker": marker, "s": 7, "alpha": 0.6, "linewidths": 0}
        ax.scatter(points[:, 0], points[:, 1], rasterized=True, **look)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour(index), "alpha": 0.85}
        x, y = np.median(points, axis=0)
        ax.text(x, y, str(group), fontsize=8, ha="center", bbox=box, parse_math=False)
    ax.set_title(title, parse_math=False)
    ax.set_xlabel(axes[0], parse_math=False)
    ax.set_ylabel(axes[1], parse_math=False)


def image_grid(
    ax: Axes,
    images: np.ndarray,
    shape: tuple[int, int] | None,
    *,
    columns: int = 8,
    limits: tuple[float, float] | None = None,
) -> None:
    """Draw rows as a grid of images, or as lines over the features where they are no images.

    Args:
        ax: where to draw.
        images: rows, shape (n, D).
        shape: (height, width), or None for lines.
        columns: images in a row of the grid.
        limits: values drawn black and white; None takes the smallest and largest.
    """
    images = np.asarray(images, dtype=np.float64)
    if shape is None:
        _lines(ax, images, COLOURS[0])
        return
    low, high = limits or (None, None)
    ax.imshow(mosaic(images, shape, columns=columns), cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    ax.set_axis_off()


def reconstructions(
    ax: Axes,
    x: np.ndarray,
    xhat: np.ndarray,
    image_shape: tuple[int, int] | None,
    *,
    table: Columns | None = None,
) -> None:
    """Draw data in the first row and their reconstructions in the second, or both as lines.

    Args:
        ax: where to draw.
        x: data, shape (n, D).
        xhat: reconstructions, shape (n, D).
        image_shape: (height, width), or None for lines.
        table: the columns, of lines.
    """
    x, xhat = np.asarray(x, dtype=np.float64), np.asarray(xhat, dtype=np.float64)
    if image_shape is None:
        _lines(ax, x, "#999999", table=table)
        _lines(ax, xhat, COLOURS[0], table=table)
        return
    limits = (float(np.nanmin(x)), float(np.nanmax(x)))
    image_grid(ax, np.concatenate([x, xhat]), image_shape, columns=len(x), limits=limits)


def component_samples(
    ax: Axes,
    samples: np.ndarray,
    image_shape: tuple[int, int] | None,
    *,
    names: Iterable[int] | None = None,
    table: Columns | None = None,
) -> None:
    """Draw one row of samples a component, or one colour of lines a component.

    Args:
        ax: where to draw.
        samples: draws, shape (K, n, D).
        image_shape: (height, width), or None for lines.
        names: the components' numbers, written to the left of their rows of images; none are written when missing.
        table: the columns, of lines.
    """
    samples = np.asarray(samples, dtype=np.float64)
    if image_shape is None:
        for index, draws in enumerate(samples):
            _lines(ax, draws, colour(index), table=table)
        return
    image_grid(ax, samples.reshape(-1, samples.shape[-1]), image_shape, columns=samples.shape[1])
    height = image_shape[0]
    for row, name in enumerate(() if names is None else names):
        place: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 9, "annotation_clip": False}
        ax.annotate(str(name), (-0.25 * height, row * (height + 1) + (height - 1) / 2), **place)


class Summary(NamedTuple):
    """What every page and picture of one fit on one data set is drawn from.

    Attributes:
        predicted: most probable component of every row (every step), shape (N,); None without components.
        shares: responsibilities, shape (N, K); None likewise.
        latent: encoder's latent of every row, shape (N, latent_dim); None where there is none.
        rows: the rows that scatters show, evenly spaced, shape (min(N, 2000),).
        points: their places on two principal axes of the latent, or of the data, shape (len(rows), 2); of a single
            column its value and the row's number.
        table: the columns, where the data are a table: of 30 at most that are no image, or of columns with names.
        axes: what the two places are.
    """

    predicted: np.ndarray | None
    shares: np.ndarray | None
    latent: np.ndarray | None
    rows: np.ndarray
    points: np.ndarray
    table: Columns | None = None
    axes: tuple[str, str] = PRINCIPAL


def summarise(fit: Fit, data: np.ndarray, columns: Sequence[str] | None = None) -> Summary:
    """Predict, transform and project the data once, for all that is drawn from them.

    Args:
        fit: a fitted model.
        data: rows, shape (N, D); sequences count as their steps.
        columns: their names.

    Returns:
        The `Summary` of the fit on these rows.

    Raises:
        TypeError: for what is no fit.
    """
    check_fit(fit)
    fit, data, _ = as_rows(fit, data)
    predicted = shares = None
    if fit.num_components is not None:
        shares = np.asarray(fit.predict_proba(data))
        predicted = shares.argmax(1)
    latent = np.asarray(fit.transform(data)) if fit.has_latent else None
    rows = np.unique(np.linspace(0, len(data) - 1, min(len(data), MAX_POINTS)).astype(int))
    some = np.asarray(data[rows]).reshape(len(rows), -1)
    is_table = columns is not None or (some.shape[1] <= MAX_COLUMNS and image_shape(some.shape[1]) is None)
    table = columns_of(some, columns) if is_table else None
    shown = latent[rows] if latent is not None else some if table is None else table.even(some)
    if shown.shape[1] > 1:
        return Summary(predicted, shares, latent, rows, pca_2d(shown), table)
    value = "latent" if latent is not None else "value" if columns is None else str(columns[0])
    return Summary(predicted, shares, latent, rows, np.column_stack([shown, rows]), table, (value, "row"))


class ConfusionTable(NamedTuple):
    """Counts of label by component, both ordered so that the matched pairs lie on the diagonal."""

    counts: np.ndarray
    labels: np.ndarray
    components: np.ndarray


def confusion_table(labels: np.ndarray, predicted: np.ndarray) -> ConfusionTable:
    """Count rows by label and component; matched pairs (one-to-one, Hungarian) come first, in the labels' order.

    Args:
        labels: true labels, shape (N,).
        predicted: components, shape (N,).

    Returns:
        Counts of shape (L, C) with the L labels and the C components that occur; labels without a component, or
        components without a label, come last.

    Example:
        >>> confusion_table(np.array(["a", "a", "b"]), np.array([7, 7, 2])).components
        array([7, 2])
    """
    from scipy.optimize import linear_sum_assignment

    check_same_length([labels, predicted], ["labels", "predicted"])
    names, rows = np.unique(labels, return_inverse=True)
    components, columns = np.unique(predicted, return_inverse=True)
    counts = np.zeros((len(names), len(components)), dtype=np.int64)
    np.add.at(counts, (rows, columns), 1)
    matched = linear_sum_assignment(counts, maximize=True)
    down, across = (
        np.concatenate([first, np.setdiff1d(np.arange(size), first)])
        for first, size in zip(matched, counts.shape, strict=True)
    )
    return ConfusionTable(counts[np.ix_(down, across)], names[down], components[across])


def confusion(ax: Axes, labels: np.ndarray, predicted: np.ndarray) -> None:
    """Draw the share of every label that each component takes, with the counts written in where there is room.

    Args:
        ax: where to draw.
        labels: true labels, shape (N,).
        predicted: components, shape (N,).
    """
    table = confusion_table(labels, predicted)
    share = table.counts / table.counts.sum(1, keepdims=True)
    ax.imshow(share, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    ax.set_xticks(range(len(table.components)), [str(c) for c in table.components])
    ax.set_yticks(range(len(table.labels)), [str(name) for name in table.labels], parse_math=False)
    ax.set_xlabel("component")
    ax.set_ylabel("label")
    if share.size <= 400:
        for (row, column), count in np.ndenumerate(table.counts):
            ink = "black" if share[row, column] > 0.6 else "white"
            ax.text(column, row, str(count), ha="center", va="center", fontsize=8, color=ink)


def component_weights(ax: Axes, weights: Sequence[float] | np.ndarray) -> None:
    """Draw a bar for each component's weight or share of the data.

    Args:
        ax: where to draw.
        weights: shares, shape (K,).
    """
    ax.bar(np.arange(len(weights)), np.asarray(weights), color=COLOURS[0])
    ax.set_xlabel("component")
    ax.set_ylabel("share of the data")


def png(paint: Callable[[Axes], None], *, size: tuple[float, float]) -> bytes:
    """Paint on a fresh Axes and return the picture, a PNG file's bytes.

    Args:
        paint: what draws on the Axes.
        size: width and height in inches, at 110 dots an inch.

    Returns:
        The bytes; the figure is gone, as no state of pyplot was touched.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    paint(figure.subplots())
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


class Picture(NamedTuple):
    """A picture to put into a page: its data URI, its kind ("pixels" or "drawing") and the line above it."""

    uri: str
    kind: str
    caption: str


def picture(rows: np.ndarray, caption: str, *, like: np.ndarray, columns: int, table: Columns | None = None) -> Picture:
    """Turn rows into pixels where they are square images, and into a drawing of lines where they are not.

    Args:
        rows: what to draw, shape (n, D); or sequences of single values, shape (n, T), where D = 1.
        caption: the line above it.
        like: data of D columns whose smallest and largest value are black and white.
        columns: images in a row of the grid.
        table: the columns of a table, which is never drawn as images.

    Returns:
        A PNG as a data URI, clear between the images; of images over 40 pixels wide every second, third ... pixel.
    """
    rows = np.asarray(rows, dtype=np.float64).reshape(len(rows), -1)
    width = int(np.size(like[0]))
    shape = image_shape(width) if table is None else None
    if shape is None:
        axis = "feature" if rows.shape[-1] == width else "step"
        drawing = png(lambda ax: _lines(ax, rows, COLOURS[0], axis=axis, table=table), size=(5, 2.4))
        return Picture(data_uri(drawing), "drawing", caption)
    from PIL import Image

    stride = -(-shape[0] // MAX_SIDE)
    pixels = rows.reshape(len(rows), *shape)[:, ::stride, ::stride]
    grid = mosaic(pixels.reshape(len(rows), -1), pixels.shape[1:], columns=columns)
    low, high = float(np.nanmin(like)), float(np.nanmax(like))
    shades = 255 * np.clip((grid - low) / (high - low or 1.0), 0, 1)
    grey_alpha = np.stack([np.nan_to_num(shades), 255 * np.isfinite(grid)], -1).round().astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(grey_alpha).save(buffer, format="png", optimize=True)
    return Picture(data_uri(buffer.getvalue()), "pixels", caption)


def data_uri(image: bytes) -> str:
    """A PNG as a data URI."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def _lines(ax: Axes, rows: np.ndarray, ink: str, *, axis: str = "feature", table: Columns | None = None) -> None:
    """Draw each row over its features, or single values along a line; dots where there are few, names where known."""
    places = np.arange(rows.shape[-1])
    marker = "o" if len(places) <= 20 else None
    if table is not None and len(table.loc) != len(places):  # steps, not columns
        table = None
    shown = rows if table is None else table.even(rows)
    names = None if table is None else table.names
    if len(places) == 1:  # values go across, one row below the other
        ax.plot(shown[:, 0], np.arange(len(shown)), "o", color=ink, alpha=0.5, markersize=4)
        ax.set_yticks([])
        ax.set_xlabel(names[0] if names else axis, parse_math=False)
        return
    ax.plot(places, shown.T, color=ink, alpha=0.5, linewidth=0.8, marker=marker, markersize=3)
    if len(places) <= MAX_NAMED:
        look: dict[str, Any] = {"rotation": 20, "ha": "right", "parse_math": False} if names else {}
        ax.set_xticks(places, names, **look)
    if not (names and len(places) <= MAX_NAMED):
        ax.set_xlabel(axis)
    if table is not None and table.differ:
        ax.set_ylabel("std. deviations")
