"""The peers of `deep_steps`: the same networks and bound in NumPyro's own SVI, by hand in PyTorch, and in ClustPy."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import optax
from numpyro.infer import SVI, Trace_ELBO

from benchmarks import _deep_steps_clustpy as clustpy
from benchmarks._peers import torch_device
from vmix.door import prepare
from vmix.models import VAE

if TYPE_CHECKING:
    from benchmarks.deep_steps import Settings


def installed(case: str) -> dict[str, Callable]:
    """Makers by variant; what is not installed is said."""
    makers: dict[str, Callable] = {}
    if case == "vae":  # for VaDE its users would need a sum over classes of their own
        makers[f"NumPyro {numpyro.__version__}, SVI.update in a scan"] = by_numpyro
    if importlib.util.find_spec("torch"):
        name = f"PyTorch {importlib.metadata.version('torch')}, by hand, fused Adam"
        makers |= {name + how: partial(by_torch, form=form) for how, form in torch_forms().items()}
    else:
        print("PyTorch is left out: not installed")
    if case == "vade":
        makers |= clustpy.installed()
    return makers


def short_name(variant: str) -> str:
    """`pytorch` of "PyTorch 2.13.0, by hand, fused Adam", `pytorch_tf32_cuda_graph` with what follows."""
    how = variant.partition("fused Adam")[2].replace(",", "")
    return "_".join([variant.split()[0], *how.split()]).lower()


def by_numpyro(case: str, settings: Settings, x: np.ndarray, seed: int) -> Callable[[int], float]:
    """NumPyro's SVI on the same program, its updates in one compiled scan a round."""
    model = prepare(VAE(latent_dim=settings.latent_dim, hidden=settings.hidden), (x,))
    svi = SVI(model.model, model.guide, optax.adam(settings.learning_rate), Trace_ELBO())
    data = jnp.asarray(x)
    with numpyro.validation_enabled(False):  # grey pixels are outside a Bernoulli's support
        state = svi.init(jax.random.key(seed), data[: settings.batch_size])

    @partial(jax.jit, static_argnums=2)
    def block(state: Any, key: jax.Array, steps: int) -> tuple[Any, jax.Array]:
        order = jax.random.permutation(key, len(data))[: steps * settings.batch_size]

        def one(state: Any, index: jax.Array) -> tuple[Any, jax.Array]:
            return svi.update(state, data[index])

        return jax.lax.scan(one, state, order.reshape(steps, settings.batch_size))

    keys = iter(jax.random.split(jax.random.key(seed), settings.rounds + 1))

    def advance(steps: int) -> float:
        nonlocal state
        with numpyro.validation_enabled(False):
            state, losses = jax.block_until_ready(block(state, next(keys), steps))
        return -float(losses.mean()) / settings.batch_size

    return advance


class TorchForm(NamedTuple):
    """How PyTorch computes: bfloat16 by autocast, TF32 in matrix products, a whole step as one CUDA graph."""

    bfloat16: bool = False
    tf32: bool = False
    graph: bool = False


def torch_forms() -> dict[str, TorchForm]:
    """The forms worth trying on this device, by the end of their names.

    On a GPU JAX multiplies float32 matrices in TF32 unless told not to, PyTorch where it is told to; and small steps
    wait for their launches, which a graph of the step, captured once, spares.
    """
    forms = {"": TorchForm(), ", bfloat16": TorchForm(bfloat16=True)}
    if torch_device() == "cuda":
        forms |= {", TF32": TorchForm(tf32=True), ", TF32, CUDA graph": TorchForm(tf32=True, graph=True)}
        forms |= {", bfloat16, CUDA graph": TorchForm(bfloat16=True, graph=True)}
    return forms


def by_torch(case: str, settings: Settings, x: np.ndarray, seed: int, *, form: TorchForm) -> Callable[[int], float]:
    """PyTorch as its users write it: `nn.Sequential`, fused Adam, rows drawn by a permutation.

    Under bfloat16 matrix products are in it, weights and densities in float32.
    """
    import torch

    device = torch_device()
    torch.manual_seed(seed)
    encoder, heads, decoder = _torch_networks(settings)
    modules = torch.nn.ModuleList([encoder, heads, decoder])
    prior = _TorchMixture(settings, seed) if case == "vade" else None
    if prior is not None:
        modules.append(prior)
    modules.to(device)
    optimizer = torch.optim.Adam(modules.parameters(), lr=settings.learning_rate, fused=True, capturable=form.graph)
    data = torch.from_numpy(x).to(device)

    def loss_of(rows: torch.Tensor) -> torch.Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=form.bfloat16, cache_enabled=not form.graph):
            loc, raw = heads(encoder(rows)).float().chunk(2, -1)
        scale = torch.nn.functional.softplus(raw) + 1e-4
        z = loc + scale * torch.randn_like(loc)
        entropy = torch.log(scale).sum(-1) + 0.5 * settings.latent_dim * (1 + math.log(2 * math.pi))
        before = prior(z) if prior is not None else -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)
        with torch.autocast(device, torch.bfloat16, enabled=form.bfloat16, cache_enabled=not form.graph):
            logits = decoder(z).float()
        pixels = torch.nn.functional.binary_cross_entropy_with_logits(logits, rows, reduction="none").sum(-1)
        return (pixels - before - entropy).mean()

    def step(rows: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(rows)
        loss.backward()
        optimizer.step()
        return loss.detach()

    run = step

    def advance(steps: int) -> float:
        nonlocal run
        torch.backends.cuda.matmul.allow_tf32 = form.tf32
        if form.graph and run is step:
            run = _as_graph(step, data[: settings.batch_size].clone())
        order = torch.randperm(len(data), device=device)[: steps * settings.batch_size].reshape(steps, -1)
        losses = torch.stack([run(data[index]) for index in order])
        return -float(losses.mean())

    return advance


def _as_graph(step: Callable, rows: Any) -> Callable:
    """A step captured once, after three to warm up on a stream of their own; its replay copies the rows in."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step(rows)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step(rows)

    def replay(given: Any) -> Any:
        rows.copy_(given)
        graph.replay()
        return loss.clone()

    return replay


def _torch_networks(settings: Settings) -> tuple[Any, Any, Any]:
    """Encoder without its last layer, that layer, and the decoder; ReLU between."""
    from torch import nn

    def body(widths: list[int]) -> list[Any]:
        return [part for a, b in zip(widths, widths[1:], strict=False) for part in (nn.Linear(a, b), nn.ReLU())]

    down, up = [settings.data_dim, *settings.hidden], [settings.latent_dim, *settings.hidden[::-1]]
    last = nn.Linear(settings.hidden[0], settings.data_dim)
    return (
        nn.Sequential(*body(down)),
        nn.Linear(settings.hidden[-1], 2 * settings.latent_dim),
        nn.Sequential(*body(up), last),
    )


def _TorchMixture(settings: Settings, seed: int) -> Any:  # noqa: N802 - a class that needs torch to be defined
    """log sum_c w_c N(z | loc_c, 1 / tau_c) as a module."""
    import torch

    from benchmarks.deep_steps import vade_values

    start = vade_values(settings, seed)

    class Mixture(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.zeros(10))
            self.loc = torch.nn.Parameter(torch.tensor(start["loc"], dtype=torch.float32))
            self.log_tau = torch.nn.Parameter(torch.zeros(10, settings.latent_dim))

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            apart = (z[:, None] - self.loc).square() * self.log_tau.exp()
            density = 0.5 * (self.log_tau - apart - math.log(2 * math.pi)).sum(-1)
            return torch.logsumexp(density + self.logits.log_softmax(-1), -1)

    return Mixture()
