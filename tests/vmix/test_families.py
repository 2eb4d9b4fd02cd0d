"""Exponential families against NumPyro's densities, closed-form moments and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax.scipy.special import digamma, gammaln, logsumexp
from numpyro.distributions import ExpandedDistribution

from vmix.distributions import ScaledCounts
from vmix.families import FAMILIES, Frame, contract, family_of, unwrap

K, N, D = 3, 7, 4
RNG = np.random.default_rng(20240501)


def positive(*shape):
    return RNG.gamma(3.0, 0.5, shape) + 0.2


def covariance(*batch):
    root = RNG.normal(size=(*batch, D, D))
    return root @ root.swapaxes(-1, -2) / D + 0.3 * np.eye(D)


# name -> (constructor, parameters with a data axis of size 1, data)
TOTALS = RNG.integers(3, 20, N)
CASES = {
    "normal": (dist.Normal, {"loc": RNG.normal(size=(K, 1, D)), "scale": positive(K, 1, D)}, RNG.normal(5, 3, (N, D))),
    "normal_shared": (dist.Normal, {"loc": RNG.normal(size=(K, 1)), "scale": positive()}, RNG.normal(5, 3, N)),
    "lognormal": (dist.LogNormal, {"loc": RNG.normal(size=(K, 1)), "scale": positive(K, 1)}, positive(N)),
    "mvn_tril": (
        lambda loc, scale_tril: dist.MultivariateNormal(loc, scale_tril=scale_tril),
        {"loc": RNG.normal(size=(K, 1, D)), "scale_tril": np.linalg.cholesky(covariance(K, 1))},
        RNG.normal(5, 3, (N, D)),
    ),
    "mvn_covariance": (
        dist.MultivariateNormal,
        {"loc": RNG.normal(size=(K, 1, D)), "covariance_matrix": covariance()},
        RNG.normal(5, 3, (N, D)),
    ),
    "mvn_precision": (
        lambda loc, precision_matrix: dist.MultivariateNormal(loc, precision_matrix=precision_matrix),
        {"loc": RNG.normal(size=(K, 1, D)), "precision_matrix": covariance(K, 1)},
        RNG.normal(5, 3, (N, D)),
    ),
    "mvn_low_rank": (
        dist.LowRankMultivariateNormal,
        {"loc": RNG.normal(size=(K, 1, D)), "cov_factor": RNG.normal(size=(K, 1, D, 2)), "cov_diag": positive(K, 1, D)},
        RNG.normal(5, 3, (N, D)),
    ),
    "categorical_probs": (dist.CategoricalProbs, {"probs": RNG.dirichlet(np.ones(D), (K, 1))}, RNG.integers(0, D, N)),
    "categorical_logits": (dist.CategoricalLogits, {"logits": RNG.normal(size=(K, 1, D))}, RNG.integers(0, D, N)),
    "bernoulli_probs": (dist.BernoulliProbs, {"probs": RNG.uniform(size=(K, 1, D))}, RNG.integers(0, 2, (N, D))),
    "bernoulli_logits": (dist.BernoulliLogits, {"logits": RNG.normal(size=(K, 1, D))}, RNG.integers(0, 2, (N, D))),
    "binomial_probs": (
        lambda probs: dist.BinomialProbs(probs, jnp.asarray(TOTALS)),
        {"probs": RNG.uniform(size=(K, 1))},
        RNG.integers(0, 4, N),
    ),
    "binomial_logits": (
        lambda logits: dist.BinomialLogits(logits, 9),
        {"logits": RNG.normal(size=(K, 1))},
        RNG.integers(0, 10, N),
    ),
    "multinomial_probs": (
        lambda probs: dist.MultinomialProbs(probs, 6),
        {"probs": RNG.dirichlet(np.ones(D), (K, 1))},
        RNG.multinomial(6, np.ones(D) / D, N),
    ),
    "multinomial_logits": (
        lambda logits: dist.MultinomialLogits(logits, 6),
        {"logits": RNG.normal(size=(K, 1, D))},
        RNG.multinomial(6, np.ones(D) / D, N),
    ),
    "poisson": (dist.Poisson, {"rate": positive(K, 1, D)}, RNG.poisson(3, (N, D))),
    "exponential": (dist.Exponential, {"rate": positive(K, 1)}, positive(N)),
    "gamma": (dist.Gamma, {"concentration": positive(), "rate": positive(K, 1)}, positive(N)),
    "chi2": (dist.Chi2, {"df": 2 + positive(K, 1)}, positive(N)),
    "scaled_counts": (
        lambda probs: ScaledCounts(probs, 6),
        {"probs": RNG.dirichlet(np.ones(D), (K, 1))},
        0.3 * RNG.multinomial(6, np.ones(D) / D, N),
    ),
}
IDENTITY = Frame(np.zeros(()), np.ones(()))
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def as_arrays(theta):
    return {name: jnp.asarray(value) for name, value in theta.items()}


def log_density(base, value, frame=None):
    """Log density at [k, n, ...] by the family's three parts."""
    family = family_of(base)
    frame = family.frame(value) if frame is None else frame
    eta, log_normaliser = family.natural(base, frame)
    return (
        contract(eta, family.statistics(base, value, frame)) - log_normaliser + family.base_measure(base, value, frame)
    )


def test_table_covers_every_family_and_class():
    seen = {type(make(**theta)) for make, theta, _ in CASES.values()}
    assert seen == {member for family in FAMILIES for member in family.members}


@every_case
def test_three_parts_sum_to_the_log_density(case):
    make, theta, value = case

    @jax.jit
    def densities(theta, value):
        base = make(**theta)
        return base.log_prob(value), log_density(base, value), log_density(base, value, IDENTITY)

    with jax.enable_x64(True):
        expected, framed, plain = densities(as_arrays(theta), jnp.asarray(value))
        np.testing.assert_allclose(framed, expected, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(plain, expected, rtol=1e-10, atol=1e-10)


@every_case
def test_float32_agrees_with_numpyro(case):
    make, theta, value = case
    theta = {name: np.float32(array) for name, array in theta.items()}
    both = jax.jit(lambda theta, value: (log_density(make(**theta), value), make(**theta).log_prob(value)))
    actual, expected = both(theta, jnp.asarray(value))
    assert actual.dtype == jnp.float32
    np.testing.assert_allclose(actual, expected, rtol=5e-5, atol=2e-4)


@every_case
def test_shapes_keep_the_size_one_data_axis(case):
    make, theta, value = case
    base, value = make(**as_arrays(theta)), jnp.asarray(value)
    family = family_of(base)

    def parts(value):
        frame = family.frame(value)
        return (
            family.statistics(base, value, frame),
            family.natural(base, frame),
            family.base_measure(base, value, frame),
        )

    t, (eta, log_normaliser), measure = jax.eval_shape(parts, value)
    value_batch = value.shape[: value.ndim - base.event_dim]
    assert t.shape[:-1] == value_batch == measure.shape
    assert eta.shape[-1] == t.shape[-1]
    assert eta.shape[:-1] == log_normaliser.shape
    assert log_normaliser.shape[:2] == (K, 1)


def derivatives(density, make, value, theta, direction):
    """First and second derivative, along a direction in parameter space, of a bounded function of the densities."""

    def objective(step):
        moved = jax.tree.map(lambda a, d: a + step * d, theta, direction)
        return jnp.sum(jnp.sin(1 + density(make(**moved), value)))

    return jnp.stack(jax.jvp(jax.grad(objective), (0.0,), (1.0,)))


@every_case
def test_first_and_second_derivatives_match_numpyro(case):
    make, theta, value = case

    @jax.jit
    def both(theta, direction, value):
        numpyro_density = lambda base, value: base.log_prob(value)  # noqa: E731
        return [derivatives(density, make, value, theta, direction) for density in (log_density, numpyro_density)]

    with jax.enable_x64(True):
        theta = as_arrays(theta)
        direction = jax.tree.map(lambda a: jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) * a, theta)
        for name in {"precision_matrix", "covariance_matrix"} & theta.keys():
            direction[name] = direction[name] + direction[name].swapaxes(-1, -2)
        actual, expected = both(theta, direction, jnp.asarray(value))
        np.testing.assert_allclose(actual, expected, rtol=1e-7)


def normal_normaliser(eta):
    return -jnp.square(eta[0]) / (4 * eta[1]) - 0.5 * jnp.log(-2 * eta[1]) + 0.5 * jnp.log(2 * jnp.pi)


def mvn_normaliser(eta):
    row, column = np.triu_indices(D)
    half = jnp.zeros((D, D)).at[row, column].set(-eta[D:])
    precision = half + half.T
    return (
        0.5 * eta[:D] @ jnp.linalg.solve(precision, eta[:D])
        - 0.5 * jnp.linalg.slogdet(precision)[1]
        + (0.5 * D * jnp.log(2 * jnp.pi))
    )


NORMALISERS = {
    "normal": normal_normaliser,
    "lognormal": normal_normaliser,
    "mvn_tril": mvn_normaliser,
    "mvn_precision": mvn_normaliser,
    "poisson": lambda eta: jnp.exp(eta[0]),
    "exponential": lambda eta: -jnp.log(-eta[0]),
    "gamma": lambda eta: gammaln(eta[0] + 1) - (eta[0] + 1) * jnp.log(-eta[1]),
}


def expected_under(base, frame):
    """E[t(y)] of the distribution itself, by textbook moments, one component and element."""
    if isinstance(base, dist.Poisson | dist.Exponential):
        return base.mean[..., None]
    if isinstance(base, dist.Gamma):
        return jnp.stack(jnp.broadcast_arrays(digamma(base.concentration) - jnp.log(base.rate), base.mean), -1)
    return family_of(base).expected_statistics(base, frame)


@pytest.mark.parametrize("name", NORMALISERS)
def test_expected_statistics_are_the_gradient_of_the_log_normaliser(name):
    make, theta, value = CASES[name]

    @jax.jit
    def both(theta, value):
        base = make(**theta)
        frame = family_of(base).frame(value)
        eta, log_normaliser = family_of(base).natural(base, frame)
        flat = eta.reshape(-1, eta.shape[-1])
        gradient = jax.vmap(jax.grad(NORMALISERS[name]))(flat).reshape(eta.shape)
        return (jax.vmap(NORMALISERS[name])(flat), gradient), (log_normaliser.ravel(), expected_under(base, frame))

    with jax.enable_x64(True):
        actual, expected = both(as_arrays(theta), jnp.asarray(value))
        np.testing.assert_allclose(actual[0], expected[0], rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(actual[1], np.broadcast_to(expected[1], actual[1].shape), rtol=1e-9, atol=1e-10)


REDUNDANT = ["bernoulli_probs", "bernoulli_logits", "binomial_logits", "categorical_logits", "multinomial_logits"]


@pytest.mark.parametrize("name", REDUNDANT)
def test_score_has_mean_zero_where_the_statistics_are_redundant(name):
    make, theta, _ = CASES[name]
    ((parameter, array),) = theta.items()
    trials = {"binomial_logits": 9, "multinomial_logits": 6}.get(name, 1)
    with jax.enable_x64(True):
        array = jnp.asarray(array)
        family = family_of(make(**{parameter: array}))
        p = make(**{parameter: array}).probs
        mean = trials * (p if name.startswith(("cat", "mult")) else jnp.stack([p, 1 - p], -1))
        score = jax.grad(lambda a: contract(family.natural(make(**{parameter: a}), IDENTITY)[0], mean).sum())(array)
        np.testing.assert_allclose(score, 0.0, atol=1e-10)


LOC = RNG.normal(size=(5, D)).astype(np.float32)
ROW = np.array([True, False, True, True, False])
COLUMN = np.array([True, True, False, True])
GRID = RNG.integers(0, 2, (5, D)).astype(bool)
NESTINGS = {
    "plain": lambda: dist.Normal(LOC, 2.0),
    "independent": lambda: dist.Normal(LOC, 2.0).to_event(1),
    "expanded_in_independent": lambda: dist.Normal(1.0, 2.0).expand([5, D]).to_event(1),
    "expanded_out_of_independent": lambda: ExpandedDistribution(dist.Normal(LOC[0], 2.0).to_event(1), (5,)),
    "interstitial": lambda: ExpandedDistribution(dist.Normal(LOC[:1], 2.0).to_event(1), (5,)),
    "row_mask": lambda: dist.Normal(LOC, 2.0).to_event(1).mask(ROW),
    "column_mask": lambda: ExpandedDistribution(dist.Normal(LOC[0], 2.0).mask(COLUMN).to_event(1), (5,)),
    "both_masks": lambda: dist.Normal(LOC, 2.0).mask(GRID).to_event(1).mask(ROW),
    "mask_that_expands": lambda: dist.Normal(LOC[0], 2.0).to_event(1).mask(ROW),
    "true_mask": lambda: dist.Normal(LOC, 2.0).to_event(1).mask(True),
    "false_mask": lambda: dist.Normal(LOC, 2.0).mask(GRID).to_event(1).mask(False),
    "two_independents": lambda: dist.Normal(LOC, 2.0).to_event(1).mask(ROW).to_event(1),
    "expanded_mask_expanded": lambda: dist.Normal(LOC[:1], 2.0).mask(COLUMN).expand([5, D]).to_event(1).mask(ROW),
    "mvn": lambda: dist.MultivariateNormal(LOC[0], np.eye(D) * 3.0).expand([5]).mask(ROW).to_event(1),
    "lognormal": lambda: dist.LogNormal(LOC, 0.5).mask(GRID).to_event(1),
    "multinomial": lambda: dist.Multinomial(3, probs=np.full(D, 0.25)).expand([5]).mask(ROW),
}


@pytest.mark.parametrize("nesting", NESTINGS.values(), ids=NESTINGS.keys())
def test_unwrapped_elements_sum_to_the_wrapped_log_prob(nesting):
    fn = nesting()
    atom = unwrap(fn)
    family = family_of(atom.base)

    @jax.jit
    def both(key):
        value = fn.sample(key)
        frame = family.frame(value) if fn.batch_shape else IDENTITY
        shape = atom.batch_shape + atom.event_shape[: atom.event_dims]
        element = jnp.broadcast_to(log_density(atom.base, value, frame), shape)
        element = element if atom.mask is None else jnp.where(atom.mask, element, 0.0)
        return element.sum(tuple(range(-atom.event_dims, 0))), fn.log_prob(value)

    total, expected = both(jax.random.key(1))
    assert total.shape == atom.batch_shape == fn.batch_shape
    np.testing.assert_allclose(total, expected, rtol=1e-5, atol=1e-5)


def test_unwrap_reports_masks_only_where_there_are_any():
    assert unwrap(dist.Normal(LOC, 2.0).to_event(1).mask(True)).mask is None
    assert unwrap(dist.Normal(LOC, 2.0).mask(GRID).to_event(1).mask(False)).mask is False
    assert unwrap(dist.Normal(LOC, 2.0).to_event(1).mask(ROW)).mask.shape == (5, 1)


def test_family_of_refuses_unknown_and_derived_classes():
    class Shifted(dist.Normal):
        def log_prob(self, value):
            return super().log_prob(value) - 1.0

    assert family_of(dist.StudentT(3.0)) is None
    assert family_of(dist.HalfNormal(1.0)) is None
    assert family_of(Shifted(0.0, 1.0)) is None


FACTORS = {
    "normal": (dist.Normal(0, 1), dist.Normal(LOC, 0.7)),
    "normal_expanded": (dist.Normal(0, 1), dist.Normal(LOC[:1], 0.7).expand([5, D]).to_event(1)),
    "normal_from_mvn": (dist.Normal(0, 1), dist.MultivariateNormal(LOC, covariance().astype(np.float32))),
    "mvn": (
        dist.MultivariateNormal(np.zeros(D), np.eye(D)),
        dist.MultivariateNormal(LOC, covariance().astype(np.float32)),
    ),
    "mvn_from_normal": (dist.MultivariateNormal(np.zeros(D), np.eye(D)), dist.Normal(LOC, 0.7).to_event(1)),
    "lognormal": (dist.LogNormal(0, 1), dist.LogNormal(LOC, 0.7).to_event(1)),
}


@pytest.mark.parametrize("base, q", FACTORS.values(), ids=FACTORS.keys())
def test_expected_statistics_match_monte_carlo(base, q):
    family = family_of(base)
    frame = Frame(np.arange(1.0, D + 1), np.array([0.5, 1.0, 2.0, 3.0]))

    @jax.jit
    def both(key):
        t = family.statistics(base, q.sample(key, (20_000,)), frame)
        return t.mean(0), t.std(0) / jnp.sqrt(20_000), family.expected_statistics(q, frame)

    mean, error, expected = both(jax.random.key(7))
    assert expected.shape == mean.shape
    # fixed seed; 5 standard errors on fewer than 500 numbers in all: false alarms under 3e-4
    assert (np.abs(mean - expected) < 5 * error).all()


def test_factors_without_a_closed_form_are_refused():
    frame = IDENTITY
    assert family_of(dist.Normal(0, 1)).expected_statistics(dist.StudentT(5.0), frame) is None
    assert family_of(dist.LogNormal(0, 1)).expected_statistics(dist.Normal(0, 1), frame) is None
    assert family_of(dist.Gamma(2.0, 1.0)).expected_statistics(dist.Gamma(2.0, 1.0), frame) is None


def test_precision_matrix_is_used_as_given():
    precision = covariance().astype(np.float32)
    base = dist.MultivariateNormal(np.zeros(D, np.float32), precision_matrix=precision)
    eta, _ = family_of(base).natural(base, Frame(jnp.zeros(D), jnp.ones(D)))
    row, column = np.triu_indices(D)
    np.testing.assert_array_equal(eta[D:], -precision[row, column] * np.where(row == column, 0.5, 1.0))


def test_categorical_eta_is_a_normalised_log_probability():
    base = dist.CategoricalLogits(jnp.array([1e4, 1e4 + 1.0, -1e4]))
    eta, _ = family_of(base).natural(base, IDENTITY)
    np.testing.assert_allclose(logsumexp(eta), 0.0, atol=1e-6)
