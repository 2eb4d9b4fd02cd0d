"""Networks of the zoo: multilayer perceptrons as `flax.nnx` modules, declared inside a program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from flax import nnx
from jax import Array
from numpyro.contrib.module import nnx_module

from vmix.checks import check_unit_interval

MIN_SCALE = 1e-3
PIXELS = ("bernoulli", "gaussian")
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

    Args:
        sizes: widths from input to the last hidden layer.
        latent_dim: dimension of z.
        rngs: randomness of the weights.
        first_scale: where the scale starts for every x; by default small, so that an autoencoder's codes are not
            drowned in noise at first.
        first_spread: standard deviation of the biases of loc; outputs that stand for different things start apart.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        latent_dim: int,
        *,
        rngs: nnx.Rngs,
        first_scale: float = _FIRST_SCALE,
        first_spread: float = 0.0,
    ) -> None:
        self.body = MLP(sizes, rngs=rngs)
        apart = nnx.initializers.normal(first_spread)
        self.loc = nnx.Linear(sizes[-1], latent_dim, bias_init=apart, rngs=rngs)
        zeros = nnx.initializers.zeros_init()
        bias = nnx.initializers.constant(jnp.log(jnp.expm1(first_scale)))
        self.scale = nnx.Linear(sizes[-1], latent_dim, kernel_init=zeros, bias_init=bias, rngs=rngs)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Apply to x of shape (N, D); returns loc and scale, each (N, latent_dim)."""
        h = nnx.relu(self.body(x))
        return self.loc(h), MIN_SCALE + jax.nn.softplus(self.scale(h))


def network(name: str, build: Callable[..., nnx.Module]) -> Callable[..., Any]:
    """Declare a network in a program: its weights become a NumPyro parameter `name$params`.

    Args:
        name: name of the parameter.
        build: a function of `rngs=` that makes the module, fresh from the program's own randomness. Of a
            `partial(Module, ...)` with hashable arguments the structure is remembered: programs run many times while
            they are planned and compiled, mostly with weights given, and making a module is a third of each run.

    Returns:
        The module as a function.

    Example:
        >>> import numpyro, jax
        >>> def program(x):
        ...     return network("decoder", partial(MLP, (2, 3)))(x)
        >>> numpyro.handlers.seed(program, jax.random.key(0))(jax.numpy.ones((4, 2))).shape
        (4, 3)
    """
    key = numpyro.prng_key()
    structure = _structure_of(build)
    weights = None if structure is None else numpyro.param(f"{name}$params")
    if structure is None or weights is None:
        return nnx_module(name, build(rngs=nnx.Rngs(key)))
    return partial(_applied, structure, weights)


def _structure_of(build: Callable[..., nnx.Module]) -> tuple | None:
    """What `build` makes but for its weights; None where that is not sure, or there is more than weights."""
    if not (isinstance(build, partial) and isinstance(build.func, type)):  # a function may read what changes
        return None
    try:
        return _structure(build.func, build.args, tuple(sorted(build.keywords.items())))
    except TypeError:  # an argument that is not hashable, such as an array
        return None


@lru_cache(maxsize=64)
def _structure(make: Callable[..., nnx.Module], args: tuple, keywords: tuple[tuple[str, Any], ...]) -> tuple | None:
    module = nnx.eval_shape(lambda: make(*args, rngs=nnx.Rngs(0), **dict(keywords)))
    graph, weights, *others = nnx.split(module, nnx.Param, ...)
    return None if any(nnx.to_pure_dict(state) for state in others) else (graph, weights)


def _applied(structure: tuple, weights: Any, *args: Any, **keywords: Any) -> Any:
    graph, shapes = structure
    state = jax.tree.map(lambda leaf: leaf, shapes)
    nnx.replace_by_pure_dict(state, weights)
    return nnx.merge(graph, state)(*args, **keywords)


def encode(x: Array, *, hidden: Sequence[int], latent_dim: int, pixels: str = "bernoulli") -> tuple[Array, Array]:
    """The guide's encoder: loc and scale of q(z | x), each (N, latent_dim); it sees Gaussian pixels in units."""
    sizes = (x.shape[-1], *hidden)

    if pixels == "bernoulli":
        return network("encoder", partial(GaussianEncoder, sizes, latent_dim))(x)
    return network("encoder", lambda rngs: InUnits(GaussianEncoder(sizes, latent_dim, rngs=rngs), x))(x)


def decode(z: Array, *, like: Array, hidden: Sequence[int], pixels: str) -> dist.Distribution:
    """The model's decoder network: p(x | z) over D pixels, Bernoulli, or Normal with a learned scale a pixel.

    Args:
        z: latents, shape (..., latent_dim).
        like: the data x, shape (..., D); of Bernoulli pixels their number alone counts.
        hidden: the encoder's hidden widths; the decoder takes them in reverse.
        pixels: "bernoulli" or "gaussian".

    Returns:
        A distribution with batch shape (...) and event shape (D,).
    """
    sizes = (z.shape[-1], *reversed(hidden), like.shape[-1])
    if pixels == "bernoulli":
        decoder = network("decoder", partial(MLP, sizes))
        return dist.Bernoulli(logits=decoder(z)).to_event(1)
    gaussian = network("decoder", lambda rngs: GaussianDecoder(sizes, like, rngs=rngs))
    return dist.Normal(*gaussian(z)).to_event(1)


class Units(nnx.Module):
    """x <-> (x - centre) / spread, of the rows that a network is made with; no gradient moves these.

    Args:
        x: rows, shape (..., D).
    """

    def __init__(self, x: Array) -> None:
        rows = x.reshape(-1, x.shape[-1])
        spread = jnp.sqrt(jnp.var(rows, 0).mean())
        self.centre = nnx.Param(rows.mean(0))
        self.spread = nnx.Param(jnp.where(spread > 0.0, spread, 1.0))

    def into(self, x: Array) -> Array:
        """Data in units."""
        return (x - self._fixed(self.centre)) / self._fixed(self.spread)

    def out_of(self, loc: Array, scale: Array) -> tuple[Array, Array]:
        """The loc and scale of data from those in units."""
        return self._fixed(self.centre) + self._fixed(self.spread) * loc, self._fixed(self.spread) * scale

    @staticmethod
    def _fixed(param: nnx.Param) -> Array:
        return jax.lax.stop_gradient(param[...])


class InUnits(nnx.Module):
    """x -> what a network makes of x in the units of the rows `like`."""

    def __init__(self, inner: nnx.Module, like: Array) -> None:
        self.inner, self.units = inner, Units(like)

    def __call__(self, x: Array) -> Any:
        """Apply to x of shape (..., D)."""
        return self.inner(self.units.into(x))


class GaussianDecoder(nnx.Module):
    """z -> (loc, scale) of x; one scale a column, learned with the weights, in the units of the rows `like`."""

    def __init__(self, sizes: Sequence[int], like: Array, *, rngs: nnx.Rngs) -> None:
        self.body = MLP(sizes, rngs=rngs)
        self.free_scale = nnx.Param(jnp.zeros(sizes[-1]))
        self.units = Units(like)

    def __call__(self, z: Array) -> tuple[Array, Array]:
        """Apply to z of shape (..., latent_dim)."""
        return self.units.out_of(self.body(z), MIN_SCALE + jax.nn.softplus(self.free_scale[...]))


def usual_widths(data_dim: int) -> tuple[int, ...]:
    """Hidden widths of the zoo's encoders: 500-500-2000 (Xie et al., 2016) for images of 256 pixels or more."""
    return (500, 500, 2000) if data_dim >= 256 else (128, 128, 512)


def check_pixels(x: Any, pixels: str) -> None:
    """Refuse data that the pixel likelihood cannot explain.

    Raises:
        ValueError: for an unknown likelihood, data that are not (N, D), or Bernoulli pixels outside [0, 1].
    """
    if pixels not in PIXELS:
        raise ValueError(f'pixels must be "bernoulli" or "gaussian", found {pixels!r}')
    if x.ndim != 2:
        raise ValueError(f"x must have shape (N, D), found {x.shape}; flatten images to one row per datum")
    if pixels == "bernoulli":
        check_unit_interval(x, "x")
