"""Questions to a fit of a topic model: what words it expects of a document, and how well it predicts unseen tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vmix.checks import as_data, check_counts, check_fit, check_seed
from vmix.program import ProgramError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from vmix.results import Fit


class Perplexity(NamedTuple):
    """How well tokens are predicted: `log_likelihood`, nats a token, and `perplexity = exp(-log_likelihood)`."""

    log_likelihood: float
    perplexity: float


def word_probs(fit: Fit, *data: ArrayLike) -> dict[str, np.ndarray]:
    """Probability of each word in each document, by observed site.

    A modality that a document lacks is a row of zeros: its words are then predicted from the other modalities.

    Args:
        fit: a fit of a program with topic counts.
        *data: the data arrays, rows of any number.

    Returns:
        Site to probabilities, shape (N, V); averaged over draws for Gibbs.

    Raises:
        ProgramError: if the program has no such site.
    """
    check_fit(fit)
    found = fit._predictor.word_probs(*data)
    if not found:
        raise ProgramError(f"program {fit.model_name} has no topic counts, so there are no words to predict")
    return found


def perplexity(fit: Fit, *data: ArrayLike, seed: int) -> dict[str, Perplexity]:
    """Perplexity by document completion: half of each document's tokens are shown, the other half is scored.

    Args:
        fit: a fit of a program with topic counts.
        *data: whole counts, documents that were held out of the fit.
        seed: of the split.

    Returns:
        Site to perplexity; a token that the fit thinks impossible gives infinity.

    Raises:
        ValueError: for data that are no counts.
        ProgramError: if the program has no such site.

    Source:
        Wallach, Murray, Salakhutdinov and Mimno (2009), section 4.1.
    """
    check_fit(fit)
    generator = np.random.default_rng(check_seed(seed))
    arrays = [as_data(array, name=f"data[{i}]") for i, array in enumerate(data)]
    for i, array in enumerate(arrays):
        check_counts(array, f"data[{i}]")
    shown = [generator.binomial(array.astype(np.int64), 0.5).astype(array.dtype) for array in arrays]
    probs = word_probs(fit, *shown)
    scores = {}
    for (name, p), array, seen in zip(probs.items(), arrays, shown, strict=True):
        hidden = array - seen
        with np.errstate(divide="ignore", invalid="ignore"):
            terms = np.where(hidden > 0, hidden * np.log(p), 0.0)
        mean = float(terms.sum(dtype=np.float64) / max(hidden.sum(), 1))
        scores[name] = Perplexity(mean, float(np.exp(-mean)))
    return scores
