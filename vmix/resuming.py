"""A fit that leaves its state in a folder as it goes, and goes on from there.

What is kept is the engine's state, the history, and who it is of: program, data, engine, seed and start. The same call
goes on where it was, to the same bits on the same device; another call is told what differs. The state before the last
one stays in `previous`, should the last one come to harm.
"""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vmix import checkpoint
from vmix.engine import Info
from vmix.enumeration import fill_missing
from vmix.plan import Plan
from vmix.processes import first_says, is_first, on_host
from vmix.program import digest, trace_sites
from vmix.recipe import Reached, Recipe, Stage

_KIND, _START = "state of a fit", "start of a fit"
_SAMPLED = 1_000


class Kept(NamedTuple):
    """What was found in the folder: as a run had it after step `done`."""

    states: Any
    info: Info | None
    done: int
    converged: bool
    stages: list[Stage]
    stream: dict[str, Any] | None
    nan_restarts: list[list]


class OtherVersion(ValueError):
    """A state of another version of the engine."""


class Keeper:
    """The folder of one fit.

    Args:
        folder: where the state is kept; made when missing.
        every: seconds between two saves, at least; None for 60.
    """

    def __init__(self, folder: str | Path, every: float | None) -> None:
        self.folder, self.every = Path(folder), 60.0 if every is None else every
        self.identity: dict[str, Any] = {}
        self.stages: list[Stage] = []
        self._reached: dict[str, Reached] = {}
        self._last = 0.0

    def belongs_to(self, identity: Mapping[str, Any]) -> None:
        """Say whose state it is, and refuse a folder that holds another's.

        Args:
            identity: program, data, engine, seed and the like, JSON-able.

        Raises:
            ValueError: if the folder holds something else, or the state of another fit; with what differs.
            vmix.checkpoint.CheckpointCorrupt: if a file was damaged.
        """
        self.identity = checkpoint.jsonable(identity)
        if not self._holds_one():
            return
        with self._or_the_one_before():
            config = checkpoint.load_config(self.folder)
        if config.get("kind") not in (_KIND, _START):
            raise ValueError(f"checkpoint={str(self.folder)!r} holds something else: give a folder of its own")
        with checkpoint.understood(self.folder / checkpoint.MANIFEST, _KIND):
            there = dict(config["identity"])
        differ = [name for name, value in self.identity.items() if there.get(name) != value]
        if differ:
            shown = "; ".join(
                f"{name}: {_short(there.get(name))}, now {_short(self.identity[name])}" for name in differ
            )
            raise ValueError(
                f"checkpoint={str(self.folder)!r} holds the state of another fit ({shown}): give another folder, or "
                "remove this one"
            )

    def found(self, like: Any) -> Kept | None:
        """The state that was kept before, if any; of a start that was not yet made, `recall` tells.

        Args:
            like: states of the same structure, shapes or arrays.

        Raises:
            ValueError: if it was kept by another version of the engine.
            vmix.checkpoint.CheckpointCorrupt: if a file was damaged.
        """
        if not self._holds_one():
            return None
        with self._or_the_one_before():
            tree, config = checkpoint.load(self.folder)
        with checkpoint.understood(self.folder / checkpoint.MANIFEST, config["kind"]):
            if config["kind"] == _START:
                self._reached = {p: Reached(v, *config["reached"][p]) for p, v in tree["reached"].items()}
                return None
            states = self._as(like, tree["states"])
            info = None if tree["info"] is None else Info(**tree["info"])
            self.stages = [Stage(*stage) for stage in config["stages"]]
            done, converged, stream = config["done"], config["converged"], config["stream"]
        return Kept(states, info, done, converged, self.stages, stream, config.get("nan_restarts", []))

    def _holds_one(self) -> bool:
        """Whether a state was kept: its manifest is there, or another was set aside for it."""
        return any((folder / checkpoint.MANIFEST).exists() for folder in (self.folder, self._before))

    @property
    def _before(self) -> Path:
        return self.folder / checkpoint.PREVIOUS

    @contextmanager
    def _or_the_one_before(self) -> Iterator[None]:
        """Where a state is damaged, say whether the one that was kept before it is whole."""
        try:
            yield
        except checkpoint.CheckpointCorrupt as error:
            try:
                checkpoint.load(self._before)
            except (OSError, checkpoint.CheckpointCorrupt):
                raise error from None
            way_out = f"or go on from the state before it, which is whole: checkpoint={str(self._before)!r}"
            raise checkpoint.CheckpointCorrupt(f"{error}; {way_out}") from error

    def recall(self, place: str, like: Any) -> Reached | None:
        """How far a part of the start had come.

        Args:
            place: which part.
            like: values of the same structure.

        Raises:
            ValueError: if it was kept by another version of vmix.
        """
        reached = self._reached.get(place)
        return None if reached is None else reached._replace(values=self._as(like, reached.values))

    def _as(self, like: Any, leaves: list) -> Any:
        """The arrays in the structure of `like`, if they are of its shapes and kinds."""
        wanted, structure = jax.tree.flatten(like)
        found = [jnp.asarray(leaf) for leaf in leaves]
        if [(leaf.shape, leaf.dtype) for leaf in found] != [(leaf.shape, leaf.dtype) for leaf in wanted]:
            raise OtherVersion(f"checkpoint={str(self.folder)!r} is of another version of the engine: remove it")
        return jax.tree.unflatten(structure, found)

    def due(self) -> bool:
        """Whether it is time for another save."""
        return time.monotonic() - self._last >= self.every

    def keep(
        self,
        states: Any,
        info: Info | None,
        done: int,
        *,
        converged: bool,
        stream: Mapping[str, Any] | None,
        nan_restarts: Sequence = (),
    ) -> None:
        """Save the state; a disk that is full is told of, and the fit goes on.

        Raises:
            OSError: at the very beginning, when nothing is lost yet.
        """
        tree = {"states": jax.tree.leaves(states), "info": None if info is None else info._asdict()}
        config = {"kind": _KIND, "done": done, "converged": converged, "stream": stream}
        config |= {"nan_restarts": list(nan_restarts), "stages": [list(stage) for stage in self.stages]}
        self._save(tree, config, first=not done)
        self._reached = {}

    def retain(self, place: str, reached: Reached, *, at_once: bool = False) -> None:
        """Save how far a part of the start has come, with all parts before it, when it is time or at once.

        Raises:
            OSError: at the very beginning, when nothing is lost yet.
        """
        if not (at_once or first_says(self.due())):
            return
        first = not self._reached
        self._reached[place] = reached._replace(values=jax.tree.leaves(on_host(reached.values)))
        if is_first():
            tree = {"reached": {name: part.values for name, part in self._reached.items()}}
            told = {name: list(part[1:]) for name, part in self._reached.items()}
            self._save(tree, {"kind": _START, "reached": told}, first=first)

    def _save(self, tree: Mapping[str, Any], config: Mapping[str, Any], *, first: bool) -> None:
        try:
            checkpoint.set_aside(self.folder)
            checkpoint.save(self.folder, tree, {**config, "identity": self.identity})
        except OSError as error:
            if first:
                raise
            warnings.warn(
                f"the state could not be kept: {error}; the fit goes on",
                stacklevel=2,
            )
        self._last = time.monotonic()


def on_interrupt(step_name: str, done: int, keeper: Keeper | None) -> str:
    """What to say of a fit that Ctrl-C has ended: what there is, and how it goes on."""
    way = (
        "give checkpoint= a folder, and the same call goes on next time"
        if keeper is None
        else f"the same call goes on from checkpoint={str(keeper.folder)!r}"
    )
    return f"interrupted after {done} {step_name}s: the fit until then is returned; {way}"


def fingerprint(arrays: tuple) -> list[str]:
    """Shape, kind and a hash of each array; of data on disk the hash of a thousand of its rows."""
    found = []
    for array in arrays:
        rows = np.asarray(array)
        if isinstance(array, np.memmap):
            rows = np.asarray(array[np.unique(np.linspace(0, len(array) - 1, _SAMPLED).astype(int))])
        digest = hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()[:16]
        found.append(f"{tuple(array.shape)} {array.dtype} {digest}")
    return found


def density_digest(plan: Plan) -> str:
    """A hash of the program's log density as it is traced, constants and all: a function has no settings to compare."""
    rows = tuple(fill_missing(a) if plan.missing else a for a in plan.template)

    def densities(key: jax.Array) -> dict[str, jax.Array]:
        sites = trace_sites(plan.program.model, rows, key=key, values={})
        return {name: s["fn"].log_prob(s["value"]).sum() for name, s in sites.items() if s["type"] == "sample"}

    return digest(jax.make_jaxpr(densities)(jax.random.key(0)))


def described_start(init: Any) -> Any:
    """What `init` says, JSON-able."""
    if isinstance(init, Recipe):
        return init.__dict__ | {"viewer": None if init.viewer is None else repr(init.viewer)}
    if isinstance(init, Mapping):
        return {name: fingerprint((np.asarray(value),))[0] for name, value in init.items()}
    return init


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) < 80 else f"{text[:77]}..."
