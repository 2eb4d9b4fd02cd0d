"""Exponential families at the edges: hard zeros, large offsets, extreme units, missing entries."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from vmix.families import Frame, contract, family_of, inner

K, N, D = 3, 7, 4
RNG = np.random.default_rng(20240502)


def log_density(base, value, frame=None):
    """Log density at [k, n, ...] by the family's three parts."""
    family = family_of(base)
    frame = family.frame(value) if frame is None else frame
    eta, log_normaliser = family.natural(base, frame)
    return (
        contract(eta, family.statistics(base, value, frame)) - log_normaliser + family.base_measure(base, value, frame)
    )


def unchecked(make, logits):
    return make(np.array(logits), validate_args=False)


ZEROS = {
    "bernoulli_probs": (dist.BernoulliProbs(np.array([0.0, 1.0])), [0, 0], [0.0, -np.inf]),
    "bernoulli_probs_ones": (dist.BernoulliProbs(np.array([0.0, 1.0])), [1, 1], [-np.inf, 0.0]),
    "bernoulli_grey": (dist.BernoulliProbs(np.array([0.5, 1.0])), [0.25, 0.25], [np.log(0.5), -np.inf]),
    "bernoulli_logits": (
        dist.BernoulliLogits(np.array([-np.inf, np.inf]), validate_args=False),
        [0, 0],
        [0.0, -np.inf],
    ),
    "binomial": (dist.BinomialProbs(np.array([0.0, 1.0, 1.0]), 3), [0, 3, 2], [0.0, 0.0, -np.inf]),
    "categorical": (dist.CategoricalProbs(np.array([0.0, 1.0])), [0, 1, 2, -1], [-np.inf, 0.0, -np.inf, -np.inf]),
    "categorical_logits": (
        dist.CategoricalLogits(np.array([-np.inf, 3.0]), validate_args=False),
        [0, 1],
        [-np.inf, 0.0],
    ),
    "multinomial": (dist.MultinomialProbs(np.array([0.0, 1.0]), 2), [[0, 2], [1, 1]], [0.0, -np.inf]),
    "poisson": (dist.Poisson(np.array([0.0, 0.0])), [0, 2], [0.0, -np.inf]),
}


@pytest.mark.parametrize("base, value, expected", ZEROS.values(), ids=ZEROS.keys())
def test_hard_zeros_are_exact(base, value, expected):
    np.testing.assert_allclose(
        jax.jit(lambda x: log_density(base, x))(np.asarray(value)), expected, rtol=1e-6, atol=1e-6
    )


def test_gradients_stay_finite_beside_hard_zeros():
    frame = Frame(jnp.zeros(()), jnp.ones(()))
    for make, theta, s in (
        (dist.BernoulliProbs, [0.0, 1.0, 0.5], [[0.0, 2.0], [2.0, 0.0], [1.0, 1.0]]),
        (dist.CategoricalProbs, [0.0, 0.25, 0.75], [0.0, 1.0, 3.0]),
        (dist.Poisson, [0.0, 2.0], [[0.0], [3.0]]),
    ):

        def objective(theta, make=make, s=s):
            base = make(theta, validate_args=False)
            eta, log_normaliser = family_of(base).natural(base, frame)
            return contract(eta, jnp.asarray(s)).sum() - log_normaliser.sum()

        theta = jnp.asarray(theta)
        derivatives = jax.jit(lambda theta, f=objective: (f(theta), jax.grad(f)(theta), jax.hessian(f)(theta)))
        assert all(np.isfinite(array).all() for array in derivatives(theta))


def test_inner_matches_brute_force_with_and_without_impossible_entries():
    eta = RNG.normal(size=(K, 5)).astype(np.float32)
    t = RNG.integers(0, 3, (N, 5)).astype(np.float32)
    for eta_case in (eta, np.where(RNG.uniform(size=eta.shape) < 0.3, -np.inf, eta).astype(np.float32)):
        brute = [[sum(e * x for e, x in zip(row, datum, strict=True) if x > 0) for row in eta_case] for datum in t]
        np.testing.assert_allclose(jax.jit(inner)(eta_case, t), brute, rtol=1e-5, atol=1e-5)
        batched = jax.vmap(inner, (0, None))(jnp.stack([eta_case, eta]), t)
        np.testing.assert_allclose(batched[0], brute, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(jax.vmap(lambda row, e=eta_case: contract(e, row))(t), brute, rtol=1e-5, atol=1e-5)


def test_inner_has_finite_gradients_beside_impossible_entries():
    eta, t = jnp.array([[0.5, -jnp.inf], [1.0, 2.0]]), jnp.array([[1.0, 0.0], [2.0, 0.0]])
    for gradient in jax.grad(lambda eta, t: inner(eta, t).sum(), (0, 1))(eta, t):
        assert np.isfinite(gradient).all()


def test_binomial_refuses_trials_that_differ_by_component():
    base = dist.BinomialProbs(jnp.full((K, 1), 0.5), jnp.arange(1, K + 1)[:, None])
    with pytest.raises(ValueError, match="total_count has shape"):
        log_density(base, jnp.zeros(N))


def mixture(full, offset):
    rng = np.random.default_rng(3)
    centres, scale = rng.normal(0, 3, (K, 1, D)), rng.uniform(0.5, 2.0, (K, 1, D))
    x = (centres[rng.integers(0, K, 2000), 0] + rng.normal(size=(2000, D)) + offset).astype(np.float32)
    loc = (centres + offset).astype(np.float32)
    rotation = np.tril(rng.normal(0, 0.3, (D, D)), -1) + np.eye(D)
    return x, loc, (scale[..., None] * rotation).astype(np.float32) if full else scale.astype(np.float32)


def gaussian(loc, spread, full):
    return dist.MultivariateNormal(loc, scale_tril=spread) if full else dist.Normal(loc, spread)


def unary(x, loc, spread, full):
    matrix = jax.jit(lambda x, loc, spread: log_density(gaussian(loc, spread, full), x))(x, loc, spread)
    return np.asarray(matrix if full else matrix.sum(-1))


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_an_offset_of_ten_thousand_costs_no_digits(full):
    x, loc, spread = mixture(full, 1e4)
    actual = unary(x, loc, spread, full)
    assert actual.dtype == np.float32
    with jax.enable_x64(True):
        reference = gaussian(np.float64(loc), np.float64(spread), full).log_prob(np.float64(x))
        reference = np.asarray(reference if full else reference.sum(-1))
    near = reference > -100  # a float32 keeps seven digits, so the claim is about terms that matter
    assert np.abs(actual - reference)[near].max() < 1e-3
    assert (near.mean() > 0.5) and np.allclose(actual, reference, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
def test_an_offset_changes_nothing_but_the_means(full):
    x, loc, spread = mixture(full, 0.0)
    x, loc = np.round(x * 1024) / 1024, np.round(loc * 1024) / 1024  # so that the sum with the offset is exact
    shifted = unary(np.float32(x + 1e4), np.float32(loc + 1e4), spread, full)
    plain = unary(x, loc, spread, full)
    near = plain > -100
    assert np.abs(plain - shifted)[near].max() < 1e-2


def test_frame_survives_extreme_scales_missing_entries_and_constants():
    column = RNG.normal(2.0, 1.0, 50)
    missing = np.where(np.arange(50) % 7 == 0, np.nan, column)
    x = np.stack([column * 1e20, column * 1e-20, missing, np.full(50, 0.1), np.full(50, np.nan), column + 1e4], -1)
    frame = jax.jit(family_of(dist.Normal(0.0, 1.0)).frame)(np.float32(x))
    shift, scale, unit = np.asarray(frame.shift), np.asarray(frame.scale), [1e20, 1e-20, 1.0]
    np.testing.assert_allclose(shift[:3] / unit, [column.mean(), column.mean(), np.nanmean(missing)], rtol=1e-5)
    np.testing.assert_allclose(scale[:3] / unit, [column.std(), column.std(), np.nanstd(missing)], rtol=1e-5)
    assert shift[3] == np.float32(0.1) and scale[3] == 1.0
    assert shift[4] == 0.0 and scale[4] == 1.0
    np.testing.assert_allclose([shift[5], scale[5]], [column.mean() + 1e4, column.std()], rtol=1e-3)


@pytest.mark.parametrize("full", [False, True], ids=["diagonal", "full"])
@pytest.mark.parametrize("unit", [1e20, 1e-20])
def test_log_density_survives_extreme_units(unit, full):
    x = np.float32(RNG.normal(2.0, 1.0, (50, D)) * unit)
    loc, spread = np.full(D, 2.0 * unit, np.float32), np.full(D, unit, np.float32)
    actual = unary(x, loc, np.diag(spread) if full else spread, full)
    with jax.enable_x64(True):
        reference = np.asarray(dist.Normal(2.0 * unit, unit).log_prob(np.float64(x)).sum(-1))
    np.testing.assert_allclose(actual, reference, rtol=1e-5, atol=1e-4)


def test_missing_entries_leave_other_columns_alone():
    x = RNG.normal(size=(20, 2)).astype(np.float32)
    holed = x.copy()
    holed[3, 0] = np.nan
    family = family_of(dist.Normal(0.0, 1.0))
    assert family.frame(holed).shift[1] == family.frame(x).shift[1]
    assert np.isfinite(family.frame(holed).scale).all()
