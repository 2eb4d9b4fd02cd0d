"""Write docs/trust.md: what is checked of statistics, files, input and packages, by which tests, and what was found.

    python docs/make_trust.py

Figures come from benchmarks/results/calibration.jsonl and mutants.jsonl, what is checked from the tests themselves.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "trust.md"
HEAD = """# What is checked

That posteriors are posteriors, that nothing is lost, that mistakes are told in words, and that the tests would notice
if it were otherwise. This page is written by `docs/make_trust.py` from recorded runs and from the tests;
`python -m pytest tests/statistics` runs the quick ones of the first two sections and
`python -m pytest tests/statistics -m slow` the others.
"""
CALIBRATION = """
## Calibration

Draw parameters from the prior and data from them; draw from the posterior; the rank of the true value among the draws
is then uniform, whatever is computed of both (Talts et al., 2018). Components trade labels, so what is ranked does not
depend on their order: log densities, the largest weight, whether two rows share a component, and so on. Prior settings
are fixed: a model's default prior follows the data, and is not one that data could be simulated from. Chains start at
another draw of the prior, so the ranks see it as well if they do not forget that.

Each statistic has two tests, a chi-square in 16 bins and Kolmogorov-Smirnov. The bound is p > {limit:g} in each: with
{number} tests in all, a right sampler would miss it with a probability of at most {alarm:.2g}. A spread of the ranks
above 1 means draws that are too narrow.

| model, by Gibbs | simulations | statistics | smallest p, chi-square | smallest p, K.-S. | spread of ranks |
|---|---:|---:|---:|---:|---:|
{rows}

Histograms: {pictures}. To make them again: `vmix benchmark calibration`.
"""
SVI = """
### SVI

`SVI(guide="normal")` has independent normal factors. They are not the posterior and are not claimed to be: dependence
is lost, and a factor sits in one mode, so most spreads are too small and some too large. On the same {rows} data sets
(small ones, where the posterior is wide), started at the truth, the median ratio of its standard deviations to those of
Gibbs was:

| model | smallest ratio | by quantity |
|---|---:|---|
{table}

`vmix.diagnose` says of a fit how far its factors are from the posterior (k-hat).
"""
JOINTS = """
## Joint-distribution tests

A sweep of a sampler, then fresh data given what it drew, must leave the joint distribution of everything as it is
(Geweke, 2004). Chains start at exact draws of it, so that nothing of their autocorrelation needs to be estimated. For
each program, all sites and the log densities that hang them together are compared with fresh draws; the false-alarm
rate is {alarm:g} a program. Between them, the programs have every complete conditional that the library knows (a test
says so), and every kind of local site: classes, chains and durations, topics, latents behind encoders and without. The
first one runs once more in chunks of its rows, as data on disk do.

| program | update of each global |
|---|---|
{rows}
"""
MUTANTS = """
## Faults put in on purpose

Each line is a small fault in a copy of the library, and the first test that failed there: {killed} of {number} were
seen.
To run them again: `vmix benchmark mutants`, after deleting their lines in `benchmarks/results/mutants.jsonl`.

| what is wrong | in | seen by |
|---|---|---|
{rows}
"""
SUITE = """
## Which test file checks what

`python -m pytest FILE`, with `-m ""` for the slow tests too.

| file | what it checks |
|---|---|
{rows}
"""
FAULTS = """
## Nothing is lost

`python -m pytest -m faults` puts faults in on purpose: kills while a file is written and while a fit runs, disks that
refuse, files that are cut short, flipped, gone, forged or hostile, servers that stall or break off. What was kept
before must be whole after, a fit that was ended must go on to the same bits, and readers give a value or an error in
words within bounded time and memory. What each test claims; `(slow)` stands behind those that a plain run of the tests
leaves out and this one does not.

| file | claims |
|---|---|
{rows}
"""
INPUT = """
## Mistakes

{number} mistakes with what is said to each, in [one table](bad-input.md):
{groups}.
`python -m pytest tests/vmix/test_bad_input.py` compares each with its line; none may show JAX's own machinery, and most
are found before anything is compiled.
"""
PACKAGES = """
## What it is made of

| what is checked | by |
|---|---|
| every package is pinned with hashes, within the ranges of `pyproject.toml`, for each Python | `python .ci/check_lock.py` |
| licences of everything that is installed are on a list | `python .ci/check_licences.py dev` |
| the oldest versions that are allowed, on the oldest Python | `.ci/versions lowest` |
| the newest versions, on the newest Python at hand | `.ci/versions newest` |
| the wheel is built twice to the same bytes | `.ci/build_twice dist` |
| the wheel works outside of the checkout | `.ci/run`, its last part |
| no network at import, in a fit, in saving and loading | `python -m pytest -m slow tests/house/test_supply_chain.py` |
| nothing is unpickled, and no text runs as code | `python -m pytest tests/house/test_supply_chain.py` |
| downloads have a checksum, limits of time and size, and go on where they broke | `python -m pytest tests/vmix/test_downloading.py` |

Known vulnerabilities and where a release comes from: [SECURITY.md](../SECURITY.md).
"""  # noqa: E501
PLACES = ("statistics", "distributions", "inference")
FILES = (
    "test_conditionals*",
    "test_families*",
    "test_numerics.py",
    "test_draws.py",
    "test_pareto.py",
    "test_importance.py",
    "test_diagnosing.py",
)


def page() -> str:
    """The page, in Markdown."""
    sys.path.insert(0, str(ROOT))
    return "".join([HEAD, calibration(), joints(), mutants(), faults(), bad_input(), PACKAGES, suite()])


def calibration() -> str:
    """Recorded calibration, the last line of each case."""
    from benchmarks._recording import RESULTS, read
    from benchmarks.calibration import LIMIT

    lines = {line["case"]: line for line in read(RESULTS, "calibration")}
    gibbs = {name: line for name, line in lines.items() if line["variant"].endswith("Gibbs")}
    number = sum(2 * int(line["metrics"]["statistics"]) for line in gibbs.values())
    pictures = []
    for name in gibbs:
        stem = name.replace(", ", "_").lower()
        pictures.append(f"[{name}](../benchmarks/results/pictures/calibration_{stem}.png)")
    rows = "\n".join(_calibrated(name, line["settings"], line["metrics"]) for name, line in gibbs.items())
    text = CALIBRATION.format(limit=LIMIT, number=number, alarm=number * LIMIT, rows=rows, pictures=", ".join(pictures))
    others = {name: line for name, line in lines.items() if name not in gibbs}
    if not others:
        return text
    table = "\n".join(_variational(name, line["metrics"]) for name, line in others.items())
    return text + SVI.format(rows=next(iter(others.values()))["settings"]["simulations"], table=table)


def _calibrated(name: str, settings: dict[str, Any], metrics: dict[str, float]) -> str:
    cells = [f"`{name.split(',')[0]}`" + "".join(f",{rest}" for rest in name.split(",")[1:])]
    cells += [str(settings["simulations"]), str(int(metrics["statistics"]))]
    cells += [f"{metrics[f'smallest p-value, {test}']:.2g}" for test in ("chi-square", "Kolmogorov-Smirnov")]
    low, high = (metrics[f"{which} spread of the ranks"] for which in ("smallest", "largest"))
    return _row([*cells, f"{low:.2f} to {high:.2f}"])


def _variational(name: str, metrics: dict[str, float]) -> str:
    head = "sd over that of Gibbs, "
    ratios = {key.removeprefix(head): value for key, value in metrics.items() if key.startswith(head)}
    listed = ", ".join(f"{key} {value:.2f}" for key, value in sorted(ratios.items(), key=lambda pair: pair[1]))
    return _row([f"`{name.removesuffix(', SVI')}`", f"{metrics['smallest sd over that of Gibbs']:.2f}", listed])


def joints() -> str:
    """The programs of the joint-distribution tests."""
    from tests.statistics.joint import FALSE_ALARM
    from tests.statistics.programs import JOINTS as PROGRAMS

    rows = [
        _row([name, ", ".join(f"`{site}`: {update}" for site, update in joint.updates.items())])
        for name, joint in PROGRAMS.items()
    ]
    return JOINTS.format(alarm=FALSE_ALARM, rows="\n".join(rows))


def mutants() -> str:
    """Every mutant, with what its run has recorded."""
    from benchmarks._mutants import MUTANTS as TABLE
    from benchmarks._recording import RESULTS, read

    lines = {line["case"]: line["metrics"] for line in read(RESULTS, "mutants")}
    rows = []
    for mutant in TABLE:
        metrics = lines.get(mutant.claim)
        killers = [f"`{name.removeprefix('killed by ')}`" for name in metrics or {} if name.startswith("killed by ")]
        seen = "not run yet" if metrics is None else ", ".join(killers) or "**no test**"
        rows.append(_row([mutant.claim, f"`{mutant.file}`", seen]))
    run = [lines[mutant.claim] for mutant in TABLE if mutant.claim in lines]
    killed = int(sum(metrics["killed"] for metrics in run))
    return MUTANTS.format(killed=killed, number=len(run), rows="\n".join(rows))


def faults() -> str:
    """The tests that put faults in, by file; their names are what they claim."""
    rows = []
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        everywhere = "".join(ast.unparse(node) for node in tree.body if _names(node) == ["pytestmark"])
        claims = []
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                marks = everywhere + " ".join(ast.unparse(mark) for mark in node.decorator_list)
                if "mark.faults" in marks:
                    slow = "slow" in everywhere or any(map(_is_slow, node.decorator_list))
                    claims.append(node.name.removeprefix("test_").replace("_", " ") + " (slow)" * slow)
        if claims:
            rows.append(_row([f"`{path.relative_to(ROOT).as_posix()}`", "; ".join(claims)]))
    return FAULTS.format(rows="\n".join(rows))


def _names(node: ast.stmt) -> list[str]:
    """The names that a statement assigns to."""
    return [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []


def _is_slow(mark: ast.expr) -> bool:
    """Whether a decorator makes the whole test slow, and not some of its cases."""
    return ast.unparse(mark) == "pytest.mark.slow"


def bad_input() -> str:
    """How many mistakes the table has, by group."""
    from tests.bad_input import CASES

    groups = Counter(case.group.lower() for case in CASES)
    return INPUT.format(number=len(CASES), groups=", ".join(f"{name} {number}" for name, number in groups.items()))


def suite() -> str:
    """Files of tests that are about the statistics, each with the first line of its docstring."""
    tests = ROOT / "tests"
    found = [path for place in PLACES for path in sorted((tests / place).glob("test_*.py"))]
    found += [path for pattern in FILES for path in sorted((tests / "vmix").glob(pattern))]
    rows = []
    for path in found:
        claim = (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0].split(" (`")[0].removesuffix(".")
        rows.append(_row([f"`{path.relative_to(ROOT).as_posix()}`", f"{claim}."]))
    return SUITE.format(rows="\n".join(rows))


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
