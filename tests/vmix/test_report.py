"""The page and the run's folder, on a stand-in for a fit that needs no engine."""

import base64
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from vmix import findings, report, runs
from vmix.diagnosing import settled
from vmix.explaining import Explanation, Row
from vmix.thumbnails import sheet_of

NASTY = "<script>alert(1)</script>"


class FakePlan:
    """A plan that prints as a table."""

    def __str__(self) -> str:
        return "site  role               update\nc     discrete local     exact"


class FakeFit:
    """Nearest of K means in a random projection: every attribute that the page reads, and nothing else."""

    converged, interrupted, seconds, seed, engine_name = True, False, 12.5, 3, "EM"
    sequence_dims = None

    def __init__(self, x, *, k=10, latent=True, components=True, name="VaDE", **other):
        rng = np.random.default_rng(0)
        self.x, self.model_name, self.has_latent = x, name, latent
        self.num_components = k if components else None
        self.basis = np.linalg.qr(rng.normal(size=(x.shape[1], min(5, x.shape[1]))))[0]
        self.means = x[rng.choice(len(x), k, replace=False)]
        climb = -20 - 100 * np.exp(-np.arange(60) / 8)
        self.history = {
            "objective": np.stack([climb, climb - 0.004, climb - 3]),
            "unit": "nats per datum",
            "step_name": "sweep",
            "stages": [{"name": "pretrain", "seconds": 3.2, "objective": [3.0, 2.0, 1.5], "note": "autoencoder"}],
            "restarts": [climb[-1], climb[-1] - 0.004, climb[-1] - 3],
        }
        self.settings = {"model": {"num_components": k}, "engine": {"num_sweeps": 60}}
        self.posterior = {"weights": np.full(k, 1 / k)}
        self.plan = FakePlan()
        self.environment = {"command": "vmix fit VaDE", "versions": {"jax": "0.10.2"}, "commit": None}
        self.__dict__ |= other

    def predict_proba(self, x):
        distance = ((x[:, None, :] - self.means) ** 2).sum(-1)
        weights = np.exp(distance.min(1, keepdims=True) - distance)
        return weights / weights.sum(1, keepdims=True)

    def predict(self, x):
        return self.predict_proba(x).argmax(1)

    def transform(self, x):
        if not self.has_latent:
            raise AssertionError("transform was called on a model without a latent")
        return x @ self.basis

    def reconstruct(self, x):
        return x @ self.basis @ self.basis.T

    def sample(self, n, *, component=None, seed, mean=False):
        rng = np.random.default_rng(seed)
        middle = self.x.mean(0) if component is None else self.means[component]
        return middle + 0.05 * rng.normal(size=(n, self.x.shape[1]))

    def score(self, x):
        return -20.25

    def save(self, folder):
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text("{}")


class Addresses(HTMLParser):
    """Collects every address that the page's tags name, and every tag."""

    def __init__(self):
        super().__init__()
        self.found, self.tags = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.found += [value for name, value in attrs if name in ("src", "href", "xlink:href")]


@pytest.fixture(scope="module")
def rows(digits):
    return digits.images[:600], digits.labels[:600]


def page_of(fit, folder, x, labels=None):
    metrics = {"accuracy": 0.9, "elbo": -20.25}
    return report.write_report(fit, folder / "r.html", data=x, labels=labels, metrics=metrics).read_text("utf-8")


def without_library(page):
    """The page less its largest script, plotly.js."""
    scripts = re.findall(r"<script[^>]*>.*?</script>", page, flags=re.DOTALL)
    return page.replace(max(scripts, key=len), "")


def test_report_names_no_address_and_stays_below_5_mb(rows, tmp_path):
    page = page_of(FakeFit(rows[0]), tmp_path, *rows)
    parser = Addresses()
    parser.feed(page)
    assert parser.found
    assert [a[:40] for a in parser.found if not a.startswith(("data:image/png;base64,", "#"))] == []
    assert len(page.encode()) < 5e6
    assert "default-src 'none'" in page
    assert sorted(p.name for p in tmp_path.iterdir()) == ["r.html"]


def test_report_never_offers_to_upload_its_data(rows, tmp_path):
    page = without_library(page_of(FakeFit(rows[0]), tmp_path, *rows))
    assert 'showSendToCloud: false, plotlyServerURL: ""' in page


def test_report_of_many_wide_components_stays_below_5_mb(tmp_path):
    x = np.random.default_rng(0).uniform(size=(4000, 784)).astype(np.float32)
    assert len(page_of(FakeFit(x, k=60), tmp_path, x, np.arange(4000) % 10).encode()) < 5e6


def test_report_escapes_class_names_titles_and_settings(rows, tmp_path):
    x, labels = rows
    names = np.where(labels == 3, NASTY, labels.astype(str))
    fit = FakeFit(x, name=NASTY, settings={NASTY: NASTY})
    fit.environment = {"command": NASTY, "note": NASTY}
    fit.history["stages"][0]["name"] = fit.history["step_name"] = NASTY
    page = page_of(fit, tmp_path, x, names)
    assert NASTY not in page
    assert "&lt;script&gt;alert(1)" in page
    assert without_library(page).count("<script") == 2


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("latent", [True, False])
@pytest.mark.parametrize("components", [True, False])
def test_report_shows_the_sections_that_the_fit_has_something_for(rows, tmp_path, latent, components, labelled):
    x, labels = rows
    page = without_library(
        page_of(FakeFit(x, latent=latent, components=components), tmp_path, x, labels if labelled else None)
    )
    assert ("Data above, what the decoder" in page) == latent
    assert ("Data nearest to its middle" in page) == components
    assert ("Samples from the model" in page) != components
    assert ("Labels against components" in page) == (components and labelled)
    assert ('id="by-label"' in page) == labelled
    assert ('role="tablist"' in page) == (components and labelled)
    for heading in ("What was fitted", "How it went", "What it found", "How far to trust it", "How to reproduce it"):
        assert f">{heading}</h2>" in page


def test_report_draws_rows_that_are_no_images(tmp_path):
    x = np.random.default_rng(0).normal(size=(200, 3))
    assert 'class="drawing"' in page_of(FakeFit(x, k=3, latent=False), tmp_path, x)


def test_thumbnails_are_the_rows_in_sixteen_greys():
    rows = np.random.default_rng(0).uniform(size=(7, 36)).astype(np.float32)
    sheet = sheet_of(rows)
    image = np.asarray(Image.open(io.BytesIO(base64.b64decode(sheet.uri.partition(",")[2]))).convert("L")) / 255
    assert (sheet.width, sheet.height, sheet.columns) == (6, 6, 3) and image.shape == (18, 18)
    shown = (rows - rows.min()) / (rows.max() - rows.min())
    for n, row in enumerate(shown):
        top, left = 6 * (n // 3), 6 * (n % 3)
        np.testing.assert_allclose(image[top : top + 6, left : left + 6].ravel(), row, atol=1 / 30 + 1e-3)
    assert sheet_of(rows[:, :35]) is None


def test_arrows_are_the_likely_moves_and_end_at_their_states():
    moves = np.array([[0.9, 0.1, 0.0], [0.02, 0.5, 0.48], [1.0, 0.0, 0.0]])
    drawn = findings.graph(moves)
    places = np.array([[float(s["x"]), float(s["y"])] for s in drawn["states"]])
    found = set()
    for arrow in drawn["arrows"]:
        numbers = [float(v) for v in re.findall(r"-?[\d.]+", arrow["path"])]
        ends = (np.array(numbers[:2]), np.array(numbers[-2:]))
        found.add(tuple(int(np.linalg.norm(places - end, axis=1).argmin()) for end in ends))
    assert found == {(0, 1), (1, 2), (2, 0)}
    assert findings.graph(np.eye(findings.MAX_DRAWN + 1)) is None


def test_report_warns_of_empty_components_and_of_a_lone_best_restart(rows, tmp_path):
    x = rows[0]
    fit = FakeFit(x, converged=False)
    fit.means[4] = 1e3
    fit.history["restarts"] = [-20.0, -23.0]
    page = page_of(fit, tmp_path, x)
    assert "No row is assigned to 1 of them: 4." in page
    assert "1 of 2 restarts ended within 0.01" in page
    assert "no stopping rule ended the fit" in page


def test_report_gives_r_hat_and_effective_sample_size_of_draws(rows, tmp_path):
    x, rng = rows[0], np.random.default_rng(0)
    fit = FakeFit(x, engine_name="Gibbs", settings={"engine": {"num_chains": 2}})
    apart = rng.normal(size=(2, 100)) + np.array([[0.0], [50.0]])
    fit.posterior = {"mixed": rng.normal(size=(2, 100, 3)), "apart": apart, "flat": np.ones((2, 100))}
    found = {row["site"]: row for row in report._diagnostics(fit)}
    assert float(found["mixed"]["r_hat"]) < 1.1 and float(found["apart"]["r_hat"]) > 5
    assert found["flat"]["r_hat"] == "constant"
    page = page_of(fit, tmp_path, x)
    assert "smallest effective sample size" in page and "2 of 3 chains ended within" in page


def test_report_survives_an_objective_that_is_not_finite(rows, tmp_path):
    fit = FakeFit(rows[0])
    fit.history |= {"objective": np.array([np.nan, -np.inf, -3.0]), "restarts": None}
    assert "NaN" not in without_library(page_of(fit, tmp_path, rows[0]))


@pytest.mark.parametrize(
    ("trace", "good"), [(np.linspace(-50, -3, 200), False), (-3 + np.random.default_rng(0).normal(size=200), True)]
)
def test_report_tells_an_objective_that_still_climbs_from_one_that_only_varies(rows, trace, good):
    assert settled(FakeFit(rows[0], converged=False), trace, "nats per datum")[0] == good


def test_report_survives_an_interrupt_before_the_first_step(rows, tmp_path):
    fit = FakeFit(rows[0], converged=False, interrupted=True)
    fit.history |= {"objective": np.zeros(0), "restarts": None}
    runs.write_run(fit, runs.prepare_folder(tmp_path), data=rows[0])
    assert "Interrupted before the first step" in (tmp_path / "report.html").read_text("utf-8")


def test_report_refuses_labels_of_another_length(rows, tmp_path):
    with pytest.raises(ValueError, match="labels has 5 entries; data has 600 rows"):
        page_of(FakeFit(rows[0]), tmp_path, rows[0], rows[1][:5])


def test_run_folder_holds_every_file_and_plain_json(rows, tmp_path):
    x, labels = rows
    folder = runs.prepare_folder(tmp_path / "a" / "run")
    metrics = runs.write_run(FakeFit(x), folder, data=x, labels=labels, command="vmix fit")
    assert json.loads((folder / "metrics.json").read_text()) == metrics
    assert set(metrics) == {"accuracy", "nmi", "ari", "completeness", "elbo", "seconds"}
    assert json.loads((folder / "config.json").read_text())["seed"] == 3
    assert np.load(folder / "latents.npy", allow_pickle=False).shape == (600, 5)
    lines = (folder / "labels.csv").read_text().splitlines()
    assert lines[0] == "row,component" and len(lines) == 601
    assert (folder / "checkpoint" / "manifest.json").exists() and (folder / "report.html").exists()
    pictures = {"objective", "latent_by_component", "latent_by_label", "reconstructions", "components", "weights"}
    assert {p.stem for p in (folder / "plots").iterdir()} == pictures | {"confusion"}


def test_run_replaces_an_earlier_run_and_leaves_none_of_its_files(rows, tmp_path):
    x, labels = rows
    runs.write_run(FakeFit(x), runs.prepare_folder(tmp_path), data=x, labels=labels, command=None)
    (tmp_path / "notes.txt").write_text("mine")
    second = FakeFit(x, latent=False, components=False)
    assert set(runs.write_run(second, runs.prepare_folder(tmp_path), data=x)) == {"elbo", "seconds"}
    assert {p.name for p in tmp_path.iterdir()} == {
        "config.json", "metrics.json", "checkpoint", "plots", "report.html", "notes.txt",
    }  # fmt: skip


def test_metrics_that_are_not_finite_become_null(rows, tmp_path):
    fit = FakeFit(rows[0], score=lambda x: float("nan"))
    assert runs.write_run(fit, runs.prepare_folder(tmp_path), data=rows[0])["elbo"] is None
    assert '"elbo": null' in (tmp_path / "metrics.json").read_text()


def test_checkpoint_is_saved_before_anything_can_fail(rows, tmp_path):
    def fail(x):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        runs.write_run(FakeFit(rows[0], score=fail), runs.prepare_folder(tmp_path), data=rows[0])
    assert (tmp_path / "checkpoint" / "manifest.json").exists()


def test_folder_with_other_files_is_refused_unless_told(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="no vmix run.*--overwrite"):
        runs.prepare_folder(tmp_path)
    assert runs.prepare_folder(tmp_path, overwrite=True) == tmp_path
    with pytest.raises(ValueError, match="is a file"):
        runs.prepare_folder(tmp_path / "thesis.tex", overwrite=True)
    with pytest.raises(OSError, match="cannot be written .*give another folder"):
        runs.prepare_folder(tmp_path / "thesis.tex" / "below")
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("width", [80, 100, 169, 170, 300])
def test_plan_as_text_keeps_to_its_width(width):
    row = Row("precision", "global", "Gamma", "10 x 64", "w", "x", "closed-form mode", "exact", "K P", "linear " * 20)
    lines = Explanation("A plan", (row,), ("k-means",)).as_text(width).splitlines()
    assert max(map(len, lines)) <= width and "precision" in "".join(lines) and lines[-1] == "stage 1: k-means"
    assert ("10 x 64" in "".join(lines)) == (width >= 170)
