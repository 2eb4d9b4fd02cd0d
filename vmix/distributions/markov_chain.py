"""The Markov chain as a NumPyro distribution, with exact inference given evidence at each step."""

import math

import jax
import jax.numpy as jnp
from numpyro.distributions import constraints
from numpyro.distributions.util import validate_sample

from vmix.distributions import chain_paths, chain_posterior
from vmix.distributions.chain_recursions import Chain
from vmix.distributions.parameters import (
    broadcast,
    check_mask_shape,
    check_mask_values,
    check_num_steps,
    check_rows,
    inward,
    outward,
)
from vmix.distributions.structured import Posterior, StructuredDiscrete
from vmix.numerics import safe_log

METHODS = ("auto", "sequential", "associative")


def _sum_to(array: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Sum over the axes along which `shape` was broadcast."""
    array = array.reshape((1,) * (len(shape) - array.ndim) + array.shape)
    array = jnp.sum(array, axis=tuple(range(array.ndim - len(shape))))
    spread = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] != 1)
    return jnp.sum(array, axis=spread, keepdims=True)


class MarkovChain(StructuredDiscrete):
    """A Markov chain of `T` steps over `K` states.

    `c_1 ~ Categorical(initial_probs)`, `c_{t+1} ~ Categorical(transition_probs[c_t])`.

    Potentials and statistics have two entries: `"initial"`, the log probability and the count of each first state, and
    `"transition"`, those of each pair of successive states.

    Args:
        initial_probs: `p(c_1 = k)`, shape `(*batch, K)`.
        transition_probs: `p(c_{t+1} = j | c_t = i)` at [i, j], shape `(*batch, K, K)`, each row with sum one; with
            `time_varying` one matrix a move, shape `(*batch, T-1, K, K)`.
        num_steps: `T`.
        mask: Boolean, shape `(*batch, T)`, True where a step exists: first all that do, then all that do not. Absent
            steps count nowhere: their evidence is not read, their marginals and their values are 0. A sequence may
            have no step at all. None where all exist.
        time_varying: Whether `transition_probs` has an axis of moves.
        method: `"sequential"` runs over the steps, `"associative"` combines them in pairs, in parallel; `"auto"`
            chooses by the device and the sizes.
        validate_args: Check the values as well as the shapes, as far as they are concrete.

    Raises:
        ValueError: Shapes do not fit together; with `validate_args`, rows are not probabilities; `mask` has a gap.

    Example:
        >>> chain = MarkovChain(jnp.array([1.0, 0.0]), jnp.array([[0.0, 1.0], [0.5, 0.5]]), 3)
        >>> chain.mode(jnp.array([[0.0, 0.0], [0.0, 0.0], [3.0, 0.0]])).tolist()
        [0, 1, 0]

    Source: Rabiner (1989), A tutorial on hidden Markov models; scaled where that is exact, on logarithms elsewhere.
    """

    arg_constraints = {
        "initial_probs": constraints.simplex,
        "transition_probs": constraints.independent(constraints.simplex, 1),
    }
    pytree_data_fields = ("initial_probs", "transition_probs", "present")
    pytree_aux_fields = ("num_steps", "time_varying", "method")

    def __init__(
        self,
        initial_probs: jax.Array,
        transition_probs: jax.Array,
        num_steps: int,
        *,
        mask: jax.Array | None = None,
        time_varying: bool = False,
        method: str = "auto",
        validate_args: bool | None = None,
    ) -> None:
        check_num_steps(num_steps, "a Markov chain")  # before anything is converted, which compiles
        self.initial_probs = jnp.asarray(initial_probs)
        self.transition_probs = jnp.asarray(transition_probs)
        # `Distribution.mask` is a method
        self.present = None if mask is None else jnp.asarray(mask)
        self.num_steps, self.time_varying, self.method = num_steps, time_varying, method
        self._check_shapes()
        masked = () if self.present is None else self.present.shape[:-1]
        batch = broadcast("the batch of the mask", masked, "the parameters'", self._parameter_batch())
        if validate_args is not False:
            check_mask_values(self.present)
        super().__init__(batch, (num_steps,), validate_args=validate_args)

    def _check_shapes(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method is {self.method!r}; choose one of {', '.join(map(repr, METHODS))}")
        if self.initial_probs.ndim == 0:
            raise ValueError("initial_probs is a scalar; it needs shape (*batch, K), one probability a state")
        num_states = self.initial_probs.shape[-1]
        tail = (self.num_steps - 1, num_states, num_states) if self.time_varying else (num_states, num_states)
        if self.transition_probs.shape[-len(tail) :] != tail:
            raise ValueError(
                f"transition_probs has shape {self.transition_probs.shape}; with num_steps={self.num_steps}, "
                f"initial_probs of {num_states} states and time_varying={self.time_varying} it needs "
                f"(*batch, {', '.join(map(str, tail))})"
            )
        check_mask_shape(self.present, self.num_steps)

    def validate_args(self, strict: bool = True) -> None:
        """Check that rows are probabilities, as far as they are concrete; `strict` refuses values that are not."""
        for name in ("initial_probs", "transition_probs"):
            check_rows(name, getattr(self, name), strict=strict)

    def _parameter_batch(self) -> tuple[int, ...]:
        batch = self.transition_probs.shape[: -3 if self.time_varying else -2]
        return broadcast("the batch of initial_probs", self.initial_probs.shape[:-1], "transition_probs'", batch)

    @property
    def num_values(self) -> int:
        """The number of states `K`."""
        return self.initial_probs.shape[-1]

    def potentials(self) -> dict[str, jax.Array]:
        """Return the logarithms of `initial_probs` and `transition_probs`, in their shapes."""
        return {"initial": safe_log(self.initial_probs), "transition": safe_log(self.transition_probs)}

    def _chain(self, potentials: dict[str, jax.Array], batch: tuple[int, ...], dtype: jnp.dtype) -> Chain:
        """Lay the log parameters out for the recursions; they keep one column where the batch shares them."""
        own = self._parameter_batch()
        own = batch if math.prod(own) != 1 else own

        def columns(array: jax.Array, num_tail: int) -> jax.Array:
            tail = array.shape[array.ndim - num_tail :]
            return jnp.moveaxis(jnp.broadcast_to(array, own + tail).reshape(math.prod(own), *tail), 0, -1).astype(dtype)

        present = None if self.present is None else inward(self.present, batch, 1)
        return Chain(
            columns(potentials["initial"], 1), columns(potentials["transition"], 3 if self.time_varying else 2), present
        )

    def _whole_batch(self, name: str, batch: tuple[int, ...]) -> tuple[int, ...]:
        return broadcast(f"the batch of {name}", batch, "the chain's", self.batch_shape)

    def _enter(self, unary: jax.Array) -> tuple[Chain, jax.Array, tuple[int, ...]]:
        unary = jnp.asarray(unary)
        if unary.shape[-2:] != (self.num_steps, self.num_values):
            raise ValueError(
                f"unary has shape {unary.shape}; this chain of {self.num_steps} steps and {self.num_values} states "
                f"needs (*batch, {self.num_steps}, {self.num_values}), log potentials at [..., t, k]"
            )
        batch = self._whole_batch("unary", unary.shape[:-2])
        dtype = jnp.result_type(unary, self.initial_probs, self.transition_probs)
        if self.present is not None:
            unary = jnp.where(self.present[..., None], unary, 0)
        return self._chain(self.potentials(), batch, dtype), inward(unary.astype(dtype), batch, 2), batch

    def _counts(self, counts: Chain, batch: tuple[int, ...]) -> dict[str, jax.Array]:
        """Bring the recursions' counts to the shapes of the parameters."""
        own = batch if math.prod(self._parameter_batch()) != 1 else ()
        return {
            "initial": _sum_to(outward(counts.log_initial, own), self.initial_probs.shape),
            "transition": _sum_to(outward(counts.log_transition, own), self.transition_probs.shape),
        }

    @validate_sample
    def log_prob(self, value: jax.Array, intermediates: list | None = None) -> jax.Array:
        """Return `log p(c_1) + sum_t log p(c_{t+1} | c_t)`, shape `(*batch,)`, nats."""
        return self._log_prob(self.potentials(), value)

    def _log_prob(self, potentials: dict[str, jax.Array], value: jax.Array) -> jax.Array:
        value = jnp.asarray(value)
        batch = self._whole_batch("value", value.shape[:-1])
        chain = self._chain(potentials, batch, jnp.result_type(*potentials.values()))
        return chain_paths.log_probability(chain, inward(value.astype(jnp.int32), batch, 1)).reshape(batch)

    def statistics(self, value: jax.Array) -> dict[str, jax.Array]:
        """Count first states and moves in `value`, shape `(*batch, T)`; the shapes of `potentials()`."""
        # the log probability is linear in the potentials, so its gradient anywhere is the counts
        zeros = jax.tree.map(jnp.zeros_like, self.potentials())
        return jax.grad(lambda potentials: jnp.sum(self._log_prob(potentials, value)))(zeros)

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...] = ()) -> jax.Array:
        """Draw from the prior, shape `(*sample_shape, *batch_shape, T)`, int32; 0 at absent steps."""
        batch, potentials = tuple(sample_shape) + self.batch_shape, self.potentials()
        chain = self._chain(potentials, batch, jnp.result_type(*potentials.values()))
        path = chain_paths.sample_prior(key, chain, num_steps=self.num_steps, batch=math.prod(batch))
        return outward(path, batch)

    def log_normalizer(self, unary: jax.Array) -> jax.Array:
        """Return `log sum_c p(c) exp(sum_t unary[t, c_t])`; see `StructuredDiscrete`."""
        chain, unary, batch = self._enter(unary)
        return chain_posterior.log_normalizer(chain, unary, self.method).reshape(batch)

    def posterior(self, unary: jax.Array) -> Posterior:
        """Run forward-backward once; see `StructuredDiscrete`."""
        chain, unary, batch = self._enter(unary)
        total, marginals, counts = chain_posterior.posterior(chain, unary, self.method)
        return Posterior(total.reshape(batch), outward(marginals, batch), self._counts(counts, batch))

    def sample_posterior(self, key: jax.Array, unary: jax.Array) -> jax.Array:
        """Filter forward, sample backward; see `StructuredDiscrete`."""
        return self.sample_with_total(key, unary)[0]

    def sample_with_total(self, key: jax.Array, unary: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Filter forward, which gives the log-normaliser too, sample backward; see `StructuredDiscrete`."""
        chain, unary, batch = self._enter(unary)
        path, total = chain_paths.sample_posterior(key, chain, unary, self.method)
        return outward(path, batch), total.reshape(batch)

    def mode(self, unary: jax.Array) -> jax.Array:
        """Return the most probable path (Viterbi), the lowest states among equals; see `StructuredDiscrete`."""
        chain, unary, batch = self._enter(unary)
        return outward(chain_paths.mode(chain, unary), batch)

    def filtered(self, unary: jax.Array) -> jax.Array:
        """Return `p(c_t = k | unary_1..t)`, shape `(*batch, T, K)`; 0 at absent steps."""
        chain, unary, batch = self._enter(unary)
        filtered = outward(jnp.exp(chain_posterior.log_filtered(chain, unary, self.method)), batch)
        return filtered if self.present is None else jnp.where(self.present[..., None], filtered, 0)

    def forecast(self, unary: jax.Array, steps: int) -> jax.Array:
        """Return `p(c_{T+h} = k | unary)` for `h = 1..steps`, from each sequence's last step; `(*batch, steps, K)`.

        Raises:
            ValueError: The chain is time-varying, so what follows its last move is not known.
        """
        if self.time_varying:
            raise ValueError(
                "forecast needs the moves after the last step, which a time-varying chain does not have; "
                "build a longer chain and give the steps to come rows of zeros in `unary`"
            )
        filtered = self.filtered(unary)
        lengths = self.num_steps if self.present is None else jnp.sum(self.present, -1)
        last = jnp.broadcast_to(jnp.maximum(jnp.asarray(lengths) - 1, 0), filtered.shape[:-2])[..., None, None]
        state = jnp.take_along_axis(filtered, last, axis=-2)

        def step(state: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
            state = jnp.matmul(state, self.transition_probs, precision=jax.lax.Precision.HIGHEST)
            return state, state

        _, ahead = jax.lax.scan(step, state, None, length=steps)
        return jnp.moveaxis(ahead[..., 0, :], 0, -2)
