"""Array functions behind `TopicCounts`: mixtures, expected counts and drawn topics of the tokens behind word counts.

Counts are `(N, V)`, weights `(N, K)`; `scaled` is `scale_words(probs)` of probabilities `(K, V)`. Where a function
returns two arrays, the first has one row a document and the second is a sum over documents, as `in_blocks` wants it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.special import gammaln

from vmix.numerics import safe_log

# GPUs multiply float32 matrices in TF32 unless told not to: three digits, and a log likelihood needs seven.
_EXACT = lax.Precision.HIGHEST
_TABLED_COUNTS = 256
# Tokens drawn at a time, and the length of the columns in which they are counted off.
_CHUNK_TOKENS = 1 << 13
_DEPTH = 64


def in_blocks(function: Callable[..., tuple[Array, Array]], *rows: Array, entries: int) -> tuple[Array, Array]:
    """Apply `function(*rows) -> (per_row, total)` to blocks of rows, to bound the memory of what lies between.

    Args:
        function: gives an array with the rows' leading dimension, and a sum over the rows.
        *rows: arrays that share their leading dimension; the first has two dimensions.
        entries: the most entries of the first array in a block.

    Returns:
        What `function` gives for all rows at once, to rounding.
    """
    num_rows, width = rows[0].shape
    size = max(1, entries // max(1, width))
    if num_rows <= size:
        return function(*rows)
    num_whole = (num_rows - 1) // size

    @jax.checkpoint  # else the backward pass keeps what lies between for every block
    def step(total: Array, block: Array) -> tuple[Array, Array]:
        per_row, part = function(*(lax.dynamic_slice_in_dim(array, block * size, size) for array in rows))
        return total + part, per_row

    last, total = function(*(array[num_whole * size :] for array in rows))
    total, per_row = lax.scan(step, total, jnp.arange(num_whole))
    return jnp.concatenate([per_row.reshape(num_whole * size, *per_row.shape[2:]), last]), total


def scale_words(probs: Array) -> tuple[Array, Array]:
    """Scale each word's largest probability to 1; returns `(K, V)` and the logarithms of the scales, `(V,)`.

    A posterior over topics does not see the scale, and a word that is rare in all topics cannot underflow.
    """
    largest = lax.stop_gradient(jnp.max(probs, axis=0, keepdims=True))
    largest = jnp.where(largest > 0, largest, 1)
    return probs / largest, jnp.log(largest[0])


def log_mixture(counts: Array, weights: Array, *, scaled: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return `sum_v x_dv log sum_k weights_dk probs_kv` in nats, shape `(N,)`, and a zero."""
    probs, log_scale = scaled
    counts = counts.astype(weights.dtype)
    log_probs = safe_log(jnp.matmul(weights, probs, precision=_EXACT)) + log_scale[None, :]
    # a word that does not occur may be impossible, and zero times minus infinity is NaN
    terms = jnp.where(counts > 0, counts * log_probs, jnp.where(counts < 0, -jnp.inf, 0))
    return jnp.sum(terms, axis=-1), jnp.zeros((), weights.dtype)


def sum_log_factorials(counts: Array, *, dtype: jnp.dtype) -> tuple[Array, Array]:
    """Return `sum_v log x_dv!` in nats, shape `(N,)`, and a zero; zero and one give exactly 0.

    Small whole counts are looked up, which is five times faster than the gamma function.
    """
    table = jnp.asarray(np.cumsum(np.log(np.maximum(np.arange(_TABLED_COUNTS), 1))), dtype)

    def looked_up(counts: Array) -> Array:
        return jnp.sum(table[counts.astype(jnp.int32)], axis=-1)

    def computed(counts: Array) -> Array:
        counts = counts.astype(dtype)
        return jnp.sum(jnp.where((counts == 0) | (counts == 1), 0, gammaln(counts + 1)), axis=-1)

    small = jnp.all((counts >= 0) & (counts < _TABLED_COUNTS) & (counts == jnp.floor(counts)))
    return lax.cond(small, looked_up, computed, counts), jnp.zeros((), dtype)


def expected_tokens(counts: Array, weights: Array, *, scaled: tuple[Array, Array]) -> tuple[Array, Array]:
    """Return expected tokens of documents by topics, shape `(N, K)`, and of topics by words, shape `(K, V)`."""
    probs = scaled[0]
    mixture = jnp.matmul(weights, probs, precision=_EXACT)
    ratio = jnp.where(mixture > 0, counts.astype(weights.dtype) / jnp.where(mixture > 0, mixture, 1), 0)
    per_document = weights * jnp.matmul(ratio, probs.T, precision=_EXACT)
    return per_document, probs * jnp.matmul(weights.T, ratio, precision=_EXACT)


def drawn_tokens(
    counts: Array, weights: Array, first: Array, *, key: Array, scaled: tuple[Array, Array]
) -> tuple[Array, Array]:
    """Draw every token's topic given its document and word; returns int32 counts `(N, K)` and `(K, V)`.

    Tokens are counted off in chunks of a fixed size until there are none left, so the work follows their number and no
    bound on a document's length is needed. `first[0]` numbers the block of documents, for its random key.
    """
    (num_documents, num_words), num_topics = counts.shape, weights.shape[1]
    key = jax.random.fold_in(key, first[0])
    num_cells = num_documents * num_words
    columns = _running_columns(counts.astype(jnp.int32).reshape(-1))
    ends = jnp.cumsum(columns[-1])
    # few cells rarely hold many tokens, and a chunk that is half empty is wasted
    size = min(_CHUNK_TOKENS, _DEPTH * -(-max(num_cells, 1024) // _DEPTH))

    def draw(chunk: Array, tallies: tuple[Array, Array]) -> tuple[Array, Array]:
        cell, real = _cells_of_tokens(columns, ends, chunk * size, size)
        document, word = cell // num_words, cell % num_words
        topic = _draw_topics(jax.random.fold_in(key, chunk), weights, scaled[0], document, word)
        topic = jnp.where(real, topic, num_topics)
        # the topic past the last lies outside both tallies and is dropped
        at_document = topic * num_documents + document
        per_document = tallies[0].at[at_document].add(1, mode="drop")
        return per_document, tallies[1].at[topic * num_words + word].add(1, mode="drop")

    zeros = tuple(jnp.zeros(num_topics * n, jnp.int32) for n in (num_documents, num_words))
    per_document, per_topic = lax.fori_loop(0, (ends[-1] + size - 1) // size, draw, zeros)
    return per_document.reshape(num_topics, -1).T, per_topic.reshape(num_topics, -1)


def _draw_topics(key: Array, weights: Array, probs: Array, document: Array, word: Array) -> Array:
    """Draw a topic with probability proportional to `weights[document] * probs[:, word]`; K where all are zero."""

    def step(total: Array, topic: tuple[Array, Array]) -> tuple[Array, Array]:
        total = total + topic[0][document] * topic[1][word]
        return total, total

    # sums in order, so that a topic of weight zero adds exactly nothing and is never drawn
    total, cumulative = lax.scan(step, jnp.zeros(document.shape, weights.dtype), (weights.T, probs))
    # a uniform number is at most 1 - eps: its product with the total stays below the total
    threshold = jax.random.uniform(key, document.shape, weights.dtype) * total
    return jnp.sum(~(cumulative > threshold[None]), axis=0, dtype=jnp.int32)


def _running_columns(cells: Array) -> Array:
    """Cut the cells' counts into columns of `_DEPTH` cells, cell `i * M + j` at `[i, j]`, and sum down each column.

    Additions of whole rows: a cumulative sum along the cells takes three times as long on a CPU.
    """
    width = -(-cells.size // _DEPTH)
    grid = jnp.pad(cells, (0, width * _DEPTH - cells.size)).reshape(_DEPTH, width)
    return lax.scan(lambda total, row: (total + row,) * 2, jnp.zeros(width, cells.dtype), grid)[1]


def _cells_of_tokens(columns: Array, ends: Array, first: Array, size: int) -> tuple[Array, Array]:
    """Return the cell of each of the tokens `first, ..., first + size - 1`, and whether there is such a token.

    Tokens are numbered column by column, and within a column from cell to cell.
    """
    position = first + jnp.arange(size, dtype=jnp.int32)
    starts = ends - columns[-1]
    column = _last_start(jnp.maximum(starts - first, 0), size)
    rank = position - starts[column]
    row = jnp.zeros(size, jnp.int32)
    for step in (2**power for power in reversed(range((_DEPTH - 1).bit_length()))):
        row = jnp.where(columns[row + step - 1, column] <= rank, row + step, row)
    return row * columns.shape[1] + column, position < ends[-1]


def _last_start(starts: Array, size: int) -> Array:
    """Return the number of starts that are at most `i`, less one, for each `i < size`; `starts` are not negative."""
    width = size // _DEPTH
    # position i lies at [i % depth, i // depth], so that the running sum adds whole rows
    at = jnp.where(starts < size, (starts % _DEPTH) * width + starts // _DEPTH, size)
    marks = jnp.zeros(size, jnp.int32).at[at].add(1, mode="drop").reshape(_DEPTH, width)
    running = _running_columns(marks.reshape(-1))
    before = jnp.cumsum(running[-1]) - running[-1]
    return (running + before[None]).T.reshape(-1) - 1


def drawn_counts(key: Array, mixture: Array, totals: Array, *, max_tokens: int) -> Array:
    """Draw `totals[d]` words, at most `max_tokens`, from each row of `mixture` `(N, V)`; returns int32 counts."""
    # a running sum may round down or up at a word of probability zero, and must not: such a word is never drawn
    sums = jnp.where(mixture > 0, jnp.cumsum(mixture, axis=1), 0)
    cumulative = lax.cummax(sums, axis=1)
    threshold = jax.random.uniform(key, (len(mixture), max_tokens), mixture.dtype) * cumulative[:, -1:]
    word = jax.vmap(lambda sums, u: jnp.searchsorted(sums, u, side="right"))(cumulative, threshold)
    real = jnp.arange(max_tokens)[None, :] < totals[:, None]
    row = jnp.arange(len(mixture))[:, None]
    return jnp.zeros(mixture.shape, jnp.int32).at[row, word].add(real.astype(jnp.int32), mode="drop")
