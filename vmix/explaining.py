"""`vmix.explain`: the plan as a table, the way a database prints a query plan."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax

from vmix.checks import check_seed
from vmix.engine import Engine
from vmix.layout import Layout
from vmix.plan import Plan, make_plan
from vmix.program import DISCRETE, GLOBAL, NETWORK, OBSERVED
from vmix.updates import compresses

COLUMNS = ("site", "role", "family", "shape", "parents", "children", "update", "exactness", "cost", "why")
NARROW = ("site", "role", "family", "update", "exactness", "why")
WIDTH = 170


class Row(NamedTuple):
    """One line of the plan."""

    site: str
    role: str
    family: str
    shape: str
    parents: str
    children: str
    update: str
    exactness: str
    cost: str
    why: str


@dataclass(frozen=True)
class Explanation:
    """A plan under one engine; prints as a table, and shows as HTML in notebooks."""

    title: str
    rows: tuple[Row, ...]
    stages: tuple[str, ...]

    def __str__(self) -> str:
        return self.as_text(WIDTH)

    def as_text(self, width: int) -> str:
        """The table in so many columns of text; below 170 without shapes, parents, children and costs.

        Args:
            width: of the terminal.
        """
        from io import StringIO

        from rich.console import Console
        from rich.table import Table

        table = Table(title=self.title, title_justify="left", expand=False)
        names = COLUMNS if width >= WIDTH else NARROW
        for name in names:
            table.add_column(name, overflow="fold")
        for row in self.rows:
            table.add_row(*(str(getattr(row, name)) for name in names))
        out = StringIO()
        console = Console(file=out, width=width, no_color=True, markup=False, highlight=False)
        console.print(table)
        for i, stage in enumerate(self.stages):
            console.print(f"stage {i + 1}: {stage}")
        return "\n".join(line.rstrip() for line in out.getvalue().splitlines())

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col">{name}</th>' for name in COLUMNS)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>" for row in self.rows)
        stages = "".join(f"<li>{html.escape(stage)}</li>" for stage in self.stages)
        start = f"<p>Start</p><ol>{stages}</ol>" if stages else ""
        return f"<p><b>{html.escape(self.title)}</b></p><table><tr>{head}</tr>{body}</table>{start}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-able record."""
        return {"title": self.title, "rows": [list(row) for row in self.rows], "stages": list(self.stages)}

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Explanation:
        """The inverse of `to_json`."""
        return cls(record["title"], tuple(Row(*row) for row in record["rows"]), tuple(record["stages"]))


def explain(program: Any, *data: Any, engine: Engine, seed: int = 0, missing: str | None = None) -> Explanation:
    """The plan of a program for some data under an engine, site by site.

    Args:
        program: a NumPyro function, or a record with `model` and `guide`.
        *data: the data arrays.
        engine: the engine.
        seed: of the points at which conditionals are verified.
        missing: "nan" to read NaN as missing.

    Returns:
        A table: site, role, shape, parents and children, update, exact or approximate, cost per sweep, and why.
    """
    from vmix.door import check_arrays, check_components, check_engine, prepare

    check_engine(engine)
    arrays = check_arrays(data, missing=missing)
    num_rows, program = len(arrays[0]), prepare(program, arrays)

    def judge(_: Any, layout: Layout) -> None:
        check_components(program, layout, num_rows)

    plan = make_plan(program, arrays, key=jax.random.key(check_seed(seed)), missing=missing is not None, judge=judge)
    engine.check(plan, num_rows)
    return explain_plan(plan, engine)


def explain_plan(plan: Plan, engine: Engine) -> Explanation:
    """Lay a plan out under an engine."""
    from vmix.starting import describe, recipe_of

    rows = tuple(_row(plan, engine, name) for name in plan.sites)
    stages = describe(plan, recipe_of(plan, None))
    return Explanation(f"{plan.program.name} under {engine.name}", rows, tuple(stages))


def _row(plan: Plan, engine: Engine, name: str) -> Row:
    site = plan.sites[name]
    update, exactness = engine.update_rule(plan, name)
    return Row(
        name,
        site.role + (", encoder" if site.has_encoder else ""),
        site.family,
        " x ".join(str(size) for size in site.shape) or "scalar",
        ", ".join(site.parents),
        ", ".join(site.children),
        update,
        exactness,
        _cost(plan, name),
        plan.reasons.get(name, ""),
    )


def _cost(plan: Plan, name: str) -> str:
    """How the work of one sweep grows: N data, K joint states, P statistics, W weights."""
    site = plan.sites[name]
    if site.role == DISCRETE:
        return "N K"
    if site.role == NETWORK:
        return "N W"
    if site.role == OBSERVED or site.is_local:
        return "N K P" if name in plan.frames else "N K" if plan.layout.discrete else "N"
    return "K P" if site.role == GLOBAL and compresses(plan, name) else "N K P"
