"""The estimators in scikit-learn's tools, and against scikit-learn's own mixture."""

import pickle
from dataclasses import fields

import numpy as np
import pytest
from sklearn import mixture
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import vmix
from vmix import models
from vmix.inference import EM
from vmix.sklearn import HMM, LDA, VAE, BernoulliMixture, DirichletProcessMixture, GaussianMixture, InfiniteVaDE, VaDE

SMALL_VAE = {"latent_dim": 2, "hidden": (8,), "engine_options": {"num_sweeps": 3}, "random_state": 0}


@pytest.fixture(scope="module")
def blobs():
    return make_blobs(n_samples=300, centers=3, random_state=1)


@pytest.fixture(scope="module")
def fitted(blobs):
    return GaussianMixture(num_components=3, engine_options={"estimate": "ml"}, random_state=0).fit(blobs[0])


def test_mixture_has_the_likelihood_of_scikit_learns(blobs, fitted):
    x, y = blobs
    theirs = mixture.GaussianMixture(3, covariance_type="diag", random_state=0, tol=1e-6, max_iter=500).fit(x)
    assert fitted.score(x) == pytest.approx(theirs.score(x), abs=1e-3)
    assert fitted.lower_bound_ == pytest.approx(theirs.score(x), abs=1e-3)
    ours, other = np.argsort(fitted.means_[:, 0]), np.argsort(theirs.means_[:, 0])
    np.testing.assert_allclose(fitted.means_[ours], theirs.means_[other], atol=1e-2)
    np.testing.assert_allclose(fitted.weights_[ours], theirs.weights_[other], atol=1e-3)
    np.testing.assert_allclose(1 / fitted.precisions_[ours], theirs.covariances_[other], rtol=1e-2)
    assert adjusted_rand_score(y, fitted.labels_) > 0.95


def test_answers_are_those_of_the_fit_it_holds(blobs, fitted):
    x, _ = blobs
    np.testing.assert_allclose(fitted.predict_proba(x), fitted.fit_.predict_proba(x), atol=1e-6)
    np.testing.assert_array_equal(fitted.predict(x), fitted.labels_)
    assert fitted.score(x) == pytest.approx(fitted.fit_.score(x), abs=1e-5)
    assert fitted.score(x) == pytest.approx(fitted.score_samples(x).mean())
    assert fitted.fit_.seed == 0 and fitted.converged_ == fitted.fit_.converged
    assert fitted.n_iter_ == len(fitted.fit_.history["objective"])


def test_answers_do_not_depend_on_the_number_of_rows(blobs, fitted):
    x, _ = blobs
    whole = fitted.score_samples(x)
    for rows in (slice(0, 1), slice(5, 50), slice(100, 300)):
        np.testing.assert_allclose(fitted.score_samples(x[rows]), whole[rows], rtol=1e-6)
    many = np.tile(x, (20, 1))  # more than one chunk
    np.testing.assert_allclose(fitted.score_samples(many), np.tile(whole, 20), rtol=1e-6)


def test_pickle_keeps_the_fit(blobs, fitted):
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.predict_proba(blobs[0]), fitted.predict_proba(blobs[0]))
    np.testing.assert_array_equal(again.means_, fitted.means_)
    assert isinstance(again.fit_, vmix.Fit) and again.get_params() == fitted.get_params()


def test_damaged_pickle_is_refused(fitted):
    state = fitted.__getstate__()
    program, files = state["fit_"]
    name = next(name for name in files if name.endswith(".safetensors"))
    files[name] = files[name][:-1] + bytes([files[name][-1] ^ 1])
    with pytest.raises(vmix.checkpoint.CheckpointCorrupt):
        clone(fitted).__setstate__({**state, "fit_": (program, files)})


def test_samples_follow_random_state(fitted):
    drawn = fitted.sample(5)
    assert drawn.shape == (5, 2)
    np.testing.assert_array_equal(drawn, fitted.sample(5))
    far = fitted.sample(200, component=1).mean(0) - fitted.means_[1]
    assert np.abs(far).max() < 0.5


def test_clone_has_the_parameters_and_no_fit(fitted):
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and not copy.__sklearn_is_fitted__()
    with pytest.raises(NotFittedError):
        copy.score([[0.0, 0.0]])
    assert copy.set_params(num_components=4).num_components == 4


def test_parameters_are_the_models_fields_and_the_shared_ones():
    parameters = InfiniteVaDE().get_params()
    own = {name: getattr(models.InfiniteVaDE(), name) for name in [f.name for f in fields(models.InfiniteVaDE)]}
    shared = {"engine": "em", "engine_options": None, "init": None, "random_state": None, "verbose": False}
    assert parameters == own | shared | {"missing": None}
    assert "missing" not in LDA().get_params()
    assert "views: encoders trained that way" in InfiniteVaDE.__doc__ and "random_state:" in InfiniteVaDE.__doc__
    assert BernoulliMixture().get_params()["binarize"] is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: GaussianMixture(num_component=2), "GaussianMixture: .*'num_component'.*did you mean 'num_components'"),
        (lambda: GaussianMixture(engine="emm").fit(np.eye(9)), "no engine 'emm'; .* did you mean 'em'"),
        (lambda: GaussianMixture(engine_options={"restart": 2}).fit(np.eye(9)), "did you mean 'restarts'"),
        (lambda: GaussianMixture(engine=EM(), engine_options={"restarts": 2}).fit(np.eye(9)), "give one of both"),
        (lambda: GaussianMixture(covariance="round").fit(np.eye(9)), "covariance=. must be"),
        (lambda: GaussianMixture().fit([[1.0, np.nan]] * 9), r"Input X contains NaN. Give .*missing=.nan.\) if NaN"),
        (lambda: GaussianMixture(missing="mean").fit(np.eye(9)), 'missing must be None or "nan", found .mean'),
        (lambda: LDA().fit([[1.0, np.nan]] * 9), "Input X contains NaN"),
        (lambda: VaDE().fit(np.eye(9) * 2), "Bernoulli pixels are in"),
        (lambda: LDA().fit(-np.eye(9)), "Negative values in data passed to LDA"),
        (lambda: LDA().fit(np.eye(9) / 2), "expected counts"),
        (lambda: HMM().fit(np.eye(9), lengths=[4, 4]), "lengths sum to 8, but X has 9 rows"),
        (lambda: HMM().fit(np.eye(9), lengths=[9.0]), "lengths must be whole numbers"),
        (lambda: HMM().fit(np.zeros((3, 4, 2)), lengths=[12]), "where all have T steps"),
        (lambda: HMM(emission="poisson").fit(-np.eye(9)), "Negative values in data passed to HMM"),
        (lambda: HMM(emission="categorical").fit(np.eye(9)), "takes one, of whole numbers"),
    ],
)
def test_bad_input_is_refused_in_words(make, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make()


def test_missing_values_are_summed_out_through_a_pipeline(blobs):
    """A row without any value has the weights for its probabilities."""
    x = blobs[0].copy()
    x[np.random.default_rng(0).random(x.shape) < 0.2] = np.nan
    pipe = make_pipeline(StandardScaler(), GaussianMixture(num_components=3, random_state=0, missing="nan"))
    labels, model = pipe.fit_predict(x), pipe[-1]
    assert adjusted_rand_score(blobs[1][np.isfinite(x).all(1)], labels[np.isfinite(x).all(1)]) > 0.95
    assert np.isfinite(pipe.score(x)) and model.__sklearn_tags__().input_tags.allow_nan
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba([[np.nan, np.nan]])[0], model.weights_, atol=1e-5)


def test_binarizing_leaves_gaps():
    model = BernoulliMixture(binarize=0.5, missing="nan")
    (rows,) = model._read(np.array([[0.2, np.nan], [0.7, 1.0]]), reset=True)
    np.testing.assert_array_equal(rows, [[0, np.nan], [1, 1]])


@pytest.mark.slow
def test_transformer_in_a_pipeline_names_its_columns(blobs):
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(blobs[0][:60], columns=["a", "b"])
    pipe = make_pipeline(MinMaxScaler(clip=True), VAE(**SMALL_VAE)).set_output(transform="pandas")
    found = pipe.fit_transform(x)
    assert list(found.columns) == ["vae0", "vae1"] and found.shape == (60, 2)
    assert list(pipe[-1].feature_names_in_) == ["a", "b"] and pipe[-1].n_features_in_ == 2
    np.testing.assert_allclose(pipe.transform(x.iloc[7:9]), found.iloc[7:9], atol=1e-6)
    assert pipe[-1].reconstruct(x.iloc[:3].clip(0, 1)).shape == (3, 2)


@pytest.mark.slow
def test_grid_search_finds_the_number_of_components(blobs):
    pipe = make_pipeline(StandardScaler(), GaussianMixture(random_state=0, engine_options={"restarts": 4}))
    split = ShuffleSplit(1, test_size=0.5, random_state=0)
    search = GridSearchCV(pipe, {"gaussianmixture__num_components": [1, 3]}, cv=split).fit(blobs[0])
    assert search.best_params_ == {"gaussianmixture__num_components": 3}
    assert search.best_score_ == pytest.approx(search.cv_results_["mean_test_score"].max())


@pytest.mark.slow
def test_same_result_as_the_library_from_the_same_seed(blobs):
    x = blobs[0].astype(np.float32)
    ours = DirichletProcessMixture(truncation=5, random_state=3).fit(x)
    plain = vmix.fit(models.DirichletProcessMixture(truncation=5), x, engine=EM(), seed=3)
    np.testing.assert_allclose(ours.predict_proba(x), plain.predict_proba(x), atol=1e-6)
    assert ours.weights_.shape == (5,) and ours.weights_.sum() == pytest.approx(1)


@pytest.mark.slow
def test_attributes_of_draws_are_their_means_and_go_with_the_fit(blobs):
    options = {"num_samples": 20, "num_warmup": 10, "num_chains": 2}
    found = GaussianMixture(num_components=3, engine="gibbs", engine_options=options, random_state=0).fit(blobs[0])
    assert found.means_.shape == (3, 2)
    np.testing.assert_allclose(found.weights_, found.fit_.posterior["w"].mean((0, 1)))


@pytest.mark.slow
def test_topics_of_sparse_counts_are_those_of_dense_ones():
    from scipy import sparse

    counts = np.random.default_rng(0).poisson(1.0, (30, 8))
    short = {"num_sweeps": 20, "tolerance": None}
    topics = LDA(num_components=2, random_state=0, engine_options=short)
    found = topics.fit_transform(sparse.csr_array(counts))
    assert found.shape == (30, 2) and topics.components_.shape == (2, 8)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found, clone(topics).fit_transform(counts), atol=1e-6)
    assert list(topics.get_feature_names_out()) == ["lda0", "lda1"]


@pytest.fixture(scope="module")
def walks():
    """Two states that stay, seen through noise: three sequences of unequal length."""
    random = np.random.default_rng(0)
    states = np.repeat([0, 1, 0, 1], 20)
    return 4.0 * states[:, None] + random.normal(size=(80, 2)), states


def test_sequences_by_lengths_or_by_shape(walks):
    x, states = walks
    model = HMM(num_components=2, random_state=0).fit(x, lengths=[40, 30, 10])
    assert model.labels_.shape == (80,) and adjusted_rand_score(states, model.labels_) == 1
    assert model.transition_probs_.shape == (2, 2) and model.transition_probs_.diagonal().min() > 0.8
    sequences = x.reshape(2, 40, 2)
    np.testing.assert_array_equal(model.predict(sequences).ravel(), model.predict(x, lengths=[40, 40]))
    assert model.score(sequences) == pytest.approx(model.score(x, lengths=[40, 40]))
    parts = [40 * model.score(x[:40]), 30 * model.score(x[40:70]), 10 * model.score(x[70:])]
    assert model.score(x, lengths=[40, 30, 10]) == pytest.approx(sum(parts) / 80, rel=1e-5)
    assert model.sample(2).shape == (2, 40, 2)


@pytest.mark.slow
def test_padding_of_sequences_does_not_count(walks):
    x, _ = walks
    model = HMM(num_components=2, random_state=0).fit(x)
    plain = vmix.fit(models.HMM(num_components=2), x.astype(np.float32)[None], engine=EM(), seed=0)
    assert model.score(x) == pytest.approx(plain.score(x[None].astype(np.float32)) / 80, abs=1e-4)
    np.testing.assert_allclose(model.predict_proba(x), plain.predict_proba(x[None].astype(np.float32))[0], atol=1e-3)


@pytest.mark.slow
def test_emission_of_an_earlier_fit_leaves_no_attributes():
    counts = np.random.default_rng(0).poisson(np.repeat([[1], [9]], 20, 0), (40, 1))
    model = HMM(num_components=2, random_state=0).fit(counts.astype(float))
    assert hasattr(model, "means_")
    model.set_params(emission="poisson").fit(counts)
    assert model.rates_.shape == (2, 1) and not hasattr(model, "means_")
    model.set_params(emission="categorical").fit(np.minimum(counts, 5))
    assert model.emission_probs_.shape == (2, 6) and not hasattr(model, "rates_")
