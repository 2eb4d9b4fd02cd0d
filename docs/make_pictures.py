"""Draw the pictures of docs/concepts/: one function a picture, named as its file.

python docs/make_pictures.py                  all of them (some minutes)
python docs/make_pictures.py em_sweeps        those named
"""

# Length: a function a picture

from __future__ import annotations

import argparse
import io
import warnings
from pathlib import Path
from typing import Any

import model_pictures
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.special import log_softmax, logsumexp
from scipy.stats import norm

PICTURES = Path(__file__).resolve().parent / "pictures"
BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#999999"


def figure(width: float, height: float, columns: int, rows: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure in inches and its axes."""
    made = Figure(figsize=(width, height), layout="constrained")
    return made, made.subplots(rows, columns, **options)


def mixed(responsibilities: np.ndarray, colours: tuple[str, ...]) -> np.ndarray:
    """Colours mixed by responsibilities, shape (N, 3)."""
    return np.clip(responsibilities @ np.array([to_rgb(c) for c in colours]), 0, 1)


def ellipses(ax: Any, loc: np.ndarray, scale: np.ndarray, colours: tuple[str, ...]) -> None:
    """Two standard deviations around each component's mean."""
    for mean, width, colour in zip(loc, scale, colours, strict=True):
        ax.add_patch(Ellipse(mean, *(4 * width), fill=False, edgecolor=colour, linewidth=2))
        ax.plot(*mean, "+", color=colour, markersize=9, markeredgewidth=2)


def em_sweeps() -> Figure:
    """Three states of EM on a mixture of three components."""
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [4.0, 0.0], [2.0, 3.0]])
    x = np.concatenate([m + generator.normal(size=(100, 2)) * [1.0, 0.6] for m in centres])
    w, loc, tau = np.full(3, 1 / 3), x[[0, 10, 20]], np.ones((3, 2))
    made, axes = figure(9, 3, 3, sharex=True, sharey=True)
    colours = (BLUE, ORANGE, GREEN)
    shown = iter(axes)
    for sweep in range(31):
        squares = (tau * (x[:, None] - loc) ** 2).sum(2)
        terms = np.log(w) + 0.5 * (np.log(tau / (2 * np.pi)).sum(1) - squares)
        total = logsumexp(terms, axis=1)
        r = np.exp(terms - total[:, None])
        if sweep in (0, 2, 30):
            ax = next(shown)
            ax.scatter(*x.T, s=9, c=mixed(r, colours))
            ellipses(ax, loc, 1 / np.sqrt(tau), colours)
            ax.set_title(f"{sweep} sweeps: {total.mean():.2f} nats per datum", fontsize=10)
        count = r.sum(0)
        w, loc = count / len(x), r.T @ x / count[:, None]
        tau = 1 / np.stack([r[:, k] @ (x - loc[k]) ** 2 / count[k] for k in range(3)])
    return made


def bound_touches() -> Figure:
    """The log evidence of one mean in a mixture, and the bound after three E-steps."""
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(-2.0, 1.0, 60), generator.normal(2.5, 1.0, 40)])
    grid = np.linspace(-1, 6, 400)

    def joint(mean: np.ndarray) -> np.ndarray:
        at = np.broadcast_to(np.asarray(mean)[..., None], (*np.shape(mean), len(x)))
        return np.stack([np.log(0.6) + norm.logpdf(x, -2.0, 1) + 0 * at, np.log(0.4) + norm.logpdf(x, at, 1)])

    made, ax = figure(7, 3.4, 1)
    ax.plot(grid, logsumexp(joint(grid), axis=0).mean(1), color="black", linewidth=2, label="log evidence")
    mean = 0.2
    for number, colour in enumerate((BLUE, ORANGE, GREEN)):
        r = np.exp(log_softmax(joint(np.array(mean)), axis=0))
        entropy = -(r * np.log(r)).sum(0).mean()
        bound = (r[:, None] * joint(grid)).sum(0).mean(1) + entropy
        ax.plot(grid, bound, color=colour, label=f"bound after E-step {number + 1}")
        ax.plot([mean], [logsumexp(joint(np.array(mean)), axis=0).mean()], "o", color=colour)
        mean = r[1] @ x / r[1].sum()
    ax.set_ylim(-3.2, -1.7)
    ax.set_xlabel("mean of the second component")
    ax.set_ylabel("nats per datum")
    ax.legend(frameon=False, fontsize=9)
    return made


def gibbs_steps() -> Figure:
    """Axis-parallel moves on a correlated pair, and the histogram of one coordinate."""
    generator, rho = np.random.default_rng(1), 0.9
    state, path = np.array([-2.5, 2.0]), []
    for _ in range(4000):
        for axis in (0, 1):
            state = state.copy()
            state[axis] = generator.normal(rho * state[1 - axis], np.sqrt(1 - rho**2))
            path.append(state)
    path = np.array(path)
    made, (left, right) = figure(8.5, 3.4, 2)
    grid = np.linspace(-3, 3, 200)
    a, b = np.meshgrid(grid, grid)
    density = np.exp(-(a**2 - 2 * rho * a * b + b**2) / (2 * (1 - rho**2)))
    left.contour(a, b, density, levels=5, colors=GREY, linewidths=0.8)
    left.plot(*path[:60].T, color=BLUE, linewidth=1)
    left.plot(*path[1:60:2].T, "o", color=BLUE, markersize=3)
    left.set_title("thirty sweeps", fontsize=10)
    right.hist(path[101::2, 0], bins=40, density=True, color=BLUE, alpha=0.5)
    right.plot(grid, norm.pdf(grid), color="black")
    right.set_title("draws of the first coordinate, and its exact density", fontsize=10)
    return made


def smoothing() -> Figure:
    """Filtered and smoothed probabilities of a state."""
    generator = np.random.default_rng(4)
    stay, length = 0.95, 120
    states = [0]
    while len(states) < length:
        states.append(states[-1] if generator.random() < stay else 1 - states[-1])
    states = np.array(states)
    x = 2.0 * states - 1 + generator.normal(0, 1.2, length)
    evidence = np.stack([norm.logpdf(x, -1, 1.2), norm.logpdf(x, 1, 1.2)], 1)
    moves = np.log([[stay, 1 - stay], [1 - stay, stay]])
    forward, backward = np.zeros((length, 2)), np.zeros((length, 2))
    forward[0] = np.log(0.5) + evidence[0]
    for t in range(1, length):
        forward[t] = evidence[t] + logsumexp(forward[t - 1][:, None] + moves, axis=0)
    for t in range(length - 2, -1, -1):
        backward[t] = logsumexp(moves + evidence[t + 1] + backward[t + 1], axis=1)
    made, (above, below) = figure(8.5, 4, 1, 2, sharex=True)
    above.plot(x, "o", color=GREY, markersize=3)
    above.step(range(length), 2.0 * states - 1, color="black", where="mid", linewidth=1)
    above.set_ylabel("x")
    below.fill_between(range(length), states, color=GREY, alpha=0.3, step="mid", linewidth=0, label="truth")
    below.plot(np.exp(log_softmax(forward, axis=1))[:, 1], color=ORANGE, linewidth=1, label="filtered")
    below.plot(np.exp(log_softmax(forward + backward, axis=1))[:, 1], color=BLUE, linewidth=2.2, label="smoothed")
    below.set_ylabel("p(upper state)")
    below.set_xlabel("step")
    below.legend(frameon=False, fontsize=9, loc="center right")
    return made


def topic_bars() -> Figure:
    """Topics of the bars, true and found."""
    from scipy.optimize import linear_sum_assignment

    import vmix
    from vmix.inference import EM
    from vmix.models import LDA

    generator = np.random.default_rng(0)
    cells, bars = np.arange(25).reshape(5, 5), np.zeros((10, 25))
    for i in range(5):
        bars[i, cells[i]] = bars[5 + i, cells[:, i]] = 0.2
    theta = generator.dirichlet(np.full(10, 0.3), size=500)
    x = np.stack([generator.multinomial(100, t @ bars) for t in theta])
    engine = EM(per_datum="mean-field", num_sweeps=300, restarts=8, tolerance=None)
    phi = vmix.fit(LDA(num_components=10, doc_concentration=0.3), x, engine=engine, seed=0).posterior["phi"]
    order = linear_sum_assignment(np.abs(bars[:, None] - phi).sum(2))[1]
    made, axes = figure(9, 2, 10, 2)
    for row, topics in zip(axes, (bars, phi[order]), strict=True):
        for ax, topic in zip(row, topics, strict=True):
            ax.imshow(topic.reshape(5, 5), cmap="viridis", vmin=0, vmax=0.25)
            ax.set_xticks([])
            ax.set_yticks([])
    axes[0, 0].set_ylabel("true")
    axes[1, 0].set_ylabel("found")
    return made


def decoder_plane() -> Figure:
    """The decoder over a grid of two latents, each image the mean of x there."""
    import vmix
    from vmix.inference import SVI
    from vmix.models import VAE
    from vmix.plots import mosaic

    x = vmix.data.load("digits").images
    model = VAE(latent_dim=2, hidden=(128, 64))
    fit = vmix.fit(model, x, engine=SVI(num_steps=4000), seed=0)
    count = 15
    places = norm.ppf((np.arange(count) + 0.5) / count)
    grid = np.stack(np.meshgrid(places, places[::-1]), -1).reshape(-1, 2)
    images = decoded(model, fit.params, grid, num_columns=64)
    made, ax = figure(5, 5, 1)
    ax.imshow(np.nan_to_num(mosaic(images, (8, 8), columns=count), nan=1.0), cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    return made


def decoded(model: Any, params: dict, z: np.ndarray, *, num_columns: int) -> np.ndarray:
    """E[x | z] at given latents, shape (n, D), by the fit's own decoder."""
    import jax.numpy as jnp
    from numpyro import handlers

    told = handlers.substitute(model.model, data={"z": jnp.asarray(z), **params})
    sites = handlers.trace(handlers.seed(told, 0)).get_trace(jnp.zeros((len(z), num_columns)))
    return np.asarray(sites["x"]["fn"].mean)


def vae_and_vade() -> Figure:
    """Two-dimensional codes under one normal prior and under ten components."""
    import vmix
    from vmix.inference import SVI
    from vmix.models import VAE, VaDE

    digits, steps, batch = vmix.data.load("digits"), 4000, 256
    x, labels = digits.images, digits.labels
    model = VaDE(num_components=10, latent_dim=2, hidden=(128, 64), views=1)
    vade = vmix.fit(model, x, engine=SVI(num_steps=steps, batch_size=batch), seed=0)
    # as many steps as VaDE has had with its start's, one objective an epoch
    trained = [stage for stage in vade.history["stages"] if stage["name"] != "mixture on codes"]
    steps += sum(len(stage["objective"]) for stage in trained) * (len(x) // batch)
    vae = vmix.fit(VAE(latent_dim=2, hidden=(128, 64)), x, engine=SVI(num_steps=steps, batch_size=batch), seed=0)
    made, axes = figure(9, 4.5, 2)
    for ax, fit, title in zip(axes, (vae, vade), ("VAE", "VaDE"), strict=True):
        z = fit.transform(x)
        ax.scatter(*z.T, s=5, c=labels, cmap="tab10", linewidths=0)
        for digit in range(10):
            at = np.median(z[labels == digit], 0)
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 1}
            ax.text(*at, str(digit), fontsize=10, ha="center", va="center", bbox=box)
        ax.set_title(f"{title}: {fit.score(x):.2f} nats per datum", fontsize=10)
        ax.set_xticks([])
        ax.set_yticks([])
    return made


def vade_before_after() -> Figure:
    """Latents of VaDE after its start and after sixty sweeps of the joint fit."""
    import vmix
    from vmix.inference import EM
    from vmix.models import VaDE
    from vmix.plots import latent_scatter, pca_2d

    x = vmix.data.load("digits").images
    model = VaDE(num_components=10, latent_dim=10, hidden=(128,))
    kept = {}

    def look(number: int, so_far: Any) -> None:
        if number in (1, 60):
            kept[number] = so_far()

    vmix.fit(model, x, engine=EM(num_sweeps=60), seed=0, callback=look)
    made, axes = figure(9, 4.5, 2)
    for ax, (number, fit) in zip(axes, sorted(kept.items()), strict=True):
        title = f"{'one sweep after the start' if number == 1 else 'sixty sweeps'}: {fit.score(x):.2f} nats per datum"
        latent_scatter(ax, pca_2d(fit.transform(x)), fit.predict(x), title)
        ax.title.set_fontsize(10)
        ax.set_xticks([])
        ax.set_yticks([])
    return made


def messages() -> Figure:
    """Beliefs by the joint model, by cavity messages, and by messages that hold the receiver's evidence."""
    from vmix.distributions import MarkovChain

    generator, length = np.random.default_rng(0), 60
    moves = np.log([[0.9, 0.1], [0.2, 0.8]])
    evidence = generator.normal(0.0, 0.8, (length, 2))
    into, back = np.zeros((length, 2)), np.zeros((length, 2))
    into[0] = np.log(0.5)
    for t in range(1, length):
        into[t] = logsumexp((into[t - 1] + evidence[t - 1])[:, None] + moves, axis=0)
    for t in range(length - 2, -1, -1):
        back[t] = logsumexp(moves + evidence[t + 1] + back[t + 1], axis=1)
    cavity = np.exp(log_softmax(into + back + evidence, axis=1))[:, 1]
    twice = np.exp(log_softmax(into + back + 2 * evidence, axis=1))[:, 1]
    made, ax = figure(8.5, 3, 1)
    joint = MarkovChain(np.full(2, 0.5), np.exp(moves), length).posterior(evidence).marginals[:, 1]
    ax.plot(joint, color=GREY, linewidth=6, alpha=0.5, label="joint model")
    ax.plot(cavity, color=BLUE, linewidth=1.5, label="cavity messages")
    ax.plot(twice, color=ORANGE, linewidth=1.5, linestyle="--", label="evidence counted twice")
    ax.set_xlabel("datum")
    ax.set_ylabel("p(second class)")
    ax.legend(frameon=False, fontsize=9)
    return made


def sticks() -> Figure:
    """Weights of broken sticks at three concentrations, and a fit with empty components."""
    import vmix
    from vmix.inference import Gibbs
    from vmix.models import DirichletProcessMixture

    generator = np.random.default_rng(0)
    made, (left, right) = figure(9, 3.6, 2)
    for row, (a, colour) in enumerate(((0.5, BLUE), (2.0, ORANGE), (8.0, GREEN))):
        for draw in range(5):
            v = generator.beta(1.0, a, 20)
            w = v * np.concatenate([[1.0], np.cumprod(1 - v)[:-1]])
            starts = np.concatenate([[0.0], np.cumsum(w)[:-1]])
            shades = 0.25 + 0.75 * (np.arange(20) % 2)
            height = -(row * 6 + draw)
            for start, width, shade in zip(starts, w, shades, strict=True):
                left.barh(height, width, left=start, color=colour, alpha=shade, height=0.8, linewidth=0)
        left.text(1.02, -(row * 6 + 2), f"a = {a:g}", va="center", fontsize=10)
    left.set_xlim(0, 1.15)
    left.set_yticks([])
    left.set_xlabel("length of stick")
    centres = np.array([[0, 0], [6, 0], [0, 6], [6, 6]])
    x = np.concatenate([m + generator.normal(size=(60, 2)) for m in centres])
    model = DirichletProcessMixture(truncation=12, concentration=1.0)
    fit = vmix.fit(model, x, engine=Gibbs(num_samples=300, num_warmup=200), seed=0)
    c = fit.predict(x)
    colours = np.array([BLUE, ORANGE, GREEN, PINK, "#56B4E9", "#D55E00", "#F0E442", GREY] * 2)
    right.scatter(*x.T, s=10, c=colours[np.unique(c, return_inverse=True)[1]])
    right.set_title(f"{len(np.unique(c))} of 12 components hold data", fontsize=10)
    return made


def restarts() -> Figure:
    """Objectives of sixteen random starts of one mixture."""
    import vmix
    from vmix.inference import EM
    from vmix.models import GaussianMixture

    generator = np.random.default_rng(3)
    centres = 5.0 * np.stack(np.meshgrid(range(3), range(3)), -1).reshape(9, 2)
    x = np.concatenate([m + generator.normal(size=(40, 2)) for m in centres])
    model, engine = GaussianMixture(num_components=9), EM(num_sweeps=150, tolerance=None)
    fits = vmix.fit_many(model, x, engine=engine, seeds=range(16), init="random")
    start = {"w": np.full(9, 1 / 9), "loc": centres, "precision": np.ones((9, 2))}
    truth = vmix.fit(model, x, engine=engine, seed=0, init=start)
    made, ax = figure(7.5, 3.4, 1)
    for fit in fits:
        ax.plot(np.arange(1, 151), fit.history["objective"], color=BLUE, linewidth=1, alpha=0.7)
    ax.axhline(truth.history["objective"][-1], color="black", linestyle="--", linewidth=1)
    ax.set_ylim(truth.history["objective"][-1] - 0.35, truth.history["objective"][-1] + 0.03)
    ax.set_xlabel("sweep")
    ax.set_ylabel("objective (nats per datum)")
    return made


def image_row(images: np.ndarray, titles: list[str]) -> Figure:
    """Flat square images side by side."""
    made, axes = figure(9, 1.3, len(images))
    for ax, image, title in zip(axes, images, titles, strict=True):
        side = int(len(image) ** 0.5)
        ax.imshow(image.reshape(side, side), cmap="gray_r")
        ax.set_title(title, fontsize=8)
        ax.set_axis_off()
    return made


def model_gaussian_mixture() -> Figure:
    """Means of a Gaussian mixture of digits."""
    import vmix
    from vmix.inference import EM
    from vmix.models import GaussianMixture

    x = vmix.data.load("digits").images
    fit = vmix.fit(GaussianMixture(num_components=10), x, engine=EM(num_sweeps=500, restarts=4), seed=0)
    return image_row(fit.posterior["loc"], [f"{w:.2f}" for w in fit.posterior["w"]])


def model_bernoulli_mixture() -> Figure:
    """Profiles of a Bernoulli mixture of black and white digits."""
    import vmix
    from vmix.inference import EM
    from vmix.models import BernoulliMixture

    x = (vmix.data.load("digits").images > 0.5).astype(float)
    fit = vmix.fit(BernoulliMixture(num_components=10), x, engine=EM(num_sweeps=500, restarts=4), seed=0)
    return image_row(fit.posterior["theta"], [f"{w:.2f}" for w in fit.posterior["w"]])


ALL = (
    em_sweeps, bound_touches, gibbs_steps, smoothing, topic_bars, decoder_plane, vae_and_vade, vade_before_after,
    messages, sticks, restarts, model_gaussian_mixture, model_bernoulli_mixture, *model_pictures.ALL,
)  # fmt: skip


def save(made: Figure, path: Path) -> None:
    """Write a figure as a PNG of few colours, without the time and the program in it."""
    from PIL import Image

    buffer = io.BytesIO()
    made.savefig(buffer, format="png", dpi=110)
    image = Image.open(buffer).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def main() -> None:
    """Draw what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[draw.__name__ for draw in ALL] + [[]], metavar="name")
    asked = parser.parse_args().names
    warnings.filterwarnings("ignore", message="x has [0-9]+ constant column")
    for draw in ALL:
        if not asked or draw.__name__ in asked:
            path = PICTURES / f"{draw.__name__}.png"
            save(draw(), path)
            print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
