"""One latent dimension and seed of `infinite_mixtures`: where its lines and pictures go, and how it is measured."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._algorithm1_run import CURVES
from benchmarks._code_mixtures import MixtureSettings
from benchmarks._infinite_networks import NUM_COMPONENTS, TAIL, Images, Networks
from benchmarks._infinite_pictures import SHOWN, Album, read_curves
from benchmarks._recording import Case, is_recorded, load_average, record
from vmix.metrics import accuracy, completeness, nmi


@dataclass(kw_only=True)
class Work:
    """One latent dimension and seed."""

    images: Images
    seed: int
    folder: Path
    networks: Networks
    mixtures: MixtureSettings
    algorithm1_epochs: int
    with_peers: bool = True
    album: Album = field(init=False)

    def __post_init__(self) -> None:
        self.album = Album(self.folder / "pictures", self.images.labels)

    @property
    def latent_dim(self) -> int:
        """Z."""
        return self.networks.settings.latent_dim

    def case(self, method: str, variant: str, **settings: Any) -> Case:
        """One line's identity."""
        sizes = {"data": "mnist", "rows": len(self.images.train), "test_rows": len(self.images.test)}
        name = f"mnist/z{self.latent_dim}/{method}"
        return Case(
            benchmark="infinite_mixtures", case=name, variant=variant, seed=self.seed, settings=sizes | settings
        )

    def is_open(self, case: Case) -> bool:
        """Whether a case is still to be run; says so where it is not."""
        if recorded := is_recorded(case, self.folder):
            print(f"{case.case}, {case.variant}, seed {case.seed}: recorded before")
        return not recorded

    def keep(self, case: Case, metrics: dict[str, float], seconds: float) -> None:
        """Append the line and print it."""
        record(case, metrics | {"load": load_average()}, seconds, self.folder)
        found = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"{case.case}, {case.variant}, seed {case.seed}: {found}", flush=True)

    def picture_name(self, method: str) -> str:
        """The first part of the names of a method's pictures."""
        return f"infinite_mixtures_z{self.latent_dim}_{re.sub(r'[/+]', '_', method)}_{self.seed}"

    def show_curves_together(self) -> None:
        """Draw the curves of all methods that left some for this latent dimension and seed, once there are two."""
        first, last = f"infinite_mixtures_z{self.latent_dim}_", f"_{self.seed}_curves.csv"
        files = sorted(self.album.folder.glob(f"{first}*{last}"))
        if len(files) > 1:
            methods = {file.name.removeprefix(first).removesuffix(last): read_curves(file) for file in files}
            self.album.together(f"{first}{self.seed}_curves_together", methods)

    def show_reconstructions(self, method: str, reconstruct: Callable[[np.ndarray], np.ndarray]) -> None:
        """Draw the first test images with what `reconstruct` makes of them."""
        x = self.images.test[:SHOWN]
        self.album.reconstructions(self.picture_name(method), x, reconstruct(x))


def measure(labels: np.ndarray, predicted: np.ndarray, *, num_components: int) -> dict[str, float]:
    """Figures against the labels; accuracy only where components and digits are as many."""
    found = {"completeness": completeness(labels, predicted), "nmi": nmi(labels, predicted)}
    if num_components == NUM_COMPONENTS:
        found["accuracy"] = accuracy(labels, predicted)
    counts = np.bincount(predicted)
    return found | {
        "num_used": int((counts > 0).sum()),
        "num_used_0.1_percent": int((counts >= 0.001 * len(predicted)).sum()),
    }


def summarise_curves(curves: dict[str, np.ndarray]) -> dict[str, float]:
    """The last losses, and how far the curves swing over the last epochs."""
    found = {name: float(curves[name][-1]) for name in CURVES}
    for name in ("nmi", "completeness", "loss"):
        found[f"{name}_sd_last_{TAIL}"] = float(curves[name][-TAIL:].std())
    tail = curves["nmi"][-TAIL:]
    return found | {f"nmi_lowest_last_{TAIL}": float(tail.min()), f"nmi_highest_last_{TAIL}": float(tail.max())}
