"""Modules that exchange messages: against the joint model, against brute force, and what they refuse."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import logsumexp, softmax

from vmix.compose import GMM, MLDA, MM, VAE, GraphError, Network, Observation, ProgramModule, load
from vmix.compose.markov import along_chain, chain_sweep
from vmix.compose.module import Belief
from vmix.distributions import MarkovChain
from vmix.inference import EM
from vmix.metrics import accuracy

MEANS = np.array([[0.0, 0.0], [1.6, 0.0], [0.0, 1.6]])


@pytest.fixture(scope="module")
def cycle():
    """300 rows of three overlapping classes that follow each other in a cycle."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    return (MEANS[labels] + 0.7 * rng.normal(size=(300, 2))).astype(np.float32), labels


@pytest.fixture(scope="module")
def chained(cycle):
    """A mixture and a chain, fitted by messages."""
    x, labels = cycle
    gmm, mm = GMM(3, restarts=4, sweeps=30, category=labels), MM(restarts=4, sweeps=30)
    gmm.connect(Observation(x))
    mm.connect(gmm)
    net = Network(mm)
    net.fit(rounds=3, seed=0, progress=False)
    return net


def gaussian_evidence(gmm, x):
    """log N(x_n | k) by NumPy, in float64."""
    params = {n: np.asarray(v, np.float64) for n, v in gmm.params.items()}
    z = (np.asarray(x, np.float64) - params["centre"]) / params["spread"]
    gap = z[:, None] - params["loc"]
    squares = np.einsum("nki,kij,nkj->nk", gap, params["precision"], gap)
    log_det = np.linalg.slogdet(params["precision"])[1]
    return 0.5 * (log_det - squares) - x.shape[1] / 2 * np.log(2 * np.pi) - np.log(params["spread"]).sum()


@pytest.mark.parametrize("zeros", [False, True])
def test_messages_along_a_chain_match_enumeration_and_the_markov_chain(zeros):
    rng = np.random.default_rng(1)
    k, t = 3, 5
    initial, transition = rng.dirichlet(np.ones(k)), rng.dirichlet(np.ones(k), size=k)
    if zeros:
        transition[0] = [0.0, 1.0, 0.0]
    unary = 3 * rng.normal(size=(t, k))
    paths = np.array(list(itertools.product(range(k), repeat=t)))
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, along_chain(*(jnp.asarray(a)[None] for a in (initial, transition, unary))))
        posterior = MarkovChain(jnp.asarray(initial), jnp.asarray(transition), t).posterior(jnp.asarray(unary))
        statistics = jax.tree.map(np.asarray, posterior.statistics)
    with np.errstate(divide="ignore"):
        log_path = np.log(initial)[paths[:, 0]] + np.log(transition)[paths[:, :-1], paths[:, 1:]].sum(1)
    log_all = log_path + unary[np.arange(t), paths].sum(1)
    np.testing.assert_allclose(found.log_total[0], logsumexp(log_all), atol=1e-10)
    np.testing.assert_allclose(found.moves[0], statistics["transition"], atol=1e-10)
    np.testing.assert_allclose(found.initial[0], statistics["initial"], atol=1e-10)
    for step in range(t):
        without = log_all - unary[step, paths[:, step]]
        with np.errstate(divide="ignore"):
            cavity = np.array([logsumexp(without[paths[:, step] == j]) for j in range(k)])
        np.testing.assert_allclose(softmax(found.cavity[0, step]), softmax(cavity), atol=1e-10)


def test_mixture_and_chain_by_messages_are_the_hidden_markov_model(chained, cycle):
    x, _ = cycle
    gmm, mm = chained.learners
    beliefs = chained.recognise(x)
    chain = MarkovChain(jnp.asarray(mm.params["initial"]), jnp.asarray(mm.params["transition"]), len(x))
    joint = np.asarray(chain.posterior_marginals(jnp.asarray(gaussian_evidence(gmm, x), jnp.float32)))
    np.testing.assert_allclose(beliefs["gmm"].value, joint, atol=1e-5)
    np.testing.assert_allclose(beliefs["mm"].value, joint, atol=1e-5)


def test_messages_find_the_cycle_that_the_mixture_alone_does_not(chained, cycle):
    x, labels = cycle
    gmm, mm = chained.learners
    assert accuracy(labels, mm.predict()) > 0.99 > gmm.history["accuracy"][0] + 0.1
    assert (np.max(mm.params["transition"], 1) > 0.95).all()


def test_one_sweep_a_message_never_lowers_the_total_evidence(cycle):
    x, _ = cycle
    gmm, mm = GMM(3, restarts=1, sweeps=1), MM(restarts=0, sweeps=1)
    gmm.connect(Observation(x))
    mm.connect(gmm)
    totals = []
    for _ in range(12):
        gmm.update(0)
        mm.update(0)
        totals.append(mm.belief.objective)
    assert min(np.diff(totals[2:])) > -1e-3, "priors of both are left out of the total, so it may fall by a little"
    assert totals[-1] > totals[1]


def test_mixture_with_a_message_has_the_brute_force_posterior(chained, cycle):
    x, _ = cycle
    gmm, mm = chained.learners
    message = np.random.default_rng(2).normal(size=(len(x), 3))
    belief = gmm.infer({gmm.upstream[0]: x, mm: message})
    weights = gaussian_evidence(gmm, x) + message
    expected = np.exp(weights - logsumexp(weights, axis=1, keepdims=True))
    np.testing.assert_allclose(belief.value, expected, atol=1e-5)
    np.testing.assert_allclose(gmm.send(belief, {mm: message}, mm), gaussian_evidence(gmm, x), atol=1e-3)


def test_chain_sweep_is_the_counting_rule_of_the_source():
    states = np.array([0, 1, 2, 0, 1, 1, 0, 1, 2])
    unary = np.where(np.eye(3)[states] > 0, 0.0, -1e4).astype(np.float32)
    flat = jnp.full((1, 3), 1 / 3), jnp.full((1, 3, 3), 1 / 3)
    (_, transition), _ = chain_sweep(flat, jnp.asarray(unary)[None], 0.5)
    counts = np.zeros((3, 3))
    np.add.at(counts, (states[:-1], states[1:]), 1)
    expected = (counts + 0.5) / (counts.sum(1, keepdims=True) + 3 * 0.5)
    np.testing.assert_allclose(transition[0], expected, atol=1e-6)


def test_serket_messages_count_the_own_evidence_twice(chained, cycle):
    x, _ = cycle
    gmm, mm = chained.learners
    message = {mm: mm.message_to(gmm)}
    belief = gmm.infer({gmm.upstream[0]: x, **message})
    cavity = gmm.send(belief, message, mm)
    gmm.messages = "serket"
    doubled = gmm.send(belief, message, mm)
    gmm.messages = "cavity"

    def centred(a):
        return a - a.mean(1, keepdims=True)

    np.testing.assert_allclose(centred(doubled), centred(cavity + message[mm]), atol=1e-4)
    assert np.abs(centred(doubled) - centred(cavity)).max() > 1


def test_saved_network_recognises_as_before(chained, cycle, tmp_path):
    x, labels = cycle
    chained.save(tmp_path / "net")
    again = load(tmp_path / "net")
    before, after = chained.recognise(x[:60]), again.recognise(x[:60])
    for name in ("gmm", "mm"):
        np.testing.assert_allclose(after[name].value, before[name].value, atol=1e-6)
    assert again["gmm"].history == chained["gmm"].history
    assert accuracy(labels[:60], again.predict("mm", x[:60])) > 0.95


def test_written_folder_has_what_the_tutorials_promise(chained, tmp_path):
    chained.write(tmp_path)
    gmm, mm = tmp_path / "module001_gmm", tmp_path / "module002_mm"
    assert np.loadtxt(gmm / "class_learn.txt").shape == (300,)
    assert np.loadtxt(gmm / "round03" / "probabilities.txt").shape == (300, 3)
    assert float((gmm / "acc_learn.txt").read_text()) == pytest.approx(chained["gmm"].history["accuracy"][-1], abs=1e-5)
    assert len(json.loads((gmm / "history.json").read_text())["objective"]) == 3
    assert np.loadtxt(mm / "transition.txt").shape == (3, 3)
    for picture in (mm / "transition.png", tmp_path / "graph.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def deep():
    """A VAE and a mixture, two rounds on 200 small images of two kinds."""
    rng = np.random.default_rng(3)
    labels = np.arange(200) % 2
    clean = np.where(labels[:, None] == np.arange(16) // 8, 0.9, 0.1)
    x = (rng.uniform(size=(200, 16)) < clean).astype(np.float32)
    vae, gmm = VAE(2, epochs=30, batch_size=50, hidden=(16,)), GMM(2, restarts=2, sweeps=20, category=labels)
    vae.connect(Observation(x))
    gmm.connect(vae)
    net = Network(gmm)
    net.fit(rounds=2, seed=0, progress=False)
    return net, x, labels


@pytest.mark.slow
def test_means_from_the_mixture_draw_the_codes_of_a_class_together(deep, tmp_path):
    net, x, labels = deep
    assert net["gmm"].history["accuracy"][-1] > 0.95
    codes, means = net["vae"].belief.value, net["gmm"].message_to(net["vae"])
    assert means.shape == codes.shape and len(np.unique(means.round(3), axis=0)) < 50
    net.write(tmp_path)
    assert np.loadtxt(tmp_path / "module001_vae" / "z_learn.txt").shape == (200, 2)
    assert (tmp_path / "module001_vae" / "z_round02.png").exists()


def test_weight_of_the_divergence_draws_codes_to_their_prior():
    rng = np.random.default_rng(4)
    clean = np.where(np.arange(100)[:, None] % 2 == np.arange(16) // 8, 0.9, 0.1)
    x = (rng.uniform(size=(100, 16)) < clean).astype(np.float32)
    far = {}
    for alpha in (0.0, 50.0):
        vae = VAE(2, epochs=40, batch_size=50, hidden=(16,), learning_rate=1e-2, alpha=alpha)
        vae.connect(Observation(x))
        Network(vae).fit(rounds=1, seed=0, progress=False)
        far[alpha] = np.square(vae.belief.value).mean()
    assert far[50.0] < 0.05 < 1.0 < far[0.0]


@pytest.mark.slow
def test_saved_vae_recognises_and_decodes(deep, tmp_path):
    net, x, labels = deep
    net.save(tmp_path / "deep")
    again = load(tmp_path / "deep")
    np.testing.assert_allclose(again.recognise(x)["vae"].value, net.recognise(x)["vae"].value, atol=1e-5)
    shown = again.predict("obs", x)
    assert shown.shape == x.shape and np.abs(shown - x).mean() < 0.35


@pytest.fixture(scope="module")
def multimodal(cycle):
    """A mixture of codes, and counts of four words, below one class; a chain on that class."""
    x, labels = cycle
    words = np.array([[0.7, 0.1, 0.1, 0.1], [0.1, 0.7, 0.1, 0.1], [0.1, 0.1, 0.4, 0.4]])
    rng = np.random.default_rng(5)
    counts = np.stack([rng.multinomial(8, words[k]) for k in labels])
    gmm, mlda = GMM(3, restarts=2, sweeps=20), MLDA(3, [8, 8], restarts=3, sweeps=30, category=labels)
    gmm.connect(Observation(x, name="codes"))
    mlda.connect(Observation(counts, name="speech"), gmm)
    mm = MM(sweeps=30)
    mm.connect(mlda)
    net = Network(mm)
    net.fit(rounds=2, seed=0, progress=False)
    return net, x, counts, labels


@pytest.mark.slow
def test_mixture_topics_and_chain_by_messages_are_the_joint_model(multimodal):
    net, x, counts, _ = multimodal
    gmm, mlda, mm = (net[n] for n in ("gmm", "mlda", "mm"))
    x, counts = x[:4], counts[:4]
    rows = {"codes": x, "speech": counts}
    beliefs = net.recognise(*(rows[m.name] for m in net.observations), rounds=3)
    log_z = gaussian_evidence(gmm, x)
    log_x = counts @ np.log(mlda.params["phi0"]).T
    joint = np.zeros((4, 3, 3))
    for path in itertools.product(range(3), repeat=4):
        moves = [mm.params["transition"][a, b] for a, b in zip(path[:-1], path[1:], strict=True)]
        log_path = np.log(mm.params["initial"][path[0]]) + np.log(moves).sum()
        rows = [np.log(mlda.params["phi1"][k]) + log_z[n] + log_x[n, k] for n, k in enumerate(path)]
        total = np.exp(log_path + sum(logsumexp(r) for r in rows))
        for n, (k, r) in enumerate(zip(path, rows, strict=True)):
            joint[n, k] += total * softmax(r)
    joint /= joint[0].sum()
    np.testing.assert_allclose(beliefs["mm"].value, joint.sum(2), atol=1e-5)
    np.testing.assert_allclose(beliefs["mlda"].value, joint.sum(2), atol=1e-5)
    np.testing.assert_allclose(beliefs["gmm"].value, joint.sum(1), atol=1e-5)


@pytest.mark.slow
def test_two_modalities_know_more_than_one(multimodal):
    net, x, counts, labels = multimodal
    assert net["mlda"].history["accuracy"][0] > net["gmm"].belief.value.max(1).mean() - 0.2
    assert net["mlda"].history["accuracy"][-1] > 0.97, "the chain tells the rest"


@pytest.mark.slow
def test_missing_modality_is_predicted_through_the_graph(multimodal):
    net, x, counts, labels = multimodal
    given = {"codes": x, "speech": None}
    shares = net.predict("speech", *(given[m.name] for m in net.observations))
    np.testing.assert_allclose(shares.sum(1), 1, atol=1e-5)
    observed = np.stack([counts[labels == k].sum(0) / counts[labels == k].sum() for k in range(3)])
    assert np.abs(shares - observed[labels]).mean() < 0.06
    without = {"codes": None, "speech": counts}
    found = net.recognise(*(without[m.name] for m in net.observations))
    assert accuracy(labels, found["mlda"].value.argmax(1)) > 0.9


def test_topics_refuse_fractional_counts_and_weights_that_do_not_fit():
    with pytest.raises(ValueError, match="whole"):
        MLDA(3).connect(Observation(np.full((4, 2), 0.5)))
    with pytest.raises(GraphError, match="2 weights and is connected to 1"):
        MLDA(3, [1, 2]).connect(Observation(np.ones((4, 2))))


def test_topics_scale_counts_to_what_they_are_worth(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    once = np.stack([rng.multinomial(20, p) for p in rng.dirichlet(np.full(30, 0.5), 3)[labels]])
    mlda = MLDA(3, "effective", restarts=4, sweeps=20)
    mlda.connect(Observation(6 * once, name="words"))
    net = Network(mlda)
    net.fit(rounds=2, progress=False)
    assert 14 < float(mlda.params["worth0"]) < 28 and accuracy(labels, mlda.predict()) > 0.95
    found = net.recognise(6 * once[:50])["mlda"].value
    np.testing.assert_allclose(found, mlda.belief.value[:50], atol=1e-5)
    net.save(tmp_path / "net")
    again = load(tmp_path / "net")
    again.observations[0].belief = Belief(6 * once, None, 0.0)
    again["mlda"].update()  # learning on keeps what the counts are worth
    assert again["mlda"].params["worth0"] == mlda.params["worth0"]
    assert accuracy(labels, again["mlda"].predict()) > 0.95
    with pytest.raises(ValueError, match='weights must be numbers above 0, one a modality, or "effective"'):
        MLDA(3, "all")


def three_places(x):
    """A mixture of the user's own."""
    loc = numpyro.sample("loc", dist.Normal(0.0, 3.0).expand([3, 2]).to_event(2))
    with numpyro.plate("data", x.shape[0]):
        c = numpyro.sample("c", dist.Categorical(jnp.full(3, 1 / 3)))
        numpyro.sample("x", dist.Normal(loc[c], 0.7).to_event(1), obs=x)


def test_program_of_the_users_own_is_a_module_and_comes_back(cycle, tmp_path):
    x, labels = cycle
    module, mm = ProgramModule(three_places, EM(num_sweeps=20)), MM(sweeps=30)
    module.connect(Observation(x))
    mm.connect(module)
    for _ in range(3):
        module.update()
        mm.update()
    assert accuracy(labels, mm.predict()) > 0.95

    net = Network(mm)
    net.save(tmp_path / "own")
    with pytest.raises(GraphError, match=r"module program has a program of your own \(three_places\).*hand it over"):
        load(tmp_path / "own")
    other = ProgramModule(three_places, EM(), shares="k")
    with pytest.raises(GraphError, match="was saved with the program three_places sharing site 'c'"):
        load(tmp_path / "own", programs={"program": other})
    again = load(tmp_path / "own", programs={"program": ProgramModule(three_places, EM(num_sweeps=5))})
    for name in ("program", "mm"):
        np.testing.assert_allclose(again.recognise(x[:60])[name].value, net.recognise(x[:60])[name].value, atol=1e-5)


def test_modules_refuse_a_cycle():
    gmm, mm = GMM(3), MM()
    mm.connect(gmm)
    with pytest.raises(GraphError, match="closes a cycle"):
        gmm.connect(mm)


def test_modules_refuse_a_message_of_another_support():
    with pytest.raises(GraphError, match="about 10 classes, but mm has 8"):
        MM(num_components=8).connect(GMM(10))


def test_modules_refuse_codes_at_a_discrete_port():
    with pytest.raises(GraphError, match="mm takes classes .* vae sends codes"):
        MM().connect(VAE(2))


def test_modules_refuse_rows_that_differ():
    module = ProgramModule(lambda x, y: None, EM())
    with pytest.raises(GraphError, match="rows differ.*obs has 3"):
        module.connect(Observation(np.ones((4, 2)), name="a"), Observation(np.ones((3, 2))))


def test_modules_refuse_an_update_before_they_are_connected():
    with pytest.raises(GraphError, match="gmm is not connected"):
        GMM(3).update()
    with pytest.raises(GraphError, match="gmm is not connected"):
        Network(GMM(3))


def test_modules_refuse_an_update_before_the_one_upstream():
    vae, gmm = VAE(2), GMM(3)
    vae.connect(Observation(np.ones((4, 2))))
    gmm.connect(vae)
    with pytest.raises(GraphError, match="vae was never updated"):
        gmm.update()


def test_modules_are_connected_once():
    gmm = GMM(3)
    gmm.connect(Observation(np.ones((4, 2))))
    with pytest.raises(GraphError, match="connected to .* already"):
        gmm.connect(Observation(np.ones((4, 2))))


def test_networks_refuse_what_they_cannot_recognise(chained, cycle):
    with pytest.raises(ValueError, match="1 array|0 array"):
        chained.recognise()
    with pytest.raises(ValueError, match="missing; give at least one"):
        chained.recognise(None)
