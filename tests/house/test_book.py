"""The site of the book: pages are made portable, faults are found, and the whole of it builds without a warning."""

import importlib.util
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture
def make_book(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import make_book

    return make_book


def test_links_that_leave_docs_lead_to_the_pages_of_the_site(make_book):
    here, known = DOCS / "concepts" / "a.md", {ROOT / "README.md": Path("readme.md"), DOCS / "b.md": Path("b.md")}
    text = "[one](../../README.md#use-it), [two](../b.md), [three](../../models), [four](https://a.org)\n"
    found = make_book.portable(text, here, Path("concepts/a.md"), known)
    assert found == "[one](../readme.md#use-it), [two](../b.md), three, [four](https://a.org)\n"


def test_names_of_files_become_titles_and_screens_can_be_opened(make_book, tmp_path):
    page, screen = tmp_path / "b.md", tmp_path / "terminal" / "fit.svg"
    page.write_text("<!-- made -->\n# All of b\n")
    screen.parent.mkdir()
    screen.write_text("<svg/>")
    known = {page: Path("b.md"), screen: Path("terminal/fit.svg")}
    found = make_book.portable("[b.md](b.md#x)\n\n![A fit](terminal/fit.svg)\n", tmp_path / "a.md", Path("a.md"), known)
    assert found == "[All of b](b.md#x)\n\n[![A fit](terminal/fit.svg)](terminal/fit.svg)\n"


def test_a_link_to_nothing_ends_the_build(make_book):
    with pytest.raises(SystemExit, match="docs/a.md leads to not-there.md#x, which is not there"):
        make_book.portable("[one](not-there.md#x)\n", DOCS / "a.md", Path("a.md"), {})


def test_lists_and_tables_get_room_and_code_is_left_alone(make_book):
    text = "So:\n- a\n- b\n\n```text\nx:\n- $a$\n```\nAnd\n| a |\n|---|\n"
    found = make_book.portable(text, DOCS / "a.md", Path("a.md"), {})
    assert found == "So:\n\n- a\n- b\n\n```text\nx:\n- $a$\n```\nAnd\n\n| a |\n|---|\n"


@pytest.mark.parametrize("first", ["- a", "1. a", "| a |"])
def test_lists_and_tables_right_behind_code_get_room(make_book, first):
    found = make_book.portable(f"```text\nx\n```\n{first}\n", DOCS / "a.md", Path("a.md"), {})
    assert found == f"```text\nx\n```\n\n{first}\n"


def test_marks_that_a_reader_should_not_see_are_found(make_book, tmp_path):
    (tmp_path / "a.html").write_text(
        "<p>So:\n- a\n<code>- b $$</code></p><pre>| c |</pre><blockquote>x</blockquote>"
        "<p>a - b\n&lt;&lt;&lt;&lt;&lt;&lt;&lt; HEAD</p>"
    )
    assert [line.split(", which")[0] for line in make_book.faults(tmp_path)] == [
        "a.html shows '-'",
        "a.html shows '>>>'",
        "a.html shows '<<<<<<<'",
    ]


def test_faults_of_a_site_are_found(make_book, tmp_path):
    (tmp_path / "a.html").write_text('<h1 id="top"></h1><a href="b.html#there"></a><a href="c.html"></a>')
    (tmp_path / "b.html").write_text('<img src="//a.org/x.png"><a href="a.html#top"></a><a href="a.html#end"></a>')
    found = list(make_book.faults(tmp_path))
    assert len(found) == 4
    for words in ("b.html#there, an anchor", "c.html, which is not", "loads //a.org", "a.html#end, an anchor"):
        assert sum(words in line for line in found) == 1


def test_every_page_has_its_place_in_the_site():
    settings = (DOCS / "zensical.toml").read_text()
    tomllib.loads(settings)
    placed = re.findall(r'"([\w/-]+\.md)"', settings)
    assert len(placed) == len(set(placed))
    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert pages - set(placed) == set()


@pytest.mark.parametrize("block", ["1 + 1", "1 / 0"])
def test_a_code_block_that_fails_fails_the_build(make_book, monkeypatch, tmp_path, block):
    (tmp_path / "test_blocks.py").write_text(f"def test_block():\n    {block}\n")
    (tmp_path / "make_screens.py").write_text("")
    monkeypatch.setattr(make_book, "SHOWN", [str(tmp_path / "test_blocks.py")])
    monkeypatch.setattr(make_book, "DOCS", tmp_path)
    monkeypatch.setattr(sys, "argv", ["make_book.py"])
    reached = []
    monkeypatch.setattr(make_book, "gather", lambda: reached.append(True) or sys.exit("built"))
    with pytest.raises(SystemExit, match="built" if block == "1 + 1" else "does not run"):
        make_book.main()
    assert bool(reached) == (block == "1 + 1")


def test_the_build_runs_the_blocks_of_every_page(make_book):
    """The tests that it runs are there, and take the pages from where the build does."""
    from tests.house import test_docs, test_readme

    assert {test.split("/")[-1] for test in make_book.SHOWN} >= {"test_docs.py", "test_readme.py"}
    assert all((ROOT / test).is_file() for test in make_book.SHOWN)
    built = {path for path in DOCS.rglob("*.md") if "```python" in path.read_text()}
    ran = {page for page in test_docs.PAGES if "```python" in page.read_text()}
    assert {path for path in built - ran if path.parent.name != "decisions"} == set()
    assert test_readme.README in {ROOT / path for path in make_book.OUTSIDE}


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason='needs the extra "docs"')
def test_book_builds_without_a_warning():
    words = [sys.executable, "docs/make_book.py", "--pages-only"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", sorted((DOCS / "concepts").glob("*.md")), ids=lambda page: page.stem)
def test_concept_has_formulas_a_picture_code_and_three_exercises(page):
    text = page.read_text()
    assert re.search(r"!\[.+\]\(\.\./pictures/", text) and "```python" in text
    assert text.count("\n$$\n") >= 2 or page.stem == "microscope"  # which shows the pages before it at work
    assert text.count("<details><summary>Solution</summary>") == text.count("</details>") == 3


def test_formulas_become_mathml_that_markdown_leaves_alone(make_book):
    pytest.importorskip("latex2mathml")
    text = "A mean of\n$\\mathrm{loc}_k$ and $a_b$, `$x$`.\n\n$$\nx_n \\sim p\n$$\n"
    found = make_book.portable(text, DOCS / "a.md", Path("a.md"), {})
    assert found.count("<math") == 3 and "`$x$`" in found and '<div class="formula" tabindex="0">' in found
    assert "_" not in found and "\n<math" not in found
