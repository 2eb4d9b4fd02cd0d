"""How XLA compiles on CPUs: a setting that it must have before it starts, and functions compiled quickly.

Batched LAPACK calls must not run at the same time. In jaxlib 0.10 a batched Cholesky or triangular solve that runs on
a worker of XLA's thread pool waits for other workers of the same pool; two of them on a two-core machine wait for each
other for ever (seen with a Wishart density of 40 x 40 matrices; native stacks show `ParallelBatchMap` under
`CustomCallThunk`). With the concurrency-optimised scheduler off, XLA runs independent calls one after another. The
option is read from the environment only.

A function that runs once costs its compilation and nearly nothing else; without optimisation XLA compiles it in about
half of the time, and in jaxlib 0.10, where fused loops can be turned off too, in a third. What it makes runs two to
seven times slower, so a loop has to be short to gain by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

LITTLE_WORK = 20_000_000
"""Below where the two were even for mixtures, hidden Markov models, topics, VAE and VaDE (25 to 65 million)."""

Function = TypeVar("Function", bound=Callable[..., Any])

_FLAG = "--xla_cpu_enable_concurrency_optimized_scheduler"
_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# By the versions that were tried, as XLA aborts on an option that it does not know.
_OPTIONS: dict[str, dict[str, Any]] = {
    "0.10.": {**_QUICK, "xla_cpu_use_fusion_emitters": False},
    "0.11.": _QUICK,
    "0.12.": _QUICK,
}


def avoid_lapack_deadlock() -> None:
    """Add the option to `XLA_FLAGS`, unless the user has set it; without effect once JAX has run something."""
    _add_flags({_FLAG: "false"})


def compile_everything_quickly() -> None:
    """Compile quickly rather than well from now on, through `XLA_FLAGS`: for runs that compile more than they compute.

    Without effect once JAX has run something.
    """
    _add_flags({f"--{name}": str(value).lower() for name, value in (_options() or {}).items()})


def jit_once(function: Function) -> Function:
    """`jax.jit` for a function that runs once on small data: on a CPU it is compiled quickly rather than well.

    Example:
        >>> jit_once(lambda x: x + 1)(1).item()
        2
    """
    import jax  # here, because `avoid_lapack_deadlock` must be able to run before JAX is imported

    options = _options() if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)  # type: ignore[return-value]


def jit_for(function: Function, *, work: int) -> Function:
    """`jax.jit`, or `jit_once` where the work is so little that compiling well would take longer than it saves.

    Args:
        function: a pure function of arrays.
        work: of all its runs together: rows times values of the discrete sites, and times thousands of network weights.

    Example:
        >>> jit_for(lambda x: x + 1, work=100)(1).item()
        2
    """
    import jax

    return jit_once(function) if work <= LITTLE_WORK else jax.jit(function)  # type: ignore[return-value]


def _add_flags(flags: dict[str, str]) -> None:
    given = os.environ.get("XLA_FLAGS", "")
    missing = [f"{name}={value}" for name, value in flags.items() if name not in given]
    if missing and _options() is not None:
        os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()


def _options() -> dict[str, Any] | None:
    """What compiles quickly in this version of jaxlib; None for one that was not tried."""
    try:
        found = version("jaxlib")
    except PackageNotFoundError:
        return None
    return next((options for known, options in _OPTIONS.items() if found.startswith(known)), None)
