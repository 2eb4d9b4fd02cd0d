"""For mkdocstrings: the section that our docstrings call `Example:` is the one that Griffe knows as `Examples:`.

Else `>>>` would be read as Markdown, which makes quotations of it.
"""

from __future__ import annotations

import re
from typing import Any

import griffe


class ReferenceExamples(griffe.Extension):
    """Rename the section of everything that is documented."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """See `griffe.Extension`."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.M)
