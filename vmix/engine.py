"""What an engine is: a record of options with pure `init` and `step`; the driver in `vmix.fitting` does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from vmix.log_joint import Expected
from vmix.sharding import num_parts, split

if TYPE_CHECKING:
    from vmix.plan import Plan


class Data(NamedTuple):
    """The data of a fit, a pytree that is handed to every step.

    Attributes:
        args: the data arrays, each with N rows.
        labels: observed values of discrete sites (-1 where unknown), or messages about them; None without any.
        known: statistics and base measures of the compressed sites, where they are kept; None otherwise.
    """

    args: tuple
    labels: Mapping[str, Array] | None
    known: Mapping[str, tuple[Array, Array]] | None

    @property
    def num_rows(self) -> int:
        """N."""
        return self.args[0].shape[0]

    def take(self, index: Array) -> Data:
        """The rows at `index`."""
        labels = None if self.labels is None else {n: a[index] for n, a in self.labels.items()}
        known = None if self.known is None else {n: (t[index], h[index]) for n, (t, h) in self.known.items()}
        return split(Data(tuple(a[index] for a in self.args), labels, known))

    def rows(self, first: Array | int, size: int) -> Data:
        """`size` rows from `first` on; over several devices as many from each, which stay where they are."""
        parts = num_parts()
        if parts == 1 or self.num_rows % parts or size % parts:
            return split(jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, first, size), self))

        def of(a: Array) -> Array:
            apart = a.reshape(parts, -1, *a.shape[1:])
            there = jax.lax.dynamic_slice_in_dim(apart, first // parts, size // parts, 1)
            return there.reshape(size, *a.shape[1:])

        return split(jax.tree.map(of, self))


def shuffled_batches(num_rows: int, size: int, *, key: Array) -> Array:
    """Places of an epoch's rows, a minibatch a line, shape (num_rows // size, size); those left over sit it out."""
    steps = num_rows // size
    return jax.random.permutation(key, num_rows)[: steps * size].reshape(steps, size)


def sum_over_blocks(function: Callable[[Data], Any], data: Data, *, block_rows: int) -> Any:
    """Sum a function of the rows over blocks of the data, so that memory is bounded by the block.

    Args:
        function: from a block to a pytree of sums over its rows.
        data: the data.
        block_rows: rows a block; the last block takes what is left.

    Returns:
        The pytree summed over all rows.
    """
    block_rows -= block_rows % num_parts()
    num_blocks, left = divmod(data.num_rows, block_rows)
    if num_blocks <= 1:
        return function(data)

    def add(i: Array, total: Any) -> Any:
        return jax.tree.map(jnp.add, total, function(data.rows(i * block_rows, block_rows)))

    total = jax.lax.fori_loop(1, num_blocks, add, function(data.rows(0, block_rows)))
    if left:
        total = jax.tree.map(jnp.add, total, function(data.rows(num_blocks * block_rows, left)))
    return total


class Partial(NamedTuple):
    """What one chunk of the data adds to a sweep: sums over its rows.

    Attributes:
        expected: sums of statistics.
        log_evidence: sum of the log evidence (elbo) of its data, nats.
    """

    expected: Expected
    log_evidence: Array


class Start(NamedTuple):
    """Where a fit begins: values of the globals and the network parameters."""

    globals: dict[str, Array]
    params: dict[str, Any]


class Schedule(NamedTuple):
    """What varies over the steps: `beta` tempers the likelihood, `kl_weight` the divergence from the prior."""

    beta: Array
    kl_weight: Array


class Info(NamedTuple):
    """What a reader wants to see of one step.

    Attributes:
        objective: nats per datum.
        diagnostics: further scalars, by name.
        draws: draws of the globals, for engines that sample; empty otherwise.
    """

    objective: Array
    diagnostics: dict[str, Array]
    draws: dict[str, Array]


class Engine(Protocol):
    """A record of options with pure functions over a state pytree."""

    name: ClassVar[str]
    step_name: ClassVar[str]
    __dataclass_fields__: ClassVar[dict[str, Any]]

    # read only, so that frozen records are engines
    @property
    def restarts(self) -> int:
        """Starts to run; the best is kept."""

    @property
    def anneal(self) -> tuple[float, int] | None:
        """First beta, and the steps over which it rises to 1."""

    @property
    def tolerance(self) -> float | None:
        """The rise of the objective below which a fit may stop, nats per datum; None never stops early."""

    @property
    def num_steps_total(self) -> int:
        """How many steps the driver runs."""

    @property
    def num_states(self) -> int:
        """How many states run side by side: restarts or chains."""

    def check(self, plan: Plan, num_rows: int) -> None:
        """Refuse what cannot be done, before the first step."""

    def init(self, plan: Plan, start: Start, data: Data, *, key: Array) -> Any:
        """The first state."""

    def step(self, plan: Plan, state: Any, data: Data, schedule: Schedule) -> tuple[Any, Info]:
        """One sweep or step; jitted and looped by the driver."""

    def streams(self, plan: Plan) -> str:
        """How data on disk are read: "sweeps" (`reduce` each chunk, then `apply`) or "rows" (`step_rows`)."""

    def estimate_of(self, plan: Plan, state: Any) -> Start:
        """The point estimate that a state stands for."""

    def update_rule(self, plan: Plan, name: str) -> tuple[str, str]:
        """The update a site gets, and whether it is exact."""


@dataclass(frozen=True)
class Annealing:
    """A linear rise of `beta` from `first` to 1 over `steps` steps."""

    first: float = 1.0
    steps: int = 0

    def values(self, start: int, length: int) -> Array:
        """Beta at steps `start, ..., start + length - 1`."""
        t = start + np.arange(length)
        rise = np.clip(t / max(self.steps, 1), 0.0, 1.0) if self.steps else np.ones(length)
        return cast(Array, (self.first + (1.0 - self.first) * rise).astype(jnp.result_type(float)))


def check_ramp(option: str, steps: int | None, limit: str, total: int) -> None:
    """Refuse a ramp that is longer than the fit: what is returned would be of another objective than the one asked for.

    Args:
        option: the engine's option, for the message.
        steps: the ramp's length; None for no ramp.
        limit: the option that bounds it, for the message.
        total: steps of the fit.

    Raises:
        ValueError: naming both options.
    """
    if steps is not None and steps > total:
        raise ValueError(
            f"{option} ends after {steps} steps, beyond {limit}={total}: the fit would end before the objective is the "
            f"one asked for; raise {limit}, or end it earlier"
        )


def annealing(option: tuple[float, int] | None) -> Annealing:
    """Check the `anneal=` option.

    Raises:
        ValueError: if it is not `(first beta in (0, 1], number of steps)`.
    """
    if option is None:
        return Annealing()
    try:
        first, steps = option
    except (TypeError, ValueError) as error:
        raise ValueError(f"anneal must be (first_beta, num_steps), as (0.2, 80), found {option!r}") from error
    if not 0.0 < first <= 1.0 or int(steps) != steps or steps < 1:
        raise ValueError(f"anneal must be a first beta in (0, 1] and a whole number of steps, found {option!r}")
    return Annealing(float(first), int(steps))


def scaled(optimizer: optax.GradientTransformation, factor: float) -> optax.GradientTransformation:
    """An optimiser whose updates are `factor` times as large; its state is that of the optimiser."""

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(lambda u: factor * u, updates), state

    return optax.GradientTransformation(optimizer.init, update)
