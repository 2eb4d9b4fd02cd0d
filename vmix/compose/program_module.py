"""Any program with a discrete local site, as a module."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.compose.module import (
    CLASSES,
    CODES,
    VALUES,
    Belief,
    GraphError,
    Inputs,
    Module,
    from_below,
    log,
    normalised,
    potentials_for,
)
from vmix.compose.stepping import Stepper
from vmix.door import prepare
from vmix.engine import Data, Engine, Start
from vmix.families_protocol import Frame
from vmix.log_joint import Batch, batch_terms
from vmix.plan import Plan, bare_plan, template_of
from vmix.program import ProgramError
from vmix.same_program import check_same_program


class ProgramModule(Module):
    """A program of the user's own: data or codes come from upstream, and its discrete site is shared downstream.

    What the modules downstream say of the site enters the program as a factor. The program's own prior of the site
    stays in it, and is part of what it sends.

    Args:
        program: a NumPyro function of one array for each module upstream, or a record with `model`. Its likelihood
            given the discrete site is summed by `vmix`; it has no latent with an encoder.
        engine: `EM(...)`, `SVI(...)` or `Gibbs(...)`; restarts and annealing serve the first update alone.
        shares: the discrete site that modules downstream see.
        name: a name for files and messages.
        category: labels of the rows, for reporting only.
    """

    kind = "program"
    accepts = (VALUES, CODES)
    sends = CLASSES
    most_upstream = None

    def __init__(
        self, program: Any, engine: Engine, *, shares: str = "c", name: str | None = None, category: Any = None
    ) -> None:
        super().__init__(name=name, category=category)
        self.program, self.engine, self.shares = program, engine, shares
        self._stepper: Stepper | None = None
        self._start: Start | None = None
        self._plan: Plan | None = None

    @property
    def num_values(self) -> int | None:
        """K, known once the program was planned."""
        return None if self._plan is None else dict(self._plan.layout.discrete)[self.shares]

    def settings(self) -> dict[str, Any]:
        """What a network's file says of this module; the program and the engine are handed over again at loading."""
        plan = self.settled(self._plan)
        template = [[list(a.shape), str(a.dtype)] for a in plan.template]
        return {"name": self.name, "shares": self.shares, "program": plan.program.name, "template": template}

    def state(self) -> dict[str, Any]:
        """The arrays to go on from: globals, networks, and the frames of the data."""
        start, plan = self.settled(self._start), self.settled(self._plan)
        frames = {n: {"shift": np.asarray(f.shift), "scale": np.asarray(f.scale)} for n, f in plan.frames.items()}
        return {"globals": start.globals, "params": start.params, "frames": frames}

    def restore(self, settings: dict[str, Any], state: dict[str, Any]) -> None:
        """Take up what `settings` and `state` said.

        Raises:
            GraphError: for another program's state.
            ProgramError: for a program of the same name with other globals or networks.
        """
        template = template_of(settings["template"])
        frames = {n: Frame(jnp.asarray(f["shift"]), jnp.asarray(f["scale"])) for n, f in state["frames"].items()}
        plan = bare_plan(prepare(self.program, template), template, frames=frames, updates={}, missing=False)
        if plan.program.name != settings["program"] or self.shares != settings["shares"]:
            raise GraphError(
                f"module {settings['name']} was saved with the program {settings['program']} sharing site "
                f"{settings['shares']!r}; the one given has {plan.program.name} sharing {self.shares!r}"
            )
        where = f"module {settings['name']} of the saved network"
        check_same_program(plan, state["globals"], state["params"], where=where, draws=False)
        self._plan = plan
        self._start = jax.tree.map(jnp.asarray, Start(state["globals"], state["params"]))
        self.params = {n: np.asarray(v) for n, v in state["globals"].items()}

    def learn(self, inputs: Inputs, seed: int) -> None:
        """Run the engine, with what came from below as a factor."""
        arrays = tuple(np.asarray(inputs[m]) for m in self.upstream)
        if self._stepper is None or self._stepper.num_rows != len(arrays[0]):
            self._stepper = Stepper(self.program, self.engine, arrays, kl_weight=1.0, seed=seed)
            self._plan = self._stepper.plan
            self._check_site(self._plan)
        below = from_below(self, inputs)
        labels = None if below is None else {self.shares: jnp.asarray(below, jnp.float32)}
        if labels is None and self.downstream:
            labels = {self.shares: jnp.zeros((len(arrays[0]), self.num_values))}  # one shape, one compilation
        data = Data(tuple(map(jnp.asarray, arrays)), labels, None)
        self._start, _ = self._stepper.run(data, self._start, seed=seed)
        self.params = dict(self._start.globals)

    def _check_site(self, plan: Plan) -> None:
        if [name for name, _ in plan.layout.discrete] != [self.shares] or plan.layout.num_steps or plan.latents:
            raise ProgramError(
                f"module {self.name} shares site {self.shares!r}, but program {plan.program.name} has the discrete "
                f"sites {[n for n, _ in plan.layout.discrete]}; a module's program has that one discrete site, one "
                "value a row, and no encoder"
            )

    def infer(self, inputs: Inputs) -> Belief:
        """Responsibilities given the data from above and the messages from below."""
        evidence = self._evidence(inputs)
        below = from_below(self, inputs)
        value, total = normalised(evidence if below is None else evidence + below)
        return Belief(value, evidence, float(total.mean()))

    def _evidence(self, inputs: Inputs) -> np.ndarray:
        """log p(c = k) p(data | c = k), shape (N, K)."""
        arrays = tuple(jnp.asarray(inputs[m]) for m in self.upstream)
        start = self.settled(self._start)
        return np.asarray(self._look(start.globals, start.params, arrays), np.float64)

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """Log potentials of the shared site: all that is known of it but what `other` itself said.

        Raises:
            GraphError: for a module upstream, which a program of the user's own has no message for.
        """
        if other in self.upstream:
            raise GraphError(f"{self.name} sends nothing upstream; a GMM sends means to a VAE")
        if self.messages == "serket":
            return log(belief.value)
        return potentials_for(self, belief, inputs, other)

    @cached_property
    def _look(self) -> Any:
        plan = self.settled(self._plan)
        return jax.jit(lambda globals_, params, args: log_evidence(plan, globals_, params, args))


def log_evidence(plan: Plan, globals_: dict, params: dict, args: tuple, known: Any = None) -> Array:
    """log p(c = k) p(data | c = k) of each datum, base measures and shared terms included, nats, shape (N, K)."""
    terms, _ = batch_terms(plan, globals_, params, Batch(args, {}, {}, None, known))
    matrix = terms.log_prior + terms.likelihood() + terms.base()[:, None]
    return jnp.broadcast_to(matrix, (args[0].shape[0], plan.layout.num_states))
