"""Data of the deep mixtures: images and spoken digits, all of them, thinned, or with some held out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

import vmix

SERKET = {"serket_image": "image", "serket_speech": "speech"}


class Rows(NamedTuple):
    """Rows to fit, and rows that are held out (none without a split of their own).

    Attributes:
        name: of the data set.
        pixels: likelihood that fits the data.
        x: shape (N, D).
        labels: read after the fit alone, shape (N,).
        test_x: shape (M, D).
        test_labels: shape (M,).
    """

    name: str
    pixels: str
    x: np.ndarray
    labels: np.ndarray
    test_x: np.ndarray
    test_labels: np.ndarray


def load(source: str, *, rows: int | None, held_out: bool, imbalanced: bool) -> Rows:
    """Load a data set by name, or a file.

    Args:
        source: "digits", "mnist", "serket_image", "serket_speech" (square roots of the shares of sounds), or a file.
        rows: the first rows only.
        held_out: keep the last seventh of the rows (MNIST's test images) out of the fit.
        imbalanced: keep a fraction (d + 1) / 10 of the rows of class d alone, drawn once and for all.

    Returns:
        The rows.
    """
    data = vmix.data.load("serket" if source in SERKET else source)
    x = np.asarray(data.modalities[SERKET[source]] if source in SERKET else data.images)
    pixels = "bernoulli"
    if source == "serket_speech":
        x, pixels = np.sqrt(x / x.sum(1, keepdims=True)).astype(np.float32), "gaussian"
    labels, name = np.asarray(data.labels), Path(source).stem
    x, labels = x[:rows], labels[:rows]
    if imbalanced:
        name += "_imbalanced"
        kept = np.random.default_rng(0).random(len(x)) < (labels + 1) / 10
        x, labels = x[kept], labels[kept]
    cut = len(x) - len(x) // 7 if held_out else len(x)
    name += "_held_out" if held_out else ""
    return Rows(name, pixels, x[:cut], labels[:cut], x[cut:], labels[cut:])
