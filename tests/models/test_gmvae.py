"""GMVAE's bound, term by term as published, against the library's free energy; and the classes it finds.

    L(x) = E_q[log p(x|z)] - E_q[sum_k p(c=k|z,w) KL(q(z|x) || p(z|w,c=k))]
           - KL(q(w|x) || p(w)) - E_q[KL(p(c|z,w) || 1/K)]

Source: Dilokthanakul et al. (2016), equation 3; every expectation is taken at one draw of z and w.
"""

import jax
import numpy as np
import pytest

import vmix
from vmix.free_energy import evaluate
from vmix.inference import EM, SVI
from vmix.log_joint import guide_factors
from vmix.metrics import nmi
from vmix.models import GMVAE
from vmix.plan import make_plan
from vmix.pretraining import Corruption, Data, reconstruction

K, DIM, MIXTURE_DIM, ROWS, PIXELS = 3, 2, 4, 12, 6
RELAXATIONS = [None, "soft", "hard"]


def plan_of(relaxation, x):
    model = GMVAE(
        num_components=K,
        latent_dim=DIM,
        mixture_dim=MIXTURE_DIM,
        hidden=(8,),
        mixture_hidden=(5,),
        relaxation=relaxation,
    )
    return make_plan(model, (x,), key=jax.random.key(0))


@pytest.fixture(scope="module")
def setting():
    x = np.random.default_rng(0).random((ROWS, PIXELS)).astype(np.float32)
    return plan_of(None, x), x, jax.random.key(7)


def weights(plan, network, part):
    """Kernel and bias of one layer, in float64."""
    leaves = jax.tree_util.tree_flatten_with_path(plan.params[f"{network}$params"])[0]
    found = [np.asarray(v, np.float64) for path, v in leaves if part in jax.tree_util.keystr(path)]
    kernel, bias = sorted(found, key=lambda a: -a.ndim)
    return kernel, bias


def relu(x, layer):
    return np.maximum(x @ layer[0] + layer[1], 0)


def log_normal(x, loc, scale):
    return (-0.5 * np.log(2 * np.pi) - np.log(scale) - 0.5 * ((x - loc) / scale) ** 2).sum(-1)


def log_decoded(plan, x, z):
    """log p(x | z) through the decoder's own weights: Bernoulli pixels, grey values as fractions."""
    first, last = (weights(plan, "decoder", f"layers'][{i}]") for i in (0, 1))
    logits = relu(z, first) @ last[0] + last[1]
    return (x * logits - np.logaddexp(0, logits)).sum(1)


def components(plan, w):
    """loc_k(w) and scale_k(w) at [n, k], shape (N, K, DIM)."""
    loc, scale = (weights(plan, "components", f"['{part}']") for part in ("loc", "scale"))
    h = relu(w, weights(plan, "components", "['body']"))
    shape = (len(w), K, DIM)
    return (h @ loc[0] + loc[1]).reshape(shape), 1e-3 + np.logaddexp(0, h @ scale[0] + scale[1]).reshape(shape)


def test_four_terms_sum_to_the_free_energy(setting):
    plan, x, key = setting
    latents, factors = guide_factors(plan, plan.params, (x,), key=key)
    z, w = (np.asarray(latents[name], np.float64) for name in ("z", "w"))
    moments = {n: (np.asarray(f.mean, np.float64), np.sqrt(np.asarray(f.variance))) for n, f in factors.items()}
    log_p_z = log_normal(z[:, None], *components(plan, w))
    g = np.exp(log_p_z - log_p_z.max(1, keepdims=True))
    g /= g.sum(1, keepdims=True)  # p(c = k | z, w)
    terms = {
        "reconstruction": log_decoded(plan, x, z),
        "conditional prior": (g * (log_p_z - log_normal(z, *moments["z"])[:, None])).sum(1),
        "w prior": log_normal(w, 0.0, 1.0) - log_normal(w, *moments["w"]),
        "c prior": -(g * np.log(K * g)).sum(1),
    }
    result = evaluate(plan, {}, plan.params, (x,), key=key, sampled=True)
    np.testing.assert_allclose(result.assigned.shares, g, atol=1e-5)
    np.testing.assert_allclose(result.terms.shared, terms["reconstruction"], atol=1e-4)
    np.testing.assert_allclose(result.per_datum, sum(terms.values()), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_divergence_s_weight_is_on_all_but_the_reconstruction(relaxation, setting):
    _, x, key = setting
    plan = plan_of(relaxation, x)
    latents, factors = guide_factors(plan, plan.params, (x,), key=key)
    result = evaluate(plan, {}, plan.params, (x,), key=key, sampled=True, kl_weight=0.0)
    np.testing.assert_allclose(result.per_datum, log_decoded(plan, x, np.asarray(latents["z"])), atol=1e-4)
    means = np.asarray(factors["z"].mean)
    rows = Data((x,), None, None)
    trained_on = reconstruction(plan, {}, plan.params, rows, corruption=Corruption(0.0, 0.0), key=key)
    np.testing.assert_allclose(trained_on, log_decoded(plan, x, means), atol=1e-4)


@pytest.fixture(scope="module")
def three_classes():
    """Bits in three blocks of ten, each on in one class and off in the others, five in a hundred flipped."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 300)
    on = np.repeat(np.eye(3), 10, axis=1)[y]
    return np.abs(on - (rng.random(on.shape) < 0.05)), y


def small(**options):
    return GMVAE(num_components=K, latent_dim=DIM, hidden=(32,), mixture_hidden=(16,), **options)


ENGINES = {"SVI": SVI(num_steps=1500, learning_rate=3e-3), "EM": EM(num_sweeps=500, learning_rate=3e-3)}


@pytest.mark.slow
@pytest.mark.parametrize("relaxation", RELAXATIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_separate_classes_are_found(engine, relaxation, three_classes):
    x, y = three_classes
    fit = vmix.fit(small(relaxation=relaxation), x, engine=ENGINES[engine], seed=0)
    assert np.isfinite(fit.history["objective"]).all()
    assert nmi(y, fit.predict(x)) > 0.6
    assert fit.transform(x).shape == (len(x), DIM)
    class_of = fit.predict(fit.sample(60, component=1, seed=1))
    assert (class_of == 1).mean() > 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relaxation": "gumbel"}, r'relaxation=\) must be "soft" or "hard", or None, found \'gumbel\''),
        ({"temperature": 0.0}, r"temperature=\) must be a finite number above 0, found 0.0"),
        ({"prior_temperature": -1.0}, r"prior_temperature=\) must be a finite number above 0, found -1.0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        GMVAE(**options)
