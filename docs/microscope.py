# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
# ---

# %% [markdown]
# # The engine microscope
#
# EM, SVI and Gibbs on the same two-dimensional data, from the same start, one sweep at a time. The start is poor on
# purpose: all three components sit in one corner. Open it as a notebook (jupytext, VS Code): the last cell is a player
# with buttons that step sweep by sweep. Run it as a script to write the player as a page, or the book's animation:
#
#     python docs/microscope.py look.html
#     python docs/microscope.py docs/pictures/microscope.gif

# %%
"""The engine microscope: three engines side by side from one start, sweep by sweep."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

import vmix
from vmix.inference import EM, SVI, Gibbs
from vmix.models import GaussianMixture

COLOURS = ("#0072B2", "#E69F00", "#009E73")
FRAMES = 40
STEPS_A_FRAME = 5  # of SVI, whose steps are small

# %% [markdown]
# ## Data and start


# %%
def make_data() -> np.ndarray:
    """Three elongated groups, shape (240, 2)."""
    generator = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [5.0, 0.5], [2.0, 4.0]])
    widths = np.array([[1.2, 0.5], [0.5, 1.0], [1.0, 0.6]])
    return np.concatenate([m + s * generator.normal(size=(80, 2)) for m, s in zip(centres, widths, strict=True)])


START = {
    "w": np.full(3, 1 / 3),
    "loc": np.array([[-1.0, -0.5], [-0.5, 0.5], [0.0, -0.5]]),
    "precision": np.ones((3, 2)),
}
MODEL = GaussianMixture(num_components=3)

# %% [markdown]
# ## One engine under the microscope
#
# `callback=` hands out the fit as it stands after every sweep or step. What is looked at is public: the values of
# sites in `fit.posterior`, the responsibilities that follow from them, and the objective in `fit.history`.


# %%
class Look(NamedTuple):
    """What is seen of an engine after one sweep or step.

    Attributes:
        number: of the sweep or step.
        loc: means, shape (3, 2).
        scale: standard deviations, shape (3, 2).
        responsibilities: at those values, shape (N, 3).
        objective: all that were seen so far, nats per datum.
    """

    number: int
    loc: np.ndarray
    scale: np.ndarray
    responsibilities: np.ndarray
    objective: np.ndarray


def responsibilities(x: np.ndarray, w: np.ndarray, loc: np.ndarray, precision: np.ndarray) -> np.ndarray:
    """p(c_n = k | x_n) at given values of the globals, shape (N, K)."""
    squares = (precision * (x[:, None] - loc) ** 2).sum(2)
    logits = np.log(w) + 0.5 * (np.log(precision).sum(1) - squares)
    shares = np.exp(logits - logits.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def watch(engine: Any, x: np.ndarray, every: int) -> list[Look]:
    """Fit, and look after every `every`-th sweep or step; Gibbs is seen at its last draw."""
    seen: list[Look] = []

    def look(number: int, so_far: Any) -> None:
        if number % every:
            return
        fit = so_far()
        last = {name: np.asarray(fit.posterior[name]) for name in START}
        if isinstance(engine, Gibbs):
            last = {name: value[-1] for name, value in last.items()}
        shares = responsibilities(x, last["w"], last["loc"], last["precision"])
        seen.append(Look(number, last["loc"], last["precision"] ** -0.5, shares, fit.history["objective"]))

    vmix.fit(MODEL, x, engine=engine, seed=0, init=START, callback=look)
    return seen


ENGINES = {
    "EM": (EM(num_sweeps=FRAMES, tolerance=None), 1),
    "SVI": (SVI(num_steps=FRAMES * STEPS_A_FRAME, learning_rate=0.1), STEPS_A_FRAME),
    "Gibbs": (Gibbs(num_samples=FRAMES, num_warmup=0), 1),
}

# %% [markdown]
# ## The picture
#
# Points take the colours of their responsibilities; ellipses are two standard deviations. Below, the objective in nats
# per datum. EM climbs and stops, SVI climbs in small steps, Gibbs climbs and then wanders around the mode: it draws.


# %%
def animate(seen: dict[str, list[Look]], x: np.ndarray) -> tuple[Figure, FuncAnimation]:
    """An animation, a column an engine."""
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    top, bottom = figure.subplots(2, len(seen), height_ratios=(2.6, 1), squeeze=False)
    palette = np.array([to_rgb(colour) for colour in COLOURS])
    low, high = x.min(0) - 1.5, x.max(0) + 1.5
    ends = np.concatenate([looks[-1].objective for looks in seen.values()])
    limits = (np.quantile(ends, 0.02) - 0.1, ends.max() + 0.1)

    def draw(frame: int) -> list:
        for column, (name, looks) in enumerate(seen.items()):
            now, ax, trace = looks[frame], top[column], bottom[column]
            ax.clear()
            ax.scatter(*x.T, s=7, c=np.clip(now.responsibilities @ palette, 0, 1), linewidths=0)
            for mean, width, colour in zip(now.loc, now.scale, COLOURS, strict=True):
                ax.add_patch(Ellipse(mean, *(4 * width), fill=False, edgecolor=colour, linewidth=2))
            unit = "step" if name == "SVI" else "sweep"
            ax.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), xticks=[], yticks=[])
            ax.set_title(f"{name}, {unit} {now.number}: {now.objective[-1]:.2f} nats per datum", fontsize=9)
            trace.clear()
            trace.plot(np.arange(1, len(now.objective) + 1), now.objective, color="#444444", linewidth=1.2)
            trace.set(xlim=(0, len(looks[-1].objective)), ylim=limits)
            trace.tick_params(labelsize=7)
        return []

    return figure, FuncAnimation(figure, draw, frames=len(next(iter(seen.values()))), interval=250)


# %%
GLYPHS = {
    "minus": "&minus;",
    "fast-backward": "|&lt;",
    "step-backward": "&lt;",
    "play fa-flip-horizontal": "&#9664;",
    "pause": "&#10074;&#10074;",
    "play": "&#9654;",
    "step-forward": "&gt;",
    "fast-forward": "&gt;|",
    "plus": "+",
}


def player(seen: dict[str, list[Look]], x: np.ndarray) -> str:
    """The animation as HTML with buttons to step by; it needs no widgets, and loads nothing."""
    _, animation = animate(seen, x)
    made = animation.to_jshtml(fps=4, default_mode="once")
    made = re.sub(r"<link[^>]*>", "", made)  # a font of icons, from elsewhere
    return re.sub(r'<i class="fa fa-([\w -]+)"></i>', lambda found: GLYPHS[found[1]], made)


def look_at_all() -> tuple[dict[str, list[Look]], np.ndarray]:
    """The three engines under the microscope, and the data."""
    x = make_data()
    return {name: watch(engine, x, every) for name, (engine, every) in ENGINES.items()}, x


def write(path: Path) -> None:
    """Write the player (.html) or the animation (.gif)."""
    seen, x = look_at_all()
    if path.suffix == ".html":
        path.write_text(f"<!doctype html><meta charset='utf-8'><title>The engine microscope</title>{player(seen, x)}")
    else:
        animate(seen, x)[1].save(path, writer=PillowWriter(fps=4), dpi=80)
    print(f"{path}: {path.stat().st_size:,} bytes")


# %% [markdown]
# ## Look
#
# The buttons in the middle go one sweep on or back. EM's first step is its largest; find the sweep at which Gibbs stops
# climbing.

# %%
if "get_ipython" in globals():  # a notebook
    from IPython.display import HTML, display

    display(HTML(player(*look_at_all())))
elif __name__ == "__main__":
    write(Path(sys.argv[1]))
