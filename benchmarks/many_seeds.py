"""Does it pay to fit many seeds at once? `vmix.fit_many` against a loop over `vmix.fit`, and with halving."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import vmix
from benchmarks._mixtures_em import Settings, make_data
from benchmarks._recording import RESULTS, Case, is_recorded, load_average, record
from vmix.inference import EM
from vmix.models import GaussianMixture

VARIANTS = ("vmix, fit_many", "vmix, fit_many with halving", "vmix, a loop over fit")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-data", nargs="+", type=int, default=[1_000, 20_000])
    parser.add_argument("--num-seeds", type=int, default=16)
    parser.add_argument("--sweeps", type=int, default=60)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for num_data in options.num_data:
        compare(num_data, options.num_seeds, options.sweeps, folder=options.folder)


def compare(num_data: int, num_seeds: int, sweeps: int, *, folder: Path) -> None:
    """Fit a diagonal mixture from every seed in each way, and record a line each."""
    settings = {"num_data": num_data, "num_seeds": num_seeds, "sweeps": sweeps}
    cases = [
        Case(benchmark="many_seeds", case=f"{num_data} rows", variant=v, seed=0, settings=settings) for v in VARIANTS
    ]
    if all(is_recorded(case, folder) for case in cases):
        print(f"{num_data} rows: recorded before")
        return
    x = make_data(Settings(covariance="diagonal", num_data=num_data), 0).astype(np.float32)
    model, engine = GaussianMixture(num_components=10), EM(num_sweeps=sweeps, tolerance=None)
    seeds = range(num_seeds)
    ways: list[Callable[[], list[Any]]] = [
        lambda: vmix.fit_many(model, x, engine=engine, seeds=seeds),
        lambda: vmix.fit_many(model, x, engine=engine, seeds=seeds, halve_every=10),
        lambda: [vmix.fit(model, x, engine=engine, seed=seed) for seed in seeds],
    ]
    taken = []
    for way in ways:
        began = time.perf_counter()
        fits = way()
        best = max(float(fit.history["objective"][-1]) for fit in fits)
        taken.append((time.perf_counter() - began, best))
    loop = taken[-1][0]
    for case, (seconds, best) in zip(cases, taken, strict=True):
        metrics = {"fits_per_second": num_seeds / seconds, "times_faster_than_loop": loop / seconds}
        metrics |= {"best_objective": best, "load": load_average()}
        record(case, metrics, seconds, folder)
        shown = "  ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        print(f"{case.case}  {case.variant}  {shown}", flush=True)


if __name__ == "__main__":
    main()
