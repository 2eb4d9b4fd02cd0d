"""Relaxed one-hot vectors against quadrature, the published formula, and counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import gammaln, logsumexp, softmax
from scipy.stats import chi2

from vmix.distributions import GumbelLogRatios, GumbelSoftmax, RelaxedClass
from vmix.distributions.gumbel_softmax import relaxed_one_hot

LOGITS = np.array([0.3, -0.5, 1.2])
FALSE_ALARM = 1e-6
FIVE_SIGMA = 5.0  # false alarm 6e-7


def concrete(y, t, logits):
    """Maddison, Mnih and Teh (2017), equation 10, in float64: log density at y of shape (..., K)."""
    k = y.shape[-1]
    below = logsumexp(logits - t * np.log(y), axis=-1)
    return gammaln(k) + (k - 1) * np.log(t) + (logits - (t + 1) * np.log(y)).sum(-1) - k * below


@pytest.mark.parametrize("t", [0.3, 1.0, 2.5])
def test_density_is_the_published_one(t):
    y = np.random.default_rng(0).dirichlet(np.full(3, 2.0), 50)
    found = GumbelSoftmax(t, jnp.asarray(LOGITS)).log_prob(jnp.asarray(y, jnp.float32))
    np.testing.assert_allclose(found, concrete(y, t, LOGITS), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("t", [0.4, 1.0])
def test_densities_of_two_classes_integrate_to_one(t):
    u = np.linspace(-60.0, 60.0, 20_001)
    y = np.stack([1 / (1 + np.exp(-u)), 1 / (1 + np.exp(u))], -1)
    inside = np.abs(u) < 15  # in float32, 1 - y is 0 further out
    on_simplex = np.exp(GumbelSoftmax(t, jnp.asarray(LOGITS[:2])).log_prob(jnp.asarray(y[inside]))) * y[inside].prod(-1)
    in_ratios = np.exp(GumbelLogRatios(t, jnp.asarray(LOGITS[:2])).log_prob(jnp.asarray(u)[:, None]))
    assert np.trapezoid(in_ratios, u) == pytest.approx(1.0, abs=1e-4)
    np.testing.assert_allclose(on_simplex, in_ratios[inside], rtol=1e-3, atol=1e-6)


def test_density_of_three_classes_integrates_to_one():
    u = np.linspace(-25.0, 25.0, 501)
    grid = jnp.asarray(np.stack(np.meshgrid(u, u, indexing="ij"), -1))
    density = np.exp(GumbelLogRatios(0.8, jnp.asarray(LOGITS)).log_prob(grid))
    assert np.trapezoid(np.trapezoid(density, u), u) == pytest.approx(1.0, abs=1e-3)


def test_cold_samples_are_categorical():
    y = GumbelSoftmax(0.01, jnp.asarray(LOGITS)).sample(jax.random.key(0), (20_000,))
    counts = np.bincount(np.asarray(y).argmax(-1), minlength=3)
    expected = 20_000 * softmax(LOGITS)
    assert ((counts - expected) ** 2 / expected).sum() < chi2(2).isf(FALSE_ALARM)
    assert np.median(y.max(-1)) > 0.999


def test_gradient_of_the_mean_is_that_of_quadrature():
    t, h = 0.7, 1e-3
    u = np.linspace(-80.0, 80.0, 40_001)
    first = 1 / (1 + np.exp(-u))

    def mean_square(logit):
        y = np.stack([first, 1 - first], -1).clip(1e-300)
        x = t * u - logit  # the log ratio is logistic: (logit + noise) / t
        density = t * np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2
        return np.trapezoid(y[:, 0] ** 2 * density, u)

    slope = (mean_square(0.4 + h) - mean_square(0.4 - h)) / (2 * h)

    def drawn(logit, key):
        return GumbelSoftmax(t, jnp.array([0.0, 0.0]).at[0].set(logit)).sample(key)[0] ** 2

    slopes = jax.vmap(jax.grad(drawn), (None, 0))(0.4, jax.random.split(jax.random.key(1), 20_000))
    assert abs(slopes.mean() - slope) < FIVE_SIGMA * slopes.std() / np.sqrt(20_000)


@pytest.mark.parametrize("t", [0.05, 0.5, 2.0])
def test_extreme_logits_have_finite_densities_and_gradients(t):
    def divergence(logits):
        q, p = GumbelLogRatios(t, logits), RelaxedClass(jnp.array(0), temperature=t / 3, num_values=4)
        u = q.sample(jax.random.key(0), (200,))
        return (q.log_prob(u) - p.log_prob(u)).mean()

    value, grad = jax.value_and_grad(divergence)(jnp.array([50.0, -50.0, 0.0, 50.0]))
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_class_is_read_off_its_relaxed_vector():
    u = jnp.asarray(np.random.default_rng(0).normal(size=(20, 2)) * 3)
    joint = RelaxedClass(jnp.arange(3)[:, None], temperature=0.6, num_values=3).log_prob(u) - jnp.log(3.0)
    marginal = GumbelLogRatios(0.6, jnp.zeros(3)).log_prob(u)
    np.testing.assert_allclose(jax.nn.logsumexp(joint, 0), marginal, atol=1e-4)
    np.testing.assert_allclose(jax.nn.softmax(joint, 0).T, relaxed_one_hot(u, hard=False), atol=1e-5)


def test_draws_given_a_class_have_the_weighted_moments():
    n, c = 20_000, 1
    draws = RelaxedClass(jnp.array(c), temperature=0.6, num_values=3).sample(jax.random.key(0), (n,))
    given = np.asarray(relaxed_one_hot(draws, hard=False))
    free = GumbelSoftmax(0.6, jnp.zeros(3)).sample(jax.random.key(1), (n,))
    weighted = 3 * np.asarray(free)[:, [c]] * np.asarray(free)
    error = np.sqrt((given.var(0) + weighted.var(0)) / n)
    np.testing.assert_array_less(np.abs(given.mean(0) - weighted.mean(0)), FIVE_SIGMA * error)


def test_hard_vectors_are_one_hot_with_the_relaxed_gradient():
    u = jnp.array([[2.0, -1.0], [-1.0, -3.0], [0.1, 0.2]])
    weights = jnp.array([1.0, -2.0, 0.5])
    hard, soft = (jax.jit(lambda u, h=h: relaxed_one_hot(u, hard=h)) for h in (True, False))
    np.testing.assert_allclose(hard(u), np.eye(3)[[0, 2, 1]], atol=1e-6)
    slopes = [jax.grad(lambda u, f=f: (f(u) @ weights).sum())(u) for f in (hard, soft)]
    np.testing.assert_allclose(*slopes, atol=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"logits is a number; expected shape \(\*batch, K\)"):
        GumbelSoftmax(0.5, jnp.zeros(()))
    with pytest.raises(ValueError, match=r"temperature has shape \(2,\) and logits \(3, 4\)"):
        GumbelLogRatios(jnp.ones(2), jnp.zeros((3, 4)))
