"""What peers run on: threads as far as there are cores, and the device that JAX computes on."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import jax
import pytest

from benchmarks import _peers
from benchmarks._deep_steps_peers import short_name


@pytest.mark.parametrize(("cores", "counts"), [(1, (1,)), (2, (1, 2)), (4, (1, 4)), (16, (1, 4, 16))])
def test_threads_go_up_to_the_cores(monkeypatch, cores, counts):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert _peers.thread_counts() == counts


@pytest.mark.parametrize(("backend", "device"), [("cpu", "cpu"), ("gpu", "cuda")])
def test_pytorch_computes_where_jax_does(monkeypatch, backend, device):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: True)))
    assert _peers.torch_device() == device
    assert _peers.torch_threads() == ((1,) if device == "cuda" else _peers.thread_counts())


def test_a_gpu_that_pytorch_does_not_see_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False)))
    with pytest.raises(RuntimeError, match="install PyTorch's build for CUDA"):
        _peers.torch_device()


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("NumPyro 0.22.0, SVI.update in a scan", "numpyro"),
        ("PyTorch 2.13.0, by hand, fused Adam", "pytorch"),
        ("PyTorch 2.13.0, by hand, fused Adam, bfloat16", "pytorch_bfloat16"),
        ("PyTorch 2.13.0, by hand, fused Adam, TF32, CUDA graph", "pytorch_tf32_cuda_graph"),
    ],
)
def test_ratios_are_named_after_the_peer_and_its_form(variant, name):
    assert short_name(variant) == name
