"""Counts of operations: XLA counts about the same, and the script runs from end to end."""

import pytest

from benchmarks import _roofline_counts as counts
from benchmarks import results_table, roofline
from benchmarks._loops import mixture
from benchmarks._recording import Case, read, record
from benchmarks._sweeps import Sweeps


def test_counts_of_a_mixture_are_those_of_its_products():
    found = counts.mixture(covariance="diagonal", num_data=1_000, data_dim=8, num_components=5)
    products = 2 * (2 * 1_000 * 16 * 5)
    assert products <= found.flops <= 1.2 * products
    full = counts.mixture(covariance="full", num_data=1_000, data_dim=8, num_components=5)
    assert full.flops - 25_000 == 4 * 1_000 * (8 + 36) * 5


def test_weights_of_vade_are_counted_once_each():
    """With widths 3-2 and back, one latent: 3 2 + 2 + 2 2 + 2 weights down, 1 2 + 2 + 2 3 + 3 up."""
    one = counts.vade(num_data=9, data_dim=3, hidden=(2,), latent_dim=1, batch_size=1)
    none = counts.vade(num_data=9, data_dim=3, hidden=(2,), latent_dim=1, batch_size=0)
    assert none.flops == 14 * 27 and none.bytes == 44 * 27
    assert one.flops - none.flops == 6 * 18 - 2 * 3 * 2 + 10 * 3


def test_every_case_has_a_count_of_its_sizes():
    for loop, sizes in roofline.CASES.values():
        assert min(counts.COUNTS[loop](**sizes)) > 0


def test_page_has_a_row_a_loop(tmp_path):
    found = {"seconds_per_iteration_fastest": 0.02, "seconds_limit": 0.01, "fraction": 0.5, "is_arithmetic": 1.0}
    found |= {"flops": 1e9, "bytes": 1e7, "machine_flops": 1e11, "machine_bytes": 1e10, "flops_by_xla": 1.1e9}
    record(Case(benchmark="roofline", case="HMM", variant="vmix", seed=0), found, 1.0, tmp_path)
    assert "| HMM | 1 | 10 | 100 | 10.0 | arithmetic | 10 | 20 | 0.50 | 1.1 |" in results_table.render(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_xla_counts_a_mixture_as_we_do(covariance):
    sizes = {"covariance": covariance, "num_data": 10_000, "data_dim": 16, "num_components": 10}
    made = mixture(**sizes, seed=0)
    turns = Sweeps(made.model, (made.data,), made.engine)
    turns.start_at(made.start)
    theirs = roofline.by_xla(turns)["flops_by_xla"]
    assert counts.mixture(**sizes).flops == pytest.approx(theirs, rel=0.15)


@pytest.mark.slow
def test_roofline_runs_and_is_resumed(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(roofline, "COPIED", 1 << 22)
    arguments = ["--quick", "--case", "LDA", "--rounds", "1", "--folder", str(tmp_path)]
    roofline.main(arguments)
    (line,) = read(tmp_path, "roofline")
    assert 0 < line["metrics"]["fraction"] and line["metrics"]["flops_by_xla"] > 0
    capsys.readouterr()
    roofline.main(arguments)
    assert "recorded before" in capsys.readouterr().out
