"""The book's site in headless Chromium, on a phone and a desk: accessible, no wider than the screen, and silent."""

import importlib.util
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SITE = ROOT / "build" / "site"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZES = {"phone": {"width": 390, "height": 844}, "desk": {"width": 1280, "height": 900}}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(importlib.util.find_spec("zensical") is None, reason='needs the extra "docs"'),
]
playwright = pytest.importorskip("playwright.sync_api", reason="the extra 'browser' is not installed")
pytest.importorskip("axe_playwright_python", reason="the extra 'browser' is not installed")


@pytest.fixture(scope="module")
def pages():
    """The pages of the site, which is built first."""
    words = [sys.executable, "docs/make_book.py", "--pages-only"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return sorted(SITE.rglob("*.html"))


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.mark.parametrize("size", SIZES)
def test_every_page_is_accessible_fits_its_width_and_says_nothing_to_the_console(browser, pages, size):
    script = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
    wrong: list[tuple] = []

    def note(name, text):
        wrong.append((name, text))

    for path in pages:
        page, name = browser.new_page(viewport=SIZES[size]), path.relative_to(SITE).as_posix()
        page.on("console", lambda message, name=name: note(name, message.text))
        page.on("pageerror", lambda error, name=name: note(name, str(error)))
        page.goto(path.as_uri())
        page.wait_for_load_state("load")
        page.evaluate(script)
        options = "{resultTypes: ['violations'], preload: false}"  # styles are not asked for again
        found = page.evaluate(f"axe.run(document, {options}).then(r => r.violations)")
        wrong += [(name, one["id"], len(one["nodes"]), one["nodes"][0]["html"][:160]) for one in found]
        width = page.evaluate("document.documentElement.scrollWidth")
        wrong += [(name, f"is {width} wide")] if width > SIZES[size]["width"] else []
        page.close()
    assert wrong == [], "\n".join(map(str, wrong))
