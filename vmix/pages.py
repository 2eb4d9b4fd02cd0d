"""Pages that carry all they need: one template's HTML with its figures and the plotting library inside.

The library is 4.8 MB of JavaScript, so it is packed by gzip, and the page's script unpacks it as it opens (browsers of
2023 and newer can). Tables, tabs and pictures need no library.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import secrets
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from markupsafe import Markup


def write_page(path: str | os.PathLike[str], template: str, context: Mapping[str, Any]) -> Path:
    """Fill a template and put the page in place as a whole; an older file is replaced at the end.

    Args:
        path: the HTML file; its folder is made where it is missing.
        template: a template of vmix that extends `page.html.j2`.
        context: what the template names, and `figures`, plotly figures by the id of their element. Every value is
            escaped, except what is marked as HTML already.

    Returns:
        The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(_render(template, context), encoding="utf-8")
    os.replace(aside, path)
    return path


def _render(template: str, context: Mapping[str, Any]) -> str:
    import jinja2

    figures = json.dumps(context["figures"], allow_nan=False)
    for character in "<>&":
        figures = figures.replace(character, f"\\u{ord(character):04x}")
    loader = jinja2.PackageLoader("vmix", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    trusted = {"figures": Markup(figures), "plotly": Markup(_packed_library()), "nonce": secrets.token_urlsafe(16)}
    return environment.get_template(template).render({**context, **trusted})


@cache
def _packed_library() -> str:
    """plotly.js, packed by gzip without a time stamp, in base64."""
    from plotly.offline import get_plotlyjs

    return base64.b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode("ascii")
