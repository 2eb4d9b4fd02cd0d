"""Complete conditionals recognised by derivatives, without a rule book.

For a prior in an exponential family, the complete conditional is in the same family exactly when the log joint is
linear in the prior's sufficient statistics. Two derivatives at one point give the coefficients; the same derivatives
at several random points prove the linearity, and that elements (or blocks) are independent, or refuse it.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from numpyro.distributions import Distribution

from vmix.compilation import jit_once
from vmix.conditionals_contract import Conditional, Exponent, LogDensity
from vmix.conditionals_normal import NormalBlocksConditional, NormalConditional
from vmix.conditionals_scalar import BetaConditional, GammaConditional, InverseGammaConditional
from vmix.conditionals_simplex import DirichletConditional, SoftmaxDirichletConditional
from vmix.conditionals_wishart import WishartCholeskyConditional, WishartConditional

__all__ = [
    "Conditional",
    "Evidence",
    "Exponent",
    "Recognition",
    "candidates",
    "examine",
    "recognise",
    "verification_noise",
]

TOLERANCE = 2e-3
"""Largest relative error of a derivative that passes; about 1e-6 is usual in float32 when a conditional holds."""
LARGEST_BLOCK = 512
"""Most elements in one dense Normal block: its Hessian takes as many Hessian-vector products at every update."""
_NEAR = 4  # points of verification around the probe, and as many around the mode


class Evidence(NamedTuple):
    """What derivatives say about one candidate: four scalars.

    Attributes:
        nonlinearity: largest relative error of gradient and curvature at the points of verification.
        coupling: largest relative curvature between different elements or blocks.
        finite: all derivatives are finite.
        proper: the solution can be normalised.
    """

    nonlinearity: jax.Array
    coupling: jax.Array
    finite: jax.Array
    proper: jax.Array


class Recognition(NamedTuple):
    """The verdict on one site.

    Attributes:
        conditional: the family of its complete conditional, or None when none was proved.
        relative_error: largest error of the family that was accepted, or of the most general one that was refused;
            infinity when there was nothing to measure.
        reason: why, in words.
    """

    conditional: Conditional | None
    relative_error: float
    reason: str


def recognise(prior: Distribution, log_density: LogDensity, current: jax.Array, key: jax.Array) -> Recognition:
    """Find the complete conditional of one site, or say why it has none that is known.

    Candidates come from the prior's family, the simplest first; each is examined in one `jit`, and the first that
    holds is taken. What holds for the values that the other sites have now is taken to hold for all, so these should be
    generic ones (random, not zeros).

    Args:
        prior: The site's distribution, possibly inside Independent, Expanded or Masked; its family is what is read.
        log_density: Log joint as a function of the site's value, everything else fixed; returns a scalar.
        current: A value of the site, shape `prior.batch_shape + prior.event_shape`.
        key: JAX random key for the points of verification.

    Returns:
        The conditional with its relative error, or None with the reason.

    Raises:
        ValueError: `current` does not have the site's shape.
        TypeError: `current` is not real numbers.

    Example:
        >>> prior = dist.Gamma(2.0, 1.0)
        >>> log_joint = lambda v: prior.log_prob(v) + dist.Poisson(v).log_prob(jnp.array([3, 5])).sum()
        >>> verdict = recognise(prior, log_joint, jnp.array(1.0), jax.random.key(0))
        >>> verdict.conditional.name
        'Gamma'
        >>> verdict.conditional.solve(log_joint, jnp.array(1.0)).distribution.concentration.round(3).item()
        10.0
    """
    current = _checked(prior, current)
    family = type(_peeled(prior)).__name__
    options = candidates(prior)
    if not options:
        return Recognition(None, math.inf, f"no conjugate family known for {family}")
    noise = verification_noise(key, current)
    for option in options:
        # an accelerator's default precision for matrix products has errors as large as the tolerance
        with jax.default_matmul_precision("highest"):
            evidence = jit_once(partial(examine, option, log_density))(current, noise)
        verdict = _verdict(option, jax.device_get(evidence))
        if verdict.conditional is not None:
            return verdict
    return verdict._replace(reason=verdict.reason + _limit_met(options, current))


def candidates(prior: Distribution) -> tuple[Conditional, ...]:
    """Return the families in which the prior's complete conditional may lie, the simplest first.

    Example:
        >>> [option.name for option in candidates(dist.Normal(0.0, 1.0).expand([4, 3]))]
        ['Normal', 'Normal (blocks of size 3)', 'Normal (blocks of size 12)']
    """
    options = _FAMILIES.get(type(_peeled(prior)))
    return () if options is None else options(prior.batch_shape + prior.event_shape)


def examine(
    conditional: Conditional, log_density: LogDensity, current: jax.Array, noise: jax.Array | np.ndarray
) -> Evidence:
    """Measure how well one candidate describes the log joint; pure, and slow outside of `jit`.

    The candidate is solved from two probes and both solutions are compared with the log joint at random points around
    the probe and around the mode, near and far.

    Args:
        conditional: The candidate.
        log_density: Log joint as a function of the site's value.
        current: A value of the site.
        noise: Standard Normal variables from `verification_noise`.
    """
    elsewhere, around_probe, around_mode, directions = jnp.split(noise, [1, 1 + _NEAR, 1 + 2 * _NEAR])
    probe = conditional.probe(current)
    probes = jnp.concatenate([probe[None], conditional.scatter(elsewhere, current)])
    solutions = jax.lax.map(partial(conditional.solve, log_density), probes)
    mode = jax.tree.map(lambda leaf: leaf[0], solutions).mode(probe)
    points = jnp.concatenate([conditional.scatter(around_probe, probe), conditional.scatter(around_mode, mode)])
    compare = partial(_compare, conditional, log_density, solutions)
    nonlinearity, coupling, finite = jax.lax.map(lambda at: compare(*at), (points, jnp.sign(directions)))
    return Evidence(
        nonlinearity=jnp.max(nonlinearity),
        coupling=jnp.max(coupling),
        finite=jnp.all(finite),
        proper=jnp.all(jax.vmap(lambda solution: solution.is_proper())(solutions)),
    )


def verification_noise(key: jax.Array, current: jax.Array) -> np.ndarray:
    """Draw the standard Normal variables that `examine` needs for one site, shape `(17, *current.shape)`.

    With NumPy: inside `jit` the generator would take half of the time of compilation.
    """
    words = key if jnp.issubdtype(key.dtype, jnp.integer) else jax.random.key_data(key)
    generator = np.random.default_rng(np.asarray(words).ravel())
    return generator.standard_normal((1 + 4 * _NEAR, *current.shape)).astype(current.dtype)


def _compare(
    conditional: Conditional, log_density: LogDensity, solutions: Exponent, point: jax.Array, direction: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return nonlinearity and coupling, one a solution, and whether all is finite, at one point.

    Blocks are independent when changing the sign of a direction block by block changes the sign of the curvature along
    it block by block, and nothing else. The signs are those of the direction's first element in each block.
    """
    first = (..., *(slice(0, 1),) * conditional.block_ndim)
    signs = jnp.broadcast_to(direction[first], point.shape)

    def derivatives(function: LogDensity, along: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient, push = jax.linearize(
            jax.grad(lambda u: function(conditional.retract(point, u))), jnp.zeros_like(point)
        )
        return gradient, jax.vmap(push)(along)

    def against(solution: Exponent) -> tuple[jax.Array, jax.Array]:
        expected_gradient, (expected_curvature,) = derivatives(solution.log_kernel, direction[None])
        gradient_scale, curvature_scale = conditional.scales(solution, point, direction)
        slope = _relative(gradient - expected_gradient, gradient_scale)
        bend = _relative(curvature - expected_curvature, curvature_scale)
        return jnp.maximum(slope, bend), _relative(signs * signed_curvature - curvature, curvature_scale)

    gradient, (curvature, signed_curvature) = derivatives(log_density, jnp.stack([direction, signs * direction]))
    nonlinearity, coupling = jax.vmap(against)(solutions)
    finite = jnp.all(jnp.isfinite(gradient)) & jnp.all(jnp.isfinite(curvature))
    return nonlinearity, coupling, finite


def _relative(error: jax.Array, scale: jax.Array) -> jax.Array:
    """Return the largest relative error; not a number counts as infinity."""
    ratio = jnp.abs(error) / jnp.maximum(scale, jnp.finfo(scale.dtype).tiny)
    return jnp.max(jnp.where(jnp.isnan(ratio), jnp.inf, ratio), initial=0)


def _verdict(option: Conditional, evidence: Evidence) -> Recognition:
    worst = max(float(evidence.nonlinearity), float(evidence.coupling))
    if not evidence.finite or math.isinf(worst):
        return Recognition(None, math.inf, "the derivatives of the log joint are not finite at an interior point")
    if evidence.coupling > TOLERANCE:
        parts = "blocks" if option.block_ndim else "elements"
        return Recognition(None, worst, f"{parts} are coupled: relative error {evidence.coupling:.2g}")
    claim = f"linear in {option.statistics}: relative error {evidence.nonlinearity:.2g}"
    if evidence.nonlinearity > TOLERANCE:
        return Recognition(None, worst, f"the log joint is not {claim}")
    if not evidence.proper:
        return Recognition(None, worst, f"the log joint is {claim}, but cannot be normalised over this site")
    return Recognition(option, worst, f"the log joint is {claim}")


def _limit_met(options: tuple[Conditional, ...], current: jax.Array) -> str:
    """Say so when a dense Normal was left out for its size."""
    normal = isinstance(options[-1], NormalConditional | NormalBlocksConditional)
    if normal and current.size > LARGEST_BLOCK:
        return f"; one dense Normal over all {current.size} elements is not tried above {LARGEST_BLOCK}"
    return ""


def _peeled(prior: Distribution) -> Distribution:
    """Return the distribution inside Independent, Expanded and Masked."""
    while isinstance(prior, dist.Independent | dist.ExpandedDistribution | dist.MaskedDistribution):
        prior = prior.base_dist
    return prior


def _checked(prior: Distribution, current: jax.Array) -> jax.Array:
    current = jnp.asarray(current)
    shape = prior.batch_shape + prior.event_shape
    if current.shape != shape:
        raise ValueError(
            f"current has shape {current.shape}; the prior {type(_peeled(prior)).__name__} needs batch_shape + "
            f"event_shape = {shape}: pass one value of the site, for instance prior.sample(key)"
        )
    if not jnp.issubdtype(current.dtype, jnp.floating):
        raise TypeError(f"current has dtype {current.dtype}; a conditional needs a floating-point site: cast it first")
    return current


def _one(option: Conditional) -> Callable[[tuple[int, ...]], tuple[Conditional, ...]]:
    return lambda shape: (option,)


def _normal(shape: tuple[int, ...]) -> tuple[Conditional, ...]:
    """Return elements, then blocks over the last dimension, then one block, where these differ and are small."""
    blocks = [shape[-1:], shape]
    sizes = {block: math.prod(block) for block in blocks}
    return (NormalConditional(), *(NormalBlocksConditional(b) for b in sizes if 1 < sizes[b] <= LARGEST_BLOCK))


def _multivariate_normal(shape: tuple[int, ...]) -> tuple[Conditional, ...]:
    """Return blocks over the event dimension, whatever its size, then one block."""
    rows = NormalBlocksConditional(shape[-1:])
    dense = 1 < math.prod(shape) <= LARGEST_BLOCK and math.prod(shape) != shape[-1]
    return (rows, NormalBlocksConditional(shape)) if dense else (rows,)


_FAMILIES: dict[type, Callable[[tuple[int, ...]], tuple[Conditional, ...]]] = {
    dist.Normal: _normal,
    dist.MultivariateNormal: _multivariate_normal,
    dist.LowRankMultivariateNormal: _multivariate_normal,
    dist.Gamma: _one(GammaConditional()),
    dist.Exponential: _one(GammaConditional()),
    dist.Chi2: _one(GammaConditional()),
    dist.InverseGamma: _one(InverseGammaConditional()),
    dist.Beta: _one(BetaConditional()),
    dist.Dirichlet: lambda shape: (DirichletConditional(), SoftmaxDirichletConditional()),
    dist.Wishart: _one(WishartConditional()),
    dist.WishartCholesky: _one(WishartCholeskyConditional()),
}
