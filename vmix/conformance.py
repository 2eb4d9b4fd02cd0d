"""`vmix.check_program`: does a program mean what the library takes it to mean?

Every check compares the library's fast path with something slow and independent: NumPyro's own log density for one
assignment at a time, a sum over all assignments, the joint distribution itself. Numbers are computed in float64.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpyro

from vmix.checks import check_seed
from vmix.conformance_case import Case, Fault, Skip
from vmix.conformance_checks import check_conditionals, check_enumeration, check_plan, check_repeatable, check_rows
from vmix.conformance_engines import check_em, check_gibbs, check_recovery
from vmix.door import check_arrays, prepare
from vmix.explaining import Explanation
from vmix.program import ProgramError

_MAX_ROWS = 500
_FIRST = ("repeatable", "plan")
_SINGLE = ("repeatable", "plan", "gibbs")
PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


class Check(NamedTuple):
    """One check: its name, what came of it ("passed", "failed", "skipped"), why in words, and its seconds."""

    name: str
    status: str
    detail: str
    seconds: float


@dataclass(frozen=True, repr=False)
class Conformance:
    """What `check_program` found; true where nothing failed.

    Its text is the plan, a line a check and the totals; of a record that was printed while it was made, what failed and
    the totals alone, so that `print(check_program(...))` says everything once.

    Attributes:
        program: name of the program.
        plan: the plan under EM; None where there is none.
        checks: one record a check, in order.
        printed: whether plan and checks were printed while the record was made.
    """

    program: str
    plan: Explanation | None
    checks: tuple[Check, ...]
    printed: bool = False

    def __bool__(self) -> bool:
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.status == FAILED)

    def __str__(self) -> str:
        if self.printed:
            return "\n".join([*map(_line, self.failed), self._totals()])
        lines = [str(self.plan)] if self.plan is not None else []
        return "\n".join([*lines, *map(_line, self.checks), self._totals()])

    def __repr__(self) -> str:
        return f"<Conformance of {self._totals()}>"

    def _totals(self) -> str:
        count = {status: sum(c.status == status for c in self.checks) for status in (PASSED, FAILED, SKIPPED)}
        return f"{self.program}: " + ", ".join(f"{n} {status}" for status, n in count.items())


def check_program(
    program: Any, *data: Any, seed: int = 0, verbose: bool = True, only: Collection[str] | None = None
) -> Conformance:
    """Check a program against slow, independent computations.

    The checks: the program is a fixed density (`repeatable`); it can be planned (`plan`); rows are independent
    (`rows`); discrete sites are summed out right (`enumeration`); recognised conditionals are those of NumPyro's own
    log density (`conditionals`); EM never lowers the log joint (`em`); Gibbs leaves the joint distribution as it is
    (`gibbs`, after Geweke 2004); EM on simulated data does at least as well as the truth (`recovery`).

    Args:
        program: a NumPyro function of the data arrays, or a record with `model` (and `guide`).
        *data: the data arrays; a few hundred rows are enough, and no more than 500 are used.
        seed: of every random choice; a right program fails the `gibbs` check for one seed in a thousand.
        verbose: print the plan, and each check as it is done.
        only: names of the checks to run; by default all.

    Returns:
        The record: `bool(result)`, `result.checks`, `print(result)`, which repeats nothing that `verbose` printed.

    Raises:
        ValueError: for data that cannot be used, or an unknown check.

    Example:
        >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist
        >>> def coins(flips):
        ...     p = numpyro.sample("p", dist.Beta(2.0, 2.0))
        ...     with numpyro.plate("data", flips.shape[0]):
        ...         numpyro.sample("x", dist.Bernoulli(p), obs=flips)
        >>> bool(check_program(coins, jnp.array([1, 0, 1, 1]), only=("repeatable", "plan"), verbose=False))
        True
    """
    check_seed(seed)
    chosen = _chosen(only)
    arrays = tuple(array[:_MAX_ROWS] for array in check_arrays(data, missing=None))
    wrapped = prepare(program, arrays)
    case = Case(wrapped, arrays, seed)
    checks: list[Check] = []
    stopped = ""
    for name in chosen:
        check = Check(name, SKIPPED, f"needs {stopped!r} to pass", 0.0) if stopped else _run(name, _CHECKS[name], case)
        checks.append(check)
        if name in _FIRST and check.status == FAILED:
            stopped = name
        if verbose:
            if name == "plan" and check.status == PASSED:
                print(case.explanation)
            print(_line(check), flush=True)
    planned = case.explanation if any(c.name == "plan" and c.status == PASSED for c in checks) else None
    return Conformance(wrapped.name, planned, tuple(checks), verbose)


def _chosen(only: Collection[str] | None) -> list[str]:
    unknown = sorted(set(only or ()) - set(_CHECKS))
    if unknown or isinstance(only, str):
        raise ValueError(f"only must name checks among {list(_CHECKS)}, found {only!r}")
    return [name for name in _CHECKS if only is None or name in only]


def _line(check: Check) -> str:
    return f"{check.status:8}{check.name:14}{check.detail} ({check.seconds:.1f} s)"


def _run(name: str, function: Callable[[Case], str], case: Case) -> Check:
    began = time.perf_counter()
    try:
        # the plan is judged in the precision of a fit, and draws need no more
        with numpyro.validation_enabled(False), jax.enable_x64(name not in _SINGLE):
            status, detail = PASSED, function(case)
    except Skip as reason:
        status, detail = SKIPPED, str(reason)
    except (Fault, ProgramError) as reason:
        status, detail = FAILED, str(reason)
    except Exception as error:  # whatever a user's program raises is a finding, not the end of the other checks
        status, detail = FAILED, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
    return Check(name, status, detail, time.perf_counter() - began)


_CHECKS: dict[str, Callable[[Case], str]] = {
    "repeatable": check_repeatable,
    "plan": check_plan,
    "rows": check_rows,
    "enumeration": check_enumeration,
    "conditionals": check_conditionals,
    "em": check_em,
    "gibbs": check_gibbs,
    "recovery": check_recovery,
}
