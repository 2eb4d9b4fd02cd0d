"""Options of a record, judged when it is made: by name, and by the annotations of its fields.

    @checked(pretrain_epochs=0, noise=Range(0.0, below=1.0), pixels=("bernoulli", "gaussian"))
    @dataclass(frozen=True, kw_only=True)
    class Model: ...

An `int` is a whole number of at least 1, a `float` a finite number above 0, a tuple holds such numbers, and `| None`
lets None through; what is given to the decorator, a range or the words allowed, takes the place of that. Other
annotations are not judged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import fields
from numbers import Integral, Real
from typing import Any, NamedTuple, TypeVar

from vmix.suggesting import unknown

Class = TypeVar("Class", bound=type)


class Range(NamedTuple):
    """The numbers that an option takes.

    Attributes:
        least: the smallest one, itself allowed.
        above: in its place, a number that every one must exceed.
        below: a number that every one must stay under.
        most: in its place, the largest one, itself allowed.
    """

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None

    def holds(self, value: Any) -> bool:
        """Whether a number lies inside; NaN and infinity never do."""
        return bool(
            math.isfinite(value)
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def words(self) -> str:
        """The range as the end of "a number"."""
        said = (("of at least", self.least), ("above", self.above), ("below", self.below), ("of at most", self.most))
        found = [f"{word} {bound:g}" for word, bound in said if bound is not None]
        return " ".join(["", " and ".join(found)]) if found else ""


ANY = Range()
_WHOLE, _REAL = Range(least=1), Range(above=0.0)


def checked(**ranges: float | Range | tuple[str, ...]) -> Callable[[Class], Class]:
    """Have a frozen record refuse options that it does not have, and values that its annotations do not allow.

    Args:
        **ranges: fields to what they take, where that is not the rule of their annotation: a range, a bare number (the
            least), or a tuple of words.

    Returns:
        A decorator of the record's class. Its `__init__` raises TypeError for an unknown option, with the nearest known
        one, and ValueError for a value out of range.

    Example:
        >>> from dataclasses import dataclass
        >>> @checked()
        ... @dataclass(frozen=True, kw_only=True)
        ... class Mixture:
        ...     num_components: int = 3
        >>> Mixture(num_components=2.5)
        Traceback (most recent call last):
        ...
        ValueError: Mixture(num_components=) must be a positive whole number, found 2.5
    """
    known = {name: value if isinstance(value, tuple) else Range(least=value) for name, value in ranges.items()}

    def decorate(record: Class) -> Class:
        kinds = {field.name: _kind(field.type) for field in fields(record) if field.init}
        made = record.__init__  # type: ignore[misc]

        @functools.wraps(made)
        def __init__(self: Any, *given: Any, **named: Any) -> None:
            if given:
                raise TypeError(f"{record.__name__} takes its options by name: {_example(record.__name__, kinds)}")
            for name, value in named.items():
                if name not in kinds:
                    raise TypeError(f"{record.__name__}: {unknown('option', name, kinds)}")
                _check(f"{record.__name__}({name}=)", value, kinds[name], known.get(name))
            made(self, **named)

        record.__init__ = __init__  # type: ignore[misc]
        return record

    return decorate


def _kind(annotation: Any) -> str:
    """An annotation as it is written, whether it was evaluated or not."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _example(name: str, kinds: dict[str, str]) -> str:
    return f"{name}({next(iter(kinds))}=...)"


def _check(where: str, value: Any, kind: str, allowed: Range | tuple[str, ...] | None) -> None:
    """Judge one value by the text of its annotation."""
    kinds = kind.split(" | ")
    optional = "None" in kinds
    if value is None and optional:
        return
    kinds = [k for k in kinds if k != "None"]
    expected = _wanted(kinds[0], allowed) if len(kinds) == 1 else None
    if expected is not None and not expected[0](value):
        raise ValueError(f"{where} must be {expected[1]}{', or None' if optional else ''}, found {value!r}")


def _wanted(kind: str, allowed: Range | tuple[str, ...] | None) -> tuple[Callable[[Any], bool], str] | None:
    """A judge of values and what it wants in words; None for annotations that are not judged."""
    if allowed is not None and not isinstance(allowed, Range):
        return (lambda value: value in allowed, " or ".join(f'"{word}"' for word in allowed))
    whole, real = (allowed or default for default in (_WHOLE, _REAL))
    words = "a positive whole number" if whole == _WHOLE else f"a whole number{whole.words()}"
    judges: dict[str, tuple[Callable[[Any], bool], str]] = {
        "bool": (lambda value: isinstance(value, bool), "True or False"),
        "int": (lambda value: _is(value, Integral) and whole.holds(value), words),
        "float": (lambda value: _is(value, Real) and real.holds(value), f"a finite number{real.words()}"),
        "tuple[int, ...]": (_all_of(Integral, whole), f"a tuple of whole numbers{whole.words()}"),
        "tuple[float, ...]": (_all_of(Real, real), f"a tuple of finite numbers{real.words()}"),
        "optax.GradientTransformation": (
            lambda value: callable(getattr(value, "update", None)) and callable(getattr(value, "init", None)),
            "an Optax transformation such as optax.adam(1e-3)",
        ),
    }
    return judges.get(kind)


def _is(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _all_of(kind: type, numbers: Range) -> Callable[[Any], bool]:
    def judge(values: Any) -> bool:
        several = isinstance(values, Sequence) and not isinstance(values, str)
        return several and all(_is(value, kind) and numbers.holds(value) for value in values)

    return judge
