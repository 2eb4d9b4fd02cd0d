"""Batched linear algebra on CPUs, one matrix after another, where jaxlib could otherwise wait for itself for ever.

In jaxlib 0.10 to 0.11.1 a batched Cholesky factor or triangular solve that runs on a worker of XLA's thread pool hands
its matrices to workers of the same pool and waits for them (`ParallelBatchMap` under `CustomCallThunk`, by native
stacks); as many such calls at once as there are workers wait for each other for ever. Two are enough on two cores: the
plan of a mixture of 50 full covariances in 32 dimensions stopped within a few hundred runs. Later versions of jaxlib
go through the matrices in turn; here XLA's own loop does that. Batches of 50 of 32 x 32 take as long or less, 100,000
of 3 x 3 two to three times as long.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
from jax import lax
from jax.interpreters import mlir

_WAITING = ("0.10.", "0.11.0.", "0.11.1.")
_NAMES = ("cholesky", "triangular_solve", "lu", "eigh", "eig", "svd", "geqrf", "geqp3", "householder_product", "ormqr")


def waits_for_itself() -> bool:
    """Whether this version of jaxlib has batched calls that can wait for each other."""
    try:
        found = version("jaxlib")
    except PackageNotFoundError:
        return False
    return f"{found}.".startswith(_WAITING)


def take_matrices_in_turn() -> None:
    """Compile batched linear algebra for CPUs into a loop over its matrices, from now on in this process.

    Without effect for versions of jaxlib that do so themselves, and when called again.
    """
    if not waits_for_itself():
        return
    from jax._src.interpreters.mlir import _platform_specific_lowerings as known  # as jaxlib's own are found
    from jax._src.lax import linalg

    for name in _NAMES:
        primitive = getattr(linalg, f"{name}_p")
        rule = known["cpu"][primitive].rule
        if not hasattr(rule, "takes_matrices_in_turn"):
            mlir.register_lowering(primitive, _in_turn(primitive, rule), platform="cpu")


def _in_turn(primitive: Any, rule: Callable) -> Callable:
    """A lowering that calls `rule` for one matrix, and loops over a batch."""

    def lowered(context: Any, *operands: Any, **options: Any) -> Any:
        batch = context.avals_in[0].shape[:-2]
        if not all(isinstance(size, int) for size in batch) or math.prod(batch) <= 1:
            return rule(context, *operands, **options)

        def loop(*arrays: jax.Array) -> Any:
            flat = tuple(array.reshape(-1, *array.shape[len(batch) :]) for array in arrays)
            found = lax.map(lambda one: primitive.bind(*one, **options), flat)
            return jax.tree.map(lambda array: array.reshape(*batch, *array.shape[1:]), found)

        return mlir.lower_fun(loop, multiple_results=primitive.multiple_results)(context, *operands)

    lowered.takes_matrices_in_turn = True  # type: ignore[attr-defined]
    return lowered


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let OpenBLAS and the like use one thread inside, as XLA's pool has a thread for every core already.

    jaxlib's LAPACK calls are SciPy's. With more threads those wait for cores that XLA keeps busy: a sweep of 50 full
    covariances in 32 dimensions took a fifth longer, and on a busy machine now and then a thousand times as long.
    """
    if jax.default_backend() != "cpu":
        yield
        return
    with _ONE_THREAD:
        yield


class _SharedLimit:
    """One BLAS thread for the whole process: who enters first sets it, who leaves last takes it back.

    Fits in several threads would otherwise restore each other's limit, and leave it behind.
    """

    def __init__(self) -> None:
        self.lock, self.inside = threading.Lock(), 0
        self.limit: Any = None

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.limit = _libraries().limit(limits=1, user_api="blas")
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                self.limit.restore_original_limits()


_ONE_THREAD = _SharedLimit()


@lru_cache(maxsize=1)
def _libraries() -> Any:
    """The libraries with threads of their own that are loaded by now, SciPy's among them."""
    import scipy.linalg.cython_blas  # noqa: F401  what jaxlib calls
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
