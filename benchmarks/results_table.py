"""Write RESULTS.md from results/*.jsonl: mean, standard deviation, worst and number of seeds of every metric.

Timings on a GPU have a folder and a page of their own: results/gpu/*.jsonl, RESULTS-GPU.md.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _growth_curves, _roofline_counts, _targets
from benchmarks._recording import RESULTS, read

TABLE, TABLE_GPU = RESULTS.parent / "RESULTS.md", RESULTS.parent / "RESULTS-GPU.md"
GPU = RESULTS / "gpu"
HEAD = """# Results

Written by `vmix benchmark results_table` from `results/*.jsonl`; not by hand. Each row is one metric of one variant of
one case, over its seeds; *worst* is the largest of what should be small (seconds, load, gaps) and the smallest of all
else. Ratios (`times_...`) come from runs interleaved in one process. How to read and rerun: [README.md](README.md).
Timings on a GPU: [RESULTS-GPU.md](RESULTS-GPU.md).
"""
HEAD_GPU = """# Results on a GPU

Written by `vmix benchmark results_table` from `results/gpu/*.jsonl`; not by hand. Read as [RESULTS.md](RESULTS.md),
which has those on CPUs. vmix and the peers on JAX and PyTorch compute on the GPU; scikit-learn, hmmlearn and tomotopy
on the processor beside it.
"""
PUBLISHED = "published.json"
# benchmarks of many points have tables of their own
TABLES = {"growth": _growth_curves.section, "roofline": _roofline_counts.section}
SMALL_IS_GOOD = ("seconds", "load", "gap", "threads", "weights_apart")


def render(folder: Path, *, on_gpu: bool = False) -> str:
    """The page.

    Args:
        folder: where the results are.
        on_gpu: whether they were measured on a GPU: another head and other targets.

    Returns:
        Markdown.
    """
    names = sorted(path.stem for path in folder.glob("*.jsonl"))
    path = folder / PUBLISHED
    published = json.loads(path.read_text()) if path.exists() else {}
    sections = (_section(name, read(folder, name), published.get(name)) for name in names)
    head, targets = (HEAD_GPU, _targets.ON_GPU) if on_gpu else (HEAD, _targets.TARGETS)
    return "\n".join([head, *_targets.section(folder, targets), *sections])


def _section(name: str, lines: list[dict[str, Any]], published: dict[str, Any] | None) -> str:
    parts = [f"## {name}\n", *(_tutorials(lines) if name == "serket" else []), *_beside(published, lines)]
    if name in TABLES:
        origins = "  \n".join(sorted({_origin(line) for line in lines})) + "\n"
        return "\n".join([*parts, *TABLES[name](lines), origins])
    for (case, settings), group in _grouped(lines, lambda line: (line["case"], _text(line["settings"]))):
        parts.append(f"### {case}\n\n{settings}\n")
        parts += ["| variant | metric | mean | sd | worst | seeds |", "|---|---|---:|---:|---:|---:|"]
        for variant, runs in _grouped(group, lambda line: line["variant"]):
            parts += _rows(variant, runs)
        parts.append("\n" + "  \n".join(sorted({_origin(line) for line in group})) + "\n")
    return "\n".join(parts)


def _tutorials(lines: list[dict[str, Any]]) -> list[str]:
    """Accuracy and wall time of every case beside the original's."""
    ours = "accuracy, mean (worst) | seconds, mean (worst) | seeds"
    theirs = "the original: accuracy | seconds | times faster"
    rows = [f"| case | {ours} | {theirs} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for case, group in _grouped(lines, lambda line: line["case"]):
        runs = [run for run in group if "accuracy" in run["metrics"]]
        if not runs:
            continue
        accuracy = np.array([run["metrics"]["accuracy"] for run in runs])
        seconds = np.array([run["seconds"] for run in runs])
        before = _targets.SERKET.get(case)
        then = [f"{before[0]:.3f}", str(before[1]), f"{before[1] / seconds.mean():.1f}"] if before else ["", "", ""]
        found = [f"{accuracy.mean():.3f} ({accuracy.min():.3f})", f"{seconds.mean():.0f} ({seconds.max():.0f})"]
        rows.append("| " + " | ".join([case, *found, str(len(runs)), *then]) + " |")
    note = "one run of five rounds, at low priority on two cores and not interleaved: read its seconds as a magnitude"
    return [*rows, "", f"The original: {note}.", ""]


def _beside(published: dict[str, Any] | None, lines: list[dict[str, Any]]) -> list[str]:
    """Mean and standard deviation of every metric that was published, beside the published figure.

    Args:
        published: `source`, `note`, and `cases`: case to metric to figure; None where nothing was.
        lines: of the benchmark.
    """
    if published is None:
        return []
    cases = published["cases"]
    metrics = list(dict.fromkeys(name for figures in cases.values() for name in figures))
    head = ["case", "variant", *(f"{name} | published" for name in metrics), "seeds"]
    ours = [line for line in lines if set(metrics) & line["metrics"].keys()]
    rows = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (2 * len(metrics) + 1)]
    for (case, variant, _), runs in _grouped(ours, lambda x: (x["case"], x["variant"], _text(x["settings"]))):
        cells = [case, variant]
        for name in metrics:
            cells += [_mean_and_spread(name, runs), str(cases.get(case, {}).get(name, ""))]
        rows.append("| " + " | ".join([*cells, str(len(runs))]) + " |")
    return [f"Published: {published['source']}. {published['note']}\n", *rows, ""]


def _mean_and_spread(name: str, runs: list[dict[str, Any]]) -> str:
    values = np.array([run["metrics"][name] for run in runs if name in run["metrics"]])
    if not len(values):
        return ""
    return f"{values.mean():.3f}" + (f" ± {values.std(ddof=1):.3f}" if len(values) > 1 else "")


def _rows(variant: str, runs: list[dict[str, Any]]) -> list[str]:
    metrics = list(dict.fromkeys(name for run in runs for name in run["metrics"]))
    rows = []
    for name in metrics:
        values = np.array([run["metrics"][name] for run in runs if name in run["metrics"]])
        worst = values.max() if name.startswith(SMALL_IS_GOOD) else values.min()
        spread = f"{values.std(ddof=1):.3g}" if len(values) > 1 else "-"
        said = name.replace("|", r"\|")  # such as log p(x | c)
        rows.append(f"| {variant} | {said} | {_number(values.mean())} | {spread} | {_number(worst)} | {len(values)} |")
    both = [(run["metrics"]["elbo"], run["metrics"]["accuracy"]) for run in runs if _has_both(run)]
    if len(both) > 2:
        r = np.corrcoef(np.array(both).T)[0, 1]
        rows.append(f"| {variant} | correlation of elbo and accuracy over seeds | {r:.2f} | - | - | {len(both)} |")
    return rows


def _has_both(run: dict[str, Any]) -> bool:
    return {"elbo", "accuracy"} <= run["metrics"].keys()


def _number(value: float) -> str:
    return f"{value:.6g}" if abs(value) < 1e6 else f"{value:.0f}"


def _grouped(lines: list[dict[str, Any]], key: Any) -> list[tuple[Any, list[dict[str, Any]]]]:
    order = list(dict.fromkeys(key(line) for line in lines))
    ordered = sorted(lines, key=lambda line: order.index(key(line)))
    return [(name, list(group)) for name, group in groupby(ordered, key)]


def _text(settings: dict[str, Any]) -> str:
    return ", ".join(f"{name} {_as_code(json.dumps(value))}" for name, value in settings.items()) or "default settings"


def _as_code(text: str) -> str:
    """Text that Markdown would read as a link, as code."""
    return f"`{text}`" if "][" in text else text


def _origin(line: dict[str, Any]) -> str:
    machine, versions = line["machine"], line["versions"]
    where = machine["accelerator"] or f"{machine['processor']}, {machine['threads']} of {machine['cores']} cores"
    packages = ", ".join(f"{name} {versions[name]}" for name in ("vmix", "jax", "numpyro") if name in versions)
    return f"{line['date'][:10]}, commit {line['commit']}, {where}; {packages}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both pages."""
    argparse.ArgumentParser(description=__doc__).parse_args(arguments)
    TABLE.write_text(render(RESULTS))
    TABLE_GPU.write_text(render(GPU, on_gpu=True))
    print(TABLE, TABLE_GPU)


if __name__ == "__main__":
    main()
