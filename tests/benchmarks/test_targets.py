"""The table of targets reads its figures off the recorded lines, and says where one is missed."""

from __future__ import annotations

import json

import pytest

from benchmarks._targets import TARGETS, section


def keep(folder, benchmark, case, variant, **metrics):
    line = {"benchmark": benchmark, "case": case, "variant": variant, "seed": 0, "metrics": metrics}
    with (folder / f"{benchmark}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_missing_lines_are_left_out(tmp_path):
    assert section(tmp_path) == []


@pytest.mark.parametrize(("ratio", "met"), [(6.0, "yes"), (5.9, "no: ")])
def test_a_lower_limit_is_met_from_the_figure_on(tmp_path, ratio, met):
    keep(tmp_path, "mixtures", "em-diagonal", "vmix", times_faster_than_float64=ratio)
    assert section(tmp_path)[3] == f"| EM, diagonal, over scikit-learn | ≥ 6 | {ratio:.3g} | {met} |"


def test_mean_and_worst_are_over_seeds_and_upper_limits_are_upper(tmp_path):
    for accuracy in (0.96, 0.98):
        keep(tmp_path, "deep_mixtures", "mnist/vade_full", "vmix", accuracy=accuracy)
    keep(tmp_path, "cold_start", "imports", "vmix", seconds_median=1.9)
    keep(tmp_path, "cold_start", "imports", "JAX, NumPyro and Flax", seconds_median=1.5)
    rows = section(tmp_path)[3:-1]
    assert [row.split(" | ")[1:3] for row in rows] == [["≥ 0.965", "0.97"], ["≥ 0.955", "0.96"], ["≤ 0.3", "0.4"]]
    assert rows[0].endswith("yes |") and "no: " in rows[2]


def test_every_target_has_its_own_words():
    assert len({target.words for target in TARGETS}) == len(TARGETS)
