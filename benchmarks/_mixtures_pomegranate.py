"""pomegranate's Gaussian mixture (1.x, on PyTorch), its sweep called as in its own loop; left out if not installed.

It computes where vmix does: on a GPU if JAX has one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import metadata, util
from typing import TYPE_CHECKING

import numpy as np

from benchmarks._peers import torch_device, wait_for

if TYPE_CHECKING:
    from benchmarks._mixtures_em import Settings

KINDS = {"diagonal": "diag", "full": "full"}


def installed() -> dict[str, str]:
    """Its variant and short name, where it is at hand; if not, the screen says so."""
    missing = [name for name in ("torch", "pomegranate") if util.find_spec(name) is None]
    if missing:
        print(f"pomegranate is left out: {', '.join(missing)} not installed")
        return {}
    return {f"pomegranate {metadata.version('pomegranate')}, float32": "pomegranate"}


def form(
    settings: Settings, x: np.ndarray, start: dict[str, np.ndarray], threads: int
) -> tuple[Callable[[], None], Callable[[], float]]:
    """With a number of threads of PyTorch: a round of sweeps, and the log-likelihood, nats per datum."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.gmm import GeneralMixtureModel

    device = torch_device()
    data = torch.tensor(x, dtype=torch.float32, device=device)
    inverse = np.reciprocal if settings.covariance == "diagonal" else np.linalg.inv
    shapes = zip(start["loc"].astype(np.float32), inverse(start["precision"]).astype(np.float32), strict=True)
    parts = [Normal(m, s, covariance_type=KINDS[settings.covariance]) for m, s in shapes]
    model = GeneralMixtureModel(parts, priors=start["w"].astype(np.float32)).to(device)

    def advance() -> None:
        torch.set_num_threads(threads)
        for _ in range(settings.sweeps):
            model.summarize(data)
            model.from_summaries()
        wait_for(data)

    return advance, lambda: float(model.log_probability(data).double().mean())
