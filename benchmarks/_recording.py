"""Results as JSON lines, one run a line, so that a long grid can be stopped and resumed."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vmix.environment import describe_environment

RESULTS = Path(__file__).resolve().parent / "results"
FIELDS = (
    "benchmark",
    "case",
    "variant",
    "seed",
    "metrics",
    "seconds",
    "settings",
    "machine",
    "versions",
    "commit",
    "date",
)


@dataclass(frozen=True, kw_only=True)
class Case:
    """What makes a run the same run: these fields alone decide whether it is in the file already.

    Args:
        benchmark: name of the script; it names the file.
        case: what is fitted to what.
        variant: "vmix", or the peer with its version.
        seed: of data and fit.
        settings: everything else that was chosen, JSON-able.
    """

    benchmark: str
    case: str
    variant: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> str:
        """The fields in one canonical line."""
        return json.dumps(asdict(self), sort_keys=True)


def read(folder: Path, benchmark: str) -> list[dict[str, Any]]:
    """The lines of one benchmark, oldest first.

    Raises:
        ValueError: for a line that is not JSON, as a run that was killed while writing leaves behind.
    """
    path = folder / f"{benchmark}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} has a damaged line ({error}); delete that line and run again") from error


def is_recorded(case: Case, folder: Path) -> bool:
    """Whether the folder has a line of this case."""
    names = Case.__dataclass_fields__
    found = read(folder, case.benchmark)
    return case.identity() in {Case(**{name: line[name] for name in names}).identity() for line in found}


def record(case: Case, metrics: Mapping[str, float], seconds: float, folder: Path) -> dict[str, Any]:
    """Append one line, with the machine, the versions and the commit it ran on.

    Args:
        case: what ran.
        metrics: name to number.
        seconds: wall time of the run.
        folder: where the files are.

    Returns:
        The line.
    """
    stamp = describe_environment()
    finite = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
    broken = {f"{name}_not_finite": 1.0 for name in metrics if name not in finite}  # JSON has no NaN
    line = asdict(case) | {"metrics": finite | broken, "seconds": seconds}
    line |= {name: stamp[name] for name in ("machine", "versions", "commit", "date")}
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({name: line[name] for name in FIELDS}, allow_nan=False)
    with (folder / f"{case.benchmark}.jsonl").open("a") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    return line


def load_average() -> float:
    """Processes that wanted a core over the last minute, this one included: above the cores, timings are rough."""
    return os.getloadavg()[0]
