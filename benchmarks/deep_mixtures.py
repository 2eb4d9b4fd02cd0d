"""Which classes does a deep mixture find in images, label-free, seed by seed?

Labels are read after the fit, for the metrics and the colours of the pictures alone. A line is appended after every
seed, so that a run that was stopped goes on where it was.
"""

import argparse
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from scipy.optimize import linear_sum_assignment

import vmix
from benchmarks._deep_baselines import BASELINES
from benchmarks._deep_data import Rows, load
from benchmarks._deep_starts import starts
from benchmarks._recording import RESULTS, Case, is_recorded, record
from vmix import plots
from vmix.inference import EM
from vmix.metrics import clustering
from vmix.models import VAE, InfiniteVaDE, VaDE
from vmix.priors import stick_breaking

SAMPLES = 8
PUBLISHED = {"covariance": "diagonal", "views": 1, "mixture_restarts": 8}
# "vade" is the model as published; "vade_full" is ours: full covariances, started from the codes of two encoders, and
# with the classes of the start held at first where the data are few
CASES: dict[str, tuple[Callable, dict[str, Any]]] = {
    "vade": (VaDE, PUBLISHED),
    "vade_full": (VaDE, {}),
    "vade_uniform": (VaDE, {"weights": "uniform"}),
    "infinite_vade": (InfiniteVaDE, {}),
    "vae": (VAE, {}),
    "starts": (VaDE, {}),
} | {name: (VaDE, {}) for name in BASELINES}
STARTS = {"vade": {"settle_steps": 0}}


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the seeds that are not in the file yet."""
    options = _options(arguments)
    rows = load(options.data, rows=options.rows, held_out=options.held_out, imbalanced=options.imbalanced)
    engine = EM(num_sweeps=options.epochs)
    for name in options.case:
        model = _model(name, rows, options)
        settings = {"data": rows.name, "rows": len(rows.x), "model": _fields(model)}
        if name not in BASELINES and name != "starts":
            settings["engine"] = _fields(engine)
        if name in STARTS:
            settings["start"] = STARTS[name]
        for seed in options.seeds:
            identity = {"benchmark": "deep_mixtures", "case": f"{rows.name}/{name}", "variant": _variant(name)}
            case = Case(**identity, seed=seed, settings=settings)
            if is_recorded(case, options.folder):
                print(f"{case.case}, seed {seed}: recorded before")
                continue
            found, seconds = once(name, model, engine, rows, seed, options.folder)
            record(case, found, seconds, options.folder)
            print(f"{case.case}, seed {seed}:", "  ".join(f"{k} {value:.4g}" for k, value in found.items()), flush=True)


def once(name: str, model: Any, engine: EM, rows: Rows, seed: int, folder: Path) -> tuple[dict[str, float], float]:
    """Fit one case with one seed: its metrics, and seconds."""
    began = time.perf_counter()
    if name in BASELINES:
        predicted = BASELINES[name](model, rows.x, seed=seed)
        return _agreement(rows.labels, predicted), time.perf_counter() - began
    if name == "starts":
        return starts(model, rows.x, rows.labels, seed=seed), time.perf_counter() - began
    init = replace(model.recipe, **STARTS[name]) if name in STARTS else None
    fit = vmix.fit(model, rows.x, engine=engine, seed=seed, init=init)
    found = measure(fit, rows)
    if fit.num_components is not None:
        draw(fit, rows.x, rows.labels, folder / "pictures", f"{name}_{rows.name}_{seed}")
    return found, fit.seconds


def _variant(name: str) -> str:
    return f"scikit-learn {sklearn.__version__}" if name in BASELINES else "vmix"


def _model(name: str, rows: Rows, options: argparse.Namespace) -> Any:
    kind, given = CASES[name]
    asked = _given(options, "num_components", "hidden", "pretrain_epochs", "views", "latent_dim")
    known = {k: v for k, v in asked.items() if k in kind.__dataclass_fields__}
    return kind(**{"pixels": rows.pixels} | given | known)


def _agreement(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {k: v for k, v in clustering(labels, predicted).items() if k != "homogeneity"}


def measure(fit: Any, rows: Rows) -> dict[str, float]:
    """Metrics against the labels, the elbo in nats per datum, and the seconds of every stage."""
    found = {"elbo": fit.score(rows.x)}
    if len(rows.test_x):
        found["elbo_held_out"] = fit.score(rows.test_x)
    if fit.num_components is not None:
        predicted = fit.predict(rows.x)
        found |= _agreement(rows.labels, predicted) | {"num_used": len(np.unique(predicted))}
        found["components_used"] = float(fit.components_used(rows.x)[0])
        found |= {"weights_apart": weights_apart(fit, rows.labels, predicted)}
        if len(rows.test_x):
            agreed = _agreement(rows.test_labels, fit.predict(rows.test_x))
            found |= {f"{name}_held_out": value for name, value in agreed.items()}
    stages = {"seconds_" + re.sub(r"\W+", "_", s["name"]): s["seconds"] for s in fit.history["stages"]}
    mixtures = [s["objective"][-1] for s in fit.history["stages"] if s["name"] == "mixture on codes"]
    stages |= {"mixture_objective": mixtures[-1]} if mixtures else {}
    return found | stages | {"seconds_in_all": fit.seconds}


def weights_apart(fit: Any, labels: np.ndarray, predicted: np.ndarray) -> float:
    """Half the sum of |w_k - share of its class|, components and classes matched one to one; others count whole."""
    classes, numbers = np.unique(labels, return_counts=True)
    posterior = fit.posterior
    if "w" not in posterior and "v" not in posterior:
        w = np.full(fit.num_components, 1.0 / fit.num_components)
    else:
        w = posterior["w"] if "w" in posterior else np.asarray(stick_breaking(posterior["v"]))
    both = np.array([[np.sum((labels == c) & (predicted == k)) for k in range(len(w))] for c in classes])
    rows, columns = linear_sum_assignment(-both)
    matched = np.abs(w[columns] - numbers[rows] / len(labels)).sum()
    return float(matched + np.delete(w, columns).sum()) / 2


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
    parser.add_argument("--data", default="digits", help="digits, mnist, serket_image, serket_speech, or a file")
    parser.add_argument("--case", nargs="+", choices=CASES, default=["vade", "vade_full"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--epochs", type=int, default=30, help="sweeps of the joint fit")
    parser.add_argument("--pretrain-epochs", type=int, help="by default the model's own number")
    parser.add_argument("--views", type=int, help="encoders whose codes start the mixture; by default the case's own")
    parser.add_argument("--latent-dim", type=int, help="by default the model's own")
    parser.add_argument("--held-out", action="store_true", help="keep the last seventh out of the fit, and score it")
    parser.add_argument("--imbalanced", action="store_true", help="class d keeps a fraction (d + 1) / 10")
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
