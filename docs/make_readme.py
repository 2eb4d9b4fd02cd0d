"""Write the generated parts of README.md: the table models x engines, and the picture.

    python docs/make_readme.py                       the table, from the plans that the library makes today
    python docs/make_readme.py --run runs/digits     the picture too, from a fitted run

Each row is the plan of one model on a few digits, laid out under each engine as `vmix.explain` does it; so the table
says what the library does and not what somebody remembers.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "pictures" / "vade_digits.png"
NUM_ROWS = 64
SMALL = {
    name: {"hidden": (4,)}
    for name in ("GMVAE", "HMMVAE", "HMMVAEMLDA", "InfiniteVaDE", "VAE", "VAEGMM", "VAEGMMMLDA", "VaDE")
}


def table() -> str:
    """The table models x engines, in Markdown."""
    import vmix
    from vmix import models
    from vmix.inference import EM, SVI, Gibbs

    x = vmix.data.load("digits").images[:NUM_ROWS]
    engines = (SVI(), EM(), Gibbs())
    lines = ["| model | " + " | ".join(engine.name for engine in engines) + " |", "|" + "---|" * (len(engines) + 1)]
    for name in models.__all__:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* constant column")  # the border of so few digits
            cells = plan_cells(getattr(models, name)(**SMALL.get(name, {})), data_for(name, x), engines)
        lines.append(" | ".join([f"| `{name}`", *cells]) + " |")
    return "\n".join(lines)


def data_for(name: str, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """The digits as the model takes them: rows, sequences of rows, or counts of ink."""
    counts = np.round(16 * x).astype(np.int32)
    shaped = {
        "HMM": (x.reshape(8, -1, x.shape[1]),),
        "HMMVAE": (x.reshape(8, -1, x.shape[1]),),
        "HMMVAEMLDA": (x[:, ::2].reshape(8, 8, -1), counts[:, 1::2].reshape(8, 8, -1)),
        "MarkovModel": ((counts.sum(1) % 4).reshape(8, -1),),
        "LDA": (counts,),
        "MLDA": (counts[:, ::2], counts[:, 1::2]),
        "VAEGMMMLDA": (x[:, ::2], counts[:, 1::2]),
    }
    return shaped.get(name, (x,))


def plan_cells(model: Any, data: tuple[np.ndarray, ...], engines: tuple) -> list[str]:
    """Plan a model once; a cell for each engine."""
    import jax

    from vmix.door import check_arrays, prepare
    from vmix.explaining import explain_plan
    from vmix.plan import make_plan
    from vmix.program import ProgramError

    arrays = check_arrays(data, missing=None)
    plan = make_plan(prepare(model, arrays), arrays, key=jax.random.key(0))
    cells = []
    for engine in engines:
        try:
            engine.check(plan, len(arrays[0]))
            cells.append(cell(explain_plan(plan, engine).rows))
        except ProgramError as error:
            cells.append(f"refused: {error}")
    return cells


def cell(rows: tuple) -> str:
    """The updates of all sites that are not observed, and whether all of them are exact."""
    hidden = [row for row in rows if not row.role.startswith(("observed", "factor", "global factor"))]
    said = []
    for update, sites in groupby(hidden, key=lambda row: row.update.partition(", ")[0]):
        said.append(f"{names(sites)}: {update}")
    loose = {row.exactness for row in hidden if not row.exactness.startswith("exact")}
    verdict = "**exact**" if not loose else f"**approximate** ({', '.join(sorted(loose))})"
    return "; ".join(dict.fromkeys(said)) + "; " + verdict


def names(rows: Any) -> str:
    """Sites in code letters; all networks are one word."""
    return ", ".join(dict.fromkeys("networks" if row.role == "network" else f"`{row.site}`" for row in rows))


def picture_text() -> str:
    """The picture with its caption; nothing while there is no picture."""
    if not PICTURE.exists():
        return ""
    where = PICTURE.relative_to(ROOT).as_posix()
    about = (
        "VaDE on 1,797 handwritten digits, fitted without labels by the command below: the latents in two principal\n"
        "directions, coloured by component, and digits drawn from each component (a row each)."
    )
    return f"![Latents of digits coloured by component, and samples of each component]({where})\n\n{about}"


def replaced(text: str, name: str, content: str) -> str:
    """The README with one generated part replaced.

    Raises:
        ValueError: if the README has no such part.
    """
    pattern = rf"(<!-- generated: {re.escape(name)} -->\n).*?(<!-- end -->)"
    new, count = re.subn(pattern, lambda m: f"{m[1]}{content}\n{m[2]}" if content else m[1] + m[2], text, flags=re.S)
    if count != 1:
        raise ValueError(f"{README.name} has {count} parts {name!r}; expected one <!-- generated: {name} --> ... end")
    return new


def part(text: str, name: str) -> str:
    """One generated part of the README, as it stands."""
    found = re.search(rf"<!-- generated: {re.escape(name)} -->\n(.*?)\n?<!-- end -->", text, re.S)
    return found[1] if found else ""


def draw(run: Path) -> None:
    """Draw a run: its latents by component beside samples of each component."""
    import vmix
    from vmix import plots

    fit = vmix.load(run)
    latents = np.load(run / "latents.npy")
    components = np.loadtxt(run / "labels.csv", delimiter=",", skiprows=1, dtype=int)[:, 1]
    held = np.unique(components)
    samples = np.stack([fit.sample(10, component=int(k), seed=fit.seed, mean=True) for k in held])

    def paint(ax: Any) -> None:
        figure = ax.figure
        ax.remove()
        left, right = figure.subplots(1, 2, width_ratios=(1.25, 1))
        plots.latent_scatter(left, plots.pca_2d(latents), components, "latents, coloured by component")
        plots.component_samples(right, samples, plots.image_shape(samples.shape[-1]), names=held)
        right.set_title("digits drawn from each component")

    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_bytes(plots.png(paint, size=(11, 5.2)))


def main() -> None:
    """Write the parts of the README."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--run", type=Path, help="folder of a run, to draw the picture from")
    run = parser.parse_args().run
    if run is not None:
        print(json.loads((run / "config.json").read_text(encoding="utf-8"))["command"])
        draw(run)
    text = replaced(README.read_text(encoding="utf-8"), "picture", picture_text())
    README.write_text(replaced(text, "models x engines", table()), encoding="utf-8")


if __name__ == "__main__":
    main()
