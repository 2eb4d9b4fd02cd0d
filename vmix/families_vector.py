"""Exponential families over vectors and categories: MultivariateNormal, of low rank too, Categorical, Multinomial."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln
from numpyro.distributions import (
    CategoricalLogits,
    CategoricalProbs,
    Distribution,
    LowRankMultivariateNormal,
    MultinomialLogits,
    MultinomialProbs,
    MultivariateNormal,
    Normal,
)

from vmix.distributions.scaled_counts import ScaledCounts
from vmix.families_protocol import EXACT, LOG_2PI, Family, Frame, as_float, framed_moments, standard_frame
from vmix.lapack import take_matrices_in_turn
from vmix.numerics import safe_log

# Done at import, before any Cholesky factor of a program is compiled (the reason is in the module).
take_matrices_in_turn()


class MultivariateNormalFamily(Family):
    """MultivariateNormal(m, P^-1), framed element by element.

    t = (y, y_i y_j for i <= j), eta = (P m, -P_ii/2 and -P_ij for i < j), A = m'Pm/2 - log|P|/2 + D log(2 pi)/2.
    """

    name = "MultivariateNormal"
    hard_zeros = False
    members = {MultivariateNormal: ("loc", "scale_tril")}

    def frame(self, value: Array) -> Frame:
        """Return mean and standard deviation over the data, column by column."""
        return standard_frame(as_float(value))

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return y and the upper triangle of y y'."""
        y = (as_float(value) - frame.shift) / frame.scale
        row, column = np.triu_indices(y.shape[-1])
        return jnp.concatenate([y, y[..., row] * y[..., column]], -1)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return eta and A; from the precision matrix where the distribution holds one."""
        loc = (as_float(base.loc) - frame.shift) / frame.scale
        precision, half_log_det = _precision(base, frame)
        shift = jnp.matmul(precision, loc[..., None], precision=EXACT)[..., 0]
        row, column = np.triu_indices(precision.shape[-1])
        packed = -precision[..., row, column] * np.where(row == column, 0.5, 1.0)
        packed = jnp.broadcast_to(packed, shift.shape[:-1] + packed.shape[-1:])
        log_normaliser = 0.5 * (loc * shift).sum(-1) - half_log_det + 0.5 * LOG_2PI * shift.shape[-1]
        return jnp.concatenate([shift, packed], -1), log_normaliser

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return the Jacobian, minus the sum of log scale_frame."""
        shape = jnp.broadcast_shapes(jnp.shape(value), frame.scale.shape)
        return jnp.broadcast_to(-jnp.log(frame.scale), shape).sum(-1)

    def expected_statistics(self, q: Distribution, frame: Frame) -> Array | None:
        """Return E y and the upper triangle of E y y', for q a MultivariateNormal or Normals over the last axis."""
        moments = framed_moments(q, frame, Normal)
        if moments is None:
            return None
        mean, variance, tril = moments
        row, column = np.triu_indices(mean.shape[-1])
        if tril is None:
            covariance = variance[..., row] * np.where(row == column, 1.0, 0.0)
        else:
            covariance = jnp.matmul(tril, tril.swapaxes(-1, -2), precision=EXACT)[..., row, column]
        return jnp.concatenate([mean, mean[..., row] * mean[..., column] + covariance], -1)


class LowRankMultivariateNormalFamily(MultivariateNormalFamily):
    """LowRankMultivariateNormal(m, W, d): a MultivariateNormal with covariance W W' + diag(d)."""

    name = "LowRankMultivariateNormal"
    members = {LowRankMultivariateNormal: ("loc", "cov_factor", "cov_diag")}


def _precision(base: Distribution, frame: Frame) -> tuple[Array, Array]:
    """Return the framed precision matrix and half its log determinant."""
    scale = jnp.atleast_1d(frame.scale)
    if isinstance(base, LowRankMultivariateNormal):
        return _low_rank_precision(as_float(base.cov_factor) / scale[..., :, None], base.cov_diag / jnp.square(scale))
    if "precision_matrix" in vars(base):  # given by the user: inverting scale_tril would only lose digits
        precision = base.precision_matrix * scale[..., :, None] * scale[..., None, :]
        diagonal = jnp.diagonal(jnp.linalg.cholesky(precision), axis1=-2, axis2=-1)
        return precision, jnp.log(diagonal).sum(-1)
    scale_tril = base.scale_tril / scale[..., :, None]
    identity = jnp.broadcast_to(jnp.eye(scale_tril.shape[-1], dtype=scale_tril.dtype), scale_tril.shape)
    root = solve_triangular(scale_tril, identity, lower=True)
    precision = jnp.matmul(root.swapaxes(-1, -2), root, precision=EXACT)
    return precision, -jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1)).sum(-1)


def _low_rank_precision(loadings: Array, noise: Array) -> tuple[Array, Array]:
    """Return P = (W W' + diag(d))^-1 and half its log determinant, through the r x r matrix M = I + W' diag(1/d) W.

    P = diag(1/d) - diag(1/d) W M^-1 W' diag(1/d),  log |P| = -log |M| - sum_i log d_i      (Woodbury)
    """
    weighted = loadings / noise[..., :, None]
    identity = jnp.eye(loadings.shape[-1], dtype=loadings.dtype)
    tril = jnp.linalg.cholesky(identity + jnp.matmul(loadings.swapaxes(-1, -2), weighted, precision=EXACT))
    root = solve_triangular(tril, weighted.swapaxes(-1, -2), lower=True)
    diagonal = jnp.eye(loadings.shape[-2], dtype=loadings.dtype) / noise[..., :, None]
    precision = diagonal - jnp.matmul(root.swapaxes(-1, -2), root, precision=EXACT)
    log_det = jnp.log(jnp.diagonal(tril, axis1=-2, axis2=-1)).sum(-1)
    return precision, -log_det - 0.5 * jnp.log(noise).sum(-1)


class CategoricalFamily(Family):
    """Categorical(p): t = one-hot(x), eta = log p (-inf where p is 0), A = 0, h = 0 (-inf outside 0..V-1)."""

    name = "Categorical"
    members = {CategoricalProbs: ("probs",), CategoricalLogits: ("logits",)}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return one-hot(x)."""
        return jax.nn.one_hot(jnp.asarray(value), _num_categories(base), dtype=jnp.result_type(float))

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (log p_v)_v and zero."""
        return _log_probs(base)

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return zero, or -inf for a category that does not exist, whose one-hot row of zeros would say nothing."""
        value = jnp.asarray(value)
        return jnp.where((value >= 0) & (value < _num_categories(base)), 0.0, -jnp.inf)


class MultinomialFamily(Family):
    """Multinomial(n, p): t = x, eta = log p (-inf where p is 0), A = 0, h = log n! - sum_v log x_v!, n = sum_v x_v."""

    name = "Multinomial"
    members = {MultinomialProbs: ("probs",), MultinomialLogits: ("logits",), ScaledCounts: ("probs",)}

    def statistics(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return the counts x."""
        return as_float(value)

    def natural(self, base: Distribution, frame: Frame) -> tuple[Array, Array]:
        """Return (log p_v)_v and zero."""
        return _log_probs(base)

    def base_measure(self, base: Distribution, value: Array, frame: Frame) -> Array:
        """Return the log of the multinomial coefficient."""
        x = as_float(value)
        return gammaln(x.sum(-1) + 1) - gammaln(x + 1).sum(-1)


def _log_probs(base: Distribution) -> tuple[Array, Array]:
    """Return (log p, 0) from probabilities or from logits."""
    if isinstance(base, CategoricalProbs | MultinomialProbs):
        log_probs = safe_log(as_float(base.probs))
    else:
        log_probs = jax.nn.log_softmax(as_float(base.logits), -1)
    return log_probs, jnp.zeros(log_probs.shape[:-1], log_probs.dtype)


def _num_categories(base: Distribution) -> int:
    return jnp.shape(base.probs if isinstance(base, CategoricalProbs) else base.logits)[-1]
