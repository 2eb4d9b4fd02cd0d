"""Latent-variable models written once as NumPyro programs and fitted with SVI, EM or Gibbs.

Importing this package does no work: every public name is looked up when it is first used (PEP 562), so that
`import vmix` takes no JAX and the command line answers at once.

Example:
    >>> import vmix
    >>> "fit" in dir(vmix)
    True
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmix import compose, data, distributions, inference, metrics, models, networks, plots, sequences, sklearn
    from vmix.conformance import check_program
    from vmix.diagnosing import diagnose
    from vmix.explaining import explain
    from vmix.fitting import fit
    from vmix.many import fit_many
    from vmix.program import Program
    from vmix.results import Fit, load

    __version__: str

_HOMES = {
    "Fit": "vmix.results",
    "Program": "vmix.program",
    "check_program": "vmix.conformance",
    "diagnose": "vmix.diagnosing",
    "explain": "vmix.explaining",
    "fit": "vmix.fitting",
    "fit_many": "vmix.many",
    "load": "vmix.results",
}
_SUBMODULES = (
    "compose", "data", "distributions", "inference", "metrics", "models", "networks", "plots", "sequences", "sklearn",
)  # fmt: skip

__all__ = [
    "Fit", "Program", "__version__", "check_program", "compose", "data", "diagnose", "distributions", "explain", "fit",
    "fit_many", "inference", "load", "metrics", "models", "networks", "plots", "sequences", "sklearn",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"vmix.{name}")
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name == "__version__":
        value = _version()
    else:
        raise AttributeError(f"module 'vmix' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("vmix")
    except metadata.PackageNotFoundError:  # a checkout on the path that was never installed
        return "0+unknown"
