"""The lock, the licences, no pickle and no code from text, and no network where none was asked for."""

import importlib.util
import re
import subprocess
import sys
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytest.importorskip("packaging")


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lock():
    return script("check_lock")


@pytest.fixture(scope="module")
def licence():
    return script("check_licences")


def test_lock_is_whole_and_of_the_present_ranges(lock):
    assert lock.faults(lock.LOCK.read_text()) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (r"\Ajax.*", "", "ranges in pyproject.toml have changed"),
        (r"^numpyro==0\.22\.[0-9.]+", "numpyro==0.21.0", "numpyro<0.23,>=0.22 is asked for, the lock has 0.21.0"),
        (r"^numpyro==.*\n(    .*\n)+", "", "is asked for, the lock has None"),
        (r"^(numpyro==.*\n)(    .*\n)+", r"\1", "numpyro has no hash"),
        (r"^numpyro==", "--index-url https://example.invalid/simple\nnumpyro==", "not a pin and not a hash"),
        (r"^numpyro==.*", r"numpyro @ https://example.invalid/n.whl \\", "not a pin and not a hash"),
        (r"    --hash=sha256:[0-9a-f]{64}", "    --hash=md5:0123", "not a pin and not a hash"),
        (r"^jax==.*python_full_version >= '3.12' \\\n(    .*\n)+", "", "Python 3.13: jax"),
    ],
)
def test_what_is_wrong_with_a_lock_is_found(lock, old, new, said):
    text = lock.LOCK.read_text()
    changed = text.replace("\n", "x\n", 1) if old.startswith(r"\A") else re.sub(old, new, text, count=1, flags=re.M)
    assert changed != text
    assert [fault for fault in lock.faults(changed) if said in fault], lock.faults(changed)


def test_licences_of_what_is_installed_are_on_the_list(licence):
    found = licence.installed({"test"})
    assert {"jax", "numpyro", "numpy", "safetensors", "pytest"} <= set(found) and len(found) > 30
    assert {name: licence.licences(package) - licence.ALLOWED for name, package in found.items()} == dict.fromkeys(
        found, set()
    )


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({"License-Expression": "GPL-3.0-only"}, {"GPL-3.0-only"}),
        ({"License-Expression": "MIT OR GPL-3.0-only"}, set()),
        ({"License-Expression": "(Apache-2.0 WITH LLVM-exception) AND LGPL-2.1-or-later"}, {"LGPL-2.1-or-later"}),
        ({"Classifier": "License :: OSI Approved :: GNU Affero General Public License v3"}, {"GNU Affero General Pub"}),
        ({"Classifier": "License :: OSI Approved :: BSD License"}, set()),
        ({"License": "Proprietary"}, {"Proprietary"}),
        ({}, {"none"}),
    ],
)
def test_a_licence_that_is_not_on_the_list_is_told(licence, fields, refused):
    class Package:
        name, metadata = "strange", Message()

    for name, value in fields.items():
        Package.metadata[name] = value
    found = licence.licences(Package) - licence.ALLOWED
    assert {name[: len("GNU Affero General Pub")] for name in found} == refused


def test_nothing_is_unpickled_and_no_text_is_run_as_code():
    modules = "pickle|cloudpickle|dill|joblib|marshal|shelve"
    said = re.compile(rf"\b(import|from) ({modules})\b|allow_pickle ?= ?True|(?<![\w.])(eval|exec|compile)\(")
    files = [f for room in ("vmix", "models", "inference", "benchmarks") for f in (ROOT / room).rglob("*.py")]
    assert len(files) > 100
    assert [file.name for file in files if said.search(file.read_text())] == []


OFFLINE = """
import sys

def refuse(event, arguments):
    if event in {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.bind", "urllib.Request"}:
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
import pathlib, pkgutil, numpy as np
import vmix
from vmix.compilation import compile_everything_quickly
compile_everything_quickly()
for module in pkgutil.walk_packages(vmix.__path__, "vmix."):
    __import__(module.name)
from vmix.inference import EM
from vmix.models import GaussianMixture
x = vmix.data.load("digits", limit=100).images[:, 20:23]
fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(num_sweeps=2, tolerance=None), seed=0)
fit.save(sys.argv[1])
assert (vmix.load(sys.argv[1]).predict(x) == fit.predict(x)).all()
print("done", len(sys.modules))
if len(sys.argv) > 2:
    import socket
    socket.create_connection(("127.0.0.1", 9))
"""


@pytest.mark.slow  # CI runs it by name
def test_import_of_everything_a_fit_and_a_file_need_no_network(tmp_path):
    run = subprocess.run([sys.executable, "-c", OFFLINE, tmp_path / "fit"], capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 0 and run.stdout.startswith("done"), run.stderr[-2000:]


@pytest.mark.slow
def test_a_connection_would_have_been_seen(tmp_path):
    words = [sys.executable, "-c", OFFLINE, tmp_path / "fit", "connect"]
    run = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert run.returncode == 1 and "socket." in run.stderr
