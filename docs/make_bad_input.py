"""Write docs/bad-input.md: what was given by mistake, and what the library says to it.

    python docs/make_bad_input.py

Every message is that of the library today, told to the lines in tests/bad_input.py; their test compares the two. Needs
vmix installed (the command line finds models by name), pandas and pyarrow.
"""

from __future__ import annotations

import sys
import tempfile
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bad-input.md"
HEAD = """# What is said to bad input

What people hand over by mistake, and what they are told: which argument it was, what was found, what was expected, and
the way out. Wherever it can be, that is before anything is compiled. This page is written by `docs/make_bad_input.py`;
every row is a test.

`fit(...)` stands for `vmix.fit(..., engine=EM(), seed=0)`; `model` is `GaussianMixture(num_components=2)`, `x` an array
of 40 rows and 2 columns, `counts` one of 40 rows and 3 columns of counts, `fitted` a fit of `model` to `x`, saved in
`saved`; `changed(x, value)` has another value in row 3, column 1. The programs are in `tests/bad_programs.py`.
"""


def page() -> str:
    """The page, in Markdown."""
    sys.path.insert(0, str(ROOT))
    from tests.bad_input import CASES, names, row, save_fit, tell

    parts = [HEAD]
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "fits" / "saved"
        save_fit(saved)
        for group, cases in groupby(CASES, key=lambda case: case.group):
            parts.append(f"\n## {group}\n\n| what | given | what is said |\n|---|---|---|\n")
            for number, case in enumerate(cases):
                folder = Path(scratch) / group / str(number)
                folder.mkdir(parents=True)
                parts.append(row(case, *tell(case, folder, names(folder, saved))) + "\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
