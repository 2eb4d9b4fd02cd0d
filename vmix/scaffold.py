"""`vmix new`: a small package with one model, its test and its entry point, to start one's own from."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
from pathlib import Path

_FILES = {
    "pyproject.toml": "new_pyproject.toml.j2",
    "README.md": "new_readme.md.j2",
    "{name}/__init__.py": "new_init.py.j2",
    "{name}/model.py": "new_model.py.j2",
    "tests/test_{name}.py": "new_test.py.j2",
}


def write_package(name: str, parent: str | os.PathLike[str] = ".") -> Path:
    """Write the package into a new folder of its name.

    Args:
        name: of the package, a Python identifier in small letters such as "my_model"; the model is then `MyModel`.
        parent: the folder to make it in.

    Returns:
        The folder.

    Raises:
        ValueError: for a name that is no such identifier or that another module has, or where the folder exists.
    """
    import jinja2

    _check_name(name)
    folder = Path(parent) / name
    if folder.exists():
        raise ValueError(f"{str(folder)!r} exists already; expected a new folder: give another name, or move it away")
    loader = jinja2.PackageLoader("vmix", "templates")
    environment = jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    words = {"name": name, "model": model_name(name), "package": name.replace("_", "-"), "title": _title(name)}
    texts = {place: environment.get_template(template).render(words) for place, template in _FILES.items()}
    for place, text in texts.items():
        path = folder / place.format(name=name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def model_name(name: str) -> str:
    """The model's name.

    Example:
        >>> model_name("my_model2")
        'MyModel2'
    """
    return "".join(part[:1].upper() + part[1:] for part in name.split("_"))


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        words = re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name)
        meant = "_".join(word.lower() for word in words).lstrip("0123456789_")
        way = f", such as {meant!r}" if meant and not keyword.iskeyword(meant) else ""
        raise ValueError(f"name {name!r} cannot name a package; expected an identifier in small letters{way}")
    if importlib.util.find_spec(name) is not None:
        raise ValueError(f"there is a module {name!r} already, which the package would hide; give another name")


def _title(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()
