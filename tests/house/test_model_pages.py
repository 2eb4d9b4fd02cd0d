"""The pages of models: each model has one, and it tells what its docstring and its plans say today."""

import importlib
import re
import tomllib
from pathlib import Path

import pytest

from vmix import models

DOCS = Path(__file__).resolve().parents[2] / "docs"
TOLD = tomllib.loads((DOCS / "models" / "pages.toml").read_text())


@pytest.fixture
def make_models(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_models

    return make_models


def test_every_model_has_a_page_and_a_diagram(make_models):
    listed = {name for names in make_models.FAMILIES.values() for name in names}
    assert listed == set(models.__all__) == set(TOLD)
    for folder, suffix in (("models", ".md"), ("pictures/plates", ".svg")):
        assert {path.stem for path in (DOCS / folder).glob(f"*{suffix}")} == listed


@pytest.mark.parametrize("name", models.__all__)
def test_page_tells_the_story_of_the_docstring(make_models, name):
    text = (DOCS / "models" / f"{name}.md").read_text()
    module = importlib.import_module(getattr(models, name).__module__)
    first, story, rest, source = make_models.parts_of(module.__doc__)
    assert "~" in story
    for part in (first, story, *rest, source, TOLD[name]["when"].strip()):
        assert part in text


@pytest.mark.parametrize("name", models.__all__)
def test_page_has_a_fitted_example_with_a_picture_and_references_with_equation_numbers(name):
    text = (DOCS / "models" / f"{name}.md").read_text()
    example, references = text.split("\n## An example\n")[1].split("\n## References\n")
    assert "vmix.fit(" in example and "](../pictures/" in example
    assert re.search(r"equations? \d", references)


@pytest.mark.slow
@pytest.mark.parametrize("name", models.__all__)
def test_page_and_diagram_are_what_the_plan_says(make_models, name):
    plan = make_models.plan_of(name)
    assert make_models.page(name, plan, TOLD[name]) == (DOCS / "models" / f"{name}.md").read_text()
    assert make_models.diagram(plan) == (DOCS / "pictures" / "plates" / f"{name}.svg").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VaDE", "HMM", "MLDA"])
def test_arrows_of_the_diagram_are_the_dependences_that_numpyro_finds(make_models, name):
    import plate_diagram
    from numpyro.infer.inspect import get_model_relations

    plan = make_models.plan_of(name)
    found = get_model_relations(plan.program.model, tuple(plan.template))
    above = {site: {*parents, *found["sample_param"][site]} for site, parents in found["sample_sample"].items()}
    expected = {(parent, site) for site, parents in above.items() for parent in parents if parent != site}
    drawn = {(tail.site, head.site) for tail, head, dashed in plate_diagram.graph(plan)[1] if not dashed}
    assert {(tail, head) for tail, head in drawn if tail != head} == expected
