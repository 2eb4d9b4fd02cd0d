"""The hidden Markov model as an estimator: rows are steps, of one sequence or of several."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClusterMixin
from sklearn.utils.validation import check_is_fitted, check_non_negative

from vmix import models
from vmix.checks import check_positive_int
from vmix.sklearn.base import FLOATS, LEAST_ROWS, Estimator
from vmix.sklearn.parameters import make_seed


class Sequences(NamedTuple):
    """Sequences made up to one length.

    Attributes:
        x: values, shape (N, T, D), or (N, T) of the categorical emission.
        mask: which steps there are, shape (N, T), bool.
        shape: of the steps as they came: (number of rows,), or (N, T).
    """

    x: np.ndarray
    mask: np.ndarray
    shape: tuple[int, ...]

    def steps(self, values: np.ndarray) -> np.ndarray:
        """Values of shape (N', T', ...), those of the steps that came in, as they came in."""
        found = values[: len(self.mask), : self.mask.shape[1]][self.mask]
        return found.reshape(*self.shape, *found.shape[1:])


class HMM(ClusterMixin, Estimator, record=models.HMM):
    """Hidden Markov model of sequences.

    X has shape (number of steps, D): one sequence, or several behind each other whose numbers of steps are `lengths`.
    Or it has shape (N, T, D): N sequences of T steps each, which cross-validation can split. `predict` then gives
    shape (N, T). The categorical emission takes D = 1.

    Attributes:
        initial_probs_: probability of each first state, shape (K,).
        transition_probs_: probability of moving from state i to state j at [i, j], shape (K, K).
        means_: means, shape (K, D); and precisions_, shape (K, D) or (K, D, D), of the Gaussian emission.
        rates_: mean counts of the Poisson emission, shape (K, D).
        emission_probs_: probabilities of the values of the categorical emission, shape (K, V).
        labels_: most probable state of each step that was fitted.
    """

    _sites = {
        "initial_probs_": "initial",
        "transition_probs_": "transition",
        "means_": "loc",
        "precisions_": "precision",
        "rates_": "rate",
        "emission_probs_": "probs",
    }

    def fit(self, X: ArrayLike, y: Any = None, *, lengths: ArrayLike | None = None) -> HMM:
        """Fit the model.

        Args:
            X: steps, shape (number of steps, D), or sequences, shape (N, T, D).
            y: ignored.
            lengths: number of steps of each sequence, whole numbers that sum to the number of rows of X.

        Returns:
            The estimator itself.

        Raises:
            ValueError: for data, lengths or parameters that cannot be used.
        """
        found = self._sequences(X, lengths, reset=True)
        self._fit((found.x, found.mask))
        self._sequence = found.x[0]
        self.labels_ = found.steps(self.fit_.predict(found.x, found.mask))
        return self

    def fit_predict(self, X: ArrayLike, y: Any = None, *, lengths: ArrayLike | None = None) -> np.ndarray:
        """Fit, and return `labels_`."""
        return self.fit(X, lengths=lengths).labels_

    def predict(self, X: ArrayLike, *, lengths: ArrayLike | None = None) -> np.ndarray:
        """Most probable state of each step, shape (number of steps,) or (N, T), int.

        The most probable path as a whole is `vmix.sequences.most_probable_path(model.fit_, x, mask)`.
        """
        return self.predict_proba(X, lengths=lengths).argmax(-1)

    def predict_proba(self, X: ArrayLike, *, lengths: ArrayLike | None = None) -> np.ndarray:
        """Probability of each state at each step, given the whole sequence, shape (number of steps, K) or (N, T, K)."""
        found = self._sequences(X, lengths)
        return found.steps(self.fit_.predict_proba(*_padded(found))).astype(np.float64)

    def score(self, X: ArrayLike, y: Any = None, *, lengths: ArrayLike | None = None) -> float:
        """Log evidence, nats per step."""
        found = self._sequences(X, lengths)
        return float(self.fit_.score_samples(*_padded(found))[: len(found.x)].sum() / found.mask.sum())

    def sample(self, n_samples: int = 1, *, component: int | None = None) -> np.ndarray:
        """New sequences as long as the longest that was fitted, shape (n_samples, T, D)."""
        check_is_fitted(self)
        check_positive_int(n_samples, "n_samples")
        every_step = [np.zeros((n_samples, *self._sequence.shape), self._sequence.dtype)]
        every_step.append(np.ones(every_step[0].shape[:2], bool))
        seed = make_seed(self.random_state)
        return np.asarray(self.fit_.sample(n_samples, component=component, seed=seed, given=every_step))

    def _sequences(self, X: ArrayLike, lengths: ArrayLike | None, *, reset: bool = False) -> Sequences:
        """Check the steps, and cut them into sequences."""
        if not reset:
            check_is_fitted(self)
        shape: tuple[int, ...] | None = None
        if getattr(X, "ndim", 2) == 3:
            if lengths is not None:
                raise ValueError(
                    "lengths is given, but X has shape (N, T, D), where all have T steps; give one of both"
                )
            X = np.asarray(X)
            shape, lengths = X.shape[:2], np.full(len(X), X.shape[1])
            X = X.reshape(-1, X.shape[2])
        rows = self._validated(X, dtype=FLOATS, reset=reset)
        if self.emission != "gaussian":
            check_non_negative(rows, type(self).__name__)
        mask = _mask(_checked_lengths(lengths, len(rows)))
        x = np.zeros((*mask.shape, rows.shape[1]), rows.dtype)
        x[mask] = rows
        return Sequences(self._values(x), mask, shape or (len(rows),))

    def _values(self, x: np.ndarray) -> np.ndarray:
        """What the emission takes: the categorical one whole numbers of shape (N, T)."""
        if self.emission != "categorical":
            return x
        if x.shape[2] != 1:
            raise ValueError(f'X has {x.shape[2]} columns; emission="categorical" takes one, of whole numbers')
        if (x != np.floor(x)).any():
            raise ValueError('X has fractions; emission="categorical" takes whole numbers 0, 1, 2, ...')
        return x[..., 0].astype(np.int32)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = self.emission in ("poisson", "categorical")
        tags.input_tags.categorical = self.emission in ("poisson", "categorical")
        return tags


def _checked_lengths(lengths: ArrayLike | None, num_rows: int) -> np.ndarray:
    """The number of steps of each sequence; all rows are one sequence where nothing is said."""
    if lengths is None:
        return np.array([num_rows])
    found = np.asarray(lengths)
    if found.ndim != 1 or found.dtype.kind not in "iu" or found.size == 0 or (found < 1).any():
        raise ValueError(f"lengths must be whole numbers of at least 1, one a sequence, found {lengths!r}")
    if found.sum() != num_rows:
        raise ValueError(f"lengths sum to {found.sum()}, but X has {num_rows} rows; give the steps of every sequence")
    return found


def _mask(lengths: np.ndarray) -> np.ndarray:
    return np.arange(lengths.max()) < lengths[:, None]


def _padded(found: Sequences) -> tuple[np.ndarray, np.ndarray]:
    """Sequences made up to one of few shapes, for each of which the fit is compiled once; what is added is masked."""
    count, steps = found.mask.shape
    more = ((0, (1 << (count - 1).bit_length()) - count), (0, max(LEAST_ROWS, 1 << (steps - 1).bit_length()) - steps))
    mask = np.pad(found.mask, more)
    mask[count:, 0] = True  # a sequence has a step
    return np.pad(found.x, (*more, *[(0, 0)] * (found.x.ndim - 2))), mask
