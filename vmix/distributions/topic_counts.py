"""Counts of tokens that each have a topic, topics summed out: latent Dirichlet allocation given its parameters.

For token i of document d, and the counts of words v:

    h_di ~ Categorical(weights_d)           topic of token i of document d
    v_di ~ Categorical(probs[h_di])         its word
    x_dv = #{i: v_di = v}

    log p(x_d) = log(total_d! / prod_v x_dv!) + sum_v x_dv log sum_k weights_dk probs_kv
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpyro.distributions import constraints
from numpyro.util import is_prng_key, not_jax_tracer

from vmix.distributions.augmented import Augmented
from vmix.distributions.tokens import (
    drawn_counts,
    drawn_tokens,
    expected_tokens,
    in_blocks,
    log_mixture,
    scale_words,
    sum_log_factorials,
)
from vmix.numerics import safe_log
from vmix.sharding import num_parts

# Documents are taken in blocks where their array of counts has more entries than this: what a processor's cache holds
# (2 MB in float32; a sweep of EM is 2.4 times as fast as with all of 10,000 x 1,000), or on an accelerator, and over
# several devices, which have a part of the rows each, 200 MB.
_BLOCK_ENTRIES, _LARGE_BLOCK_ENTRIES = 1 << 19, 50_000_000
# The sum of 10^5 float32 probabilities is off by about this much.
_SIMPLEX_TOLERANCE = 1e-4


class TopicCounts(Augmented):
    """Counts of words in documents whose tokens have topics of their own, summed out.

    The statistics count tokens: `statistics["weights"][d, k]` those of document d in topic k, and
    `statistics["probs"][k, v]` those of word v in topic k. Nothing forms an array of documents by words by topics.

    Args:
        weights: topic proportions of each document, shape `(*batch, K)`, rows on the simplex.
        probs: word probabilities of each topic, shared by all documents, shape `(K, V)`, rows on the simplex.
        total_count: tokens of each document, broadcastable to `(*batch,)`. It enters the multinomial coefficient and
            `sample`; it may be fractional where only densities are asked for.
        max_tokens: the most tokens that a document may have; `sample` needs it where `total_count` is traced by JAX.
        validate_args: check the arguments, and the counts given to the methods, where their values are known. Pass
            False for fractional counts, and for weights that do not sum to 1.

    Raises:
        ValueError: shapes that disagree, rows of `weights` or `probs` off the simplex, a negative `total_count`.

    Example:
        >>> probs = jnp.array([[0.5, 0.5, 0.0], [0.0, 0.5, 0.5]])
        >>> topics = TopicCounts(jnp.array([0.5, 0.5]), probs, 4)
        >>> counts = jnp.array([2, 1, 1])
        >>> topics.expected_statistics(counts)["weights"].tolist()
        [2.5, 1.5]
        >>> topics.topic_posterior(counts).tolist()
        [0.625, 0.375]

    Source: Blei, Ng and Jordan (2003), Latent Dirichlet Allocation, section 3, given the documents' proportions.
    """

    arg_constraints = {
        "weights": constraints.simplex,
        "probs": constraints.independent(constraints.simplex, 1),
        "total_count": constraints.nonnegative,
    }
    pytree_data_fields = ("weights", "probs", "total_count")
    pytree_aux_fields = ("max_tokens",)

    def __init__(
        self,
        weights: Array,
        probs: Array,
        total_count: Array | float,
        *,
        max_tokens: int | None = None,
        validate_args: bool | None = None,
    ) -> None:
        batch_shape = _batch_shape(jnp.shape(weights), jnp.shape(probs), jnp.shape(total_count))
        dtype = jnp.result_type(weights, probs, jnp.float32)
        self.weights, self.probs = jnp.asarray(weights, dtype), jnp.asarray(probs, dtype)
        self.total_count = total_count
        self.max_tokens = max_tokens
        super().__init__(batch_shape, self.probs.shape[-1:], validate_args=validate_args)

    @constraints.dependent_property(is_discrete=True, event_dim=1)
    def support(self) -> constraints.Constraint:
        """Vectors of whole numbers of at least 0; densities of fractional counts exist too."""
        return constraints.independent(constraints.nonnegative_integer, 1)

    def validate_args(self, strict: bool = True) -> None:
        """Check the arguments whose values are known; `strict` asks for all of them, as in NumPyro."""
        for name, value in self.get_args().items():
            if not_jax_tracer(value):
                _check_argument(np.asarray(value), name)
            elif strict:
                raise RuntimeError("Cannot validate arguments inside jitted code.")

    def sample(self, key: Array, sample_shape: tuple[int, ...] = ()) -> Array:
        """Draw counts, shape `(*sample_shape, *batch, V)`, int32."""
        assert is_prng_key(key)
        max_tokens = _most_tokens(self.total_count, self.max_tokens)
        shape = (*sample_shape, *self.batch_shape)
        mixture = jnp.matmul(self.weights, self.probs, precision=lax.Precision.HIGHEST)
        rows = jnp.broadcast_to(mixture, (*shape, *self.event_shape)).reshape(-1, *self.event_shape)
        totals = jnp.broadcast_to(jnp.asarray(self.total_count), shape).reshape(-1)
        return drawn_counts(key, rows, totals, max_tokens=max_tokens).reshape(*shape, *self.event_shape)

    def log_prob(self, value: Array, intermediates: None = None) -> Array:
        """Return `log p(x | weights, probs)`, shape `(*batch,)`, nats a document; fractional counts are fine.

        A word that no topic of the document has, and a negative count, give minus infinity; their gradients are zero.
        """
        density = partial(log_mixture, scaled=scale_words(self.probs))
        counts, weights, shape = self._documents(value)
        return in_blocks(density, counts, weights, entries=_block_entries())[0].reshape(shape) + self.base_measure(
            value
        )

    def potentials(self) -> dict[str, Array]:
        """Return log `weights`, shape `(*batch, K)`, and log `probs`, shape `(K, V)`."""
        return {"weights": safe_log(self.weights), "probs": safe_log(self.probs)}

    def expected_statistics(self, value: Array) -> dict[str, Array]:
        """Return the expected tokens of each document in each topic, and of each topic with each word; see the base.

        Tokens that are impossible under the parameters have no posterior and count nowhere.
        """
        per_document, per_topic = self._expected(value)
        return {"weights": _sum_to(per_document, self.weights.shape), "probs": per_topic}

    def sample_statistics(self, key: Array, value: Array) -> dict[str, Array]:
        """Draw the topic of every token, given its document and word, and count them; see the base.

        The counts must be whole. The work is proportional to the number of tokens, plus one pass over the counts.

        Raises:
            ValueError: negative or fractional counts, where their values are known.
        """
        draw = partial(drawn_tokens, key=key, scaled=scale_words(self.probs))
        counts, weights, shape = self._documents(value, whole=True)
        rows = jnp.arange(len(counts), dtype=jnp.int32)
        per_document, per_topic = in_blocks(draw, counts, weights, rows, entries=_BLOCK_ENTRIES)
        per_document = _sum_to(per_document.reshape(*shape, -1), self.weights.shape)
        return {"weights": per_document.astype(weights.dtype), "probs": per_topic.astype(weights.dtype)}

    def base_measure(self, value: Array) -> Array:
        """Return the log multinomial coefficient `log(total! / prod_v x_v!)`, shape `(*batch,)`, nats."""
        dtype = self.weights.dtype
        shape = lax.broadcast_shapes(jnp.shape(value)[:-1], self.batch_shape)
        words = _as_counts(value).reshape(-1, *self.event_shape)
        of_words = in_blocks(partial(sum_log_factorials, dtype=dtype), words, entries=_block_entries())[0]
        total = jnp.asarray(self.total_count)
        of_total = sum_log_factorials(total.reshape(-1, 1), dtype=dtype)[0].reshape(total.shape)
        return jnp.broadcast_to(of_total, shape) - jnp.broadcast_to(of_words.reshape(jnp.shape(value)[:-1]), shape)

    def spread_statistics(self, value: Array, shares: Array) -> dict[str, Array]:
        """Return tokens by document and topic, and by topic and word, if each document's were spread as `shares`."""
        counts, _, shape = self._documents(value)
        shares = (
            jnp.broadcast_to(shares, (*shape, shares.shape[-1])).reshape(len(counts), -1).astype(self.weights.dtype)
        )
        counts = counts.astype(self.weights.dtype)
        per_document = (shares * counts.sum(-1, keepdims=True)).reshape(*shape, -1)
        per_topic = jnp.matmul(shares.T, counts, precision=lax.Precision.HIGHEST)
        return {"weights": _sum_to(per_document, self.weights.shape), "probs": per_topic}

    def proportions(self) -> Array:
        """Return `weights`, the share of each topic in a document, shape `(*batch, K)`."""
        return jnp.broadcast_to(self.weights, (*self.batch_shape, self.weights.shape[-1]))

    def word_probs(self) -> Array:
        """Return the probability of each word in each document, topics summed out, shape `(*batch, V)`."""
        return jnp.matmul(self.weights, self.probs, precision=lax.Precision.HIGHEST)

    @property
    def mean(self) -> Array:
        """Expected counts, shape `(*batch, V)`."""
        return jnp.asarray(self.total_count)[..., None] * self.word_probs()

    def topic_posterior(self, value: Array) -> Array:
        """Return the expected share of each topic in a document's tokens, shape `(*batch, K)`; no tokens: `weights`."""
        tokens = self._expected(value)[0]
        total = jnp.sum(tokens, axis=-1, keepdims=True)
        prior = jnp.broadcast_to(self.weights, tokens.shape)
        return jnp.where(total > 0, tokens / jnp.where(total > 0, total, 1), prior)

    def _expected(self, value: Array) -> tuple[Array, Array]:
        """Return expected tokens by documents and topics, shape `(*batch, K)`, and by topics and words, `(K, V)`."""
        expected = partial(expected_tokens, scaled=scale_words(self.probs))
        counts, weights, shape = self._documents(value)
        per_document, per_topic = in_blocks(expected, counts, weights, entries=_block_entries())
        return per_document.reshape(*shape, -1), per_topic

    def _documents(self, value: Array, *, whole: bool = False) -> tuple[Array, Array, tuple[int, ...]]:
        """Return counts `(N, V)` and weights `(N, K)`, one row a document, and the batch shape behind N."""
        if jnp.shape(value)[-1:] != self.event_shape:
            raise ValueError(
                f"value has shape {jnp.shape(value)}; expected (*batch, {self.event_shape[0]}), "
                "one column for each column of probs"
            )
        if (whole or self._validate_args) and not_jax_tracer(value):
            _check_counts(np.asarray(value), way_out="" if whole else ", or pass validate_args=False for their density")
        shape = lax.broadcast_shapes(jnp.shape(value)[:-1], self.batch_shape)
        counts = jnp.broadcast_to(_as_counts(value), (*shape, *self.event_shape)).reshape(-1, *self.event_shape)
        return counts, jnp.broadcast_to(self.weights, (*shape, self.weights.shape[-1])).reshape(len(counts), -1), shape


def _block_entries() -> int:
    """The most entries of a block, for work that is the same in blocks of any size."""
    return _BLOCK_ENTRIES if jax.default_backend() == "cpu" and num_parts() == 1 else _LARGE_BLOCK_ENTRIES


def _batch_shape(weights: tuple[int, ...], probs: tuple[int, ...], total: tuple[int, ...]) -> tuple[int, ...]:
    if len(probs) != 2:
        raise ValueError(
            f"probs has shape {probs}; expected (K, V), one row a topic, the same for all documents: reshape it, or "
            "use one TopicCounts for each group of documents with probabilities of its own"
        )
    if weights[-1:] != probs[:1]:
        raise ValueError(
            f"weights has shape {weights} and probs {probs}; expected (*batch, K) and (K, V) with the same number of "
            "topics K: give one weight for each row of probs"
        )
    try:
        return lax.broadcast_shapes(weights[:-1], total)
    except ValueError:
        raise ValueError(
            f"total_count has shape {total} and weights {weights}; expected one number, or one for each document, "
            f"shape {weights[:-1]}: sum the counts over their last axis only"
        ) from None


def _as_counts(value: Array) -> Array:
    """The counts as an array that can be compared with any small number, which bytes cannot."""
    value = jnp.asarray(value)
    return value if jnp.issubdtype(value.dtype, jnp.floating) else value.astype(jnp.int32)


def _check_argument(value: np.ndarray, name: str) -> None:
    if not np.all(value >= 0):
        raise ValueError(f"{name} has the least value {np.min(value):g}; expected numbers of at least 0, and no NaN")
    if name == "total_count":
        return
    sums = value.sum(axis=-1, dtype=np.float64)
    worst = np.unravel_index(np.argmax(np.abs(sums - 1)), sums.shape)
    if abs(sums[worst] - 1) > _SIMPLEX_TOLERANCE:
        where = f" {tuple(map(int, worst))}" if worst else ""
        raise ValueError(
            f"row{where} of {name} sums to {sums[worst]:g}; expected probabilities that sum to 1: divide {name} by "
            f"{name}.sum(-1, keepdims=True)"
        )


def _check_counts(value: np.ndarray, *, way_out: str) -> None:
    if not np.all(value >= 0):
        raise ValueError(f"value has the least count {np.min(value):g}; expected counts 0, 1, 2, ... and no NaN")
    if not np.issubdtype(value.dtype, np.integer) and not np.all(value == np.floor(value)):
        fractional = value[value != np.floor(value)][0]
        raise ValueError(f"value has the count {fractional:g}; expected whole numbers of tokens: round it{way_out}")


def _most_tokens(total_count: Array | float, max_tokens: int | None) -> int:
    if not not_jax_tracer(total_count):
        if max_tokens is None:
            raise ValueError("total_count is traced by JAX, so sample needs max_tokens, the most tokens of a document")
        return max_tokens
    totals = np.asarray(total_count)
    if np.any(totals != np.floor(totals)):
        raise ValueError("total_count is not whole; sample draws whole tokens: round it")
    most = int(np.max(totals, initial=0))
    if max_tokens is not None and most > max_tokens:
        raise ValueError(f"total_count goes up to {most}, above max_tokens={max_tokens}: raise max_tokens")
    return most


def _sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Sum over the dimensions along which an array of `shape` was broadcast: the transpose of broadcasting."""
    array = jnp.sum(array, axis=tuple(range(array.ndim - len(shape))))
    broadcast = tuple(i for i, size in enumerate(shape) if size == 1 and array.shape[i] != 1)
    return jnp.sum(array, axis=broadcast, keepdims=True)
