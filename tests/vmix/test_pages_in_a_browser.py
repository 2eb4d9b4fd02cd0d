"""The report and the page of a comparison in headless Chromium: what they show, on a desk, a phone and paper."""

import contextlib
import re
import shutil
from importlib.resources import files

import numpy as np
import pytest

from tests.vmix.test_comparing import make_run  # noqa: F401 (a fixture)
from tests.vmix.test_report import FakeFit
from vmix.comparing import read_runs, write_comparison
from vmix.report import compute_metrics, write_report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
playwright = pytest.importorskip("playwright.sync_api", reason="the extra 'browser' is not installed")


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(digits, tmp_path_factory):
    """A report with all that a fit of images and labels has."""
    x, labels = digits.images[:600], digits.labels[:600]
    fit, path = FakeFit(x), tmp_path_factory.mktemp("report") / "report.html"
    return write_report(fit, path, data=x, labels=labels, metrics=compute_metrics(fit, x, labels))


@pytest.fixture(scope="module")
def sequences(tmp_path_factory):
    """A report of a hidden Markov model by Gibbs: moves, draws, lines for pictures."""
    import vmix
    from vmix.inference import Gibbs
    from vmix.models import HMM

    x = np.cumsum(np.random.default_rng(0).normal(size=(3, 20, 2)), 1)
    fit = vmix.fit(HMM(num_components=3), x, engine=Gibbs(num_samples=20, num_warmup=10, num_chains=2), seed=0)
    return fit.report(tmp_path_factory.mktemp("sequences") / "report.html", x)


@pytest.fixture(scope="module")
def two_kinds_of_words(tmp_path_factory):
    """A report of topics of two modalities: words, and one modality told from the other."""
    import vmix
    from vmix.inference import EM
    from vmix.models import MLDA

    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, (40, 1))
    left = rng.poisson(np.where(kind, [3, 3, 3, 0.1, 0.1], [0.1, 0.1, 0.1, 3, 3]))
    right = rng.poisson(np.where(kind, [3, 0.1, 3, 0.1], [0.1, 3, 0.1, 3]))
    engine = EM(num_sweeps=100, tolerance=None)
    fit = vmix.fit(MLDA(num_components=2), left, right, engine=engine, seed=0)
    path = tmp_path_factory.mktemp("words") / "report.html"
    return fit.report(path, left, right, labels=kind[:, 0], words=[list("abcde"), ["up", "down", "left", "right"]])


@pytest.fixture
def comparison(make_run, tmp_path):  # noqa: F811
    records = read_runs([make_run("a"), make_run("b", latent_dim=3, metrics={"accuracy": 0.7, "elbo": -19.0})])
    return write_comparison(records, tmp_path / "comparison.html")


@contextlib.contextmanager
def opened(browser, path, *, size=DESK, scheme="light", **more):
    """The page, drawn; at the end it must have said nothing to the console and asked for nothing."""
    context = browser.new_context(viewport=size, color_scheme=scheme, **more)
    page, said, asked = context.new_page(), [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.documentElement.dataset.drawn === 'true'", timeout=60_000)
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def violations(page):
    """What axe-core finds, rule by rule, with the first element of each; its script comes with a package."""
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']}).then(r => r.violations)")
    return [(one["id"], len(one["nodes"]), one["nodes"][0]["html"][:160]) for one in found]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("name", ["report", "sequences", "two_kinds_of_words", "comparison"])
def test_page_is_accessible_and_fits_its_width(request, browser, name, size, scheme):
    pytest.importorskip("axe_playwright_python", reason="the extra 'browser' is not installed")
    with opened(browser, request.getfixturevalue(name), size=size, scheme=scheme) as page:
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate("document.querySelectorAll('.figure:not(.js-plotly-plot)').length") == 0


def test_violations_are_found_where_there_are_some(browser, report, tmp_path):
    pytest.importorskip("axe_playwright_python", reason="the extra 'browser' is not installed")
    text = report.read_text("utf-8").replace("--soft: #5a6675", "--soft: #b0b8c0").replace('alt="Data and', 'title="')
    (tmp_path / "bad.html").write_text(text, "utf-8")
    with opened(browser, tmp_path / "bad.html") as page:
        assert {"color-contrast"} <= {rule for rule, *_ in violations(page)}


def test_tabs_follow_the_pointer_and_the_arrow_keys(browser, report):
    with opened(browser, report) as page:
        label, component = page.locator("#tab-by-label"), page.locator("#tab-by-component")
        assert page.locator("#by-component").is_visible() and not page.locator("#by-label").is_visible()
        label.click()
        assert page.locator("#by-label").is_visible() and not page.locator("#by-component").is_visible()
        page.keyboard.press("ArrowRight")
        assert component.get_attribute("aria-selected") == "true" and page.locator("#by-component").is_visible()
        assert page.evaluate("document.activeElement.id") == "tab-by-component"
        widths = page.evaluate("['by-component', 'by-label'].map(id => document.getElementById(id).offsetWidth)")
        assert widths[0] == widths[1] > 300


def test_pointing_at_a_dot_shows_its_row_and_its_picture(browser, report, digits):
    with opened(browser, report) as page:
        assert page.locator("#glass").is_hidden()
        where = page.evaluate(
            """() => {
              const figure = document.getElementById("by-component"), trace = figure.data[0];
              figure.scrollIntoView({block: "center"});
              const box = figure.getBoundingClientRect(), size = figure._fullLayout;
              return [box.left + size.xaxis._offset + size.xaxis.c2p(trace.x[0]),
                      box.top + size.yaxis._offset + size.yaxis.c2p(trace.y[0])];
            }"""
        )
        page.mouse.move(where[0] + 40, where[1] + 40)
        page.mouse.move(*where, steps=5)
        page.wait_for_function("!document.getElementById('glass').hidden")
        told = page.locator("#by-component .hoverlayer").text_content()
        assert "row " in told and "probability" in told and "label" in told
        row = int(re.search(r"row (\d+)", told)[1])
        pixels = page.evaluate(
            "Array.from(document.getElementById('glass').getContext('2d').getImageData(0, 0, 8, 8).data)"
        )
        np.testing.assert_allclose(np.reshape(pixels, (-1, 4))[:, 0] / 255, digits.images[row], atol=0.04)


def test_words_and_moves_are_on_the_page(browser, sequences, two_kinds_of_words):
    with opened(browser, two_kinds_of_words) as page:
        assert page.get_by_role("heading", name="Most probable words of each component, x1").is_visible()
        table = page.get_by_role("region", name="Table of modalities").inner_text().splitlines()
        without = {line.split()[0]: [float(v) for v in line.split()[1:]] for line in table[1:]}
        for _, accuracy, predicted, by_frequency in without.values():
            assert accuracy > 0.9 and predicted > by_frequency + 0.2
    with opened(browser, sequences) as page:
        rows = page.get_by_role("region", name="Table of moves").inner_text().splitlines()[1:]
        np.testing.assert_allclose([sum(map(float, row.split()[1:])) for row in rows], 1, atol=0.02)
        assert page.locator("svg.graph circle").count() == 3


def test_on_paper_both_colourings_are_shown_and_nothing_dark(browser, report):
    with opened(browser, report, scheme="dark") as page:
        page.emulate_media(media="print")
        assert page.locator("#by-component").is_visible() and page.locator("#by-label").is_visible()
        assert page.locator("nav").is_hidden() and page.get_by_role("tablist").count() == 0
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(255, 255, 255)"


def test_an_old_browser_is_told_so(browser, report):
    context = browser.new_context()
    page = context.new_page()
    page.add_init_script("delete window.DecompressionStream")
    page.goto(report.as_uri())
    page.wait_for_function("document.getElementById('objective').textContent.includes('could not be drawn')")
    assert page.get_by_role("heading", name="How far to trust it").is_visible()
    context.close()


@pytest.mark.parametrize("kind", ["points", "images"])
def test_report_of_70_000_rows_stays_below_5_mb(browser, tmp_path, kind):
    import vmix
    from vmix.inference import EM
    from vmix.models import GaussianMixture

    rng = np.random.default_rng(0)
    home = rng.integers(0, 5, 70_000)
    means = rng.uniform(0.2, 0.8, (5, 2 if kind == "points" else 784))
    x = (means[home] + 0.1 * rng.normal(size=(70_000, means.shape[1]))).astype(np.float32)
    fit = vmix.fit(GaussianMixture(num_components=5), x, engine=EM(num_sweeps=5, tolerance=None), seed=0)
    path = fit.report(tmp_path / "report.html", x, labels=home)
    assert path.stat().st_size < 5e6
    with opened(browser, path) as page:
        assert page.locator("#by-component .points path").count() == 2000
