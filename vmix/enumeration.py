"""Local terms: what each datum says about each value of the discrete sites, compressed where it can be.

A program runs with every discrete local site set to all its values in a fresh leftmost batch dimension, so each
child's log density comes out for every value at once. A child in an exponential family whose parameters do not
depend on the datum is not evaluated at all: it is kept as natural parameters and sufficient statistics,

    log p(x_n | c_n = k) = <eta_k, t(x_n)> - A_k + h(x_n),

and the matrix over (n, k) is one matrix product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.families import Atom, Family, Frame, family_of, inner, unwrap


@dataclass(frozen=True)
class Layout:
    """Where things stand in a batch shape `[values of discrete sites..., plates...]`.

    Attributes:
        data_dim: the data plate's dimension, counted from the right (-1 is the last); None without a data plate.
        nesting: the number of plate dimensions.
        discrete: the discrete local sites and their numbers of values, in program order.
    """

    data_dim: int | None
    nesting: int
    discrete: tuple[tuple[str, int], ...] = ()

    @property
    def num_states(self) -> int:
        """The number of joint values of the discrete sites (1 without any)."""
        return math.prod(size for _, size in self.discrete)

    @property
    def value_sizes(self) -> tuple[int, ...]:
        """Sizes of the enumeration dimensions, leftmost first (the last discrete site is leftmost)."""
        return tuple(size for _, size in reversed(self.discrete))

    def enumerated(self) -> dict[str, Array]:
        """All values of each discrete site, each in its own leftmost dimension."""
        return {
            name: jnp.arange(size).reshape((size,) + (1,) * (self.nesting + i))
            for i, (name, size) in enumerate(self.discrete)
        }

    def state_values(self) -> dict[str, Array]:
        """The value of each discrete site in each joint state: name to shape (num_states,)."""
        grids = jnp.unravel_index(jnp.arange(self.num_states), self.value_sizes) if self.discrete else ()
        return {name: grid for (name, _), grid in zip(reversed(self.discrete), grids, strict=True)}


class Compressed(NamedTuple):
    """One compressed child: log p(x_n | c = k) = <eta_k, statistics_n> + bias_k + base_n.

    Attributes:
        eta: natural parameters, shape (K, P).
        bias: minus the log-normaliser, shape (K,).
        statistics: sufficient statistics in the site's frame, shape (N, P).
        base: base measures, shape (N,).
    """

    eta: Array
    bias: Array
    statistics: Array
    base: Array


class LocalTerms(NamedTuple):
    """Local log densities for N data and K joint states, in nats.

    Attributes:
        log_prior: log p(c = k), shape (1, K), or (N, K) where it differs per datum.
        compressed: the compressed children, by name.
        dense: log densities of children of a discrete site that do not compress, shape (N, K); None without any.
        shared: log densities that do not depend on the discrete sites, shape (N,) or (1,).
    """

    log_prior: Array
    compressed: dict[str, Compressed]
    dense: Array | None
    shared: Array

    def likelihood(self) -> Array:
        """log p(children of c | c = k), base measures aside, shape (N or 1, K)."""
        matrix = jnp.zeros_like(self.log_prior[:1]) if self.dense is None else self.dense
        if self.compressed:
            parts = self.compressed.values()
            eta = jnp.concatenate([part.eta for part in parts], -1)
            statistics = jnp.concatenate([part.statistics for part in parts], -1)
            matrix = matrix + inner(eta, statistics) + sum(part.bias for part in parts)
        return matrix

    def base(self) -> Array:
        """Base measures and all else that does not depend on the discrete sites, shape (N,) or (1,)."""
        return self.shared + sum(part.base for part in self.compressed.values())


def local_terms(
    layout: Layout,
    sites: Mapping[str, dict],
    *,
    frames: Mapping[str, Frame],
    factors: Mapping[str, dist.Distribution] | None = None,
    known: Mapping[str, tuple[Array, Array]] | None = None,
    missing: bool = False,
) -> LocalTerms:
    """Gather the local terms of one enumerated trace.

    Args:
        layout: where the dimensions stand.
        sites: local sample sites of the trace, by name; discrete ones hold all their values.
        frames: the data frame of each site to compress; the others are evaluated in full.
        factors: variational factors of continuous latents; their expected statistics replace the draw's.
        known: statistics and base measures computed before, by site; they stand in for the trace's.
        missing: whether NaN in an observed value means missing.

    Returns:
        The terms of these sites.
    """
    discrete = {name for name, _ in layout.discrete}
    log_prior, dense, shared = jnp.zeros((1, 1)), None, jnp.zeros((1,))
    compressed = {}
    for name, site in sites.items():
        if name in discrete:
            log_prior = log_prior + collapse(layout, unwrap(site["fn"]).base.log_prob(site["value"]))
        elif name in frames:
            term = _compress(layout, site, frames[name], (factors or {}).get(name), missing)
            statistics, base = (known or {}).get(name, (term.statistics, term.base))
            compressed[name] = term._replace(statistics=statistics, base=base)
        else:
            matrix = collapse(layout, site_log_prob(site["fn"], site["value"], missing=missing))
            if is_enumerated(layout, site["fn"].batch_shape):
                dense = matrix if dense is None else dense + matrix
            else:
                shared = shared + matrix[:, 0]
    log_prior = jnp.broadcast_to(log_prior, (log_prior.shape[0], layout.num_states))
    return LocalTerms(log_prior, compressed, dense, shared)


def is_enumerated(layout: Layout, batch_shape: tuple[int, ...]) -> bool:
    """Whether a batch shape has an enumeration dimension, so its site is a child of a discrete one."""
    return len(batch_shape) > layout.nesting


def collapse(layout: Layout, log_prob: Array) -> Array:
    """Sum a log density over every plate but the data plate.

    Args:
        layout: where the dimensions stand.
        log_prob: log densities, shape `[values..., plates...]`.

    Returns:
        Matrix at [n, k], shape (N or 1, K or 1).
    """
    num_discrete = len(layout.discrete)
    full = log_prob.reshape((1,) * (num_discrete + layout.nesting - log_prob.ndim) + log_prob.shape)
    data_axis = full.ndim + layout.data_dim if layout.data_dim is not None else None
    summed = tuple(axis for axis in range(num_discrete, full.ndim) if axis != data_axis)
    matrix = full.sum(summed)
    if data_axis is None:
        matrix = matrix[..., None]
    if math.prod(matrix.shape[:-1]) == 1:
        return matrix.reshape(-1)[:, None]
    return jnp.broadcast_to(matrix, layout.value_sizes + matrix.shape[-1:]).reshape(layout.num_states, -1).T


def site_log_prob(fn: dist.Distribution, value: Array, *, missing: bool = False) -> Array:
    """Log density of a value, with NaN elements left out where `missing`; shape `fn.batch_shape` broadcast."""
    # data are checked at the door; NumPyro's own check would make grey Bernoulli pixels impossible
    with numpyro.validation_enabled(False):
        if not missing or not jnp.issubdtype(jnp.result_type(value), jnp.floating):
            return fn.log_prob(value)
        atom = unwrap(fn)
        element = jnp.where(_weight(atom, value, True), atom.base.log_prob(_fill(value, atom)), 0.0)
    return element.sum(tuple(range(-atom.event_dims, 0))) if atom.event_dims else element


def fill_missing(value: Array) -> Array:
    """Zeros for NaN: what an encoder sees where a value is missing."""
    value = jnp.asarray(value)
    return jnp.where(jnp.isnan(value), 0.0, value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def compressible(layout: Layout, site: dict) -> tuple[Family | None, str]:
    """Whether a site's parameters are the same for every datum, and its family known.

    Returns:
        The family, or None with the reason.
    """
    atom = unwrap(site["fn"])
    family = family_of(atom.base)
    if layout.data_dim is None:
        return None, "no data plate"
    if family is None:
        return None, f"{type(atom.base).__name__} is not in vmix's exponential families"
    if isinstance(atom.mask, jax.Array) and atom.mask.ndim > layout.nesting + atom.event_dims:
        return None, "its mask depends on a discrete site"
    eta, log_normaliser = family.natural(atom.base, _identity_frame())
    axis = layout.data_dim - atom.event_dims
    for array in (eta[..., 0], log_normaliser):
        if array.ndim >= -axis and array.shape[axis] != 1:
            return None, "its parameters differ per datum"
    return family, "one matrix product"


def data_frame(layout: Layout, site: dict) -> Frame:
    """The frame of a compressed site's data, shaped like its value with one row along the data plate."""
    atom = unwrap(site["fn"])
    family = family_of(atom.base)
    axis = layout.data_dim - atom.event_dims - atom.base.event_dim
    value = jnp.asarray(site["value"])
    frame = family.frame(jnp.moveaxis(value, axis, 0))

    def back(array: Array) -> Array:
        array = jnp.asarray(array)
        return array if array.ndim == 0 else jnp.moveaxis(array[None], 0, axis)

    return Frame(back(frame.shift), back(frame.scale))


def _compress(layout: Layout, site: dict, frame: Frame, factor: Any, missing: bool) -> Compressed:
    atom, value = unwrap(site["fn"]), site["value"]
    family = family_of(atom.base)
    shape = _element_shape(layout, site["fn"], atom)
    weight = _weight(atom, value, missing)
    value = _fill(value, atom) if missing else value
    statistics = _rows(layout, atom, _statistics(family, atom, value, factor, frame), shape, trailing=1)
    base = _rows(layout, atom, family.base_measure(atom.base, value, frame), shape, trailing=0)
    eta, log_normaliser = family.natural(atom.base, frame)
    rest = statistics.shape[1:-1]
    eta = _states(layout, atom, eta, rest, trailing=1)
    log_normaliser = _states(layout, atom, log_normaliser, rest, trailing=0)
    num_states, num_rows = layout.num_states, statistics.shape[0]
    bias = -log_normaliser.reshape(num_states, -1).sum(-1)
    if weight is not None:
        weight = jnp.broadcast_to(_rows(layout, atom, weight, shape, trailing=0), statistics.shape[:-1])
        base = jnp.where(weight, base, 0.0)
        counts = weight[..., None].astype(statistics.dtype)
        statistics = jnp.concatenate([jnp.where(weight[..., None], statistics, 0.0), counts], -1)
        eta = jnp.concatenate([eta, -log_normaliser[..., None]], -1)
        bias = jnp.zeros(num_states)
    return Compressed(
        eta.reshape(num_states, -1),
        bias,
        statistics.reshape(num_rows, -1),
        base.reshape(num_rows, -1).sum(-1),
    )


def _statistics(family: Family, atom: Atom, value: Array, factor: Any, frame: Frame) -> Array:
    if factor is not None:
        expected = family.expected_statistics(factor, frame)
        if expected is not None:
            return expected
    return family.statistics(atom.base, value, frame)


def _weight(atom: Atom, value: Array, missing: bool) -> Array | None:
    mask = None if atom.mask is None or atom.mask is True else jnp.asarray(atom.mask)
    if missing and jnp.issubdtype(jnp.result_type(value), jnp.floating):
        present = _present(value, atom.base)
        return present if mask is None else present & mask
    return mask


def _present(value: Array, base: dist.Distribution) -> Array:
    absent = jnp.isnan(value)
    return ~(absent.any(tuple(range(-base.event_dim, 0))) if base.event_dim else absent)


def _fill(value: Array, atom: Atom) -> Array:
    """A value inside the support wherever the datum is missing; its term is dropped."""
    if not jnp.issubdtype(jnp.result_type(value), jnp.floating):
        return value
    positive = atom.base.support in (dist.constraints.positive, dist.constraints.nonnegative)
    return jnp.where(jnp.isnan(value), 1.0 if positive else 0.0, value)


def _identity_frame() -> Frame:
    return Frame(jnp.zeros(()), jnp.ones(()))


def _element_shape(layout: Layout, fn: dist.Distribution, atom: Atom) -> tuple[int, ...]:
    """Sizes of `[plates..., elements...]`, the enumeration dimensions left out."""
    plates = tuple(fn.batch_shape)[-layout.nesting :]
    padded = (1,) * (layout.nesting - len(plates)) + plates
    return padded + tuple(fn.event_shape[: atom.event_dims])


def _rows(layout: Layout, atom: Atom, array: Array, shape: tuple[int, ...], *, trailing: int) -> Array:
    """Bring the data axis of `[plates..., elements..., trailing]` to the front."""
    array = array.reshape((1,) * (len(shape) + trailing - array.ndim) + array.shape)
    tail = array.shape[array.ndim - trailing :]
    full = jnp.broadcast_to(array, shape + tail)
    return jnp.moveaxis(full, layout.data_dim - atom.event_dims - trailing, 0)


def _states(layout: Layout, atom: Atom, array: Array, rest: tuple[int, ...], *, trailing: int) -> Array:
    """Bring `[values..., plates..., elements..., trailing]` (data axis of size 1) to (K, *rest, trailing)."""
    rank = len(layout.discrete) + layout.nesting + atom.event_dims + trailing
    array = array.reshape((1,) * (rank - array.ndim) + array.shape)
    array = jnp.squeeze(array, rank + layout.data_dim - atom.event_dims - trailing)
    tail = array.shape[array.ndim - trailing :]
    array = jnp.broadcast_to(array, layout.value_sizes + rest + tail)
    return array.reshape((layout.num_states,) + rest + tail)
