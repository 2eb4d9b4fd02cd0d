"""Splits with merges: proposals against clusters that are known, and which of them are taken."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vmix.gaussian_pool import floors_of, log_likelihood, pooled
from vmix.metrics import accuracy
from vmix.mixture_climb import Climbed
from vmix.mixture_start import PATIENCE, improve
from vmix.split_merge import split_merge_proposals

KEY = jax.random.key(0)


def clusters(seed: int, *, parts: int = 1) -> tuple[tuple[jax.Array, ...], np.ndarray]:
    """Five clusters, seen in one or more parts."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(5), 60)
    centres = 6.0 * rng.normal(size=(parts, 5, 3))
    return tuple(jnp.asarray(c[labels] + rng.normal(size=(300, 3)), jnp.float32) for c in centres), labels


@pytest.mark.parametrize("parts", [1, 2])
def test_first_proposal_mends_two_clusters_in_one_and_one_in_two(parts):
    rows, labels = clusters(1, parts=parts)
    wrong = np.where(labels == 4, 3, labels)
    wrong[np.flatnonzero(labels == 0)[::2]] = 4
    shares = jax.nn.one_hot(wrong, 5)
    moved = split_merge_proposals(rows, shares, 3, key=KEY)
    assert moved.shape == (3, 300, 5)
    np.testing.assert_allclose(moved.sum(-1), 1.0, atol=1e-5)
    assert accuracy(labels, wrong) == 0.7
    assert accuracy(labels, np.asarray(moved[0].argmax(1))) > 0.98


def test_proposals_are_ranked_by_the_likelihood_of_what_they_make():
    rows, labels = clusters(2)
    shares = 0.9 * jax.nn.one_hot(labels, 5) + 0.02
    moved = split_merge_proposals(rows, shares, 6, key=KEY)
    floors = floors_of(pooled(rows, shares))
    made = [pooled(rows, s) for s in moved]
    totals = [float(log_likelihood(p.counts, p.scatters, floors).sum()) for p in made]
    # a half of the last sweep of EM lies between what was ranked and what was made
    np.testing.assert_allclose(totals, sorted(totals, reverse=True), rtol=1e-2)


def test_as_many_proposals_as_there_are_triples():
    rows, labels = clusters(3)
    moved = split_merge_proposals(rows, jax.nn.one_hot(labels % 3, 3), 3, key=KEY)
    assert moved.shape == (3, 300, 3) and bool(jnp.isfinite(moved).all())


def test_improve_takes_what_is_better_and_stops_when_patience_ends():
    """The objective is minus the distance of the first responsibility from 0.5; each proposal steps by 0.1 or back."""
    tried = []

    def climb(first, sweeps, beta):
        tried.append(sweeps)
        at = float(jnp.exp(first)[0, 0])
        return Climbed({}, jnp.asarray(-abs(at - 0.5)), jnp.asarray([[at, 1.0 - at]]))

    def propose(key, shares):
        at = shares[0, 0]
        return jnp.stack([jnp.stack([at + step, 1 - at - step])[None] for step in (-0.1, 0.1)])

    begin = Climbed({}, jnp.asarray(-0.3), jnp.asarray([[0.2, 0.8]]))
    run, taken = improve(begin, climb, propose, moves=10, sweeps=20, key=KEY)
    assert taken == 3 and run.value == pytest.approx(0.0, abs=0.02)
    assert tried.count(5) == 2 * (taken + PATIENCE) and tried.count(20) == 2 * (taken + PATIENCE)
    assert improve(begin, climb, propose, moves=1, sweeps=20, key=KEY)[1] == 1
