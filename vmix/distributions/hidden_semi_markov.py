"""The semi-Markov chain as a NumPyro distribution: states with explicit durations, and exact inference given evidence.

    k_1 ~ Categorical(initial)
    k_{s+1} ~ Categorical(transition[k_s])    never k_s itself
    d_s ~ Categorical(duration[k_s])          the steps that segment s lasts, 1..D

The value is `k_1` for `d_1` steps, `k_2` for `d_2` steps and so on, cut off after T steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vmix.distributions import segment_paths, segment_recursions
from vmix.distributions.parameters import (
    broadcast,
    check_mask_shape,
    check_mask_values,
    check_num_steps,
    check_rows,
    inward,
    outward,
)
from vmix.distributions.segment_recursions import Segments, log_tail
from vmix.distributions.structured import Posterior, StructuredDiscrete
from vmix.numerics import safe_log


class HiddenSemiMarkov(StructuredDiscrete):
    """A chain of `T` steps over `K` states, each of which lasts 1 to `D` steps before another one follows.

    A value is the state at each step, as a `MarkovChain`'s. No state follows itself, so runs of equal states are the
    segments. The sequence begins with a segment. Its end may cut the last one off, whose factor is then
    `p(duration >= the steps seen)`: the duration itself is a hidden variable, summed out.

    Potentials and statistics have three entries: `"initial"` and `"transition"`, the log probabilities and counts of
    first states and of moves between different states (the diagonal is minus infinity, and 0), and `"duration"`, those
    of durations. The last segment's counts by its full duration: `statistics` and `posterior` spread it over
    `d >= the steps seen` in proportion to `duration_probs`, `sample_statistics` draws it.

    A step costs `K (K + D)`; posteriors keep `T K D` numbers a sequence.

    Args:
        initial_probs: `p(c_1 = k)`, shape `(*batch, K)`, K at least 2.
        transition_probs: `p(next state is j | k)` at [k, j], shape `(*batch, K, K)`, rows with sum one and zeros on the
            diagonal; `vmix.priors.without_self_moves` makes them. Where JAX traces it and cannot check it, what stands
            on the diagonal is not read.
        duration_probs: `p(k lasts d steps)` at [k, d - 1], shape `(*batch, K, D)`, rows with sum one.
        num_steps: `T`.
        mask: Boolean, shape `(*batch, T)`, True where a step exists: first all that do, then all that do not. A
            sequence is cut off after its last existing step. Absent steps count nowhere: their evidence is not read,
            their marginals and their values are 0. None where all exist.
        validate_args: Check the values as well as the shapes, as far as they are concrete.

    Raises:
        ValueError: Shapes do not fit together; the diagonal is not zero; `mask` has a gap; with `validate_args`, rows
            are not probabilities.

    Example:
        >>> switch = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> chain = HiddenSemiMarkov(jnp.array([1.0, 0.0]), switch, jnp.array([[0.0, 1.0], [0.5, 0.5]]), 4)
        >>> chain.mode(jnp.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 3.0]])).tolist()
        [0, 0, 1, 1]

    Source: Yu (2010), Hidden semi-Markov models, explicit durations; the end of the sequence censors on the right.
    """

    arg_constraints = {
        "initial_probs": constraints.simplex,
        "transition_probs": constraints.independent(constraints.simplex, 1),
        "duration_probs": constraints.independent(constraints.simplex, 1),
    }
    pytree_data_fields = ("initial_probs", "transition_probs", "duration_probs", "present")
    pytree_aux_fields = ("num_steps",)

    def __init__(
        self,
        initial_probs: jax.Array,
        transition_probs: jax.Array,
        duration_probs: jax.Array,
        num_steps: int,
        *,
        mask: jax.Array | None = None,
        validate_args: bool | None = None,
    ) -> None:
        self.initial_probs = jnp.asarray(initial_probs)
        self.transition_probs = jnp.asarray(transition_probs)
        self.duration_probs = jnp.asarray(duration_probs)
        # `Distribution.mask` is a method
        self.present = None if mask is None else jnp.asarray(mask)
        self.num_steps = num_steps
        self._check_shapes()
        masked = () if self.present is None else self.present.shape[:-1]
        batch = broadcast("the batch of the mask", masked, "the parameters'", self._parameter_batch())
        if validate_args is not False:
            check_mask_values(self.present)
            self._check_diagonal()
        super().__init__(batch, (num_steps,), validate_args=validate_args)

    def _check_shapes(self) -> None:
        check_num_steps(self.num_steps, "a semi-Markov chain")
        if self.initial_probs.ndim == 0 or self.initial_probs.shape[-1] < 2:
            raise ValueError(
                f"initial_probs has shape {self.initial_probs.shape}; it needs (*batch, K), one probability a state, "
                "and at least two states: each is followed by another one"
            )
        num_states = self.initial_probs.shape[-1]
        if self.transition_probs.shape[-2:] != (num_states, num_states):
            raise ValueError(
                f"transition_probs has shape {self.transition_probs.shape}; with initial_probs of {num_states} states "
                f"it needs (*batch, {num_states}, {num_states}); vmix.priors.without_self_moves makes it of "
                f"(*batch, {num_states}, {num_states - 1})"
            )
        durations = self.duration_probs.shape
        if len(durations) < 2 or durations[-2] != num_states or durations[-1] == 0:
            raise ValueError(
                f"duration_probs has shape {durations}; with initial_probs of {num_states} states it needs (*batch, "
                f"{num_states}, D), the probabilities of 1 to D steps"
            )
        check_mask_shape(self.present, self.num_steps)

    def _check_diagonal(self) -> None:
        if isinstance(self.transition_probs, jax.core.Tracer):
            return
        diagonal = np.diagonal(np.asarray(self.transition_probs), axis1=-2, axis2=-1)
        if np.any(diagonal != 0):
            raise ValueError(
                f"transition_probs has {np.max(np.abs(diagonal)):.3g} on the diagonal; expected zeros, because a state "
                "is followed by another one and how long it stays is in duration_probs: use "
                "vmix.priors.without_self_moves, or a MarkovChain"
            )

    def validate_args(self, strict: bool = True) -> None:
        """Check that rows are probabilities, as far as they are concrete; `strict` refuses values that are not."""
        for name in ("initial_probs", "transition_probs", "duration_probs"):
            check_rows(name, getattr(self, name), strict=strict)

    def _parameter_batch(self) -> tuple[int, ...]:
        states, moves = self.initial_probs.shape[:-1], self.transition_probs.shape[:-2]
        both = broadcast("the batch of initial_probs", states, "transition_probs'", moves)
        return broadcast("the batch of duration_probs", self.duration_probs.shape[:-2], "the other parameters'", both)

    @property
    def num_values(self) -> int:
        """The number of states `K`."""
        return self.initial_probs.shape[-1]

    def potentials(self) -> dict[str, jax.Array]:
        """Return the logarithms of the three parameters, in their shapes."""
        self_moves = jnp.eye(self.num_values, dtype=bool)
        return {
            "initial": safe_log(self.initial_probs),
            "transition": jnp.where(self_moves, -jnp.inf, safe_log(self.transition_probs)),
            "duration": safe_log(self.duration_probs),
        }

    def _segments(self, potentials: dict[str, jax.Array], batch: tuple[int, ...], dtype: jnp.dtype) -> Segments:
        """Lay the log parameters out for the recursions; they keep one column where the batch shares them."""
        own = batch if self._parameter_batch() else ()
        tails = {"initial": 1, "transition": 2, "duration": 2}
        columns = {name: inward(potentials[name].astype(dtype), own, num_tail) for name, num_tail in tails.items()}
        present = None if self.present is None else inward(self.present, batch, 1)
        initial, transition, duration = (columns[name] for name in tails)
        return Segments(initial, transition, duration, log_tail(duration), present)

    def _enter(self, unary: jax.Array) -> tuple[jax.Array, tuple[int, ...]]:
        """Broadcast the evidence to the whole batch, `(*batch, T, K)`, with nothing at absent steps."""
        unary = jnp.asarray(unary)
        if unary.shape[-2:] != (self.num_steps, self.num_values):
            raise ValueError(
                f"unary has shape {unary.shape}; this chain of {self.num_steps} steps and {self.num_values} states "
                f"needs (*batch, {self.num_steps}, {self.num_values}), log potentials at [..., t, k]"
            )
        batch = broadcast("the batch of unary", unary.shape[:-2], "the chain's", self.batch_shape)
        if self.present is not None:
            unary = jnp.where(self.present[..., None], unary, 0)
        dtype = jnp.result_type(unary, *self.potentials().values())
        return jnp.broadcast_to(unary, batch + unary.shape[-2:]).astype(dtype), batch

    def _total(self, potentials: dict[str, jax.Array], unary: jax.Array) -> jax.Array:
        batch = unary.shape[:-2]
        segments = self._segments(potentials, batch, unary.dtype)
        return segment_recursions.log_normalizer(segments, inward(unary, batch, 2)).reshape(batch)

    def log_normalizer(self, unary: jax.Array) -> jax.Array:
        """Return `log sum_c p(c) exp(sum_t unary[t, c_t])`; see `StructuredDiscrete`."""
        return self._total(self.potentials(), self._enter(unary)[0])

    def posterior(self, unary: jax.Array) -> Posterior:
        """Run forward and back: marginals and statistics are the log-normaliser's gradient."""

        def total(potentials: dict[str, jax.Array], unary: jax.Array) -> tuple[jax.Array, jax.Array]:
            each = self._total(potentials, unary)
            return jnp.sum(each), each

        unary, _ = self._enter(unary)
        gradient = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)
        (_, each), (statistics, marginals) = gradient(self.potentials(), unary)
        marginals = marginals if self.present is None else jnp.where(self.present[..., None], marginals, 0)
        return Posterior(each, marginals, statistics)

    def _with_evidence(self, unary: jax.Array) -> tuple[Segments, jax.Array, tuple[int, ...]]:
        unary, batch = self._enter(unary)
        return self._segments(self.potentials(), batch, unary.dtype), inward(unary, batch, 2), batch

    def sample_posterior(self, key: jax.Array, unary: jax.Array) -> jax.Array:
        """Filter forward, sample backward; see `StructuredDiscrete`."""
        return self.sample_with_total(key, unary)[0]

    def sample_with_total(self, key: jax.Array, unary: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Filter forward, which gives the log-normaliser too, sample backward; see `StructuredDiscrete`."""
        segments, unary, batch = self._with_evidence(unary)
        path, total = segment_paths.sample_posterior(key, segments, unary)
        return outward(path, batch), total.reshape(batch)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw from the prior, shape `(*sample_shape, *batch_shape, T)`, int32; 0 at absent steps."""
        batch = tuple(sample_shape) + self.batch_shape
        return self.sample_posterior(key, jnp.zeros((*batch, self.num_steps, self.num_values)))

    def mode(self, unary: jax.Array) -> jax.Array:
        """Return the most probable path (Viterbi), whatever the last segment's duration; see `StructuredDiscrete`."""
        segments, unary, batch = self._with_evidence(unary)
        return outward(segment_paths.mode(segments, unary), batch)

    def filtered(self, unary: jax.Array) -> jax.Array:
        """Return `p(c_t = k | unary_1..t)`, shape `(*batch, T, K)`; 0 at absent steps."""
        segments, unary, batch = self._with_evidence(unary)
        filtered = outward(segment_recursions.filtered(segments, unary), batch)
        return filtered if self.present is None else jnp.where(self.present[..., None], filtered, 0)

    def _with_path(self, value: jax.Array) -> tuple[Segments, jax.Array, tuple[int, ...]]:
        value, potentials = jnp.asarray(value), self.potentials()
        batch = broadcast("the batch of value", value.shape[:-1], "the chain's", self.batch_shape)
        segments = self._segments(potentials, batch, jnp.result_type(*potentials.values()))
        return segments, inward(value.astype(jnp.int32), batch, 1), batch

    @validate_sample
    def log_prob(self, value: jax.Array, intermediates: list | None = None) -> jax.Array:
        """Return the log probability of the states, shape `(*batch,)`, nats."""
        segments, path, batch = self._with_path(value)
        return segment_paths.log_probability(segments, path).reshape(batch)

    def statistics(self, value: jax.Array) -> dict[str, jax.Array]:
        """Count first states, moves and durations in `value`, the last duration in expectation."""
        return self._counts(value, None)

    def sample_statistics(self, key: jax.Array, value: jax.Array) -> dict[str, jax.Array]:
        """Count first states, moves and durations in `value`, the last duration drawn given the steps seen."""
        return self._counts(value, key)

    def _counts(self, value: jax.Array, key: jax.Array | None) -> dict[str, jax.Array]:
        segments, path, batch = self._with_path(value)
        counts = segment_paths.counts(segments, path, key)
        # the transpose of laying out sums over whatever shares a parameter
        dtype = segments.log_initial.dtype
        gather = jax.vjp(lambda potentials: self._segments(potentials, batch, dtype)[:3], self.potentials())[1]
        return gather(counts[:3])[0]
