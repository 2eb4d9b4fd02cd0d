"""Networks of the zoo: multilayer perceptrons as `flax.nnx` modules, declared inside a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module

MIN_SCALE = 1e-3
_FIRST_SCALE = 0.1


class MLP(nnx.Module):
    """x -> hidden layers with ReLU -> linear output.

    Args:
        sizes: widths from input to output, at least two.
        rngs: randomness of the weights (He initialisation, zero biases).
    """

    def __init__(self, sizes: Sequence[int], *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.he_normal()
        self.layers = nnx.List(
            [nnx.Linear(i, o, kernel_init=init, rngs=rngs) for i, o in zip(sizes[:-1], sizes[1:], strict=True)]
        )

    def __call__(self, x: Array) -> Array:
        """Apply to x of shape (..., sizes[0]); returns (..., sizes[-1])."""
        for layer in self.layers[:-1]:
            x = nnx.relu(layer(x))
        return self.layers[-1](x)


class GaussianEncoder(nnx.Module):
    """x -> (loc, scale) of a diagonal Gaussian over z.

    The scale starts at 0.1 for every x, so that an autoencoder's codes are not drowned in noise at first.

    Args:
        sizes: widths from input to the last hidden layer.
        latent_dim: dimension of z.
        rngs: randomness of the weights.
    """

    def __init__(self, sizes: Sequence[int], latent_dim: int, *, rngs: nnx.Rngs) -> None:
        self.body = MLP(sizes, rngs=rngs)
        self.loc = nnx.Linear(sizes[-1], latent_dim, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        bias = nnx.initializers.constant(jnp.log(jnp.expm1(_FIRST_SCALE)))
        self.scale = nnx.Linear(sizes[-1], latent_dim, kernel_init=zeros, bias_init=bias, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Apply to x of shape (N, D); returns loc and scale, each (N, latent_dim)."""
        h = nnx.relu(self.body(x))
        return self.loc(h), MIN_SCALE + jax.nn.softplus(self.scale(h))


def network(name: str, build: Callable[..., nnx.Module]) -> Callable[..., Any]:
    """Declare a network in a program: its weights become a NumPyro parameter `name$params`.

    Args:
        name: name of the parameter.
        build: a function of `rngs=` that makes the module, fresh from the program's own randomness.

    Returns:
        The module as a function.

    Example:
        >>> import numpyro, jax
        >>> def program(x):
        ...     return network("decoder", lambda rngs: MLP((2, 3), rngs=rngs))(x)
        >>> numpyro.handlers.seed(program, jax.random.key(0))(jax.numpy.ones((4, 2))).shape
        (4, 3)
    """
    key = numpyro.prng_key()
    return nnx_module(name, build(rngs=nnx.Rngs(key)))
