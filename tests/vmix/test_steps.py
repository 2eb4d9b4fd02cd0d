"""Rows cut into sequences, and a fit of sequences shown by step, on stand-ins for a fit."""

from types import SimpleNamespace

import numpy as np
import pytest

from vmix import plots, report, runs
from vmix.steps import as_rows, describe_rows, reconstruct_rows, to_sequences

N, T, D, L, K = 6, 4, 3, 2, 3
X = np.random.default_rng(0).normal(size=(N, T, D))
LABELS = np.arange(N * T) % K


class SequenceFit:
    """What `StepRows` asks of a fit of sequences; the numbers depend on the steps before, as a chain's do."""

    num_components, has_latent, sequence_dims = K, True, 3
    model_name, engine_name, seed, seconds, converged, interrupted = "Chain", "EM", 0, 1.0, True, False
    history = {"objective": np.zeros(3), "unit": "nats per datum", "step_name": "sweep"}
    settings, environment, posterior, plan = {}, {}, {}, "the plan"

    def __init__(self):
        shapes = {"z": (5, T, L), "w": (5, 1)}
        sites = {n: SimpleNamespace(shape=s, role="latent", family="Normal", children=()) for n, s in shapes.items()}
        layout = SimpleNamespace(num_steps=T, discrete=(("c", K),))
        self._plan = SimpleNamespace(latents=("z", "w"), sites=sites, layout=layout)

    def predict_proba(self, x):
        weights = np.exp(x.cumsum(1))
        return weights / weights.sum(-1, keepdims=True)

    def transform(self, x):
        return np.concatenate([x[..., :L].cumsum(1).reshape(len(x), -1), x[:, :1, 0]], 1)

    def reconstruct(self, x):
        return x.cumsum(1)

    def sample(self, n, *, component=None, seed=0, mean=False):
        return np.full((n, T, D), -1.0 if component is None else component) + 0.01 * np.arange(D)

    def score(self, x):
        return float(len(x))

    def save(self, folder):
        folder.mkdir()


@pytest.mark.parametrize(
    ("shape", "steps", "dims", "expected"),
    [
        ((24, 3), 4, None, (6, 4, 3)),
        ((24, 3), "all", 3, (1, 24, 3)),
        ((24,), 4, 3, (6, 4, 1)),
        ((24,), 4, None, (6, 4)),
        ((24, 1), 4, 2, (6, 4)),
        ((24, 1), 4, 3, (6, 4, 1)),
        ((24, 3), None, 3, (24, 3)),
        ((24, 3), None, 2, (24, 3)),
    ],
)
def test_rows_become_sequences_of_the_dimensions_that_the_model_wants(shape, steps, dims, expected):
    data = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    found = to_sequences(data, steps, sequence_dims=dims)
    assert found.shape == expected and (found.ravel() == data.ravel()).all()
    assert found.dtype == (np.int32 if dims == 2 else np.float32)


def test_values_that_are_not_whole_stay_what_they_are():
    halves = np.arange(4.0)[:, None] / 2
    assert to_sequences(halves, 2, sequence_dims=2).dtype == np.float64


@pytest.mark.parametrize(
    ("shape", "steps", "dims", "match"),
    [
        ((24, 3), 7, 3, "24 rows cannot be cut into sequences of steps=7: 3 would be left over.*--steps all"),
        ((24, 3), 0, 3, "steps is 0; expected a whole number of at least 1"),
        ((24, 3), 4, 2, "the rows have 3 columns, but this model takes sequences of single values"),
        ((24, 1), None, 2, "each row would be a sequence of one step.*--steps T"),
    ],
)
def test_rows_that_cannot_be_cut_are_refused(shape, steps, dims, match):
    with pytest.raises(ValueError, match=match):
        to_sequences(np.zeros(shape), steps, sequence_dims=dims)


def test_what_is_found_for_sequences_is_shown_row_by_row():
    fit = SequenceFit()
    shown = as_rows(fit, X, LABELS.reshape(N, T))
    assert shown.data.shape == (N * T, D) and (shown.labels == LABELS).all()
    np.testing.assert_array_equal(shown.fit.predict_proba(shown.data), fit.predict_proba(X).reshape(-1, K))
    np.testing.assert_array_equal(shown.fit.predict(shown.data), fit.predict_proba(X).argmax(-1).ravel())
    assert shown.fit.score(shown.data) == N and shown.fit.num_components == K
    assert describe_rows(shown.fit, shown.data).startswith("24 rows of 3 columns, the steps of 6 sequences")


@pytest.mark.parametrize("num_steps", [T, 2 * T])
def test_latents_of_steps_and_of_whole_sequences_become_columns_of_each_step(num_steps):
    x = X.reshape(-1, num_steps, D)
    shown = as_rows(SequenceFit(), x)
    latent = shown.fit.transform(shown.data)
    np.testing.assert_allclose(latent[:, :L], x[..., :L].cumsum(1).reshape(-1, L))
    np.testing.assert_allclose(latent[:, L], np.repeat(x[:, 0, 0], num_steps))


def test_steps_are_reconstructed_from_their_whole_sequences():
    shown, rows = as_rows(SequenceFit(), X), np.array([0, 5, 6, 23])
    expected = X.cumsum(1).reshape(-1, D)[rows]
    np.testing.assert_allclose(reconstruct_rows(shown.fit, shown.data, rows), expected)


def test_samples_are_as_many_steps_as_were_asked_for():
    view = as_rows(SequenceFit(), X).fit
    assert view.sample(10, component=2).shape == (10, D) and (view.sample(3, component=2)[:, 0] == 2).all()


def test_a_result_for_a_whole_sequence_holds_for_each_of_its_steps():
    fit = SequenceFit()
    fit.predict_proba = lambda x: np.eye(K)[np.arange(len(x)) % K]
    shown = as_rows(fit, X, np.arange(N))
    assert (shown.fit.predict(shown.data) == np.repeat(np.arange(N) % K, T)).all()
    assert (shown.labels == np.repeat(np.arange(N), T)).all()


def test_a_fit_of_rows_and_one_shown_by_step_already_stay_as_they_are():
    plain = SimpleNamespace(sequence_dims=None)
    assert as_rows(plain, X[0]).fit is plain
    shown = as_rows(SequenceFit(), X, LABELS)
    assert as_rows(*shown).fit is shown.fit


def test_run_of_sequences_has_a_line_and_a_latent_for_every_step(tmp_path):
    found = runs.write_run(SequenceFit(), runs.prepare_folder(tmp_path), data=X, labels=LABELS, steps=T)
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 1 + N * T
    assert np.load(tmp_path / "latents.npy").shape == (N * T, L + 1)
    assert runs.remembered_steps(tmp_path) == T
    assert found["elbo"] == N and set(found) >= {"accuracy", "nmi"}
    assert "24 rows of 3 columns, the steps of 6 sequences" in (tmp_path / "report.html").read_text("utf-8")
    assert plots.summarise(SequenceFit(), X).points.shape == (N * T, 2)
    assert report.compute_metrics(SequenceFit(), X, LABELS)["accuracy"] == found["accuracy"]
