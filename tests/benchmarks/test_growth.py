"""Curves of time and memory: the exponent is the power's, and the script runs from end to end in small sizes."""

import json
import math

import numpy as np
import pytest

from benchmarks import _growth_curves as curves
from benchmarks import growth, results_table
from benchmarks._growth_point import Watch, resident
from benchmarks._loops import in_memory, on_disk
from benchmarks._recording import Case, read, record


def test_exponent_is_that_of_the_upper_points():
    sizes = np.array([1.0, 10.0, 100.0, 1_000.0, 10_000.0])
    assert curves.exponent(sizes, 3.0 * sizes**1.5) == pytest.approx(1.5)
    assert curves.exponent(sizes, np.maximum(sizes**2, 1e4)) == pytest.approx(2.0)
    assert math.isnan(curves.exponent(sizes[:1], sizes[:1]))


def test_every_curve_names_a_size_of_its_loop_and_goes_up():
    for curve in curves.CURVES:
        assert list(curve.points) == sorted(set(curve.points)) and len(curve.points) >= 5
        assert curve.floats(curve.points[-1]) >= curve.floats(curve.points[0])
    assert len({curve.name for curve in curves.CURVES}) == len(curves.CURVES)


def test_rows_on_disk_are_the_rows_in_memory(tmp_path):
    kept = on_disk(100_500, 3, 7, tmp_path)
    assert isinstance(kept, np.memmap)
    np.testing.assert_array_equal(kept, in_memory(100_500, 3, 7))


def test_page_has_exponents_of_what_is_recorded(tmp_path):
    curve = curves.CURVES[0]
    for point in curve.points[:3]:
        case = Case(benchmark="growth", case=curve.name, variant="vmix", seed=0, settings=curve.sizes(point))
        metrics = {"seconds_per_iteration": 1e-6 * point, "bytes_private": 1e6 * point**0.5}
        record(case, metrics, 1.0, tmp_path)
    page = results_table.render(tmp_path)
    assert "| mixture, rows | 1000 | 100000 | 1.00 | 1 | 0.50 | 316 |" in page
    assert "| mixture, rows | 10000 | 0.01 | 100 |" in page


def test_watch_sees_memory_that_came_and_went():
    before = resident("RssAnon")
    with Watch() as watch:
        held = np.ones(40_000_000)
        watch.over.wait(0.1)
        del held
    assert watch.peak - before > 300e6


def test_point_too_large_for_the_memory_is_left_out_with_those_above(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(growth.psutil, "virtual_memory", lambda: type("Memory", (), {"available": 5e6})())
    monkeypatch.setattr(growth, "measured", lambda *_: {"seconds_per_iteration": 1.0, "bytes_private": 1.0})
    growth.main(["--curves", "mixture, rows", "--folder", str(tmp_path)])
    assert [line["settings"]["num_data"] for line in read(tmp_path, "growth")] == [1_000]
    assert "mixture, rows: 10000 and more are left out" in capsys.readouterr().out


@pytest.mark.slow
def test_growth_runs_is_resumed_and_drawn(tmp_path, capsys):
    chosen = ["mixture on disk, rows", "LDA, documents"]
    arguments = ["--quick", "--curves", *chosen, "--folder", str(tmp_path)]
    growth.main(arguments)
    lines = [json.loads(line) for line in (tmp_path / "growth.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines] == [name for name in chosen for _ in range(growth.QUICK)]
    for line in lines:
        assert line["metrics"]["seconds_per_iteration"] > 0 and line["metrics"]["bytes_private"] > 1e6
    assert (tmp_path / "pictures" / "growth.png").stat().st_size > 10_000
    capsys.readouterr()
    growth.main(arguments)
    assert capsys.readouterr().out.count("recorded before") == len(lines)


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["mixture", "infinite_mixture", "hmm", "lda"])
def test_every_loop_starts_where_it_is_told_and_climbs(loop):
    from benchmarks._loops import LOOPS
    from benchmarks._sweeps import Sweeps

    curve = next(curve for curve in curves.CURVES if curve.loop == loop)
    made = LOOPS[loop](**curve.sizes(curve.points[1]), seed=0)
    turns = Sweeps(made.model, (made.data,), made.engine)
    turns.start_at(made.start)
    objective = turns.advance(5).objective[0]
    assert np.isfinite(objective).all() and objective[-1] > objective[0]
