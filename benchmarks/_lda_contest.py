"""The contest of `lda`: contestants advance in turn, slice by slice, and one judge scores the topics of each."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import _lda_judge as judge
from benchmarks._lda_corpus import Corpus
from benchmarks._recording import Case, is_recorded, load_average, record

# shares of the budget after which the topics are judged: dense where curves are steep
MARKS = tuple(n / 64 for n in (1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 20, 24, 32, 40, 48, 56, 64))
HALF = MARKS.index(0.5)
# nats a token below tomotopy's last value that count as having reached it
NEAR = 0.01


class Point(NamedTuple):
    """Own seconds so far, and the held-out log-likelihood then, nats a token."""

    seconds: float
    held_out: float


class Contestant(ABC):
    """Something that learns topics piece by piece.

    Attributes:
        variant: its name in the results.
        seconds_before: of reading the data, planning, compiling; not part of its budget.
        about: what was chosen for it, name to number.
        pieces: seconds and sweeps of each piece so far.
        points: where it stood at each mark.
    """

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self.seconds_before = 0.0
        self.about: dict[str, float] = {}
        self.pieces: list[tuple[float, float]] = []
        self.points: list[Point] = []

    @abstractmethod
    def advance(self) -> float:
        """Learn for about a tenth of a second, or the least piece if that takes longer; returns the sweeps done."""

    @abstractmethod
    def phi(self) -> np.ndarray:
        """Words of each topic, shape (K, V)."""

    @property
    def seconds(self) -> float:
        """Own seconds so far."""
        return sum(seconds for seconds, _ in self.pieces)

    @property
    def sweeps(self) -> float:
        """Passes through the training documents so far."""
        return sum(sweeps for _, sweeps in self.pieces)

    @property
    def seconds_per_sweep(self) -> float:
        """Median over the pieces; a piece of no sweeps is a start."""
        rates = [seconds / sweeps for seconds, sweeps in self.pieces if sweeps]
        return float(np.median(rates)) if rates else np.inf

    def run_until(self, mark: float, halves: judge.Halves) -> None:
        """Advance to the piece that ends nearest to `mark` own seconds, and be judged."""
        before = len(self.pieces)
        while self.seconds + (self.pieces[-1][0] / 2 if self.pieces else 0.0) < mark:
            began = time.perf_counter()
            sweeps = self.advance()
            self.pieces.append((time.perf_counter() - began, sweeps))
        moved = len(self.pieces) > before
        self.points.append(Point(self.seconds, judge.held_out(self.phi(), halves)) if moved else self.points[-1])


def compare(
    case: str, corpus: Corpus, forms: Sequence[Sequence[Contestant]], settings: dict[str, Any], seed: int, folder: Path
) -> list[Contestant]:
    """Run one case, interleaved, and record a line a variant.

    Args:
        case: its name.
        corpus: the documents.
        forms: contestants; of the forms of one, that of the fastest sweep counts.
        settings: what was chosen, with `budget`, own seconds of each.
        seed: of everything.
        folder: where the results are.

    Returns:
        Those that count, with their curves.
    """
    halves = judge.split(corpus.held_out, seed=seed)
    for mark in MARKS:
        for who in (form for every in forms for form in every):
            who.run_until(mark * settings["budget"], halves)
    best = [min(every, key=lambda who: who.seconds_per_sweep) for every in forms]
    goal = next((who.points[-1].held_out - NEAR for who in best if who.variant.startswith("tomotopy")), np.nan)
    found = {who.variant: (_metrics(who, corpus, goal), who.seconds) for who in best}
    truth = truth_of(corpus, seed)
    if truth is not None:
        found["the true topics"] = ({"held_out": truth}, 0.0)
    for variant, (metrics, seconds) in found.items():
        print(f"{case}  {variant}  " + "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()))
        line = Case(benchmark="lda", case=case, variant=variant, seed=seed, settings=settings)
        if not is_recorded(line, folder):
            record(line, metrics, seconds, folder)
    return best


def truth_of(corpus: Corpus, seed: int) -> float | None:
    """What the true topics score, nats a token; None where nobody knows them."""
    return None if corpus.phi is None else judge.held_out(corpus.phi, judge.split(corpus.held_out, seed=seed))


def _metrics(who: Contestant, corpus: Corpus, goal: float) -> dict[str, float]:
    reached = seconds_to_reach(goal, who.points)
    return {
        "held_out": who.points[-1].held_out,
        "held_out_at_half_budget": who.points[HALF].held_out,
        "seconds_per_sweep": who.seconds_per_sweep,
        "tokens_per_second": corpus.num_tokens / who.seconds_per_sweep,
        "sweeps": who.sweeps,
        **({} if reached is None else {"seconds_to_reach_tomotopy": reached}),
        "seconds_before": who.seconds_before,
        "load": load_average(),
        **who.about,
    }


def seconds_to_reach(goal: float, points: Sequence[Point]) -> float | None:
    """Own seconds at which the curve first crosses the goal, a straight line between points; None if it does not."""
    before = None
    for point in points:
        if point.held_out >= goal:
            if before is None or not np.isfinite(before.held_out):
                return point.seconds
            share = (goal - before.held_out) / (point.held_out - before.held_out)
            return before.seconds + share * (point.seconds - before.seconds)
        before = point
    return None
