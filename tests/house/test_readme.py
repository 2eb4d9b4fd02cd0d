"""The README's Python blocks run, in order, in one session, as a reader would paste them."""

import re
from pathlib import Path

README = Path(__file__).resolve().parents[2] / "README.md"


def test_readme_python_blocks_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    blocks = list(re.finditer(r"^```python\n(.*?)^```$", text, re.M | re.S))
    assert blocks
    names: dict[str, object] = {"__name__": "__readme__"}
    for block in blocks:
        padding = "\n" * text[: block.start(1)].count("\n")  # so that a traceback gives the README's line
        exec(compile(padding + block.group(1), str(README), "exec"), names)


def test_readme_marks_its_commands():
    marked = re.findall(r"^<!-- command: (\w+) -->\n```bash\n.+\n```$", README.read_text(), re.M)
    assert marked == ["fit", "test"]
