"""Every mistake in the table is told in words: which argument, what was found, what was expected, and the way out."""

import re
from pathlib import Path

import jax
import pytest

from tests import bad_input
from tests.bad_input import CASES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "bad-input.md"
MACHINERY = re.compile(r"Tracer|traced array|jax\._src|jaxlib|Traceback|0x[0-9a-f]{4}|docs\.jax\.dev|\[Errno")
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    bad_input.save_fit(folder / "saved")
    given = bad_input.names(folder, folder / "saved")
    for line in ("fit(model, x[:1])", "fitted.predict(x[:, :1])"):  # what every program and every fit needs once
        bad_input.tell(CASES[0]._replace(given=line), folder, given)
    return folder / "saved"


@pytest.fixture(scope="module")
def rows():
    return bad_input.rows_of(PAGE.read_text(encoding="utf-8"))


@pytest.fixture
def compiled():
    """What JAX compiles from now on."""
    found = []

    def listen(event, *_, **__):
        found.extend([event] * (event == COMPILED))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.group}: {case.what}")
def test_mistake_is_told_in_words(case, saved, rows, compiled, tmp_path):
    given = bad_input.names(tmp_path, saved)
    if missing := {"frame", "table"} & set(re.findall(r"\w+", case.given)) - set(given):
        pytest.skip(f"{missing} needs a library that is not installed")
    kind, text = bad_input.tell(case, tmp_path, given)
    assert kind == case.error, text
    assert [part for part in case.says if part not in text] == [], text
    assert not MACHINERY.search(text), text
    assert case.compiles or not compiled, "this can be found out before anything is compiled"
    assert rows[case.group, case.what] == bad_input.row(case, kind, text), "run `python docs/make_bad_input.py`"


def test_page_has_no_other_rows(rows):
    assert list(rows) == [(case.group, case.what) for case in CASES]
