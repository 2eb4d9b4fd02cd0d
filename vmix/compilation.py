"""Functions compiled quickly on CPUs, where compiling well would cost more than it saves.

A function that runs once costs its compilation and nearly nothing else; without optimisation XLA compiles it in about
half of the time, and in jaxlib 0.10, where fused loops can be turned off too, in a third. What it makes runs two to
seven times slower, so a loop has to be short to gain by it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

import jax

LITTLE_WORK = 20_000_000
"""Below where the two were even for mixtures, hidden Markov models, topics, VAE and VaDE (25 to 65 million)."""

Function = TypeVar("Function", bound=Callable[..., Any])

_QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
# By the versions that were tried, as XLA aborts on an option that it does not know.
_OPTIONS: dict[str, dict[str, Any]] = {
    "0.10.": {**_QUICK, "xla_cpu_use_fusion_emitters": False},
    "0.11.": _QUICK,
    "0.12.": _QUICK,
}


def compile_everything_quickly() -> None:
    """Compile quickly rather than well from now on, through `XLA_FLAGS`: for runs that compile more than they compute.

    Without effect once JAX has run something.
    """
    given = os.environ.get("XLA_FLAGS", "")
    flags = {f"--{name}": str(value).lower() for name, value in (_options() or {}).items()}
    missing = [f"{name}={value}" for name, value in flags.items() if name not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()


def jit_once(function: Function) -> Function:
    """`jax.jit` for a function that runs once on small data: on a CPU it is compiled quickly rather than well.

    Example:
        >>> jit_once(lambda x: x + 1)(1).item()
        2
    """
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
    return jit_once(function) if work <= LITTLE_WORK else jax.jit(function)  # type: ignore[return-value]


def _options() -> dict[str, Any] | None:
    """What compiles quickly in this version of jaxlib; None for one that was not tried."""
    try:
        found = version("jaxlib")
    except PackageNotFoundError:
        return None
    return next((options for known, options in _OPTIONS.items() if found.startswith(known)), None)
