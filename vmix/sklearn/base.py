"""What the estimators share: one generic fit, rows of any number at one compilation, and a state that can be pickled.

scikit-learn's tools copy fitted estimators by pickle, so an estimator can be pickled: its fit travels as the files of
`Fit.save`, checksums and all. vmix itself writes and reads no pickle anywhere; never load one that you do not trust.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, ClusterMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vmix import fitting, results
from vmix.predicting import CHUNK_ROWS
from vmix.priors import stick_breaking
from vmix.sklearn.parameters import (
    GAPS,
    GAPS_DOC,
    constructor,
    defaults_of,
    documented,
    make_engine,
    make_record,
    make_seed,
)

if TYPE_CHECKING:
    from vmix.results import Fit

LEAST_ROWS = 32
FLOATS = [np.float64, np.float32]


class Estimator(BaseEstimator):
    """A zoo model with scikit-learn's manners.

    A subclass names its model, `class VAE(Codes, record=models.VAE)`, and which attributes come from which sites; with
    `gaps=False` its data have a value everywhere.

    Attributes:
        fit_: the `vmix.Fit`, for what scikit-learn has no word for: `fit_.history`, `fit_.report(...)`.
        converged_: whether the stopping rule was met.
        n_iter_: sweeps (EM, Gibbs) or steps (SVI) done.
        lower_bound_: the last value of the objective, nats per datum.
        n_features_in_: D.
        feature_names_in_: names of the columns, where they were given.
    """

    _record: ClassVar[type]
    _defaults: ClassVar[dict[str, Any]] = {}
    _sites: ClassVar[dict[str, str]] = {}

    def __init_subclass__(
        cls,
        *,
        record: type | None = None,
        more: Mapping[str, Any] | None = None,
        more_doc: str = "",
        gaps: bool = True,
        **others: Any,
    ) -> None:
        super().__init_subclass__(**others)
        if record is not None:
            cls._record, cls._defaults = record, defaults_of(record, {**(more or {}), **(GAPS if gaps else {})})
            cls.__init__ = constructor(cls._defaults)  # type: ignore[method-assign]
            cls.__doc__ = documented(record, cls.__doc__ or "", more_doc + (GAPS_DOC if gaps else ""))

    def fit(self, X: ArrayLike, y: Any = None) -> Any:
        """Fit the model.

        Args:
            X: data, shape (N, D).
            y: ignored, as scikit-learn hands it to every estimator.

        Returns:
            The estimator itself.

        Raises:
            ValueError: for data or parameters that cannot be used.
        """
        return self._fit(self._read(X, reset=True))

    def score(self, X: ArrayLike, y: Any = None) -> float:
        """Mean log evidence (elbo where there is a latent), nats per datum; higher is better, as grid searches want."""
        return float(self._by_row(self._fitted().score_samples, self._read(X)).mean())

    def sample(self, n_samples: int = 1, *, component: int | None = None) -> np.ndarray:
        """New data, shape (n_samples, D), drawn by `random_state`; of one component where it is named."""
        return np.asarray(self._fitted().sample(n_samples, component=component, seed=make_seed(self.random_state)))

    def _fit(self, data: tuple[np.ndarray, ...]) -> Any:
        record = make_record(self._record, {f.name: getattr(self, f.name) for f in fields(self._record) if f.init})
        engine = make_engine(self.engine, self.engine_options)
        progress = None if self.verbose else False
        seed, missing = make_seed(self.random_state), getattr(self, "missing", None)
        found = fitting.fit(record, *data, engine=engine, seed=seed, init=self.init, missing=missing, progress=progress)
        self._adopt(found)
        return self

    def _adopt(self, found: Fit) -> None:
        """Keep a fit, and its results under the names that scikit-learn gives to such."""
        self.fit_ = found
        objective = np.atleast_2d(found.history["objective"])
        self.converged_, self.n_iter_ = found.converged, objective.shape[1]
        self.lower_bound_ = float(objective[0, -1])
        values = _means(found)
        for name, site in self._sites.items():
            if site in values:
                setattr(self, name, values[site])
            elif hasattr(self, name):  # of an earlier fit with other parameters
                delattr(self, name)

    def _fitted(self) -> Fit:
        check_is_fitted(self)
        return self.fit_

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "fit_")

    def _read(self, X: ArrayLike, *, reset: bool = False) -> tuple[np.ndarray, ...]:
        """Check data with scikit-learn's words; vmix then checks what its model needs of them."""
        if not reset:
            check_is_fitted(self)
        return (self._validated(X, dtype=FLOATS, reset=reset),)

    def _validated(self, X: ArrayLike, *, reset: bool, **options: Any) -> Any:
        """scikit-learn's checks of an array; of NaN it says what vmix has for it."""
        if self._with_gaps():
            options["ensure_all_finite"] = "allow-nan"
        try:
            return validate_data(self, X, reset=reset, ensure_min_samples=2 if reset else 1, **options)
        except ValueError as error:
            first = str(error).partition("\n")[0]
            if "contains NaN" not in first or "missing" not in self._defaults:
                raise
            name = type(self).__name__
            raise ValueError(f'{first} Give {name}(missing="nan") if NaN means missing: it is summed out') from error

    def _with_gaps(self) -> bool:
        return getattr(self, "missing", None) == "nan"

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._with_gaps()
        return tags

    def _by_row(self, method: Callable[..., np.ndarray], data: tuple[np.ndarray, ...]) -> np.ndarray:
        """Call a method of the fit; rows are made up to one of few sizes, for each of which it is compiled once."""
        count = len(data[0])
        size = (
            max(LEAST_ROWS, 1 << (count - 1).bit_length())
            if count <= CHUNK_ROWS
            else -(-count // CHUNK_ROWS) * CHUNK_ROWS
        )
        padded = [np.concatenate([a, np.repeat(a[:1], size - count, axis=0)]) for a in data]
        return np.asarray(method(*padded))[:count]

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "fit_" in state:
            state["fit_"] = (self.fit_._plan.program.source, _packed(self.fit_))
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if "fit_" in state:
            state["fit_"] = _unpacked(*state["fit_"])
        super().__setstate__(state)


class Components(ClusterMixin, Estimator):
    """An estimator of a model with components.

    Attributes:
        labels_: most probable component of each row that was fitted, shape (N,), int.
    """

    labels_: np.ndarray

    def fit(self, X: ArrayLike, y: Any = None) -> Any:
        """Fit the model; see `Estimator.fit`."""
        data = self._read(X, reset=True)
        self._fit(data)
        self.labels_ = self._by_row(self.fit_.predict, data)
        return self

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Most probable component of each row, shape (N,), int."""
        return self.predict_proba(X).argmax(1)

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Responsibilities, shape (N, K)."""
        return self._by_row(self._fitted().predict_proba, self._read(X)).astype(np.float64)


class Scored(Estimator):
    """An estimator of a model whose log evidence is exact, row by row."""

    def score_samples(self, X: ArrayLike) -> np.ndarray:
        """Log evidence of each row, nats, shape (N,)."""
        return self._by_row(self._fitted().score_samples, self._read(X))


class Transformed(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Estimator):
    """An estimator that maps each row to another."""

    def transform(self, X: ArrayLike) -> np.ndarray:
        """What stands for each row, shape (N, number of output features), in the precision of X."""
        data = self._read(X)
        found = self._by_row(self._transformation(), data)
        return found.astype(data[0].dtype if data[0].dtype in FLOATS else np.float64)

    def _transformation(self) -> Callable[..., np.ndarray]:
        return self._fitted().transform

    @property
    def _n_features_out(self) -> int:
        return self.latent_dim

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Codes(Transformed):
    """An estimator of a model with an encoder: `transform` gives the encoder's mean of z, shape (N, latent_dim)."""

    def reconstruct(self, X: ArrayLike) -> np.ndarray:
        """Mean of each row given its latent, shape (N, D)."""
        return self._by_row(lambda *rows: np.asarray(self._fitted().reconstruct(*rows)), self._read(X))


def _means(found: Fit) -> dict[str, np.ndarray]:
    """A value of each site: the estimate, or the mean over the draws (of all chains); weights of a stick too."""
    axes = {True: (0, 1), False: (0,)}[found.settings["engine"].get("num_chains", 1) > 1]
    values = found.posterior
    if "v" in values:
        values = {**values, "w": np.asarray(stick_breaking(values["v"]))}  # type: ignore[arg-type]
    return {n: np.asarray(v.mean(axes)) for n, v in values.items()} if found.engine_name == "Gibbs" else dict(values)


def _packed(found: Fit) -> dict[str, bytes]:
    """The files of a saved fit."""
    with tempfile.TemporaryDirectory() as folder:
        found.save(Path(folder) / "fit")
        return {p.name: p.read_bytes() for p in sorted((Path(folder) / "fit").iterdir())}


def _unpacked(program: Any, files: Mapping[str, bytes]) -> Fit:
    """The inverse of `_packed`; the checksums are checked."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            (Path(folder) / name).write_bytes(content)
        return results.load(folder, program=program)
