"""The Markov model counts: its estimates have closed forms."""

import jax
import numpy as np
import pytest

import vmix
from vmix import fitting
from vmix.inference import EM, SVI, Gibbs
from vmix.models import MarkovModel
from vmix.plan import make_plan

K, ALPHA = 3, 0.5
RNG = np.random.default_rng(0)
X = RNG.integers(0, K, (40, 12))
X[:, 1::2] = (X[:, ::2] + RNG.integers(0, 2, (40, 6))) % K
MASK = np.arange(12) < RNG.integers(1, 13, 40)[:, None]


def add(counts, extra):
    counts = counts + extra
    return counts / counts.sum(-1, keepdims=True)


def counted(mask):
    """Counts of first values and of moves, step by step."""
    first, moves = np.zeros(K), np.zeros((K, K))
    for row, there in zip(X, mask, strict=True):
        row = row[there]
        first[row[0]] += 1
        for before, after in zip(row[:-1], row[1:], strict=True):
            moves[before, after] += 1
    return first, moves


@pytest.fixture(scope="module")
def fit():
    """Fits that share one plan."""
    model = MarkovModel(num_values=K, alpha=ALPHA)
    plan = make_plan(model.with_data(X, MASK), (X, MASK), key=jax.random.key(0))

    def run(engine):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting, "make_plan", lambda *_, **__: plan)
            return vmix.fit(model, X, MASK, engine=engine, seed=0)

    return run


def test_one_sweep_of_em_is_the_formula(fit):
    first, moves = counted(MASK)
    found = fit(EM(num_sweeps=1, tolerance=None))
    np.testing.assert_allclose(found.posterior["transition"], add(moves, ALPHA), atol=1e-6)
    np.testing.assert_allclose(found.posterior["initial"], add(first, ALPHA), atol=1e-6)
    exact = np.log(found.posterior["transition"]), np.log(found.posterior["initial"])
    total = (moves * exact[0]).sum() + (first * exact[1]).sum()
    assert found.score(X, MASK) * len(X) == pytest.approx(total, rel=1e-5)


def test_svi_reaches_the_same_mode(fit):
    found = fit(SVI(num_steps=200, learning_rate=0.1))
    np.testing.assert_allclose(found.posterior["transition"], add(counted(MASK)[1], ALPHA), atol=1e-3)


def test_draws_of_gibbs_have_the_posterior_s_mean_and_spread(fit):
    _, moves = counted(MASK)
    draws = fit(Gibbs(num_samples=2000, num_warmup=1)).posterior["transition"]
    mean, mass = add(moves, 1 + ALPHA), (moves + 1 + ALPHA).sum(-1, keepdims=True)
    spread = np.sqrt(mean * (1 - mean) / (mass + 1))
    # draws are independent: nine means and nine spreads within five standard errors, a false alarm in 100,000
    assert (np.abs(draws.mean(0) - mean) < 5 * spread / np.sqrt(2000)).all()
    np.testing.assert_allclose(draws.std(0), spread, rtol=0.1)


def test_the_number_of_values_is_the_largest_and_one():
    assert MarkovModel().with_data(X).num_values == K
    assert MarkovModel(num_values=7).with_data(X).num_values == 7
    padded = np.where(MASK, X, 9)
    assert MarkovModel().with_data(padded, MASK).num_values == K
