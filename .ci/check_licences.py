"""Check the licences of what vmix is installed with: `python .ci/check_licences.py [EXTRA ...]`.

Reads the metadata of installed packages, so it needs no network: those that vmix asks for, those that these ask for and
so on; without the extra `cuda`, whose libraries are NVIDIA's own. Each licence must be on the list.
"""

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# SPDX names of licences under which a library may be used by a program of any licence.
ALLOWED = {
    "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0",
    "MIT-CMU", "MPL-2.0", "PSF-2.0", "Python-2.0", "Unlicense", "Zlib", "libtiff",
}  # fmt: skip
# What stands in classifiers and in the older field, where no SPDX expression does.
SPOKEN = {
    "apache": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "isc": "ISC",
    "mit": "MIT",
    "mozilla public license 2.0": "MPL-2.0",
    "mpl-2.0": "MPL-2.0",
    "python software foundation": "PSF-2.0",
    "psf": "PSF-2.0",
    "historical permission notice": "HPND",
    "unlicense": "Unlicense",
    "zlib": "Zlib",
}
# Packages that say it in their licence file alone, with what that file is.
IN_A_FILE = {"atheris": "Apache-2.0", "axe-playwright-python": "MIT"}  # axe-core inside of it is MPL-2.0
_NO_NAMES = {"OSI Approved", "DFSG approved"}
_EXCEPTIONS = re.compile(r"\s+WITH\s+(LLVM-exception|GCC-exception-3\.1)", re.I)


def licences(found: Distribution) -> set[str]:
    """The licences of a package, any of several that it leaves the choice of; what is not understood as it stands."""
    expression = found.metadata["License-Expression"]
    if expression:
        parts = re.split(r"\s+AND\s+", _EXCEPTIONS.sub("", expression).replace("(", "").replace(")", ""), flags=re.I)
        return {_first_allowed(re.split(r"\s+OR\s+", part, flags=re.I)) for part in parts}
    told = [c.split(" :: ")[-1] for c in found.metadata.get_all("Classifier", []) if c.startswith("License :: ")]
    if canonicalize_name(str(found.metadata["Name"])) in IN_A_FILE and found.metadata["License-File"]:
        return {IN_A_FILE[canonicalize_name(str(found.metadata["Name"]))]}
    told = [text for text in told if text not in _NO_NAMES] or [(found.metadata["License"] or "none").split("\n")[0]]
    return {next((spdx for word, spdx in SPOKEN.items() if word in text.lower()), text) for text in told}


def _first_allowed(choice: list[str]) -> str:
    return next((name.strip() for name in choice if name.strip() in ALLOWED), choice[0].strip())


def installed(extras: set[str]) -> dict[str, Distribution]:
    """What vmix asks for with these extras, and all that asks for, as far as it is installed."""
    found: dict[str, Distribution] = {}
    todo = [("vmix", frozenset(extras))]
    while todo:
        name, wanted = todo.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        new = canonicalize_name(name) not in found
        found[canonicalize_name(name)] = package
        for requirement in map(Requirement, package.requires or []):
            environments = [{"extra": extra} for extra in wanted or {""}]
            if requirement.marker is None:
                asked = new
            else:
                asked = any(requirement.marker.evaluate(environment) for environment in environments)
            if asked and (canonicalize_name(requirement.name) not in found or requirement.extras):
                todo.append((requirement.name, frozenset(requirement.extras)))
    return found


def main(extras: list[str]) -> int:
    """Print each package whose licence is not on the list; 1 where there is one."""
    found = installed(set(extras))
    bad = {name: licences(package) - ALLOWED for name, package in found.items()}
    for name, names in sorted(bad.items()):
        if names:
            print(f"{name} {found[name].version}: {', '.join(sorted(names))}; expected one of {sorted(ALLOWED)}")
    print(f"licences of {len(found)} packages: {'see above' if any(bad.values()) else 'all on the list'}")
    return any(bad.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
