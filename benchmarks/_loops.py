"""The hot loops of vmix at any size, each a program with its data and a start: what `growth` and `roofline` measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optax

from benchmarks import _hmm_em, deep_steps
from vmix.engine import Engine
from vmix.inference import EM, SVI
from vmix.models import HMM, LDA, DirichletProcessMixture, GaussianMixture

BLOCK = 100_000
TOKENS_A_DOCUMENT = 200
LEARNING_RATE = 1e-3


class Loop(NamedTuple):
    """A program, the engine whose sweep or step is measured, its data, and where it starts."""

    model: Any
    engine: Engine
    data: np.ndarray
    start: dict[str, np.ndarray]


def blocks(num_data: int, data_dim: int, seed: int) -> list[tuple[slice, Callable[[], np.ndarray]]]:
    """Rows around ten centres, block by block, so that nothing of the size of the data is made besides them."""
    means = np.random.default_rng(seed).normal(0.0, 2.0, (10, data_dim)).astype(np.float32)

    def rows(first: int, size: int) -> np.ndarray:
        rng = np.random.default_rng((seed, first))
        x = rng.standard_normal((size, data_dim), dtype=np.float32)
        x += means[rng.integers(0, 10, size)]
        return x

    parts = [(first, min(BLOCK, num_data - first)) for first in range(0, num_data, BLOCK)]
    return [(slice(f, f + n), lambda f=f, n=n: rows(f, n)) for f, n in parts]


def in_memory(num_data: int, data_dim: int, seed: int) -> np.ndarray:
    """The rows as an array, shape (N, D), float32."""
    x = np.empty((num_data, data_dim), np.float32)
    for where, rows in blocks(num_data, data_dim, seed):
        x[where] = rows()
    return x


def on_disk(num_data: int, data_dim: int, seed: int, folder: Path) -> np.ndarray:
    """The same rows in a file, memory-mapped; written, not mapped, so that no page of them counts as memory."""
    path = folder / "x.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (num_data, data_dim)}
        np.lib.format.write_array_header_1_0(file, header)
        for _, rows in blocks(num_data, data_dim, seed):
            file.write(rows().tobytes())
    return np.load(path, mmap_mode="r")


def mixture(
    *, covariance: str, num_data: int, data_dim: int, num_components: int, seed: int, folder: Path | None = None
) -> Loop:
    """EM on a Gaussian mixture; `folder` puts the data on disk."""
    x = in_memory(num_data, data_dim, seed) if folder is None else on_disk(num_data, data_dim, seed, folder)
    start = {"w": np.full(num_components, 1.0 / num_components), **_components(x, covariance, num_components)}
    model = GaussianMixture(num_components=num_components, covariance=covariance)
    return Loop(model, EM(tolerance=None), x, start)


def infinite_mixture(*, covariance: str, num_data: int, data_dim: int, truncation: int, seed: int) -> Loop:
    """EM on a Dirichlet-process mixture."""
    x = in_memory(num_data, data_dim, seed)
    start = {"v": 1.0 / np.arange(truncation, 1, -1), **_components(x, covariance, truncation)}
    return Loop(DirichletProcessMixture(truncation=truncation, covariance=covariance), EM(tolerance=None), x, start)


def _components(x: np.ndarray, covariance: str, num_components: int) -> dict[str, np.ndarray]:
    """The first K rows as means (repeated where there are fewer), unit precisions."""
    k, d = num_components, x.shape[1]
    precision = np.ones((k, d)) if covariance == "diagonal" else np.tile(np.eye(d), (k, 1, 1))
    return {"loc": np.asarray(x[np.arange(k) % len(x)], np.float64), "precision": precision}


def hmm(*, covariance: str, num_sequences: int, num_steps: int, data_dim: int, num_components: int, seed: int) -> Loop:
    """EM on a Gaussian hidden Markov model."""
    settings = _hmm_em.Settings(
        covariance=covariance,
        num_sequences=num_sequences,
        num_steps=num_steps,
        data_dim=data_dim,
        num_components=num_components,
    )
    x = _hmm_em.make_data(settings, seed)
    model = HMM(num_components=num_components, covariance=covariance)
    return Loop(model, EM(tolerance=None), x.astype(np.float32), _hmm_em.first_values(settings, x))


def lda(*, num_documents: int, num_words: int, num_components: int, seed: int) -> Loop:
    """EM on latent Dirichlet allocation: documents of 200 tokens from sparse topics."""
    rng, k = np.random.default_rng(seed), num_components
    phi = rng.dirichlet(np.full(num_words, 0.05), k)
    x = np.empty((num_documents, num_words), np.int32)
    for first in range(0, num_documents, 1_000):
        theta = rng.dirichlet(np.full(k, 0.1), len(x[first : first + 1_000]))
        x[first : first + 1_000] = rng.multinomial(TOKENS_A_DOCUMENT, theta @ phi)
    start = {"phi": rng.dirichlet(np.ones(num_words), k), "theta": rng.dirichlet(np.ones(k), num_documents)}
    return Loop(LDA(num_components=k), EM(tolerance=None), x, start)


def vade(*, num_data: int, data_dim: int, hidden: tuple[int, ...], latent_dim: int, batch_size: int, seed: int) -> Loop:
    """Training steps of VaDE with ten diagonal components, Adam at a constant rate."""
    sizes = {"num_data": num_data, "data_dim": data_dim, "hidden": tuple(hidden), "latent_dim": latent_dim}
    settings = deep_steps.Settings(**sizes, batch_size=batch_size)
    engine = SVI(num_steps=1_000_000, batch_size=batch_size, optimizer=optax.adam(LEARNING_RATE))
    model = deep_steps.zoo_model("vade", settings)
    return Loop(model, engine, deep_steps.images(settings, seed), deep_steps.vade_values(settings, seed))


LOOPS: dict[str, Callable[..., Loop]] = {f.__name__: f for f in (mixture, infinite_mixture, hmm, lda, vade)}
