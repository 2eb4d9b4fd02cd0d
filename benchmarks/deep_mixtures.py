"""Which classes does a deep mixture find in images, label-free, seed by seed?

Labels are read after the fit, for the metrics and the colours of the pictures alone. A line is appended after every
seed, so that a run that was stopped goes on where it was.
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import vmix
from benchmarks._recording import RESULTS, Case, is_recorded, record
from vmix import plots
from vmix.inference import EM
from vmix.metrics import clustering
from vmix.models import VaDE

SAMPLES = 8
# "vade" is the model as published; "vade_full" is ours: full covariances, started from the codes of two encoders
CASES: dict[str, dict[str, Any]] = {
    "vade": {"covariance": "diagonal", "views": 1, "mixture_restarts": 8},
    "vade_full": {},
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the seeds that are not in the file yet."""
    options = _options(arguments)
    data = vmix.data.load(options.data)
    x, labels = data.images[: options.rows], data.labels[: options.rows]
    given = _given(options, "num_components", "hidden", "pretrain_epochs", "views", "mixture_restarts")
    model = VaDE(**CASES[options.case] | given)
    changes = _given(options, "distort", "mixture_moves")
    engine = EM(num_sweeps=options.epochs)
    name = Path(options.data).stem
    settings = {"data": name, "rows": len(x), "model": _fields(model), "engine": _fields(engine)}
    if changes:
        settings["start"] = changes
    for seed in options.seeds:
        case = Case(
            benchmark="deep_mixtures", case=f"{name}/{options.case}", variant="vmix", seed=seed,
            settings=settings,
        )  # fmt: skip
        if is_recorded(case, options.folder):
            print(f"{case.case}, seed {seed}: recorded before")
            continue
        fit = vmix.fit(model, x, engine=engine, seed=seed, init=replace(model.recipe, **changes))
        found = measure(fit, x, labels)
        record(case, found, fit.seconds, options.folder)
        draw(fit, x, labels, options.folder / "pictures", f"{options.case}_{settings['data']}_{seed}")
        print(f"{case.case}, seed {seed}:", "  ".join(f"{name} {value:.4g}" for name, value in found.items()))


def measure(fit: Any, x: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Metrics against the labels, the elbo in nats per datum, and the seconds of every stage."""
    predicted = fit.predict(x)
    found = {k: v for k, v in clustering(labels, predicted).items() if k != "homogeneity"}
    found |= {"elbo": fit.score(x), "num_used": len(np.unique(predicted))}
    stages = {"seconds_" + re.sub(r"\W+", "_", s["name"]): s["seconds"] for s in fit.history["stages"]}
    mixtures = [s["objective"][-1] for s in fit.history["stages"] if s["name"] == "mixture on codes"]
    stages |= {"mixture_objective": mixtures[-1]} if mixtures else {}
    return found | stages | {"seconds_in_all": fit.seconds}


def draw(fit: Any, x: np.ndarray, labels: np.ndarray, folder: Path, name: str) -> None:
    """The latents by component and by label, and samples of every component that holds data."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = plots.summarise(fit, x)
    for kind, groups in {"component": summary.predicted, "label": labels}.items():
        shown, title = np.asarray(groups)[summary.rows], f"{name}, by {kind}"
        paint = _scatter(summary.points, shown, title)
        (folder / f"{name}_by_{kind}.png").write_bytes(plots.png(paint, size=(7, 6)))
    used = np.unique(summary.predicted)
    samples = np.stack([fit.sample(SAMPLES, component=int(k), seed=fit.seed, mean=True) for k in used])
    shape = plots.image_shape(x.shape[1])
    picture = plots.png(lambda ax: plots.component_samples(ax, samples, shape), size=(6, 7))
    (folder / f"{name}_samples.png").write_bytes(picture)


def _scatter(points: np.ndarray, groups: np.ndarray, title: str) -> Any:
    return lambda ax: plots.latent_scatter(ax, points, groups, title)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="digits", help="digits, mnist, or a file")
    parser.add_argument("--case", choices=CASES, default="vade")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--epochs", type=int, default=30, help="sweeps of the joint fit")
    parser.add_argument("--pretrain-epochs", type=int, help="by default the model's own number")
    parser.add_argument("--views", type=int, help="encoders whose codes start the mixture; by default the case's own")
    parser.add_argument("--distort", type=float, help="strength of distortions in pretraining; by default none")
    parser.add_argument("--mixture-restarts", type=int, help="by default the case's own number")
    parser.add_argument("--mixture-moves", type=int, help="splits with merges after each restart; by default none")
    parser.add_argument("--num-components", type=int, help="by default the model's own number")
    parser.add_argument("--hidden", nargs="+", type=int, help="by default the model's own widths")
    parser.add_argument("--rows", type=int, help="the first rows only")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    options.hidden = tuple(options.hidden) if options.hidden else None
    return options


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def _fields(source: Any) -> dict[str, Any]:
    """The fields of a record, as JSON keeps them."""
    plain = {name: list(v) if isinstance(v, tuple) else v for name, v in source.__dict__.items()}
    return {name: v if isinstance(v, bool | int | float | str | list | None) else repr(v) for name, v in plain.items()}


if __name__ == "__main__":
    main()
