"""Programs as strangers write them: densities against NumPyro's own, summed over every assignment; or refused in words.

The sum takes NumPyro's `enumerate_support` and `log_density`, one assignment at a time, and nothing of vmix.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from jax.scipy.special import logsumexp
from numpyro import handlers
from numpyro.contrib.control_flow import scan
from numpyro.contrib.module import nnx_module
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density

import vmix
from vmix.assignments import given
from vmix.distributions import MarkovChain
from vmix.free_energy import evaluate
from vmix.inference import EM, SVI, Gibbs
from vmix.inference.elbo import EnumeratedELBO, global_guide
from vmix.log_joint import Batch, gather, site_density
from vmix.plan import make_plan
from vmix.predicting import CHUNK_ROWS
from vmix.program import ProgramError

X = np.array([0.3, -1.2, 2.1], np.float32)
XY = np.array([[0.3, 1.0], [-1.2, 0.4], [2.1, -0.7]], np.float32)
COUNTS, TRIALS, EXPOSURE = np.array([1, 4, 0]), np.array([4, 5, 6]), np.array([1.0, 2.5, 0.7], np.float32)
sample = numpyro.sample


def weights():
    return sample("w", dist.Dirichlet(jnp.array([2.0, 1.5])))


def locs(*shape):
    return sample("m", dist.Normal(0.0, 2.0).expand(shape).to_event(len(shape)))


def masked_prior(x):
    with handlers.mask(mask=False):
        w = weights()
    m = locs(2)
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(m[sample("c", dist.Categorical(w))], 1.0), obs=x)


def observes_a_difference(x):
    shift, m = sample("shift", dist.Normal(0.0, 2.0)), locs(2)
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(m[sample("c", dist.Bernoulli(0.3))], 1.0), obs=x - shift)


def change_point(x):
    when, m = sample("when", dist.Uniform(0.0, 3.0)), locs(2)
    with numpyro.plate("data", x.shape[0]):
        c = sample("c", dist.Bernoulli(0.3))
        for i, mask in enumerate((jnp.arange(3) < when, jnp.arange(3) >= when)):
            sample(f"x{i}", dist.Normal(m[c] + i, 1.0).mask(mask), obs=x)


def improper_and_ordered(x):
    m = sample("m", dist.ImproperUniform(dist.constraints.ordered_vector, (), (2,)))
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(m[sample("c", dist.Bernoulli(0.3))], 1.0), obs=x)


def latent_of_a_component(x):
    m = locs(2)
    with numpyro.plate("data", x.shape[0]):
        z = sample("z", dist.Normal(m[sample("c", dist.Bernoulli(0.3))], 1.0))
        sample("x", dist.Normal(z, 0.5), obs=x)


def binomials_with_trials(counts, trials):
    p = sample("p", dist.Beta(2.0, 2.0).expand([2]).to_event(1))
    with numpyro.plate("data", counts.shape[0]):
        sample("x", dist.Binomial(trials, p[sample("c", dist.Bernoulli(0.3))]), obs=counts)


def rates_with_exposure(counts, exposure):
    with numpyro.plate("components", 2):
        rate = sample("rate", dist.Gamma(2.0, 1.0))
    with numpyro.plate("data", counts.shape[0]):
        sample("x", dist.Poisson(rate[sample("c", dist.Categorical(jnp.array([0.3, 0.7])))] * exposure), obs=counts)


def columns_in_a_plate(x):
    columns = numpyro.plate("columns", 2, dim=-1)
    with columns, numpyro.plate("components", 2, dim=-2):
        m = sample("m", dist.Normal(0.0, 10.0))
    with numpyro.plate("data", x.shape[0], dim=-2):
        c = sample("c", dist.Bernoulli(0.3))
        with columns:
            sample("x", dist.Normal(m[c, jnp.arange(2)], 1.0), obs=x)


def two_sites(x):
    m, v = locs(2, 3), sample("v", dist.Dirichlet(jnp.ones(3)).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        a = sample("a", dist.Categorical(jnp.array([0.3, 0.7])))
        sample("x", dist.Normal(m[a, sample("b", dist.Categorical(v[a]))], 1.0), obs=x)


def factors(x):
    m = locs(2)
    with numpyro.plate("data", x.shape[0]):
        c = sample("c", dist.Bernoulli(0.3))
        sample("x", dist.Normal(m[c], 1.0), obs=x)
        numpyro.factor("every", -0.1 * m.sum() ** 2)
        numpyro.factor("some", jnp.where(c == 1, 0.3 * m[0], 0.0))
    numpyro.factor("once", -0.5 * m[0])


def correlated(x):
    root, m = sample("root", dist.LKJCholesky(2, 2.0)), locs(2, 2)
    scale = sample("scale", dist.LogNormal(0.0, 1.0).expand([2]).to_event(1))
    with numpyro.plate("data", x.shape[0]):
        loc = m[sample("c", dist.Bernoulli(0.3))]
        sample("x", dist.MultivariateNormal(loc, scale_tril=scale[:, None] * root), obs=x)


CHEAP = [(masked_prior, X), (observes_a_difference, X)]
DEAR = [
    (change_point, X),
    (improper_and_ordered, X),
    (latent_of_a_component, X),
    (binomials_with_trials, COUNTS, TRIALS),
    (rates_with_exposure, COUNTS, EXPOSURE),
    (columns_in_a_plate, XY),
    (two_sites, X),
    (factors, X),
    (correlated, XY),
]


def moved(plan, key):
    """Values of the globals off the plan's first ones."""
    values = {}
    for i, (name, value) in enumerate(plan.initial.items()):
        transform = biject_to(plan.supports[name])
        free = transform.inv(value)
        values[name] = transform(free + 0.4 * jax.random.normal(jax.random.fold_in(key, i), free.shape))
    return values


def assignments(program, args):
    """Every assignment of the discrete sites, by site, shape (assignments, *batch)."""
    model = handlers.substitute(handlers.seed(program, 0), substitute_fn=numpyro.infer.init_to_uniform)
    sites = [s for s in handlers.trace(model).get_trace(*args).values() if s["type"] == "sample"]
    hidden = [s for s in sites if not s["is_observed"] and s["fn"].support.is_discrete]
    each = [s["fn"].enumerate_support(expand=False).ravel() for s in hidden for _ in range(s["value"].size)]
    every = np.array(list(itertools.product(*each)))
    parts = np.split(every, np.cumsum([s["value"].size for s in hidden])[:-1], axis=1)
    return {s["name"]: jnp.asarray(p.reshape(-1, *s["value"].shape)) for s, p in zip(hidden, parts, strict=True)}


@pytest.mark.parametrize(
    ("program", "data"),
    [pytest.param(f, d, id=f.__name__) for f, *d in CHEAP]
    + [pytest.param(f, d, id=f.__name__, marks=pytest.mark.slow) for f, *d in DEAR],
)
def test_density_is_numpyros_summed_over_assignments(program, data):
    plan, args = make_plan(program, tuple(data), key=jax.random.key(0)), tuple(map(jnp.asarray, data))
    every, batch, num_rows = assignments(program, args), Batch(args, {}, {}), len(data[0])
    states = jnp.arange(num_rows) % plan.layout.num_states

    def naive(values):
        return log_density(handlers.seed(program, 0), args, {}, values)[0]

    def compute(a, b):
        found = evaluate(plan, a, {}, args, key=jax.random.key(0))
        both = [found.per_datum.sum() + found.log_prior, logsumexp(jax.lax.map(lambda c: naive({**a, **c}), every))]
        expected = gather(plan, found.terms, given(plan.layout, found.terms, states, key=None), key=None)
        fixed = plan.layout.values_of(states)
        for name in plan.globals:
            density = site_density(plan, name, a, {}, batch, expected)
            both += [density(b[name]) - density(a[name]), naive({**a, name: b[name], **fixed}) - naive({**a, **fixed})]
        return jnp.stack(both)

    with numpyro.validation_enabled(False):
        a, b = jax.jit(lambda: (moved(plan, jax.random.key(1)), moved(plan, jax.random.key(2))))()
        found = np.asarray(jax.jit(compute)(a, b)).reshape(-1, 2)
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=1e-4, atol=1e-4)


def one_density(x):
    scale = sample("scale", dist.Gamma(2.0, 2.0))
    sample("x", dist.MultivariateNormal(jnp.zeros(3), scale * jnp.eye(3) + 0.3), obs=x)


def test_without_a_data_plate_the_prior_weighs_what_it_should():
    plan, args, values = make_plan(one_density, (X,), key=jax.random.key(0)), (jnp.asarray(X),), {"scale": 0.7}
    wanted = log_density(one_density, args, {}, values)[0] / len(X)
    loss = EnumeratedELBO(plan, num_rows=len(X)).loss
    guide = global_guide(plan, {"scale": jnp.asarray(0.7)}, kind="point")
    found = -loss(jax.random.key(0), {}, None, guide, *args)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    engine = Gibbs(num_samples=1, num_warmup=0)
    fit = vmix.fit(one_density, X, engine=engine, seed=0, init=values)
    np.testing.assert_allclose(fit.history["objective"][0], wanted, rtol=1e-5)
    for engine in (EM(batch_size=2), SVI(batch_size=2)):
        with pytest.raises(ProgramError, match="it has no data plate, so its density is not a product over rows"):
            engine.check(plan, len(X))


def prior_from_the_data(x):
    m = sample("m", dist.Normal(x.mean(), 0.1))
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(m, x.std()), obs=x + 1.0)


def test_em_reads_a_prior_that_is_computed_from_the_data_off_all_rows():
    x = np.append([100.0, 90.0], np.random.default_rng(0).normal(size=98)).astype(np.float32)
    fit = vmix.fit(prior_from_the_data, x, engine=EM(num_sweeps=2, tolerance=None), seed=0)
    prior, likelihood = 100.0, 100 / x.var()
    wanted = (prior * x.mean() + likelihood * (x.mean() + 1.0)) / (prior + likelihood)
    np.testing.assert_allclose(fit.posterior["m"], wanted, rtol=1e-5)
    for engine in (EM(batch_size=10), SVI(batch_size=10)):
        with pytest.raises(ProgramError, match="site 'm' has parameters that the program computes from the data"):
            engine.check(fit._plan, 100)


def test_a_loaded_fit_predicts_from_all_rows_where_the_program_computes_from_the_data(tmp_path):
    x = np.random.default_rng(1).normal(size=CHUNK_ROWS + 50).astype(np.float32)
    x[-50:] += 30.0  # these alone would have a spread of their own
    fit = vmix.fit(prior_from_the_data, x, engine=EM(num_sweeps=2, tolerance=None), seed=0)
    fit.save(tmp_path / "fit")
    loaded = vmix.load(tmp_path / "fit", program=prior_from_the_data)
    np.testing.assert_array_equal(loaded.score_samples(x), fit.score_samples(x))
    scale = x.std()
    direct = -0.5 * ((x + 1.0 - fit.posterior["m"]) / scale) ** 2 - np.log(scale * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(loaded.score_samples(x), direct, rtol=1e-4)


def test_plates_of_columns_are_kept_in_means_and_samples():
    x = np.concatenate([XY - 20.0, XY + [20.0, 40.0]]).astype(np.float32)
    fit = vmix.fit(columns_in_a_plate, x, engine=EM(num_sweeps=5, tolerance=None), seed=0)
    assert np.abs(fit.reconstruct(x) - x).max() < 3.0
    means = fit.sample(3, component=1, mean=True)
    np.testing.assert_allclose(means, np.tile(fit.posterior["m"][1], (3, 1)), rtol=1e-6)


@pytest.mark.slow
def test_samples_draw_new_latents_of_a_datum():
    fit = vmix.fit(latent_of_a_component, X, engine=EM(num_sweeps=1, tolerance=None), seed=0)
    assert fit.sample(5).shape == (5,)


def values_from_one(x):
    m = locs()
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(m * sample("c", dist.DiscreteUniform(1, 3)), 1.0), obs=x)


def mask_on_the_class_alone(x):
    m = locs(2)
    with numpyro.plate("data", x.shape[0]):
        with handlers.mask(mask=x > 0):
            c = sample("c", dist.Bernoulli(0.3))
        sample("x", dist.Normal(m[c], 1.0), obs=x)


def mean_of_all_classes(x):
    m = locs(2)
    with numpyro.plate("data", x.shape[0]):
        c = sample("c", dist.Bernoulli(0.3))
        sample("x", dist.Normal(m[c] + 3.0 * c.mean(), 1.0), obs=x)


def class_of_the_row_before(x):
    m = sample("m", dist.Normal(0.0, 2.0).expand([2, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = sample("c", dist.Bernoulli(0.3))
        sample("x", dist.Normal(m[c, jnp.roll(c, 1)], 1.0), obs=x)


def observed_in_part(x):
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(0.0, 1.0), obs=x, obs_mask=jnp.array([True, False, True]))


def square(x):
    with numpyro.plate("rows", 3, dim=-2), numpyro.plate("columns", 3, dim=-1):
        sample("x", dist.Normal(sample("z", dist.Normal(0.0, 1.0)), 1.0), obs=x)


def test_rows_are_the_first_axis_where_there_are_as_many_columns():
    assert make_plan(square, (np.eye(3, dtype=np.float32),), key=jax.random.key(0)).layout.data_dim == -2


def normalised(x):
    net = nnx_module("net", nnx.BatchNorm(1, rngs=nnx.Rngs(0)))
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(net(x[:, None])[:, 0], 1.0), obs=x)


def constant(x):
    m = sample("m", dist.Delta(1.0))
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(m, 1.0), obs=x)


def followed(x):
    m = locs(2)

    def step(c, x_t):
        with numpyro.plate("data", x.shape[0]):
            c = sample("c", dist.Categorical(jnp.array([[0.9, 0.1], [0.2, 0.8]])[c]))
            sample("x", dist.Normal(m[c], 1.0), obs=x_t)
        return c, None

    scan(step, jnp.zeros(x.shape[0], int), jnp.stack([x, x]))


def followed_under_a_plate(x):
    with numpyro.plate("rows", x.shape[0]):
        followed(x)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (followed, "site 'c' is discrete and stands inside numpyro.contrib.control_flow.scan; .*MarkovChain"),
        (followed_under_a_plate, "followed_under_a_plate asks NumPyro for what it cannot do: .*MarkovChain"),
        (values_from_one, "site 'c' is DiscreteUniform with values that begin at 1; .* sample it on 0..K-1 and add"),
        (mask_on_the_class_alone, "site 'c' is masked, but 'x', which depends on it, is not; mask both .* or neither"),
        (mean_of_all_classes, r"site 'x' uses 'c' of other rows than its own: at row .* as loc\[c\], without a mean"),
        (class_of_the_row_before, r"site 'x' uses 'c' of other rows than its own: at row .* without a mean, roll"),
        (observed_in_part, "site 'x' is observed in part by obs_mask=; .* put NaN .*missing=\"nan\""),
        (normalised, r"network 'net' keeps something besides its weights .*BatchNorm .*LayerNorm"),
        (constant, "site 'm' is Delta, which has one value .* numpyro.deterministic"),
    ],
)
def test_program_that_would_mean_something_else_is_refused(program, message):
    with pytest.raises(ProgramError, match=message):
        make_plan(program, (X,), key=jax.random.key(0))


def effects(x):
    m = sample("m", dist.Normal(0.0, 0.1))
    with numpyro.plate("data", x.shape[0]):
        sample("x", dist.Normal(sample("z", dist.Normal(m, 1.0)), 1.0), obs=x)


def test_maximum_likelihood_keeps_what_a_latent_of_a_datum_hangs_on():
    fit = vmix.fit(effects, X, engine=EM(estimate="ml", num_sweeps=60, tolerance=None), seed=0)
    np.testing.assert_allclose(fit.posterior["m"], X.mean(), atol=1e-5)
    np.testing.assert_allclose(fit.posterior["z"], (X + X.mean()) / 2, atol=1e-5)
    assert np.diff(fit.history["objective"]).min() > -1e-6


class SpeakerOfASequence:
    """A chain whose emissions share one latent a sequence."""

    def model(self, x):
        m = locs(2)
        with numpyro.plate("data", x.shape[0]):
            c = sample("c", MarkovChain(jnp.ones(2) / 2, jnp.eye(2) * 0.8 + 0.1, x.shape[1]))
            z = sample("z", dist.Normal(0.0, 1.0))
            sample("x", dist.Normal(m[c] + z[..., None], 1.0).to_event(1), obs=x)

    def guide(self, x):
        with numpyro.plate("data", x.shape[0]):
            sample("z", dist.Normal(x.mean(1), 0.5))


@pytest.mark.slow
def test_gibbs_refuses_a_latent_without_the_steps_of_the_chain():
    plan = make_plan(SpeakerOfASequence(), (np.tile(X, (4, 1)),), key=jax.random.key(0))
    with pytest.raises(ProgramError, match="step by step, but site 'z' has one value for a whole sequence"):
        Gibbs().check(plan, 4)
