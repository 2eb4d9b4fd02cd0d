"""Sequences: paths, filters and forecasts of a fit equal the enumeration of all paths.

The programs have known chains and one global, so that a fit is cheap and every oracle exact.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp

import vmix
from vmix import sequences
from vmix.distributions import MarkovChain
from vmix.inference import EM, Gibbs
from vmix.program import ProgramError

INITIAL = np.array([0.7, 0.3], np.float32)
TRANSITION = np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)
PLACES = np.array([-0.7, 1.2])
RATES = np.array([[1.0, 4.0, 2.0], [3.0, 1.0, 2.0]])
N, T, K, STEPS = 5, 4, 2, 3
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T)).astype(np.float32)
WAITS = RNG.exponential(0.5, (N, T, 3)).astype(np.float32)
LENGTHS = np.array([4, 2, 3, 1, 4])
MASK = np.arange(T) < LENGTHS[:, None]
ONCE = EM(num_sweeps=1, tolerance=None)


def known_chain(x, waits, mask):
    """Two observed sites of one chain, and a row-level global that moves the first."""
    shift = numpyro.sample("shift", dist.Normal(0.0, 1.0))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(INITIAL, TRANSITION, x.shape[1], mask=mask))
        there = mask.astype(bool)
        numpyro.sample("x", dist.Normal(shift + jnp.asarray(PLACES)[c], 1.0).mask(there).to_event(1), obs=x)
        wait = dist.Exponential(jnp.asarray(RATES)[c]).mask(there[..., None]).to_event(2)
        numpyro.sample("waits", wait, obs=waits)


def known_words(words):
    """A categorical emission, and a global that the words do not tell of."""
    numpyro.sample("unused", dist.Normal(0.0, 1.0))
    with numpyro.plate("sequences", words.shape[0]):
        c = numpyro.sample("c", MarkovChain(INITIAL, TRANSITION, words.shape[1]))
        numpyro.sample(
            "words", dist.Categorical(jnp.array([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])[c]).to_event(1), obs=words
        )


def trend(x, time):
    """An emission with an input of its own at each step."""
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(INITIAL, TRANSITION, x.shape[1]))
        numpyro.sample("x", dist.Normal(jnp.asarray(PLACES)[c] + slope * time, 1.0).to_event(1), obs=x)


@pytest.fixture(scope="module")
def fit():
    return vmix.fit(known_chain, X, WAITS, MASK, engine=ONCE, seed=0, init={"shift": 0.0})


@pytest.fixture(scope="module")
def sampled():
    engine = Gibbs(num_samples=3, num_warmup=1)
    return vmix.fit(known_chain, X, WAITS, MASK, engine=engine, seed=0, init={"shift": 0.0})


def emission(x, waits, shift):
    """log p(x_t | c_t = k) at [t, k]; shape (T, K)."""
    of_x = -0.5 * (x[:, None] - shift - PLACES) ** 2 - 0.5 * np.log(2 * np.pi)
    return of_x + (np.log(RATES) - RATES * waits[:, None]).sum(-1)


def enumerate_paths(log_emission):
    """All paths, shape (K^T, T), and their log joints with the data."""
    paths = np.array(list(itertools.product(range(K), repeat=len(log_emission))))
    joint = np.log(INITIAL)[paths[:, 0]] + np.log(TRANSITION)[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, joint + log_emission[np.arange(len(log_emission)), paths].sum(1)


def marginals(paths, joint):
    weights = np.exp(joint - logsumexp(joint))
    return np.stack([(weights[:, None] * (paths == k)).sum(0) for k in range(K)], -1)


def each_sequence(shift, length=None):
    """Log emissions of each sequence's existing steps."""
    for n, own in enumerate(LENGTHS):
        end = own if length is None else min(own, length)
        yield n, end, emission(X[n, :end], WAITS[n, :end], shift)


def expected_smooth(shift):
    found = np.zeros((N, T, K))
    for n, end, log_emission in each_sequence(shift):
        found[n, :end] = marginals(*enumerate_paths(log_emission))
    return found


def expected_filtered(shift):
    found = np.zeros((N, T, K))
    for t in range(1, T + 1):
        for n, end, log_emission in each_sequence(shift, t):
            if end == t:
                found[n, t - 1] = marginals(*enumerate_paths(log_emission))[-1]
    return found


def expected_forecast(shift):
    last = np.stack([found[end - 1] for found, end in zip(expected_filtered(shift), LENGTHS, strict=True)])
    return np.stack([last @ np.linalg.matrix_power(TRANSITION, h) for h in range(1, STEPS + 1)], 1)


def test_smoothing_and_evidence_match_enumeration(fit):
    shift = fit.posterior["shift"]
    np.testing.assert_allclose(sequences.smooth(fit, X, WAITS, MASK), expected_smooth(shift), atol=1e-5)
    evidence = [logsumexp(enumerate_paths(e)[1]) for _, _, e in each_sequence(shift)]
    np.testing.assert_allclose(fit.score_samples(X, WAITS, MASK), evidence, atol=1e-4)


def test_filter_matches_enumeration_of_what_came_before(fit):
    found = sequences.filtered(fit, X, WAITS, MASK)
    np.testing.assert_allclose(found, expected_filtered(fit.posterior["shift"]), atol=1e-5)


def test_path_is_the_best_of_all(fit):
    found = sequences.most_probable_path(fit, X, WAITS, MASK)
    assert found.shape == (N, T) and found.dtype.kind == "i"
    for n, end, log_emission in each_sequence(fit.posterior["shift"]):
        paths, joint = enumerate_paths(log_emission)
        np.testing.assert_array_equal(found[n, :end], paths[joint.argmax()])
        assert (found[n, end:] == 0).all()


def test_forecast_multiplies_the_filter_by_the_transitions(fit):
    shift = fit.posterior["shift"]
    found = sequences.forecast(fit, X, WAITS, MASK, steps=STEPS)
    wanted = expected_forecast(shift)
    np.testing.assert_allclose(found.probabilities, wanted, atol=1e-5)
    np.testing.assert_allclose(found.mean["x"], wanted @ (shift + PLACES), atol=1e-5)
    np.testing.assert_allclose(found.mean["waits"], wanted @ (1 / RATES), atol=1e-5)
    assert found.draw is None


def test_forecast_draws_have_the_forecast_s_mean_and_repeat_with_their_seed(fit):
    rows = tuple(np.repeat(a[:1], 1000, 0) for a in (X, WAITS, MASK))
    found = sequences.forecast(fit, *rows, steps=2, seed=1)
    assert found.draw["x"].shape == (1000, 2) and found.draw["waits"].shape == (1000, 2, 3)
    # standard deviations are below 1.6, so five standard errors are below 0.25: a false alarm in a million
    for name in ("x", "waits"):
        np.testing.assert_allclose(found.draw[name].mean(0), found.mean[name][0], atol=0.25)
    again = sequences.forecast(fit, *rows, steps=2, seed=1)
    np.testing.assert_array_equal(found.draw["x"], again.draw["x"])
    assert not np.array_equal(found.draw["x"], sequences.forecast(fit, *rows, steps=2, seed=2).draw["x"])


def test_draws_of_gibbs_are_averaged_but_for_the_path(sampled):
    draws = sampled.posterior["shift"]
    data = (X, WAITS, MASK)

    def mean(expected):
        return np.mean([expected(shift) for shift in draws], 0)

    np.testing.assert_allclose(sequences.smooth(sampled, *data), mean(expected_smooth), atol=1e-5)
    np.testing.assert_allclose(sequences.filtered(sampled, *data), mean(expected_filtered), atol=1e-5)
    found = sequences.forecast(sampled, *data, steps=STEPS)
    np.testing.assert_allclose(found.probabilities, mean(expected_forecast), atol=1e-5)
    np.testing.assert_allclose(found.mean["x"], mean(lambda s: expected_forecast(s) @ (s + PLACES)), atol=1e-5)
    path = sequences.most_probable_path(sampled, *data)
    for n, end, log_emission in each_sequence(draws.mean()):
        paths, joint = enumerate_paths(log_emission)
        np.testing.assert_array_equal(path[n, :end], paths[joint.argmax()])


def test_other_lengths_and_single_sequences_are_taken(fit):
    shorter = (X[2:3, :3], WAITS[2:3, :3], MASK[2:3, :3])
    for function in (sequences.smooth, sequences.filtered, sequences.most_probable_path):
        np.testing.assert_allclose(
            function(fit, *shorter)[0], function(fit, X, WAITS, MASK)[2, :3], atol=1e-5, err_msg=function.__name__
        )
    one = sequences.forecast(fit, *(a[:, :1] for a in shorter), steps=1, seed=0)
    assert one.probabilities.shape == (1, 1, K) and one.draw["waits"].shape == (1, 1, 3)


def test_a_categorical_site_is_forecast_by_the_probabilities_of_its_values():
    words = RNG.integers(0, 3, (4, 6))
    fit = vmix.fit(known_words, words, engine=ONCE, seed=0)
    found = sequences.forecast(fit, words, steps=2, seed=0)
    assert found.mean["words"].shape == (4, 2, 3)
    wanted = found.probabilities @ np.array([[0.8, 0.1, 0.1], [0.2, 0.3, 0.5]])
    np.testing.assert_allclose(found.mean["words"], wanted, atol=1e-6)
    assert found.draw["words"].shape == (4, 2) and set(np.unique(found.draw["words"])) <= {0, 1, 2}


def test_inputs_of_the_emission_are_not_known_beyond_the_last_step():
    time = np.broadcast_to(np.arange(T, dtype=np.float32), (N, T))
    fit = vmix.fit(trend, X, time, engine=ONCE, seed=0)
    assert sequences.filtered(fit, X, time).shape == (N, T, K)
    with pytest.raises(ProgramError, match="site 'x' differ per .*not known beyond the last step; .*append the steps"):
        sequences.forecast(fit, X, time, steps=2)


@pytest.fixture(scope="module")
def mixture():
    def program(x):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(jnp.array([0.5, 0.5])))
            numpyro.sample("x", dist.Normal(loc + jnp.array([-1.0, 1.0])[c], 1.0), obs=x)

    return vmix.fit(program, X[:, 0], engine=ONCE, seed=0)


@pytest.mark.parametrize("function", [sequences.smooth, sequences.filtered, sequences.most_probable_path])
def test_programs_without_a_chain_are_refused(function, mixture):
    with pytest.raises(ProgramError, match="program program has no structured discrete site .*use fit.predict"):
        function(mixture, X[:, 0])


def test_forecasts_of_programs_without_a_chain_are_refused(mixture):
    with pytest.raises(ProgramError, match="no structured discrete site"):
        sequences.forecast(mixture, X[:, 0], steps=1)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (1.5, TypeError), (None, TypeError)])
def test_steps_ahead_are_a_positive_whole_number(fit, steps, error):
    with pytest.raises(error, match="steps is"):
        sequences.forecast(fit, X, WAITS, MASK, steps=steps)


def test_data_of_another_width_are_refused(fit):
    with pytest.raises(ValueError, match=r"data\[1\] has shape \(5, 4, 2\); this model was fitted to \(N, T, 3\)"):
        sequences.filtered(fit, X, WAITS[..., :2], MASK)
