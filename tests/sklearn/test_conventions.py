"""scikit-learn's own battery of checks, on every estimator at small sizes."""

import pytest

DEEP = {"latent_dim": 2, "hidden": (8,), "pixels": "gaussian", "engine_options": {"num_sweeps": 5}, "init": "prior"}
CASES = {
    "GaussianMixture": {"num_components": 3},
    "DirichletProcessMixture": {"truncation": 3},
    "BernoulliMixture": {"num_components": 3, "binarize": 0.0},
    "VAE": DEEP,
    # with unit spread, codes of so few rows lie closer together than one component is wide
    "VAEGMM": DEEP | {"num_components": 3, "spread": "learned"},
    "VaDE": DEEP | {"num_components": 3, "covariance": "diagonal", "views": 1},
    "InfiniteVaDE": DEEP | {"truncation": 3, "covariance": "diagonal", "views": 1},
    "LDA": {"num_components": 3},
    "HMM": {"num_components": 3},
}
# These cluster well only from a start that has trained an autoencoder, which the other checks need not wait for.
CLUSTERING = {"init": None, "pretrain_epochs": 100, "engine_options": {"num_sweeps": 20}}
AS_EXPECTED = {
    "HMM": {
        # rows are steps of one sequence: each is judged by its neighbours, so their order and number count
        "check_methods_sample_order_invariance",
        "check_methods_subset_invariance",
    },
}
WITHOUT_A_FIT = {
    "check_complex_data",
    "check_do_not_raise_errors_in_init_or_set_params",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimator_tags_renamed",
    "check_estimators_empty_data_messages",
    "check_estimators_unfitted",
    "check_fit1d",
    "check_get_params_invariance",
    "check_mixin_order",
    "check_no_attributes_set_in_init",
    "check_parameters_default_constructible",
    "check_set_params",
    "check_transformers_unfitted",
    "check_valid_tag_types",
}


def failures(name, *, only=None):
    """The checks that fail, with what they said; of all that apply, or of some by name."""
    import warnings
    from unittest import SkipTest

    from sklearn.utils.estimator_checks import estimator_checks_generator

    import vmix.sklearn

    estimator = getattr(vmix.sklearn, name)(**CASES[name])
    found, ran = {}, set()
    for _, check in estimator_checks_generator(estimator):
        check_name = check.func.__name__
        if only is not None and check_name not in only:
            continue
        tried = estimator
        if check_name == "check_clustering" and "pretrain_epochs" in estimator.get_params():
            tried = type(estimator)(**CASES[name] | CLUSTERING)
        ran.add(check_name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                check(tried)
            except SkipTest:  # of what scikit-learn can only try where SCIPY_ARRAY_API is set
                pass
            except Exception as error:
                found[check_name] = f"{type(error).__name__}: {error}"
    assert ran
    return found


@pytest.mark.slow
@pytest.mark.timeout(3600)  # some fifty fits of other shapes, each compiled: minutes alone, half an hour on a busy core
@pytest.mark.parametrize("name", CASES)
def test_estimator_passes_every_check(name):
    found = failures(name)
    assert set(found) == AS_EXPECTED.get(name, set()), found


@pytest.mark.parametrize("name", CASES)
def test_estimator_passes_the_checks_that_need_no_fit(name):
    assert failures(name, only=WITHOUT_A_FIT) == {}


def test_every_estimator_is_checked():
    import vmix.sklearn

    assert set(CASES) == set(vmix.sklearn.__all__)
