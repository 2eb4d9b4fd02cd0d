"""`vmix new`: what it writes is a package that works at once, and what it refuses."""

import subprocess
import sys
import tomllib

import pytest

from vmix import cli
from vmix.scaffold import write_package

FILES = ["README.md", "my_model/__init__.py", "my_model/model.py", "pyproject.toml", "tests/test_my_model.py"]


@pytest.fixture
def package(tmp_path, monkeypatch, capsys):
    """A new package, its entry point where an installation would put it."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "my_model"]) == 0
    assert "MyModel" in capsys.readouterr().out
    folder = tmp_path / "my_model"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    installed = folder / "my_model-0.1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
    lines = [f"{name} = {value}\n" for name, value in project["entry-points"]["vmix.models"].items()]
    (installed / "entry_points.txt").write_text("[vmix.models]\n" + "".join(lines))
    return folder


def test_package_has_its_files_and_can_be_imported(package, monkeypatch):
    found = sorted(p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file())
    assert [name for name in found if "dist-info" not in name] == FILES
    assert not any(mark in (package / name).read_text() for name in FILES for mark in ("{{", "{%"))
    monkeypatch.syspath_prepend(str(package))
    from my_model import MyModel  # ty: ignore

    try:
        assert MyModel(num_components=2).loc_scale == 10.0
        assert MyModel.__doc__.startswith("My model of x")
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] == "my_model"]:
            del sys.modules[name]


def test_models_of_other_packages_are_listed_with_their_package(package, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(package))
    assert cli.main(["models"]) == 0
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    assert ["MyModel", "My model of x, shape (N, D), real. [my-model]"] in lines
    (package / "my_model" / "__init__.py").write_text("import nowhere\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_model"]:
        del sys.modules[name]
    assert cli.main(["models"]) == 0
    assert "MyModel" in (out := capsys.readouterr().out) and "cannot be imported: No module named 'nowhere'" in out


@pytest.mark.slow
def test_package_passes_its_own_tests(package):
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error"]
    done = subprocess.run(words, cwd=package, capture_output=True, text=True)
    assert done.returncode == 0 and "4 passed" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("My-Model", "expected an identifier in small letters, such as 'my_model'"),
        ("2fast", "such as 'fast'"),
        ("class", "expected an identifier in small letters$"),
        ("../up", "such as 'up'"),
        ("numpy", "there is a module 'numpy' already"),
        ("there", "exists already; expected a new folder"),
    ],
)
def test_other_names_and_folders_are_refused_and_left_alone(tmp_path, name, said):
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match=said):
        write_package(name, tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["there"]
