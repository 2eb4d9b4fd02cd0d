"""What to say to a name that nobody knows."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


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


def knows_its_options(function: Callable[P, R]) -> Callable[P, R]:
    """Have a function tell of an option that it does not have, with the nearest one that it has.

    Example:
        >>> knows_its_options(unknown)("word", "name", [], nown=3)
        Traceback (most recent call last):
        ...
        TypeError: unknown: there is no option 'nown'; expected one of known, name, word; did you mean 'known'?
    """
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def wrapped(*given: P.args, **named: P.kwargs) -> R:
        for name in named:
            if name not in known:
                options = [n for n, p in known.items() if p.kind is not inspect.Parameter.VAR_POSITIONAL]
                raise TypeError(f"{function.__name__}: {unknown('option', name, options)}")
        return function(*given, **named)

    return wrapped
