"""`vmix compare`: what the page says of runs that were written by hand, and what it refuses."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from tests.vmix.test_cli import fails, run
from tests.vmix.test_report import NASTY, without_library
from vmix import checkpoint
from vmix.comparing import read_runs, write_comparison
from vmix.explaining import COLUMNS, Row


class Page(HTMLParser):
    """The page's addresses, its pictures and figures, and the cells of its tables by row."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.unnamed, self.rows, self.strong = [], [], [], []
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.addresses += [given[name] for name in ("src", "href") if name in given]
        if (tag == "img" and not given.get("alt")) or ("figure" == given.get("class") and not given.get("aria-label")):
            self.unnamed.append(tag)
        self.inside = tag
        if tag == "tr":
            self.rows.append([])

    def handle_data(self, data):
        if self.inside in ("td", "th", "strong") and data.strip():
            self.rows[-1].append(data.strip())
        if self.inside == "strong":
            self.strong.append(data)
        self.inside = ""


@pytest.fixture
def make_run(tmp_path):
    """Writes a run's folder: 30 sweeps, 40 rows of 4 columns in two components."""

    def make(name, *, latents=True, family="Bernoulli", metrics=None, width=4, model="VaDE", seal=None, **settings):
        folder = tmp_path / name
        (folder / "plots").mkdir(parents=True)
        config = {"format": "vmix run 1", "model": model, "engine": "EM", "seed": 0, "command": f"vmix fit {name}"}
        config |= {"data": seal} if seal else {}
        (folder / "config.json").write_text(json.dumps(config | {"settings": {"model": settings, "engine": {}}}))
        (folder / "metrics.json").write_text(json.dumps(metrics or {"accuracy": 0.5, "elbo": -20.5, "seconds": 1.25}))
        (folder / "labels.csv").write_text("row,component\n" + "".join(f"{n},{n % 2}\n" for n in range(40)))
        if latents:
            np.save(folder / "latents.npy", np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32))
        else:
            (folder / "plots" / "latent_by_component.png").write_bytes(b"\x89PNG")
        objective = -20 - np.exp(-np.arange(30.0))
        row = dict.fromkeys(COLUMNS, "") | {"site": "x", "role": "observed", "family": family}
        saved = {"history": {"step_name": "sweep"}, "converged": True, "template": [[[4, width], "float32"]]}
        saved |= {"plan": {"title": "", "rows": [list(Row(**row))], "stages": []}}
        checkpoint.save(folder / "checkpoint", {"history": {"objective": np.stack([objective, objective - 9])}}, saved)
        return folder

    return make


def page_of(folders, tmp_path):
    text = write_comparison(read_runs(folders), tmp_path / "page.html").read_text("utf-8")
    return without_library(text), Page(without_library(text))


def test_table_has_the_metrics_and_marks_who_is_ahead(make_run, tmp_path):
    better = {"accuracy": 0.75, "completeness": 1.0, "elbo": -19.5, "seconds": 9.0}
    text, page = page_of([make_run("a"), make_run("b", metrics=better, latent_dim=3)], tmp_path)
    rows = {row[1]: row for row in page.rows if len(row) > 5}
    a, b = (rows[str(tmp_path / name)] for name in "ab")
    assert a[2:6] == ["VaDE by EM", "0", "-20.0000", "30 sweeps, settled"]
    assert a[6:] == ["0.5000", "none", "-20.5000", "1.2"] and b[6:] == ["0.7500", "1.0000", "-19.5000", "9.0"]
    assert page.strong == ["0.7500", "-19.5000"]  # neither the slower nor the one component that holds everything
    assert ["model.latent_dim", "none", "3"] in page.rows
    assert "vmix fit b" in text


def test_nobody_is_ahead_by_digits_that_are_not_printed(make_run, tmp_path):
    close = {"accuracy": 0.6, "completeness": 1.0, "elbo": -20.500004, "seconds": 9.0}
    _, page = page_of([make_run("a"), make_run("b", metrics=close)], tmp_path)
    assert page.strong == ["0.6000"]


def test_page_needs_no_network_and_names_its_pictures(make_run, tmp_path):
    _, page = page_of([make_run("a"), make_run("b", latents=False)], tmp_path)
    assert page.addresses and page.unnamed == []
    assert [a for a in page.addresses if not a.startswith(("data:image/png;base64,", "#"))] == []
    assert (tmp_path / "page.html").stat().st_size < 5e6


def test_curves_are_those_of_the_best_restarts_and_told_apart(make_run, tmp_path):
    text, _ = page_of([make_run(name) for name in "abcdef"], tmp_path)
    figures = json.loads(re.search(r'id="figures">(.*?)</script>', text, re.S).group(1))
    lines = figures["objectives"]["data"]
    assert len({(line["line"]["color"], line["line"]["dash"]) for line in lines}) == 6
    assert lines[0]["x"][0] == 1 and lines[0]["x"][-1] == 30 and lines[0]["y"][0] == -21.0
    assert {len(trace["x"]) for trace in figures["map-0"]["data"]} == {20}


@pytest.mark.parametrize("other", [{"width": 5}, {"family": "Normal"}])
def test_objectives_that_do_not_compare_are_not_compared(make_run, tmp_path, other):
    better = {"elbo": -9.0, "seconds": 1.0}
    text, page = page_of([make_run("a"), make_run("b", metrics=better, **other)], tmp_path)
    assert "Their objectives and elbos do not compare" in text and "-9.0000" not in page.strong


def test_runs_on_other_data_of_the_same_shape_are_not_compared(make_run, tmp_path):
    better = {"accuracy": 0.9, "elbo": -9.0}
    folders = [make_run("a", seal="0a"), make_run("b", seal="0a", metrics=better), make_run("c")]  # c is from before
    text, page = page_of(folders, tmp_path)
    assert "do not compare" not in text and page.strong == ["0.9000", "-9.0000"]
    text, page = page_of([*folders, make_run("d", seal="0b")], tmp_path)
    assert "Their objectives and elbos do not compare" in text and page.strong == []


def test_text_of_a_run_is_escaped(make_run, tmp_path):
    folders = [make_run("a"), make_run("b", model=NASTY, hidden=NASTY, latents=False)]
    assert NASTY not in page_of(folders, tmp_path)[0]


def test_command_writes_the_page_and_says_what_is_on_it(make_run, tmp_path, capsys):
    folders = [make_run("a"), make_run("b")]
    assert run("compare", *folders, "--out", tmp_path / "c.html") == 0
    assert capsys.readouterr() == (f"{tmp_path / 'c.html'}\n", "")
    assert run("compare", *folders, "--out", tmp_path / "c.html", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["page"] == str(tmp_path / "c.html") and [r["run"] for r in found["runs"]] == [str(f) for f in folders]
    assert found["runs"][0]["metrics"]["accuracy"] == 0.5 and found["runs"][0]["steps"] == 30


def test_what_cannot_be_compared_is_refused(make_run, tmp_path, capsys):
    a = make_run("a")
    assert "two runs or more, found 1" in fails(capsys, "compare", a)
    assert "is given twice" in fails(capsys, "compare", a, tmp_path / "plots" / ".." / "a")
    assert "is no vmix run" in fails(capsys, "compare", a, tmp_path / "absent")
    b = make_run("b")
    arrays = next((b / "checkpoint").glob("arrays-*"))
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x01")
    assert "arrays" in fails(capsys, "compare", a, b)
    assert not (tmp_path / "comparison.html").exists()
