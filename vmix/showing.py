"""How records and fits look: in a notebook as HTML whose every text is escaped, a fit in a shell as a few lines."""

from __future__ import annotations

import html
import inspect
import sys
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from vmix.results import Fit

MAX_TEXT = 120


class Shown:
    """A frozen dataclass of options that a notebook shows with its story: a base for models of the zoo, without state.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Coins(Shown):
        ...     num_components: int = 2
        >>> "<td>num_components</td><td><code>2</code></td>" in Coins()._repr_html_()
        True
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        """The model's name and first line, the story its file tells, and its options."""
        kind = type(self)
        options = [(f.name, _code(getattr(self, f.name))) for f in fields(self) if f.init]  # type: ignore[arg-type]
        story = _story(getattr(sys.modules.get(kind.__module__), "__doc__", None) or "")
        shown = f"<pre>{html.escape(story)}</pre>" if story else ""
        line = (inspect.getdoc(kind) or "").partition("\n")[0]
        title = f"<p><b>{html.escape(kind.__name__)}</b>: {html.escape(line)}</p>"
        return title + shown + _table(("option", "value"), options)


def fit_html(fit: Fit) -> str:
    """A fit in a few lines, the shapes of its posterior, and its plan to be unfolded."""
    shown = _table(("fit", ""), [(name, html.escape(text)) for name, text in _facts(fit)])
    shown += _table(("posterior", "shape"), [(name, html.escape(shape)) for name, shape in _shapes(fit)])
    title = f"{fit.model_name} fitted with {fit.engine_name}"
    plan = f"<details><summary>Plan</summary>{fit.plan._repr_html_()}</details>"
    return f"<p><b>{html.escape(title)}</b></p>{shown}{plan}"


def fit_text(fit: Fit) -> str:
    """The same lines as plain text, without the plan."""
    sites = ", ".join(f"{name} ({shape})" for name, shape in _shapes(fit)) or "none"
    lines = [f"{name:<11}{text}" for name, text in [*_facts(fit), ("posterior", sites)]]
    return "\n".join([f"{fit.model_name} fitted with {fit.engine_name}", *lines])


def _facts(fit: Fit) -> list[tuple[str, str]]:
    """How a fit came about and how it ended, each under a name."""
    objective = np.atleast_2d(np.asarray(fit.history["objective"]))
    steps = f"{objective.shape[1]:,} {fit.history.get('step_name', 'step')}s"
    last = f"{objective[0, -1]:,.4f} {fit.history.get('unit', 'nats per datum')}" if objective.size else "none"
    ended = "interrupted" if fit.interrupted else "converged" if fit.converged else "ran to its end"
    facts = [("seed", str(fit.seed)), ("objective", last), ("ended", f"{ended}, after {steps} and {fit.seconds:.1f} s")]
    return facts if fit.num_components is None else [*facts, ("components", str(fit.num_components))]


def _shapes(fit: Fit) -> list[tuple[str, str]]:
    """The shape of each site of the posterior."""
    return [(name, " x ".join(map(str, np.shape(value))) or "scalar") for name, value in fit.posterior.items()]


def _table(head: Sequence[str], rows: Iterable[tuple[str, str]]) -> str:
    """A table of a name, which is escaped here, and what is HTML already."""
    cells = "".join(f"<tr><td>{html.escape(name)}</td><td>{value}</td></tr>" for name, value in rows)
    return "<table><tr>" + "".join(f'<th scope="col">{html.escape(h)}</th>' for h in head) + f"</tr>{cells}</table>"


def _code(value: Any) -> str:
    text = repr(value)
    return f"<code>{html.escape(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + ' ...')}</code>"


def _story(doc: str) -> str:
    """The lines of a model file's docstring that are formulas: from the first that has a ~ or an = to the last."""
    lines = inspect.cleandoc(doc).partition("\n\n")[2].partition("\nSource:")[0].splitlines()
    known = [number for number, line in enumerate(lines) if " ~ " in line or " = " in line]
    return textwrap.dedent("\n".join(lines[known[0] : known[-1] + 1])) if known else ""
