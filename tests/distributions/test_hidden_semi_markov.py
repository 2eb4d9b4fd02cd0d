"""HiddenSemiMarkov against enumeration of every path, in float64 to 1e-10, with hard zeros and gaps of 1000 nats."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.special import logsumexp

from tests.oracles import check_path_frequencies
from vmix.distributions import HiddenSemiMarkov, MarkovChain

NUM_STEPS, NUM_STATES, LONGEST, BATCH = 5, 3, 3, 4
RNG = np.random.default_rng(5)
NAMES = ("initial", "transition", "duration")


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def rows(*shape: int) -> np.ndarray:
    return RNG.dirichlet(np.ones(shape[-1]), shape[:-1])


def moves(*batch: int, num_states: int = NUM_STATES) -> np.ndarray:
    probs = rows(*batch, num_states, num_states) * (1 - np.eye(num_states))
    return probs / probs.sum(-1, keepdims=True)


def segments_of(path: tuple) -> list[tuple[int, int]]:
    return [(state, len(list(run))) for state, run in itertools.groupby(path)]


def complete_terms(path: tuple, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where initial, transition and duration probabilities are used, the last segment lasting `last` steps."""
    found = segments_of(path)
    states = [state for state, _ in found]
    lasted = [steps for _, steps in found[:-1]] + [last]
    return np.array(states[:1]), np.array(list(zip(states[:-1], states[1:], strict=True))), np.array([states, lasted])


def add_use(statistics: dict, use: tuple, weight: float) -> None:
    first, move, lasts = use
    statistics["initial"][first[0]] += weight
    for i, j in move:
        statistics["transition"][i, j] += weight
    np.add.at(statistics["duration"], (lasts[0], lasts[1] - 1), weight)


def enumerate_paths(probs: tuple, unary: np.ndarray) -> dict:
    """Sums over all paths and all durations of the last segment, one at a time, of one chain, `unary` (T, K)."""
    initial, transition, duration = probs
    num_states, longest = duration.shape
    paths = list(itertools.product(range(num_states), repeat=len(unary)))
    scores, uses = np.full((len(paths), longest), -np.inf), {}
    for n, path in enumerate(paths):
        found = segments_of(path)
        if max(steps for _, steps in found) > longest:
            continue
        evidence = sum(unary[t, state] for t, state in enumerate(path))
        for last in range(found[-1][1], longest + 1):
            first, move, lasts = uses[n, last - 1] = complete_terms(path, last)
            p = (
                initial[first[0]]
                * np.prod([transition[i, j] for i, j in move])
                * np.prod(duration[lasts[0], lasts[1] - 1])
            )
            scores[n, last - 1] = evidence + (np.log(p) if p > 0 else -np.inf)
    total = logsumexp(scores) if scores.max() > -np.inf else -np.inf
    joint = np.exp(scores - total) if total > -np.inf else np.zeros_like(scores)
    statistics = {name: np.zeros_like(array) for name, array in zip(NAMES, probs, strict=True)}
    for at, use in uses.items():
        add_use(statistics, use, joint[at])
    p, paths = joint.sum(1), np.array(paths)
    log_p = logsumexp(scores, axis=1)
    return {
        "total": total,
        "paths": paths,
        "p": p,
        "log_p": log_p,
        "marginals": np.einsum("n,ntk->tk", p, np.eye(num_states)[paths]),
        "statistics": statistics,
        "mode": paths[np.argmax(log_p)],
    }


PLAIN = RNG.normal(size=(BATCH, NUM_STEPS, NUM_STATES)) * 2
GAPS = PLAIN.copy()
GAPS[..., 0, 1] += 1000
GAPS[..., 2, 2] += 1000
GAPS[..., 3, 1] = -np.inf
EVIDENCE = {"plain": PLAIN, "gaps": GAPS}
DENSE = rows(3), moves(), rows(3, LONGEST)
ZEROS = (
    np.array([0.0, 0.4, 0.6]),
    np.array([[0.0, 1.0, 0.0], [0.3, 0.0, 0.7], [1.0, 0.0, 0.0]]),
    np.array([[0.0, 0.0, 1.0], [0.5, 0.0, 0.5], [0.9, 0.1, 0.0]]),
)
PARAMETERS = {"dense": DENSE, "zeros": ZEROS}

# most of the time is compilation: the chain is an argument, so that cases of one shape share it
fast = {"xla_backend_optimization_level": 0}
compute = jax.jit(lambda chain, unary: (chain.posterior(unary), chain.mode(unary)), compiler_options=fast)
normalise = jax.jit(lambda chain, unary: chain.log_normalizer(unary), compiler_options=fast)
score = jax.jit(lambda chain, path: (chain.log_prob(path), chain.statistics(path)))
draw = jax.jit(lambda key, chain, unary: chain.sample_posterior(key, unary))
draw_prior = jax.jit(lambda key, chain, shape: chain.sample(key, shape), static_argnums=2)


def check_against_enumeration(chain: HiddenSemiMarkov, unary: np.ndarray, lengths: np.ndarray | None = None) -> None:
    batch = np.broadcast_shapes(chain.batch_shape, unary.shape[:-2])
    own = [np.asarray(array) for array in (chain.initial_probs, chain.transition_probs, chain.duration_probs)]
    full = [np.broadcast_to(a, batch + a.shape[-n:]) for a, n in zip(own, (1, 2, 2), strict=True)]
    unary = np.broadcast_to(unary, batch + unary.shape[-2:])
    lengths = np.full(batch, chain.num_steps) if lengths is None else lengths
    found, modes = jax.tree.map(np.asarray, compute(chain, unary))
    expected = {name: np.zeros(array.shape) for name, array in zip(NAMES, full, strict=True)}
    for at in np.ndindex(*batch):
        length = lengths[at]
        truth = enumerate_paths(tuple(array[at] for array in full), unary[at][:length])
        assert_allclose(found.log_normalizer[at], truth["total"], rtol=1e-10, atol=1e-12)
        assert_allclose(found.marginals[at][:length], truth["marginals"], atol=1e-10)
        assert not np.any(found.marginals[at][length:])
        for name in NAMES:
            expected[name][at] += truth["statistics"][name]
        best = truth["mode"] if truth["total"] > -np.inf else -1
        np.testing.assert_array_equal(modes[at][:length], best)
    assert_allclose(normalise(chain, unary), found.log_normalizer, rtol=1e-12, atol=1e-12)
    for name, array in zip(NAMES, own, strict=True):
        summed = expected[name].sum(tuple(range(expected[name].ndim - array.ndim)))
        spread = tuple(axis for axis, size in enumerate(array.shape) if size == 1 and summed.shape[axis] > 1)
        assert_allclose(found.statistics[name], summed.sum(spread, keepdims=True), atol=1e-10)
        assert np.all(found.statistics[name] >= 0)


@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("parameters", PARAMETERS)
def test_posterior_and_mode_equal_enumeration(parameters, evidence):
    check_against_enumeration(HiddenSemiMarkov(*PARAMETERS[parameters], NUM_STEPS), EVIDENCE[evidence])


@pytest.mark.parametrize(
    ("initial", "transition", "duration"),
    [((), (BATCH,), ()), ((2, 1), (), (BATCH,)), ((1,), (1,), (1,))],
    ids=str,
)
def test_batches_of_parameters_equal_enumeration(initial, transition, duration):
    chain = HiddenSemiMarkov(rows(*initial, 3), moves(*transition), rows(*duration, 3, LONGEST), NUM_STEPS)
    check_against_enumeration(chain, PLAIN)


@pytest.mark.parametrize(
    ("num_steps", "num_states", "longest"),
    [(1, 3, 2), (1, 2, 1), (5, 2, 1), (5, 2, 3), (4, 3, 1), (3, 3, 7)],
    ids=str,
)
def test_one_step_two_states_and_shortest_and_long_durations_equal_enumeration(num_steps, num_states, longest):
    probs = rows(num_states), moves(num_states=num_states), rows(num_states, longest)
    check_against_enumeration(HiddenSemiMarkov(*probs, num_steps), PLAIN[:, :num_steps, :num_states])


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_masked_chain_equals_enumeration_of_the_shorter_chain_whatever_the_absent_evidence(parameters):
    lengths = np.array([5, 1, 3, 2])
    mask = np.arange(NUM_STEPS) < lengths[:, None]
    unary = np.where(mask[..., None], PLAIN, np.array([np.nan, np.inf, -np.inf]))
    chain = HiddenSemiMarkov(*PARAMETERS[parameters], NUM_STEPS, mask=jnp.asarray(mask))
    check_against_enumeration(chain, unary, lengths)
    path = np.asarray(draw(jax.random.key(0), chain, unary))
    assert not np.any(path[~mask]) and not np.any(np.asarray(draw_prior(jax.random.key(1), chain, ()))[~mask])
    assert np.all(path >= 0)
    short = HiddenSemiMarkov(*PARAMETERS[parameters], 3)
    assert_allclose(score(chain, path)[0][2], score(short, path[2, :3])[0], rtol=1e-12)


def test_a_sequence_without_steps_counts_nowhere():
    chain = HiddenSemiMarkov(*DENSE, NUM_STEPS, mask=jnp.zeros((2, NUM_STEPS), bool))
    found = compute(chain, np.full((2, NUM_STEPS, 3), np.nan))[0]
    for array in jax.tree.leaves((found, score(chain, np.zeros((2, NUM_STEPS), int)))):
        assert not np.any(np.asarray(array))


def test_an_impossible_datum_contributes_nothing_and_no_nan():
    unary = PLAIN.copy()
    unary[1, 2] = -np.inf
    # state 0 lasts three steps for sure
    unary[2, :, 1:] = -np.inf
    chain = HiddenSemiMarkov(*ZEROS, NUM_STEPS)
    check_against_enumeration(chain, unary)
    assert np.all(np.asarray(draw(jax.random.key(0), chain, unary))[1:3] == -1)
    assert np.all(np.asarray(draw(jax.random.key(0), chain, unary))[[0, 3]] >= 0)
    assert not any(np.any(array) for array in jax.tree.leaves(score(chain, np.full((2, NUM_STEPS), -1))[1]))


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_log_prob_and_statistics_of_paths_equal_enumeration(parameters):
    probs = PARAMETERS[parameters]
    truth = enumerate_paths(probs, np.zeros((NUM_STEPS, NUM_STATES)))
    chain = HiddenSemiMarkov(*probs, NUM_STEPS)
    log_prob, _ = score(chain, truth["paths"])
    assert_allclose(log_prob, truth["log_p"], rtol=1e-10)
    assert_allclose(truth["total"], 0, atol=1e-12)
    possible = truth["paths"][truth["p"] > 0]
    expected = {name: np.zeros_like(array) for name, array in zip(NAMES, probs, strict=True)}
    for path in possible:
        state, seen = segments_of(tuple(path))[-1]
        later = probs[2][state] * (np.arange(1, LONGEST + 1) >= seen)
        for last in np.flatnonzero(later) + 1:
            add_use(expected, complete_terms(tuple(path), last), later[last - 1] / later.sum())
    found = score(chain, possible)[1]
    for name in NAMES:
        assert_allclose(found[name], expected[name], atol=1e-10)


def test_drawn_statistics_average_to_the_expected_ones_and_are_whole_numbers():
    # five standard errors of the mean of 20,000 draws: false-alarm rate below 1e-5 in all
    path, chain = np.array([0, 1, 1, 0, 0]), HiddenSemiMarkov(*DENSE, NUM_STEPS)
    many = jax.jit(jax.vmap(lambda key: chain.sample_statistics(key, path)))
    draws = many(jax.random.split(jax.random.key(3), 20_000))
    expected = score(chain, path)[1]
    for name in NAMES:
        assert np.all(draws[name] == np.round(draws[name]))
        error = np.std(draws[name], axis=0) / np.sqrt(20_000)
        assert np.all(np.abs(np.mean(draws[name], axis=0) - expected[name]) <= 5 * error + 1e-12)
    assert_allclose(draws["duration"].sum((1, 2)), 3)
    assert not np.any(draws["duration"][:, 0, 0] > 1)


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_posterior_and_prior_draws_follow_the_exact_joint(parameters):
    chain, unary = HiddenSemiMarkov(*PARAMETERS[parameters], NUM_STEPS), PLAIN[0] / 3
    draws = draw(jax.random.key(7), chain, jnp.broadcast_to(unary, (20_000, *unary.shape)))
    check_path_frequencies(
        np.asarray(draws), enumerate_paths(PARAMETERS[parameters], unary)["p"], num_states=NUM_STATES
    )
    draws = draw_prior(jax.random.key(8), chain, (20_000,))
    check_path_frequencies(
        np.asarray(draws), enumerate_paths(PARAMETERS[parameters], np.zeros_like(unary))["p"], num_states=NUM_STATES
    )


@pytest.mark.parametrize("masked", [False, True], ids=["all steps", "some steps"])
def test_the_total_that_comes_with_a_path_is_the_log_normalizer(masked):
    mask = jnp.arange(NUM_STEPS) < np.array([5, 0, 3, 1])[:, None] if masked else None
    chain, unary = HiddenSemiMarkov(*ZEROS, NUM_STEPS, mask=mask), jnp.asarray(PLAIN)
    path, total = jax.jit(lambda key, unary: chain.sample_with_total(key, unary))(jax.random.key(5), unary)
    assert_allclose(total, chain.log_normalizer(unary), rtol=1e-12)
    np.testing.assert_array_equal(path, draw(jax.random.key(5), chain, unary))


@pytest.mark.parametrize("parameters", PARAMETERS)
def test_filtered_equals_enumeration_of_the_steps_so_far(parameters):
    chain = HiddenSemiMarkov(*PARAMETERS[parameters], NUM_STEPS)
    filtered = chain.filtered(PLAIN)
    for n, t in np.ndindex(BATCH, NUM_STEPS):
        truth = enumerate_paths(PARAMETERS[parameters], PLAIN[n, : t + 1])
        assert_allclose(filtered[n, t], truth["marginals"][-1], atol=1e-10)


def test_geometric_durations_make_a_markov_chain():
    matrix, longest = rows(3, 3), 400
    stay = np.diagonal(matrix)[:, None]
    duration = (1 - stay) * stay ** np.arange(longest)
    # what is beyond the longest duration lasts for ever here
    duration[:, -1] += stay[:, 0] ** longest
    leave = matrix * (1 - np.eye(3)) / (1 - stay)
    unary = RNG.normal(size=(2, 40, 3)) * 2
    semi, plain = HiddenSemiMarkov(DENSE[0], leave, duration, 40), MarkovChain(DENSE[0], matrix, 40)
    found, truth = semi.posterior(unary), plain.posterior(unary)
    assert_allclose(found.log_normalizer, truth.log_normalizer, rtol=1e-10)
    assert_allclose(found.marginals, truth.marginals, atol=1e-10)
    off = 1 - np.eye(3)
    assert_allclose(found.statistics["transition"], truth.statistics["transition"] * off, atol=1e-10)
    np.testing.assert_array_equal(semi.mode(unary), plain.mode(unary))
    path = plain.sample(jax.random.key(0), (5,))
    assert_allclose(semi.log_prob(path), plain.log_prob(path), rtol=1e-10)


def test_statistics_are_the_gradient_that_finite_differences_find():
    potentials = {name: np.log(np.where(array > 0, array, 1)) for name, array in zip(NAMES, DENSE, strict=True)}

    def total(potentials: dict) -> jax.Array:
        probs = [jnp.exp(potentials[name]) for name in NAMES]
        return jnp.sum(HiddenSemiMarkov(*probs, NUM_STEPS, validate_args=False).log_normalizer(PLAIN))

    statistics, step = compute(HiddenSemiMarkov(*DENSE, NUM_STEPS), PLAIN)[0].statistics, 1e-6
    total = jax.jit(total)
    for name in NAMES:
        direction = RNG.normal(size=potentials[name].shape)
        ends = [total(potentials | {name: potentials[name] + sign * step * direction}) for sign in (1, -1)]
        assert_allclose(np.sum(statistics[name] * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


def test_a_chain_of_10000_steps_keeps_its_digits_in_float32():
    num_steps = 10_000
    probs, unary = (DENSE[0], DENSE[1], rows(3, 8)), RNG.normal(size=(num_steps, 3)) * 3
    single, double = (
        compute(HiddenSemiMarkov(*(jnp.asarray(p, dtype) for p in probs), num_steps), jnp.asarray(unary, dtype))[0]
        for dtype in (jnp.float32, jnp.float64)
    )
    assert single.log_normalizer.dtype == single.marginals.dtype == jnp.float32
    assert_allclose(single.log_normalizer, double.log_normalizer, rtol=1e-5)
    assert_allclose(single.marginals, double.marginals, atol=1e-3)
    assert_allclose(single.marginals.sum(-1), 1, atol=1e-3)
    assert_allclose(single.statistics["duration"], double.statistics["duration"], rtol=1e-3)


HALVES, SWITCH = np.ones(2) / 2, np.array([[0.0, 1.0], [1.0, 0.0]])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.ones(1), np.zeros((1, 1)), np.ones((1, 2)), 4), {}, "at least two states"),
        ((HALVES, np.ones((2, 1)), np.ones((2, 1)), 4), {}, r"transition_probs has shape \(2, 1\).*without_self_moves"),
        ((HALVES, np.eye(2), np.ones((2, 1)), 4), {}, "has 1 on the diagonal; expected zeros.*or a MarkovChain"),
        ((HALVES, SWITCH, np.ones(2), 4), {}, r"duration_probs has shape \(2,\).*\(\*batch, 2, D\)"),
        ((HALVES, SWITCH, np.ones((2, 0)), 4), {}, r"duration_probs has shape \(2, 0\)"),
        ((HALVES, SWITCH, np.ones((2, 1)), 0), {}, "at least one step"),
        ((np.ones((2, 2)) / 2, SWITCH, np.ones((3, 2, 1)), 4), {}, "the batch of duration_probs is"),
        ((HALVES, SWITCH, np.ones((2, 1)), 4), {"mask": np.ones(4)}, "and bool, True where a step exists"),
        ((HALVES, SWITCH, np.ones((2, 1)), 2), {"mask": np.array([False, True])}, "mask has a gap"),
        ((HALVES, SWITCH, np.ones((2, 2)), 2), {"validate_args": True}, "duration_probs has a row that is no distrib"),
    ],
)
def test_bad_arguments_are_refused_with_the_way_out(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        HiddenSemiMarkov(*arguments, **options)


def test_evidence_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"unary has shape \(4, 3\); this chain of 5 steps and 3 states"):
        HiddenSemiMarkov(*DENSE, NUM_STEPS).posterior(jnp.zeros((4, 3)))
