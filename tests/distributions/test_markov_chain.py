"""MarkovChain against enumeration of every path, in float64 to 1e-10, with hard zeros and gaps of 1000 nats."""

import itertools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from tests.oracles import check_path_frequencies
from vmix.distributions.chain_recursions import runs_associative, scaling_is_exact
from vmix.distributions.markov_chain import MarkovChain

NUM_STEPS, NUM_STATES, BATCH = 5, 3, 4
PATHS = np.array(list(itertools.product(range(NUM_STATES), repeat=NUM_STEPS)))
RNG = np.random.default_rng(3)
METHODS = ("sequential", "associative")


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def rows(*shape: int) -> np.ndarray:
    return RNG.dirichlet(np.ones(shape[-1]), shape[:-1])


def with_zeros(probs: np.ndarray) -> np.ndarray:
    probs = probs.copy()
    probs[..., 0] = 0
    return probs / probs.sum(-1, keepdims=True)


def enumerate_paths(initial: np.ndarray, transition: np.ndarray, unary: np.ndarray, length: int = NUM_STEPS) -> dict:
    """The textbook sums over all paths of one chain, `unary` of shape (T, K), in logarithms."""
    num_states = initial.shape[-1]
    paths = np.array(list(itertools.product(range(num_states), repeat=length)))
    matrices = transition if transition.ndim == 3 else np.broadcast_to(transition, (length, *transition.shape))
    with np.errstate(divide="ignore"):
        score = np.log(initial)[paths[:, 0]] + sum(unary[t, paths[:, t]] for t in range(length))
        for t in range(length - 1):
            score = score + np.log(matrices[t])[paths[:, t], paths[:, t + 1]]
    possible = np.max(score) > -np.inf
    total = logsumexp(score) if possible else -np.inf
    p = np.exp(score - total) if possible else np.zeros(len(paths))
    hot = np.eye(num_states)[paths]
    return {
        "total": total,
        "paths": paths,
        "p": p,
        "marginals": np.einsum("n,ntk->tk", p, hot),
        "pairs": np.einsum("n,nti,ntj->tij", p, hot[:, :-1], hot[:, 1:]),
        "mode": paths[np.argmax(score)],
    }


def gaps(unary: np.ndarray) -> np.ndarray:
    """Evidence that turns round: 1000 nats for one state, later for another, and impossible entries."""
    unary = unary.copy()
    unary[..., 0, 1] += 1000
    unary[..., 2, 2] += 1000
    unary[..., 3, 1] = -np.inf
    return unary


TRANSITIONS = {"dense": rows(3, 3), "zeros": np.array([[0.5, 0.5, 0.0], [0.0, 0.7, 0.3], [1.0, 0.0, 0.0]])}
INITIALS = {"dense": rows(3), "zeros": with_zeros(rows(3))}
PLAIN = RNG.normal(size=(BATCH, NUM_STEPS, NUM_STATES)) * 2
EVIDENCE = {"plain": PLAIN, "gaps": gaps(PLAIN)}


# most of the time is compilation: the chain is an argument, so that cases of one shape share it
fast = {"xla_backend_optimization_level": 0}
compute = jax.jit(lambda chain, unary: (chain.posterior(unary), chain.mode(unary)), compiler_options=fast)
normalise = jax.jit(lambda chain, unary: chain.log_normalizer(unary), compiler_options=fast)
gradient_in_evidence = jax.jit(jax.grad(lambda unary, chain: chain.log_normalizer(unary).sum()))
score = jax.jit(lambda chain, path: (chain.log_prob(path), chain.statistics(path)))
draw_prior = jax.jit(lambda key, chain, shape: chain.sample(key, shape), static_argnums=2)
draw = jax.jit(lambda key, chain, unary: chain.sample_posterior(key, unary))


def check_against_enumeration(chain: MarkovChain, unary: np.ndarray, lengths: np.ndarray | None = None) -> None:
    batch = np.broadcast_shapes(chain.batch_shape, unary.shape[:-2])
    tail = chain.transition_probs.shape[-3:] if chain.time_varying else chain.transition_probs.shape[-2:]
    full = [
        np.broadcast_to(array, batch + shape)
        for array, shape in (
            (chain.initial_probs, (chain.num_values,)),
            (chain.transition_probs, tail),
            (unary, unary.shape[-2:]),
        )
    ]
    lengths = np.full(batch, chain.num_steps) if lengths is None else np.broadcast_to(lengths, batch)
    found, modes = jax.tree.map(np.asarray, compute(chain, unary))
    expected = {"initial": np.zeros(batch + (chain.num_values,)), "transition": np.zeros(batch + tail)}
    for at in np.ndindex(*batch):
        length = lengths[at]
        truth = enumerate_paths(*(array[at] for array in full), length=length)
        np.testing.assert_allclose(found.log_normalizer[at], truth["total"], rtol=1e-10)
        np.testing.assert_allclose(found.marginals[at][:length], truth["marginals"], atol=1e-10)
        assert not np.any(found.marginals[at][length:])
        expected["initial"][at] += truth["marginals"][0]
        if chain.time_varying:
            expected["transition"][at][: length - 1] += truth["pairs"]
        else:
            expected["transition"][at] += truth["pairs"].sum(0)
        if truth["total"] > -np.inf:
            np.testing.assert_array_equal(modes[at][:length], truth["mode"])
    for name, shape in (("initial", chain.initial_probs.shape), ("transition", chain.transition_probs.shape)):
        assert found.statistics[name].shape == shape
        np.testing.assert_allclose(found.statistics[name], summed_to(expected[name], shape), atol=1e-10)


def summed_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    array = array.sum(tuple(range(array.ndim - len(shape))))
    spread = tuple(axis for axis, size in enumerate(shape) if size == 1 and array.shape[axis] > 1)
    return array.sum(spread, keepdims=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("evidence", EVIDENCE)
@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("initial", INITIALS)
def test_posterior_and_mode_equal_enumeration(initial, transition, evidence, method):
    chain = MarkovChain(INITIALS[initial], TRANSITIONS[transition], NUM_STEPS, method=method)
    check_against_enumeration(chain, EVIDENCE[evidence])
    found = compute(chain, EVIDENCE[evidence])[0].log_normalizer
    np.testing.assert_allclose(normalise(chain, EVIDENCE[evidence]), found, rtol=1e-12)


@pytest.mark.parametrize(
    ("initial", "transition"),
    [((3,), (BATCH, 3, 3)), ((2, 1, 3), (3, 3)), ((1, 3), (1, 3, 3))],
    ids=str,
)
def test_batches_of_parameters_equal_enumeration(initial, transition):
    check_against_enumeration(MarkovChain(rows(*initial), rows(*transition), NUM_STEPS), PLAIN)


@pytest.mark.parametrize(("own", "method"), [((), "associative"), ((BATCH,), "sequential")], ids=str)
@pytest.mark.parametrize("zeros", [False, True])
def test_time_varying_transitions_equal_enumeration(own, zeros, method):
    transition = rows(*own, NUM_STEPS - 1, 3, 3)
    if zeros:
        transition[..., 1, :, :] = TRANSITIONS["zeros"]
    chain = MarkovChain(INITIALS["dense"], transition, NUM_STEPS, time_varying=True, method=method)
    check_against_enumeration(chain, EVIDENCE["gaps"])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_masked_chain_equals_enumeration_of_the_shorter_chain_whatever_the_absent_evidence(transition, method):
    lengths = np.array([5, 1, 3, 2])
    mask = np.arange(NUM_STEPS) < lengths[:, None]
    unary = np.where(mask[..., None], PLAIN, np.array([np.nan, np.inf, -np.inf]))
    chain = MarkovChain(INITIALS["dense"], TRANSITIONS[transition], NUM_STEPS, mask=jnp.asarray(mask), method=method)
    check_against_enumeration(chain, unary, lengths)
    path = np.asarray(draw(jax.random.key(0), chain, unary))
    assert not np.any(path[~mask]) and not np.any(np.asarray(draw_prior(jax.random.key(1), chain, ()))[~mask])
    short = MarkovChain(INITIALS["dense"], TRANSITIONS[transition], 3)
    np.testing.assert_allclose(score(chain, path)[0][2], score(short, path[2, :3])[0], rtol=1e-12)
    np.testing.assert_allclose(gradient_in_evidence(unary, chain), compute(chain, unary)[0].marginals, atol=1e-12)


def test_a_state_that_looked_impossible_and_is_the_only_one_with_a_future_is_found():
    # the filter gives state 1 a share of exp(-1000); only from there can the chain be where the last step must be
    initial, transition = np.array([0.5, 0.5, 0.0]), np.array([[1.0, 0, 0], [0, 0.5, 0.5], [0, 0, 1.0]])
    unary = np.zeros((NUM_STEPS, 3))
    unary[0] = [1000, 0, 0]
    unary[-1] = [-1000, -np.inf, 0]
    truth = enumerate_paths(initial, transition, unary)
    # in float32 numbers near 1000 are 6e-5 apart, and here two of them cancel
    for dtype, tolerance in ((jnp.float64, 1e-12), (jnp.float32, 2e-4)):
        chain = MarkovChain(jnp.asarray(initial, dtype), jnp.asarray(transition, dtype), NUM_STEPS)
        found = compute(chain, jnp.asarray(unary, dtype))[0]
        np.testing.assert_allclose(found.log_normalizer, truth["total"], atol=tolerance)
        np.testing.assert_allclose(found.marginals, truth["marginals"], atol=tolerance)


def test_an_entry_that_scaling_would_lose_sends_the_chain_to_logarithms():
    precision = jnp.finfo(jnp.float32)
    safe, lost = jnp.float32(1e-14), jnp.float32(1e-25)
    assert precision.tiny / safe**2 < precision.eps
    matrix = lambda entry: jnp.log(jnp.array([[1 - entry, entry], [0.5, 0.5]], jnp.float32))[..., None]  # noqa: E731
    assert scaling_is_exact(matrix(safe)) and not scaling_is_exact(matrix(lost))
    # state 1 has 1e-25 e^-55 of the filter at step 2; the last step is 1e-25 likelier from there than from state 0
    chain = MarkovChain(jnp.array([1.0, 0.0], jnp.float32), jnp.exp(matrix(lost)[..., 0]), 3)
    unary = np.array([[0, 0], [0, -55.0], [-300.0, 0]])
    truth = enumerate_paths(np.array([1.0, 0]), np.array([[1.0, 1e-25], [0.5, 0.5]]), unary, length=3)
    found = compute(chain, jnp.asarray(unary, jnp.float32))[0]
    np.testing.assert_allclose(found.marginals, truth["marginals"], rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_impossible_datum_contributes_nothing_and_no_nan(method):
    unary = PLAIN.copy()
    unary[1, 2] = -np.inf
    unary[2] = [[0, -np.inf, -np.inf]] + [[-np.inf, -np.inf, 0]] * 4
    for transition in TRANSITIONS.values():
        chain = MarkovChain(INITIALS["zeros"], transition, NUM_STEPS, method=method)
        check_against_enumeration(chain, unary)
        gradients = np.asarray(gradient_in_evidence(unary, chain))
        assert not np.any(np.isnan(gradients)) and not np.any(gradients[1:3])
        assert np.all(np.asarray(draw(jax.random.key(0), chain, unary))[1:3] == -1)
        assert np.all(np.asarray(compute(chain, unary)[1])[1:3] == -1)


def weighted_total(potentials: dict, unary: jax.Array, weights: jax.Array, method: str) -> jax.Array:
    probs = [jnp.exp(potentials[name]) for name in ("initial", "transition")]
    return jnp.sum(weights * MarkovChain(*probs, NUM_STEPS, method=method).log_normalizer(unary))


gradient_in_potentials = jax.jit(jax.grad(weighted_total, (0, 1)), static_argnums=3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("transition", TRANSITIONS)
def test_statistics_are_the_gradient_with_respect_to_potentials(transition, method):
    chain = MarkovChain(INITIALS["dense"], TRANSITIONS[transition], NUM_STEPS, method=method)
    potentials, posterior = chain.potentials(), compute(chain, PLAIN)[0]
    found = gradient_in_potentials(potentials, PLAIN, np.ones(BATCH), method)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), found[0], posterior.statistics)
    np.testing.assert_allclose(found[1], posterior.marginals, atol=1e-12)
    weights = np.arange(1.0, BATCH + 1)
    weighted = gradient_in_potentials(potentials, PLAIN, weights, method)
    alone = [gradient_in_potentials(potentials, PLAIN, weight, method)[0]["transition"] for weight in np.diag(weights)]
    np.testing.assert_allclose(weighted[0]["transition"], sum(alone), atol=1e-12)


def test_gradient_equals_finite_differences_also_off_the_simplex():
    unary, step = jnp.asarray(PLAIN), 1e-6
    arguments = (jnp.asarray(INITIALS["dense"]), jnp.asarray(TRANSITIONS["dense"]), unary)

    def total(initial: jax.Array, transition: jax.Array, unary: jax.Array) -> jax.Array:
        mask = jnp.arange(NUM_STEPS) < jnp.array([5, 2, 3, 1])[:, None]
        return jnp.sum(jnp.sin(MarkovChain(initial, transition, NUM_STEPS, mask=mask).log_normalizer(unary)))

    total = jax.jit(total)
    gradients = jax.jit(jax.grad(total, (0, 1, 2)))(*arguments)
    for place, gradient in enumerate(gradients):
        direction = jnp.asarray(RNG.normal(size=gradient.shape))
        ends = []
        for sign in (1, -1):
            moved = list(arguments)
            moved[place] = moved[place] + sign * step * direction
            ends.append(total(*moved))
        np.testing.assert_allclose(jnp.sum(gradient * direction), (ends[0] - ends[1]) / (2 * step), rtol=1e-6)


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_posterior_draws_follow_the_exact_joint(transition):
    unary = EVIDENCE["plain"][0] / 3
    truth = enumerate_paths(INITIALS["zeros"], TRANSITIONS[transition], unary)
    chain = MarkovChain(INITIALS["zeros"], TRANSITIONS[transition], NUM_STEPS)
    draws = draw(jax.random.key(7), chain, jnp.broadcast_to(unary, (20_000, *unary.shape)))
    check_path_frequencies(np.asarray(draws), truth["p"], num_states=NUM_STATES)


@pytest.mark.parametrize("evidence", [*EVIDENCE, "impossible"])
@pytest.mark.parametrize("varying", [False, True], ids=["one matrix", "a matrix a move"])
@pytest.mark.parametrize("masked", [False, True], ids=["all steps", "some steps"])
def test_paths_composed_in_pairs_are_those_drawn_step_by_step(evidence, varying, masked):
    unary = EVIDENCE["plain"].copy() if evidence == "impossible" else EVIDENCE[evidence]
    if evidence == "impossible":
        unary[0, 1], unary[1, 0], unary[2, 3, 1:] = -np.inf, -np.inf, -np.inf
    moves = rows(NUM_STEPS - 1, 3, 3) if varying else TRANSITIONS["zeros"]
    mask = jnp.arange(NUM_STEPS) < np.array([5, 2, 3, 1])[:, None] if masked else None
    one, other = (
        draw(jax.random.key(5), MarkovChain(INITIALS["zeros"], moves, NUM_STEPS, mask=mask, method=method), many)
        for method in METHODS
        for many in [jnp.broadcast_to(unary, (500, *unary.shape))]
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("masked", [False, True], ids=["all steps", "some steps"])
def test_the_total_that_comes_with_a_path_is_the_log_normalizer(masked, method):
    mask = jnp.arange(NUM_STEPS) < np.array([5, 2, 3, 1])[:, None] if masked else None
    chain = MarkovChain(INITIALS["zeros"], TRANSITIONS["zeros"], NUM_STEPS, mask=mask, method=method)
    unary = jnp.asarray(EVIDENCE["plain"])
    path, total = jax.jit(lambda key, unary: chain.sample_with_total(key, unary))(jax.random.key(5), unary)
    np.testing.assert_array_equal(path, draw(jax.random.key(5), chain, unary))
    np.testing.assert_allclose(total, normalise(chain, unary), rtol=1e-6)


@pytest.mark.parametrize(
    ("backend", "shape", "in_pairs"),
    [
        ("gpu", (1_000, 10, 100), True),
        ("gpu", (100_000, 10, 1), True),
        ("gpu", (63, 10, 1), False),  # too few steps
        ("gpu", (1_000, 10, 300), False),  # a step fills the device
        ("gpu", (100_000, 10, 20), False),  # too much memory
        ("cpu", (1_000, 10, 1), False),
    ],
)
def test_steps_are_combined_in_pairs_where_an_accelerator_gains(monkeypatch, backend, shape, in_pairs):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert runs_associative("auto", shape) is in_pairs
    assert runs_associative("associative", shape) and not runs_associative("sequential", shape)


def test_prior_draws_follow_the_prior():
    chain = MarkovChain(INITIALS["zeros"], TRANSITIONS["zeros"], NUM_STEPS)
    truth = enumerate_paths(INITIALS["zeros"], TRANSITIONS["zeros"], np.zeros((NUM_STEPS, NUM_STATES)))
    check_path_frequencies(
        np.asarray(draw_prior(jax.random.key(8), chain, (20_000,))), truth["p"], num_states=NUM_STATES
    )


@pytest.mark.parametrize(
    ("num_steps", "num_states", "options"),
    [(1, 3, {}), (1, 3, {"time_varying": True}), (1, 3, {"method": "associative"}), (2, 1, {})],
    ids=str,
)
def test_shortest_and_constant_chains(num_steps, num_states, options):
    unary = PLAIN[:, :num_steps, :num_states]
    transition = rows(*((num_steps - 1,) if "time_varying" in options else ()), num_states, num_states)
    chain = MarkovChain(rows(num_states), transition, num_steps, **options)
    check_against_enumeration(chain, unary)
    path = draw_prior(jax.random.key(0), chain, (2,))
    log_prob, statistics = score(chain, path)
    assert path.shape == (2, num_steps) and np.all(np.isfinite(log_prob))
    assert statistics["transition"].shape == transition.shape


def test_log_prob_is_the_contraction_of_potentials_with_statistics():
    initial, transition = rows(BATCH, 3), rows(BATCH, 3, 3)
    chain = MarkovChain(initial, transition, NUM_STEPS)
    path = draw_prior(jax.random.key(2), chain, ())
    log_prob, counts = jax.tree.map(np.asarray, score(chain, path))
    total = sum(
        (np.log(p) * counts[name]).reshape(BATCH, -1).sum(1)
        for name, p in zip(counts, (initial, transition), strict=True)
    )
    np.testing.assert_allclose(log_prob, total, rtol=1e-12)
    by_hand, path = np.zeros((3, 3)), np.asarray(path)
    np.add.at(by_hand, (path[:, :-1], path[:, 1:]), 1)
    shared = MarkovChain(np.array([1.0, 0, 0]), np.eye(3), NUM_STEPS)
    log_prob, counts = score(shared, np.where(np.arange(BATCH)[:, None] == 0, 0, path))
    assert log_prob[0] == 0 and np.all(np.isneginf(log_prob[1:][np.any(path[1:] != 0, axis=1)]))
    np.testing.assert_array_equal(score(shared, path)[1]["transition"], by_hand)


filter_and_forecast = jax.jit(lambda chain, unary: (chain.filtered(unary), chain.forecast(unary, 2)))


@pytest.mark.parametrize("transition", TRANSITIONS)
def test_filtered_and_forecast_equal_enumeration(transition):
    lengths = np.array([5, 2, 3, 1])
    mask = jnp.arange(NUM_STEPS) < lengths[:, None]
    chain = MarkovChain(INITIALS["dense"], TRANSITIONS[transition], NUM_STEPS, mask=mask)
    filtered, ahead = filter_and_forecast(chain, PLAIN)
    assert ahead.shape == (BATCH, 2, NUM_STATES)
    for n, length in enumerate(lengths):
        for t in range(length):
            truth = enumerate_paths(INITIALS["dense"], TRANSITIONS[transition], PLAIN[n], t + 1)["marginals"][-1]
            np.testing.assert_allclose(filtered[n, t], truth, atol=1e-12)
        assert not np.any(filtered[n, length:])
        longer = np.concatenate([PLAIN[n, :length], np.zeros((2, NUM_STATES))])
        truth = enumerate_paths(INITIALS["dense"], TRANSITIONS[transition], longer, length + 2)["marginals"]
        np.testing.assert_allclose(ahead[n], truth[-2:], atol=1e-12)


def test_a_chain_of_20000_steps_keeps_its_digits_in_float32():
    num_steps = 20_000
    transition, unary = rows(3, 3), RNG.normal(size=(num_steps, 3)) * 3
    found = {}
    for dtype in (jnp.float32, jnp.float64):
        for name, matrix in (("dense", transition), ("zeros", TRANSITIONS["zeros"])):
            chain = MarkovChain(jnp.asarray(INITIALS["dense"], dtype), jnp.asarray(matrix, dtype), num_steps)
            found[dtype, name] = compute(chain, jnp.asarray(unary, dtype))[0]
    for name in ("dense", "zeros"):
        single, double = found[jnp.float32, name], found[jnp.float64, name]
        assert single.log_normalizer.dtype == jnp.float32
        np.testing.assert_allclose(single.log_normalizer, double.log_normalizer, rtol=1e-5)
        np.testing.assert_allclose(single.marginals, double.marginals, atol=1e-4)
        np.testing.assert_allclose(single.statistics["transition"].sum(), num_steps - 1, rtol=1e-5)


def test_vmap_over_chains_equals_a_loop_and_runs_one_branch():
    potentials = {"initial": np.log(rows(2, 3)), "transition": np.log(rows(2, 3, 3))}
    arguments = (potentials, PLAIN, np.ones(BATCH))

    def mapped(potentials: dict, unary: jax.Array, weights: jax.Array) -> tuple:
        gradient = jax.grad(lambda potentials: weighted_total(potentials, unary, weights, "sequential"))
        return jax.vmap(gradient)(potentials)

    found = jax.jit(mapped)(*arguments)
    for n in range(2):
        one = {name: array[n] for name, array in potentials.items()}
        looped = gradient_in_potentials(one, *arguments[1:], "sequential")[0]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a[n], b, rtol=1e-10), found, looped)  # noqa: B023
    assert str(jax.make_jaxpr(mapped)(*arguments)).count("cond[") == 3
