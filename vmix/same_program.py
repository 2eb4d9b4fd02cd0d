"""Whether saved values are those of a program: its globals and its networks' weights, by name and shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vmix.plan import Plan
from vmix.program import GLOBAL, NETWORK, ProgramError, leaves_of


def check_same_program(
    plan: Plan,
    globals_: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    where: object,
    wrote: str | None = None,
    draws: bool = True,
) -> None:
    """Refuse saved values that the program does not have, or has in another shape.

    Args:
        plan: the plan of the present program, on the shapes of the saved fit's data.
        globals_: saved values of the globals.
        params: saved parameters of the networks.
        where: the file, or whatever else holds them.
        wrote: the version of vmix that wrote it, where it is known.
        draws: whether the globals have draws along their first axis.

    Raises:
        ProgramError: naming the file, the site and its part, what was found there, and what the program makes.
    """
    made = {name: plan.sites[name].shape for name in plan.names(GLOBAL)}
    saved = {name: np.shape(value)[draws:] for name, value in globals_.items() if name not in plan.per_datum}
    faults = _differences("site", saved, made)
    networks = {name: dict(plan.sites[name].leaves) for name in plan.names(NETWORK)}
    faults += _differences("network", dict.fromkeys(params, ()), dict.fromkeys(networks, ()))
    for name in sorted(networks.keys() & params.keys()):
        faults += _differences(f"network {name!r}: weights", dict(leaves_of(params[name])), networks[name])
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        version = f" (vmix {wrote})" if wrote else ""
        raise ProgramError(
            f"{where}: {'; '.join(faults[:3])}{more}; expected what {plan.program.name} makes. It is of another "
            f"program: load it with the one that was fitted, and the version that wrote it{version}, or fit again"
        )


def _differences(what: str, saved: Mapping[str, tuple], made: Mapping[str, tuple]) -> list[str]:
    """What only one side has, and what has another shape, in words."""
    found = []
    for name in sorted(saved.keys() | made.keys()):
        if name not in saved:
            found.append(f"{what} {name!r} is not in it, but in the program{_of(made[name])}")
        elif name not in made:
            found.append(f"{what} {name!r} is in it{_of(saved[name])}, but not in the program")
        elif saved[name] != made[name]:
            found.append(f"{what} {name!r} has shape {saved[name]}; the program's has {made[name]}")
    return found


def _of(shape: tuple) -> str:
    return f" with shape {shape}" if shape else ""
