"""The hidden Markov model, of the zoo and as a user's own program, against enumeration, a peer and simulated truth."""

import itertools
import warnings
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import logsumexp
from scipy.stats import norm

import vmix
from vmix import fitting
from vmix.distributions import MarkovChain
from vmix.free_energy import evaluate
from vmix.inference import EM, SVI, Gibbs
from vmix.models import HMM
from vmix.plan import bare_plan, make_plan
from vmix.predicting import Predictor

K, D = 3, 2
INITIAL = np.array([0.5, 0.3, 0.2])
TRANSITION = np.array([[0.85, 0.1, 0.05], [0.1, 0.8, 0.1], [0.05, 0.15, 0.8]])
LOC = np.array([[-2.0, 0.0], [0.0, 3.0], [2.0, 0.0]])
FEW = EM(num_sweeps=3, tolerance=None)


def simulate(num_sequences, num_steps, seed=0):
    """States (N, T)."""
    rng = np.random.default_rng(seed)
    c = np.empty((num_sequences, num_steps), int)
    c[:, 0] = rng.choice(K, num_sequences, p=INITIAL)
    for t in range(1, num_steps):
        c[:, t] = (rng.random((num_sequences, 1)) > TRANSITION[c[:, t - 1]].cumsum(1)[:, :-1]).sum(1)
    return c


N, T = 40, 16
C = simulate(N, T)
X = (LOC[C] + np.random.default_rng(1).normal(size=(N, T, D))).astype(np.float32)
LENGTHS = np.where(np.arange(N) % 2, T, 9)
MASK = np.arange(T) < LENGTHS[:, None]
START = {
    "initial": np.full(K, 1 / K),
    "transition": np.full((K, K), 0.2) + 0.4 * np.eye(K),
    "loc": LOC + np.array([[0.5, 0.7], [-0.6, 0.3], [0.4, -0.5]]),
    "precision": np.full((K, D), 0.5),
}


class Planned:
    """A program with one plan for all its fits, so that they share what they compile."""

    def __init__(self, program, *data, missing=False):
        self.program, self.data = program, data
        arrays = fitting.check_arrays(data, missing="nan" if missing else None)
        self.plan = make_plan(fitting.prepare(program, arrays), arrays, key=jax.random.key(0), missing=missing)

    def fit(self, engine, *data, plan=None, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitting, "make_plan", lambda *_, **__: plan or self.plan)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", fitting.ConvergenceWarning)
                return vmix.fit(self.program, *(data or self.data), engine=engine, seed=0, **options)


@pytest.fixture(scope="module")
def diagonal():
    return Planned(HMM(num_components=K), X)


@pytest.fixture(scope="module")
def em(diagonal):
    return diagonal.fit(EM(num_sweeps=120, tolerance=None))


def own_program(x):
    """The same story as a user writes it: unit variances, flat priors."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(K)))
    transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(K)).expand([K]))
    loc = numpyro.sample("loc", dist.Normal(0.0, 10.0).expand([K, D]).to_event(2))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(initial, transition, x.shape[1]))
        numpyro.sample("x", dist.Normal(loc[c], 1.0).to_event(2), obs=x)


@pytest.fixture(scope="module")
def own():
    return Planned(own_program, X)


def order_of(loc, truth=LOC):
    """Index of the fitted state that is each true state."""
    return linear_sum_assignment(((truth[:, None] - loc[None]) ** 2).sum(-1))[1]


def assert_near_truth(posterior, tolerance):
    order = order_of(posterior["loc"])
    np.testing.assert_allclose(posterior["loc"][order], LOC, atol=2 * tolerance)
    np.testing.assert_allclose(posterior["transition"][order][:, order], TRANSITION, atol=tolerance)


def log_joints(posterior, x, missing=False):
    """All paths of one sequence, shape (K^T, T), and their log joints by the textbook's product."""
    each = norm.logpdf(x[:, None], posterior["loc"], 1 / np.sqrt(posterior["precision"]))
    each = (np.where(np.isnan(each), 0.0, each) if missing else each).sum(-1)
    paths = np.array(list(itertools.product(range(K), repeat=len(x))))
    with np.errstate(divide="ignore"):
        prior, moves = np.log(posterior["initial"]), np.log(posterior["transition"])
    joint = prior[paths[:, 0]] + moves[paths[:, :-1], paths[:, 1:]].sum(1)
    return paths, joint + each[np.arange(len(x)), paths].sum(1)


def test_evidence_and_responsibilities_match_enumeration(em):
    short = X[:3, :4]
    proba, evidence = em.predict_proba(short), em.score_samples(short)
    for n in range(3):
        paths, joint = log_joints(em.posterior, short[n])
        total = logsumexp(joint)
        weights = np.exp(joint - total)[:, None]
        expected = np.stack([(weights * (paths == k)).sum(0) for k in range(K)], -1)
        np.testing.assert_allclose(proba[n], expected, atol=1e-4)
        assert evidence[n] == pytest.approx(total, abs=1e-4)


def test_em_never_lowers_the_objective_and_finds_the_truth(em):
    assert np.diff(em.history["objective"]).min() > -1e-4
    assert_near_truth(em.posterior, 0.15)
    found = np.argsort(order_of(em.posterior["loc"]))[em.predict(X)]
    assert (found == C).mean() > 0.93


def peer_path(covariance, num_sweeps, lengths):
    """hmmlearn's log-likelihoods from START, one a sweep, its priors switched off."""
    hmm = pytest.importorskip("hmmlearn.hmm")
    peer = hmm.GaussianHMM(
        K,
        covariance_type={"diagonal": "diag", "full": "full"}[covariance],
        covars_prior=0,
        min_covar=0,
        n_iter=num_sweeps,
        tol=-np.inf,
        init_params="",
    )
    peer.startprob_, peer.transmat_, peer.means_ = START["initial"], START["transition"], START["loc"]
    variances = 1 / START["precision"]
    peer.covars_ = variances if covariance == "diagonal" else np.array([np.diag(v) for v in variances])
    steps = np.concatenate([x[:end] for x, end in zip(X, lengths, strict=True)]).astype(np.float64)
    peer.fit(steps, lengths)
    return peer, np.array(peer.monitor_.history)


def start_of(covariance):
    full = np.array([np.diag(tau) for tau in START["precision"]])
    return START | ({"precision": full} if covariance == "full" else {})


@pytest.mark.parametrize("covariance", ["diagonal", pytest.param("full", marks=pytest.mark.slow)])
def test_em_climbs_hmmlearn_s_path(covariance, diagonal):
    _, expected = peer_path(covariance, 10, [T] * N)
    planned = diagonal if covariance == "diagonal" else Planned(HMM(num_components=K, covariance="full"), X)
    fit = planned.fit(EM(num_sweeps=10, tolerance=None, estimate="ml"), init=start_of(covariance))
    # nats per step of a sequence
    np.testing.assert_allclose(fit.history["objective"] / T, expected / (N * T), atol=1e-4)


@pytest.fixture(scope="module")
def masked():
    padded = np.where(MASK[..., None], X, 30.0).astype(np.float32)
    return Planned(HMM(num_components=K), padded, MASK)


def test_masked_sequences_fit_as_hmmlearn_fits_shorter_ones(masked):
    peer, expected = peer_path("diagonal", 6, LENGTHS)
    fit = masked.fit(EM(num_sweeps=6, tolerance=None, estimate="ml"), init=START)
    np.testing.assert_allclose(fit.history["objective"] * N / LENGTHS.sum(), expected / LENGTHS.sum(), atol=1e-4)
    np.testing.assert_allclose(fit.posterior["transition"], peer.transmat_, atol=1e-3)
    np.testing.assert_allclose(fit.posterior["loc"], peer.means_, atol=1e-3)


def test_masked_sequences_compress_and_what_is_masked_does_not_count(masked):
    frame, there = masked.plan.frames["x"], X[MASK]
    np.testing.assert_allclose(np.squeeze(frame.shift), there.mean(0), atol=1e-5)
    np.testing.assert_allclose(np.squeeze(frame.scale), there.std(0), rtol=1e-5)


def test_a_mask_that_depends_on_the_component_does_not_compress():
    def program(x, seen):
        loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
        with numpyro.plate("data", x.shape[0]):
            c = numpyro.sample("c", dist.Categorical(jnp.ones(2) / 2))
            numpyro.sample("x", dist.Normal(loc[c], 1.0).mask((seen > 0) & (c == 0)), obs=x)

    plan = make_plan(program, (X[:, 0, 0], MASK[:, 9].astype(np.int32)), key=jax.random.key(0))
    assert "x" not in plan.frames and "mask depends on a discrete site" in plan.reasons["x"]


def with_globals(plan, posterior):
    return Predictor(plan, {name: jnp.asarray(value)[None] for name, value in posterior.items()}, {})


def test_masked_sequences_score_as_shorter_ones(masked, em):
    predictor = with_globals(masked.plan, em.posterior)
    found = predictor.per_datum(*masked.data)
    np.testing.assert_allclose(found[1::2], em.score_samples(X[1::2]), rtol=1e-5)
    np.testing.assert_allclose(found[::2], em.score_samples(X[::2, :9]), rtol=1e-5)
    proba = predictor.responsibilities(*masked.data)
    np.testing.assert_allclose(proba[::2, :9], em.predict_proba(X[::2, :9]), atol=1e-5)
    assert (proba[::2, 9:] == 0).all()


def test_missing_values_are_marginalised(diagonal, em):
    holes = X.copy()
    holes[0, 1], holes[1, 0, 0], holes[1, 3, 1], holes[2] = np.nan, np.nan, np.nan, np.nan
    plan = replace(diagonal.plan, missing=True)
    found = with_globals(plan, em.posterior).per_datum(holes[:3, :4])
    expected = [logsumexp(log_joints(em.posterior, row, missing=True)[1]) for row in holes[:3, :4]]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    fit = diagonal.fit(FEW, holes, plan=plan, missing="nan", init=em.posterior)
    for name in ("loc", "transition"):
        np.testing.assert_allclose(fit.posterior[name], em.posterior[name], atol=0.1)


@pytest.mark.slow
def test_svi_reaches_em_s_mode(diagonal, em):
    svi = diagonal.fit(SVI(num_steps=1500, learning_rate=3e-2))
    assert svi.history["objective"][-50:].mean() == pytest.approx(em.history["objective"][-1], abs=0.01)


@pytest.mark.parametrize(
    "engine",
    [EM(num_sweeps=60), pytest.param(SVI(num_steps=500, learning_rate=5e-2), marks=pytest.mark.slow)],
    ids=["EM", "SVI"],
)
def test_an_own_program_finds_the_truth(own, engine):
    fit = own.fit(engine)
    assert_near_truth(fit.posterior, 0.15)
    assert fit.predict(X).shape == (N, T)


def test_gibbs_draws_lie_around_the_truth(own):
    fit = own.fit(Gibbs(num_samples=200, num_warmup=50))
    means = {name: draws.mean(0) for name, draws in fit.posterior.items()}
    assert_near_truth(means, 0.15)
    spread = fit.posterior["loc"].std(0)
    # about N T / K steps a state, unit variance
    assert 0.5 < spread.mean() * np.sqrt(N * T / K) < 2
    np.testing.assert_allclose(fit.predict_proba(X).sum(-1), 1.0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("engine", [SVI(num_steps=300), Gibbs(num_samples=50, num_warmup=20)], ids=lambda e: e.name)
@pytest.mark.parametrize("covariance", ["diagonal", "full"])
def test_every_engine_fits_the_zoo_s_model(engine, covariance):
    fit = vmix.fit(HMM(num_components=K, covariance=covariance), X, engine=engine, seed=0)
    found = np.argsort(order_of(np.reshape(fit.posterior["loc"], (-1, K, D)).mean(0)))[fit.predict(X)]
    assert (found == C).mean() > 0.9


@pytest.mark.slow
def test_poisson_emissions_recover_the_truth():
    rate = np.array([[2.0, 9.0], [9.0, 2.0], [20.0, 20.0]])
    x = np.random.default_rng(2).poisson(rate[C])
    fit = vmix.fit(HMM(num_components=K, emission="poisson"), x, engine=EM(), seed=0)
    order = order_of(fit.posterior["rate"], rate)
    np.testing.assert_allclose(fit.posterior["rate"][order], rate, rtol=0.15)
    np.testing.assert_allclose(fit.posterior["transition"][order][:, order], TRANSITION, atol=0.15)


@pytest.mark.slow
def test_categorical_emissions_recover_the_truth():
    probs = np.array([[0.85, 0.05, 0.05, 0.05], [0.05, 0.85, 0.05, 0.05], [0.05, 0.05, 0.45, 0.45]])
    x = (np.random.default_rng(3).random((N, T, 1)) > probs[C].cumsum(-1)[..., :-1]).sum(-1)
    fit = vmix.fit(HMM(num_components=K, emission="categorical"), x, engine=EM(num_sweeps=300), seed=0)
    order = order_of(fit.posterior["probs"], probs)
    np.testing.assert_allclose(fit.posterior["probs"][order], probs, atol=0.12)
    np.testing.assert_allclose(fit.posterior["transition"][order][:, order], TRANSITION, atol=0.2)


def expectation(plan, posterior, **options):
    """The E-step at given globals: marginals (N, T, K) and expected moves (K, K)."""

    @jax.jit
    def compute(values, x):
        found = evaluate(plan, values, {}, (x,), key=jax.random.key(0), **options).assigned
        return plan.layout.to_rows(found.shares), found.prior["transition"]

    values = {name: jnp.asarray(posterior[name]) for name in plan.globals or posterior}
    return jax.device_get(compute(values, jnp.asarray(X)))


def test_labels_pin_steps_and_name_states(diagonal, em):
    known = np.where(np.random.default_rng(4).random((N, T)) < 0.3, C, -1)
    shares, _ = expectation(diagonal.plan, em.posterior, labels={"c": jnp.asarray(known, jnp.int32)})
    np.testing.assert_array_equal(shares[known >= 0].argmax(-1), known[known >= 0])
    np.testing.assert_allclose(shares[known >= 0].max(-1), 1.0, atol=1e-6)
    fit = diagonal.fit(EM(num_sweeps=20, tolerance=None), observed={"c": known}, init=START)
    assert (fit.predict(X) == C).mean() > 0.93
    np.testing.assert_allclose(fit.posterior["transition"], TRANSITION, atol=0.15)


def chain_alone(x):
    """A chain that the data do not tell of."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(K)))
    transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(K)).expand([K]))
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", MarkovChain(initial, transition, x.shape[1]))
        numpyro.sample("x", dist.Normal(0.0 * c[..., None], 1.0).expand([*c.shape, D]).to_event(2), obs=x)


def test_messages_of_a_mixture_give_the_hmm_s_marginals(diagonal, em):
    log_likelihood = norm.logpdf(X[:, :, None], em.posterior["loc"], 1 / np.sqrt(em.posterior["precision"])).sum(-1)
    message = {"c": log_likelihood.astype(np.float32)}
    joint, moves = expectation(diagonal.plan, em.posterior)
    alone = Planned(chain_alone, X)
    chain = {name: em.posterior[name] for name in ("initial", "transition")}
    shares, same_moves = expectation(alone.plan, chain, labels={"c": jnp.asarray(message["c"])})
    np.testing.assert_allclose(shares, joint, atol=1e-5)
    np.testing.assert_allclose(same_moves, moves, rtol=1e-4)
    fit = alone.fit(EM(num_sweeps=1, tolerance=None), init=chain, messages=message)
    np.testing.assert_allclose(fit.posterior["transition"], moves / moves.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.slow
def test_restarts_and_annealing_run_and_keep_the_best(diagonal, em):
    fit = diagonal.fit(EM(num_sweeps=40, tolerance=None, restarts=3, anneal=(0.3, 20)), init="random")
    assert fit.history["objective"].shape == (3, 40)
    assert fit.history["restarts"][0] == max(fit.history["restarts"])
    assert fit.history["objective"][0, -1] > em.history["objective"][-1] - 0.05


def test_saved_fits_predict_sequences_of_another_length(em, tmp_path):
    em.save(tmp_path / "fit")
    again = vmix.load(tmp_path / "fit", program=em._plan.program.source)
    np.testing.assert_array_equal(again.predict_proba(X[:, :7]), em.predict_proba(X[:, :7]))
    # a sequence's first steps are not judged by what is cut off, and its last is the filter's either way
    cut, whole = again.predict_proba(X[:, :7]), vmix.sequences.filtered(em, X)
    np.testing.assert_allclose(cut[:, -1], whole[:, 6], atol=1e-5)


def test_samples_are_sequences(em):
    new = em.sample(500, seed=1)
    assert new.shape == (500, T, D)
    # chains mix in a few steps: means of 8,000 dependent values, standard error about 0.05
    np.testing.assert_allclose(new.mean((0, 1)), X.mean((0, 1)), atol=0.4)
    held = em.sample(200, component=1, seed=1)
    assert held.shape == (200, T, D)
    np.testing.assert_allclose(held.mean((0, 1)), em.posterior["loc"][1], atol=0.1)
    assert em.reconstruct(X).shape == X.shape


@pytest.mark.parametrize("shape", [(N, 1), (1, T)], ids=["one step", "one sequence"])
@pytest.mark.slow
def test_the_smallest_shapes_fit(shape):
    x = X[: shape[0], : shape[1]]
    fit = vmix.fit(own_program, x, engine=FEW, seed=0)
    assert fit.predict(x).shape == shape and np.isfinite(fit.history["objective"]).all()
    ahead = vmix.sequences.forecast(fit, x, steps=2)
    np.testing.assert_allclose(ahead.probabilities.sum(-1), 1.0, atol=1e-5)
    assert vmix.sequences.most_probable_path(fit, x).shape == shape


def test_one_step_is_a_mixture():
    model = HMM(num_components=K).with_data(X[:, :1])
    plan = bare_plan(model, (X[:2, :1],), frames={}, updates={}, missing=False)
    values = START | {"initial": INITIAL}
    found = with_globals(plan, {name: np.asarray(v, np.float32) for name, v in values.items()})
    log_likelihood = norm.logpdf(X[:, 0, None], values["loc"], 1 / np.sqrt(values["precision"])).sum(-1)
    np.testing.assert_allclose(
        found.per_datum(X[:, :1]), logsumexp(np.log(INITIAL) + log_likelihood, axis=1), rtol=1e-5
    )
