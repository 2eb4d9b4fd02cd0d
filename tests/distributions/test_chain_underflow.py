"""What underflow loses from the scaled recursions of chains with zero transitions, and whether that is seen."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmix.distributions.chain_recursions import SCALED, Chain, _run, underflow_matters
from vmix.distributions.markov_chain import MarkovChain


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


compute = jax.jit(lambda chain, unary: chain.posterior(unary))
normalise = jax.jit(lambda chain, unary: chain.log_normalizer(unary))


@jax.jit
def matters(transition: jax.Array, unary: jax.Array) -> jax.Array:
    """Whether underflow matters, for each sequence of `unary`, shape (B, T, K), alone."""

    def one(unary: jax.Array) -> jax.Array:
        chain = Chain(jnp.zeros((unary.shape[-1], 1), unary.dtype), jnp.log(transition)[..., None])
        return underflow_matters(chain, _run(chain, unary[..., None], SCALED, both=True, associative=False)[0])

    return jax.vmap(one)(unary)


def test_with_zero_transitions_plain_numbers_are_kept_where_the_evidence_allows_it():
    # a chain that cannot go back; what its steps say agrees with that, or comes to disagree
    transition = jnp.array([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]], jnp.float32)
    agree = 500.0 * jax.nn.one_hot(jnp.array([0, 0, 1, 1, 2, 2]), 3, dtype=jnp.float32)
    turns = 500.0 * jax.nn.one_hot(jnp.array([0, 0, 2, 1, 1, 2]), 3, dtype=jnp.float32)
    impossible = agree.at[3].set(-jnp.inf)
    np.testing.assert_array_equal(matters(transition, jnp.stack([agree, turns, impossible])), [False, True, True])


@pytest.mark.parametrize("spread", [3, 30, 100, 400])
def test_single_precision_with_zero_transitions_equals_double_precision_on_logarithms(spread):
    rng = np.random.default_rng(spread)
    transition = rng.dirichlet(np.ones(4), 4) * (rng.uniform(size=(4, 4)) < 0.6) + 0.1 * np.eye(4)
    transition = (transition / transition.sum(1, keepdims=True)).astype(np.float32)
    # whole numbers are exact in both
    unary = np.round(spread * rng.normal(size=(200, 12, 4)))
    initial = np.full(4, 0.25)
    truth = compute(MarkovChain(initial, transition.astype(float), 12, method="associative"), unary)
    each = np.asarray(matters(jnp.asarray(transition), jnp.asarray(unary, jnp.float32)))
    assert {3: not each.any(), 30: each.any() and not each.all(), 100: each.any(), 400: each.any()}[spread]
    for some in (each, ~each):
        if not some.any():
            continue
        chain = MarkovChain(jnp.asarray(initial, jnp.float32), jnp.asarray(transition), 12)
        found = compute(chain, jnp.asarray(unary[some], jnp.float32))
        np.testing.assert_allclose(found.log_normalizer, truth.log_normalizer[some], rtol=1e-6, atol=1e-5)
        np.testing.assert_allclose(found.marginals, truth.marginals[some], atol=1e-4)
        forward = normalise(chain, jnp.asarray(unary[some], jnp.float32))
        np.testing.assert_allclose(forward, truth.log_normalizer[some], rtol=1e-6, atol=1e-5)


def test_the_only_possible_path_is_found_against_all_evidence():
    # backward state 1 has e^-120 of state 0, which cannot be
    chain = MarkovChain(jnp.array([0.0, 1.0], jnp.float32), jnp.eye(2, dtype=jnp.float32), 4)
    unary = jnp.array([[0.0, 0.0], [0.0, -60.0], [0.0, -60.0], [0.0, 0.0]], jnp.float32)
    found = compute(chain, unary)
    np.testing.assert_allclose(found.log_normalizer, -120.0)
    np.testing.assert_allclose(found.marginals, np.tile([0.0, 1.0], (4, 1)))
