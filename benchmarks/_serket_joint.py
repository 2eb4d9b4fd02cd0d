"""The joint programs on the Serket pairs: one fit in place of rounds of messages."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import vmix
from benchmarks._recording import Case, load_average, record
from vmix.distortion import straightened
from vmix.inference import EM
from vmix.metrics import accuracy, nmi
from vmix.models import HMMVAE, HMMVAEMLDA, VAEGMMMLDA, VaDE
from vmix.recipe import Recipe

NUM_STEPS = 100
# chosen before the first run, alike for both: the tutorials' 18 dimensions, one hidden layer, a denoising autoencoder
NETWORK = {"latent_dim": 18, "hidden": (400,), "noise": 0.3}
COUNTED = (VAEGMMMLDA(num_components=10, **NETWORK), EM(num_sweeps=20))
ALONE = (VaDE(num_components=10, views=1, mixture_restarts=8, **NETWORK), EM(num_sweeps=20))
JOINT = {
    "hmm_vae/joint": (HMMVAE(num_components=10, **NETWORK), EM(num_sweeps=5)),
    "vae_gmm/joint": ALONE,
    "vae_gmm/joint_straightened": ALONE,
    "vae_gmm_mlda/joint": COUNTED,
    "vae_gmm_mlda_mm/joint": (HMMVAEMLDA(num_components=10, **NETWORK), EM(num_sweeps=5)),
}

# images set straight, and the class of an image held to be that of its distorted copies
COPIES = Recipe(noise=0.3, distort=1.0, copies=4, mixture_restarts=16)
COPIED = {"vae_gmm/joint_straightened": COPIES}


def fit_joint(name: str, data: Any, seed: int, *, folder: Path) -> dict[str, float]:
    """Fit one case and record its line; a chain of 3,000 images is cut into pieces of 100, for minibatches.

    Args:
        name: the case.
        data: the pairs, with labels that are read after the fit alone.
        seed: of the fit.
        folder: where the results are.

    Returns:
        The metrics.
    """
    model, engine = JOINT[name]
    x = np.asarray(data.modalities["image"])
    start = COPIED.get(name)
    if start is not None:
        x = np.asarray(straightened(jnp.asarray(x, jnp.float32)))
    arrays = [x, np.asarray(data.modalities["speech"])] if "mlda" in name else [x]
    in_order = hasattr(model, "sequence_dims")
    if in_order:
        arrays = [a.reshape(-1, NUM_STEPS, a.shape[1]) for a in arrays]
    began = time.perf_counter()
    fit = vmix.fit(model, *arrays, engine=engine, seed=seed, init=start)
    seconds = time.perf_counter() - began
    found = fit.predict(*arrays).reshape(-1)
    metrics = {"accuracy": accuracy(data.labels, found), "nmi": nmi(data.labels, found)}
    metrics |= {"elbo": float(fit.history["objective"][-1]), "load": load_average()}
    if in_order:
        transition = fit.posterior["transition"]
        metrics["least_largest_transition"] = float(transition.max(1).min())
        if seed == 0:
            _draw(
                transition,
                folder / "pictures" / f"serket_{name.split('/')[0]}_transition.png",
                f"Learnt transitions ({type(model).__name__})",
            )
    settings = {"model": fit.settings["model"], "engine": fit.settings["engine"]}
    if start is not None:
        settings |= {"images": "straightened", "start": asdict(start)}
    record(Case(benchmark="serket", case=name, variant="vmix", seed=seed, settings=settings), metrics, seconds, folder)
    return metrics | {"seconds": seconds}


def _draw(transition: np.ndarray, path: Path, title: str) -> None:
    """The transition matrix, states in the order of the cycle they follow."""
    order = [0]
    while len(order) < len(transition):
        ranked = np.argsort(-transition[order[-1]])
        order.append(next(int(k) for k in ranked if int(k) not in order))
    figure, axes = plt.subplots(figsize=(4, 3.4), layout="constrained")
    image = axes.imshow(transition[np.ix_(order, order)], vmin=0, vmax=1, cmap="viridis")
    axes.set(xlabel="state at t + 1", ylabel="state at t", title=title)
    figure.colorbar(image, label="probability")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
