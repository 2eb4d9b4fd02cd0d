"""Write what this version writes, to be kept: `python -m tests.formats.make`, once for each version of the format.

`tests/formats/FORMAT/` holds a fit, a fit with networks, a run, a state that was left after two sweeps, a network of
modules, and what each predicts. The folders of earlier versions are never written again: they are how files of a
released version are read.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np

import vmix
from vmix import compose
from vmix.checkpoint import FORMAT
from vmix.inference import EM, SVI
from vmix.models import VAE, GaussianMixture

ROWS = np.random.default_rng(0).normal(size=(24, 2)).round(3).astype(np.float32)
ROWS[:12] += 2.0
MODEL = GaussianMixture(num_components=2)
ENGINE = EM(num_sweeps=6, tolerance=None)
DEEP = VAE(latent_dim=1, hidden=(3,), pixels="gaussian")


def stop_after_two(number: int, _: Any) -> None:
    """A callback that ends a fit as Ctrl-C does."""
    if number == 2:
        raise KeyboardInterrupt


def make(folder: Path) -> None:
    """Write the folder of one version."""
    fit = vmix.fit(MODEL, ROWS, engine=ENGINE, seed=0)
    fit.save(folder / "fit")
    deep = vmix.fit(DEEP, ROWS, engine=SVI(num_steps=20), seed=0)
    deep.save(folder / "deep")
    vmix.fit(MODEL, ROWS, engine=ENGINE, seed=0, checkpoint=folder / "state", callback=stop_after_two)
    groups = compose.GMM(2, restarts=1, sweeps=4, name="groups")
    groups.connect(compose.Observation(ROWS, name="seen"))
    network = compose.Network(groups)
    network.fit(rounds=2, progress=False)
    network.save(folder / "network")
    run = folder / "run"
    run.mkdir()
    config = {"format": "vmix run 1", "model": fit.model_name, "engine": fit.engine_name, "seed": 0}
    config |= {"settings": fit.settings, "command": "vmix fit", "steps": None}
    (run / "config.json").write_text(json.dumps(config))
    (run / "metrics.json").write_text(json.dumps({"elbo": float(fit.score(ROWS)), "seconds": 1.0}))
    (run / "labels.csv").write_text("row,component\n" + "".join(f"{n},{k}\n" for n, k in enumerate(fit.predict(ROWS))))
    np.save(run / "latents.npy", ROWS)
    fit.save(run / "checkpoint")
    expected = {
        "rows": ROWS.tolist(),
        "fit": fit.predict_proba(ROWS).tolist(),
        "score": float(fit.score(ROWS)),
        "deep": {"codes": deep.transform(ROWS).tolist(), "score": float(deep.score(ROWS))},
        "network": network.recognise(ROWS)["groups"].value.tolist(),
        "objective": np.asarray(fit.history["objective"]).tolist(),
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


if __name__ == "__main__":
    make(Path(__file__).parent / str(FORMAT))
