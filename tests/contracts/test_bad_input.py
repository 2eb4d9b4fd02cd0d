"""Supports, masks and what only some programs have: what cannot be fitted is refused, and what can is taken.

The mistakes that anybody may make are in `tests/bad_input.py`.
"""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.inference import EM, SVI
from vmix.models import VAE, BernoulliMixture, GaussianMixture
from vmix.program import ProgramError, as_program
from vmix.supports import SupportCheck

RNG = np.random.default_rng(0)
X = np.concatenate([RNG.normal(m, 1.0, (20, 2)) for m in (-4.0, 4.0)]).astype(np.float32)
COUNTS = RNG.poisson(4.0, (40, 3)).astype(np.float32)
SHORT = EM(num_sweeps=3, tolerance=None)


def with_value(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


def mixture_of(likelihood):
    """A program of two components: `likelihood(x, c)` is the distribution of a row given its component."""

    def program(x):
        w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(w))
            numpyro.sample("x", likelihood(x, c), obs=x)

    return program


poisson = mixture_of(lambda x, c: dist.Poisson(jnp.array([2.0, 6.0])[c][:, None] * jnp.ones(3)).to_event(1))
binomial = mixture_of(lambda x, c: dist.Binomial(20, jnp.array([0.2, 0.6])[c][:, None] * jnp.ones(3)).to_event(1))
multinomial = mixture_of(lambda x, c: dist.Multinomial(x.sum(-1).astype(int), jnp.full((2, 3), 1 / 3)[c]))
categorical = mixture_of(lambda x, c: dist.Categorical(jnp.full((2, 1, 5), 0.2)[c]).expand([x.shape[0], 3]).to_event(1))
positive = mixture_of(lambda x, c: dist.Gamma(jnp.ones((2, 2))[c], 1.0).to_event(1))


def refuse(program, *data, match, error=ValueError, engine=SHORT, **options):
    with pytest.raises(error, match=match):
        vmix.fit(program, *data, engine=engine, seed=0, **options)


@pytest.mark.parametrize(
    ("program", "data", "match"),
    [
        (poisson, with_value(COUNTS, (3, 1), -1), "'x' has -1 at row 3, column 1, .*Poisson; expected counts"),
        (poisson, with_value(COUNTS, (3, 1), 0.5), "'x' has 0.5 at row 3, column 1, .*Poisson; expected counts"),
        (binomial, with_value(COUNTS, (3, 1), -1), "'x' has -1 at row 3, column 1, .*Binomial; expected whole"),
        (binomial, with_value(COUNTS, (3, 1), 1.5), "'x' has 1.5 at row 3, column 1, .*Binomial; expected whole"),
        (binomial, with_value(COUNTS, (3, 1), 50), "'x' has 50 at row 3, column 1, .*Binomial; expected whole"),
        (multinomial, with_value(COUNTS, (3, 1), -1), "at row 3, .*Multinomial; expected counts .*total_count"),
        (multinomial, with_value(COUNTS, (3, 1), 0.5), "at row 3, .*Multinomial; expected counts .*total_count"),
        (categorical, with_value(COUNTS % 5, (3, 1), 5).astype(int), "'x' has 5 at row 3, column 1, .*Categorical"),
        (positive, X, "'x' has -.* at row 0, column 0, .*Gamma; expected numbers above 0"),
    ],
)
def test_values_outside_a_support_are_refused(program, data, match):
    refuse(program, data, match=match)


@pytest.mark.parametrize("program", [poisson, binomial, multinomial])
def test_counts_are_accepted(program):
    SupportCheck(as_program(program), missing=False)(COUNTS)
    SupportCheck(as_program(program), missing=False)(COUNTS.astype(int))


def test_a_support_that_depends_on_a_latent_is_not_judged():
    def program(x):
        top = numpyro.sample("top", dist.HalfNormal(1.0))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("x", dist.Uniform(0.0, top), obs=x)

    SupportCheck(as_program(program), missing=False)(np.array([1e3, 2e3]))


def test_masked_values_are_not_judged():
    def program(x):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
        with numpyro.plate("data", x.shape[0]), numpyro.handlers.mask(mask=x >= 0):
            numpyro.sample("x", dist.Poisson(rate), obs=x)

    SupportCheck(as_program(program), missing=False)(np.array([1, -1]))


def test_grey_pixels_are_a_bernoulli_fraction():
    grey = np.clip(np.abs(X) / 10, 0, 1)
    SupportCheck(as_program(BernoulliMixture(num_components=2)), missing=False)(grey)


@pytest.mark.parametrize("model", [BernoulliMixture(num_components=2), VAE(hidden=(4,), latent_dim=1)])
def test_pixels_outside_the_unit_interval_are_refused(model):
    refuse(model, 255 * np.abs(X) / 10, match=r"x has values from .* to .*; Bernoulli pixels are in \[0, 1\]: .*255")


def test_bernoulli_values_of_a_users_program_are_checked():
    program = mixture_of(lambda x, c: dist.Bernoulli(jnp.full((2, 3), 0.5)[c]).to_event(1))
    refuse(program, COUNTS, match=r"site 'x' has \d+ at row 0, column 0, .*Bernoulli; expected values in \[0, 1\]")


def test_a_vector_missing_in_part_is_refused():
    data = with_value(X, (3, 1), np.nan)
    model = GaussianMixture(num_components=2, covariance="full")
    refuse(model, data, missing="nan", match="site 'x' is missing in part at row 3; .*diagonal covariance")


def test_a_vector_missing_in_whole_is_accepted():
    data = with_value(X, 3, np.nan)
    model = GaussianMixture(num_components=2, covariance="full").with_data(data)
    SupportCheck(as_program(model), missing=True)(data)


def labels_by_mask(x):
    known = jnp.arange(x.shape[0]) < 5
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5), obs=jnp.zeros(x.shape[0], int), obs_mask=known)
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def latent_per_datum(x):
    with numpyro.plate("data", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.StudentT(3.0, z, 1.0), obs=x[:, 0])


def test_labels_by_mask_are_told_where_to_go():
    match = r"site 'c' is discrete and observed in part by obs_mask=.*observed=\{'c': values\}"
    refuse(labels_by_mask, X, error=ProgramError, match=match)


def test_minibatches_of_a_latent_per_datum_need_a_guide():
    engine = SVI(num_steps=3, batch_size=10)
    refuse(latent_per_datum, X, error=ProgramError, engine=engine, match="needs a guide for the local site 'z'")


def weights_of_each_row(x):
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(logits=x[:, :1] * slope))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(1), obs=x)


def test_weights_that_differ_from_row_to_row_are_refused_in_minibatches():
    match = "EM cannot take minibatches: the probabilities of site 'c' differ from datum to datum; use EM"
    refuse(weights_of_each_row, X, engine=EM(num_sweeps=3, batch_size=10), match=match, error=ProgramError)


@pytest.fixture(scope="module")
def fitted():
    data = np.c_[X, np.ones(len(X), np.float32)]
    with pytest.warns(UserWarning, match=r"x has 1 constant column \(2\)"):
        return data, vmix.fit(GaussianMixture(num_components=2), data, engine=SHORT, seed=0)


def test_a_constant_column_gives_a_finite_fit(fitted):
    data, fit = fitted
    assert np.isfinite(fit.history["objective"]).all()
    assert all(np.isfinite(value).all() for value in fit.posterior.values())
    assert np.bincount(fit.predict(data)).tolist() == [20, 20]
