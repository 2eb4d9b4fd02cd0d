"""Algorithm 1 keeps its curves, a stopped grid goes on, and one judge reads both contestants' mixtures alike."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.stats import multivariate_normal
from sklearn.mixture import GaussianMixture as PeerMixture

from benchmarks import _algorithm1 as algorithm1
from benchmarks import _code_mixtures as mixtures
from benchmarks import infinite_mixtures, results_table
from benchmarks._algorithm1 import Alternation, Components
from benchmarks._algorithm1_run import CURVES, run
from benchmarks._infinite_networks import Images
from benchmarks._infinite_pictures import Album, read_curves, write_curves
from benchmarks._infinite_work import Work
from benchmarks._recording import Case, read, record

SMALL = {"latent_dim": 2, "hidden": (8,), "epochs": 3, "num_components": 3, "batch_size": 20, "max_iter": 20}
GRID = ["--latent-dims", "2", "--seeds", "1", "--algorithm1-epochs", "2", "--hidden", "8"]


@pytest.fixture(scope="module")
def images():
    """Three prototypes of 16 pixels, with noise."""
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 2, (3, 16))
    labels = rng.integers(0, 3, 90)
    pixels = np.abs(prototypes[labels] - (rng.random((90, 16)) < 0.05)).astype(np.float32)
    return Images(pixels[:60], pixels[60:], labels[60:])


@pytest.fixture(scope="module")
def codes():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(m, s, (1000, 3)) for m, s in ((-3, 1), (0, 0.3), (4, 2))]).astype(np.float32)


@pytest.mark.parametrize(("relaxation", "latent"), [("soft", "component"), ("hard", "code")])
def test_algorithm1_keeps_a_figure_an_epoch(images, relaxation, latent):
    seen = []
    settings = Alternation(relaxation=relaxation, latent=latent, **SMALL)
    watch = lambda predicted: {"number": float(seen.append(predicted) or len(seen))}  # noqa: E731
    found = run(images.train, images.test, settings, seed=0, watch=watch)
    assert set(found.curves) == {"number", *CURVES}
    assert all(curve.shape == (3,) and np.isfinite(curve).all() for curve in found.curves.values())
    assert found.curves["loss_train"][-1] < found.curves["loss_train"][0]
    np.testing.assert_array_equal(found.predicted, seen[-1])
    assert found.reconstruct(images.test[:4]).shape == (4, 16)


def test_algorithm1_repeats_itself(images):
    settings = Alternation(relaxation="soft", **SMALL)
    one, two = (run(images.train, images.test, settings, seed=3, watch=lambda _: {}) for _ in range(2))
    for name in CURVES:
        np.testing.assert_array_equal(one.curves[name], two.curves[name])


def test_components_give_the_log_joint_of_scipy():
    rng = np.random.default_rng(1)
    w, loc, var, z = (
        rng.dirichlet(np.ones(3)),
        rng.normal(size=(3, 2)),
        rng.uniform(0.5, 2, (3, 2)),
        rng.normal(size=(5, 2)),
    )
    expected = [np.log(w[k]) + multivariate_normal(loc[k], np.diag(var[k])).logpdf(z) for k in range(3)]
    found = Components(jnp.log(w), jnp.asarray(loc), jnp.asarray(var)).log_joint(jnp.asarray(z))
    np.testing.assert_allclose(found, np.transpose(expected), rtol=1e-5, atol=1e-5)


def test_hard_assignments_are_one_hot_with_the_soft_gradient():
    logits, weights = jnp.array([[0.3, -1.0, 0.5], [2.0, 0.0, 1.0]]), jnp.array([1.0, 2.0, -1.0])
    gradients = {}
    for relaxation in algorithm1.RELAXATIONS:
        settings = Alternation(relaxation=relaxation, **SMALL)
        draw = lambda x, s=settings: algorithm1.assignments(x, s, key=jax.random.key(0))  # noqa: E731
        np.testing.assert_allclose(draw(logits).sum(-1), 1.0, rtol=1e-6)
        gradients[relaxation] = jax.grad(lambda x, draw=draw: (draw(x) @ weights).sum())(logits)
    assert set(np.round(draw(logits), 6).ravel().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(gradients["hard"], gradients["soft"], rtol=1e-6)


def test_weights_of_a_fit_are_taken_over_and_others_refused():
    settings = Alternation(relaxation="soft", **SMALL)
    _, given = algorithm1.build(settings, 16, 1)
    params = {f"{name}$params": nnx.to_pure_dict(state) for name, state in given.items()}
    wider = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf], -1), params["encoder$params"]["loc"])
    params["encoder$params"]["loc"] = wider  # a further latent after z
    networks, drawn = algorithm1.build(settings, 16, 2)
    taken = algorithm1.taken_from(params, drawn)
    x = jnp.ones((1, 16))
    np.testing.assert_array_equal(networks.encode(taken, x), networks.encode(given, x))
    with pytest.raises(ValueError, match="no decoder of the widths"):
        algorithm1.taken_from({**params, "decoder$params": {}}, drawn)


def test_stopped_grid_goes_on_and_repeats_no_line(images, tmp_path, monkeypatch):
    monkeypatch.setattr(infinite_mixtures, "load_images", lambda rows: images)
    arguments = [*GRID, "--folder", str(tmp_path)]
    infinite_mixtures.main([*arguments, "--cases", "algorithm1/soft"])
    monkeypatch.setattr(infinite_mixtures, "run_algorithm1", _only_hard)
    infinite_mixtures.main([*arguments, "--cases", "algorithm1/soft", "algorithm1/hard"])
    lines = read(tmp_path, "infinite_mixtures")
    assert [line["case"] for line in lines] == ["mnist/z2/algorithm1/soft", "mnist/z2/algorithm1/hard"]
    curves = (tmp_path / "pictures" / "infinite_mixtures_z2_algorithm1_soft_1_curves.csv").read_text().splitlines()
    assert curves[0].startswith("epoch,nmi,completeness,accuracy,loss") and len(curves) == 3


def _only_hard(train, test, settings, **options):
    assert settings.relaxation == "hard", "the recorded case is run again"
    return run(train, test, settings, **options)


def test_model_that_is_missing_is_left_out(images, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(infinite_mixtures, "load_images", lambda rows: images)
    monkeypatch.setattr(infinite_mixtures, "has_model", lambda name: False)
    infinite_mixtures.main([*GRID, "--folder", str(tmp_path), "--cases", "gmvae", "infinite_vade"])
    assert "vmix.models has no GMVAE; left out" in capsys.readouterr().out
    assert read(tmp_path, "infinite_mixtures") == []


def test_judge_reads_both_contestants_parameters_alike(codes):
    model = PeerMixture(n_components=3, random_state=0).fit(codes.astype(np.float64))
    posterior = {"w": model.weights_, "loc": model.means_, "precision": np.linalg.inv(model.covariances_)}
    theirs = mixtures.log_likelihood(mixtures.density_of_peer(model), codes)
    ours = mixtures.log_likelihood(mixtures.density_of_posterior(posterior), codes)
    assert theirs == pytest.approx(model.score(codes.astype(np.float64)), abs=1e-10)
    assert ours == pytest.approx(theirs, abs=1e-10)


def test_sticks_and_weights_are_one_density():
    v = np.array([0.5, 0.25])
    shapes = {"loc": np.zeros((3, 1)), "precision": np.ones((3, 1, 1))}
    np.testing.assert_allclose(mixtures.density_of_posterior({"v": v, **shapes}).w, [0.5, 0.125, 0.375])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["gmm", "dpgmm"])
def test_both_contestants_find_the_same_density(codes, kind):
    settings = mixtures.MixtureSettings(num_components=3, truncation=6, sweeps=400)
    found = {v: mixtures.cluster(kind, v, codes, codes, settings, seed=0) for v in mixtures.VARIANTS[kind]}
    ours, theirs = (mixtures.log_likelihood(who.density, codes) for who in found.values())
    assert ours == pytest.approx(theirs, abs=0.05)


@pytest.mark.slow
def test_album_draws_codes_samples_and_curves(images, tmp_path):
    album = Album(tmp_path, images.labels)
    rng = np.random.default_rng(0)
    predicted = rng.integers(0, 3, 30)
    album.scatter("a", "VAE", rng.normal(size=(30, 4)), predicted)
    album.samples("a", SimpleNamespace(sample=lambda n, **_: rng.random((n, 16))), predicted, seed=0)
    album.reconstructions("a", images.test[:5], images.test[:5])
    album.curves("a", {"nmi": np.array([0.1, 0.2]), "loss": np.array([3.0, 2.0])})
    names = {"a_codes.png", "a_samples.png", "a_reconstructions.png", "a_curves.png"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_curves_come_back_from_their_file_and_are_drawn_together(tmp_path):
    album = Album(tmp_path, np.zeros(1))
    work = SimpleNamespace(latent_dim=2, seed=1, album=album)
    first = {"nmi": np.array([0.25, 0.5]), "loss": np.array([3.0, 2.0]), "loss_refitted": np.array([30.0, 2.5])}
    write_curves(tmp_path / "infinite_mixtures_z2_algorithm1_soft_1_curves.csv", first)
    for name, values in read_curves(tmp_path / "infinite_mixtures_z2_algorithm1_soft_1_curves.csv").items():
        np.testing.assert_array_equal(values, first[name])
    Work.show_curves_together(work)  # of one method there is nothing to compare
    write_curves(tmp_path / "infinite_mixtures_z2_infinite_vade_1_curves.csv", {"nmi": [0.6, 0.7], "loss": [2.0, 1.0]})
    assert not list(tmp_path.glob("*.png"))
    Work.show_curves_together(work)
    assert [path.name for path in tmp_path.glob("*.png")] == ["infinite_mixtures_z2_1_curves_together.png"]


def test_page_shows_what_was_published_beside_ours(tmp_path):
    for seed, nmi in enumerate((0.5, 0.75)):
        record(Case(benchmark="speed", case="a", variant="vmix", seed=seed), {"nmi": nmi, "other": 1}, 1.0, tmp_path)
    cases = '{"a": {"nmi": 0.6}}'
    (tmp_path / "published.json").write_text(f'{{"speed": {{"source": "S", "note": "N.", "cases": {cases}}}}}')
    page = results_table.render(tmp_path)
    assert "Published: S. N.\n\n| case | variant | nmi | published | seeds |" in page
    assert "| a | vmix | 0.625 ± 0.177 | 0.6 | 2 |" in page
