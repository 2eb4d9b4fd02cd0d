"""Starts: merged clusters against rows drawn from known ones, distortions, and several encoders as views."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix import mixture_start
from vmix.distortion import distorted, straightened
from vmix.door import prepare
from vmix.engine import Data, Start
from vmix.first_responsibilities import View, first_shares, start_responsibilities
from vmix.gaussian_pool import Pool, log_likelihood, union
from vmix.inference import EM
from vmix.log_joint import Batch, batch_terms
from vmix.merging import evidence_clusters, merged_clusters
from vmix.metrics import accuracy
from vmix.mixture_climb import Climbed, climb, evidence
from vmix.mixture_start import fit_mixture, mixture_batch
from vmix.models import GaussianMixture, VaDE
from vmix.plan import make_plan
from vmix.program import ProgramError
from vmix.recipe import Recipe
from vmix.starting import describe, make_start

KEY = jax.random.key(0)


def crosses(seed: int, *, rows: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Three long thin clusters that cross the space, which k-means cuts across."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), rows)
    x = rng.normal(size=(3 * rows, 2)) * (8.0, 0.3)
    x[:, 1] += 3.0 * labels
    return x.astype(np.float32), labels


def test_merged_clusters_find_long_clusters_that_k_means_cuts():
    x, labels = crosses(0)
    shares = merged_clusters((jnp.asarray(x),), 3, key=KEY)
    np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-5)
    assert accuracy(labels, np.asarray(shares.argmax(1))) > 0.99


def test_merged_clusters_join_what_several_parts_say():
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(4), 200)
    left, right = labels // 2, labels % 2
    parts = tuple(jnp.asarray(6.0 * s[:, None] + rng.normal(size=(800, 3)), jnp.float32) for s in (left, right))
    assert accuracy(labels, np.asarray(merged_clusters(parts, 4, key=KEY).argmax(1))) > 0.98


def test_evidence_finds_the_number_of_clusters_and_leaves_the_others_empty():
    x, labels = crosses(3)
    shares = np.asarray(evidence_clusters((jnp.asarray(x),), 8, key=KEY))
    np.testing.assert_allclose(shares.sum(1), 1.0, atol=1e-5)
    assert (shares[:, 3:] == 0.0).all() and (np.diff(shares.sum(0)) <= 0.0).all()
    assert accuracy(labels, shares.argmax(1)) > 0.99
    one = evidence_clusters((jax.random.normal(KEY, x.shape),), 8, key=KEY)
    assert (np.asarray(one)[:, 1:] == 0.0).all()


def test_wide_parts_are_cut_to_their_principal_directions():
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(3), 100)
    x = (20.0 * rng.normal(size=(3, 200)))[labels] + rng.normal(size=(300, 200))
    assert accuracy(labels, np.asarray(merged_clusters((jnp.asarray(x, jnp.float32),), 3, key=KEY).argmax(1))) == 1.0


def test_union_of_components_has_the_moments_of_their_rows():
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(50, 3)).astype(np.float32)
    halves = (rows[:20], rows[20:])
    pool = Pool(
        jnp.asarray([20.0, 30.0]),
        (jnp.stack([h.mean(0) for h in halves]),),
        (jnp.stack([(h - h.mean(0)).T @ (h - h.mean(0)) for h in halves]),),
    )
    both = union(pool, 0, 1)
    np.testing.assert_allclose(both.means[0], rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(both.scatters[0], (rows - rows.mean(0)).T @ (rows - rows.mean(0)), rtol=1e-4, atol=1e-4)
    assert jnp.isfinite(log_likelihood(both.counts, both.scatters, (jnp.asarray(1.0),)))


@pytest.mark.parametrize("rows", [3, 5, 40])
def test_merged_clusters_stand_few_and_equal_rows(rows):
    shares = merged_clusters((jnp.zeros((rows, 2)),), 3, key=KEY)
    assert shares.shape == (rows, 3) and bool(jnp.isfinite(shares).all())


def test_distortions_keep_mass_near_and_the_empty_image_empty():
    image = np.zeros((1, 28, 28), np.float32)
    image[0, 10:18, 12:16] = 1.0
    moved = np.asarray(distorted(jnp.asarray(image.reshape(1, -1)), strength=1.0, key=KEY)).reshape(28, 28)
    assert 0.5 < moved.sum() / image.sum() < 2.0 and not np.array_equal(moved, image[0])
    rows, columns = np.nonzero(moved > 0.5)
    assert abs(rows.mean() - 13.5) < 4 and abs(columns.mean() - 13.5) < 4
    assert not distorted(jnp.zeros((2, 784)), strength=1.0, key=KEY).any()
    still = distorted(jnp.asarray(image.reshape(1, -1)), strength=0.0, key=KEY)
    np.testing.assert_allclose(still, image.reshape(1, -1), atol=1e-6)


def test_distortions_refuse_rows_that_are_no_squares():
    with pytest.raises(ValueError, match="rows of 10 pixels; distortions need square images: use distort=0"):
        distorted(jnp.zeros((2, 10)), strength=1.0, key=KEY)


def test_straightened_images_are_in_the_middle_and_upright():
    """A slanted blob in a corner, whose moments are known: its covariance loses what lies off the diagonal."""
    offsets = np.arange(28) - 13.5
    i, j = np.meshgrid(offsets + 2.0, offsets - 3.0, indexing="ij")
    blob = np.exp(-0.5 * ((i / 3.0) ** 2 + ((j - 0.5 * i) / 2.0) ** 2)).astype(np.float32)
    found = np.asarray(straightened(jnp.asarray(np.stack([blob, np.zeros_like(blob)]).reshape(2, -1))))
    moved, empty = found.reshape(2, 28, 28)
    i, j = np.meshgrid(offsets, offsets, indexing="ij")
    np.testing.assert_allclose(moved, np.exp(-0.5 * ((i / 3.0) ** 2 + (j / 2.0) ** 2)), atol=0.04)  # interpolation
    assert not empty.any()


def test_straightening_refuses_rows_that_are_no_squares():
    with pytest.raises(ValueError, match="rows of 10 pixels"):
        straightened(jnp.zeros((2, 10)))


@pytest.fixture(scope="module")
def deep():
    """A small VaDE and images of three kinds."""
    rng = np.random.default_rng(4)
    labels = np.repeat([0, 1, 2], 40)
    x = np.clip(0.15 + 0.7 * (rng.random((3, 16)) > 0.5)[labels] + 0.1 * rng.normal(size=(120, 16)), 0, 1)
    x = x.astype(np.float32)
    model = VaDE(num_components=3, latent_dim=2, hidden=(8,), covariance="diagonal")
    plan = make_plan(prepare(model, (x,)), (x,), key=KEY)
    recipe = Recipe(views=2, distort=0.5, clusters="merge", pretrain_epochs=1, mixture_restarts=3, mixture_sweeps=8)
    return plan, Data((jnp.asarray(x),), None, None), recipe, labels


@pytest.mark.slow
def test_views_are_stages_that_explain_and_history_name(deep):
    plan, data, recipe, labels = deep
    recipe = replace(recipe, clusters="k-means")  # merging is slow to compile
    start, stages = make_start(plan, data, recipe, key=KEY)
    assert [s.name for s in stages] == ["autoencoder 1 of 2", "autoencoder 2 of 2", "mixture on codes", "classes held"]
    assert start.globals["loc"].shape == (3, 2)
    lines = describe(plan, recipe)
    assert "2 encoders: autoencoder, images distorted (0.5)" in lines[0] and "one class between" in lines[1]


@pytest.mark.slow
def test_two_equal_views_weigh_the_codes_twice(deep):
    """Two copies of one view share a class: the same sweep as one view whose codes count twice."""
    plan, data, _, _ = deep
    codes = jax.random.normal(jax.random.key(5), (120, 2)) + 3.0 * jnp.arange(120)[:, None] / 120
    start = Start(dict(plan.initial), plan.params)
    view = View(start, {"z": codes}, {})
    batch = Batch(data.args, {"z": codes}, {}, None, {})
    twice = jax.tree.map(lambda a: jnp.stack([a, a]), view)
    first = jnp.log(first_shares(plan, twice, batch, key=KEY, clusters="k-means"))
    run = jax.jit(lambda sweeps: climb(plan, twice, batch, {}, first, sweeps, 1.0))
    moved = run(1).globals
    for value in moved.values():
        np.testing.assert_allclose(value[0], value[1], rtol=1e-5)
    one = {name: value[0] for name, value in run(0).globals.items()}
    terms, _ = batch_terms(plan, one, plan.params, batch)
    said = evidence(plan, view, one, batch)
    shares = jax.nn.softmax(terms.log_prior + 2.0 * said, -1)
    np.testing.assert_allclose(run(1).shares, shares, atol=1e-4)
    mean = shares.T @ codes / shares.sum(0)[:, None]
    # the prior of the means is wide (10), so the mode is the weighted mean to its precision
    np.testing.assert_allclose(moved["loc"][0], mean, atol=2e-2)


def test_copies_are_views_of_distorted_images(deep):
    plan, data, _, _ = deep
    start = Start(dict(plan.initial), plan.params)
    alone = mixture_batch(plan, data, start, key=KEY)
    first, second = (mixture_batch(plan, data, start, key=KEY, copy=i, distort=0.5) for i in (1, 2))
    codes = [np.asarray(batch.latents["z"]) for batch in (alone, first, second)]
    np.testing.assert_array_equal(
        alone.latents["z"], mixture_batch(plan, data, start, key=KEY, distort=0.5).latents["z"]
    )
    assert not np.allclose(codes[0], codes[1]) and not np.allclose(codes[1], codes[2])
    near = mixture_batch(plan, data, start, key=KEY, copy=1, distort=1e-4).latents["z"]
    np.testing.assert_allclose(near, codes[0], atol=1e-2)


def test_copies_share_their_encoders_components_and_weigh_as_one_datum(deep):
    """After an E-step on both views' evidence, the means are those of all copies' codes under one class."""
    plan, data, _, _ = deep
    first_codes = jax.random.normal(jax.random.key(5), (120, 2)) + 3.0 * jnp.arange(120)[:, None] / 120
    both = jnp.stack([first_codes, first_codes + jnp.array([0.5, -0.25])])
    start = Start(dict(plan.initial), plan.params)
    views = View(jax.tree.map(lambda a: jnp.stack([a, a]), start), {"z": both}, {})
    batch = Batch(data.args, {"z": first_codes}, {}, None, {})
    first = jnp.log(first_shares(plan, views, batch, key=KEY, clusters="k-means"))
    climbing = jax.jit(lambda sweeps: climb(plan, views, batch, {}, first, sweeps, 1.0, each=2))
    run = climbing(1)
    np.testing.assert_array_equal(run.globals["loc"][0], run.globals["loc"][1])
    pooled = jnp.einsum("nk,vnd->kd", run.shares, both) / (2.0 * run.shares.sum(0))[:, None]
    # the prior of the means is wide (10), so the mode is the weighted mean to its precision
    np.testing.assert_allclose(run.globals["loc"][0], pooled, atol=2e-2)
    np.testing.assert_allclose(run.globals["w"][0], run.shares.mean(0), atol=1e-5)
    # both views' evidence, and the log prior of the components once
    one = {name: value[0] for name, value in climbing(0).globals.items()}
    said = sum(evidence(plan, View(start, {"z": codes}, {}), one, batch) for codes in both)
    terms, log_prior = batch_terms(plan, one, plan.params, batch)
    total = jax.nn.logsumexp(terms.log_prior + said, -1).sum() + log_prior
    assert run.objective == pytest.approx(float(total) / 120, rel=1e-5)


def test_copies_are_named_by_explain(deep):
    plan, _, recipe, _ = deep
    plain = replace(recipe, views=1)
    assert "codes and of 2 distorted copies, one class between them" in describe(plan, replace(plain, copies=2))[1]
    assert "class between" not in describe(plan, plain)[1]


def test_moves_are_taken_where_they_raise_the_objective_and_the_stage_says_so(deep):
    plan, data, recipe, _ = deep
    without = replace(recipe, views=1, clusters="random", mixture_restarts=2)
    start = Start(dict(plan.initial), plan.params)
    _, plain = fit_mixture(plan, data, [start], without, key=KEY)
    moving = replace(without, mixture_moves=2)
    _, moved = fit_mixture(plan, data, [start], moving, key=KEY)
    assert moved.objective[0] >= plain.objective[0]
    assert "up to 2 splits with merges" in describe(plan, moving)[1]
    assert "splits" not in plain.note


@pytest.mark.parametrize(("clusters", "kept"), [("random", -10.0), ("evidence", -10.1)])
def test_where_the_number_is_open_each_cluster_in_use_has_its_price(deep, monkeypatch, clusters, kept):
    """Of two starts the one with three clusters is likelier by 0.1; a third one costs 6 / 2 log(120) / 120 = 0.12."""
    plan, data, recipe, labels = deep
    ends = iter([(-10.0, labels), (-10.1, np.minimum(labels, 1))])

    def climbed(*_):
        objective, found = next(ends)
        globals_ = {name: value[None] for name, value in plan.initial.items()}
        return Climbed(globals_, jnp.asarray(objective), jax.nn.one_hot(jnp.asarray(found), 3))

    monkeypatch.setattr(mixture_start, "_first", lambda *_: lambda *_: (None, {}))
    monkeypatch.setattr(mixture_start, "_climber", lambda *_: climbed)
    options = replace(recipe, views=1, clusters=clusters, mixture_restarts=2)
    _, stage = fit_mixture(plan, data, [Start(dict(plan.initial), plan.params)], options, key=KEY)
    price = 3.0 * np.log(120) / 120 if clusters == "evidence" else 0.0
    used = 2 if clusters == "evidence" else 3
    assert stage.objective[0] == pytest.approx(kept - price * used, abs=1e-5)


def purchases(weeks, bought):
    """Two kinds of customers, whose counts have a family that does not compress."""
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        rate = numpyro.sample("rate", dist.Gamma(1.0, 0.1))
        size = numpyro.sample("size", dist.Gamma(2.0, 0.2))
    with numpyro.plate("data", len(bought)):
        c = numpyro.sample("c", dist.Categorical(w))
        numpyro.sample("x", dist.NegativeBinomial2(rate[c] * weeks, size[c]), obs=bought)


@pytest.fixture
def customers():
    """Weeks, and counts at 0.3 and 3 a week."""
    generator = np.random.default_rng(0)
    weeks = generator.integers(1, 20, 200)
    mean = np.repeat([0.3, 3.0], 100) * weeks
    return weeks, generator.negative_binomial(8, 8 / (8 + mean))


def test_data_that_do_not_compress_are_clustered_too(customers):
    plan, data = make_plan(prepare(purchases, customers), customers, key=KEY), Data(customers, None, None)
    start = Start(dict(plan.initial), {})
    batch = mixture_batch(plan, data, start, key=KEY)
    shares = start_responsibilities(plan, start, batch, key=KEY, clusters="k-means")
    few, many = sorted((customers[1][np.argmax(shares, 1) == k] for k in range(2)), key=np.mean)
    assert few.max() < many.min()


@pytest.mark.slow
def test_em_of_such_data_leaves_the_place_where_components_are_alike(customers):
    fit = vmix.fit(purchases, *customers, engine=EM(), seed=0)
    assert np.allclose(np.sort(fit.posterior["rate"]), [0.3, 3.0], rtol=0.3)


def test_views_need_codes_that_compress(deep):
    plan, data, recipe, _ = deep
    blind = replace(plan, frames={}, reasons={"z": "a reason"})
    start = Start(dict(plan.initial), plan.params)
    with pytest.raises(ProgramError, match=r"site 'z' does not compress \(a reason\).* use views=1"):
        fit_mixture(blind, data, [start, start], recipe, key=KEY)


@pytest.mark.parametrize("option", ["views", "copies", "mixture_moves"])
def test_what_needs_codes_is_refused_without_encoders(option):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    model = GaussianMixture(num_components=3)
    with pytest.raises(ProgramError, match=rf"Recipe\({option}=2\) is for codes of encoders.*GaussianMixture has no"):
        vmix.fit(model, x, engine=EM(), seed=0, init=Recipe(**{option: 2, "distort": 1.0}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"views": 0}, r"views=\) must be a positive whole number, found 0"),
        ({"mixture_moves": -1}, r"mixture_moves=\) must be a whole number of at least 0, found -1"),
        ({"copies": 2}, r"copies=2\) asks for distorted copies of the images, but distort is 0: give distort=1.0"),
        ({"distort": -1.0}, r"distort=\) must be a finite number of at least 0, found -1.0"),
        (
            {"clusters": "ward"},
            'clusters=.* must be "k-means" or "random" or "merge" or "evidence" or "prior", found .ward',
        ),
    ],
)
def test_recipe_refuses_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**options)
