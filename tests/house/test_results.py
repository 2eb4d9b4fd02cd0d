"""Every recorded result is whole, and RESULTS.md is what the script makes of them."""

import json
from pathlib import Path

import pytest

from benchmarks import _recording as recording
from benchmarks import results_table
from benchmarks._recording import FIELDS, RESULTS, Case, is_recorded, record

PATHS = sorted(RESULTS.rglob("*.jsonl"))
KINDS = {"benchmark": str, "case": str, "variant": str, "seed": int, "metrics": dict, "settings": dict}
KINDS |= {"machine": dict, "versions": dict, "commit": str | None, "date": str, "seconds": float | int}


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_every_line_has_the_fields(path: Path):
    for number, text in enumerate(path.read_text().splitlines(), 1):
        line, where = json.loads(text), f"{path.name}:{number}"
        assert tuple(line) == FIELDS, where
        assert line["benchmark"] == path.stem, where
        assert all(isinstance(line[name], kind) for name, kind in KINDS.items()), where
        assert line["metrics"] and all(isinstance(v, int | float) for v in line["metrics"].values()), where
        assert {"processor", "cores", "accelerator", "threads"} <= set(line["machine"]), where


@pytest.mark.parametrize("path", PATHS, ids=lambda path: str(path.relative_to(RESULTS)))
def test_no_run_is_recorded_twice(path: Path):
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    names = Case.__dataclass_fields__
    identities = [Case(**{name: line[name] for name in names}).identity() for line in lines]
    assert len(set(identities)) == len(identities)


def test_results_page_is_what_the_script_makes():
    assert results_table.TABLE.read_text() == results_table.render(RESULTS)
    assert results_table.TABLE_GPU.read_text() == results_table.render(results_table.GPU, on_gpu=True)


def test_lines_of_a_gpu_are_on_its_own_page():
    lines = recording.read(results_table.GPU, "deep_steps")
    assert lines and all(line["machine"]["accelerator"] for line in lines)


def test_recorded_case_is_found_again_and_no_other(tmp_path):
    case = Case(benchmark="speed", case="a", variant="vmix", seed=0, settings={"widths": [2, 3]})
    record(case, {"accuracy": 0.5}, 1.0, tmp_path)
    same = Case(benchmark="speed", case="a", variant="vmix", seed=0, settings={"widths": (2, 3)})
    other = Case(benchmark="speed", case="a", variant="vmix", seed=1, settings={"widths": [2, 3]})
    assert is_recorded(same, tmp_path) and not is_recorded(other, tmp_path)


def test_damaged_line_is_refused_by_name(tmp_path):
    (tmp_path / "speed.jsonl").write_text('{"benchmark": "sp\n')
    with pytest.raises(ValueError, match=r"speed\.jsonl has a damaged line"):
        recording.read(tmp_path, "speed")


def test_page_gives_mean_spread_worst_and_seeds(tmp_path):
    for seed, accuracy in enumerate((0.5, 0.75)):
        case = Case(benchmark="speed", case="a", variant="vmix", seed=seed)
        record(case, {"accuracy": accuracy, "seconds_per_iteration": seed + 1.0, "log p(x | c)": 2.0}, 1.0, tmp_path)
    page = results_table.render(tmp_path)
    assert r"| vmix | log p(x \| c) | 2 | 0 | 2 | 2 |" in page
    assert "| vmix | accuracy | 0.625 | 0.177 | 0.5 | 2 |" in page
    assert "| vmix | seconds_per_iteration | 1.5 | 0.707 | 2 | 2 |" in page
