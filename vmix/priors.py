"""Priors at the scale of the data: what a model of the zoo leaves open, settled once before the fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.checks import check_counts, first_rows, warn_constant_columns

_WIDEST = 1e15
_EDGE = 1e-6  # fractions stay inside (0, 1), where their prior is
Record = TypeVar("Record")
Value = TypeVar("Value")


class DataScale(NamedTuple):
    """Location and scale of the data, column by column, as tuples that a frozen record can hold."""

    loc: tuple[float, ...]
    scale: tuple[float, ...]
    spread: tuple[float, ...]


def data_scale(x: Any, *, num_components: int) -> DataScale:
    """Prior mean and standard deviation of component means, and a guess of a component's width, per column.

    Args:
        x: data, shape (N, D); NaN is left out.
        num_components: K; a component's width is taken as the data's over K^(1/D).

    Returns:
        Means, three standard deviations, and widths; a constant column counts as the smallest column that is not,
        and is named in a warning.

    Raises:
        ValueError: if x is not two-dimensional, every column of it is constant, or its columns spread so far or so
            little that float32 cannot hold their squares.
    """
    x = first_rows(x)
    if x.ndim != 2:
        raise ValueError(f"x must have shape (N, D), found {x.shape}; reshape it to one row per datum")
    warn_constant_columns(x, "x")
    wide = x.astype(np.float64, copy=False)
    loc = np.nanmean(wide, 0)
    std = np.nanstd(wide, 0)
    _refuse_extremes(std)
    positive = std[std > 1e-7 * np.maximum(np.abs(loc), 1e-30)]
    floor = 0.05 * np.median(positive) if positive.size else 1.0
    std = np.maximum(std, floor)
    width = std / num_components ** (1.0 / x.shape[1])
    return DataScale(_floats(loc), _floats(3.0 * std), _floats(width))


def _refuse_extremes(std: np.ndarray) -> None:
    """Refuse spreads whose squares, or the squares' inverses, leave the range of float32."""
    for column, value in enumerate(std):
        if value > _WIDEST or 0 < value < 1 / _WIDEST:
            raise ValueError(
                f"x spreads by {value:.1g} in column {column}; expected standard deviations from {1 / _WIDEST:g} to "
                f"{_WIDEST:g}, whose squares float32 can hold: standardise it, x / x.std(0)"
            )


def settle(model: Record, **values: Any) -> Record:
    """A copy of a frozen record in which fields that are None take these values.

    Raises:
        ValueError: where a location or scale was given for another number of columns.
    """
    for name, value in values.items():
        given = getattr(model, name)
        if name in DataScale._fields and given is not None and len(given) != len(value):
            raise ValueError(
                f"{type(model).__name__}({name}=) has {len(given)} values, but x has {len(value)} columns: give one "
                "for each column, or None to take them from the data"
            )
    return replace(model, **{name: value for name, value in values.items() if getattr(model, name) is None})  # type: ignore[type-var]


def settled(value: Value | None, name: str) -> Value:
    """The value of an option that the data have settled.

    Raises:
        ValueError: while it is None.

    Example:
        >>> settled((128, 64), "hidden")
        (128, 64)
    """
    if value is None:
        raise ValueError(f"{name} is None, not settled on data yet; give it, or run model.with_data(x), as a fit does")
    return value


def without_self_moves(probs: Array) -> Array:
    """Transition probabilities with zeros on the diagonal, from those to the K - 1 other states in their order.

    Args:
        probs: at [k, i] the probability of the i-th state that is not k, shape (..., K, K - 1): draws of
            `Dirichlet(jnp.ones((K, K - 1)))`, for a `vmix.distributions.HiddenSemiMarkov`.

    Returns:
        Shape (..., K, K).

    Example:
        >>> without_self_moves(jnp.array([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]])).tolist()
        [[0.0, 0.25, 0.75], [0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]
    """
    before = [(0, 0)] * (probs.ndim - 1)
    lower = jnp.pad(probs, [*before, (0, 1)])
    return jnp.tril(lower, -1) + jnp.triu(jnp.pad(probs, [*before, (1, 0)]), 1)


def stick_breaking(v: Array) -> Array:
    """Weights w_k = v_k prod_{j<k} (1 - v_j), the last taking what is left.

    Args:
        v: fractions, shape (..., K - 1), in (0, 1).

    Returns:
        Weights on the simplex, shape (..., K).

    Source:
        Sethuraman (1994); truncated as in Ishwaran and James (2001).
    """
    return jnp.exp(log_stick_breaking(v))


def log_stick_breaking(v: Array) -> Array:
    """Logarithms of the weights, shape (..., K): a long stick's last weights are too small to be kept themselves."""
    left = jnp.cumsum(jnp.log1p(-v), -1)
    zero = jnp.zeros_like(left[..., :1])
    return jnp.concatenate([zero, left], -1).at[..., :-1].add(jnp.log(v))


def kept_sticks(v: Array, keep: Array) -> Array:
    """Fractions of the stick for some of the components alone, in their order; their weights share what others had.

    Args:
        v: fractions, shape (K - 1,).
        keep: components, shape (L,), int.

    Returns:
        Fractions, shape (L - 1,).

    Example:
        >>> v = jnp.array([0.5, 0.5, 0.5])
        >>> np.asarray(stick_breaking(kept_sticks(v, jnp.array([0, 2, 3]))), float).round(3).tolist()
        [0.667, 0.167, 0.167]
    """
    w = stick_breaking(v)[keep]
    left = jnp.flip(jnp.cumsum(jnp.flip(w)))  # of this component and those after it
    return jnp.clip(w[:-1] / left[:-1], _EDGE, 1.0 - _EDGE)


def kept_components(globals_: dict[str, Array], keep: Array) -> dict[str, Array]:
    """Globals of a stick-breaking mixture for some components; what is no component's stays."""
    kept = {name: globals_[name][keep] for name in ("loc", "precision", "loadings") if name in globals_}
    return globals_ | kept | {"v": kept_sticks(globals_["v"], keep)}


def _floats(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def check_sequences(x: Any, mask: Any = None, *, num_dims: int) -> None:
    """Check that data are N sequences of T steps, and that a mask marks which steps exist.

    Args:
        x: the data, shape (N, T) or (N, T, D).
        mask: true where a step exists, shape (N, T); None where all do.
        num_dims: the dimensions expected of x.

    Raises:
        ValueError: for another shape, or a mask that is not a run of ones from the first step on.
    """
    wanted = "(N, T)" if num_dims == 2 else "(N, T, D)"
    if x.ndim != num_dims:
        one = "One sequence: x[None] (command line: --steps all, or --steps T if T rows each are a sequence). "
        raise ValueError(
            f"x must have shape {wanted}: N sequences of T steps; found {tuple(x.shape)}. "
            f"{one if x.ndim == num_dims - 1 else ''}Sequences of different lengths: pad them to the longest and give "
            "a mask of shape (N, T), 1 where a step exists"
        )
    if mask is None:
        return
    if tuple(mask.shape) != tuple(x.shape[:2]):
        raise ValueError(f"the mask must have shape {tuple(x.shape[:2])}, one entry a step; found {tuple(mask.shape)}")
    found = first_rows(mask)
    if not np.isin(found, (0, 1)).all():
        raise ValueError("the mask must hold 0 and 1 only: 1 where a step exists")
    if not found[:, 0].all() or (np.diff(found.astype(int), axis=1) > 0).any():
        raise ValueError(
            "the mask must be 1 from the first step on to the end of each sequence, 0 after it; for a gap inside a "
            'sequence keep the mask at 1 and put NaN there with missing="nan"'
        )


def check_documents(x: Any, name: str) -> None:
    """Check that x holds counts, documents by words.

    Raises:
        ValueError: for another shape than (N, V), or negative or fractional counts.
    """
    if x.ndim != 2:
        raise ValueError(f"{name} must have shape (N, V), documents by words; found {x.shape}")
    check_counts(x, name)


def scale_counts(counts: Array, weight: float | None, *, whole: bool = True) -> Array:
    """Counts as they enter a model: absent ones (NaN) as zeros, each document that has tokens scaled to the weight.

    Args:
        counts: documents by words, shape (N, V).
        weight: the total; None leaves the counts as they are.
        whole: round to whole tokens, word by word.
    """
    counts = jnp.nan_to_num(counts)
    if weight is None:
        return counts
    scaled = counts * (weight / jnp.maximum(counts.sum(-1, keepdims=True), 1))
    return jnp.round(scaled) if whole else scaled


def longest_document(x: Any, name: str, *, weight: float | None = None) -> int:
    """The most tokens of a document; NaN counts as none, and those scaled to a weight have at most twice as many.

    Raises:
        ValueError: without any tokens.
    """
    most = int(np.nansum(first_rows(x), 1).max())
    if most == 0:
        raise ValueError(f"{name} has no tokens: every document is all zero; drop this modality, or give its counts")
    # rounding may add half a token a word
    return most if weight is None else int(2 * weight + x.shape[1])
