"""The book: links resolve, Python blocks compile and run, and the README's table is what the plans say."""

import ast
import contextlib
import dataclasses
import re
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
LINKED = [*sorted(DOCS.rglob("*.md")), *sorted(ROOT.glob("*.md"))]
PAGES = [page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "decisions"]
# A block may be marked: "in short" (few steps, and on its own), behind a colon with what it needs; "no run".
BLOCK = re.compile(
    r"^(?:<!-- (?P<mark>no run|in short)(?:: (?P<needs>[^\n]*))? -->\n)?```python\n(?P<code>.*?)^```$", re.M | re.S
)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(path: Path) -> set[str]:
    """GitHub's anchors of a page's headings, and the names that the site's reference has in it."""
    named = re.findall(r"^::: (\S+)$", path.read_text(), re.M)
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings} | set(named)


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_resolve(page):
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), f"{name(page)} links to {target}"
        assert not anchor or anchor in anchors(found), f"{name(page)} links to {target}, a heading that is not there"


@pytest.mark.parametrize("page", [*LINKED, *sorted((ROOT / "benchmarks").glob("RESULTS*.md"))], ids=name)
def test_rows_of_a_table_have_as_many_cells_as_its_head(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.S | re.M)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, *rows = (re.split(r"(?<!\\)\|", line) for line in table.splitlines())
        assert [row for row in rows if len(row) != len(head)] == []


def test_every_page_is_in_the_index_or_in_a_page_that_is():
    index = DOCS / "index.md"
    first = _pages_linked(index)
    reached = first.union({index}, *map(_pages_linked, first))
    assert [name(page) for page in PAGES if page not in reached] == []


def _pages_linked(page: Path) -> set[Path]:
    """Pages that a page links to."""
    targets = re.findall(r"\]\(([^)\s#]+\.md)[^)]*\)", page.read_text())
    return {(page.parent / target).resolve() for target in targets}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_compile(page):
    text = page.read_text()
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    for block in blocks:
        ast.parse(_at_its_line(text, block), filename=name(page))


@pytest.mark.slow  # CI runs docs/programs.md by name
@pytest.mark.timeout(1800)  # the pages of deep models fit what their pictures show
@pytest.mark.parametrize("page", [page for page in PAGES if "```python" in page.read_text()], ids=name)
def test_python_blocks_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = page.read_text()
    module = ModuleType("__docs__")
    monkeypatch.setitem(sys.modules, "__docs__", module)  # dataclasses look their module up
    aside: dict[str, object] = {}  # what blocks in short have made, which the others do not see
    for block in BLOCK.finditer(text):
        code = compile(_at_its_line(text, block), str(page), "exec")
        if block["mark"] is None:
            exec(code, vars(module))
        elif block["mark"] == "in short":
            names = vars(module) | aside
            before = dict(names)
            with _few_steps(monkeypatch):
                exec(block["needs"] or "", names)
                exec(code, names)
            aside |= {name: value for name, value in names.items() if before.get(name) is not value}


@contextlib.contextmanager
def _few_steps(monkeypatch):
    """Fits take two or three steps, which say whether the code is right and not what it finds."""
    import vmix
    from vmix.recipe import Recipe

    whole = vmix.fit
    few = {"num_steps": 3, "num_sweeps": 2, "num_samples": 3, "num_warmup": 2, "batch_size": 16, "pretrain_epochs": 1,
           "mixture_restarts": 2, "settle_steps": 2}  # fmt: skip

    def shortened(record):
        found = {name: getattr(record, name, None) for name in few}
        return dataclasses.replace(record, **{name: few[name] for name, value in found.items() if value})

    def fit(program, *data, engine, **options):
        is_record = dataclasses.is_dataclass(program)
        if isinstance(options.get("init"), Recipe):
            options["init"] = shortened(options["init"])
        return whole(shortened(program) if is_record else program, *data, engine=shortened(engine), **options)

    with monkeypatch.context() as patched, warnings.catch_warnings():
        patched.setitem(vars(vmix), "fit", fit)
        warnings.simplefilter("ignore")
        yield


def test_only_code_for_several_hosts_is_never_run():
    marks = {name(page): [block["mark"] for block in BLOCK.finditer(page.read_text())] for page in PAGES}
    assert {page: found.count("no run") for page, found in marks.items() if "no run" in found} == {"docs/fitting.md": 1}


def test_pictures_are_small_and_shown():
    pictures = sorted(path for path in (DOCS / "pictures").rglob("*") if path.is_file())
    assert [name(path) for path in pictures if path.stat().st_size > (2e6 if path.suffix == ".gif" else 120e3)] == []
    assert sum(path.stat().st_size for path in pictures) < 3_000_000
    pages = "".join(page.read_text() for page in LINKED)
    assert [name(path) for path in pictures if path.name not in pages] == []


def test_every_drawn_picture_is_there(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_pictures

    assert [draw.__name__ for draw in make_pictures.ALL if not (DOCS / f"pictures/{draw.__name__}.png").exists()] == []


@pytest.mark.slow
def test_microscope_shows_what_the_fit_says(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(DOCS))
    import microscope
    import numpy as np
    from matplotlib.animation import PillowWriter

    import vmix
    from vmix.inference import EM

    x = microscope.make_data()
    engine = EM(num_sweeps=3, tolerance=None)
    looks = microscope.watch(engine, x, 1)
    fit = vmix.fit(microscope.MODEL, x, engine=engine, seed=0, init=microscope.START)
    assert [look.number for look in looks] == [1, 2, 3]
    np.testing.assert_allclose(looks[-1].responsibilities, fit.predict_proba(x), atol=1e-4)
    np.testing.assert_allclose(looks[-1].objective, fit.history["objective"], atol=1e-5)
    _, animation = microscope.animate({"EM": looks}, x)
    animation.save(tmp_path / "em.gif", writer=PillowWriter(fps=4), dpi=40)


@pytest.mark.slow
def test_microscope_runs_as_a_notebook_and_ends_in_a_player_that_loads_nothing(monkeypatch):
    shown = []
    display = ModuleType("IPython.display")
    display.HTML, display.display = str, shown.append
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    ipython = ModuleType("IPython")
    ipython.version_info = (9, 0)  # which matplotlib asks for
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    module = ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    module.get_ipython = None
    cells = re.split(r"^# %%.*\n", (DOCS / "microscope.py").read_text(), flags=re.M)
    for cell in cells:
        exec(compile(cell.replace("FRAMES = 40", "FRAMES = 3"), "microscope.py", "exec"), vars(module))
    (page,) = shown
    assert page.count("data:image/png;base64") == 3 and "<button" in page
    assert "http" not in re.sub(r"data:image/png;base64,[^\"']*", "", page) and "fa-" not in page


@pytest.fixture
def make_readme(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_readme

    return make_readme


def test_figures_beside_other_tools_are_those_recorded(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_compared

    found = make_compared.part(make_compared.PAGE.read_text())
    assert found == make_compared.generated(), "run python docs/make_compared.py"


def test_readme_shows_the_picture_that_is_there(make_readme):
    text = make_readme.README.read_text()
    assert make_readme.part(text, "picture") == make_readme.picture_text()


@pytest.mark.slow
def test_readme_table_is_what_the_plans_say(make_readme):
    text = make_readme.README.read_text()
    assert make_readme.part(text, "models x engines") == make_readme.table()


def _at_its_line(text: str, block: re.Match) -> str:
    """The block after as many empty lines as stand before it, so that a traceback gives the page's line."""
    return "\n" * text[: block.start("code")].count("\n") + block["code"]
