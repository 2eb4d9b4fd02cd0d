"""How fast are mixtures? EM against scikit-learn and pomegranate, Gibbs against NumPyro, interleaved in one run.

EM: every contestant advances a few sweeps a round, in turn, from one start; after the last round all have done the
same number of sweeps and must have reached the same log-likelihood. Gibbs: every sampler draws a block a round, in
turn, from one start, until it has enough effective samples of its worst mean or its seconds are spent.
Dirichlet-process mixtures: each goes its own way to its own convergence, and one judge scores held-out rows.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _mixtures_dp as dp
from benchmarks import _mixtures_em as em
from benchmarks import _mixtures_gibbs as gibbs
from benchmarks._recording import RESULTS

CASES = ("em-diagonal", "em-full", "em-mnist", "dp-diagonal", "dp-full", "gibbs")
MNIST = {"covariance": "full", "num_data": 60_000, "data_dim": 32, "num_components": 50}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-data", type=int, default=100_000, help="of all but Gibbs and MNIST")
    parser.add_argument("--truncation", type=int, default=dp.Settings.truncation, help="of the Dirichlet process")
    parser.add_argument("--rounds", type=int, default=7, help="of EM")
    parser.add_argument("--budget", type=float, default=120.0, help="seconds a sampler of Gibbs")
    parser.add_argument("--dp-budget", type=float, default=dp.Settings.budget, help="seconds a contestant")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for case in options.case:
        for seed in options.seeds:
            began = time.perf_counter()
            lines = run(case, seed, options)
            for line in lines:
                shown = "  ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items())
                print(f"{case}  {line['variant']}  {shown}")
            print(
                f"{case}, seed {seed}: {time.perf_counter() - began:.0f} s" if lines else f"{case}, seed {seed}: done"
            )


def run(case: str, seed: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """One case; its lines, none where they are in the file."""
    kind, _, covariance = case.partition("-")
    if kind == "gibbs":
        return gibbs.compare(seed, budget=options.budget, folder=options.folder)
    if kind == "dp":
        sizes = {"num_data": options.num_data, "truncation": options.truncation, "budget": options.dp_budget}
        return dp.compare(dp.Settings(covariance=covariance, **sizes), seed, folder=options.folder)
    if covariance == "mnist":
        return em.compare(em.Settings(**MNIST, rounds=options.rounds), seed, folder=options.folder, data="mnist")
    settings = em.Settings(covariance=covariance, num_data=options.num_data, rounds=options.rounds)
    return em.compare(settings, seed, folder=options.folder)


if __name__ == "__main__":
    main()
