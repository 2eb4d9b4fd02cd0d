"""From a zoo record to an estimator's constructor, and back to the record, the engine and the seed of a fit."""

from __future__ import annotations

import inspect
import numbers
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

from vmix.inference import EM, SVI, Gibbs
from vmix.suggesting import unknown

ENGINES: dict[str, Any] = {"em": EM, "svi": SVI, "gibbs": Gibbs}
SHARED = {"engine": "em", "engine_options": None, "init": None, "random_state": None, "verbose": False}
GAPS = {"missing": None}
GAPS_DOC = """
    missing: "nan": NaN in X means missing, and is summed out; None refuses it."""
SHARED_DOC = """
    engine: "em", "svi", "gibbs", or an engine with its options, such as `EM(restarts=8)`.
    engine_options: options of an engine given by name, as {"restarts": 8}; None takes its defaults.
    init: where a fit begins, as for `vmix.fit`.
    random_state: a whole number is the seed of `vmix.fit`; a RandomState draws one; None takes another every time.
    verbose: whether to show a progress line on standard error."""


def defaults_of(record: type, more: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of an estimator of a zoo record, with their defaults."""
    own = {f.name: f.default for f in fields(record) if f.init}
    return {**own, **more, **SHARED}


def constructor(defaults: Mapping[str, Any]) -> Callable[..., None]:
    """An `__init__` that keeps its arguments as they are, under a signature that `get_params` and `help` can read."""

    def __init__(self: Any, **given: Any) -> None:
        for name in given:
            if name not in defaults:
                raise TypeError(f"{type(self).__name__}: {unknown('parameter', name, defaults)}")
        for name, default in defaults.items():
            setattr(self, name, given.get(name, default))

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    keywords = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=d) for n, d in defaults.items()]
    __init__.__signature__ = inspect.Signature([own, *keywords])  # type: ignore[attr-defined]
    return __init__


def documented(record: type, doc: str, more_doc: str) -> str:
    """An estimator's docstring with the model's arguments, which are written once, in the model."""
    arguments = (inspect.getdoc(record) or "").partition("Args:\n")[2].rstrip()
    return f"{inspect.cleandoc(doc)}\n\nArgs:\n{arguments}{more_doc}{SHARED_DOC}\n"


def make_record(record: type, given: Mapping[str, Any]) -> Any:
    """The zoo model of these parameters; NumPy's numbers and lists, as grids hold them, become Python's and tuples."""
    return record(**{name: _plain(value) for name, value in given.items()})


def make_engine(engine: Any, options: Mapping[str, Any] | None) -> Any:
    """The engine of a fit.

    Raises:
        ValueError: for an unknown name or option, or options beside an engine that has its own.
    """
    if not isinstance(engine, str):
        if options:
            raise ValueError(
                f"engine_options={options!r} is given beside engine={engine!r}, which has its own options; give one of "
                'both: engine=EM(restarts=8), or engine="em" and engine_options={"restarts": 8}'
            )
        return engine
    if engine not in ENGINES:
        raise ValueError(unknown("engine", engine, ENGINES))
    known = inspect.signature(ENGINES[engine]).parameters
    for name in options or {}:
        if name not in known:
            raise ValueError(f"engine_options: {unknown(f'option of {ENGINES[engine].name}', name, known)}")
    return ENGINES[engine](**(options or {}))


def make_seed(random_state: Any) -> int:
    """A whole number as it is; else one drawn as scikit-learn draws."""
    if isinstance(random_state, numbers.Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return tuple(_plain(v) for v in value) if isinstance(value, list | tuple) else value
