"""What cannot be fitted is refused at the door: the message says which argument, what was found, and the way out."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix import fitting
from vmix.door import check_components
from vmix.inference import EM, SVI, Gibbs
from vmix.models import VAE, BernoulliMixture, DirichletProcessMixture, GaussianMixture
from vmix.plan import make_plan
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


@pytest.fixture(scope="module")
def plan():
    return make_plan(GaussianMixture(num_components=2).with_data(X), (X,), key=jax.random.key(0))


@pytest.fixture
def planned(plan, monkeypatch):
    """`vmix.fit` takes the shared plan, so that what comes after planning is reached at once."""
    monkeypatch.setattr(fitting, "make_plan", lambda *_, **__: plan)


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (with_value(X, (3, 1), np.nan), ValueError, r'x has NaN at row 3, column 1 .*missing="nan"'),
        (with_value(X, (3, 1), np.inf), ValueError, "x has an infinite value at row 3, column 1; expected finite"),
        (X[:0], ValueError, r"x is empty \(shape \(0, 2\)\)"),
        (X[:, 0], ValueError, r"x must have shape \(N, D\), found \(40,\)"),
        (X[:, :, None], ValueError, r"x must have shape \(N, D\), found \(40, 2, 1\)"),
        (np.array([["a", "b"]] * 4), TypeError, "x holds text .*expected real numbers"),
        (None, TypeError, "x is None; expected an array"),
        ([[1.0, 2.0], [3.0]], ValueError, "x is not a rectangular array"),
    ],
)
def test_data_that_are_no_finite_table_are_refused(data, error, match):
    refuse(GaussianMixture(num_components=2), data, error=error, match=match)


def test_no_data_is_refused():
    refuse(GaussianMixture(), match="at least one data array")


@pytest.mark.parametrize("model", [GaussianMixture(num_components=2), DirichletProcessMixture(truncation=2)])
def test_one_row_is_refused_where_there_is_a_mixture(model, planned):
    refuse(model, X[:1], match="1 row; a mixture needs two rows or more")


def test_more_components_than_data_are_refused(plan):
    wide = replace(plan, layout=replace(plan.layout, discrete=(("c", 41),)))
    with pytest.raises(ValueError, match="site 'c' has 41 components, but there are only 40 data.*fewer components"):
        check_components(wide, 40)


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


def test_another_way_of_missing_is_refused():
    refuse(GaussianMixture(), X, missing=True, match='missing must be None or "nan", found True')


def no_data(x):
    numpyro.sample("m", dist.Normal(0.0, 1.0))


def infinite_latent(x):
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Poisson(3.0))
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def python_if(x):
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    m = m + 1 if m > 0 else m
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(m, 1.0), obs=x[:, 0])


def same_name_twice(x):
    numpyro.sample("m", dist.Normal(0.0, 1.0))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(m, 1.0), obs=x[:, 0])


def discrete_global(x):
    c = numpyro.sample("c", dist.Bernoulli(0.5))
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def labels_by_mask(x):
    known = jnp.arange(x.shape[0]) < 5
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Bernoulli(0.5), obs=jnp.zeros(x.shape[0], int), obs_mask=known)
        numpyro.sample("x", dist.Normal(c, 1.0), obs=x[:, 0])


def two_arrays(x, y):
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x[:, 0])
        numpyro.sample("y", dist.Normal(0.0, 1.0), obs=y)


def latent_per_datum(x):
    with numpyro.plate("data", x.shape[0]):
        z = numpyro.sample("z", dist.Normal(0.0, 1.0))
        numpyro.sample("x", dist.StudentT(3.0, z, 1.0), obs=x[:, 0])


def wrong_shapes(x):
    with numpyro.plate("data", x.shape[0]):
        numpyro.sample("x", dist.Normal(jnp.zeros(7), 1.0).to_event(1), obs=x)


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (no_data, r"no_data has no observed site; pass the data .*obs=x"),
        (infinite_latent, r"site 'c' is discrete with infinite support \(Poisson\).*truncate it"),
        (python_if, "python_if takes a Python decision .*use jnp.where"),
        (same_name_twice, "same_name_twice .*unique names but got `m` duplicated"),
        (discrete_global, "site 'c' is a discrete global.*move it under"),
        (labels_by_mask, r"site 'c' is discrete and observed in part by obs_mask=.*observed=\{'c': values\}"),
        (categorical, "site 'x' is Categorical, but its values are float32; give whole numbers"),
        (wrong_shapes, r"site 'x' has shape \(40, 7\), but its value has shape \(40, 2\)"),
    ],
)
def test_a_program_that_cannot_be_read_is_refused(program, match):
    refuse(program, X, error=ProgramError, match=match)


def test_minibatches_of_a_latent_per_datum_need_a_guide():
    engine = SVI(num_steps=3, batch_size=10)
    refuse(latent_per_datum, X, error=ProgramError, engine=engine, match="needs a guide for the local site 'z'")


@pytest.mark.parametrize(
    ("program", "data", "match"),
    [
        (two_arrays, (X,), r"two_arrays takes the data arrays \(x, y\); 1 given"),
        (GaussianMixture(), (X, X), r"GaussianMixture takes the data arrays .*; 2 given"),
        (two_arrays, (X, X[:30, 0]), r"data\[0\] has 40, data\[1\] has 30; expected one row per datum"),
    ],
)
def test_data_arrays_that_do_not_go_together_are_refused(program, data, match):
    refuse(program, *data, match=match)


@pytest.mark.parametrize(
    ("program", "engine", "match"),
    [
        (GaussianMixture, SHORT, r"program is the class GaussianMixture; give an instance"),
        (3, SHORT, "program must be a NumPyro function .*found int"),
        (GaussianMixture(), EM, r"engine is the class EM; give an instance: engine=EM\(\)"),
        (GaussianMixture(), "EM", r"engine must be SVI\(...\), EM\(...\) or Gibbs\(...\).*found 'EM'"),
    ],
)
def test_classes_and_names_are_no_instances(program, engine, match):
    refuse(program, X, error=TypeError, engine=engine, match=match)


@pytest.mark.parametrize(
    ("init", "match"),
    [
        ({"locc": 1}, r"init names \['locc'\]; the program's globals are \['w', 'loc', 'precision'\]"),
        ({"loc": np.zeros(3)}, r"init\['loc'\] has shape \(3,\); the site has shape \(2, 2\)"),
        ({"loc": "a"}, r"init\['loc'\] is not an array of numbers"),
        ({"w": [0.9, 0.9]}, r"init\['w'\] lies outside the site's support"),
        ({"loc": np.full((2, 2), np.nan)}, r"init\['loc'\] lies outside the site's support"),
        ("kmeans", "clusters must be one of k-means, random, merge, evidence, prior, found 'kmeans'"),
        (3, "init must be a vmix.starting.Recipe, a name or a dict of globals, found int"),
    ],
)
def test_unknown_starts_are_refused(init, match, planned):
    refuse(GaussianMixture(num_components=2), X, init=init, match=match)


@pytest.mark.parametrize(
    ("observed", "error", "match"),
    [
        ({"c": np.full(40, 7)}, ValueError, r"observed\['c'\] must lie in 0..1, or -1 where unknown; found 7..7"),
        ({"c": np.full(40, -2)}, ValueError, r"observed\['c'\] must lie in 0..1, or -1 where unknown; found -2..-2"),
        ({"c": np.zeros(39, int)}, ValueError, r"observed\['c'\] must be whole numbers of shape \(40,\)"),
        ({"c": np.zeros(40)}, ValueError, r"observed\['c'\] must be whole numbers .*found float64"),
        ({"d": np.zeros(40, int)}, ValueError, r"discrete sites are \['c'\]"),
        (np.zeros(40, int), TypeError, "observed must be a dict by site"),
    ],
)
def test_labels_that_fit_no_site_are_refused(observed, error, match, planned):
    refuse(GaussianMixture(num_components=2), X, observed=observed, error=error, match=match)


@pytest.mark.parametrize("seed", [1.5, None, -1])
def test_a_seed_is_a_whole_number(seed):
    with pytest.raises((TypeError, ValueError), match="seed is"):
        vmix.fit(GaussianMixture(), X, engine=SHORT, seed=seed)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: EM(num_sweeps=0), r"EM\(num_sweeps=\) must be a positive whole number, found 0"),
        (lambda: EM(batch_size=2.5), r"EM\(batch_size=\) must be a positive whole number, found 2.5"),
        (lambda: EM(estimate="mle"), r'EM\(estimate=\) must be "map" or "ml", found \'mle\''),
        (lambda: SVI(num_steps=-1), r"SVI\(num_steps=\) must be a positive whole number, found -1"),
        (lambda: SVI(guide="full"), r'SVI\(guide=\) must be "point" or "normal", found \'full\''),
        (lambda: SVI(kl_warmup=0), r"SVI\(kl_warmup=\) must be a positive whole number, found 0"),
        (lambda: Gibbs(num_samples=True), r"Gibbs\(num_samples=\) must be a positive whole number, found True"),
        (lambda: Gibbs(num_warmup=-1), r"Gibbs\(num_warmup=\) must be a whole number of at least 0, found -1"),
        (lambda: Gibbs(num_chains=2, restarts=2), "num_chains .* or restarts .*, not both"),
        (lambda: Gibbs(num_warmup=10, anneal=(0.2, 20)), r"Gibbs\(anneal=\) ends after 20 sweeps.*raise num_warmup"),
        (lambda: EM(anneal=0.2), r"anneal must be \(first_beta, num_steps\)"),
        (lambda: EM(anneal=(2.0, 10)), r"anneal must be a first beta in \(0, 1\]"),
    ],
)
def test_engine_options_out_of_range_are_refused_by_name(build, match):
    with pytest.raises(ValueError, match=match):
        build()


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


def test_data_without_any_column_that_varies_are_refused():
    refuse(GaussianMixture(num_components=2), np.ones((9, 2)), match="x is constant: each column holds one value")


def test_a_constant_column_gives_a_finite_fit(fitted):
    data, fit = fitted
    assert np.isfinite(fit.history["objective"]).all()
    assert all(np.isfinite(value).all() for value in fit.posterior.values())
    assert np.bincount(fit.predict(data)).tolist() == [20, 20]


@pytest.mark.parametrize("method", ["predict", "predict_proba", "score", "score_samples", "reconstruct"])
def test_another_width_is_refused_at_prediction(fitted, method):
    data, fit = fitted
    with pytest.raises(ValueError, match="x has 2 columns; this model was built for data_dim=3"):
        getattr(fit, method)(data[:, :2])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda x: (x, x), ValueError, r"2 data array\(s\) given; the program was fitted to 1"),
        (lambda x: (with_value(x, (3, 1), np.nan),), ValueError, "x has NaN at row 3, column 1"),
        (lambda x: (x[0],), ValueError, r"x has 1 dimension\(s\); this model was fitted to 2"),
        (lambda x: (x.astype(str),), TypeError, "x holds text"),
    ],
)
def test_bad_data_are_refused_at_prediction(fitted, change, error, match):
    data, fit = fitted
    with pytest.raises(error, match=match):
        fit.predict(*change(data))


@pytest.mark.parametrize("component", [-1, 2])
def test_a_component_that_is_not_there_cannot_be_drawn_from(fitted, component):
    with pytest.raises(ValueError, match=f"component is {component}; this fit has components 0..1"):
        fitted[1].sample(3, component=component)


def test_what_a_program_does_not_have_cannot_be_asked_for(fitted):
    data, fit = fitted
    with pytest.raises(ProgramError, match="no latent with an encoder; use predict_proba"):
        fit.transform(data)
