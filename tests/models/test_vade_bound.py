"""VaDE's bound, term by term as published, against the library's free energy.

    L(x) = E_q[log p(x|z)] + sum_k g_k E_q[log p(z|c=k)] + sum_k g_k log w_k - E_q[log q(z|x)] - sum_k g_k log g_k

Source: Jiang et al. (2017), the bound written out term by term; the reconstruction is taken at one draw, as there.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro import handlers

import vmix
from vmix.free_energy import evaluate
from vmix.inference import EM, SVI
from vmix.log_joint import guide_factors
from vmix.models import VaDE
from vmix.plan import make_plan

K, DIM, ROWS, PIXELS = 3, 2, 12, 6
LOG_2PI = np.log(2 * np.pi)


@pytest.fixture(scope="module")
def setting():
    rng = np.random.default_rng(0)
    x = rng.random((ROWS, PIXELS)).astype(np.float32)
    plan = make_plan(
        VaDE(num_components=K, latent_dim=DIM, hidden=(8,), covariance="diagonal", views=1), (x,), key=jax.random.key(0)
    )
    theta = {
        "w": jnp.array([0.5, 0.3, 0.2]),
        "loc": jnp.asarray(rng.normal(size=(K, DIM)), jnp.float32),
        "precision": jnp.asarray(rng.gamma(3.0, 0.5, (K, DIM)), jnp.float32),
    }
    return plan, theta, x, jax.random.key(7)


def encoder_moments(setting):
    """The draw z, and mean and variance of q(z | x), in float64."""
    plan, _, x, key = setting
    latents, factors = guide_factors(plan, plan.params, (x,), key=key)
    return (np.asarray(a, np.float64) for a in (latents["z"], factors["z"].mean, factors["z"].variance))


def reconstruction(setting, z):
    """log p(x | z) through the decoder's own weights: one hidden layer, Bernoulli pixels (grey values as fractions)."""
    plan, _, x, _ = setting
    leaves = {jax.tree_util.keystr(p): np.asarray(v, np.float64) for p, v in _leaves(plan.params["decoder$params"])}
    kernels = [v for _, v in sorted(leaves.items()) if v.ndim == 2]
    biases = [v for _, v in sorted(leaves.items()) if v.ndim == 1]
    logits = np.maximum(z @ kernels[0] + biases[0], 0) @ kernels[1] + biases[1]
    return (x * logits - np.logaddexp(0, logits)).sum(1)


def _leaves(tree):
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def expected_log_components(theta, mean, variance):
    """E_q[log p(z | c = k)] at [n, k], shape (N, K)."""
    loc, tau = (np.asarray(theta[n], np.float64)[None] for n in ("loc", "precision"))
    squares = (mean[:, None] - loc) ** 2 + variance[:, None]
    return 0.5 * (np.log(tau) - LOG_2PI - tau * squares).sum(-1)


def normalised(log_weights):
    weights = np.exp(log_weights - log_weights.max(1, keepdims=True))
    return weights / weights.sum(1, keepdims=True)


def test_five_terms_sum_to_the_free_energy(setting):
    plan, theta, x, key = setting
    z, mean, variance = encoder_moments(setting)
    log_w = np.log(np.asarray(theta["w"], np.float64))
    components = expected_log_components(theta, mean, variance)
    g = normalised(components + log_w)
    terms = {
        "reconstruction": reconstruction(setting, z),
        "E log p(z | c)": (g * components).sum(1),
        "E log p(c)": g @ log_w,
        "- E log q(z | x)": 0.5 * (LOG_2PI + np.log(variance) + 1).sum(1),
        "- E log q(c | x)": -(g * np.log(g)).sum(1),
    }
    result = evaluate(plan, theta, plan.params, (x,), key=key)
    np.testing.assert_allclose(result.terms.shared, terms["reconstruction"], atol=1e-4)
    np.testing.assert_allclose(result.assigned.shares, g, atol=1e-5)
    np.testing.assert_allclose(result.per_datum, sum(terms.values()), atol=1e-4)


def bound_at_draw(setting, logits):
    """The bound with every term at one z, for any q(c | x) = softmax(logits); shape (N,)."""
    plan, theta, _, _ = setting
    z, mean, variance = encoder_moments(setting)
    log_q_z = -0.5 * (LOG_2PI + np.log(variance) + (z - mean) ** 2 / variance).sum(1)
    log_p = jnp.asarray(expected_log_components(theta, z, np.zeros_like(z))) + jnp.log(theta["w"])
    log_g = jax.nn.log_softmax(logits, axis=1)
    rest = reconstruction(setting, z) - log_q_z
    return jnp.asarray(rest) + (jnp.exp(log_g) * (log_p - log_g)).sum(1), log_p


def test_posterior_of_c_given_z_is_stationary_and_gives_the_sampled_bound(setting):
    plan, theta, x, key = setting
    _, log_p = bound_at_draw(setting, jnp.zeros((ROWS, K)))
    slope = jax.grad(lambda logits: bound_at_draw(setting, logits)[0].sum())
    result = evaluate(plan, theta, plan.params, (x,), key=key, sampled=True)
    np.testing.assert_allclose(result.assigned.shares, jax.nn.softmax(log_p, 1), atol=1e-5)
    np.testing.assert_allclose(slope(jnp.log(result.assigned.shares)), 0.0, atol=1e-5)
    assert jnp.abs(slope(jnp.zeros((ROWS, K)))).max() > 1e-2  # elsewhere it is not
    np.testing.assert_allclose(result.per_datum, bound_at_draw(setting, log_p)[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [EM(num_sweeps=2), SVI(num_steps=3)])
def test_learned_weights_stay_on_the_simplex(engine, setting):
    model = VaDE(num_components=K, latent_dim=DIM, hidden=(8,), covariance="diagonal", views=1, pretrain_epochs=1)
    fit = vmix.fit(model, np.random.default_rng(1).random((40, PIXELS)), engine=engine, seed=0)
    assert fit.posterior["w"].min() > 0.0
    assert fit.posterior["w"].sum() == pytest.approx(1.0, abs=1e-5)


def test_uniform_weights_are_no_site_and_learned_ones_are():
    x = np.random.default_rng(2).random((5, PIXELS)).astype(np.float32)
    for weights, expected in (("uniform", False), ("learned", True)):
        model = VaDE(num_components=K, latent_dim=DIM, hidden=(8,), covariance="diagonal", weights=weights)
        trace = handlers.trace(handlers.seed(model.model, 0)).get_trace(x)
        assert ("w" in trace) is expected
    assert VaDE().recipe.views == 2 and VaDE(views=1).recipe.views == 1
    with pytest.raises(ValueError, match='weights=. must be "learned" or "uniform", found \'even\''):
        VaDE(weights="even")
