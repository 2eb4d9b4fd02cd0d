"""A start that was ended goes on within the stage that it was in, to the same bits."""

import signal
import subprocess
import sys
import time
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vmix
from vmix import checkpoint, fitting, pretraining
from vmix.door import prepare
from vmix.engine import Data
from vmix.inference import EM
from vmix.models import VaDE
from vmix.plan import make_plan
from vmix.recipe import Recipe, Watch
from vmix.resuming import Keeper
from vmix.starting import make_start

pytestmark = pytest.mark.faults
KEY = jax.random.key(0)
X = (np.random.default_rng(0).uniform(size=(48, 9)) < np.repeat([[0.2], [0.8]], 24, 0)).astype(np.float32)
MODEL = VaDE(num_components=2, latent_dim=2, hidden=(6,), covariance="diagonal")
ENGINE = EM(num_sweeps=3)
EPOCHS = 6
RECIPE = Recipe(views=2, pretrain_epochs=EPOCHS, batch_size=16, mixture_restarts=2, mixture_sweeps=4)


def fit(folder=None, *, every=0.0):
    return vmix.fit(
        MODEL, X, engine=ENGINE, seed=0, init=RECIPE, checkpoint=folder, checkpoint_every=every if folder else None
    )


@pytest.fixture(scope="module")
def start_of():
    """Makes a start as a fit does, kept in a folder, ended after so many reports; the start and what was reported."""
    plan = make_plan(prepare(MODEL, (X,)), (X,), key=KEY)
    held = Data((jnp.asarray(X),), None, None)

    def make(folder=None, *, every=0.0, end_after=None, recipe=RECIPE):
        reports = []

        def report(stage, done, total, objective):
            reports.append(stage)
            if len(reports) == end_after:
                raise KeyboardInterrupt

        watch = Watch(report)
        if folder is not None:
            keeper = Keeper(folder, every)
            keeper.belongs_to({"program": "VaDE"})
            assert keeper.found(None) is None
            watch = Watch(report, keeper.recall, keeper.retain)
        try:
            return *make_start(plan, held, recipe, key=KEY, watch=watch), reports
        except KeyboardInterrupt:
            return None, [], reports

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "MIN_PRETRAIN_STEPS", 1)
        yield make


@pytest.fixture(scope="module")
def alone(start_of):
    return start_of()


def assert_same_start(one, other):
    jax.tree.map(np.testing.assert_array_equal, one[0], other[0])
    assert [s._replace(seconds=0.0) for s in one[1]] == [s._replace(seconds=0.0) for s in other[1]]


IN_MIXTURE = 2 * EPOCHS + 1  # after the first of the mixture's starts


@pytest.mark.parametrize(
    ("every", "after"), [(0.0, 4), (1e9, 1), (1e9, 4), (1e9, EPOCHS), (1e9, IN_MIXTURE), (0.0, IN_MIXTURE + 1)]
)
def test_a_start_that_was_ended_goes_on_where_it_was(start_of, alone, tmp_path, every, after):
    assert start_of(tmp_path, every=every, end_after=after)[0] is None
    whole = start_of(tmp_path)
    assert_same_start(whole, alone)
    assert whole[2].count("autoencoder") == max(2 * EPOCHS - after, 0)
    assert whole[2].count("mixture on codes") == 2 - max(after - 2 * EPOCHS, 0)


@pytest.mark.parametrize("after", [EPOCHS + 1, IN_MIXTURE, 2 * EPOCHS + 2 + 1])
def test_a_start_from_a_viewer_goes_on_where_it_was(start_of, tmp_path, after):
    """Ended in the second of the viewer's encoders, in its mixture, and in the program's own encoder."""
    recipe = replace(RECIPE, viewer=replace(MODEL, latent_dim=1))
    assert start_of(tmp_path, end_after=after, recipe=recipe)[0] is None
    assert_same_start(start_of(tmp_path, recipe=recipe), start_of(recipe=recipe))


def test_a_start_that_was_finished_is_not_made_again(start_of, alone, tmp_path):
    start_of(tmp_path)
    again = start_of(tmp_path)
    assert_same_start(again, alone)
    assert again[2] == []


def test_between_two_saves_so_many_seconds_go_by(start_of, tmp_path, monkeypatch):
    save, saved = checkpoint.save, []
    monkeypatch.setattr(checkpoint, "save", lambda *given: (saved.append(given), save(*given)))
    start_of(tmp_path, every=1e9)
    assert len(saved) == 2 * 2 + 1  # where each of two encoders begins and ends, and after the mixture


def test_the_start_of_another_fit_is_refused(start_of, tmp_path):
    start_of(tmp_path, end_after=2)
    with pytest.raises(ValueError, match="state of another fit .program: VaDE, now GMVAE"):
        Keeper(tmp_path, 0.0).belongs_to({"program": "GMVAE"})


def test_a_start_of_other_networks_is_refused(start_of, tmp_path):
    start_of(tmp_path, end_after=2)
    keeper = Keeper(tmp_path, 0.0)
    keeper.found(None)
    with pytest.raises(ValueError, match="of another version of the engine"):
        keeper.recall("start, encoder 1", {"kernel": jnp.ones((2, 3))})


def test_a_disk_that_refuses_is_told_before_the_first_epoch_and_later_only_told(start_of, tmp_path, monkeypatch):
    save, reports = checkpoint.save, []

    def full_after(count):
        def refuse(*given):
            reports.append(given)
            if len(reports) > count:
                raise OSError(28, "No space left on device")
            save(*given)

        return refuse

    monkeypatch.setattr(checkpoint, "save", full_after(0))
    with pytest.raises(OSError, match="No space left"):
        start_of(tmp_path)
    monkeypatch.setattr(checkpoint, "save", full_after(len(reports) + 2))
    with pytest.warns(UserWarning, match="No space left on device.*the fit goes on"):
        assert start_of(tmp_path)[0] is not None


@pytest.mark.slow
def test_the_state_takes_the_place_of_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining, "MIN_PRETRAIN_STEPS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "stacked", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert checkpoint.load_config(tmp_path)["kind"] == "start of a fit"
    found, alone = fit(tmp_path), fit()
    assert checkpoint.load_config(tmp_path)["kind"] == "state of a fit"
    np.testing.assert_array_equal(found.history["objective"], alone.history["objective"])
    np.testing.assert_array_equal(found.transform(X), alone.transform(X))


KILLED = """
import os, signal, sys
import numpy as np
import vmix
from vmix import checkpoint, pretraining
from vmix.compilation import compile_everything_quickly
compile_everything_quickly()
pretraining.MIN_PRETRAIN_STEPS = 1
from tests.vmix.test_kept_starts import fit
save, saves = checkpoint.save, []
def killed(*given):
    saves.append(1)
    if len(saves) == int(sys.argv[3]) > 0:
        os.kill(os.getpid(), signal.SIGKILL)
    save(*given)
    if len(saves) == -int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
checkpoint.save = killed
print("begun", flush=True)
found = fit(sys.argv[1] or None)
np.savez(sys.argv[2], objective=found.history["objective"], codes=found.transform(np.ones((3, 9))), **found.posterior)
"""


def run(folder, out, kill_at):
    return [sys.executable, "-c", KILLED, str(folder), str(out), str(kill_at)]


def assert_same_files(one, other):
    one, other = np.load(one), np.load(other)
    for name in one.files:
        np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.slow
def test_kills_at_the_borders_of_stages_and_within_end_at_the_same_bits(tmp_path):
    """Killed before and after the n-th save of each process: the first epochs, the borders, the mixture, the state."""
    subprocess.run(run("", tmp_path / "alone.npz", 0), check=True)
    for at in (1, -1, 3, -(EPOCHS + 1), 5, -2, 1):
        process = subprocess.run(run(tmp_path / "state", tmp_path / "killed.npz", at))
        assert process.returncode == -signal.SIGKILL, f"it ended before save {at}"
    subprocess.run(run(tmp_path / "state", tmp_path / "killed.npz", 0), check=True)
    assert_same_files(tmp_path / "alone.npz", tmp_path / "killed.npz")


@pytest.mark.slow
def test_kills_at_any_time_end_at_the_same_bits(tmp_path):
    subprocess.run(run("", tmp_path / "alone.npz", 0), check=True)
    for wait in np.random.default_rng(0).uniform(0.0, 4.0, 8):
        process = subprocess.Popen(run(tmp_path / "state", tmp_path / "killed.npz", 0), stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(wait)
        process.kill()
        process.communicate()
    subprocess.run(run(tmp_path / "state", tmp_path / "killed.npz", 0), check=True)
    assert_same_files(tmp_path / "alone.npz", tmp_path / "killed.npz")
