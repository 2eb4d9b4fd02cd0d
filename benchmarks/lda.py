"""How well does a topic model predict unseen documents, and after how many seconds? vmix against tomotopy and sklearn.

vmix's LDA by EM and by Gibbs, tomotopy and scikit-learn advance in turn, slice by slice, until each has used its budget
of seconds. After each slice one judge scores the topics of each on held-out documents (document completion, float64).
Peers that are not installed are left out, and said.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import _lda_contest as contest
from benchmarks import _lda_corpus as corpora
from benchmarks import _lda_peers as peers
from benchmarks import _lda_picture as picture
from benchmarks import _lda_vmix as ours
from benchmarks._recording import RESULTS, Case, is_recorded

CASES = ("speech", "simulated")
BUDGETS = {"speech": 20.0, "simulated": 60.0}
SPEECH_TOPICS = 10


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--budget", type=float, help="own seconds of each; by default 20 on speech, 60 on simulated")
    parser.add_argument("--held-out", type=int, default=500, help="documents")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="simulated, 200 a document")
    parser.add_argument("--num-components", type=int, default=50, help="topics, simulated")
    parser.add_argument("--num-words", type=int, default=5_000, help="simulated")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for case in options.case:
        settings = settings_of(case, options)
        for seed in options.seeds:
            run(case, settings, seed, folder=options.folder)


def settings_of(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """What is recorded of the choices that matter to a case."""
    settings = {"budget": options.budget or BUDGETS[case], "held_out": options.held_out}
    if case == "speech":
        return {"num_components": SPEECH_TOPICS, **settings}
    names = ("tokens", "num_components", "num_words")
    return {name: getattr(options, name) for name in names} | settings


def run(case: str, settings: dict[str, Any], seed: int, *, folder: Path) -> None:
    """One case, unless all of it is in the file."""
    variants = [*ours.VARIANTS, *peers.variants()]
    cases = [Case(benchmark="lda", case=case, variant=v, seed=seed, settings=settings) for v in variants]
    if all(is_recorded(one, folder) for one in cases):
        print(f"{case}, seed {seed}: recorded before")
        return
    began = time.perf_counter()
    corpus = corpora.speech(settings) if case == "speech" else corpora.simulate(settings, seed)
    build = (corpus, settings["num_components"], seed)
    best = contest.compare(
        case, corpus, [*ours.contestants(*build), *peers.contestants(*build)], settings, seed, folder
    )
    if seed == 0:
        picture.draw(best, contest.truth_of(corpus, seed), folder / "pictures" / f"lda_{case}.png")
    print(f"{case}, seed {seed}: {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
