"""The networks of `infinite_mixtures`: each is fitted once for a latent dimension and seed, when first asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np

import vmix
from vmix import models
from vmix.inference import EM, SVI
from vmix.metrics import nmi
from vmix.networks import usual_widths

BATCH = 256
NUM_COMPONENTS = 10
TRUNCATION = 50
TAIL = 20  # epochs over which a method is asked to be calm


class Images(NamedTuple):
    """Training and test images, shape (N, D) and (M, D), and the test images' labels, which no fit sees."""

    train: np.ndarray
    test: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """What all networks share; `hidden` None takes the zoo's usual widths."""

    latent_dim: int
    epochs: int = 30
    pretrained_epochs: int = 70
    hidden: tuple[int, ...] | None = None
    relaxation: str | None = None

    def widths(self, data_dim: int) -> tuple[int, ...]:
        """The hidden widths."""
        return self.hidden or usual_widths(data_dim)


class Trained(NamedTuple):
    """A fit, the codes of both splits, the seconds of the fit, and the NMI on test images after its last epochs."""

    fit: Any
    train: np.ndarray
    test: np.ndarray
    seconds: float
    nmi_by_epoch: list[float]


def has_model(name: str) -> bool:
    """Whether the zoo has a model of this name."""
    return name in models.__all__


def source_of_weights() -> str:
    """Which model's weights `algorithm1/pretrained` starts from."""
    return "GMVAE" if has_model("GMVAE") else "VAE"


@dataclass
class Networks:
    """Fits by model name and epochs, kept while one latent dimension and seed are worked on."""

    images: Images
    settings: NetworkSettings
    seed: int
    _kept: dict[tuple[str, int], Trained] = field(default_factory=dict)

    def get(self, name: str, epochs: int | None = None) -> Trained:
        """The fit of a model of the zoo."""
        epochs = epochs or self.settings.epochs
        if (name, epochs) not in self._kept:
            self._kept[name, epochs] = self._fit(name, epochs)
        return self._kept[name, epochs]

    def describe(self, name: str, epochs: int | None = None) -> dict[str, Any]:
        """What a line records about it, known before the fit."""
        epochs = epochs or self.settings.epochs
        engine = "EM" if name == "InfiniteVaDE" else "SVI"
        model = asdict(self._model(name))
        return {"network": name, "model": model, "engine": engine, "epochs": epochs, "batch_size": BATCH}

    def _model(self, name: str) -> Any:
        widths = self.settings.widths(self.images.train.shape[1])
        options: dict[str, Any] = {"latent_dim": self.settings.latent_dim, "hidden": widths}
        if name == "GMVAE":
            options |= {"num_components": NUM_COMPONENTS, "relaxation": self.settings.relaxation}
        if name == "InfiniteVaDE":
            options["truncation"] = TRUNCATION
        return getattr(models, name)(**options)

    def _fit(self, name: str, epochs: int) -> Trained:
        train, test, labels = self.images
        size = min(BATCH, len(train))
        steps = epochs * (len(train) // size)
        by_epoch: list[float] = []

        def watch(epoch: int, so_far: Callable[[], Any]) -> None:
            """Only looks on; a fit by EM makes an epoch a sweep."""
            if epoch > epochs - TAIL:
                by_epoch.append(nmi(labels, so_far().predict(test)))

        began = time.perf_counter()
        model = self._model(name)
        if name == "InfiniteVaDE":
            engine: Any = EM(num_sweeps=epochs, batch_size=size)
            fit = vmix.fit(model, train, engine=engine, seed=self.seed, callback=watch)
        else:
            fit = vmix.fit(model, train, engine=SVI(num_steps=steps, batch_size=size), seed=self.seed)
        seconds = time.perf_counter() - began
        return Trained(fit, *(_codes(fit, x, self.settings.latent_dim) for x in (train, test)), seconds, by_epoch)


def _codes(fit: Any, x: np.ndarray, latent_dim: int) -> np.ndarray:
    """Means of z; a model with further latents gives theirs beside them, and z is the last that its guide draws.

    Raises:
        ValueError: if z is not the last.
    """
    codes = fit.transform(x)
    if codes.shape[1] > latent_dim and fit._plan.latents[-1] != "z":
        raise ValueError(f"transform has {codes.shape[1]} columns of {fit._plan.latents}; expected z to be the last")
    return codes[:, -latent_dim:]
