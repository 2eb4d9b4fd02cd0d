"""Write the table of docs/compared-with.md from the lines in benchmarks/results.

python docs/make_compared.py
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from statistics import fmean

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compared-with.md"
RESULTS = ROOT / "benchmarks" / "results"
# benchmark, case, metric of the line of vmix, what it says; {} is the mean over seeds.
SAYINGS = (
    (
        "mixtures",
        "em-diagonal",
        "times_faster_than_float32",
        "EM, diagonal: {:.1f} times scikit-learn's in float32",
    ),
    ("mixtures", "em-diagonal", "times_faster_than_float64", "the same against float64, its default: {:.1f} times"),
    ("mixtures", "em-full", "times_faster_than_float32", "EM, full: {:.1f} times scikit-learn's in float32"),
    ("mixtures", "em-full", "times_faster_than_float64", "the same against float64, its default: {:.1f} times"),
    ("mixtures", "gibbs", "times_marginal_NUTS", "draws: {:.1f} times NumPyro's NUTS with c summed out"),
    ("mixtures", "gibbs", "times_DiscreteHMCGibbs", "draws: {:.0f} times NumPyro's DiscreteHMCGibbs"),
    ("hmm", "em-diagonal", "times_faster_than_dynamax", "EM of an HMM, diagonal: {:.1f} times dynamax's speed"),
    ("hmm", "em-diagonal", "times_faster_than_hmmlearn", "the same: {:.1f} times hmmlearn's speed"),
    ("hmm", "em-full", "times_faster_than_dynamax", "EM of an HMM, full: {:.1f} times dynamax's speed"),
    ("hmm", "em-full", "times_faster_than_hmmlearn", "the same: {:.1f} times hmmlearn's speed"),
)


def lines(benchmark: str, case: str) -> list[dict]:
    """The recorded lines of a case."""
    found = [json.loads(line) for line in (RESULTS / f"{benchmark}.jsonl").read_text().splitlines()]
    return [line for line in found if line["case"] == case]


def table() -> str:
    """What was measured, one line each, with its source."""
    rows = ["| measured | date | seeds | source |", "|---|---|---:|---|"]
    for benchmark, case, metric, saying in SAYINGS:
        ours = [line for line in lines(benchmark, case) if metric in line["metrics"]]
        value = fmean(line["metrics"][metric] for line in ours)
        link = f"[{benchmark}, {case}](../benchmarks/RESULTS.md#{benchmark})"
        rows.append(f"| {saying.format(value)} | {ours[-1]['date'][:10]} | {len(ours)} | {link} |")
    for case in ("simulated", "speech"):
        held_out = defaultdict(list)
        for line in lines("lda", case):
            held_out[line["variant"]].append(line["metrics"]["held_out"])
        said = ", ".join(f"{variant} {fmean(values):.2f}" for variant, values in held_out.items())
        last = lines("lda", case)[-1]["date"][:10]
        seeds = max(map(len, held_out.values()))
        rows.append(
            f"| topics of {case} documents, held-out nats a token (higher is better): {said} | {last} | {seeds} | "
            "[lda](../benchmarks/RESULTS.md#lda) |"
        )
    return "\n".join(rows)


def replaced(text: str) -> str:
    """The page with today's table."""
    part = r"(<!-- generated: measured -->\n).*?(<!-- end -->)"
    return re.sub(part, lambda m: f"{m[1]}{table()}\n{m[2]}", text, flags=re.S)


if __name__ == "__main__":
    PAGE.write_text(replaced(PAGE.read_text()))
    print(PAGE.relative_to(ROOT))
