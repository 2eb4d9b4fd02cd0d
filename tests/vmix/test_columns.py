"""Columns of a table on pages: one size for drawing, means by component, names, and gaps that count for nothing."""

import re

import numpy as np
import pytest

from tests.vmix.test_report import FakeFit
from vmix import plots
from vmix.columns import columns_of, profile
from vmix.report import compute_metrics, write_report

NAMES = ["age", "income", "<b>visits</b>"]


@pytest.fixture
def table():
    """Two groups of 40 rows: ages in tens, incomes in ten thousands; a value is missing."""
    rng = np.random.default_rng(0)
    home = np.repeat([0, 1], 40)
    x = np.array([[30.0, 20_000.0, 2.0], [60.0, 50_000.0, 9.0]])[home] + rng.normal(size=(80, 3)) * [3, 2_000, 1]
    return x.astype(np.float32), home


def test_columns_of_different_sizes_get_mean_0_and_deviation_1(table):
    x, _ = table
    x[5, 1] = np.nan
    even = columns_of(x).even(x)
    np.testing.assert_allclose(np.nanmean(even, 0), 0, atol=1e-4)
    np.testing.assert_allclose(np.nanstd(even, 0), 1, rtol=1e-4)


def test_columns_of_like_sizes_stay_as_they_are(table):
    x, _ = table
    assert not columns_of(x[:, [0, 2]]).differ and not columns_of(np.c_[x[:, 0], np.ones(80)]).differ
    np.testing.assert_array_equal(columns_of(x[:, [0, 2]]).even(x[:, [0, 2]]), x[:, [0, 2]])


def test_rows_of_another_width_are_left_alone(table):
    x, _ = table
    np.testing.assert_array_equal(columns_of(x).even(np.ones((2, 7))), np.ones((2, 7)))


def test_other_number_of_names_is_refused(table):
    with pytest.raises(ValueError, match="columns has 2 names; the data have 3 columns"):
        columns_of(table[0], ["a", "b"])


def test_profile_has_the_means_of_what_is_known(table):
    x, home = table
    x[0, 0] = np.nan
    found = profile(x, home, NAMES)
    assert found["names"] == NAMES and [line["name"] for line in found["lines"]] == ["all rows", "0", "1"]
    assert found["lines"][1]["cells"][0]["text"] == f"{np.nanmean(x[:40, 0]):.1f}"
    assert found["lines"][2]["cells"][1]["text"] == f"{x[40:, 1].mean():,.0f}"
    assert [cell["share"] for cell in found["lines"][0]["cells"]] == ["0.000"] * 3
    assert all(0.3 < float(cell["share"]) <= 1 for line in found["lines"][1:] for cell in line["cells"])


def test_profile_of_what_is_not_known_or_does_not_vary_says_so():
    found = profile(np.array([[np.nan, 7.0], [1.0, 7.0]]), np.array([0, 1]))
    assert [cell["text"] for cell in found["lines"][1]["cells"]] == ["none", "7.00"]


def test_both_groups_are_seen_in_the_scatter_of_a_table(table):
    """In their own sizes two large columns that do not know of the groups would be the two directions."""
    x, home = table
    x = np.c_[np.random.default_rng(1).normal(size=(80, 2)) * [3_000, 700], x[:, [0, 2]]].astype(np.float32)
    points = plots.summarise(FakeFit(x, k=2, latent=False), x).points
    apart = np.abs(points[home == 0].mean(0) - points[home == 1].mean(0)) / points[home == 0].std(0)
    assert apart.max() > 3


def test_report_of_a_table_names_its_columns(table, tmp_path):
    x, _ = table
    fit = FakeFit(x, k=2, latent=False)
    page = write_report(fit, tmp_path / "a.html", data=x, metrics=compute_metrics(fit, x), columns=NAMES).read_text()
    heads = re.findall(r'<th scope="col">([^<]*)</th>', page.partition('aria-label="Table of columns"')[2])[:4]
    assert heads == ["component", "age", "income", "&lt;b&gt;visits&lt;/b&gt;"]
    assert "each column in its own standard deviation" in page


@pytest.mark.parametrize(("columns", "kind"), [(None, "pixels"), ([f"c{n}" for n in range(16)], "drawing")])
def test_sixteen_columns_with_names_are_no_image(tmp_path, columns, kind):
    x = np.random.default_rng(0).normal(size=(60, 16)).astype(np.float32)
    fit = FakeFit(x, k=2, latent=False)
    page = write_report(fit, tmp_path / "a.html", data=x, metrics=compute_metrics(fit, x), columns=columns).read_text()
    assert f'class="{kind}"' in page and ("Table of columns" in page) == (columns is not None)


def test_reconstructions_of_a_table_are_told_from_its_data(table, tmp_path):
    x, _ = table
    fit = FakeFit(x, k=2, latent=True)
    page = write_report(fit, tmp_path / "a.html", data=x, metrics=compute_metrics(fit, x)).read_text()
    assert "Data grey, what the decoder makes of their latents blue." in page and "Data above" not in page
