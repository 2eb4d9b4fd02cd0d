"""Pictures and the progress line."""

import io
import time

import numpy as np
import pytest
from matplotlib.figure import Figure

from vmix import metrics, plots
from vmix.columns import columns_of
from vmix.progress import Progress

RNG = np.random.default_rng(0)


@pytest.fixture
def ax():
    return Figure().subplots()


def test_pca_keeps_the_largest_variance_and_does_not_depend_on_the_sign_of_an_eigenvector():
    z = RNG.normal(size=(300, 4)) * [1.0, 10.0, 3.0, 0.1] + 1e3
    scores = plots.pca_2d(z)
    variances = np.linalg.eigvalsh(np.cov(z.T))[::-1][:2]
    np.testing.assert_allclose(scores.var(0, ddof=1), variances, rtol=1e-9)
    np.testing.assert_allclose(plots.pca_2d(z[:, ::-1]), scores, atol=1e-8)


@pytest.mark.parametrize("width", [1, 2, 5])
def test_pca_has_two_columns_whatever_the_width(width):
    assert plots.pca_2d(RNG.normal(size=(20, width))).shape == (20, 2)


def test_pca_reads_a_missing_entry_as_the_mean():
    z = np.array([[0.0, 0.0], [2.0, 0.0], [np.nan, 0.0]])
    np.testing.assert_allclose(plots.pca_2d(z)[:, 0], [-1, 1, 0])


def test_mosaic_puts_each_image_in_its_place():
    images = np.arange(3 * 4).reshape(3, 4).astype(float)
    grid = plots.mosaic(images, (2, 2), columns=2)
    assert grid.shape == (5, 5)
    np.testing.assert_array_equal(grid[:2, 3:], images[1].reshape(2, 2))
    np.testing.assert_array_equal(grid[3:, :2], images[2].reshape(2, 2))
    assert np.isnan(grid[3:, 3:]).all() and np.isnan(grid[2]).all()


def test_confusion_table_puts_the_one_to_one_match_on_the_diagonal():
    labels = np.repeat([0, 1, 2], 10)
    predicted = np.array([7] * 10 + [3] * 8 + [9] * 2 + [5] * 10)
    table = plots.confusion_table(labels, predicted)
    assert table.components.tolist() == [7, 3, 5, 9]
    assert np.diag(table.counts).tolist() == [10, 8, 10]
    assert table.counts.sum() == 30


@pytest.mark.parametrize("num_components", [3, 10, 14])
def test_diagonal_of_the_confusion_table_holds_the_rows_that_accuracy_counts(num_components):
    labels = RNG.integers(10, size=500)
    predicted = np.where(
        RNG.uniform(size=500) < 0.5, labels * 7 % num_components, RNG.integers(num_components, size=500)
    )
    table = plots.confusion_table(labels, predicted)
    assert np.trace(table.counts) / 500 == pytest.approx(metrics.accuracy(labels, predicted))
    for (row, column), count in np.ndenumerate(table.counts):
        assert count == ((labels == table.labels[row]) & (predicted == table.components[column])).sum()


@pytest.mark.parametrize("objective", [np.linspace(-9, -3, 40), RNG.normal(size=(3, 20)), np.array([-1.0])])
def test_objective_is_drawn_for_one_run_restarts_and_one_step(ax, objective):
    plots.objective(ax, {"objective": objective, "unit": "nats per datum", "step_name": "sweep"})
    assert ax.get_xlabel() == "sweep" and "nats per datum" in ax.get_ylabel()


def test_objective_range_leaves_out_the_first_plunge():
    low, high = plots.objective_range(np.array([[-1e6, *np.linspace(-20, -10, 99)]]))
    assert -25 < low < -18 and -10 < high < -9
    assert plots.objective_range(np.array([[np.nan]])) == (0.0, 1.0)


def test_rounding_of_a_settled_objective_is_not_drawn_as_a_climb():
    rounding = np.float32(-15.644) + np.float32(1e-6) * np.random.default_rng(0).integers(-2, 3, 40)
    low, high = plots.objective_range(rounding[None])
    assert high - low > 100 * np.ptp(rounding)


@pytest.mark.parametrize("shape", [(8, 8), None])
def test_rows_are_drawn_as_images_or_as_lines(ax, shape):
    x = RNG.uniform(size=(4, 64))
    plots.image_grid(ax, x, shape)
    plots.reconstructions(ax, x, x, shape)
    plots.component_samples(ax, np.stack([x, x]), shape)
    assert bool(ax.get_images()) == (shape is not None)
    assert bool(ax.get_lines()) == (shape is None)


def test_values_of_a_single_column_go_across(ax):
    x = RNG.normal(size=(2, 5, 1))
    plots.component_samples(ax, x, None, table=columns_of(x.reshape(-1, 1), ["wind $x"]))
    assert [line.get_xdata().tolist() for line in ax.get_lines()] == x[..., 0].tolist()
    assert ax.get_xlabel() == "wind $x" and not len(ax.get_yticks())
    plots.png(lambda ax: plots.component_samples(ax, x, None), size=(2, 1))


def test_names_with_dollars_are_drawn_as_they_stand():
    groups = np.array(["$x", "a$b$c", "<b>"])
    labels = np.array(["$\\frac", "b", "c"])

    def paint(ax):
        plots.latent_scatter(ax, np.eye(3)[:, :2], groups, "$\\broken")

    assert plots.png(paint, size=(3, 3))[:4] == b"\x89PNG"
    assert plots.png(lambda ax: plots.confusion(ax, labels, np.arange(3)), size=(3, 3))[:4] == b"\x89PNG"


def test_pictures_leave_no_figure_open():
    from matplotlib import pyplot

    plots.png(lambda ax: plots.component_weights(ax, [0.2, 0.8]), size=(3, 2))
    assert pyplot.get_fignums() == []


def test_progress_is_silent_where_standard_error_is_no_terminal(capsys):
    with Progress(10, "sweep") as progress:
        progress.update(5, -1.0, "nats per datum")
    assert not progress.enabled and capsys.readouterr() == ("", "")


def test_progress_writes_the_objective_and_its_unit_to_standard_error_only(capsys):
    with Progress(10, "sweep", enabled=True) as progress:
        progress.update(10, np.float32(-1.5), "nats per datum")
        print("result")
    out, err = capsys.readouterr()
    assert out == "result\n"
    assert "sweep" in err and "10/10" in err and "-1.5000" in err


def test_progress_update_takes_less_than_a_millisecond(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with Progress(500, "step", enabled=True) as progress:
        start = time.process_time()
        for step in range(500):
            progress.update(step + 1, -1.0, "nats per datum")
        assert (time.process_time() - start) / 500 < 1e-3
