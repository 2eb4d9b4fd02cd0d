"""A setting that XLA must have before it starts: on CPUs, batched LAPACK calls must not run at the same time.

In jaxlib 0.10 a batched Cholesky or triangular solve that runs on a worker of XLA's thread pool waits for other
workers of the same pool; two of them on a two-core machine wait for each other for ever (seen with a Wishart density
of 40 x 40 matrices; native stacks show `ParallelBatchMap` under `CustomCallThunk`). With the concurrency-optimised
scheduler off, XLA runs independent calls one after another. The option is read from the environment only.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version

_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"
# XLA aborts on a flag that it does not know, so it is set only for the versions that were tried
_KNOWN = ("0.10.", "0.11.", "0.12.")


def avoid_lapack_deadlock() -> None:
    """Add the option to `XLA_FLAGS`, unless the user has set it; without effect once JAX has run something."""
    flags = os.environ.get("XLA_FLAGS", "")
    try:
        known = version("jaxlib").startswith(_KNOWN)
    except PackageNotFoundError:
        return
    if known and _FLAG not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_FLAG}=false".strip()
