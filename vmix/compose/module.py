"""What a module is: a program of its own, joined to others by the variables it shares with them.

A module learns, infers and sends. What it receives is one array from each neighbour: values or codes from above
(upstream, nearer the data), and from below what the others know of the module's own variable. A message about a
discrete variable is log potentials (N, K); about a continuous one, codes (N, d) on the way down the graph and means
(N, d) on the way back.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np

from vmix.checks import as_data, check_seed

Value = TypeVar("Value")
VALUES, CODES, CLASSES = "values", "codes", "classes"
_COUNTER = itertools.count()


class GraphError(ValueError):
    """Modules that cannot be joined, or are not joined yet, the way they are asked to be."""


class Belief(NamedTuple):
    """What a module thinks of its variable, given what it received.

    Attributes:
        value: codes (N, d), or probabilities (N, K).
        evidence: what the module itself knows of a discrete variable, nats, shape (N, K); None for codes.
        objective: elbo or log evidence, nats per datum.
        details: further arrays by name, of the module's own.
    """

    value: np.ndarray
    evidence: np.ndarray | None
    objective: float
    details: Mapping[str, np.ndarray] = {}


Inputs = Mapping["Module", "np.ndarray | None"]


class Module:
    """Base of all modules; a subclass says what it takes and sends, and how it learns, infers and sends.

    Args:
        name: a name for files and messages; None takes the kind.
        category: labels of the data, for the accuracy in `history` alone; learning never sees them.

    Raises:
        TypeError: for a name that is no text.
        ValueError: for a name with a slash, which could be no file's.
    """

    kind: ClassVar[str] = "module"
    accepts: ClassVar[tuple[str, ...]] = ()
    sends: ClassVar[str] = VALUES
    most_upstream: ClassVar[int | None] = 1

    def __init__(self, *, name: str | None = None, category: Any = None) -> None:
        self.name = _checked_name(name, self.kind)
        self.order = next(_COUNTER)
        self.category = None if category is None else np.asarray(category)
        self.upstream: tuple[Module, ...] = ()
        self.downstream: list[Module] = []
        self.messages = "cavity"
        self.params: dict[str, Any] | None = None
        self.belief: Belief | None = None
        self.inputs: dict[Module, np.ndarray | None] = {}
        self.history: dict[str, list[float]] = {"objective": [], "accuracy": [], "seconds": []}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r})"

    @property
    def num_values(self) -> int | None:
        """K of a discrete variable; None for others, or where it is not known yet."""
        return None

    def connect(self, *upstream: Module) -> None:
        """Join this module to those whose variables it sees.

        Raises:
            TypeError: for what is no module.
            GraphError: connected before, a cycle, a message that this module cannot take, or rows that differ.
        """
        if self.upstream:
            raise GraphError(
                f"{self.name} is connected to {[m.name for m in self.upstream]} already; name all its upstream "
                "modules in one call, or make a new module"
            )
        self._check_upstream(upstream)
        self.upstream = tuple(upstream)
        for module in upstream:
            module.downstream.append(self)

    def _check_upstream(self, upstream: tuple[Module, ...]) -> None:
        if not upstream or (self.most_upstream and len(upstream) > self.most_upstream):
            wanted = "at least one module" if self.most_upstream is None else f"{self.most_upstream} module"
            raise GraphError(f"{self.name} takes {wanted} upstream, found {len(upstream)}: {list(upstream)}")
        for module in upstream:
            if not isinstance(module, Module):
                raise TypeError(
                    f"{self.name}.connect takes modules, found {type(module).__name__}; wrap data: Observation(x)"
                )
            if module is self or self in ancestors(module):
                raise GraphError(f"connecting {self.name} to {module.name} closes a cycle; modules form no cycles")
            if module.sends not in self.accepts:
                raise GraphError(
                    f"{self.name} takes {' or '.join(self.accepts)} from upstream, but {module.name} sends "
                    f"{module.sends}; put a module between them that does (codes become classes in a GMM)"
                )
            self._check_support(module)
        lengths = [(m.name, n) for m in upstream if (n := num_rows(m)) is not None]
        if len({n for _, n in lengths}) > 1:
            told = ", ".join(f"{name} has {n}" for name, n in lengths)
            raise GraphError(f"{self.name} joins modules whose numbers of rows differ: {told}; give the same rows")

    def _check_support(self, module: Module) -> None:
        """Refuse a discrete variable of another size; for modules that share their upstream's variable."""

    def update(self, seed: int | None = None) -> None:
        """Receive messages from all neighbours, learn, and infer.

        Args:
            seed: a whole number; None takes the number of updates so far.

        Raises:
            GraphError: if the module is not connected, or a module upstream was never updated.
        """
        if not self.upstream:
            raise GraphError(f"{self.name} is not connected; call {self.name}.connect(...) before update()")
        began = time.perf_counter()
        seed = check_seed(len(self.history["objective"]) if seed is None else seed)
        self.inputs = self.receive()
        self.learn(self.inputs, seed)
        self.belief = self.infer(self.inputs)
        self._record(self.belief, time.perf_counter() - began)

    def _record(self, belief: Belief, seconds: float) -> None:
        self.history["objective"].append(float(belief.objective))
        self.history["seconds"].append(seconds)
        if self.category is not None and self.sends == CLASSES:
            from vmix.metrics import accuracy

            self.history["accuracy"].append(accuracy(self.category, belief.value.argmax(1)))

    def receive(self) -> dict[Module, np.ndarray | None]:
        """One message from each neighbour; None from those below that were never updated."""
        above = {module: module.message_to(self) for module in self.upstream}
        return above | {m: None if m.belief is None else m.message_to(self) for m in self.downstream}

    def message_to(self, other: Module) -> np.ndarray:
        """What this module tells a neighbour now.

        Raises:
            GraphError: if the two are not neighbours, or this module was never updated.
        """
        if other not in self.upstream and other not in self.downstream:
            raise GraphError(f"{self.name} and {other.name} are not connected")
        if self.belief is None:
            raise GraphError(f"{self.name} was never updated, so it has no message for {other.name}; update it first")
        return self.send(self.belief, self.inputs, other)

    def learn(self, inputs: Inputs, seed: int) -> None:
        """Move the parameters, given one message from each neighbour."""
        raise NotImplementedError

    def infer(self, inputs: Inputs) -> Belief:
        """What follows for the module's variable, parameters fixed; None stands for a message that is missing."""
        raise NotImplementedError

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """The message to a neighbour."""
        raise NotImplementedError

    def predict(self) -> np.ndarray:
        """The most probable class of each row, shape (N,); codes (N, d) of a module without classes.

        Raises:
            GraphError: before the first update.
        """
        belief = self.settled(self.belief)
        return belief.value.argmax(1) if self.sends == CLASSES else belief.value

    def settled(self, found: Value | None) -> Value:
        """What exists from the first update on: `belief`, `params`, and what a subclass keeps.

        Raises:
            GraphError: before the first update.
        """
        if found is None:
            raise GraphError(f"{self.name} was never updated; call update() or fit the network first")
        return found

    def settings(self) -> dict[str, Any]:
        """The options to make this module again, JSON-able."""
        return {"name": self.name}


class Observation(Module):
    """Data, one row a datum: where a graph begins.

    Args:
        x: shape (N, D).
        name: a name for files and messages.
    """

    kind = "obs"

    def __init__(self, x: Any, *, name: str | None = None) -> None:
        super().__init__(name=name)
        self.x = as_data(x, name="x")
        if self.x.ndim != 2:
            raise ValueError(f"x has shape {self.x.shape}; expected (N, D), one row a datum: reshape it to (N, -1)")
        self.belief: Belief = Belief(self.x, None, 0.0)

    def connect(self, *upstream: Module) -> None:
        """Refuse: nothing is upstream of data.

        Raises:
            GraphError: always.
        """
        raise GraphError(f"{self.name} holds data, and takes nothing from upstream; connect a module to it")

    def infer(self, inputs: Inputs) -> Belief:
        """The data."""
        return self.belief

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """The data."""
        return belief.value

    def learn(self, inputs: Inputs, seed: int) -> None:
        """Nothing to learn."""

    def update(self, seed: int | None = None) -> None:
        """Nothing to update."""


def _checked_name(name: Any, kind: str) -> str:
    """The name given, or the kind where there is none."""
    if name is not None and not isinstance(name, str):
        raise TypeError(f"name is {name!r} ({type(name).__name__}); expected text such as name={kind!r}")
    if name and set(name) & {"/", "\\"}:
        raise ValueError(f"name is {name!r}; it names files as well: expected text without slashes")
    return name or kind


def ancestors(module: Module) -> set[Module]:
    """All modules upstream of one, at any distance."""
    found = set(module.upstream)
    return found.union(*(ancestors(m) for m in module.upstream)) if found else found


def num_rows(module: Module) -> int | None:
    """The rows of the data upstream; None where there are none yet."""
    sizes = [len(m.x) for m in {module, *ancestors(module)} if isinstance(m, Observation)]
    return sizes[0] if sizes else None


def from_below(module: Module, inputs: Inputs, *, but: Module | None = None) -> np.ndarray | None:
    """The sum of the log potentials that others than `but` sent from below; None without any."""
    sent = (inputs.get(m) for m in module.downstream if m is not but)
    found = [message for message in sent if message is not None]
    return sum(found[1:], found[0]) if found else None


def from_above(module: Module, inputs: Inputs) -> np.ndarray:
    """The message of the one module upstream.

    Raises:
        GraphError: if it sent none.
    """
    above = module.upstream[0]
    found = inputs[above]
    if found is None:
        raise GraphError(f"{module.name} received no message from {above.name}; update it, or give its data")
    return found


def potentials_for(module: Module, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
    """Log potentials of a module's class, all that is known but what `other` itself said, nats, shape (N, K).

    Raises:
        GraphError: of a module without classes.
    """
    if belief.evidence is None:
        raise GraphError(f"{module.name} has no classes to tell {other.name} of")
    below = from_below(module, inputs, but=other)
    return belief.evidence if below is None else belief.evidence + below


def normalised(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities along the last axis, and the log of their total; an impossible row is NaN-free: all zeros."""
    top = log_weights.max(-1, keepdims=True)
    top = np.where(np.isneginf(top), 0.0, top)
    weights = np.exp(log_weights - top)
    total = weights.sum(-1, keepdims=True)
    with np.errstate(divide="ignore"):
        return weights / np.where(total == 0, 1.0, total), (np.log(total) + top)[..., 0]


def log(probs: np.ndarray) -> np.ndarray:
    """Logarithms, minus infinity for zeros."""
    with np.errstate(divide="ignore"):
        return np.log(probs)
