"""How fast is an EM sweep of a hidden Markov model? vmix against hmmlearn and dynamax, interleaved in one run.

Every contestant advances a few sweeps a round, in turn, from one start. All maximise the likelihood (hmmlearn's and
vmix's priors are switched off, dynamax's made flat), so after the last round all must have reached the same
log-likelihood, which one judge computes in float64 from the values of each. Peers that are not installed are left
out, and said.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import _hmm_em as em
from benchmarks._recording import RESULTS

COVARIANCES = ("diagonal", "full")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=COVARIANCES, default=COVARIANCES, help="covariance")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-sequences", type=int, default=100)
    parser.add_argument("--num-steps", type=int, default=1_000)
    parser.add_argument("--data-dim", type=int, default=8)
    parser.add_argument("--num-components", type=int, default=10)
    parser.add_argument("--sweeps", type=int, default=5, help="a round")
    parser.add_argument("--rounds", type=int, default=7, help="timed; one more warms up")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = vars(parser.parse_args(arguments))
    cases, seeds, folder = options.pop("case"), options.pop("seeds"), options.pop("folder")
    for covariance in cases:
        settings = em.Settings(covariance=covariance, **options)
        for seed in seeds:
            began = time.perf_counter()
            lines = em.compare(settings, seed, folder=folder)
            for line in lines:
                shown = "  ".join(f"{name} {value:.4g}" for name, value in line["metrics"].items())
                print(f"{covariance}  {line['variant']}  {shown}")
            done = f"{time.perf_counter() - began:.0f} s" if lines else "done"
            print(f"{covariance}, seed {seed}: {done}")


if __name__ == "__main__":
    main()
