"""Do the tests see small faults in the mathematics? Each of `_mutants.py`, in a copy, until a test fails."""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks._mutants import MUTANTS, Copy, Mutant
from benchmarks._recording import RESULTS, Case, is_recorded, record


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", default=None, help="words of the claims to run")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()) / "vmix_mutants")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    chosen = [m for m in MUTANTS if options.only is None or any(word in m.claim for word in options.only)]
    todo = [mutant for mutant in chosen if not is_recorded(case_of(mutant), options.folder)]
    print(f"{len(chosen) - len(todo)} recorded before, {len(todo)} to run", flush=True)
    if not todo:
        return
    copy = Copy(options.scratch)
    for slow in (False, True):
        group = [mutant for mutant in todo if mutant.slow == slow]
        failing = copy.run(sorted({test for mutant in group for test in mutant.tests}), slow=slow) if group else []
        if failing:
            raise RuntimeError(f"{failing[0]} fails without any fault; mend it first")
        for mutant in group:
            judge(mutant, copy, folder=options.folder)


def judge(mutant: Mutant, copy: Copy, *, folder: Path) -> None:
    """Run a mutant's tests, and record which of them fails first, if any."""
    began = _children_seconds()
    failing = copy.failures(mutant)
    metrics = {"killed": float(bool(failing))} | {f"killed by {test}": 1.0 for test in failing}
    record(case_of(mutant), metrics, _children_seconds() - began, folder)
    print(f"{'killed  ' if failing else 'SURVIVED'} {mutant.claim}: {', '.join(failing)}", flush=True)


def case_of(mutant: Mutant) -> Case:
    """What makes a run of a mutant the same run."""
    settings = {"file": mutant.file, "old": mutant.old, "new": mutant.new, "tests": list(mutant.tests)}
    return Case(benchmark="mutants", case=mutant.claim, variant="vmix", seed=0, settings=settings)


def _children_seconds() -> float:
    """Processor seconds of the tests so far: other work on the machine does not count."""
    spent = os.times()
    return spent.children_user + spent.children_system


if __name__ == "__main__":
    main()
