"""A network's structure is remembered where it is sure, and its weights are those that are given."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpyro import handlers

from vmix.networks import MLP, network

X = jnp.ones((4, 2))
MADE = []


class Counted(MLP):
    """Tells how often it was made."""

    def __init__(self, sizes, *, rngs):
        MADE.append(sizes)
        super().__init__(sizes, rngs=rngs)


class Noisy(MLP):
    """Keeps its own randomness: more than weights."""

    def __init__(self, sizes, *, rngs):
        super().__init__(sizes, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


def once(build, weights=None):
    def program(x):
        return network("net", build)(x)

    seeded = handlers.seed(program, jax.random.key(1))
    if weights is not None:
        seeded = handlers.substitute(seeded, {"net$params": weights})
    trace = handlers.trace(seeded)
    sites = trace.get_trace(X)
    return sites["net$params"]["value"], seeded(X)


@pytest.mark.parametrize("build", [partial(MLP, (2, 5, 3)), partial(MLP, sizes=(2, 5, 3))], ids=["args", "keywords"])
def test_a_partial_makes_the_same_network_as_a_function_does(build):
    plain, said = once(lambda rngs: MLP((2, 5, 3), rngs=rngs))
    weights, same = once(build)
    jax.tree.map(np.testing.assert_array_equal, plain, weights)
    np.testing.assert_array_equal(said, same)
    doubled = jax.tree.map(lambda a: 2.0 * a, weights)
    np.testing.assert_array_equal(once(build, doubled)[1], once(lambda rngs: MLP((2, 5, 3), rngs=rngs), doubled)[1])


def test_a_network_is_not_made_again_where_its_weights_are_given():
    build = partial(Counted, (2, 3))
    weights, _ = once(build)
    MADE.clear()
    for _ in range(3):
        once(build, weights)
    assert MADE == []
    other, said = once(partial(Counted, (2, 4)))
    assert said.shape == (4, 4) and MADE


def test_a_gradient_flows_to_weights_that_are_given():
    build = partial(MLP, (2, 3))
    weights, _ = once(build)
    grads = jax.grad(lambda w: once(build, w)[1].sum())(weights)
    assert all(np.abs(leaf).max() > 0.0 for leaf in jax.tree.leaves(grads))


def test_a_function_that_reads_what_changes_is_called_each_time():
    sizes = [2, 3]

    def build(*, rngs):
        return MLP(tuple(sizes), rngs=rngs)

    made = partial(build)
    once(made, once(made)[0])
    sizes[1:] = [5, 3]
    weights, said = once(made)
    np.testing.assert_array_equal(once(made, weights)[1], said)


def test_what_keeps_more_than_weights_or_takes_arrays_is_made_each_time():
    weights, _ = once(partial(MLP, (2, 3)))
    noisy = once(partial(Noisy, (2, 3)), weights)[1]
    assert noisy.shape == (4, 3)

    def scaled(scale, *, rngs):
        return MLP((2, int(scale.shape[0])), rngs=rngs)

    assert once(partial(scaled, jnp.ones(3)), weights)[1].shape == (4, 3)
