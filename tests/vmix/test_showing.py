"""What notebooks show of models, plans and fits: everything that is there, and every text escaped."""

from dataclasses import dataclass, fields
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from tests.vmix.test_report import NASTY
from vmix import models
from vmix.explaining import COLUMNS, Explanation, Row
from vmix.results import Fit
from vmix.showing import Shown


class Tags(HTMLParser):
    """The tags of a piece of HTML, its text, and those that were never closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = set(), [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data + "\n"


@dataclass(frozen=True)
class Toy(Shown):
    kind: str = "full"
    other: object = None


def fake_fit(**other):
    plan = Explanation(f"{NASTY} under EM", (Row(*[NASTY] * len(COLUMNS)),), (NASTY,))
    base = {"model_name": "Toy", "engine_name": "EM", "seed": 3, "plan": plan, "interrupted": False, "converged": True}
    base |= {"history": {"objective": np.array([-3.0, -2.5]), "step_name": "sweep"}, "seconds": 1.25}
    return SimpleNamespace(**base | {"num_components": 4, "posterior": {"w": np.ones(4), "a": np.float32(1)}} | other)


@pytest.mark.parametrize("name", models.__all__)
def test_model_shows_its_story_and_every_option(name):
    model = getattr(models, name)()
    shown = Tags(model._repr_html_())
    assert shown.open == [] and shown.tags == {"p", "b", "pre", "table", "tr", "th", "td", "code"}
    assert all(f"\n{f.name}\n" in shown.text for f in fields(model))
    assert f"\n{name}\n" in "\n" + shown.text and " ~ " in shown.text and "Source" not in shown.text


def test_story_keeps_its_columns():
    assert "<pre>z_n ~ Normal(0, I)\nx_n ~ Bernoulli(decoder(z_n))" in models.VAE()._repr_html_()
    assert "scale_c(w_n))           loc_k and scale_k by one network of w\nx_n" in models.GMVAE()._repr_html_()


def test_text_in_a_model_is_escaped_and_long_text_cut():
    shown = Tags(Toy(kind=NASTY, other=tuple(range(1000)))._repr_html_())
    assert "script" not in shown.tags and NASTY in shown.text and "pre" not in shown.tags
    assert len(shown.text) < 400


def test_fit_shows_how_it_ended_and_its_posterior():
    shown = Tags(Fit._repr_html_(fake_fit()))
    assert shown.open == [] and "script" not in shown.tags and "details" in shown.tags
    for text in ("Toy fitted with EM", "-2.5000 nats per datum", "converged, after 2 sweeps and 1.2 s", "4", "scalar"):
        assert text in shown.text
    assert NASTY in shown.text
    assert "interrupted, after" in Fit._repr_html_(fake_fit(interrupted=True))


def test_fit_in_a_shell_is_a_few_lines():
    """Whatever it holds: no array, no history, no settings."""
    shown = Fit.__repr__(fake_fit(posterior={"w": np.ones(1000), "a": np.float32(1)})).splitlines()
    assert shown[0] == "Toy fitted with EM" and shown[-1] == "posterior  w (1000), a (scalar)"
    assert len(shown) == 6 and "converged, after 2 sweeps and 1.2 s" in shown[3]


def test_fit_shows_names_of_others_as_text():
    shown = Tags(Fit._repr_html_(fake_fit(model_name=NASTY, posterior={NASTY: np.ones(2)}, num_components=None)))
    assert "script" not in shown.tags and shown.text.count(NASTY) > 2 and "components" not in shown.text


def test_fit_without_a_step_shows_too():
    assert "none" in Fit._repr_html_(fake_fit(history={"objective": np.zeros(0)}))
