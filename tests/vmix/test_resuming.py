"""A fit that was ended goes on from its folder, to the same bits; and says why where it cannot."""

import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix import checkpoint, driving, fitting
from vmix.checkpoint import CheckpointCorrupt
from vmix.inference import EM, SVI, Gibbs
from vmix.models import VAE, GaussianMixture

X = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
X[:30] += 4.0
MODEL = GaussianMixture(num_components=2)
ENGINE = EM(num_sweeps=12, tolerance=None)
KILLS = 50


def stop_at(step):
    def stop(number, _):
        if number == step:
            raise KeyboardInterrupt

    return stop


def assert_same_bits(one, other):
    np.testing.assert_array_equal(one.history["objective"], other.history["objective"])
    for name, value in one.posterior.items():
        np.testing.assert_array_equal(value, other.posterior[name])


def test_ctrl_c_says_what_there_is_and_how_to_go_on(tmp_path):
    for folder, way in ((tmp_path, f"goes on from checkpoint='{tmp_path}'"), (None, "give checkpoint= a folder")):
        with pytest.warns(UserWarning, match=f"interrupted after 2 sweeps: the fit until then is returned; .*{way}"):
            vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=folder, callback=stop_at(2))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of an EM fit that was ended after five sweeps."""
    folder = tmp_path_factory.mktemp("stopped")
    fit = vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=folder, callback=stop_at(5))
    assert fit.interrupted and len(fit.history["objective"]) == 5
    return folder


@pytest.fixture(scope="module")
def alone():
    return vmix.fit(MODEL, X, engine=ENGINE, seed=0)


@pytest.mark.faults
def test_a_fit_that_was_ended_goes_on_to_the_same_bits(stopped, alone, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    went_on = vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path)
    assert not went_on.interrupted
    assert_same_bits(went_on, alone)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine",
    [Gibbs(num_samples=8, num_warmup=8), SVI(num_steps=20, batch_size=20, restarts=2), EM(num_sweeps=200)],
    ids=lambda engine: engine.name,
)
def test_every_engine_goes_on_and_what_has_ended_is_given_at_once(engine, tmp_path):
    vmix.fit(MODEL, X, engine=engine, seed=0, checkpoint=tmp_path, checkpoint_every=0, callback=stop_at(5))
    went_on = vmix.fit(MODEL, X, engine=engine, seed=0, checkpoint=tmp_path)
    alone = vmix.fit(MODEL, X, engine=engine, seed=0)
    assert went_on.converged == alone.converged
    assert_same_bits(went_on, alone)
    assert_same_bits(vmix.fit(MODEL, X, engine=engine, seed=0, checkpoint=tmp_path), alone)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed: 0, now 1"),
        ({"engine": EM(num_sweeps=13, tolerance=None)}, "options: .*now .*13"),
        ({"init": "random"}, "start: None, now random"),
        ({"data": X + 1}, r"data: .*\(60, 2\) float32"),
        ({"model": GaussianMixture(num_components=3)}, "settings: "),
    ],
)
def test_another_fit_is_told_what_differs(stopped, change, named):
    options = {"engine": ENGINE, "seed": 0, "checkpoint": stopped} | change
    model, data = options.pop("model", MODEL), options.pop("data", X)
    with pytest.raises(ValueError, match=f"state of another fit .*{named}.*give another folder"):
        vmix.fit(model, data, **options)


def spread(scale):
    def program(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("components", 2):
            loc = numpyro.sample("loc", dist.Normal(0.0, scale))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("x", dist.Normal(loc[numpyro.sample("c", dist.Categorical(w))], 1.0), obs=x)

    return program


def test_a_function_with_another_prior_is_another_program(tmp_path):
    vmix.fit(spread(5.0), X[:, 0], engine=ENGINE, seed=0, checkpoint=tmp_path, callback=stop_at(2))
    with pytest.raises(ValueError, match="state of another fit .log density"):
        vmix.fit(spread(6.0), X[:, 0], engine=ENGINE, seed=0, checkpoint=tmp_path)
    assert not vmix.fit(spread(5.0), X[:, 0], engine=ENGINE, seed=0, checkpoint=tmp_path).interrupted


@pytest.mark.parametrize(("every", "most"), [(0, 12), (1e9, 2)])
def test_the_state_is_kept_as_often_as_asked(tmp_path, monkeypatch, every, most):
    save, saves = checkpoint.save, []
    monkeypatch.setattr(checkpoint, "save", lambda *args: (saves.append(args), save(*args)))
    vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path, checkpoint_every=every)
    assert (2 < len(saves) <= most + 2) if every == 0 else len(saves) == most


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    checkpoint.save(tmp_path, {"a": np.zeros(2)}, {})
    with pytest.raises(ValueError, match="holds something else"):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path)
    assert checkpoint.load(tmp_path)[0]["a"].shape == (2,)


def test_a_kept_state_is_not_a_fit(stopped):
    with pytest.raises(ValueError, match="is no saved fit; an ended one goes on by vmix.fit"):
        vmix.load(stopped)


def flip(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2] ^= 1
    file.write_bytes(raw)


DAMAGE = {
    "flipped": flip,
    "cut short": lambda file: file.write_bytes(file.read_bytes()[:-9]),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.faults
@pytest.mark.parametrize("pattern", ["arrays-*", checkpoint.MANIFEST])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_state_that_is_damaged_is_told_with_the_one_before_it(stopped, tmp_path, pattern, damage):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    DAMAGE[damage](next(tmp_path.glob(pattern)))
    told = f"or go on from the state before it, which is whole: checkpoint='{tmp_path}/previous'"
    with pytest.raises(CheckpointCorrupt, match=told):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path)
    flip(next(tmp_path.glob("previous/arrays-*")))
    with pytest.raises(CheckpointCorrupt, match="restore the folder from a copy, or fit again$"):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path)


@pytest.mark.faults
def test_the_state_before_a_damaged_one_goes_on_to_the_same_bits(stopped, alone, tmp_path):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    flip(next(tmp_path.glob("arrays-*")))
    assert checkpoint.load_config(tmp_path / "previous")["done"] < checkpoint.load_config(tmp_path)["done"]
    assert_same_bits(vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path / "previous"), alone)


@pytest.mark.faults
def test_a_full_disk_is_told_and_the_fit_goes_on(tmp_path, monkeypatch):
    save, saves = checkpoint.save, []

    def full(*args):
        saves.append(args)
        if len(saves) > 1:
            raise OSError(28, "No space left on device")
        save(*args)

    monkeypatch.setattr(checkpoint, "save", full)
    with pytest.warns(UserWarning, match="No space left on device.*the fit goes on"):
        fit = vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path, checkpoint_every=0)
    assert len(fit.history["objective"]) == 12
    tree, config = checkpoint.load(tmp_path)
    assert config["done"] == 0 and tree["info"] is None


ON_CPUS = "INTERNAL: Error dispatching computation: Out of memory allocating 312024120 bytes."


@pytest.mark.faults
@pytest.mark.parametrize(
    "error",
    [jax.errors.JaxRuntimeError, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (ValueError, MemoryError))],
)
def test_memory_that_runs_out_leaves_the_state_before_and_says_what_to_do(alone, tmp_path, monkeypatch, error):
    look, calls = driving.on_the_host, []

    def full(*given):
        calls.append(given)
        if len(calls) == 3:
            raise error(ON_CPUS if error is jax.errors.JaxRuntimeError else "RESOURCE_EXHAUSTED: Out of memory.")
        return look(*given)

    with monkeypatch.context() as patch:
        patch.setattr(driving, "on_the_host", full)
        with pytest.raises(MemoryError, match=f"ran out at sweep .* is kept in '{tmp_path}'; give EM a smaller "):
            vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path, checkpoint_every=1e9)
    assert checkpoint.load_config(tmp_path)["done"] > 0
    assert_same_bits(vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path), alone)


@pytest.mark.faults
@pytest.mark.parametrize("place", ["prepare_task", "begin"])
def test_memory_that_runs_out_before_the_first_step_leaves_the_folder_as_it_was(tmp_path, monkeypatch, place):
    def full(*_, **__):
        raise jax.errors.JaxRuntimeError(ON_CPUS)

    monkeypatch.setattr(fitting, place, full)
    told = f"ran out before the first sweep; what '{tmp_path}' held before is as it was; give EM a smaller"
    with pytest.raises(MemoryError, match=told):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_another_error_of_the_device_comes_through_as_it_is(tmp_path, monkeypatch):
    def broken(*_):
        raise jax.errors.JaxRuntimeError("INTERNAL: lost")

    monkeypatch.setattr(driving, "on_the_host", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: lost"):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0)


@pytest.mark.faults
def test_a_folder_that_cannot_be_made_is_told_before_the_first_step(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path / "file" / "state")


def test_seconds_below_zero_are_refused(tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be seconds"):
        vmix.fit(MODEL, X, engine=ENGINE, seed=0, checkpoint=tmp_path, checkpoint_every=-1)


KILLED = """
import sys, time, numpy as np, vmix
from vmix.compilation import compile_everything_quickly
compile_everything_quickly()
from vmix.inference import EM
from vmix.models import GaussianMixture
x = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
folder, result, pause = sys.argv[1:]
options = {"checkpoint": folder, "checkpoint_every": 0} if folder else {}
if float(pause):  # so that no processor is fast enough to reach the end between two kills
    options["callback"] = lambda *_: time.sleep(float(pause))
fit = vmix.fit(GaussianMixture(num_components=4), x, engine=EM(num_sweeps=4000, tolerance=None), seed=0, **options)
np.savez(result, objective=fit.history["objective"], **fit.posterior)
"""


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_fit_that_is_killed_fifty_times_ends_at_the_same_bits(tmp_path):
    """A save after every chunk, so that many kills fall into one; each run must first have gone on by a save."""
    folder, manifest = tmp_path / "state", tmp_path / "state" / "manifest.json"
    run = [sys.executable, "-c", KILLED]
    subprocess.run([*run, "", str(tmp_path / "alone.npz"), "0"], check=True)

    def saved():
        return manifest.stat().st_mtime_ns if manifest.exists() else 0

    for wait in np.random.default_rng(1).uniform(0.0, 0.5, KILLS):
        before = saved()
        process = subprocess.Popen([*run, str(folder), str(tmp_path / "killed.npz"), "0.01"])
        while process.poll() is None and saved() == before:
            time.sleep(0.005)
        time.sleep(wait)
        assert process.poll() is None, "it ended before it was killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        checkpoint.load(folder)
    assert not (tmp_path / "killed.npz").exists()
    subprocess.run([*run, str(folder), str(tmp_path / "killed.npz"), "0"], check=True)
    alone, killed = (np.load(tmp_path / name) for name in ("alone.npz", "killed.npz"))
    for name in alone.files:
        np.testing.assert_array_equal(alone[name], killed[name])


@pytest.mark.slow
def test_networks_and_their_optimiser_are_kept(tmp_path):
    x = (np.random.default_rng(0).uniform(size=(64, 9)) < 0.4).astype(np.float32)
    model, engine = VAE(latent_dim=2, hidden=(8,)), SVI(num_steps=30, batch_size=16)
    vmix.fit(model, x, engine=engine, seed=0, checkpoint=tmp_path, callback=stop_at(7))
    went_on, alone = (vmix.fit(model, x, engine=engine, seed=0, checkpoint=c) for c in (tmp_path, None))
    np.testing.assert_array_equal(went_on.history["objective"], alone.history["objective"])
    np.testing.assert_array_equal(went_on.transform(x), alone.transform(x))
