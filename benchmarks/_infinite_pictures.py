"""Pictures of `infinite_mixtures`: codes, samples of components, reconstructions, and curves."""

from __future__ import annotations

import csv
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vmix import plots

SHOWN = 15
SAMPLES = 10
RANDOM_STATE = 0  # of the neighbour embedding


@dataclass
class Album:
    """Writes pictures into a folder; embeddings of the same codes are made once.

    Args:
        folder: where.
        labels: of the test images, for colours alone.
    """

    folder: Path
    labels: np.ndarray
    _kept: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    def scatter(self, name: str, network: str, codes: np.ndarray, predicted: np.ndarray) -> None:
        """Test codes by component and by label, each in two embeddings.

        Args:
            name: of the file.
            network: of the codes: the same name, the same codes.
            codes: shape (M, d).
            predicted: components, shape (M,).
        """
        rows = np.unique(np.linspace(0, len(codes) - 1, min(len(codes), plots.MAX_POINTS)).astype(int))
        if network not in self._kept:
            self._kept[network] = _embeddings(codes[rows])
        figure = Figure(figsize=(13, 11), layout="constrained")
        axes = figure.subplots(2, 2)
        groups = {"component": np.asarray(predicted)[rows], "label": self.labels[rows]}
        for column, (kind, group) in zip(axes.T, groups.items(), strict=True):
            for ax, (how, points) in zip(column, self._kept[network].items(), strict=True):
                plots.latent_scatter(ax, points, group, f"{name}, by {kind}, {how}")
                if how != "PCA":
                    ax.set(xlabel=f"{how}, first axis", ylabel=f"{how}, second axis")
        self._save(figure, f"{name}_codes")

    def samples(self, name: str, fit: Any, predicted: np.ndarray, *, seed: int) -> None:
        """Mean images of ten latents from each component that holds a test image, by number."""
        used = [int(k) for k in np.unique(predicted)]
        images = np.stack([fit.sample(SAMPLES, component=k, seed=seed, mean=True) for k in used])
        figure = Figure(figsize=(6, 0.6 * len(used) + 0.4), layout="constrained")
        plots.component_samples(figure.subplots(), images, plots.image_shape(images.shape[-1]), names=used)
        self._save(figure, f"{name}_samples")

    def reconstructions(self, name: str, x: np.ndarray, found: np.ndarray) -> None:
        """The first test images, and what the decoder makes of their codes."""
        figure = Figure(figsize=(9, 1.5), layout="constrained")
        plots.reconstructions(figure.subplots(), x, found, plots.image_shape(x.shape[1]))
        self._save(figure, f"{name}_reconstructions")

    def curves(self, name: str, curves: Mapping[str, np.ndarray]) -> None:
        """Figures against labels on the left, losses on the right, by epoch."""
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (curve, values) in enumerate(curves.items()):
            ax = right if curve.startswith("loss") else left
            marker = "o" if len(values) == 1 else None
            epochs = np.arange(1, len(values) + 1)
            style = {"color": plots.colour(number), "linestyle": ("-", "--")[number % 2]}  # one may lie on another
            ax.plot(epochs, values, marker=marker, label=curve.replace("_", " "), **style)
        left.set(xlabel="epoch", ylabel="on test images", ylim=(0, 1), title=name)
        right.set(xlabel="epoch", ylabel="nats per datum", yscale="log")
        for ax in (left, right):
            ax.legend(fontsize="small")
        self._save(figure, f"{name}_curves")

    def together(self, name: str, methods: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """NMI and loss of several methods beside each other; dotted, the loss once a mixture is fitted anew."""
        figure = Figure(figsize=(10, 3.6), layout="constrained")
        left, right = figure.subplots(1, 2)
        for number, (method, curves) in enumerate(methods.items()):
            epochs, colour = np.arange(1, len(curves["nmi"]) + 1), plots.colour(number)
            left.plot(epochs, curves["nmi"], color=colour, label=method)
            right.plot(epochs, curves["loss"], color=colour, label=method)
            if "loss_refitted" in curves:
                right.plot(epochs, curves["loss_refitted"], ":", color=colour, label=f"{method}, mixture fitted anew")
        left.set(xlabel="epoch", ylabel="NMI on test images", ylim=(0, 1), title=name)
        right.set(xlabel="epoch", ylabel="loss, nats per datum", yscale="log")
        right.legend(fontsize="small")
        self._save(figure, name)

    def _save(self, figure: Figure, name: str) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(self.folder / f"{name}.png", dpi=90)


def write_curves(path: Path, curves: Mapping[str, Sequence[float] | np.ndarray]) -> None:
    """Save curves as CSV, a row an epoch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = list(curves.values())
    rows = [[epoch, *(f"{v:.6g}" for v in row)] for epoch, row in enumerate(zip(*columns, strict=True), 1)]
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("epoch", *curves), *rows])


def read_curves(path: Path) -> dict[str, np.ndarray]:
    """Curves that `write_curves` saved."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "epoch"}


def _embeddings(codes: np.ndarray) -> dict[str, np.ndarray]:
    """Two dimensions by PCA, and by UMAP where umap-learn is installed, else by t-SNE."""
    found = {"PCA": plots.pca_2d(codes)}
    if importlib.util.find_spec("umap"):
        import umap

        return found | {"UMAP": umap.UMAP(random_state=RANDOM_STATE).fit_transform(codes)}
    from sklearn.manifold import TSNE

    perplexity = min(30.0, (len(codes) - 1) / 3)
    return found | {"t-SNE": TSNE(perplexity=perplexity, random_state=RANDOM_STATE).fit_transform(codes)}
