"""The MM module: rows follow one another, and each class leads to the next.

    p   ~ Dirichlet(1 + alpha, ..., 1 + alpha)
    A_k ~ Dirichlet(1 + alpha, ..., 1 + alpha)
    c_1, ..., c_N ~ MarkovChain(p, A)             c: the classes of the module upstream, in the order of the rows

Its evidence is what upstream sends, as unary potentials; EM takes P(k' | k) = (N_kk' + alpha) / (sum N_k + K alpha), N
the expected counts of moves. The message back is p(c_n | the evidence of all other rows).
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.checks import check_positive_int
from vmix.compose.mixture import ENGINE, GMM, Climb, betas, together
from vmix.compose.module import (
    CLASSES,
    Belief,
    GraphError,
    Inputs,
    Module,
    from_above,
    from_below,
    log,
    normalised,
)
from vmix.distributions.chain_recursions import Chain, run
from vmix.engine import Data
from vmix.inference import EM
from vmix.numerics import safe_log
from vmix.plan import Plan


class Chained(NamedTuple):
    """What a chain says of its steps, batch leading.

    Attributes:
        log_total: log evidence, nats, shape (B,).
        cavity: log p(c_t = k | the evidence of all other steps), up to a constant of the step, shape (B, T, K).
        initial: expected count of the first state, shape (B, K).
        moves: expected counts of moves, shape (B, K, K).
    """

    log_total: Array
    cavity: Array
    initial: Array
    moves: Array


def along_chain(initial: Array, transition: Array, unary: Array) -> Chained:
    """Pass messages along chains of T steps.

    Args:
        initial: p(c_1 = k), shape (B, K).
        transition: p(c_{t+1} = j | c_t = i) at [b, i, j], shape (B, K, K).
        unary: log potentials, nats, shape (B, T, K).

    Returns:
        Messages and statistics; the cavity is computed without the step's own evidence, so nothing is divided out.
    """
    inward = partial(jnp.moveaxis, source=0, destination=-1)
    chain = Chain(safe_log(inward(initial)), safe_log(inward(transition)))

    def reduce(arithmetic: Any, messages: Any, total: Array) -> tuple[Array, Array, Array]:
        return total, arithmetic.to_log(messages.forward), arithmetic.to_log(messages.backward)

    total, forward, backward = run(chain, inward(unary), "auto", reduce, both=True)
    forward, backward = jnp.moveaxis(forward, -1, 0), jnp.moveaxis(backward, -1, 0)
    forward = forward.at[:, 0].set(safe_log(initial))
    cavity = forward + backward
    filtered = jax.nn.softmax(forward + unary, -1)
    ahead = jax.nn.softmax(backward + unary, -1)
    passed = jnp.einsum("bti,bij,btj->bt", filtered[:, :-1], transition, ahead[:, 1:])
    share = ahead[:, 1:] / jnp.where(passed == 0, 1.0, passed)[..., None]
    moves = transition * jnp.einsum("bti,btj->bij", filtered[:, :-1], share)
    return Chained(total, cavity, jax.nn.softmax(cavity[:, 0] + unary[:, 0], -1), moves)


def chain_sweep(chain: tuple[Array, Array], unary: Array, alpha: float) -> tuple[tuple[Array, Array], Chained]:
    """One sweep of EM on initial and transition probabilities; messages are those before the update."""
    found = along_chain(*chain, unary)
    initial, transition = (n + alpha for n in (found.initial, found.moves))
    # a state that is never left keeps its row
    total = transition.sum(-1, keepdims=True)
    transition = jnp.where(total > 0, transition / jnp.where(total > 0, total, 1.0), chain[1])
    return (initial / initial.sum(-1, keepdims=True), transition), found


class MM(Module):
    """Markov model as a module.

    Args:
        alpha: count added to every move.
        num_components: K; None takes that of the module upstream.
        restarts: at the first update below a GMM that nothing else is below of, the two are fitted together from so
            many random starts, a message up and a message down at each annealed sweep, and the likeliest pair is kept;
            0 leaves that out.
        sweeps: of EM at an update.
        name: a name for files and messages.
        category: labels of the rows, for reporting only.
    """

    kind = "mm"
    accepts = (CLASSES,)
    sends = CLASSES

    def __init__(
        self,
        alpha: float = 1.0,
        *,
        num_components: int | None = None,
        restarts: int = 16,
        sweeps: int = 100,
        name: str | None = None,
        category: Any = None,
    ) -> None:
        super().__init__(name=name, category=category)
        if not alpha >= 0:
            raise ValueError(f"alpha must be at least 0, found {alpha!r}")
        check_positive_int(sweeps, "sweeps")
        self.alpha, self.restarts, self.sweeps, self._size = float(alpha), restarts, sweeps, num_components

    @property
    def num_values(self) -> int | None:
        """K."""
        return self._size or (self.upstream[0].num_values if self.upstream else None)

    def _check_support(self, module: Module) -> None:
        if self._size and module.num_values and module.num_values != self._size:
            raise GraphError(
                f"{module.name} sends messages about {module.num_values} classes, but {self.name} has "
                f"{self._size}; give both the same number, or leave num_components of {self.name} out"
            )

    def settings(self) -> dict[str, Any]:
        """The options to make this module again."""
        own = {n: getattr(self, n) for n in ("alpha", "restarts", "sweeps", "name")}
        return own | {"num_components": self.num_values}

    def learn(self, inputs: Inputs, seed: int) -> None:
        """EM on the chain; the first time together with the module upstream, from many starts."""
        above = self.upstream[0]
        if self.params is None and self.restarts and isinstance(above, GMM) and len(above.downstream) == 1:
            self._learn_together(above, seed)
            self.inputs = self.receive()
            inputs = self.inputs
        unary = jnp.asarray(self._unary(inputs), jnp.float32)
        chain = self._chain()
        for _ in range(2 if self.messages == "serket" else self.sweeps):
            new, _ = _SWEEP(chain, unary[None], self.alpha)
            moved = float(jnp.abs(new[1] - chain[1]).max())
            chain = new
            if moved < 1e-5:
                break
        self._keep(chain, 0)

    def _learn_together(self, mixture: GMM, seed: int) -> None:
        """Restarts of the pair by messages; the mixture takes over its part of the likeliest."""
        data = mixture.take(from_above(mixture, mixture.inputs))
        starts, first = mixture.starts(data, self.restarts, seed)
        plan = mixture.plan_of(data.args[0].shape[1])
        climb, chain = _TOGETHER(plan, ENGINE, starts, data, betas(self.sweeps, first), self.alpha)
        mixture.keep(climb)
        self._keep(chain, int(np.argmax(np.nan_to_num(np.asarray(climb.objective), nan=-np.inf))))
        mixture.belief = mixture.infer(mixture.inputs)

    def _chain(self) -> tuple[Array, Array]:
        if self.params is None:
            k = self.settled(self.num_values)
            return jnp.full((1, k), 1.0 / k), jnp.full((1, k, k), 1.0 / k)
        initial, transition = (jnp.asarray(self.params[n], jnp.float32)[None] for n in ("initial", "transition"))
        return initial, transition

    def _keep(self, chain: tuple[Array, Array], best: int) -> None:
        self.params = {n: np.asarray(a[best]) for n, a in zip(("initial", "transition"), chain, strict=True)}

    def _unary(self, inputs: Inputs) -> np.ndarray:
        found = [m for m in (inputs[self.upstream[0]], from_below(self, inputs)) if m is not None]
        if not found:
            raise GraphError(f"{self.name} received no message from any side; give at least one observation")
        return sum(found[1:], found[0])

    def infer(self, inputs: Inputs) -> Belief:
        """Posterior marginals of the chain, and the cavity of each row."""
        unary = self._unary(inputs)
        found = _ALONG(*self._chain(), jnp.asarray(unary, jnp.float32)[None])
        cavity = np.asarray(found.cavity[0], np.float64)
        cavity -= cavity.max(-1, keepdims=True)
        value, _ = normalised(cavity + unary)
        return Belief(value, unary, float(found.log_total[0]) / len(unary), {"cavity": cavity})

    def send(self, belief: Belief, inputs: Inputs, other: Module) -> np.ndarray:
        """log p(c_n = k | all other rows), and what others than `other` said of row n itself.

        In the manner of the original, one step from the responsibilities of the row before, without smoothing.
        """
        if self.messages == "serket":
            before, _ = normalised(from_above(self, inputs))
            ahead = before[:-1] @ self.settled(self.params)["transition"]
            return log(np.concatenate([np.full_like(ahead[:1], 1.0 / ahead.shape[1]), ahead]))
        if other in self.upstream:
            below = from_below(self, inputs)
            return belief.details["cavity"] if below is None else belief.details["cavity"] + below
        above, below = inputs[self.upstream[0]], from_below(self, inputs, but=other)
        return sum((m for m in (above, below) if m is not None), belief.details["cavity"])


def with_chain(
    plan: Plan, engine: EM, starts: Array, data: Data, betas: Array, alpha: float
) -> tuple[Climb, tuple[Array, Array]]:
    """Mixture and chain together, from flat chains; see `together`."""
    runs, _, k = starts.shape

    def below(i: Array, chain: tuple, evidence: Array) -> tuple[tuple, Array, Array]:
        chain, found = chain_sweep(chain, evidence, alpha)
        return chain, found.cavity, found.log_total / data.num_rows

    chain = jnp.full((runs, k), 1.0 / k), jnp.full((runs, k, k), 1.0 / k)
    return together(plan, engine, starts, data, betas, chain, below)


_ALONG, _SWEEP = jax.jit(along_chain), jax.jit(chain_sweep)
_TOGETHER = jax.jit(with_chain, static_argnums=(0, 1))
