"""A fit without the components that hold no data: a smaller program with the same networks.

A program can be pruned if its record has `pruned(globals, keep) -> (record, globals)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from vmix.plan import bare_plan
from vmix.predicting import Predictor

if TYPE_CHECKING:
    from vmix.results import Fit

LEAST = 0.001


def check_least(least: float) -> None:
    """Check the share of the data that a component must hold.

    Raises:
        ValueError: if it is not in [0, 1).
    """
    if not isinstance(least, Real) or not 0.0 <= least < 1.0:
        raise ValueError(f"least must be a share of the data in [0, 1), found {least!r}: 0.01 is 1 % of them")


def pruned(fit: Fit, shares: np.ndarray, least: float) -> Fit:
    """A fit of the components with at least this share of the data.

    Args:
        fit: the fit.
        shares: expected share of the data in each component, at each draw, shape (draws, K).
        least: share that a component must hold at one draw to stay.

    Returns:
        A fit of the smaller program, with the posterior and the networks of these components.

    Raises:
        TypeError: if the program does not say how it is pruned.
        ValueError: if fewer than two components would stay.
    """
    check_least(least)
    source = fit._plan.program.source
    cut: Callable | None = getattr(source, "pruned", None)
    if cut is None:
        raise TypeError(
            f"program {fit.model_name} cannot be pruned: its record has no method `pruned(globals, keep)`; models with "
            "a truncation, as DirichletProcessMixture and InfiniteVaDE, have one"
        )
    held = shares.max(0) >= max(least, np.finfo(np.float32).tiny)
    keep = tuple(int(k) for k in np.flatnonzero(held))
    if len(keep) < 2:
        raise ValueError(f"components {list(keep)} hold data; at least 2 have to stay: give a smaller `least`")
    smaller, _ = cut({name: jnp.asarray(value[0]) for name, value in fit._predictor.globals.items()}, keep)
    old = fit._plan
    plan = bare_plan(smaller, old.template, frames=old.frames, updates={}, missing=old.missing)
    plan = replace(plan, columns=old.columns, reads_data=old.reads_data)
    globals_ = _each(cut, keep, fit._predictor.globals, leading=1)
    extra = next((np.ndim(v) - np.ndim(globals_[n][0]) for n, v in fit.posterior.items() if n in globals_), 0)
    posterior = _each(cut, keep, {n: jnp.asarray(v) for n, v in fit.posterior.items()}, leading=extra)
    params = jax.tree.map(jnp.asarray, fit.params)
    return replace(
        fit,
        settings={**fit.settings, "model": {**fit.settings["model"], **_changed(source, smaller)}},
        posterior={name: np.asarray(value) for name, value in posterior.items()},
        _predictor=Predictor(plan, globals_, params, per_datum=fit._predictor.treatment),
        _plan=plan,
    )


def _each(cut: Callable, keep: tuple[int, ...], globals_: dict[str, Any], *, leading: int) -> dict[str, Any]:
    """The globals of some components, at every draw."""
    one = lambda values: cut(values, keep)[1]  # noqa: E731
    for _ in range(leading):
        one = jax.vmap(one)
    return one(globals_)


def _changed(old: Any, new: Any) -> dict[str, Any]:
    """The fields in which two records differ."""
    return {name: value for name, value in vars(new).items() if value != vars(old)[name]}
