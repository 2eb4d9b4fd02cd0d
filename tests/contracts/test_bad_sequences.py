"""Sequences that cannot be fitted are refused: the message says which argument, what was found, and the way out."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix import fitting
from vmix.distributions import MarkovChain
from vmix.door import check_components
from vmix.inference import EM
from vmix.models import HMM, MarkovModel
from vmix.plan import bare_plan
from vmix.predicting import Predictor
from vmix.program import ProgramError

RNG = np.random.default_rng(0)
N, T = 6, 5
X = RNG.normal(size=(N, T, 2)).astype(np.float32)
COUNTS = RNG.poisson(3.0, (N, T, 2))
WORDS = RNG.integers(0, 4, (N, T))
MASK = np.arange(T) < np.array([5, 2, 3, 1, 4, 5])[:, None]
SHORT = EM(num_sweeps=2, tolerance=None)
GAUSSIAN, POISSON = HMM(num_components=2), HMM(num_components=2, emission="poisson")
CATEGORICAL = HMM(num_components=2, emission="categorical")


def refuse(program, *data, match, error=ValueError, **options):
    with pytest.raises(error, match=match):
        vmix.fit(program, *data, engine=SHORT, seed=0, **options)


def with_value(array, index, value):
    changed = array.copy()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("model", "data", "match"),
    [
        (
            GAUSSIAN,
            [[[0.0], [1.0]], [[2.0]]],
            "x is not a rectangular array .*pad sequences of different lengths to the longest, and give a mask",
        ),
        (GAUSSIAN, X[0], r"x must have shape \(N, T, D\): N sequences of T steps; found \(5, 2\).*x\[None\].*a mask"),
        (GAUSSIAN, X[..., None], r"x must have shape \(N, T, D\).*found \(6, 5, 2, 1\)"),
        (CATEGORICAL, X, r"x must have shape \(N, T\).*found \(6, 5, 2\)"),
        (MarkovModel(), X, r"x must have shape \(N, T\).*found \(6, 5, 2\)"),
        (
            POISSON,
            with_value(COUNTS, (3, 1, 0), -1),
            r"x has -1 at row 3, column \(1, 0\), which is negative; expected counts",
        ),
        (POISSON, COUNTS + 0.5, r"x has .*\.5 at row 0, column \(0, 0\), which is not whole; expected counts"),
        (CATEGORICAL, with_value(WORDS, (3, 1), -1), "x has -1 at row 3, column 1, which is negative; expected counts"),
        (CATEGORICAL, WORDS.astype(float), "x is float32; its values are categories, .*x.astype"),
        (
            HMM(num_components=2, emission="categorical", num_values=3),
            WORDS,
            "x has the value 3; with num_values=3 .*0..2",
        ),
        (
            MarkovModel(),
            with_value(WORDS, (3, 1), -1),
            "x has -1 at row 3, column 1, which is negative; expected counts",
        ),
        (MarkovModel(), WORDS + 0.5, "x has .*which is not whole; expected counts"),
        (MarkovModel(), WORDS.astype(float), "x is float32; its values are categories, .*x.astype"),
        (
            MarkovModel(num_values=3),
            WORDS,
            "x has the value 3; with num_values=3 it must lie in 0..2: fit with num_values",
        ),
        (GAUSSIAN, with_value(X, (3, 1, 0), np.nan), r'x has NaN at row 3, column \(1, 0\).*missing="nan"'),
    ],
)
def test_data_that_are_no_sequences_of_the_model_are_refused(model, data, match):
    refuse(model, data, match=match)


@pytest.mark.parametrize("model", [GAUSSIAN, MarkovModel()])
@pytest.mark.parametrize(
    ("mask", "match"),
    [
        (MASK[:, :3], r"mask must have shape \(6, 5\), one entry a step; found \(6, 3\)"),
        (MASK[..., None], r"mask must have shape \(6, 5\)"),
        (MASK[:4], "differ in their number of rows"),
        (with_value(MASK, (0, 2), False), r'1 from the first step on .*for a gap inside a sequence .*missing="nan"'),
        (~MASK, "1 from the first step on"),
        (with_value(MASK, 3, False), "1 from the first step on"),
        (0.5 * MASK, "mask must hold 0 and 1 only"),
    ],
)
def test_masks_that_are_no_lengths_are_refused(model, mask, match):
    refuse(model, WORDS if isinstance(model, MarkovModel) else X, mask, match=match)


def sketch(model, *data):
    """The plan of a model without its updates: what stands at the door needs no more, and nothing is compiled."""
    return bare_plan(model.with_data(*data), data, frames={}, updates={}, missing=False)


def test_more_states_than_steps_are_refused():
    with pytest.raises(ValueError, match="'c' has 31 components, .*only 30 data; .*fewer components"):
        plan = sketch(HMM(num_components=N * T + 1), X)
        check_components(plan.program, plan.layout, N)


def test_labels_of_steps_have_the_shape_of_the_steps(monkeypatch):
    monkeypatch.setattr(fitting, "make_plan", lambda *_, **__: sketch(GAUSSIAN, X))
    refuse(GAUSSIAN, X, match=r"observed\['c'\] must be whole numbers of shape \(6, 5\), found int64 \(6,\)",
           observed={"c": np.zeros(N, int)})  # fmt: skip
    refuse(GAUSSIAN, X, match=r"messages\['c'\] must have shape \(6, 5, 2\).*found \(6, 2\)",
           messages={"c": np.zeros((N, 2))})  # fmt: skip


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"emission": "gamma"}, r'emission=\) must be "gaussian" or "poisson" or "categorical", found \'gamma\''),
        ({"covariance": "tied"}, r'covariance=\) must be "diagonal" or "full", found \'tied\''),
        ({"stickiness": -1.0}, r"stickiness=\) must be a finite number of at least 0, found -1.0"),
    ],
)
def test_options_of_the_model_are_checked(options, match):
    with pytest.raises(ValueError, match=match):
        HMM(**options)


def test_a_negative_pseudo_count_is_refused():
    with pytest.raises(ValueError, match=r"alpha=\) must be a finite number of at least 0, found -0.5"):
        MarkovModel(alpha=-0.5)


def chain(x, num_states=2):
    transition = numpyro.sample("transition", dist.Dirichlet(jnp.ones(num_states)).expand([num_states]))
    return MarkovChain(jnp.full(num_states, 1 / num_states), transition, x.shape[1])


def without_steps(x):
    prior = chain(x)
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", prior)
        numpyro.sample("x", dist.Normal(jnp.array([-1.0, 1.0])[c].sum(-1), 1.0), obs=x[:, 0, 0])


def with_another_site(x):
    prior = chain(x)
    with numpyro.plate("sequences", x.shape[0]):
        c = numpyro.sample("c", prior)
        kind = numpyro.sample("kind", dist.Categorical(jnp.array([0.5, 0.5])))
        place = jnp.array([-1.0, 1.0])[c] + kind[..., None]
        numpyro.sample("x", dist.Normal(place[..., None], 1.0).expand([*place.shape, 2]).to_event(2), obs=x)


def two_chains(x):
    prior = chain(x)
    with numpyro.plate("sequences", x.shape[0]):
        a, b = numpyro.sample("a", prior), numpyro.sample("b", prior)
        place = jnp.array([-1.0, 1.0])[a] + jnp.array([-2.0, 2.0])[b]
        numpyro.sample("x", dist.Normal(place[..., None], 1.0).expand([*place.shape, 2]).to_event(2), obs=x)


def outside_a_plate(x):
    c = numpyro.sample("c", chain(x))
    numpyro.sample("x", dist.Normal(jnp.array([-1.0, 1.0])[c][..., None], 1.0).expand([T, 2]).to_event(2), obs=x[0])


@pytest.mark.parametrize(
    ("program", "match"),
    [
        (
            without_steps,
            r"site 'x' depends on 'c', but the first dimension of its event is not its 5 steps .*make T part",
        ),
        (
            with_another_site,
            r"site 'c' \(MarkovChain\) is structured, and .*other discrete sites beside it \(\['kind'\]\)",
        ),
        (two_chains, r"site 'a' \(MarkovChain\) is structured, and .*other discrete sites beside it \(\['b'\]\)"),
        (outside_a_plate, "site 'c' is a discrete global; .*numpyro.plate"),
    ],
)
def test_programs_that_a_chain_does_not_fit_are_refused(program, match):
    refuse(program, X, match=match, error=ProgramError)


CHAIN = {"initial": np.full(2, 0.5), "transition": np.full((2, 2), 0.5)}
GLOBALS = {
    "categorical": CHAIN | {"probs": np.full((2, 4), 0.25)},
    "masked": CHAIN | {"loc": np.array([[-1.0, 0.0], [1.0, 0.0]]), "precision": np.ones((2, 2))},
}


@pytest.fixture(scope="module")
def fits():
    """What predicts, at given values; the second has a mask."""
    plans = {"categorical": sketch(CATEGORICAL, WORDS), "masked": sketch(GAUSSIAN, X, MASK.astype(np.int32))}
    one = {kind: {n: jnp.asarray(v)[None] for n, v in values.items()} for kind, values in GLOBALS.items()}
    return {kind: Predictor(plan, one[kind], {}) for kind, plan in plans.items()}


def test_a_missing_mask_is_asked_for_at_prediction(fits):
    with pytest.raises(ValueError, match="1 data array.* given; the program was fitted to 2"):
        fits["masked"].responsibilities(X)


def test_a_mask_of_another_length_is_refused_at_prediction(fits):
    with pytest.raises(ValueError, match=r"mask .*\(6, 3\)"):
        fits["masked"].responsibilities(X, MASK[:, :3])


def test_single_sequences_need_their_own_axis_at_prediction(fits):
    with pytest.raises(ValueError, match=r"x has 1 dimension\(s\), shape \(5,\); this model was fitted to 2: one"):
        fits["categorical"].responsibilities(WORDS[0])


def test_masks_of_whole_numbers_are_as_good_as_booleans(fits):
    found = fits["masked"].responsibilities(X, MASK.astype(int))
    np.testing.assert_array_equal(found.sum(-1).round(5), MASK)
    np.testing.assert_array_equal(found, fits["masked"].responsibilities(X, MASK))


def test_values_never_seen_are_refused_at_prediction(fits):
    with pytest.raises(ValueError, match="x has the value 9; with num_values=4 it must lie in 0..3"):
        fits["categorical"].responsibilities(with_value(WORDS, (3, 1), 9))


def test_masks_are_checked_at_prediction(fits):
    with pytest.raises(ValueError, match="1 from the first step on"):
        fits["masked"].responsibilities(X, ~MASK)
