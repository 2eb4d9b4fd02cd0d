"""What counts are worth: multinomial counts their total, repeated tokens once, whatever the classes."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vmix.distributions import ScaledCounts
from vmix.families import unwrap
from vmix.overdispersion import effective_tokens

WORDS = np.random.default_rng(0).dirichlet(np.full(80, 0.5), 4)


def documents(total: int, *, repeat: int = 1, seed: int = 1) -> np.ndarray:
    """Counts of 800 documents of four classes, every token there `repeat` times."""
    rng = np.random.default_rng(seed)
    return repeat * np.stack([rng.multinomial(total // repeat, WORDS[i % 4]) for i in range(800)])


def test_multinomial_counts_are_worth_their_total():
    assert effective_tokens(documents(60), num_classes=4) == pytest.approx(60, rel=0.12)


@pytest.mark.parametrize("repeat", [3, 6])
def test_repeated_tokens_are_worth_one(repeat):
    assert effective_tokens(documents(60, repeat=repeat), num_classes=4) == pytest.approx(60 / repeat, rel=0.25)


def test_scale_of_counts_does_not_matter_but_as_a_bound():
    counts = documents(60, repeat=6)
    assert effective_tokens(7 * counts, num_classes=4) == pytest.approx(
        effective_tokens(counts, num_classes=4), rel=0.05
    )
    assert effective_tokens(documents(3), num_classes=4) <= 3.0


def test_documents_without_tokens_and_few_documents_are_passed_over():
    counts = documents(60, repeat=6).astype(float)
    with_gaps = np.concatenate([counts, np.zeros((50, 80)), np.full((5, 80), np.nan)])
    assert effective_tokens(with_gaps, num_classes=4) == pytest.approx(effective_tokens(counts, num_classes=4), rel=0.1)
    assert effective_tokens(counts[:5], num_classes=4) == 60.0
    assert effective_tokens(np.tile(counts[:1], (40, 1)), num_classes=4) == 60.0


def test_counts_without_tokens_are_refused():
    with pytest.raises(ValueError, match="counts has no tokens: every row is all zero"):
        effective_tokens(np.zeros((9, 3)), num_classes=2)


def test_scaled_counts_equal_the_multinomial_at_whole_counts():
    probs, x = jnp.array([0.2, 0.3, 0.5]), jnp.array([[3, 0, 4], [1, 1, 5]])
    whole = dist.MultinomialProbs(probs, 7).log_prob(x)
    np.testing.assert_allclose(ScaledCounts(probs, 7).log_prob(x), whole, rtol=1e-6)


def test_scaled_counts_are_a_family_that_takes_fractions():
    fn = ScaledCounts(jnp.array([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]]), 2, validate_args=True)
    x = jnp.array([0.25, 0.5, 1.25])
    gap = fn.log_prob(x)[0] - fn.log_prob(x)[1]
    np.testing.assert_allclose(gap, (x * (jnp.log(fn.probs[0]) - jnp.log(fn.probs[1]))).sum(), rtol=1e-5)
    assert type(unwrap(fn).base) is ScaledCounts
    assert fn.sample(jax.random.key(0), (5,)).sum(-1).tolist() == [[2, 2]] * 5
