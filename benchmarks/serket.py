"""The Serket tutorials on their own data: 3,000 pairs of a handwritten and a spoken digit, label-free, seed by seed.

Every case is a tutorial's script: the modules connected, five rounds of updates. Labels are read after each round, for
the metrics and the colours of the pictures alone. A line is appended after every seed, so that a run that was stopped
goes on where it was.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vmix
from benchmarks._recording import RESULTS, Case, is_recorded, load_average, record
from benchmarks._serket_held_out import HELD_OUT, Pairs, measure_held_out, split
from benchmarks._serket_joint import JOINT, fit_joint
from vmix.compose import GMM, MLDA, MM, VAE, Network, Observation
from vmix.metrics import nmi

CASES = (
    *JOINT,
    "vae_gmm/modules",
    "vae_gmm_mm/modules",
    "vae_gmm_mlda/modules",
    "vae_gmm_mlda_mm/modules",
    "vae_gmm_mm/serket_messages",
    *HELD_OUT,
)
ROUNDS = 5
VAE_OPTIONS = {"latent_dim": 18, "epochs": 60, "batch_size": 500}
NUM_CLASSES = 10
WEIGHTS = "effective"


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the seeds that are not in the file yet."""
    options = _options(arguments)
    data = vmix.data.load("serket")
    for name in options.cases:
        for seed in options.seeds:
            if name in JOINT or name in HELD_OUT:
                if not any(line["case"] == name and line["seed"] == seed for line in recorded(options.folder)):
                    found = once(name, data, seed, options)
                    print(f"{name}, seed {seed}:", "  ".join(f"{n} {v:.4g}" for n, v in found.items()))
                continue
            settings = {"rounds": options.rounds, "vae": {**VAE_OPTIONS, "epochs": options.epochs}}
            case = Case(benchmark="serket", case=name, variant="vmix", seed=seed, settings=settings)
            if is_recorded(case, options.folder):
                print(f"{name}, seed {seed}: recorded before")
                continue
            began = time.perf_counter()
            network = build(name, every(data), options.epochs)
            network.fit(rounds=options.rounds, seed=seed, progress=options.progress)
            seconds = time.perf_counter() - began
            found = measure(network, data.labels)
            record(case, found, seconds, options.folder)
            if seed == 0:
                draw(network, name, options.folder / "pictures")
            print(f"{name}, seed {seed}:", "  ".join(f"{n} {v:.4g}" for n, v in found.items()), f"{seconds:.0f} s")


def every(data: Any) -> Pairs:
    """All pairs."""
    return Pairs(data.modalities["image"], data.modalities["speech"], data.labels)


def once(name: str, data: Any, seed: int, options: argparse.Namespace) -> dict[str, float]:
    """A case that is no run of rounds over all pairs: a joint program, or pairs held out."""
    if name in JOINT:
        return fit_joint(name, data, seed, folder=options.folder)
    network = None if "joint" in name else build(name, split(data)[0], options.epochs)
    return measure_held_out(name, data, seed, network=network, folder=options.folder)


def build(name: str, data: Pairs, epochs: int) -> Network:
    """The modules of a tutorial, connected."""
    parts = name.split("/")[0].split("_")
    vae, gmm = VAE(**{**VAE_OPTIONS, "epochs": epochs}), GMM(NUM_CLASSES, category=data.labels)
    vae.connect(Observation(data.images, name="image"))
    gmm.connect(vae)
    last: Any = gmm
    if "mlda" in parts:
        last = MLDA(NUM_CLASSES, WEIGHTS, category=data.labels)
        last.connect(Observation(data.speech, name="speech"), gmm)
    if "mm" in parts:
        mm = MM(category=data.labels)
        mm.connect(last)
        last = mm
    return Network(last, messages="serket" if name.endswith("serket_messages") else "cavity")


def measure(network: Network, labels: np.ndarray) -> dict[str, float]:
    """Accuracy of the classes furthest downstream, after each round and at the end, and more."""
    judged = network.learners[-1]
    found = {f"accuracy_round{i + 1}": v for i, v in enumerate(judged.history["accuracy"])}
    found |= {"accuracy": judged.history["accuracy"][-1], "nmi": nmi(labels, judged.predict())}
    for module in network.learners:
        found[f"objective_{module.name}"] = module.belief.objective
        found[f"seconds_{module.name}"] = sum(module.history["seconds"])
        if module.history["accuracy"]:
            found[f"accuracy_{module.name}"] = module.history["accuracy"][-1]
    return found | {"load": load_average()}


def draw(network: Network, name: str, folder: Path) -> None:
    """The graph of the modules."""
    folder.mkdir(parents=True, exist_ok=True)
    network.draw(folder / f"serket_{name.replace('/', '_')}.png")


def recorded(folder: Path) -> list[dict[str, Any]]:
    """The lines that are there."""
    path = folder / "serket.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--epochs", type=int, default=VAE_OPTIONS["epochs"], help="of the VAE at each update")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    parser.add_argument("--progress", action="store_true", default=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
