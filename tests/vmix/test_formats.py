"""Files that released versions of the format wrote are read as they were; newer ones are refused."""

import json
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import vmix
from tests.formats.make import ENGINE, MODEL, ROWS
from tests.vmix.test_checkpoint import resign
from vmix import checkpoint, compose
from vmix.checkpoint import CheckpointCorrupt
from vmix.comparing import read_runs
from vmix.resuming import Keeper

FORMATS = Path(__file__).parents[1] / "formats"
VERSIONS = sorted(int(folder.name) for folder in FORMATS.iterdir() if folder.name.isdigit())


@pytest.fixture(params=VERSIONS, ids=lambda number: f"format-{number}")
def kept(request):
    """The folder of one version, and what its files predicted when they were written."""
    folder = FORMATS / str(request.param)
    return folder, json.loads((folder / "expected.json").read_text())


def test_every_version_up_to_the_present_one_has_its_files():
    assert VERSIONS == list(range(1, checkpoint.FORMAT + 1))


def test_a_fit_of_every_version_predicts_as_it_did(kept):
    folder, expected = kept
    fit = vmix.load(folder / "fit")
    np.testing.assert_allclose(fit.predict_proba(expected["rows"]), expected["fit"], atol=1e-5)
    np.testing.assert_allclose(float(fit.score(expected["rows"])), expected["score"], rtol=1e-5)
    np.testing.assert_array_equal(fit.history["objective"], np.asarray(expected["objective"], np.float32))
    assert (fit.model_name, fit.engine_name, fit.seed) == ("GaussianMixture", "EM", 0)


def test_a_fit_with_networks_of_every_version_encodes_as_it_did(kept):
    folder, expected = kept
    fit = vmix.load(folder / "deep")
    np.testing.assert_allclose(fit.transform(expected["rows"]), expected["deep"]["codes"], atol=1e-5)
    np.testing.assert_allclose(float(fit.score(expected["rows"])), expected["deep"]["score"], rtol=1e-4)
    assert fit.params.keys() == {"decoder$params", "encoder$params"}


def test_a_network_of_every_version_recognises_as_it_did(kept):
    folder, expected = kept
    found = compose.load(folder / "network").recognise(np.asarray(expected["rows"]))["groups"].value
    np.testing.assert_allclose(found, expected["network"], atol=1e-5)


def test_a_state_of_every_version_is_found_after_its_two_sweeps(kept):
    folder, expected = kept
    keeper = Keeper(folder / "state", 60.0)
    keeper.belongs_to(checkpoint.load_config(folder / "state")["identity"])
    tree, _ = checkpoint.load(folder / "state")
    found = keeper.found(tree["states"])
    assert found.done == 2 and not found.converged and [stage.name for stage in found.stages] == ["k-means start"]
    np.testing.assert_array_equal(found.info.objective[0], np.asarray(expected["objective"], np.float32)[:2])


@pytest.mark.slow
def test_a_fit_goes_on_from_a_state_of_every_version(kept, tmp_path):
    folder, expected = kept
    wrote = json.loads((folder / "state" / checkpoint.MANIFEST).read_bytes())["versions"]
    other = [name for name in ("jax", "numpyro") if wrote[name] != version(name)]
    if other:
        pytest.skip(f"a state is of one program as traced by one version of {other}")
    shutil.copytree(folder / "state", tmp_path, dirs_exist_ok=True)
    fit = vmix.fit(MODEL, ROWS, engine=ENGINE, seed=0, checkpoint=tmp_path)
    np.testing.assert_allclose(fit.history["objective"], expected["objective"], rtol=1e-5)


def test_a_run_of_every_version_is_read(kept, tmp_path):
    folder, expected = kept
    shutil.copytree(folder / "run", tmp_path / "other")
    record = read_runs([folder / "run", tmp_path / "other"])[0]
    np.testing.assert_allclose(record.objective, expected["objective"])
    assert record.model == "GaussianMixture" and record.metrics["elbo"] == pytest.approx(expected["score"])


@pytest.mark.parametrize("number", [checkpoint.FORMAT + 1, 0, None, "1", True])
def test_what_another_version_wrote_is_refused_by_every_reader(number, tmp_path):
    for name, read in {"fit": vmix.load, "network": compose.load, "state": checkpoint.load_config}.items():
        shutil.copytree(FORMATS / "1" / name, tmp_path / name)
        resign(tmp_path / name, lambda manifest: manifest.update(format=number, versions={"vmix": "9.9"}))
        with pytest.raises(CheckpointCorrupt, match=f"format {number}, written by vmix 9.9; expected format 1"):
            read(tmp_path / name)
