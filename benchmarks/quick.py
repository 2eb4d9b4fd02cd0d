"""How does vmix compare on this machine, in a few minutes? Small forms of the other scripts, and one table.

Figures of so few rounds are rough: the recorded ones come from the scripts themselves. Lines go to a folder of their
own.
"""

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import cold_start, deep_steps, hmm, lda, many_seeds, mixtures
from benchmarks._recording import read


class Part(NamedTuple):
    """A script in its small form."""

    name: str
    main: Callable[[Sequence[str]], None]
    options: tuple[str, ...]


PARTS = (
    Part("mixtures", mixtures.main, ("--case", "em-diagonal", "em-full", "--rounds", "3")),
    Part("mixtures", mixtures.main, ("--case", "gibbs", "--budget", "20")),
    Part("hmm", hmm.main, ("--case", "diagonal", "full", "draws", "--rounds", "3")),
    Part("lda", lda.main, ("--case", "simulated", "--tokens", "400000", "--budget", "8")),
    Part("deep_steps", deep_steps.main, ("--num-data", "5000", "--steps", "5", "--rounds", "3")),
    Part("many_seeds", many_seeds.main, ("--num-data", "2000", "--num-seeds", "6", "--sweeps", "30")),
    Part("cold_start", cold_start.main, ("--rounds", "1", "--case", "imports", "mixture")),
)
LESS_IS_BETTER = ("seconds_per_iteration", "seconds_per_step", "seconds_per_draw", "seconds_median")
MORE_IS_BETTER = ("effective_per_second", "held_out", "fits_per_second")
REACHED = ("log_likelihood", "elbo", "gap_to_vmix", "best_objective")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=sorted({part.name for part in PARTS}))
    parser.add_argument("--folder", type=Path, help="keeps the lines; by default they go when the table is printed")
    options = parser.parse_args(arguments)
    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.folder or Path(scratch)
        for part in PARTS:
            if options.only is None or part.name in options.only:
                began, said = time.perf_counter(), io.StringIO()
                console.print(f"{part.name} {' '.join(part.options)}")
                with contextlib.redirect_stdout(said):
                    part.main([*part.options, "--folder", str(folder)])
                for line in dict.fromkeys(said.getvalue().splitlines()):
                    if "left out" in line:
                        console.print(f"  {line}")
                console.print(f"  {time.perf_counter() - began:.0f} s")
        Console().print(table(folder))


def table(folder: Path) -> Table:
    """A row a variant: what it measures, how far it came, and how many times faster vmix is."""
    found = Table("case", "variant", "measure", "value", "reached", "vmix is so many times faster", title="vmix, quick")
    for name in dict.fromkeys(part.name for part in PARTS):
        lines = read(folder, name)
        for line in lines:
            for metric in (*LESS_IS_BETTER, *MORE_IS_BETTER):
                if metric in line["metrics"]:
                    row = (f"{line['metrics'][metric]:.4g}", _reached(line), _ratio(line, metric, lines))
                    found.add_row(f"{name}, {line['case']}", line["variant"], metric.replace("_", " "), *row)
    return found


def _reached(line: dict[str, Any]) -> str:
    return ", ".join(f"{n.replace('_', ' ')} {line['metrics'][n]:.6g}" for n in REACHED if n in line["metrics"])


def _ratio(line: dict[str, Any], metric: str, lines: list[dict[str, Any]]) -> str:
    """Of a peer's line: its value against vmix's in the same case (the best of vmix's, where there are several)."""
    ours = [o["metrics"].get(metric) for o in lines if o["case"] == line["case"] and o["variant"].startswith("vmix")]
    if line["variant"].startswith("vmix") or not ours or metric == "held_out":
        return ""
    value = line["metrics"][metric]
    return f"{value / min(ours):.1f}" if metric in LESS_IS_BETTER else f"{max(ours) / value:.1f}"


if __name__ == "__main__":
    main()
