"""A network of modules: fitted in rounds of messages, and asked about new data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vmix.checks import as_data, check_positive_int, check_same_length, check_seed
from vmix.compose.module import CLASSES, Belief, GraphError, Module, Observation, ancestors
from vmix.lapack import one_blas_thread
from vmix.progress import Progress

STILL = 1e-4


class Network:
    """Modules joined by shared variables; any directed graph without cycles.

    Args:
        *modules: connected modules; those upstream of them belong to the network as well.
        messages: "cavity", each message without what its receiver said, or "serket", the original's arithmetic: the
            receiver's own evidence comes back to it, and a chain looks one step ahead. For comparison only.

    Example:
        >>> x = np.repeat([[0.0, 0.0], [9.0, 9.0]], 20, axis=0) + np.random.default_rng(0).normal(size=(40, 2))
        >>> from vmix.compose import GMM, Observation
        >>> gmm = GMM(2, restarts=2, sweeps=10)
        >>> gmm.connect(Observation(x))
        >>> Network(gmm).fit(rounds=1, progress=False)
        >>> sorted(np.bincount(gmm.predict()).tolist())
        [20, 20]
    """

    def __init__(self, *modules: Module, messages: str = "cavity") -> None:
        if messages not in ("cavity", "serket"):
            raise ValueError(f'messages must be "cavity" or "serket", found {messages!r}')
        if not modules:
            raise GraphError("a network needs at least one module: Network(vae, gmm)")
        for module in modules:
            if not isinstance(module, Module):
                raise TypeError(f"Network takes modules, found {type(module).__name__}")
            if not module.upstream and not isinstance(module, Observation):
                raise GraphError(f"{module.name} is not connected; call {module.name}.connect(...) first")
        found = set(modules).union(*(ancestors(m) for m in modules))
        self.modules = topological(found)
        strangers = {m for module in found for m in module.downstream} - found
        if strangers:
            raise GraphError(
                f"{sorted(m.name for m in strangers)} are connected to modules of this network; name them as well"
            )
        self._name_apart()
        self.messages = messages
        for module in self.modules:
            module.messages = messages
        self.rounds = 0

    def _name_apart(self) -> None:
        seen: dict[str, int] = {}
        for module in self.modules:
            count = seen[module.name] = seen.get(module.name, 0) + 1
            if count > 1:
                module.name = f"{module.name}{count}"

    @property
    def observations(self) -> list[Observation]:
        """The data of the network, in graph order."""
        return [m for m in self.modules if isinstance(m, Observation)]

    @property
    def learners(self) -> list[Module]:
        """The modules that learn, upstream first."""
        return [m for m in self.modules if not isinstance(m, Observation)]

    def __getitem__(self, name: str) -> Module:
        """The module of a name."""
        for module in self.modules:
            if module.name == name:
                return module
        raise KeyError(f"no module {name!r}; the network has {[m.name for m in self.modules]}")

    def fit(self, *, rounds: int = 5, seed: int = 0, progress: bool | None = None, folder: Any = None) -> None:
        """Visit every module once a round, upstream first; stop early where nothing moves any more.

        Args:
            rounds: at most so many.
            seed: a whole number.
            progress: whether to show a progress line; by default where standard error is a terminal.
            folder: where to write each round's files as it ends; None writes none.
        """
        check_positive_int(rounds, "rounds")
        check_seed(seed)
        learners = self.learners
        with one_blas_thread(), Progress(rounds * len(learners), "module", enabled=progress) as bar:
            for r in range(rounds):
                before = self._state()
                for i, module in enumerate(learners):
                    module.update(seed=seed + self.rounds)
                    done = r * len(learners) + i + 1
                    objective = module.settled(module.belief).objective
                    bar.update(done, objective, f"nats per datum, {module.name}, round {r + 1}")
                self.rounds += 1
                if folder is not None:
                    from vmix.compose.recording import write_round

                    write_round(self, Path(folder), self.rounds)
                after = self._state()
                if before is None or after is None:
                    continue
                if all(_is_still(a, b) for a, b in zip(before, after, strict=True)):
                    break

    def _state(self) -> list[tuple[float, np.ndarray]] | None:
        """Objectives and beliefs, of which all messages are functions."""
        beliefs = [m.belief for m in self.learners]
        known = [(belief.objective, belief.value) for belief in beliefs if belief is not None]
        return known if len(known) == len(beliefs) else None

    def recognise(self, *data: Any, rounds: int = 2) -> dict[str, Belief]:
        """What the modules think of new data, parameters fixed.

        Messages go down the graph and back up `rounds` times; in a tree of discrete modules two are exact.

        Args:
            *data: one array for each observation, in graph order (`observations`); None where a modality is missing.
            rounds: passes.

        Returns:
            Beliefs by module name.

        Raises:
            GraphError: before the first update of every module.
            ValueError: for another number of arrays, none at all, or rows that differ.
        """
        beliefs, _ = self._pass(data, rounds)
        return {m.name: beliefs[m] for m in self.modules if beliefs[m] is not None}

    def predict(self, module: Module | str, *data: Any, rounds: int = 2) -> np.ndarray:
        """Classes (N,) or codes of a module for new data; of an observation, what the others expect it to be.

        Args:
            module: a module, or its name.
            *data: one array for each observation, in graph order; None where a modality is missing.
            rounds: passes of messages.

        Returns:
            Shape (N,) for classes; (N, d) for codes, mean images, or expected shares of counts.
        """
        module = self[module] if isinstance(module, str) else module
        beliefs, inputs = self._pass(data, rounds)
        if not isinstance(module, Observation):
            return beliefs[module].value.argmax(1) if module.sends == CLASSES else beliefs[module].value
        receiver = module.downstream[0]
        return receiver.send(beliefs[receiver], inputs[receiver], module)

    def _pass(self, data: tuple, rounds: int) -> tuple[dict, dict]:
        beliefs: dict[Module, Belief | None] = dict.fromkeys(self.modules)
        beliefs |= self._observed(data)
        if any(m.params is None for m in self.learners):
            raise GraphError("the network was not fitted; call fit(...), or update() of every module, first")
        inputs: dict[Module, dict] = {m: {} for m in self.modules}

        def receive(module: Module) -> dict[Module, np.ndarray | None]:
            neighbours = [*module.upstream, *module.downstream]
            return {n: None if (b := beliefs[n]) is None else n.send(b, inputs[n], module) for n in neighbours}

        for _ in range(rounds):
            for module in [*self.learners, *reversed(self.learners)]:
                found = receive(module)
                if any(v is not None for v in found.values()):
                    inputs[module] = found
                    beliefs[module] = module.infer(found)
        return beliefs, inputs

    def _observed(self, data: tuple) -> dict[Module, Belief | None]:
        observations = self.observations
        names = [m.name for m in observations]
        if len(data) != len(names):
            raise ValueError(f"{len(data)} array(s) given; the network observes {names}: give None for a missing one")
        arrays = {m: as_data(a, name=m.name) for m, a in zip(observations, data, strict=True) if a is not None}
        if not arrays:
            raise ValueError(f"every modality of {names} is missing; give at least one array")
        check_same_length(list(arrays.values()), [m.name for m in arrays])
        return {m: Belief(a, None, 0.0) for m, a in arrays.items()}

    def save(self, folder: Any) -> None:
        """Save graph, options and parameters; the data and the beliefs about them are left out."""
        from vmix.compose.saving import save_network

        save_network(self, folder)

    def write(self, folder: Any) -> None:
        """Write what the modules hold now: latents, classes, accuracy, history, parameters, pictures."""
        from vmix.compose.recording import write_round

        write_round(self, Path(folder), max(self.rounds, 1))

    def draw(self, path: Any) -> None:
        """Draw the graph of modules into a picture."""
        from vmix.compose.recording import draw_graph

        draw_graph(self, Path(path))


def topological(modules: set[Module]) -> list[Module]:
    """Observations first, then every module after those upstream of it, in order of creation where free."""
    ordered: list[Module] = sorted((m for m in modules if isinstance(m, Observation)), key=lambda m: m.order)
    left = sorted(modules - set(ordered), key=lambda m: m.order)
    while left:
        ready = next(m for m in left if set(m.upstream) <= set(ordered))
        ordered.append(ready)
        left.remove(ready)
    return ordered


def _is_still(before: tuple, after: tuple) -> bool:
    same = before[1].shape == after[1].shape
    return same and abs(before[0] - after[0]) < STILL and float(np.abs(before[1] - after[1]).max()) < STILL
