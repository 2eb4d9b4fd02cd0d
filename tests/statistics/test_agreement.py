"""The same numbers as other people's programs: scikit-learn, hmmlearn, tomotopy, NumPyro's NUTS and enumeration.

Deterministic claims are held in float64, on data that float32 holds, which is what a fit takes. A peer that is not
installed is skipped, and said. Sampled claims give their false-alarm rate; seeds are fixed.
"""

from __future__ import annotations

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.diagnostics import effective_sample_size
from numpyro.infer import MCMC, NUTS, init_to_value
from scipy.optimize import linear_sum_assignment
from scipy.special import ndtri

import vmix
from tests.oracles import CASES
from vmix import sequences
from vmix.conformance_case import Case
from vmix.distributions import MarkovChain
from vmix.inference import EM, Gibbs
from vmix.log_joint import Batch
from vmix.models import HMM, LDA, GaussianMixture
from vmix.program import as_program

K, N, T = 3, 12, 20
SWEEPS = 10
FALSE_ALARM = 1e-4
INITIAL = np.array([0.5, 0.3, 0.2])
MOVES = np.array([[0.8, 0.15, 0.05], [0.1, 0.8, 0.1], [0.05, 0.25, 0.7]])


def z_limit(number: int) -> float:
    """The |z| that all of `number` right means pass, but for `FALSE_ALARM`."""
    return float(-ndtri(FALSE_ALARM / (2 * number)))


def states() -> np.ndarray:
    """Paths of the chain, shape (N, T)."""
    rng = np.random.default_rng(0)
    found = np.empty((N, T), int)
    found[:, 0] = rng.choice(K, N, p=INITIAL)
    for t in range(1, T):
        found[:, t] = (rng.random((N, 1)) > MOVES[found[:, t - 1]].cumsum(1)[:, :-1]).sum(1)
    return found


C = states()
CHAIN = {"initial": np.full(K, 1 / K), "transition": np.full((K, K), 0.2) + 0.4 * np.eye(K)}


def gaussian(seed: int) -> np.ndarray:
    """Two columns a step, in steps of 2^-10."""
    loc = np.array([[-2.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
    return np.round(1024 * np.random.default_rng(seed).normal(loc[C])) / 1024


def hmm_case(emission: str) -> tuple:
    """The name of hmmlearn's class, its options, the data, and a start with hmmlearn's names for it."""
    rng = np.random.default_rng(1)
    if emission == "poisson":
        rate = np.array([[2.0, 9.0], [6.0, 3.0], [15.0, 20.0]])
        return "PoissonHMM", {}, rng.poisson(rate[C]), {"rate": rate + 1.0}, {"rate": "lambdas_"}
    if emission == "categorical":
        probs = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.1, 0.1, 0.2, 0.6]])
        x = (rng.random((N, T, 1)) > probs[C].cumsum(-1)[..., :-1]).sum(-1)
        return "CategoricalHMM", {}, x, {"probs": 0.7 * probs + 0.075}, {"probs": "emissionprob_"}
    options = {"covariance_type": "diag", "covars_prior": 0, "min_covar": 0}
    start = {"loc": np.array([[-1.5, 0.7], [-0.6, 3.3], [2.4, -0.5]]), "precision": np.full((K, 2), 0.5)}
    return "GaussianHMM", options, gaussian(1), start, {"loc": "means_"}


SLOW_EMISSIONS = [pytest.param(name, marks=pytest.mark.slow) for name in ("poisson", "categorical")]


@pytest.mark.parametrize("emission", ["gaussian", *SLOW_EMISSIONS])
def test_em_paths_and_evidence_of_an_hmm_are_those_of_hmmlearn(emission):
    """Sweep for sweep from one start; then the evidence, the marginals and the most probable paths of both."""
    hmm = pytest.importorskip("hmmlearn.hmm", reason='needs the extra "peers"')
    kind, options, x, start, names = hmm_case(emission)
    peer = getattr(hmm, kind)(K, n_iter=SWEEPS, tol=-np.inf, init_params="", **options)
    peer.startprob_, peer.transmat_ = CHAIN["initial"], CHAIN["transition"]
    for name, theirs in names.items():
        setattr(peer, theirs, start[name])
    if emission == "gaussian":
        peer.covars_ = 1 / start["precision"]
    flat, lengths = x.reshape(N * T, -1), [T] * N
    peer.fit(flat, lengths)
    with jax.enable_x64():
        engine = EM(num_sweeps=SWEEPS, tolerance=None, estimate="ml")
        fit = vmix.fit(HMM(num_components=K, emission=emission), x, engine=engine, seed=0, init=CHAIN | start)
        evidence, marginals = fit.score_samples(x), fit.predict_proba(x)
        paths = sequences.most_probable_path(fit, x)
    np.testing.assert_allclose(fit.history["objective"] * N, peer.monitor_.history, rtol=1e-9)
    np.testing.assert_allclose(fit.posterior["transition"], peer.transmat_, atol=1e-9)
    np.testing.assert_allclose(fit.posterior["initial"], peer.startprob_, atol=1e-9)
    for name, theirs in names.items():
        np.testing.assert_allclose(fit.posterior[name], getattr(peer, theirs), rtol=1e-9, atol=1e-9)
    rows = x.reshape(N, T, -1)
    np.testing.assert_allclose(evidence, [peer.score(row) for row in rows], rtol=1e-9)
    np.testing.assert_allclose(marginals, [peer.predict_proba(row) for row in rows], atol=1e-9)
    np.testing.assert_array_equal(paths, [peer.decode(row)[1] for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_em_of_a_mixture_is_scikit_learn_s_to_rounding(covariance):
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture as Peer

    x = gaussian(2).reshape(-1, 2)
    eye = {"diagonal": np.ones(2), "full": np.eye(2)}[covariance]
    start = {"w": np.full(K, 1 / K), "loc": x[[0, 40, 200]], "precision": np.stack([eye] * K)}
    peer = Peer(
        K,
        covariance_type={"diagonal": "diag", "full": "full"}[covariance],
        tol=0.0,
        reg_covar=0.0,
        max_iter=SWEEPS,
        weights_init=start["w"],
        means_init=start["loc"],
        precisions_init=start["precision"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # every one of the SWEEPS is wanted
        peer.fit(x)
    with jax.enable_x64():
        engine = EM(num_sweeps=SWEEPS, tolerance=None, estimate="ml")
        fit = vmix.fit(GaussianMixture(num_components=K, covariance=covariance), x, engine=engine, seed=0, init=start)
        evidence, shares = fit.score_samples(x), fit.predict_proba(x)
    for name, theirs in {"w": "weights_", "loc": "means_", "precision": "precisions_"}.items():
        np.testing.assert_allclose(fit.posterior[name], getattr(peer, theirs), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(evidence, peer.score_samples(x), rtol=1e-8)
    np.testing.assert_allclose(shares, peer.predict_proba(x), atol=1e-8)


@pytest.mark.parametrize("name", CASES)
def test_evidence_is_that_of_numpyro_s_enumeration(name):
    """log p(x, globals) with the discrete sites summed out by funsor, at a draw of the prior, in float64."""
    funsor = pytest.importorskip("numpyro.contrib.funsor", reason="funsor is not installed")
    pytest.importorskip("funsor", reason="funsor is not installed")
    example = CASES[name](num_rows=20)
    with jax.enable_x64(), numpyro.validation_enabled(False):
        case = Case(as_program(example.program), example.data, 0)
        assert case.plan.globals  # the plan is made here, in float64
        args, values = case.args(), case.prior_globals("agreement")
        evidence, log_prior = case.evidence(values, Batch(args, {}, {}))
        enumerated = funsor.enum(funsor.config_enumerate(example.program), first_available_dim=-3)
        expected, _ = funsor.log_density(enumerated, args, {}, values)
        found = float(evidence.sum() + log_prior)
    assert found == pytest.approx(float(expected), rel=1e-10)


def two_gaussians(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(2, 2.0)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 4.0).expand([2, 2]).to_event(2))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0).expand([2, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.Normal(loc[c], 1 / jnp.sqrt(tau[c])).to_event(1), obs=x)


def two_gaussians_marginal(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.full(2, 2.0)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 4.0).expand([2, 2]).to_event(2))
    tau = numpyro.sample("tau", dist.Gamma(2.0, 2.0).expand([2, 2]).to_event(2))
    each = dist.Normal(loc, 1 / jnp.sqrt(tau)).log_prob(x[:, None]).sum(-1)
    numpyro.factor("x", jax.nn.logsumexp(each + jnp.log(w), 1).sum())


def hidden_chain(x):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
    moves = numpyro.sample("moves", dist.Dirichlet(jnp.ones(2) + jnp.eye(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 4.0).expand([2]).to_event(1))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(p, moves, x.shape[1]))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(1), obs=x)


def hidden_chain_marginal(x):
    p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))
    moves = numpyro.sample("moves", dist.Dirichlet(jnp.ones(2) + jnp.eye(2)))
    loc = numpyro.sample("loc", dist.Normal(0.0, 4.0).expand([2]).to_event(1))
    each = dist.Normal(loc, 1.0).log_prob(x[..., None])  # (N, T, 2)

    def step(alpha, seen):
        return jax.nn.logsumexp(alpha[:, :, None] + jnp.log(moves), 1) + seen, None

    last, _ = jax.lax.scan(step, jnp.log(p) + each[:, 0], each[:, 1:].swapaxes(0, 1))
    numpyro.factor("x", jax.nn.logsumexp(last, 1).sum())


def mixture_rows():
    rng = np.random.default_rng(3)
    c = rng.random(80) < 0.35
    return (np.where(c[:, None], [2.0, 1.0], [-1.5, 0.0]) + rng.normal(size=(80, 2))).astype(np.float32)


def chain_rows():
    return (np.array([-1.2, 1.2])[C % 2] + np.random.default_rng(4).normal(size=(N, T))).astype(np.float32)


PAIRS = {
    "two Gaussians": (
        two_gaussians,
        two_gaussians_marginal,
        mixture_rows,
        {"w": [0.6, 0.4], "loc": [[-1.5, 0.0], [2.0, 1.0]], "tau": np.ones((2, 2))},
    ),
    "hidden chain": (
        hidden_chain,
        hidden_chain_marginal,
        chain_rows,
        {"p": [0.6, 0.4], "moves": [[0.7, 0.3], [0.3, 0.7]], "loc": [-1.2, 1.2]},
    ),
}


def moments(draws: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Means of every unconstrained value and its square, components in the order of their first mean; variances."""
    first = draws["loc"].reshape(len(draws["loc"]), 2, -1)[:, :, 0]
    order = np.argsort(first, 1)
    flat = []
    for name in sorted(draws):
        value = np.take_along_axis(draws[name], order.reshape(*order.shape, *[1] * (draws[name].ndim - 2)), 1)
        if name == "moves":
            value = np.take_along_axis(value, order[:, None, :], 2)
        flat.append(value.reshape(len(value), -1))
    both = np.concatenate([np.concatenate(flat, 1), np.concatenate(flat, 1) ** 2], 1).astype(float)
    return both.mean(0), both.var(0) / effective_sample_size(both[None])


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_gibbs_draws_from_the_posterior_that_nuts_finds(name):
    """First and second moments against NUTS on the marginalised program; false-alarm rate 1e-4 a program."""
    program, marginal, rows, start = PAIRS[name]
    x = rows()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = vmix.fit(program, x, engine=Gibbs(num_samples=3000, num_warmup=300), seed=0, init=start)
    kernel = NUTS(marginal, init_strategy=init_to_value(values={k: jnp.asarray(v) for k, v in start.items()}))
    mcmc = MCMC(kernel, num_warmup=500, num_samples=2000, progress_bar=False)
    mcmc.run(jax.random.key(1), jnp.asarray(x))
    draws = {k: np.asarray(v) for k, v in mcmc.get_samples().items() if k in start}
    (mean, error), (other, other_error) = moments(fit.posterior), moments(draws)
    z = np.abs(mean - other) / np.sqrt(error + other_error)
    assert z.max() < z_limit(z.size), z


WORDS, TOPICS, TOKENS = 12, 3, 40


def documents(seed: int, num_docs: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phi = np.random.default_rng(5).dirichlet(np.full(WORDS, 0.2), TOPICS)
    theta = rng.dirichlet(np.full(TOPICS, 0.3), num_docs)
    return np.stack([rng.multinomial(TOKENS, row) for row in theta @ phi / (theta @ phi).sum(1, keepdims=True)])


@pytest.mark.slow
def test_gibbs_topics_are_those_of_tomotopy():
    """Posterior means of the topics under the same priors: within 5 Monte-Carlo errors, or 0.002 where that is more.

    Both sample, each with its own random numbers, so no more digits agree. The floor is for words that a topic barely
    has: they appear in it in rare spells, whose number the effective sample size cannot tell.
    """
    tomotopy = pytest.importorskip("tomotopy", reason='needs the extra "peers"')
    x, a, b = documents(6, 60), 0.5, 0.3
    peer = tomotopy.LDAModel(k=TOPICS, alpha=a, eta=b, seed=1)
    peer.optim_interval = 0
    for row in x:
        peer.add_doc([str(word) for word in np.repeat(np.arange(WORDS), row)])
    peer.train(300, workers=1)
    order = np.argsort([int(word) for word in peer.used_vocabs])
    theirs = []
    for _ in range(1500):
        peer.train(2, workers=1)
        theirs.append(np.stack([peer.get_topic_word_dist(k) for k in range(TOPICS)])[:, order])
    model = LDA(num_components=TOPICS, doc_concentration=a, topic_concentration=b)
    fit = vmix.fit(model, x, engine=Gibbs(num_samples=3000, num_warmup=300), seed=0, init="random")
    ours, theirs = fit.posterior["phi"].astype(float), np.asarray(theirs, float)
    apart = np.abs(ours.mean(0)[:, None] - theirs.mean(0)[None]).sum(-1)
    theirs = theirs[:, linear_sum_assignment(apart)[1]]
    errors = [np.sqrt(d.var(0) / effective_sample_size(d[None])) for d in (ours, theirs)]
    gap = np.abs(ours.mean(0) - theirs.mean(0))
    assert (gap < np.maximum(5 * np.hypot(*errors), 0.002)).all(), gap
