"""What peers run on: their numbers of threads, and the device of those on PyTorch."""

from __future__ import annotations

import os
from typing import Any

import jax


def thread_counts() -> tuple[int, ...]:
    """One thread, four, and one for every core, as far as there are so many cores; the fastest counts."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return tuple(sorted({1, min(4, cores), cores}))


def torch_device() -> str:
    """`cuda` where JAX computes on a GPU and PyTorch sees one too; else `cpu`.

    Raises:
        RuntimeError: where JAX has a GPU and PyTorch has none: the contest would not be one.
    """
    import torch

    if jax.default_backend() == "cpu":
        return "cpu"
    if not torch.cuda.is_available():
        raise RuntimeError("JAX computes on a GPU that this PyTorch does not see; install PyTorch's build for CUDA")
    return "cuda"


def torch_threads() -> tuple[int, ...]:
    """Of a peer on PyTorch: `thread_counts`, of which one is enough where a GPU does the work."""
    return thread_counts() if torch_device() == "cpu" else (1,)


def wait_for(tensor: Any) -> None:
    """Return when the device has done what it was asked for: PyTorch's calls to a GPU return before."""
    import torch

    if tensor.is_cuda:
        torch.cuda.synchronize()
