"""ClustPy's VaDE (0.0.3, on PyTorch), its steps called as in its own loop; left out if not installed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks._peers import torch_device

if TYPE_CHECKING:
    from benchmarks.deep_steps import Settings


def installed() -> dict[str, Callable]:
    """Its maker by variant, where it is at hand; if not, the screen says so."""
    missing = [name for name in ("torch", "torchvision", "clustpy") if util.find_spec(name) is None]
    if missing:
        print(f"ClustPy is left out: {', '.join(missing)} not installed")
        return {}
    return {f"ClustPy {metadata.version('clustpy')}, its own loop": by_clustpy}


def by_clustpy(case: str, settings: Settings, x: np.ndarray, seed: int) -> Callable[[int], float]:
    """The body of `_VaDE_Module.fit`, on batches from its own loader, with its activations and plain Adam.

    Its loss leaves one constant of the prior in and sums the pixels of a batch; here both are per datum, so that what
    it reports is the bound that the others report. Neither changes the work of a step.
    """
    import torch

    _declare_operators(torch)
    from clustpy.deep._data_utils import get_dataloader
    from clustpy.deep.vade import _VaDE_Module, _VaDE_VAE

    from benchmarks.deep_steps import vade_values

    torch.manual_seed(seed)
    start = {name: np.float32(value) for name, value in vade_values(settings, seed).items()}
    network = _VaDE_VAE([settings.data_dim, *settings.hidden, settings.latent_dim])
    network.fitted = True  # its forward pass is an autoencoder's until then
    values = {"weights": start["w"], "means": start["loc"], "variances": 1 / start["precision"]}
    mixture = _VaDE_Module(10, settings.latent_dim, **values)
    device = torch.device(torch_device())
    network.to(device)
    mixture.to(device)
    weights = [*network.parameters(), *mixture.parameters()]
    optimizer = torch.optim.Adam(weights, lr=settings.learning_rate)
    loader = get_dataloader(x, settings.batch_size, shuffle=True, drop_last=True)

    def batches() -> Iterator[Any]:
        while True:
            yield from loader

    def pixels(found: Any, rows: Any) -> Any:
        return torch.nn.functional.binary_cross_entropy(found, rows, reduction="sum") / len(rows)

    left_in = 0.5 * math.log(2 * math.pi) * (1 - 1 / settings.batch_size)
    endless = batches()

    def advance(steps: int) -> float:
        network.train()
        mixture.train()
        total = 0.0
        for _ in range(steps):
            rows = next(endless)[1].to(device)
            loss = mixture.vade_loss(network, rows, pixels, 1.0, 1.0)
            total += loss.item()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return left_in - total / steps

    return advance


def _declare_operators(torch: Any) -> None:
    """What torchvision, which ClustPy imports, wants declared; beside a CPU build of PyTorch its wheel does not."""
    if torch.version.cuda is not None:
        return
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
