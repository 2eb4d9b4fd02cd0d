"""`check_program`: a right program passes, planted faults are caught by the check that is there for them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix.conformance import Check, Conformance
from vmix.models import HMM, GaussianMixture
from vmix.program import FACTOR, GLOBAL_FACTOR, analyse, as_program

DENSITY = ("repeatable", "plan", "rows", "enumeration", "conditionals")


def poisson_mixture(counts, num_components=3):
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(num_components, 2.0)))
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([num_components]).to_event(1))
    with numpyro.plate("data", counts.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Poisson(rate[c]), obs=counts)


@pytest.fixture(scope="module")
def counts():
    generator = np.random.default_rng(0)
    return np.concatenate([generator.poisson(mean, 20) for mean in (3.0, 25.0, 60.0)])


def two_normals(x, *, inside=lambda x, loc, c: None, outside=lambda x, loc: None):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    outside(x, loc)
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.array([0.4, 0.6])))
        numpyro.sample("x", dist.Normal(loc[c], 1.0), obs=x)
        inside(x, loc, c)


@pytest.fixture(scope="module")
def values():
    return np.random.default_rng(1).normal(0.0, 3.0, 30)


def status(result):
    return {check.name: check.status for check in result.checks}


def test_a_right_program_passes_and_says_what_passed(counts, capsys):
    result = vmix.check_program(poisson_mixture, counts, only=(*DENSITY, "em"))
    printed = capsys.readouterr().out
    assert result, str(result)
    assert set(status(result).values()) == {"passed"}
    assert "closed-form mode, Gamma" in printed and "passed  enumeration" in printed
    assert "6 passed, 0 failed, 0 skipped" in str(result)
    assert not set(str(result).splitlines()) & set(printed.splitlines())  # print(check_program(...)) says nothing twice


def test_text_is_whole_unless_it_was_printed_before():
    checks = (Check("plan", "passed", "three sites", 0.1), Check("rows", "failed", "which other rows", 0.2))
    result = Conformance("coins", None, checks)
    passed, failed, totals = str(result).splitlines()
    assert "three sites" in passed and "which other rows" in failed and totals == "coins: 1 passed, 1 failed, 0 skipped"
    assert str(replace(result, printed=True)).splitlines() == [failed, totals]
    assert repr(result) == f"<Conformance of {totals}>"


@pytest.mark.slow
def test_paths_of_a_chain_are_enumerated_and_long_ones_are_skipped():
    x = np.random.default_rng(2).normal(size=(6, 9, 1)).astype(np.float32)
    model = HMM(num_components=2)
    short = vmix.check_program(model, x[:, :4], only=("plan", "enumeration"), verbose=False)
    assert short and "256 assignments of 2 rows" in short.checks[1].detail
    long = vmix.check_program(model, np.tile(x, (1, 2, 1)), only=("plan", "enumeration"), verbose=False)
    assert status(long)["enumeration"] == "skipped" and "2^18 values" in long.checks[1].detail


@pytest.mark.slow
def test_a_chain_passes_every_check_of_its_density():
    x = np.random.default_rng(2).normal(size=(30, 4, 2)).astype(np.float32)
    result = vmix.check_program(HMM(num_components=2), x, only=DENSITY, verbose=False)
    assert result, str(result)
    assert set(status(result).values()) == {"passed"}


@pytest.mark.slow
def test_a_right_program_passes_every_check_within_a_minute(counts):
    result = vmix.check_program(poisson_mixture, counts, verbose=False)
    assert result, str(result)
    assert set(status(result).values()) == {"passed"} and len(result.checks) == 8
    assert sum(check.seconds for check in result.checks) < 60, str(result)


@pytest.mark.slow
def test_a_zoo_model_passes_every_check(digits):
    result = vmix.check_program(GaussianMixture(num_components=2), digits.images[:60, 18:22], verbose=False)
    assert result, str(result)


@pytest.mark.slow
def test_a_scale_without_a_conjugate_conditional_passes(values):
    def program(x):
        scale = numpyro.sample("scale", dist.HalfNormal(2.0))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("x", dist.Normal(0.0, scale), obs=x)

    result = vmix.check_program(program, values, verbose=False)
    assert result, str(result)
    assert status(result)["conditionals"] == "skipped" and status(result)["gibbs"] == "passed"


def test_a_factor_that_couples_rows_is_caught(values):
    def program(x):
        two_normals(x, inside=lambda x, loc, c: numpyro.factor("coupling", -0.1 * (x - x.mean()) ** 2))

    result = vmix.check_program(program, values, only=("plan", "rows"), verbose=False)
    assert not result
    assert result.failed[0].name == "rows" and "which other rows" in result.failed[0].detail


def test_a_factor_on_the_globals_that_reads_the_data_is_caught(values):
    def program(x):
        two_normals(x, outside=lambda x, loc: numpyro.factor("pull", -((loc - x.mean()) ** 2).sum()))

    result = vmix.check_program(program, values, only=("plan", "rows"), verbose=False)
    assert result.failed[0].name == "rows" and "outside the data plate" in result.failed[0].detail


def test_a_program_that_keeps_state_is_caught_and_nothing_else_is_tried(values):
    calls = []

    def program(x):
        calls.append(None)
        mu = numpyro.sample("mu", dist.Normal(0.0, float(len(calls))))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("x", dist.Normal(mu, 1.0), obs=x)

    result = vmix.check_program(program, values, verbose=False)
    assert result.failed[0].name == "repeatable" and "'mu'" in result.failed[0].detail
    assert {check.status for check in result.checks[1:]} == {"skipped"}
    assert result.plan is None


def test_randomness_outside_of_sample_statements_is_caught(values):
    def program(x):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        noise = dist.Normal(0.0, 1.0).sample(numpyro.prng_key())
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("x", dist.Normal(mu + noise, 1.0), obs=x)

    result = vmix.check_program(program, values, only=("repeatable",), verbose=False)
    assert "'x'" in result.failed[0].detail and "changes from call to call" in result.failed[0].detail


@pytest.mark.slow
def test_a_wrong_gibbs_draw_is_caught(counts, monkeypatch):
    from vmix.inference import gibbs

    right = gibbs.draw

    def too_large(*args, **options):
        values = right(*args, **options)
        return values | {"rate": 1.2 * values["rate"]}

    monkeypatch.setattr(gibbs, "draw", too_large)
    result = vmix.check_program(poisson_mixture, counts, only=("gibbs",), verbose=False)
    assert not result and "not left at its distribution" in result.failed[0].detail


@pytest.mark.slow
def test_a_wrong_m_step_is_caught(counts, monkeypatch):
    from vmix.inference import em

    right = em.maximise

    def too_large(*args, **options):
        values = right(*args, **options)
        return values | {"rate": 1.2 * values["rate"]}

    monkeypatch.setattr(em, "maximise", too_large)
    result = vmix.check_program(poisson_mixture, counts, only=("em",), verbose=False)
    assert not result and "lowers the log joint" in result.failed[0].detail


def test_unknown_checks_are_refused_with_the_known_ones(counts):
    with pytest.raises(ValueError, match="'enumeration'"):
        vmix.check_program(poisson_mixture, counts, only=("enumerate",))


def with_factors(x, messages):
    """Factors everywhere: on the globals, on each datum's component, and a constant for each datum."""
    rows = jnp.arange(x.shape[0])

    def inside(x, loc, c):
        numpyro.factor("message", messages[rows, c])
        numpyro.factor("constant", jnp.array(-0.5))

    two_normals(x, inside=inside, outside=lambda x, loc: numpyro.factor("pull", -0.5 * ((loc - 1.0) ** 2).sum()))


def test_factors_count_once_outside_the_plate_and_once_a_row_inside(values):
    messages = np.random.default_rng(2).normal(0.0, 1.0, (30, 2))
    result = vmix.check_program(with_factors, values, messages, only=(*DENSITY, "em"), verbose=False)
    assert result, str(result)
    assert status(result)["conditionals"] == "passed"
    sites = analyse(as_program(with_factors), (values, messages))
    assert sites["pull"].role == GLOBAL_FACTOR and sites["message"].role == FACTOR and sites["constant"].role == FACTOR


def test_a_program_with_a_factor_cannot_be_simulated_and_says_so(values):
    messages = np.zeros((30, 2))
    result = vmix.check_program(with_factors, values, messages, only=("gibbs",), verbose=False)
    assert result.checks[0].status == "skipped" and "numpyro.factor" in result.checks[0].detail


def test_a_factor_outside_the_plate_on_a_local_site_is_refused(values):
    def program(x):
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(jnp.array([0.4, 0.6])))
            numpyro.sample("x", dist.Normal(1.0 * c, 1.0), obs=x)
        numpyro.factor("late", -1.0 * c.sum())

    with pytest.raises(ValueError, match="factor 'late' stands outside the data plate"):
        analyse(as_program(program), (values,))
