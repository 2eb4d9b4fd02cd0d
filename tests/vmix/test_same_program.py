"""A file is read by the program that was fitted; by another one it is refused at once, with what differs."""

from importlib.metadata import version

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers

import vmix
from vmix import checkpoint, compose
from vmix.compose import VAE as Images
from vmix.compose import Network, Observation, ProgramModule
from vmix.engine import Start
from vmix.history import History
from vmix.inference import EM, SVI
from vmix.models import VAE
from vmix.plan import bare_plan
from vmix.program import ProgramError
from vmix.results import Fit

X = np.random.default_rng(0).normal(size=(12, 3)).astype(np.float32)
DEEP = VAE(latent_dim=2, hidden=(4,), pixels="gaussian").with_data(X)
WAY = rf"load it with the one that was fitted, and the version that wrote it \(vmix {version('vmix')}\), or fit again"


def fresh(program, x):
    """Networks as a program draws them; nothing is fitted."""
    found = {}
    for part in (program.model, program.guide):
        trace = handlers.trace(handlers.seed(part, jax.random.key(0))).get_trace(*x)
        found |= {name: site["value"] for name, site in trace.items() if site["type"] == "param"}
    return jax.tree.map(np.asarray, found)


def save(folder, program, engine, globals_, params):
    """Save a fit put together by hand."""
    plan = bare_plan(program, (X,), frames={}, updates={}, missing=False)
    history = History(None, converged=True, interrupted=False)
    Fit.build(plan, engine, Start(globals_, params), history, [], seed=0, seconds=0.0).save(folder)
    return folder


def deep(folder, change=None):
    params = fresh(DEEP, (X,))
    if change:
        change(params)
    return save(folder, DEEP, SVI(num_steps=1), {}, params)


def test_networks_that_are_as_they_were_are_loaded(tmp_path):
    assert vmix.load(deep(tmp_path)).params.keys() == {"decoder$params", "encoder$params"}


def test_networks_saved_before_they_had_units_are_refused(tmp_path):
    deep(tmp_path, lambda params: [params[name].pop("units") for name in params])
    match = rf"{tmp_path}/manifest.json: network 'decoder\$params': weights 'units.centre' is not in it, but in the "
    with pytest.raises(ProgramError, match=match + rf"program with shape \(3,\).* and 1 more.*VAE makes.*{WAY}"):
        vmix.load(tmp_path)


def test_weights_of_another_width_are_refused(tmp_path):
    match = r"'body.layers.0.kernel' has shape \(2, 4\); the program's has \(2, 8\)"
    with pytest.raises(ProgramError, match=match):
        vmix.load(deep(tmp_path), program=VAE(latent_dim=2, hidden=(8,), pixels="gaussian").with_data(X))


def test_a_network_that_is_gone_and_one_that_is_new_are_refused(tmp_path):
    deep(tmp_path, lambda params: params.update(other=params.pop("encoder$params")))
    with pytest.raises(ProgramError, match=r"network 'encoder\$params' is not in it.*'other' is in it, but not in"):
        vmix.load(tmp_path)


def mixture(x, num_components=2, name="loc"):
    loc = numpyro.sample(name, dist.Normal(0.0, 3.0).expand([num_components, 3]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(np.full(num_components, 1 / num_components)))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(1), obs=x)


@pytest.fixture(scope="module")
def shallow(tmp_path_factory):
    return save(tmp_path_factory.mktemp("shallow"), mixture, EM(), {"loc": np.zeros((2, 3), np.float32)}, {})


def test_a_program_of_ones_own_is_held_to_the_globals_that_were_saved(shallow):
    assert vmix.load(shallow, program=mixture).posterior["loc"].shape == (2, 3)

    def three(x):
        mixture(x, num_components=3)

    def renamed(x):
        mixture(x, name="centre")

    with pytest.raises(ProgramError, match=r"site 'loc' has shape \(2, 3\); the program's has \(3, 3\)"):
        vmix.load(shallow, program=three)
    with pytest.raises(ProgramError, match="site 'centre' is not in it, .*; site 'loc' is in it .*, but not in"):
        vmix.load(shallow, program=renamed)


def test_modules_with_networks_or_programs_of_another_structure_are_refused(tmp_path):
    images = Images(2, hidden=(4,), name="images")
    images.connect(Observation(X, name="seen"))
    images._width, images.params = X.shape[1], fresh(images.program, (X, np.zeros((len(X), 2)), X))
    Network(images).save(tmp_path)
    assert compose.load(tmp_path)["images"].params.keys() == images.params.keys()
    images.params["decoder$params"]["body"] = images.params["decoder$params"].pop("layers")
    Network(images).save(tmp_path)
    with pytest.raises(ProgramError, match=r"module images of the saved network: .*'body.0.bias' is in it with shape"):
        compose.load(tmp_path)


def test_a_module_with_a_program_of_ones_own_is_held_to_its_globals():
    plan = bare_plan(mixture, (X,), frames={}, updates={}, missing=False)
    saved = ProgramModule(mixture, EM(), name="groups")
    saved._plan, saved._start = plan, Start({"loc": np.zeros((3, 3))}, {})
    with pytest.raises(ProgramError, match=r"module groups of the saved network: site 'loc' has shape \(3, 3\)"):
        ProgramModule(mixture, EM()).restore(saved.settings(), saved.state())


def test_every_part_of_what_a_file_holds_is_told_by_name(tmp_path):
    deep(tmp_path)
    tree, _ = checkpoint.load(tmp_path)
    sites = vmix.load(tmp_path)._plan.sites
    for name, params in tree["params"].items():
        assert dict(sites[name].leaves) == {
            ".".join(str(key.key) for key in path): leaf.shape
            for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
        }
