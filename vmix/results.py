"""What a fit returns, and how it is saved and loaded."""
# Length: each question to a fit is one method, which says what it answers.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from vmix import checkpoint
from vmix.checks import check_path
from vmix.columns import names_of
from vmix.engine import Engine, Start
from vmix.environment import describe_environment
from vmix.explaining import Explanation, explain_plan
from vmix.families import Frame
from vmix.history import History
from vmix.mean_field import MEAN_FIELD, MODE
from vmix.plan import Plan, bare_plan, template_of
from vmix.posteriors import Posterior
from vmix.predicting import Predictor
from vmix.program import ProgramError
from vmix.pruning import LEAST, check_least, pruned
from vmix.recipe import Stage
from vmix.same_program import check_same_program
from vmix.showing import fit_html, fit_text

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from vmix.diagnosing import Diagnosis

PREDICTIVE_DRAWS = 32


@dataclass(eq=False, repr=False)
class Fit:
    """A fitted program: predictions, draws, history, and how it came about.

    Attributes:
        model_name: name of the program.
        engine_name: "SVI", "EM" or "Gibbs".
        seed: the seed it was fitted with.
        settings: hyperparameters of the model and options of the engine, JSON-able.
        posterior: site to point estimate in the site's shape (SVI, EM), or draws of shape (num_samples, *shape),
            with num_chains in front when there are several (Gibbs).
        history: "objective" (steps,) or (restarts, steps) with the best first, "unit", "step_name", "stages",
            "restarts" (final objectives, or None) and the engine's diagnostics by name.
        converged: whether the stopping rule was met.
        interrupted: whether Ctrl-C ended it.
        seconds: wall time of the whole call.
        environment: versions, machine, device, commit and command.
        plan: the plan that was followed; prints as a table.
        params: the network parameters, by name.
        factors: the normal factors of `SVI(guide="normal")` in unconstrained space: site to "loc" and "scale".
    """

    model_name: str
    engine_name: str
    seed: int
    settings: dict[str, Any]
    posterior: dict[str, np.ndarray]
    history: dict[str, Any]
    converged: bool
    interrupted: bool
    seconds: float
    environment: dict[str, Any]
    plan: Explanation
    params: dict[str, Any]
    _predictor: Predictor
    _plan: Plan
    factors: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def build(
        cls,
        plan: Plan,
        engine: Engine,
        estimate: Start,
        history: History,
        stages: list[Stage],
        *,
        seed: int,
        seconds: float,
    ) -> Fit:
        """Gather the parts of a finished fit; the driver calls this."""
        posterior = _posterior(engine, estimate, history)
        predictive = _predictive_globals(engine, estimate, history)
        return cls(
            plan.program.name,
            engine.name,
            seed,
            {"model": settings_of(plan.program.source), "engine": settings_of(engine)},
            posterior,
            history.record(engine, stages),
            history.converged,
            history.interrupted,
            seconds,
            describe_environment(),
            explain_plan(plan, engine),
            jax.tree.map(np.asarray, estimate.params),
            Predictor(plan, predictive, estimate.params, per_datum=_treatment(settings_of(engine))),
            plan,
        )

    @property
    def num_components(self) -> int | None:
        """Number of joint values of the discrete sites; None without any."""
        return self._predictor.num_components

    @property
    def has_latent(self) -> bool:
        """Whether there is a continuous latent with an encoder."""
        return bool(self._plan.latents)

    @property
    def score_name(self) -> str:
        """What `score` is: "elbo", "log evidence" where it is exact, "log density" given latents of a datum."""
        if self.has_latent or (self._plan.per_datum and self._predictor.treatment == MEAN_FIELD):
            return "elbo"
        return "log density" if self._plan.per_datum else "log evidence"

    @property
    def sequence_dims(self) -> int | None:
        """Dimensions of data that are sequences, 3 for (N, T, D) or 2 for (N, T); None where data are rows."""
        chains = [site for site in self._plan.sites.values() if site.num_steps is not None]
        return self._plan.template[0].ndim if chains else None

    def __post_init__(self) -> None:
        self.posterior = Posterior(self.posterior)

    def predict(self, *data: ArrayLike) -> np.ndarray:
        """Most probable component of each datum, shape (N,), int; of each step, (N, T), where there are steps."""
        return self.predict_proba(*data).argmax(-1)

    def predict_proba(self, *data: ArrayLike) -> np.ndarray:
        """Responsibilities, shape (N, K), or (N, T, K) where there are steps; averaged over draws for Gibbs."""
        return self._predictor.responsibilities(*data)

    def components_used(self, *data: ArrayLike, least: float = LEAST) -> np.ndarray:
        """The number of components that hold data, at each draw of the globals, shape (draws,), int.

        One number for SVI and EM; for Gibbs its posterior, at the draws that predictions average over.

        Args:
            *data: the data.
            least: share of the data that a component must hold, in expectation, to count.
        """
        check_least(least)
        return (self._predictor.shares(*data) >= max(least, np.finfo(np.float32).tiny)).sum(-1)

    def prune(self, *data: ArrayLike, least: float = LEAST) -> Fit:
        """A smaller fit, without the components that hold no data.

        Args:
            *data: the data.
            least: share of the data that a component must hold, in expectation at one draw at least, to stay.

        Returns:
            A fit of the program with these components alone, numbered in their old order; history as it was.

        Raises:
            TypeError: for programs that do not say how they are pruned: those whose records have no `pruned`.
        """
        return pruned(self, self._predictor.shares(*data), least)

    def transform(self, *data: ArrayLike) -> np.ndarray:
        """The encoder's mean of the latent, shape (N, latent_dim).

        Raises:
            ProgramError: if the program has no latent with an encoder.
        """
        return self._predictor.codes(*data)

    def reconstruct(self, *data: ArrayLike) -> np.ndarray | dict[str, np.ndarray]:
        """Mean of each observed site given the latents' means and the responsibilities, shape (N, D)."""
        return self._predictor.reconstructions(*data)

    def sample(
        self,
        num_samples: int,
        *,
        component: int | None = None,
        seed: int = 0,
        mean: bool = False,
        given: Sequence[ArrayLike] = (),
    ) -> np.ndarray | dict[str, np.ndarray]:
        """New data from the fitted program.

        Args:
            num_samples: how many.
            component: the component to draw from; by default each datum draws its own.
            seed: randomness.
            mean: return E[x | latents] in place of a draw of x.
            given: the data arrays, num_samples rows each, of which a draw takes what it hangs on (covariates, totals of
                counts); what is observed in them gives its shape only. A program with arrays of covariates alone needs
                them; elsewhere all rows are as the first that was fitted, or after `vmix.load` as a row of ones.

        Returns:
            Array (num_samples, D); a dict of arrays where several sites are observed.

        Raises:
            ValueError: for a component that is not there, without `given` where draws hang on an array that no site
                observes, or with another number of rows than num_samples.
        """
        return self._predictor.sample(num_samples, component=component, seed=seed, mean=mean, given=tuple(given))

    def score(self, *data: ArrayLike) -> float:
        """Mean elbo (log evidence where there is no latent), globals given, in nats per datum.

        Latents of a datum without an encoder are given too, at their mode, except under `EM(per_datum="mean-field")`,
        whose elbo has their prior and the entropy of their factor in it.
        """
        return float(self._predictor.per_datum(*data).mean())

    def score_samples(self, *data: ArrayLike) -> np.ndarray:
        """The elbo or log evidence of each datum, nats, shape (N,)."""
        return self._predictor.per_datum(*data)

    def to_arviz(self, columns: Any = None) -> Any:
        """An ArviZ DataTree: `posterior`, with named dimensions, and of Gibbs `sample_stats`.

        Dimensions are `component`, `feature`, `latent` and `row`; a second one of a kind, as in a matrix of moves or of
        precisions, has `_again` behind it. Point estimates are one draw of one chain.

        Args:
            columns: names of the data's columns, or a table that has them: the coordinates of `feature`.
        """
        from vmix.tables import to_arviz

        return to_arviz(self, columns)

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint: arrays in safetensors, the rest in a JSON manifest with checksums; no pickle."""
        plan = self._plan
        tree = {
            "posterior": self.posterior,
            "predictive": jax.tree.map(np.asarray, self._predictor.globals),
            "params": self.params,
            "factors": self.factors,
            "frames": {n: {"shift": np.asarray(f.shift), "scale": np.asarray(f.scale)} for n, f in plan.frames.items()},
            "history": {n: v for n, v in self.history.items() if isinstance(v, np.ndarray)},
        }
        config = {
            "model": self.model_name,
            "engine": self.engine_name,
            "seed": self.seed,
            "settings": self.settings,
            "converged": self.converged,
            "interrupted": self.interrupted,
            "seconds": self.seconds,
            "environment": self.environment,
            "history": {n: v for n, v in self.history.items() if not isinstance(v, np.ndarray)},
            "template": [[list(a.shape), str(a.dtype)] for a in plan.template],
            "missing": plan.missing,
            "columns": list(plan.columns) or [None] * len(plan.template),
            "reads_data": list(plan.reads_data),
            "updates": {name: plan.conditionals[name].name for name in plan.per_datum if name in plan.conditionals},
            "plan": self.plan.to_json(),
        }
        checkpoint.save(folder, tree, config)

    def diagnose(self, *data: ArrayLike, held_out: ArrayLike | tuple[ArrayLike, ...] | None = None) -> Diagnosis:
        """What often goes wrong, looked for in this fit: vmix.diagnose(fit, *data, held_out=held_out)."""
        from vmix.diagnosing import diagnose

        return diagnose(self, *data, held_out=held_out)

    def report(
        self,
        path: str | Path,
        *data: ArrayLike,
        labels: ArrayLike | None = None,
        words: Sequence[Any] | None = None,
    ) -> Path:
        """Write one self-contained HTML page about this fit.

        Args:
            path: where to write.
            *data: the data to show it on; of several arrays the first that the program observes is drawn, by the
                names of its columns if it has some.
            labels: true classes, for the metrics and the confusion table.
            words: names of the words of counts, one a column; a list of them for each array of counts, of several.

        Returns:
            The path.
        """
        from vmix.findings import check_words
        from vmix.report import compute_metrics, write_report
        from vmix.steps import bound

        check_path(path, "path", kind="an HTML file")
        check_words(words)
        given = None if labels is None else np.asarray(labels)
        if not data:
            raise TypeError("report needs the data that the fit is shown on: fit.report(path, x)")
        shown = bound(self, *data)
        place = getattr(shown, "place", 0)
        drawn, known = np.asarray(data[place]), dict(enumerate(self._plan.columns))
        site = getattr(shown, "site_shown", None)
        columns = names_of(data[place]) or known.get(place) or ([site] if site and drawn.ndim == 1 else None)
        metrics = compute_metrics(shown, drawn, given)
        return write_report(shown, path, data=drawn, labels=given, metrics=metrics, words=words, columns=columns)

    def __repr__(self) -> str:
        return fit_text(self)

    def _repr_html_(self) -> str:
        return fit_html(self)


def load(folder: str | Path, *, program: Any = None) -> Fit:
    """Load what `Fit.save` wrote.

    Args:
        folder: the checkpoint, or a run's folder that holds one.
        program: the program, where it is a function of your own; models that are installed are found by name.

    Returns:
        The fit.

    Raises:
        vmix.checkpoint.CheckpointCorrupt: if a file was damaged.
        ValueError: if the program is not installed and not given, if its globals or networks are not those that were
            saved, or if the folder holds no fit.
    """
    check_path(folder, "folder")
    folder = Path(folder)
    folder = folder / "checkpoint" if (folder / "checkpoint").is_dir() else folder
    tree, config = checkpoint.load(folder)
    if "model" not in config:
        raise ValueError(f"{str(folder)!r} is no saved fit; an ended one goes on by vmix.fit(..., checkpoint=folder)")
    understood = partial(checkpoint.understood, folder / checkpoint.MANIFEST, "a fit")
    with understood():
        source = program if program is not None else _installed_model(config["model"], config["settings"]["model"])
        frames = {n: Frame(jnp.asarray(f["shift"]), jnp.asarray(f["scale"])) for n, f in tree["frames"].items()}
        updates, template, missing = config.get("updates", {}), template_of(config["template"]), config["missing"]
        named = zip(config.get("columns", [None] * len(template)), template, strict=True)
        columns = tuple(None if names is None else [str(name) for name in names] for names, _ in named)
        reads_data = tuple(str(name) for name in config.get("reads_data", ()))
    with understood() if program is None else nullcontext():  # the errors of a program of one's own are its own
        plan = bare_plan(source, template, frames=frames, updates=updates, missing=missing)
        plan = replace(plan, columns=columns, reads_data=reads_data)
    with understood():
        wrote, file = config["environment"]["versions"].get("vmix"), folder / checkpoint.MANIFEST
        check_same_program(plan, tree["predictive"], tree["params"], where=file, wrote=wrote)
        return _remade(tree, config, plan)


def _remade(tree: dict[str, Any], config: dict[str, Any], plan: Plan) -> Fit:
    return Fit(
        config["model"],
        config["engine"],
        config["seed"],
        config["settings"],
        tree["posterior"],
        {**config["history"], **tree["history"]},
        config["converged"],
        config["interrupted"],
        config["seconds"],
        config["environment"],
        Explanation.from_json(config["plan"]),
        tree["params"],
        Predictor(
            plan,
            jax.tree.map(jnp.asarray, tree["predictive"]),
            jax.tree.map(jnp.asarray, tree["params"]),
            per_datum=_treatment(config["settings"]["engine"]),
        ),
        plan,
        tree.get("factors", {}),
    )


def _installed_model(name: str, settings: Mapping[str, Any]) -> Any:
    found = {entry.name: entry for entry in entry_points(group="vmix.models")}
    if name not in found:
        raise ProgramError(
            f"the checkpoint is of program {name!r}, which is not an installed model ({sorted(found)}); pass it: "
            "vmix.load(folder, program=...)"
        )
    model = found[name].load()
    known = {f.name for f in fields(model)}
    return model(**{key: _tuple(value) for key, value in settings.items() if key in known})


def _tuple(value: Any) -> Any:
    return tuple(_tuple(v) for v in value) if isinstance(value, list) else value


def _posterior(engine: Engine, estimate: Start, history: History) -> dict[str, np.ndarray]:
    draws = _draws(engine, history)
    if draws is None:
        return {name: np.asarray(value) for name, value in estimate.globals.items()}
    several = getattr(engine, "num_chains", 1) > 1
    return {name: values if several else values[0] for name, values in draws.items()}


def _predictive_globals(engine: Engine, estimate: Start, history: History) -> dict[str, Any]:
    """Globals to predict with, one or several draws along the first axis."""
    draws = _draws(engine, history)
    if draws is None:
        return {name: jnp.asarray(np.asarray(value)[None]) for name, value in estimate.globals.items()}
    kept = next(iter(draws.values())).shape[1]
    index = np.unique(np.linspace(0, kept - 1, PREDICTIVE_DRAWS).round().astype(int))
    return {name: jnp.asarray(values[0][index]) for name, values in draws.items()}


def _draws(engine: Engine, history: History) -> dict[str, np.ndarray] | None:
    """Draws after warm-up, shape (chains, num_samples, *shape); None for engines that do not sample."""
    if history.info is None or not history.info.draws:
        return None
    # an interrupted warm-up keeps its last draw
    warmup = min(getattr(engine, "num_warmup", 0), history.info.objective.shape[1] - 1)
    return {name: np.asarray(values[:, warmup:]) for name, values in history.info.draws.items()}


def _treatment(settings: Mapping[str, Any]) -> str:
    """What latents of a datum without an encoder get on new data: what they got in the fit, where the engine says."""
    return settings.get("per_datum", MODE)


def settings_of(source: Any) -> dict[str, Any]:
    """The JSON-able fields of a record; what is not JSON-able by its repr; nothing for functions."""
    if not is_dataclass(source) or isinstance(source, type):
        return {}
    return {f.name: _plain(getattr(source, f.name)) for f in fields(source) if f.init}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return repr(value)
