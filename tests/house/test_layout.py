"""The house rules that a machine can check: links, sizes, names, keys, layers, cheap imports, words."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
ROOMS = ("vmix", "models", "inference", "benchmarks", "tests", "docs", ".ci")
# Joined here, so that this file does not hold what it looks for.
MACHINE_PATHS = [re.compile(p) for p in (r"(?<![\w.-])/" + "work/", "/tmp" + "/env", "/home" + r"/\w+/")]
SHARED = ".." + "/shared"
REGISTRIES = [re.escape(".".join(host)) for host in (("pypi", "org"), ("pythonhosted", "org"), ("anaconda", "org"))]


def files(*rooms: str, suffix: str = "") -> list[Path]:
    """Files below the rooms, each once (links are not followed), without caches."""
    found = [p for room in rooms for p in (ROOT / room).rglob(f"*{suffix}")]
    return sorted(p for p in found if p.is_file() and not p.is_symlink() and not _is_by_product(p))


def _is_by_product(path: Path) -> bool:
    parts = path.relative_to(ROOT).parts
    return "__pycache__" in parts or any(part.endswith(".egg-info") for part in parts)


def root_files() -> list[Path]:
    """Text at the root; not `.git`, which is a file with a path in a linked worktree."""
    kinds = (".md", ".toml", ".cff", ".yaml", ".in")
    return sorted(p for p in ROOT.iterdir() if p.suffix in kinds or p.name in {"LICENSE", ".gitignore"})


def sources() -> list[Path]:
    return files("vmix", "models", "inference", suffix=".py")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=name(path))


@pytest.mark.parametrize("room", ["models", "inference"])
def test_link_points_at_the_room(room):
    link = ROOT / "vmix" / room
    assert link.is_symlink() and link.readlink() == Path("..") / room and (link / "__init__.py").is_file()


@pytest.mark.parametrize("room", ["models", "inference"])
def test_room_refuses_import_by_its_folder_name(room):
    run = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode and f"write `import vmix.{room}`" in run.stderr


def test_every_package_is_declared():
    mapped = PROJECT["tool"]["setuptools"]["package-dir"]
    homes = {str(Path(folder)): package for package, folder in mapped.items()}
    found = set()
    for init in files("vmix", "models", "inference", suffix="__init__.py"):
        top, *below = init.parent.relative_to(ROOT).parts
        found.add(".".join([homes[top], *below]))
    assert found == set(PROJECT["tool"]["setuptools"]["packages"])


def test_entry_points_are_the_zoo():
    from vmix import models

    declared = PROJECT["project"]["entry-points"]["vmix.models"]
    assert declared == {model: f"vmix.models:{model}" for model in models.__all__}


@pytest.mark.parametrize("path", files("vmix", "models", "inference", "benchmarks", "tests", suffix=".py"), ids=name)
def test_file_is_short_or_says_why(path):
    text = path.read_text()
    assert text.count("\n") <= 400 or re.search(r"^# Length: \w+", text, re.M), (
        f"{name(path)} is over 400 lines: split it, or add a line '# Length: the reason'"
    )


def test_no_file_is_a_drawer():
    drawers = {"utils.py", "common.py", "helpers.py", "misc.py"}
    assert not [name(p) for p in files(*ROOMS, suffix=".py") if p.name in drawers]


@pytest.mark.parametrize("path", sources(), ids=name)
def test_no_module_exports_its_own_name(path):
    defined = {n.name for n in tree(path).body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    assert path.stem not in defined


@pytest.mark.parametrize("path", sources(), ids=name)
def test_randomness_has_no_default(path):
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.Lambda):
            for argument, default in _defaults(node.args):
                assert argument not in {"key", "rng_key"}, f"{name(path)}:{node.lineno} has a default for {argument!r}"
                made = [c for c in ast.walk(default) if isinstance(c, ast.Call) and _makes_key(c)]
                assert not made, f"{name(path)}:{node.lineno} makes a key as a default"


@pytest.mark.parametrize("path", sources(), ids=name)
def test_import_makes_no_array(path):
    module = tree(path)
    bodies = [module.body, *(node.body for node in module.body if isinstance(node, ast.ClassDef))]
    for statement in (s for body in bodies for s in body if isinstance(s, ast.Assign | ast.AnnAssign | ast.Expr)):
        for call in (n for n in ast.walk(statement) if isinstance(n, ast.Call)):
            called = ast.unparse(call.func)
            made = called.startswith(("jnp.", "jax.numpy.", "random.")) or _makes_key(call)
            assert not made, f"{name(path)}:{call.lineno} calls {called} when it is imported"


def _defaults(arguments: ast.arguments) -> list[tuple[str, ast.expr]]:
    positional = [*arguments.posonlyargs, *arguments.args]
    pairs = [*zip(positional[::-1], arguments.defaults[::-1], strict=False)]
    pairs += [(a, d) for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d is not None]
    return [(a.arg, d) for a, d in pairs]


def _makes_key(call: ast.Call) -> bool:
    return bool(re.search(r"(\bPRNGKey|random\.key)$", ast.unparse(call.func)))


@pytest.mark.parametrize(("room", "other"), [("inference", "models"), ("models", "inference")])
def test_siblings_do_not_name_each_other(room, other):
    import vmix

    strangers = set(getattr(vmix, other).__all__) | {f"vmix.{other}"}
    for path in files(room, suffix=".py"):
        assert not strangers & _names(tree(path)), f"{name(path)} names {sorted(strangers & _names(tree(path)))}"


def _names(module: ast.Module) -> set[str]:
    """Identifiers, whole string constants and imported modules, with their parents; docstrings are free."""
    names: set[str] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import):
            names |= {part for alias in node.names for part in _with_parents(alias.name)}
        elif isinstance(node, ast.ImportFrom):
            names |= {part for alias in node.names for part in _with_parents(f"{node.module}.{alias.name}")}
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            names |= {node.attr, ast.unparse(node)}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return names


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def test_import_is_cheap_and_takes_no_jax():
    probe = (
        "import time; start = time.process_time(); import vmix; import vmix.models, vmix.inference; "
        "seconds = time.process_time() - start; import sys; "
        "print(seconds, *sorted({'jax', 'numpy', 'numpyro', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    runs = [subprocess.check_output([sys.executable, "-c", probe], cwd=ROOT, text=True).split() for _ in range(3)]
    assert all(len(run) == 1 for run in runs), f"import vmix takes {runs[0][1:]}"
    assert min(float(run[0]) for run in runs) < 0.3


def test_unknown_name_is_refused_with_the_known_ones():
    import vmix

    with pytest.raises(AttributeError, match="no attribute 'fti'; it has .*fit"):
        vmix.fti  # noqa: B018


@pytest.mark.parametrize("path", [*files(*ROOMS), *root_files()], ids=name)
def test_no_machine_or_registry_is_named(path):
    text = path.read_text(errors="ignore")  # pictures too: their metadata may hold a path
    found = [p.search(text) for p in [*MACHINE_PATHS, *map(re.compile, REGISTRIES)]]
    assert not any(found), f"{name(path)}: {[m.group() for m in found if m]}"
    assert name(path) == ".ci/run" or SHARED not in text
    assert not re.search(r"#\s*(TODO|FIXME|XXX)\b(?!\(#\d+\))", text), "write an issue, or name it: TODO(#12)"


@pytest.mark.parametrize("path", [*files(*ROOMS), *root_files()], ids=name)
def test_no_half_of_a_merge_is_left(path):
    marks = re.findall(rb"^(?:<{7} |>{7} |\|{7} ).*$", path.read_bytes(), re.M)
    assert marks == []
