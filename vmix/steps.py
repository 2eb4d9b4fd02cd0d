"""Steps of sequences as rows of a table, and back: row r of N T rows is step r % T of sequence r // T.

Files hold rows, and tables, pictures and reports speak of rows. `to_sequences` makes sequences of a file's rows;
`as_rows` shows a fit of sequences as a fit of their steps, so that what is drawn and written knows of rows alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array

from vmix.checks import check_positive_int
from vmix.program import Program, trace_sites

if TYPE_CHECKING:
    from vmix.results import Fit

Steps = int | Literal["all"]


def to_sequences(data: np.ndarray, steps: Steps | None, *, sequence_dims: int | None = None) -> np.ndarray:
    """Cut the rows of a table into sequences of T steps.

    Args:
        data: rows, shape (N T, D), or (N T,) of single values.
        steps: T; "all" makes one sequence of all rows, None leaves the rows as they are.
        sequence_dims: the dimensions that the model wants, 3 for (N, T, D) or 2 for (N, T), whose values are then
            whole numbers if they can be; None takes what `data` has and one more.

    Returns:
        Sequences, shape (N, T, D) or (N, T).

    Raises:
        ValueError: if T does not divide the number of rows, or the rows are not of single values where they must be.

    Example:
        >>> to_sequences(np.array([[0.0], [1.0], [1.0], [2.0]]), 2, sequence_dims=2)
        array([[0, 1],
               [1, 2]], dtype=int32)
    """
    if sequence_dims == 2:
        data = _single_values(data, steps)
    elif sequence_dims == 3 and data.ndim == 1:
        data = data[:, None]
    if steps is None:
        return data
    num_steps = len(data) if steps == "all" else check_positive_int(steps, "steps")
    left = len(data) % num_steps
    if left:
        raise ValueError(
            f"{len(data)} rows cannot be cut into sequences of steps={num_steps}: {left} would be left over; give a "
            f'number that divides {len(data)}, drop rows, or say "all" (--steps all) for one sequence'
        )
    return data.reshape(-1, num_steps, *data.shape[1:])


def _single_values(data: np.ndarray, steps: Steps | None) -> np.ndarray:
    """Rows of single values without their column; whole numbers as integers, as text files do not tell."""
    if steps is not None and data.ndim == 2:
        if data.shape[1] != 1:
            raise ValueError(
                f"the rows have {data.shape[1]} columns, but this model takes sequences of single values: give one "
                "column, or no steps (--steps) where each row is a whole sequence"
            )
        data = data[:, 0]
    if steps is None and data.ndim == 2 and data.shape[1] == 1:
        raise ValueError(
            "the data have one column, so each row would be a sequence of one step; give the number of steps of a "
            "sequence (--steps T), or --steps all if the rows are one sequence"
        )
    if isinstance(data, np.memmap) or data.dtype.kind != "f":
        return data
    whole = np.isfinite(data) & (data == np.floor(data)) & (np.abs(data) < 2**31)
    return data.astype(np.int32) if whole.all() else data


class Rows(NamedTuple):
    """A fit, and the data and labels it is shown on, all by row: shapes (N, D) and (N,)."""

    fit: Any
    data: np.ndarray
    labels: np.ndarray | None


def as_rows(fit: Fit | StepRows, data: np.ndarray, labels: np.ndarray | None = None) -> Rows:
    """Show a fit of sequences as a fit of their steps; a fit of rows, and one shown so already, as it is.

    Args:
        fit: a fitted model.
        data: N sequences of T steps, shape (N, T, D) or (N, T), where the fit is one of sequences.
        labels: one a step, shape (N, T) or (N T,), or one a sequence, shape (N,), which then holds for all its steps.

    Returns:
        The fit by step, data of shape (N T, D), labels of shape (N T,).
    """
    labels = None if labels is None else np.asarray(labels)
    data = np.asanyarray(data)  # a memmap stays one
    if fit.sequence_dims is None or data.ndim < 2:
        return Rows(fit, data, labels)
    num_sequences, num_steps = data.shape[:2]
    if labels is not None:
        per_sequence = num_steps > 1 and labels.shape == (num_sequences,)
        labels = np.repeat(labels, num_steps) if per_sequence else labels.reshape(-1)
    return Rows(StepRows(fit, num_steps), _by_step(data), labels)


@dataclass(frozen=True, eq=False)
class StepRows:
    """A fit of sequences with the face of a fit of rows, each a step; everything that is not by row is the fit's own.

    What the fit finds for a sequence as a whole, such as the component of a mixture of chains, holds for each step.

    Attributes:
        fit: the fit.
        num_steps: T; rows come in whole sequences of it.
    """

    fit: Any
    num_steps: int
    sequence_dims = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fit, name)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Most probable component of each step, shape (N T,)."""
        return self.predict_proba(rows).argmax(1)

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        """Responsibilities of each step, shape (N T, K)."""
        probs = np.asarray(self.fit.predict_proba(self._sequences(rows)))
        return _by_step(probs) if probs.ndim == 3 else np.repeat(probs, self.num_steps, axis=0)

    def transform(self, rows: np.ndarray) -> np.ndarray:
        """Latent of each step, shape (N T, L)."""
        codes = np.asarray(self.fit.transform(self._sequences(rows)))
        plan, first, parts = self.fit._plan, 0, []
        for shape in (plan.sites[name].shape[1:] for name in plan.latents):
            has_steps = plan.layout.num_steps is not None and shape[:1] == (plan.layout.num_steps,)
            width = self.num_steps * math.prod(shape[1:]) if has_steps else math.prod(shape)
            part, first = codes[:, first : first + width], first + width
            part = part.reshape(len(codes), self.num_steps, -1) if has_steps else part[:, None]
            parts.append(np.broadcast_to(part, (len(codes), self.num_steps, part.shape[-1])))
        return _by_step(np.concatenate(parts, -1))

    def reconstruct(self, rows: np.ndarray) -> np.ndarray:
        """Reconstruction of each step, shape (N T, D)."""
        return _by_step(np.asarray(self.fit.reconstruct(self._sequences(rows))))

    def sample(
        self, num_samples: int, *, component: int | None = None, seed: int = 0, mean: bool = False
    ) -> np.ndarray:
        """Steps of drawn sequences, shape (num_samples, D).

        Steps of single values, drawn without a component, keep their order: they lie along rows, as sequences do.
        """
        count = -(-num_samples // self.num_steps)
        drawn = np.asarray(self.fit.sample(count, component=component, seed=seed, mean=mean))
        if drawn.ndim == 2 and component is None:
            return drawn[:, :num_samples]
        return _by_step(drawn)[:num_samples]

    def score(self, rows: np.ndarray) -> float:
        """Mean elbo or log evidence, nats per datum, which is a sequence."""
        return self.fit.score(self._sequences(rows))

    def _sequences(self, rows: np.ndarray) -> np.ndarray:
        return rows.reshape(-1, self.num_steps, *(rows.shape[1:] if self.fit.sequence_dims > 2 else ()))


@dataclass(frozen=True, eq=False)
class Bound:
    """A fit of several data arrays with the face of a fit of one of them, by which it is shown.

    Attributes:
        fit: the fit.
        arrays: all its arrays, of as many rows as the methods are given of that one.
        place: which of them that is.
        site_shown: the observed site that holds it; None where that is not known.
    """

    fit: Any
    arrays: tuple
    place: int = 0
    site_shown: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fit, name)

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Most probable component of each datum, given all arrays."""
        return self.fit.predict(*self._with(x))

    def predict_proba(self, x: np.ndarray) -> np.ndarray:
        """Responsibilities, given all arrays."""
        return self.fit.predict_proba(*self._with(x))

    def transform(self, x: np.ndarray) -> np.ndarray:
        """Latents, given all arrays."""
        return self.fit.transform(*self._with(x))

    def score(self, x: np.ndarray) -> float:
        """Mean elbo or log evidence of all arrays, nats per datum."""
        return self.fit.score(*self._with(x))

    def reconstruct(self, x: np.ndarray) -> np.ndarray:
        """Mean of what the array that is shown holds."""
        return self._of_site(self.fit.reconstruct(*self._with(x)))

    def sample(self, num_samples: int, **how: Any) -> np.ndarray:
        """New data of the array that is shown, for evenly spaced rows of what else the program is given."""
        rows = np.linspace(0, len(self.arrays[0]) - 1, num_samples).astype(int)
        given = tuple(array[rows] for array in self.arrays)
        return self._of_site(self.fit.sample(num_samples, given=given, **how))

    def _with(self, x: np.ndarray) -> tuple:
        return (*self.arrays[: self.place], x, *self.arrays[self.place + 1 :])

    def _of_site(self, found: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        """What belongs to the site that is shown, the first one where that is not known."""
        if not isinstance(found, dict):
            return np.asarray(found)
        return np.asarray(found.get(self.site_shown or "", next(iter(found.values()))))


def bound(fit: Any, *arrays: Any) -> Any:
    """A fit shown by the first of its arrays that it observes; the fit itself where there is one array alone."""
    if len(arrays) < 2:
        return fit
    plan: Any = getattr(fit, "_plan", None)
    site, place = first_observed(plan.program, plan.template) if getattr(plan, "template", ()) else (None, 0)
    return Bound(fit, tuple(np.asanyarray(array) for array in arrays), place, site)


def first_observed(program: Program, args: tuple) -> tuple[str | None, int]:
    """The first observed site that holds one of the data arrays as it is, and which one that is.

    Args:
        program: the program.
        args: the data arrays, or a few rows of each.

    Returns:
        Name and place; None and 0 where the program changes all that it observes.
    """
    found: list[tuple[str, int]] = []

    def run(key: Array, *data: Array) -> None:
        for name, site in trace_sites(program.model, data, key=key).items():
            if site["type"] == "sample" and site["is_observed"]:
                found.extend((name, place) for place, array in enumerate(data) if site["value"] is array)

    jax.eval_shape(run, jax.random.key(0), *args)
    return found[0] if found else (None, 0)


def _taking(fit: Any, data_used: np.ndarray) -> Any:
    """The same fit for these data alone."""
    if isinstance(fit, StepRows):
        return StepRows(_taking(fit.fit, data_used), fit.num_steps)
    return replace(fit, arrays=tuple(a[data_used] for a in fit.arrays)) if isinstance(fit, Bound) else fit


def reconstruct_rows(fit: Any, data: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Reconstruct some rows; steps, from the whole sequences that they belong to.

    Args:
        fit: as `as_rows` returned it.
        data: the rows, shape (N, D).
        rows: which rows, shape (n,).

    Returns:
        Their reconstructions, shape (n, D).
    """
    length = fit.num_steps if isinstance(fit, StepRows) else 1
    data_used, place = np.unique(rows // length, return_inverse=True)
    whole = (data_used[:, None] * length + np.arange(length)).reshape(-1)
    return np.asarray(_taking(fit, data_used).reconstruct(np.asarray(data[whole])))[place * length + rows % length]


def describe_rows(fit: Any, data: np.ndarray) -> str:
    """The size of what `as_rows` returned, in words.

    Example:
        >>> from types import SimpleNamespace
        >>> shown = as_rows(SimpleNamespace(sequence_dims=3), np.zeros((2, 5, 4)))
        >>> describe_rows(shown.fit, shown.data)
        '10 rows of 4 columns, the steps of 2 sequences (a datum is a sequence)'
    """
    columns = np.size(data[0])
    text = f"{len(data):,} rows of {columns} column{'s'[: columns != 1]}"
    if not isinstance(fit, StepRows):
        return text
    count = len(data) // fit.num_steps
    return f"{text}, the steps of {count:,} sequence{'s'[: count != 1]} (a datum is a sequence)"


def _by_step(sequences: np.ndarray) -> np.ndarray:
    """(N, T, ...) to (N T, ...); (N, T) to (N T, 1)."""
    return sequences.reshape(-1, *(sequences.shape[2:] or (1,)))
