"""The files of a network of modules: a folder a module, as the Serket tutorials describe, and pictures.

DIR/graph.png                      the modules and the variables they share
DIR/module001_vae/z_learn.txt      codes; round01/z_learn.txt those of a round; z_round01.png their two first directions
DIR/module002_gmm/class_learn.txt  classes; acc_learn.txt accuracy, where labels were given; probabilities.txt
DIR/module003_mm/transition.txt    and transition.png
DIR/module*/history.json           objective, accuracy and seconds of every update
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vmix import plots
from vmix.compose.module import CLASSES, Module, Observation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from vmix.compose.network import Network

_DIGITS = 6


def folder_of(network: Network, module: Module) -> str:
    """The name of a module's folder: its place in the graph and its name."""
    return f"module{network.modules.index(module):03d}_{module.name}"


def write_round(network: Network, folder: Path, number: int) -> None:
    """Write what every module holds after a round: the latest at the top, and a copy in the round's own folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for module in network.learners:
        if module.belief is None:
            continue
        home = folder / folder_of(network, module)
        for place in (home, home / f"round{number:02d}"):
            place.mkdir(parents=True, exist_ok=True)
            _write_belief(module, place)
        (home / "history.json").write_text(json.dumps(module.history, indent=1))
        _write_pictures(network, module, home, number)
    draw_graph(network, folder / "graph.png")


def _write_belief(module: Module, folder: Path) -> None:
    value = module.settled(module.belief).value
    if module.sends != CLASSES:
        np.savetxt(folder / "z_learn.txt", value, fmt=f"%.{_DIGITS}g")
        return
    np.savetxt(folder / "class_learn.txt", value.argmax(1), fmt="%d")
    np.savetxt(folder / "probabilities.txt", value, fmt=f"%.{_DIGITS}g")
    if module.history["accuracy"]:
        (folder / "acc_learn.txt").write_text(f"{module.history['accuracy'][-1]:.{_DIGITS}f}\n")
    transition = (module.params or {}).get("transition")
    if transition is not None:
        np.savetxt(folder / "transition.txt", transition, fmt=f"%.{_DIGITS}g")


def _write_pictures(network: Network, module: Module, home: Path, number: int) -> None:
    transition = (module.params or {}).get("transition")
    if transition is not None:
        title = f"{module.name}: transitions, round {number}"
        (home / "transition.png").write_bytes(
            plots.png(lambda ax: _matrix(ax, np.asarray(transition), title), size=(5, 4.5))
        )
    if module.sends == CLASSES:
        return
    groups = _groups(network)
    points = plots.pca_2d(module.settled(module.belief).value)[: len(groups)]
    title = f"{module.name}: codes after round {number}" + (", before any message" if number == 1 else "")
    picture = plots.png(lambda ax: plots.latent_scatter(ax, points, groups, title), size=(6, 5.5))
    (home / f"z_round{number:02d}.png").write_bytes(picture)


def _groups(network: Network) -> np.ndarray:
    """The colours of the codes: labels where a module has them, else the classes furthest downstream."""
    given = [m.category for m in network.learners if m.category is not None]
    if given:
        return given[0]
    classes = [m.belief for m in network.learners if m.sends == CLASSES and m.belief is not None]
    return classes[-1].value.argmax(1) if classes else np.zeros(len(network.observations[0].x), int)


def _matrix(ax: Axes, matrix: np.ndarray, title: str) -> None:
    image = ax.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis")
    ax.figure.colorbar(image, ax=ax)
    ax.set(xlabel="next class", ylabel="class")
    ax.set_title(title, parse_math=False)


def draw_graph(network: Network, path: Path) -> None:
    """Draw the modules, data at the left, with what passes along each edge."""
    places = _places(network)
    path.parent.mkdir(parents=True, exist_ok=True)
    width = 2.0 + 2.2 * max(x for x, _ in places.values())
    height = 1.5 + 1.2 * max(y for _, y in places.values())
    path.write_bytes(plots.png(lambda ax: _paint_graph(ax, places), size=(width, height)))


def _places(network: Network) -> dict[Module, tuple[float, float]]:
    """Depth in the graph, and a free row at that depth."""
    depth: dict[Module, int] = {}
    taken: dict[int, int] = {}
    places = {}
    for module in network.modules:
        depth[module] = 1 + max((depth[m] for m in module.upstream), default=-1)
        row = taken.get(depth[module], 0)
        taken[depth[module]] = row + 1
        places[module] = (float(depth[module]), float(row))
    return places


def _paint_graph(ax: Axes, places: dict[Module, tuple[float, float]]) -> None:
    arrow = {"arrowstyle": "->", "color": "0.4", "shrinkA": 18, "shrinkB": 18}
    for module, (x, y) in places.items():
        shape = "square" if isinstance(module, Observation) else "round"
        fill = "0.9" if isinstance(module, Observation) else "white"
        box = {"boxstyle": f"{shape},pad=0.5", "facecolor": fill, "edgecolor": plots.colour(0)}
        ax.text(x, -y, module.name, ha="center", va="center", bbox=box, parse_math=False)
        for above in module.upstream:
            start = places[above]
            ax.annotate("", xy=(x, -y), xytext=(start[0], -start[1]), arrowprops=arrow)
            middle = ((x + start[0]) / 2, -(y + start[1]) / 2)
            ax.text(*middle, above.sends, fontsize=7, ha="center", va="bottom", color="0.4")
    xs, ys = zip(*places.values(), strict=True)
    ax.set_xlim(-0.6, max(xs) + 0.6)
    ax.set_ylim(-max(ys) - 0.6, 0.6)
    ax.set_axis_off()
