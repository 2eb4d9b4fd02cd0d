"""Fitted examples for the pages of models with networks or several modalities: one function a picture.

Each is a small fit of a minute or so: the digits of scikit-learn, narrow networks, few sweeps.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

SHAPE, NARROW = (8, 8), (64, 32)
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "a", "the")


def drawn(fit: Any, components: Any, names: Any = None, *, num: int = 12, columns: int = 2) -> Figure:
    """Images drawn from some components, a row each, in so many blocks side by side."""
    components = list(components)
    names = [str(k) for k in components] if names is None else list(names)
    per_block = -(-len(components) // columns)
    made = Figure(figsize=(9, 0.36 * per_block * 2 / columns + 0.2), layout="constrained")
    _draw_rows(np.atleast_1d(made.subplots(1, columns)), fit, components, names, num)
    return made


def _draw_rows(axes: Any, fit: Any, components: list, names: list[str], num: int) -> None:
    """Images drawn from some components, a row each, as many on each of the axes."""
    from vmix.plots import mosaic

    images = [_images(fit.sample(num, component=int(k), seed=0, mean=True))[:num] for k in components]
    per_block = -(-len(components) // len(axes))
    for block, ax in enumerate(axes):
        rows = slice(block * per_block, (block + 1) * per_block)
        grid = mosaic(np.concatenate(images[rows]), SHAPE, columns=num)
        ax.imshow(np.nan_to_num(grid, nan=0.0), cmap="gray_r", vmin=0, vmax=1)
        _bare(ax)
        ax.set_yticks(9 * np.arange(len(names[rows])) + 4, names[rows], fontsize=8)


def _bare(ax: Any) -> None:
    """No frame and no marks."""
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_xticks([])
    ax.tick_params(length=0)


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

    x = vmix.data.load("digits").images[_counting_up(np.random.default_rng(0))]
    fit = vmix.fit(HMMVAE(num_components=10, latent_dim=8, hidden=NARROW), x, engine=EM(num_sweeps=20), seed=0)
    follows = fit.posterior["transition"].argmax(1)
    ring = _ring(follows)
    return drawn(fit, ring, [f"{k}, then {follows[k]}" for k in ring])


def _counting_up(generator: np.random.Generator) -> np.ndarray:
    """Sixty sequences of twenty digits that count up, as places in the data, shape (60, 20)."""
    import vmix

    labels = vmix.data.load("digits").labels
    pools = [generator.permutation(np.flatnonzero(labels == label)) for label in range(10)]
    return np.array([[pools[(first + t) % 10][n] for t in range(20)] for n, first in enumerate(np.arange(60) % 10)])


def _ring(follows: np.ndarray) -> list[int]:
    """The states in the order in which they follow each other from state 0 on, then those left over."""
    ring = [0]
    while len(ring) < len(follows) and follows[ring[-1]] not in ring:
        ring.append(int(follows[ring[-1]]))
    return ring + [k for k in range(len(follows)) if k not in ring]


def model_markov_model() -> Figure:
    """Draws of each move's probability, and the probabilities of the chain that made the data."""
    import vmix
    from vmix.inference import Gibbs
    from vmix.models import MarkovModel

    generator = np.random.default_rng(0)
    truth = np.array([[0.1, 0.8, 0.1], [0.1, 0.3, 0.6], [0.7, 0.1, 0.2]])
    x = np.zeros((4, 20), int)
    for t in range(1, 20):
        x[:, t] = [generator.choice(3, p=truth[k]) for k in x[:, t - 1]]
    fit = vmix.fit(MarkovModel(), x, engine=Gibbs(num_samples=1000, num_warmup=50), seed=0)
    made = Figure(figsize=(9, 2.2), layout="constrained")
    for k, ax in enumerate(made.subplots(1, 3, sharex=True, sharey=True)):
        for to, ink in enumerate(("#0072B2", "#E69F00", "#009E73")):
            ax.hist(fit.posterior["transition"][:, k, to], bins=np.linspace(0, 1, 41), color=ink, alpha=0.6, label=to)
            ax.axvline(truth[k, to], color=ink, linewidth=2)
        ax.set_title(f"from {k}", fontsize=9)
        ax.set_yticks([])
        ax.tick_params(labelsize=8)
        ax.legend(title="to", fontsize=8, title_fontsize=8)
    return made


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
    counts = _words_of(digits.labels, generator)
    model = VAEGMMMLDA(num_components=10, latent_dim=8, hidden=NARROW)
    fit = vmix.fit(model, digits.images, counts, engine=EM(num_sweeps=10), seed=0)
    lift = fit.posterior["phi"] / fit.posterior["phi"].mean(0)
    return drawn(fit, range(10), [WORDS[v] for v in lift.argmax(1)])


def _words_of(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Eight words for each digit, half of them its name, shape (N, 12)."""
    said = np.full((10, len(WORDS)), 0.02)
    said[np.arange(10), np.arange(10)] = 0.5
    said[:, 10:] = 0.2
    said /= said.sum(1, keepdims=True)
    return np.stack([generator.multinomial(8, said[label]) for label in labels])


def model_gmvae() -> Figure:
    """Decoded draws from the components of GMVAE, each with a w of its own."""
    import vmix
    from vmix.inference import SVI
    from vmix.models import GMVAE

    x = vmix.data.load("digits").images
    model = GMVAE(num_components=10, latent_dim=8, mixture_dim=2, mixture_hidden=(64,), hidden=NARROW)
    return drawn(vmix.fit(model, x, engine=SVI(num_steps=4000, batch_size=128, restarts=3), seed=0), range(10))


def model_hmmvaemlda() -> Figure:
    """Digits that count up, with words, a third of either missing: the classes, and a sequence read by them."""
    import vmix
    from vmix.inference import EM
    from vmix.models import HMMVAEMLDA

    digits, generator = vmix.data.load("digits"), np.random.default_rng(0)
    order = _counting_up(generator)
    counts = _words_of(digits.labels[order].ravel(), generator).reshape(*order.shape, -1)
    counts[generator.random(order.shape) < 1 / 3] = 0
    seen = (generator.random(order.shape) > 1 / 3).astype(int)
    x = np.where(seen[..., None] == 1, digits.images[order], 0.0)
    model = HMMVAEMLDA(num_components=10, latent_dim=8, hidden=NARROW, starts=4)
    fit = vmix.fit(model, x, counts, seen, engine=EM(num_sweeps=10), seed=0)
    lift = fit.posterior["phi"] / fit.posterior["phi"].mean(0)
    names, follows = [WORDS[v] for v in lift.argmax(1)], fit.posterior["transition"].argmax(1)
    ring = _ring(follows)
    made = Figure(figsize=(9, 3.2), layout="constrained")
    above, below = made.subfigures(2, 1, height_ratios=(5, 3))
    _draw_rows(above.subplots(1, 2), fit, ring, [f"{names[k]}, then {names[follows[k]]}" for k in ring], 12)
    _read(below.subplots(), x[0], counts[0], seen[0], [names[k] for k in fit.predict(x[:1], counts[:1], seen[:1])[0]])
    return made


def _read(ax: Any, x: np.ndarray, counts: np.ndarray, seen: np.ndarray, found: list[str]) -> None:
    """A sequence: its images and most frequent words, where there are any, and the words of the classes found."""
    from vmix.plots import mosaic

    grid = mosaic(np.where(seen[:, None] == 1, x, 0.15), SHAPE, columns=len(x))
    ax.imshow(np.nan_to_num(grid, nan=0.0), cmap="gray_r", vmin=0, vmax=1)
    heard = [WORDS[row.argmax()] if row.any() else "" for row in counts]
    for line, words in ((12, heard), (18, found)):
        for t, word in enumerate(words):
            ax.text(9 * t + 4, line, word, ha="center", va="center", fontsize=8)
    _bare(ax)
    ax.set_ylim(21, -1)
    ax.set_yticks([4, 12, 18], ["image", "word heard most", "class found"], fontsize=8)


ALL = (
    model_vaegmm, model_infinite_vade, model_hmmvae, model_mlda, model_vaegmmmlda, model_gmvae, model_hmmvaemlda,
    model_markov_model,
)  # fmt: skip
