"""TopicCounts against enumeration of every assignment, draws of topics against exact moments, and what is refused."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import chi2, norm

from vmix.distributions import tokens, topic_counts
from vmix.distributions.topic_counts import TopicCounts

pytestmark = pytest.mark.usefixtures("strict_ranks")
WEIGHTS = np.array([[0.2, 0.5, 0.3], [0.6, 0.4, 0.0], [0.1, 0.1, 0.8], [0.0, 0.0, 1.0]])
PROBS = np.array([[0.1, 0.0, 0.4, 0.5], [0.3, 0.3, 0.4, 0.0], [0.25, 0.25, 0.0, 0.5]])
COUNTS = np.array([[2, 1, 1, 1], [1, 2, 0, 3], [0, 0, 0, 0], [2, 0, 0, 1]])
TOTALS = COUNTS.sum(1)


def enumerated(weights, probs, counts):
    """Sum over every assignment of topics to the tokens of one document: log p(x), E[tokens by topic], E[by word]."""
    words = np.repeat(np.arange(len(counts)), counts)
    evidence, per_topic, per_word = 0.0, np.zeros(len(weights)), np.zeros(probs.shape)
    for topics in itertools.product(range(len(weights)), repeat=len(words)):
        joint = math.prod(weights[k] * probs[k, v] for k, v in zip(topics, words, strict=True))
        evidence += joint
        for k, v in zip(topics, words, strict=True):
            per_topic[k] += joint
            per_word[k, v] += joint
    orders = math.factorial(len(words)) / math.prod(math.factorial(n) for n in counts)
    return math.log(orders * evidence), per_topic / evidence, per_word / evidence


def evaluate(weights, probs, totals, counts):
    """Everything deterministic, with arguments that need not be valid: the density, statistics, posterior and base."""
    topics = TopicCounts(weights, probs, totals, validate_args=False)
    statistics = topics.expected_statistics(counts)
    return topics.log_prob(counts), statistics, topics.topic_posterior(counts), topics.base_measure(counts)


evaluated = jax.jit(evaluate)  # eager JAX compiles every operation alone


def exponentiated(potentials, counts, totals):
    """`log_prob` as a function of the potentials."""
    weights, probs = jnp.exp(potentials["weights"]), jnp.exp(potentials["probs"])
    return TopicCounts(weights, probs, totals, validate_args=False).log_prob(counts)


def corpus(num_documents=60, num_words=30, num_topics=4, num_tokens=50, seed=0):
    """Random weights, probabilities and counts, with documents of very different lengths."""
    rng = np.random.default_rng(seed)
    weights, probs = rng.dirichlet(np.ones(num_topics), num_documents), rng.dirichlet(np.ones(num_words), num_topics)
    totals = rng.integers(0, 2 * num_tokens, num_documents)
    rows = [rng.multinomial(n, p / p.sum()) for n, p in zip(totals, weights @ probs, strict=True)]
    return weights, probs, np.stack(rows)


def test_log_prob_and_expected_statistics_match_enumeration_of_every_assignment():
    oracle = [enumerated(w, PROBS, x) for w, x in zip(WEIGHTS, COUNTS, strict=True)]
    with jax.enable_x64():
        log_prob, statistics, posterior, _ = jax.tree.map(np.asarray, evaluated(WEIGHTS, PROBS, TOTALS, COUNTS))
    np.testing.assert_allclose(log_prob, [o[0] for o in oracle], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(statistics["weights"], [o[1] for o in oracle], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(statistics["probs"], sum(o[2] for o in oracle), rtol=1e-10, atol=1e-12)
    shares = [o[1] / n if n else w for o, n, w in zip(oracle, TOTALS, WEIGHTS, strict=True)]
    np.testing.assert_allclose(posterior, shares, rtol=1e-10, atol=1e-12)


def test_log_prob_is_that_of_a_multinomial_with_mixed_probabilities():
    weights, probs, counts = corpus()
    counts[0, 0] = 300  # beyond the table of factorials
    with jax.enable_x64():
        expected = dist.Multinomial(counts.sum(1), jnp.asarray(weights @ probs)).log_prob(jnp.asarray(counts))
        found = evaluated(weights, probs, counts.sum(1), counts)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        few = evaluated(weights[1:], probs, counts[1:].sum(1), counts[1:].astype(np.uint8))[0]
        np.testing.assert_allclose(few, expected[1:], rtol=1e-12)


@pytest.mark.parametrize("counts", [COUNTS, COUNTS * 0.75 + 0.01 * (COUNTS > 0)], ids=["whole", "fractional"])
def test_expected_statistics_are_the_gradient_of_log_prob_by_the_potentials(counts):
    with jax.enable_x64():
        potentials = TopicCounts(WEIGHTS, PROBS, 1).potentials()
        gradient = jax.jit(jax.grad(lambda p: exponentiated(p, counts, counts.sum(1)).sum()))(potentials)
        statistics = evaluated(WEIGHTS, PROBS, counts.sum(1), counts)[1]
        gradient, statistics = jax.tree.map(np.asarray, (gradient, statistics))
    for name in ("weights", "probs"):
        np.testing.assert_allclose(statistics[name], gradient[name], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(np.sum(statistics["weights"], 1), counts.sum(1), rtol=1e-10)


def test_bound_at_the_posterior_is_the_density():
    """`<potentials, E[t]> + base + entropy == log_prob`, entropy of the tokens' topics written out."""
    with jax.enable_x64():
        log_prob, t, _, base = jax.tree.map(np.asarray, evaluated(WEIGHTS, PROBS, TOTALS, COUNTS))
        eta = jax.tree.map(np.asarray, TopicCounts(WEIGHTS, PROBS, TOTALS).potentials())
    linear = sum(np.sum(t[n] * np.where(t[n] > 0, eta[n], 0)) for n in t)
    joint = WEIGHTS[:, :, None] * PROBS[None]
    q = joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)
    entropy = -np.sum(COUNTS[:, None, :] * q * np.log(np.where(q > 0, q, 1)))
    np.testing.assert_allclose(linear + base.sum() + entropy, log_prob.sum(), rtol=1e-12)


def test_impossible_words_give_minus_infinity_and_finite_gradients():
    counts = jnp.array([[0, 0, 1, 0], [0, 0, 0, 2]])
    weights, probs = jnp.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]), jnp.asarray(PROBS, jnp.float32)
    log_prob, statistics, _, _ = evaluated(weights, probs, counts.sum(1), counts)
    np.testing.assert_array_equal(log_prob, [-np.inf, -np.inf])
    gradient = jax.grad(lambda w, p: evaluate(w, p, counts.sum(1), counts)[0].sum(), argnums=(0, 1))
    assert all(np.all(np.isfinite(g)) for g in jax.jit(gradient)(weights, probs))
    drawn = TopicCounts(weights, probs, counts.sum(1)).sample_statistics(jax.random.key(0), counts)
    assert all(np.all(s == 0) for s in (*statistics.values(), *drawn.values()))


def test_a_document_without_tokens_adds_exactly_nothing():
    nothing = np.zeros((4, 4), int)
    log_prob, statistics, _, _ = evaluated(WEIGHTS, PROBS, nothing.sum(1), nothing)
    np.testing.assert_array_equal(log_prob, np.zeros(4))
    topics = TopicCounts(WEIGHTS, PROBS, 0)
    drawn = topics.sample_statistics(jax.random.key(0), nothing)
    assert all(np.all(s == 0) for s in (*statistics.values(), *drawn.values()))
    np.testing.assert_array_equal(topics.sample(jax.random.key(0)), nothing)


def test_a_word_that_is_rare_in_every_topic_does_not_underflow():
    """Products of 1e-25 and 1e-25 are zero in float32; the true value is -2 log 1e25 = -115 nats."""
    arguments = jnp.array([1.0, 1e-25]), jnp.array([[1.0, 0.0], [1.0, 1e-25]]), 1
    log_prob, _, posterior, _ = evaluated(*arguments, jnp.array([0, 1]))
    np.testing.assert_allclose(log_prob, 2 * math.log(1e-25), rtol=1e-6)
    np.testing.assert_allclose(posterior, [0, 1])
    drawn = TopicCounts(*arguments).sample_statistics(jax.random.key(0), jnp.array([0, 1]))
    np.testing.assert_array_equal(drawn["weights"], [0, 1])


@pytest.mark.parametrize("entries", [1, 7 * 30])
def test_blocks_of_documents_change_nothing(monkeypatch, entries):
    weights, probs, counts = corpus()

    def summed(weights):
        density, *rest = evaluate(weights, probs, counts.sum(1), counts)
        return density.sum(), (density, *rest)

    weights = jnp.asarray(weights, jnp.float32)
    whole = jax.jit(jax.grad(summed, has_aux=True))(weights)
    monkeypatch.setattr(topic_counts, "_BLOCK_ENTRIES", entries)
    blocks = jax.jit(jax.grad(lambda w: summed(w), has_aux=True))(weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-5), blocks, whole)


@pytest.mark.parametrize("chunk, entries", [(1 << 13, 1 << 19), (128, 100)], ids=["one-piece", "many-pieces"])
def test_every_token_is_drawn_once(monkeypatch, chunk, entries):
    monkeypatch.setattr(tokens, "_CHUNK_TOKENS", chunk)
    monkeypatch.setattr(topic_counts, "_BLOCK_ENTRIES", entries)
    weights, probs, counts = corpus()
    weights[:, 2], probs[1, ::2] = 0, 0
    weights, probs = weights / weights.sum(1, keepdims=True), probs / probs.sum(1, keepdims=True)
    drawn = jax.jit(TopicCounts(weights, probs, counts.sum(1)).sample_statistics)(jax.random.key(3), counts)
    np.testing.assert_array_equal(np.sum(drawn["weights"], 1), counts.sum(1))
    np.testing.assert_array_equal(np.sum(drawn["probs"], 0), counts.sum(0))
    np.testing.assert_array_equal(np.sum(drawn["probs"], 1), np.sum(drawn["weights"], 0))
    assert np.all(drawn["weights"][:, 2] == 0) and np.all(drawn["probs"][1, ::2] == 0)
    assert all(np.all(s >= 0) and np.all(s == np.round(s)) for s in drawn.values())
    assert drawn["weights"].dtype == drawn["probs"].dtype == jnp.float32


def test_drawn_statistics_have_the_posterior_s_mean_and_spread():
    """z-tests of means over 4,000 draws, and chi-squared of the first document's split; false alarms below 1e-5."""
    draws = 4000
    topics = TopicCounts(jnp.asarray(WEIGHTS), jnp.asarray(PROBS), TOTALS)
    keys = jax.random.split(jax.random.key(5), draws)
    drawn = jax.jit(jax.vmap(lambda key: topics.sample_statistics(key, COUNTS)))(keys)
    expected = topics.expected_statistics(COUNTS)
    num_tests = sum(e.size for e in expected.values())
    bound = norm.isf(5e-6 / num_tests / 2)
    for name, mean in expected.items():
        found = np.asarray(drawn[name], float)
        error = found.std(0) / math.sqrt(draws)
        assert np.all(np.abs(found.mean(0) - mean) <= bound * error + 1e-5), name
    joint = WEIGHTS[0][:, None] * PROBS
    q = joint / joint.sum(0)
    variance = np.sum(COUNTS[0] * q * (1 - q), axis=1)  # a sum of independent draws, one a token
    ratio = np.asarray(drawn["weights"], float)[:, 0].var(0) / variance
    spread = math.sqrt(2 / draws) * norm.isf(1e-6)
    assert np.all(np.abs(ratio - 1) < 1.5 * spread)


def test_tokens_of_different_chunks_and_blocks_are_drawn_independently(monkeypatch):
    """The variance of a count of 400 fair coins over 2,000 draws, by chi-squared; false alarms 1e-6."""
    monkeypatch.setattr(tokens, "_CHUNK_TOKENS", 64)
    monkeypatch.setattr(topic_counts, "_BLOCK_ENTRIES", 4)
    topics = TopicCounts(np.full((4, 2), 0.5), np.full((2, 2), 0.5), 100)
    keys = jax.random.split(jax.random.key(6), 2000)
    drawn = jax.jit(jax.vmap(lambda key: topics.sample_statistics(key, np.full((4, 2), 50))["weights"]))(keys)
    statistic = np.sum((np.asarray(drawn)[:, :, 0].sum(1) - 200) ** 2) / 100
    assert chi2.ppf(5e-7, 2000) < statistic < chi2.isf(5e-7, 2000)


def test_samples_have_the_total_and_the_mixture_s_frequencies():
    """Chi-squared of 40,000 tokens; false alarms 1e-6."""
    topics = TopicCounts(jnp.array([0.6, 0.4, 0.0]), jnp.asarray(PROBS), np.array([7, 0, 3]))
    drawn = np.asarray(jax.jit(lambda key: topics.sample(key, (4000,)))(jax.random.key(0)))
    assert drawn.shape == (4000, 3, 4) and drawn.dtype == np.int32
    np.testing.assert_array_equal(drawn.sum(-1), np.broadcast_to([7, 0, 3], (4000, 3)))
    expected = 40_000 * np.array([0.6, 0.4, 0.0]) @ PROBS
    assert np.sum((drawn.sum((0, 1)) - expected) ** 2 / expected) < chi2.isf(1e-6, 3)
    alone = TopicCounts(jnp.array([0.0, 0.0, 1.0]), jnp.asarray(PROBS), 50).sample(jax.random.key(1), (200,))
    assert np.all(np.asarray(alone)[:, 2] == 0)


def test_traced_total_is_sampled_up_to_max_tokens():
    def draw(key, total):
        return TopicCounts(jnp.asarray(WEIGHTS[0]), jnp.asarray(PROBS), total, max_tokens=9).sample(key)

    assert int(jax.jit(draw)(jax.random.key(0), 6).sum()) == 6


def test_em_by_hand_never_lowers_the_density():
    _, _, counts = corpus(seed=1)
    rng = np.random.default_rng(2)
    with jax.enable_x64():
        weights, probs = jnp.full((60, 3), 1 / 3), jnp.asarray(rng.dirichlet(np.ones(30), 3))
        path = []
        for _ in range(20):
            log_prob, statistics, weights, _ = evaluated(weights, probs, counts.sum(1), counts)
            path.append(float(log_prob.sum()))
            probs = statistics["probs"] / statistics["probs"].sum(1, keepdims=True)
    assert np.all(np.diff(path) > -1e-9 * abs(path[0])) and path[-1] > path[0] + 10


def test_float32_agrees_with_float64():
    weights, probs, counts = corpus()
    with jax.enable_x64():
        expected = jax.tree.map(np.asarray, evaluated(weights, probs, counts.sum(1), counts))
    found = evaluated(weights, probs, counts.sum(1), counts)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=3e-6, atol=1e-4), found, expected)
    assert found[0].dtype == jnp.float32 and expected[0].dtype == np.float64


def test_shared_weights_have_statistics_summed_over_the_documents():
    rows = evaluated(np.tile(WEIGHTS[:1], (4, 1)), PROBS, TOTALS, COUNTS)[1]
    for shared in (WEIGHTS[0], WEIGHTS[:1]):
        topics = TopicCounts(shared, PROBS, TOTALS)
        found = evaluated(shared, PROBS, TOTALS, COUNTS)[1]
        assert topics.batch_shape == (4,) and found["weights"].shape == topics.potentials()["weights"].shape
        np.testing.assert_allclose(found["weights"].reshape(-1), rows["weights"].sum(0), rtol=1e-5)
        np.testing.assert_allclose(found["probs"], rows["probs"], rtol=1e-5, atol=1e-6)
        drawn = jax.jit(topics.sample_statistics)(jax.random.key(0), COUNTS)
        assert drawn["weights"].shape == shared.shape and drawn["weights"].sum() == COUNTS.sum()


def test_it_is_a_numpyro_distribution_under_plates_jit_and_vmap():
    def program(counts):
        with numpyro.plate("topics", 3):
            phi = numpyro.sample("phi", dist.Dirichlet(jnp.ones(4)))
        with numpyro.plate("documents", 4):
            theta = numpyro.sample("theta", dist.Dirichlet(jnp.ones(3)))
            numpyro.sample("x", TopicCounts(theta, phi, counts.sum(1)), obs=counts)

    def log_joint(values):
        return numpyro.infer.util.log_density(program, (jnp.asarray(COUNTS),), {}, values)[0]

    # NumPyro's Dirichlet density is NaN on the edge
    probs = (PROBS + 0.1) / 1.4
    weights = np.stack([WEIGHTS + 0.1, WEIGHTS[::-1] + 0.1]) / 1.3
    values = {"theta": jnp.asarray(weights), "phi": jnp.asarray([probs, probs])}
    prior = 4 * math.log(math.factorial(2)) + 3 * math.log(math.factorial(3))
    with jax.numpy_rank_promotion("allow"):  # NumPyro relies on it
        found = jax.jit(jax.vmap(log_joint))(values)
    densities = [evaluated(w, probs, TOTALS, COUNTS)[0].sum() + prior for w in weights]
    np.testing.assert_allclose(found, densities, rtol=1e-5)


def test_it_passes_through_jit_as_an_argument_and_expands():
    topics = TopicCounts(WEIGHTS, PROBS, TOTALS, max_tokens=9)
    expected = evaluated(WEIGHTS, PROBS, TOTALS, COUNTS)[0]
    np.testing.assert_allclose(jax.jit(lambda topics, x: topics.log_prob(x))(topics, COUNTS), expected, rtol=1e-5)
    with jax.numpy_rank_promotion("allow"):
        wide = TopicCounts(WEIGHTS[0], PROBS, 5).expand([2, 3])
        assert wide.batch_shape == (2, 3) and jax.jit(wide.sample)(jax.random.key(0)).shape == (2, 3, 4)
        log_prob = jax.jit(wide.log_prob)(np.broadcast_to(COUNTS[0], (2, 3, 4)))
    np.testing.assert_allclose(log_prob, np.full((2, 3), expected[0]), rtol=1e-5)
    assert wide.is_discrete and wide.event_dim == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((WEIGHTS, PROBS[:2], 3), r"weights has shape \(4, 3\) and probs \(2, 4\).*one weight for each row"),
        ((WEIGHTS, PROBS[None], 3), r"probs has shape \(1, 3, 4\); expected \(K, V\)"),
        ((WEIGHTS, PROBS, np.ones(5)), r"total_count has shape \(5,\).*sum the counts over their last axis"),
        ((WEIGHTS, PROBS * 2, 3), r"row \(\d,\) of probs sums to 2.*divide probs"),
        ((WEIGHTS[0] * 0.5, PROBS, 3), r"row of weights sums to 0.5.*divide weights"),
        ((WEIGHTS - 0.2, PROBS, 3), r"weights has the least value -0.2"),
        ((WEIGHTS, PROBS, -1), r"total_count has the least value -1"),
    ],
)
def test_arguments_that_disagree_are_refused_with_a_way_out(arguments, message):
    with pytest.raises(ValueError, match=message):
        TopicCounts(*arguments, validate_args=True)


def test_counts_that_cannot_be_are_refused_with_a_way_out():
    topics, key = TopicCounts(WEIGHTS, PROBS, TOTALS, validate_args=True), jax.random.key(0)
    with pytest.raises(ValueError, match="least count -1"):
        topics.log_prob(COUNTS - 1)
    with pytest.raises(ValueError, match="count 2.5.*round it, or pass validate_args=False"):
        topics.expected_statistics(COUNTS + 0.5)
    with pytest.raises(ValueError, match="count 2.5.*round it$"):
        TopicCounts(WEIGHTS, PROBS, TOTALS, validate_args=False).sample_statistics(key, COUNTS + 0.5)
    with pytest.raises(ValueError, match=r"value has shape \(4, 3\); expected \(\*batch, 4\)"):
        topics.log_prob(COUNTS[:, :3])
    with pytest.raises(ValueError, match="goes up to 6, above max_tokens=5"):
        TopicCounts(WEIGHTS, PROBS, TOTALS, max_tokens=5).sample(key)
    with pytest.raises(ValueError, match="needs max_tokens"):
        jax.jit(lambda total: TopicCounts(WEIGHTS, PROBS, total).sample(key))(TOTALS)
    with pytest.raises(ValueError, match="total_count is not whole"):
        TopicCounts(WEIGHTS, PROBS, 2.5).sample(key)
    traced = jax.jit(TopicCounts(WEIGHTS, PROBS, TOTALS).log_prob)(COUNTS - (COUNTS == 0))
    np.testing.assert_array_equal(np.isneginf(traced), np.any(COUNTS == 0, axis=1))
