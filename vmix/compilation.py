"""`jit` for programs with linear algebra: on CPUs, independent batched LAPACK calls must not run at the same time.

In jaxlib 0.10 a batched Cholesky or triangular solve that runs on a worker of XLA's thread pool waits for other
workers of the same pool; two of them on a two-core machine wait for each other for ever (seen with a Wishart density
of 40 x 40 matrices; native stacks show `ParallelBatchMap` under `CustomCallThunk`). With this scheduler off, XLA runs
independent calls one after another. GPUs ignore the option.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

_OPTIONS = {"xla_cpu_enable_concurrency_optimized_scheduler": False}


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function, as `jax.jit` does; not to be called inside another compiled function."""
    return jax.jit(function, compiler_options=_OPTIONS)
