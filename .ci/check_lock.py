"""Check requirements.lock against pyproject.toml: `python .ci/check_lock.py [--write | --online]`.

Without an option it needs no network: every package is pinned and has hashes, no line names a place, every dependency
of the project and of its extras below is locked within its range for each Python, and its ranges are those that it was
made from. `--online` also resolves anew, keeping what is pinned, and compares; where the registry cannot be reached
it says that this was not done, and fails for nothing else than before. `--write` writes the lock, newest versions.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
EXTRAS = ("dev", "benchmarks")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
_HEAD = "# For `pip install --require-hashes -r requirements.lock`; of the ranges in pyproject.toml sha256:"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==(\S+?)(?: ; (.+?))? \\$")
_HASH = re.compile(r"^    --hash=sha256:[0-9a-f]{64}( \\)?$")


def ranges() -> str:
    """A hash of the ranges in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [project["requires-python"], project["dependencies"], project["optional-dependencies"]]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def direct() -> list[Requirement]:
    """What the project asks for itself, with the extras that are locked."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found, extras = [Requirement(line) for line in project["dependencies"]], list(EXTRAS)
    while extras:
        for requirement in map(Requirement, project["optional-dependencies"][extras.pop()]):
            if requirement.name == project["name"]:
                extras += requirement.extras
            else:
                found.append(requirement)
    return found


def faults(text: str) -> list[str]:
    """What is wrong with the lock, a line each; nothing here needs a network."""
    head, *lines = text.splitlines()
    found = []
    if head != f"{_HEAD}{ranges()}":
        found.append("the ranges in pyproject.toml have changed since: write the lock anew")
    pins: list[tuple[str, str, str | None]] = []
    hashed = True
    for line in lines:
        pin = _PIN.match(line)
        if pin:
            if not hashed:
                found.append(f"{pins[-1][0]} has no hash")
            pins.append((canonicalize_name(pin[1]), pin[2], pin[3]))
            hashed = False
        elif _HASH.match(line) and pins:
            hashed = True
        else:
            found.append(f"not a pin and not a hash: {line!r}")
    if pins and not hashed:
        found.append(f"{pins[-1][0]} has no hash")
    for python in PYTHONS:
        where = {"python_version": python, "python_full_version": f"{python}.0"}
        there = {name: version for name, version, marker in pins if not marker or Marker(marker).evaluate(where)}
        for requirement in direct():
            if requirement.marker and not requirement.marker.evaluate(where):
                continue
            version = there.get(canonicalize_name(requirement.name))
            if version is None or not requirement.specifier.contains(version, prereleases=True):
                found.append(f"Python {python}: {requirement} is asked for, the lock has {version}")
    return found


def resolve(out: Path) -> None:
    """Resolve for all Pythons and platforms; what `out` pins is kept where the ranges allow it."""
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    kind = ["--universal", "--python-version", PYTHONS[0], "--generate-hashes"]
    bare = ["--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links", "--quiet"]
    subprocess.run(["uv", "pip", "compile", "pyproject.toml", *extras, *kind, *bare, "-o", out], cwd=ROOT, check=True)


def _resolved_anew(pins: str, found: list[str]) -> str:
    """Resolve with these pins kept; what was done, in words."""
    with TemporaryDirectory() as folder:
        fresh = Path(folder) / LOCK.name
        fresh.write_text(pins)
        try:
            resolve(fresh)
        except (OSError, subprocess.CalledProcessError) as error:
            return f"checked without a network; not resolved anew, as uv could not ({type(error).__name__})"
        there, now = _hashes(pins), _hashes(fresh.read_text())
    # a file that was added to a release since is no fault; one that was locked and is gone is
    if there.keys() != now.keys() or any(not there[pin] <= now[pin] for pin in there):
        found.append("a new resolution that keeps what is pinned differs: write the lock anew")
    return "checked, and resolved anew to the same"


def _hashes(pins: str) -> dict[str, set[str]]:
    """The hashes of each pin."""
    found: dict[str, set[str]] = {}
    pin = ""
    for line in pins.splitlines():
        if line.startswith(" "):
            found[pin].add(line.strip(" \\"))
        else:
            pin = line
            found[pin] = set()
    return found


def main(option: str | None) -> int:
    """Write, or check and say what was checked; 1 where something is wrong."""
    if option == "--write":
        LOCK.unlink(missing_ok=True)
        resolve(LOCK)
        LOCK.write_text(f"{_HEAD}{ranges()}\n{LOCK.read_text()}")
    found = faults(LOCK.read_text()) if LOCK.exists() else [f"{LOCK.name} is not there"]
    done = "checked without a network"
    if option == "--online" and not found:
        done = _resolved_anew(LOCK.read_text().partition("\n")[2], found)
    print("\n".join(f"{LOCK.name}: {fault}" for fault in found) or f"{LOCK.name}: {done}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if sys.argv[1:] else None))
