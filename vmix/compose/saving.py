"""A network of modules in a folder: graph and options as configuration, parameters as arrays, no pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from vmix import checkpoint
from vmix.checks import check_path
from vmix.compose.autoencoder import VAE
from vmix.compose.markov import MM
from vmix.compose.mixture import GMM
from vmix.compose.module import GraphError, Module, Observation
from vmix.compose.program_module import ProgramModule
from vmix.compose.topics import MLDA

if TYPE_CHECKING:
    from vmix.compose.network import Network

KINDS = {kind.__name__: kind for kind in (GMM, MLDA, MM, VAE)}
MOST_COLUMNS = 1 << 22
_POSITIONAL = {"latent_dim", "num_components", "weights"}


def save_network(network: Network, folder: Any) -> None:
    """Save a network; of a module with a program of the user's own all but the program and its engine.

    Raises:
        GraphError: for a module of another kind than those of `vmix.compose`.
    """
    names = {m: i for i, m in enumerate(network.modules)}
    modules = []
    for module in network.modules:
        kind = type(module).__name__
        if kind not in KINDS and not isinstance(module, Observation | ProgramModule):
            raise GraphError(f"{module.name} is a {kind}, which cannot be saved; save its `params` yourself")
        settings = {"name": module.name} if isinstance(module, Observation) else module.settings()
        record: dict[str, Any] = {"kind": kind, "settings": settings, "upstream": [names[m] for m in module.upstream]}
        record["history"] = module.history
        record["width"] = _width(module)
        modules.append(record)
    states = {m.name: m.state() if isinstance(m, ProgramModule) else m.params for m in network.learners}
    tree = jax.tree.map(np.asarray, states)
    config = {"network": modules, "messages": network.messages, "rounds": network.rounds}
    checkpoint.save(folder, tree, config)


def load(folder: Any, *, programs: Mapping[str, ProgramModule] | None = None) -> Network:
    """Load a network that `Network.save` wrote; it recognises and predicts, and learns on from new data.

    Its observations hold a single row of zeros in the place of the data, which were not saved.

    Args:
        folder: the folder.
        programs: a new `ProgramModule` for each module that has a program of your own, by the module's name.

    Raises:
        CheckpointCorrupt: for a damaged folder.
        ValueError: for a folder that holds something else.
        GraphError: for a module with a program that is not given, or another one.
        ProgramError: for networks of another structure than this version makes.
    """
    check_path(folder, "folder")
    tree, config = checkpoint.load(folder)
    if "network" not in config:
        raise ValueError(f"{folder} holds no network of modules; a fit is loaded with vmix.load(folder)")
    with checkpoint.understood(Path(folder) / checkpoint.MANIFEST, "a network of modules"):
        return _remade(tree, config, programs or {})


def _remade(tree: Any, config: Mapping[str, Any], programs: Mapping[str, ProgramModule]) -> Network:
    from vmix.compose.network import Network

    modules: list[Module] = []
    for record in config["network"]:
        module = _given(record, programs) if record["kind"] == ProgramModule.__name__ else _made(record)
        if record["upstream"]:
            module.connect(*(modules[i] for i in record["upstream"]))
        if isinstance(module, ProgramModule):
            module.restore(record["settings"], tree[module.name])
        elif record["upstream"]:
            module.params = tree[module.name]
            if isinstance(module, VAE):
                module.check_params()
        module.history = record["history"]
        modules.append(module)
    network = Network(*modules, messages=config["messages"])
    network.rounds = config["rounds"]
    return network


def _width(module: Module) -> int:
    if isinstance(module, Observation):
        return int(module.x.shape[1])
    return module._width if isinstance(module, VAE) else 0


def _given(record: dict[str, Any], programs: Mapping[str, ProgramModule]) -> ProgramModule:
    name = record["settings"]["name"]
    if name not in programs:
        raise GraphError(
            f"module {name} has a program of your own ({record['settings']['program']}), which is not in the file; "
            f"hand it over: load(folder, programs={{{name!r}: ProgramModule(program, engine)}})"
        )
    module = programs[name]
    module.name = name
    return module


def _made(record: dict[str, Any]) -> Module:
    settings = dict(record["settings"])
    if not 0 <= record["width"] <= MOST_COLUMNS:  # a row of zeros is made of it
        raise GraphError(f"a module says of itself that its data have {record['width']} columns: fit the network again")
    if record["kind"] == "Observation":
        return Observation(np.zeros((1, record["width"]), np.float32), name=settings["name"])
    first = [settings.pop(n) for n in list(settings) if n in _POSITIONAL and record["kind"] != "MM"]
    module = KINDS[record["kind"]](*first, **settings)
    if isinstance(module, VAE):
        module._width = record["width"]
    return module
