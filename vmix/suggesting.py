"""What to say to a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def unknown(word: str, name: str, known: Iterable[str]) -> str:
    """An error's text that says what there is and what was perhaps meant.

    Args:
        word: what the name should be the name of.
        name: what was found.
        known: what was expected.

    Example:
        >>> unknown("engine", "gibs", ["em", "gibbs", "svi"])
        "there is no engine 'gibs'; expected one of em, gibbs, svi; did you mean 'gibbs'?"
    """
    known = sorted(known)
    close = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1)
    meant = [k for k in known if close and k.lower() == close[0]]
    hint = f"; did you mean {meant[0]!r}?" if meant else ""
    return f"there is no {word} {name!r}; expected one of {', '.join(known)}{hint}"
