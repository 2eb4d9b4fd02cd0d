"""What a report shows of some programs only: moves between states, words of topics, one modality told from the others.

Each is asked of the plan, by what a site is and hangs on, so programs of a user's own have them too.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

MAX_STATES = 20
MAX_DRAWN = 12
MAX_ROWS = 2_000
NUM_WORDS = 10
NUM_EXAMPLES = 5
LEAST_MOVE = 0.05


class Topics(NamedTuple):
    """Words of an observed site by component: probabilities, shape (K, V), and the words' names."""

    site: str
    probs: np.ndarray
    words: list[str]


class Crossing(NamedTuple):
    """What is said of rows when one modality is left out.

    Attributes:
        without: the observed site that was left out.
        same: share of the rows whose component stays what it is with everything.
        accuracy: one-to-one, of the components without it; None without labels.
        tokens: mean log probability of its tokens as the other modalities predict them, nats; None but for counts.
        frequencies: the same by how frequent the words are over all.
        examples: of some rows, the most frequent words and those thought most probable.
    """

    without: str
    same: float
    accuracy: float | None = None
    tokens: float | None = None
    frequencies: float | None = None
    examples: tuple[dict[str, str], ...] = ()


def check_words(words: Any) -> None:
    """Check that these may be the names of words.

    Raises:
        TypeError: for a text, and for what holds nothing.
    """
    if words is not None and (isinstance(words, str) or not np.iterable(words)):
        raise TypeError(f"words is {words!r}; expected the names of the words, one a column")


def topics_of(fit: Any, words: Sequence[Any] | None = None) -> list[Topics]:
    """The words of each component, of every observed site that has some.

    Args:
        fit: a fitted model.
        words: names of the words, one a column; or a list of them for each such site. Their numbers when None.

    Returns:
        The topics; Gibbs' are the mean of its first chain.

    Raises:
        TypeError: for what holds no names.
        ValueError: for another number of names than words.
    """
    check_words(words)
    plan = getattr(fit, "_plan", None)
    if plan is None:
        return []
    found = [
        (child, site.name) for site in plan.sites.values() for child in site.children if _has_words(plan, site, child)
    ]
    several = bool(words) and not isinstance(words[0], str) and np.ndim(words[0]) == 1  # type: ignore[index]
    topics = []
    for number, (child, name) in enumerate(found):
        probs = mean_of(fit, name)
        given = words[number] if several and number < len(words) else None if several else words  # type: ignore[index, arg-type]
        names = [str(word) for word in (range(probs.shape[1]) if given is None else given)]
        if len(names) != probs.shape[1]:
            raise ValueError(f"words has {len(names)} names; {child!r} has {probs.shape[1]} words: give one for each")
        topics.append(Topics(child, probs, names))
    return topics


def _has_words(plan: Any, site: Any, child: str) -> bool:
    """Whether a site is the probabilities of an observed site's words, a row a component."""
    seen = plan.sites[child]
    if site.role != "global" or site.family != "Dirichlet" or len(site.shape) != 2 or seen.role != "observed":
        return False
    return seen.family == "Categorical" or (
        seen.event_dim > 0 and seen.shape[-1:] == site.shape[-1:] and not seen.num_steps
    )


def top_words(topics: Topics) -> list[list[tuple[str, str]]]:
    """The most probable words of each component, the first of them first, with their probabilities."""
    order = np.argsort(-topics.probs, axis=1, kind="stable")[:, :NUM_WORDS]
    return [
        [(topics.words[v], f"{row[v]:.3f}") for v in places] for row, places in zip(topics.probs, order, strict=True)
    ]


def mean_of(fit: Any, name: str) -> np.ndarray:
    """The estimate of a global, or its draws' mean; of several chains the first, as others number components apart."""
    values, dims = np.asarray(fit.posterior[name], np.float64), len(fit._plan.sites[name].shape)
    if values.ndim == dims + 2:
        values = values[0]
    return values.mean(0) if values.ndim == dims + 1 else values


def moves_of(fit: Any) -> np.ndarray | None:
    """Probability of state j after state i at [i, j], shape (K, K); None where no states follow each other."""
    plan: Any = getattr(fit, "_plan", None)
    for site in () if plan is None else plan.sites.values():
        square = len(site.shape) == 2 and site.shape[0] == site.shape[1] <= MAX_STATES
        follows = any(plan.sites[child].family in ("MarkovChain", "HiddenSemiMarkov") for child in site.children)
        if site.role == "global" and square and follows:
            return mean_of(fit, site.name)
    return None


def graph(moves: np.ndarray) -> dict[str, Any] | None:
    """A picture of moves in a box of 320 by 320: states in a ring, an arrow a move; None of too many states.

    Returns:
        `states` with x, y and name; `arrows` with the path, its width and its opacity.
    """
    count = len(moves)
    if count > MAX_DRAWN:
        return None
    turn = -math.pi / 2 + 2 * math.pi * np.arange(count) / count
    places = np.stack([160 + 125 * np.cos(turn), 160 + 125 * np.sin(turn)], 1)
    states = [{"x": f"{x:.1f}", "y": f"{y:.1f}", "name": k} for k, (x, y) in enumerate(places)]
    arrows = []
    for i, j in np.argwhere(moves >= LEAST_MOVE).tolist():
        if i == j:
            continue
        along = places[j] - places[i]
        along /= np.hypot(*along)
        aside = np.array([-along[1], along[0]])
        start, end = places[i] + 17 * along + 5 * aside, places[j] - 22 * along + 5 * aside
        middle = (start + end) / 2 + 14 * aside
        path = "M{:.1f} {:.1f}Q{:.1f} {:.1f} {:.1f} {:.1f}".format(*start, *middle, *end)
        arrows.append(
            {"path": path, "width": f"{1 + 3 * moves[i, j]:.1f}", "opacity": f"{0.3 + 0.7 * moves[i, j]:.2f}"}
        )
    return {"states": states, "arrows": arrows}


def crossings_of(fit: Any, arrays: tuple, labels: np.ndarray | None, topics: Sequence[Topics]) -> list[Crossing]:
    """Leave each modality out that can be, and ask what the others say of it.

    Counts are left out as rows of zeros, images by the array `seen` of programs that take one.

    Args:
        fit: a fitted model of several observed sites.
        arrays: all its data arrays.
        labels: true labels of the rows (steps), or None.
        topics: as `topics_of` returned them.
    """
    plan = getattr(fit, "_plan", None)
    observed = [] if plan is None else [s for s in plan.sites.values() if s.role == "observed"]
    if len(observed) < 2 or fit.num_components is None:
        return []
    rows = np.unique(np.linspace(0, len(arrays[0]) - 1, min(len(arrays[0]), MAX_ROWS)).astype(int))
    some = [np.asarray(array[rows]) for array in arrays]
    if labels is not None:
        labels = labels.reshape(len(arrays[0]), -1)[rows].reshape(-1)
    whole = fit.predict(*some).reshape(-1)
    found = []
    for site, place, gone in _left_out(plan, observed, some):
        probs = fit.predict_proba(*gone)
        crossing = Crossing(site, *_agreement(probs, whole, labels))
        words = next((one for one in topics if one.site == site), None)
        if words is not None:
            crossing = _with_tokens(crossing, words, probs, some[place])
        found.append(crossing)
    return found


def _left_out(plan: Any, observed: list, arrays: list[np.ndarray]) -> list[tuple[str, int, list[np.ndarray]]]:
    """Each observed site that can be left out, its array, and the data without it."""
    found = []
    for place, (site, array) in enumerate(zip(observed, arrays, strict=False)):
        if array.dtype.kind in "iu" and array.ndim > 1 and site.shape[1:] == array.shape[1:] and site.event_dim:
            found.append((site.name, place, [0 * a if n == place else a for n, a in enumerate(arrays)]))
    names = list(inspect.signature(plan.program.model).parameters)
    if "seen" in names and names.index("seen") < len(arrays):
        seen = names.index("seen")
        found.append((observed[0].name, 0, [0 * a if n == seen else a for n, a in enumerate(arrays)]))
    return found


def _agreement(probs: np.ndarray, whole: np.ndarray, labels: np.ndarray | None) -> tuple[float, float | None]:
    from vmix import metrics

    predicted = probs.reshape(-1, probs.shape[-1]).argmax(1)
    return float((predicted == whole).mean()), None if labels is None else float(metrics.accuracy(labels, predicted))


def _with_tokens(crossing: Crossing, topics: Topics, probs: np.ndarray, counts: np.ndarray) -> Crossing:
    """How well the words that were left out are predicted, beside their frequencies over all."""
    expected = probs.reshape(-1, probs.shape[-1]) @ topics.probs
    counts = counts.reshape(-1, counts.shape[-1])
    frequencies = np.broadcast_to(counts.sum(0) / max(counts.sum(), 1), counts.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        tokens, by_frequency = (
            float(np.where(counts > 0, counts * np.log(p), 0.0).sum() / max(counts.sum(), 1))
            for p in (expected, frequencies)
        )
    spoken = np.flatnonzero(counts.sum(1))
    chosen = spoken[np.unique(np.linspace(0, len(spoken) - 1, min(len(spoken), NUM_EXAMPLES)).astype(int))]
    examples = [
        {"row": str(n), "had": _first_words(counts[n], topics.words), "told": _first_words(expected[n], topics.words)}
        for n in chosen
    ]
    return crossing._replace(tokens=tokens, frequencies=by_frequency, examples=tuple(examples))


def _first_words(values: np.ndarray, words: list[str]) -> str:
    order = [v for v in np.argsort(-values, kind="stable")[:NUM_EXAMPLES] if values[v] > 0]
    return ", ".join(words[v] for v in order)
