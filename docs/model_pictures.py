"""Fitted examples for the pages of models with networks or several modalities: one function a picture.

Each is a small fit of under a minute: some hundred digits, narrow networks, few sweeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

SHAPE, NARROW = (8, 8), (64, 32)


def drawn(fit: Any, components: Any, names: Any = None, *, num: int = 12, columns: int = 2) -> Figure:
    """Images drawn from some components, a row each, in so many blocks side by side."""
    from vmix.plots import mosaic

    components = list(components)
    names = [str(k) for k in components] if names is None else list(names)
    images = [_images(fit.sample(num, component=int(k), seed=0, mean=True))[:num] for k in components]
    per_block = -(-len(components) // columns)
    made = Figure(figsize=(9, 0.36 * per_block * 2 / columns + 0.2), layout="constrained")
    axes = np.atleast_1d(made.subplots(1, columns))
    for block, ax in enumerate(axes):
        rows = slice(block * per_block, (block + 1) * per_block)
        grid = mosaic(np.concatenate(images[rows]), SHAPE, columns=num)
        ax.imshow(np.nan_to_num(grid, nan=0.0), cmap="gray_r", vmin=0, vmax=1)
        for spine in ax.spines.values():
            spine.set_visible(False)
        ax.set_xticks([])
        ax.set_yticks(9 * np.arange(len(names[rows])) + 4, names[rows], fontsize=8)
        ax.tick_params(length=0)
    return made


def _images(found: Any) -> np.ndarray:
    """Flat images of what was drawn: the first site's, every step of sequences."""
    images = np.asarray(next(iter(found.values())) if isinstance(found, dict) else found)
    return images.reshape(-1, images.shape[-1])


def model_vaegmm() -> Figure:
    """Decoded draws from the components of VAEGMM."""
    import vmix
    from vmix.inference import EM
    from vmix.models import VAEGMM

    x = vmix.data.load("digits").images
    model = VAEGMM(num_components=10, latent_dim=8, hidden=NARROW, spread="learned")
    return drawn(vmix.fit(model, x, engine=EM(num_sweeps=20), seed=0), range(10))


def model_infinite_vade() -> Figure:
    """Decoded draws from the components that hold data, the largest first."""
    import vmix
    from vmix.inference import EM
    from vmix.models import InfiniteVaDE

    x = vmix.data.load("digits").images
    fit = vmix.fit(InfiniteVaDE(truncation=25, latent_dim=8, hidden=NARROW), x, engine=EM(num_sweeps=20), seed=0)
    shares = fit.predict_proba(x).mean(0)
    order = [k for k in np.argsort(-shares) if shares[k] >= 1e-3]
    return drawn(fit, order, [f"{shares[k]:.0%}" for k in order])


def model_hmmvae() -> Figure:
    """Digits that count up: what each state's images are, and where it goes next."""
    import vmix
    from vmix.inference import EM
    from vmix.models import HMMVAE

    digits, generator = vmix.data.load("digits"), np.random.default_rng(0)
    pools = [generator.permutation(np.flatnonzero(digits.labels == label)) for label in range(10)]
    order = np.array([[pools[(first + t) % 10][n] for t in range(20)] for n, first in enumerate(np.arange(60) % 10)])
    x = digits.images[order]
    fit = vmix.fit(HMMVAE(num_components=10, latent_dim=8, hidden=NARROW), x, engine=EM(num_sweeps=20), seed=0)
    follows = fit.posterior["transition"].argmax(1)
    ring = [0]
    while len(ring) < 10 and follows[ring[-1]] not in ring:
        ring.append(int(follows[ring[-1]]))
    ring += [k for k in range(10) if k not in ring]
    return drawn(fit, ring, [f"{k}, then {follows[k]}" for k in ring])


def model_mlda() -> Figure:
    """Topics of two modalities: bars across one picture and down another, which come together."""
    import vmix
    from vmix.inference import EM
    from vmix.models import MLDA

    generator, cells, count = np.random.default_rng(0), np.arange(25).reshape(5, 5), 5
    across, down = np.zeros((2, count, 25))
    for k in range(count):
        across[k, cells[k]] = down[k, cells[:, k]] = 0.2
    theta = generator.dirichlet(np.full(count, 0.3), size=300)
    x = [np.stack([generator.multinomial(60, t @ bars) for t in theta]) for bars in (across, down)]
    engine = EM(per_datum="mean-field", num_sweeps=200, restarts=4, tolerance=None)
    fit = vmix.fit(MLDA(num_components=count, doc_concentration=0.3, weights=None), *x, engine=engine, seed=0)
    made = Figure(figsize=(6, 2.3), layout="constrained")
    for row, name in zip(made.subplots(2, count), ("phi0", "phi1"), strict=True):
        for k, ax in enumerate(row):
            ax.imshow(fit.posterior[name][k].reshape(5, 5), cmap="viridis", vmin=0, vmax=0.25)
            ax.set_xticks([])
            ax.set_yticks([])
    return made


def model_vaegmmmlda() -> Figure:
    """Images of each class beside its words."""
    import vmix
    from vmix.inference import EM
    from vmix.models import VAEGMMMLDA

    digits, generator = vmix.data.load("digits"), np.random.default_rng(0)
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "a", "the"]
    said = np.full((10, 12), 0.02)
    said[np.arange(10), np.arange(10)] = 0.5
    said[:, 10:] = 0.2
    said /= said.sum(1, keepdims=True)
    counts = np.stack([generator.multinomial(8, said[label]) for label in digits.labels])
    model = VAEGMMMLDA(num_components=10, latent_dim=8, hidden=NARROW)
    fit = vmix.fit(model, digits.images, counts, engine=EM(num_sweeps=10), seed=0)
    lift = fit.posterior["phi"] / fit.posterior["phi"].mean(0)
    return drawn(fit, range(10), [words[v] for v in lift.argmax(1)])


ALL = (model_vaegmm, model_infinite_vade, model_hmmvae, model_mlda, model_vaegmmmlda)
