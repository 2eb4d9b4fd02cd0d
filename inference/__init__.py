"""The engines: one algorithm a file, each with pure `init` and `step`; none of them names a model.

Example:
    >>> from vmix import inference
    >>> dir(inference)
    ['EM', 'Gibbs', 'GibbsKernel', 'SVI']
"""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ == "inference":
    raise ImportError(
        "the folder inference/ is the package vmix.inference: write `import vmix.inference`, not `import inference`"
    )

if TYPE_CHECKING:
    from vmix.inference.em import EM
    from vmix.inference.gibbs import Gibbs
    from vmix.inference.kernel import GibbsKernel
    from vmix.inference.svi import SVI

_HOMES = {"EM": "em", "Gibbs": "gibbs", "GibbsKernel": "kernel", "SVI": "svi"}

__all__ = ["EM", "SVI", "Gibbs", "GibbsKernel"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'vmix.inference' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
