"""Write the table of docs/compared-with.md: figures beside other tools, from the recorded runs.

    python docs/make_compared.py

Figures come from benchmarks/results/*.jsonl; what each case is, benchmarks/README.md says.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks._recording import read  # noqa: E402
from benchmarks._targets import SERKET  # noqa: E402

PAGE = ROOT / "docs" / "compared-with.md"
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- generated: measured -->\n", "<!-- end -->"
FLOAT64, FLOAT32 = "scikit-learn.*float64", "scikit-learn.*float32"


class Row(NamedTuple):
    """One line: what is done, by which benchmark and case, a pattern of the other's variant, and the ratio's name."""

    words: str
    benchmark: str
    case: str
    other: str
    ratio: str


ROWS = (
    Row("a sweep of EM, diagonal", "mixtures", "em-diagonal", FLOAT64, "times_faster_than_float64"),
    Row("", "mixtures", "em-diagonal", FLOAT32, "times_faster_than_float32"),
    Row("a sweep of EM, full", "mixtures", "em-full", FLOAT64, "times_faster_than_float64"),
    Row("", "mixtures", "em-full", FLOAT32, "times_faster_than_float32"),
    Row(
        "a Dirichlet-process mixture, full, to the other's held-out value",
        "mixtures",
        "dp-full",
        "scikit-learn",
        "times_sooner_at_the_same_value",
    ),
    Row("a sweep of EM of an HMM, diagonal", "hmm", "em-diagonal", "hmmlearn", "times_faster_than_hmmlearn"),
    Row("", "hmm", "em-diagonal", "dynamax", "times_faster_than_dynamax"),
    Row("", "hmm", "em-diagonal", "pomegranate", "times_faster_than_pomegranate"),
    Row("a sweep of EM of an HMM, full", "hmm", "em-full", "hmmlearn", "times_faster_than_hmmlearn"),
    Row("", "hmm", "em-full", "dynamax", "times_faster_than_dynamax"),
    Row("a sweep of EM of one long HMM, diagonal", "hmm", "em-diagonal-long", "hmmlearn", "times_faster_than_hmmlearn"),
    Row("", "hmm", "em-diagonal-long", "dynamax", "times_faster_than_dynamax"),
    Row("paths of an HMM drawn", "hmm", "draws", "dynamax", "times_faster_than_dynamax"),
    Row("the path of one long HMM drawn", "hmm", "draws-long", "dynamax", "times_faster_than_dynamax"),
    Row("effective draws of a mixture", "mixtures", "gibbs", "NumPyro.*DiscreteHMCGibbs", "times_DiscreteHMCGibbs"),
    Row("", "mixtures", "gibbs", "NumPyro.*NUTS with c", "times_marginal_NUTS"),
    Row("effective draws of an HMM", "hmm", "gibbs", "NumPyro.*NUTS", "times_marginal_NUTS"),
    Row("a training step of a VAE", "deep_steps", "vae", "NumPyro", "times_faster_than_numpyro"),
    Row("", "deep_steps", "vae", "PyTorch.*Adam$", "times_faster_than_pytorch"),
    Row("a training step of VaDE", "deep_steps", "vade", "PyTorch.*Adam$", "times_faster_than_pytorch"),
    Row("", "deep_steps", "vade", "PyTorch.*bfloat16", "times_faster_than_pytorch_bfloat16"),
    Row("", "deep_steps", "vade", "ClustPy", "times_faster_than_clustpy"),
    Row("topics as good as tomotopy's, spoken digits", "lda", "speech", "tomotopy", "seconds_to_reach_tomotopy"),
    Row("the same, simulated documents", "lda", "simulated", "tomotopy", "seconds_to_reach_tomotopy"),
    Row("empty process to a small mixture's first result", "cold_start", "mixture", "scikit-learn", "seconds_median"),
    Row("", "cold_start", "mixture", "NumPyro", "seconds_median"),
)


def ratio_of(row: Row, lines: list[dict[str, Any]]) -> tuple[float, str, str]:
    """How many times as fast vmix was, the other's variant, and the date.

    Raises:
        SystemExit: where nothing of the kind is recorded.
    """
    of_case = [line for line in lines if line["case"] == row.case]
    ours = [line for line in of_case if line["variant"] in ("vmix", "vmix, EM")]
    theirs = [line for line in of_case if re.search(row.other, line["variant"])]
    if not ours or not theirs:
        raise SystemExit(f"{row.benchmark}.jsonl has no line of {row.case} by vmix and {row.other}")
    if row.ratio.startswith("seconds"):
        found = np.mean([t["metrics"][row.ratio] for t in theirs]) / np.mean([o["metrics"][row.ratio] for o in ours])
    else:
        found = np.mean([line["metrics"][row.ratio] for line in ours])
    return float(found), theirs[-1]["variant"], max(line["date"] for line in ours)[:10]


def table() -> str:
    """The table, in Markdown."""
    made = ["| what | beside | vmix is so many times as fast | measured |", "|---|---|---:|---|"]
    for row in ROWS:
        found, variant, date = ratio_of(row, read(RESULTS, row.benchmark))
        link = f"[{row.benchmark}](../benchmarks/RESULTS.md#{row.benchmark}), {date}"
        shown = f"{found:.0f}" if found >= 20 else f"{found:.2g}" if found < 1 else f"{found:.1f}"
        made.append(f"| {row.words} | {variant} | {f'**{shown}**' if found < 1 else shown} | {link} |")
    return "\n".join(made)


def accuracy_of(benchmark: str, case: str) -> str:
    """Mean, worst and number of seeds of a case, in words."""
    found = [line["metrics"]["accuracy"] for line in read(RESULTS, benchmark) if line["case"] == case]
    return f"{np.mean(found):.3f} ({min(found):.3f} at worst of {len(found)} seeds)"


def accuracies() -> str:
    """Accuracies beside those of others, in sentences."""
    serket = "; ".join(
        f"`{case}` {accuracy_of('serket', case)}, the original {before:.3f}" for case, (before, _) in SERKET.items()
    )
    return (
        f"Accuracy on MNIST's 70,000 images: `vade_full` {accuracy_of('deep_mixtures', 'mnist/vade_full')}. "
        f"On Serket's 3,000 pairs: {serket}."
    )


def generated() -> str:
    """All that the script writes between its marks."""
    return (
        f"{table()}\n\nMeans over the recorded runs of vmix, on two cores without an accelerator; "
        f"in bold where the other is faster. {accuracies()}\n"
    )


def part(text: str) -> str:
    """What stands between the marks of a page."""
    return text.split(START)[1].split(END)[0]


def main() -> None:
    """Write the table into the page."""
    text = PAGE.read_text()
    PAGE.write_text(text.replace(START + part(text) + END, START + generated() + END))
    print(PAGE.relative_to(ROOT), file=sys.stderr)


if __name__ == "__main__":
    main()
