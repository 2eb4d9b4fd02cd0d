"""How do time and memory grow? Seconds a sweep or step, and peak memory, against one size at a time.

Every point runs in a process of its own, smallest first, and leaves a line; a run that was stopped goes on with the
points that are missing. A point that does not fit in the memory at hand is left out with the larger ones of its curve,
and said.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks._growth_curves import CURVES, Curve
from benchmarks._growth_picture import draw
from benchmarks._recording import RESULTS, Case, is_recorded, read, record

ROOT = Path(__file__).resolve().parent.parent
# bytes that a sweep needs at once, as a multiple of its numbers in float32; on the safe side
SAFETY = 3
QUICK = 3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the points that are not in the file yet, and draw all that are there."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [curve.name for curve in CURVES]
    parser.add_argument("--curves", nargs="+", choices=names, default=names)
    parser.add_argument("--quick", action="store_true", help=f"the {QUICK} smallest points of each curve")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for curve in CURVES:
        if curve.name in options.curves:
            for seed in options.seeds:
                run(curve, seed, quick=options.quick, folder=options.folder)
    lines = read(options.folder, "growth")
    if lines:
        draw(lines, options.folder / "pictures" / "growth.png")


def run(curve: Curve, seed: int, *, quick: bool, folder: Path) -> None:
    """The points of a curve."""
    for point in curve.points[:QUICK] if quick else curve.points:
        case = Case(benchmark="growth", case=curve.name, variant="vmix", seed=seed, settings=curve.sizes(point))
        if is_recorded(case, folder):
            print(f"{curve.name}, {point}: recorded before")
            continue
        need = 4 * SAFETY * curve.floats(point)
        if need > psutil.virtual_memory().available:
            print(f"{curve.name}: {point} and more are left out: about {need / 1e9:.0f} GB of memory are needed")
            return
        began = time.perf_counter()
        try:
            metrics = measured(curve, point, seed)
        except RuntimeError as error:
            print(f"{curve.name}: {point} and more are left out: {error}")
            return
        record(case, metrics, time.perf_counter() - began, folder)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"{curve.name}, {point}: {shown}", flush=True)


def measured(curve: Curve, point: int, seed: int) -> dict[str, float]:
    """One point in its process.

    Raises:
        RuntimeError: if the process fails, with the last thing it said.
    """
    asked = {"loop": curve.loop, "on_disk": curve.on_disk, "sizes": curve.sizes(point), "seed": seed}
    command = [sys.executable, "-m", "benchmarks._growth_point", json.dumps(asked)]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths})
    if ran.returncode:
        said = ran.stderr.strip().splitlines() or ["killed, which is what a system short of memory does"]
        raise RuntimeError(f"its process ended with {ran.returncode}: {said[-1]}")
    return json.loads(ran.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
