"""Write docs/models/NAME.md, a page a model, and its plate diagram.

    python docs/make_models.py

The story and its sources are the model's docstring, the diagram and the table are the plans that the library makes
today, and the rest is in docs/models/pages.toml. Planning fifteen models takes a few minutes.
"""

from __future__ import annotations

import importlib
import re
import tomllib
import warnings
from pathlib import Path
from typing import Any

import make_readme
from plate_diagram import diagram

DOCS = Path(__file__).resolve().parent
PAGES = DOCS / "models"
DIAGRAMS = DOCS / "pictures" / "plates"
FAMILIES = {
    "Independent mixtures": ("GaussianMixture", "BernoulliMixture", "DirichletProcessMixture"),
    "Sequences": ("HMM", "MarkovModel"),
    "Topics": ("LDA", "MLDA"),
    "Autoencoders": ("VAE", "VAEGMM", "VaDE", "InfiniteVaDE", "GMVAE"),
    "Several at once": ("HMMVAE", "VAEGMMMLDA", "HMMVAEMLDA"),
}


def plan_of(name: str) -> Any:
    """The plan of a model on a few digits."""
    import jax

    import vmix
    from vmix import models
    from vmix.door import check_arrays, prepare
    from vmix.plan import make_plan

    x = vmix.data.load("digits").images[: make_readme.NUM_ROWS]
    arrays = check_arrays(make_readme.data_for(name, x), missing=None)
    model = getattr(models, name)(**make_readme.SMALL.get(name, {}))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* constant column")  # the border of so few digits
        return make_plan(prepare(model, arrays), arrays, key=jax.random.key(0))


def page(name: str, plan: Any, told: dict[str, str]) -> str:
    """The page of a model, in Markdown."""
    from vmix import models

    record = getattr(models, name)
    title, story, rest, source = parts_of(importlib.import_module(record.__module__).__doc__ or "")
    path = f"{record.__module__}.{name}"
    pieces = [
        "<!-- Written by docs/make_models.py; change docs/models/pages.toml or the model's docstring. -->",
        f"# {name}",
        title,
        "## The generative story",
        f"```text\n{story}\n```",
        *rest,
        f"![Plate diagram of {name}](../pictures/plates/{name}.svg)",
        legend(plan),
        "## The plan under each engine",
        table(plan),
        *started(plan),
        "## When to use it",
        told["when"].strip(),
        f"Options: [reference](../reference/models.md#{path}); in short beside the others: "
        f"[the models](../models.md#{name.lower()}).",
    ]
    pieces += ["## An example", f"```python\n{told['example'].strip()}\n```"]
    pieces += [f"![{told['caption']}](../pictures/{told['picture']})", f"*{told['caption']}*"]
    pieces += ["## References", source]
    return "\n\n".join(pieces) + "\n"


def legend(plan: Any) -> str:
    """How to read the diagram."""
    words = ["Circles are random, shaded ones are observed"]
    if plan.names("network"):
        words.append("squares are networks, and dashed arrows the encoder")
    if any(site.num_steps or site.family == "MarkovChain" for site in plan.sites.values()):
        words.append("the steps share their parameters, whose arrows are drawn to one step")
    return f"*{'; '.join(words)}. What is in the box repeats for every datum.*"


def parts_of(text: str) -> tuple[str, str, list[str], str]:
    """A module's docstring as first line, story, other paragraphs and sources."""
    first, *paragraphs = re.split(r"\n\s*\n", text.strip())
    is_story = [bool(re.match(r"( {4}|\w+ +~ )", p)) for p in paragraphs]
    story = "\n\n".join(re.sub(r"^ {4}", "", p, flags=re.M) for p, yes in zip(paragraphs, is_story, strict=True) if yes)
    prose = [" ".join(p.split()) for p, yes in zip(paragraphs, is_story, strict=True) if not yes]
    source = " ".join(p.removeprefix("Source: ") for p in prose if p.startswith("Source: "))
    source = source[:1].upper() + source[1:]
    return first, story, [_coded(p) for p in prose if not p.startswith("Source: ")], _coded(source)


def _coded(text: str) -> str:
    """Prose of a docstring, in which names with underscores become code where they are not yet."""
    spans = re.split(r"(`[^`]*`)", text)
    return "".join(s if s.startswith("`") else re.sub(r"\b(\w+_\w+)\b", r"`\1`", s).replace("*", r"\*") for s in spans)


def table(plan: Any) -> str:
    """The update of every hidden site under each engine, side by side."""
    from vmix.explaining import explain_plan
    from vmix.inference import EM, SVI, Gibbs
    from vmix.program import ProgramError

    columns = {}
    for engine in (SVI(), EM(), Gibbs()):
        try:
            engine.check(plan, make_readme.NUM_ROWS)
            columns[engine.name] = {row.site: row for row in explain_plan(plan, engine).rows}
        except ProgramError as error:
            columns[engine.name] = error
    lines = ["| site | role | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for site, info in plan.sites.items():
        cells = [f"refused: {c}" if isinstance(c, Exception) else _cell(c[site]) for c in columns.values()]
        lines.append(f"| `{site.removesuffix('$params')}` | {info.role} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Any) -> str:
    return f"{row.update} ({row.exactness})" if row.exactness else row.update


def started(plan: Any) -> list[str]:
    """The stages of the start, as a paragraph; nothing where there are none."""
    from vmix.starting import describe, recipe_of

    stages = list(describe(plan, recipe_of(plan, None)))
    return ["A fit begins with: " + "; then ".join(stages) + "."] if stages else []


def write() -> list[Path]:
    """Write all pages and diagrams.

    Returns:
        Their paths.
    """
    told = tomllib.loads((PAGES / "pages.toml").read_text())
    DIAGRAMS.mkdir(parents=True, exist_ok=True)
    written = []
    for name in (name for names in FAMILIES.values() for name in names):
        plan = plan_of(name)
        for path, text in (
            (PAGES / f"{name}.md", page(name, plan, told[name])),
            (DIAGRAMS / f"{name}.svg", diagram(plan)),
        ):
            path.write_text(text)
            written.append(path)
    return written


if __name__ == "__main__":
    for path in write():
        print(path.relative_to(DOCS))
