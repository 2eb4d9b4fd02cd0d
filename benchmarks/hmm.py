"""How fast is a hidden Markov model? vmix against hmmlearn, dynamax, pomegranate and NumPyro, interleaved in one run.

EM: every contestant advances a few sweeps a round, in turn, from one start. All maximise the likelihood (hmmlearn's
and vmix's priors are switched off, dynamax's made flat), so after the last round all must have reached the same
log-likelihood, which one judge computes in float64 from the values of each. Draws: whole paths, given the same
parameters. Gibbs: effective samples a second. `...-long` has all steps in one sequence. Peers that are not installed
are left out, and said.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _hmm_draws as draws
from benchmarks import _hmm_em as em
from benchmarks import _hmm_gibbs as gibbs
from benchmarks._recording import RESULTS

CASES = ("diagonal", "full", "diagonal-long", "full-long", "draws", "draws-long", "gibbs")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES, help="covariance of EM, draws, Gibbs")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-sequences", type=int, default=100)
    parser.add_argument("--num-steps", type=int, default=1_000)
    parser.add_argument("--data-dim", type=int, default=8)
    parser.add_argument("--num-components", type=int, default=10)
    parser.add_argument("--sweeps", type=int, default=5, help="a round; draws of all paths too")
    parser.add_argument("--rounds", type=int, default=7, help="timed; one more warms up")
    parser.add_argument("--gibbs-seconds", type=float, default=300.0, help="a sampler at most, warm-up apart")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = vars(parser.parse_args(arguments))
    cases, seeds, folder = options.pop("case"), options.pop("seeds"), options.pop("folder")
    for case in cases:
        for seed in seeds:
            began = time.perf_counter()
            lines = run(case, options, seed, folder)
            for line in lines:
                shown = "  ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items())
                print(f"{case}  {line['variant']}  {shown}")
            done = f"{time.perf_counter() - began:.0f} s" if lines else "done"
            print(f"{case}, seed {seed}: {done}")


def run(case: str, options: dict[str, Any], seed: int, folder: Path) -> list[dict[str, Any]]:
    """One case; its lines, none where they are in the file."""
    kind, _, long = case.partition("-")
    sizes = dict(options)
    budget = sizes.pop("gibbs_seconds")
    if kind == "gibbs":
        return gibbs.compare(seed, budget=budget, folder=folder)
    if long:
        sizes |= {"num_sequences": 1, "num_steps": options["num_sequences"] * options["num_steps"]}
    if kind == "draws":
        sizes["draws"] = sizes.pop("sweeps")
        return draws.compare(draws.Settings(**sizes), seed, name=case, folder=folder)
    return em.compare(em.Settings(covariance=kind, **sizes), seed, name=f"em-{case}", folder=folder)


if __name__ == "__main__":
    main()
