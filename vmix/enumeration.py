"""Local terms: what each datum says about each value of the discrete sites, compressed where it can be.

A program runs with every discrete local site set to all its values in a fresh leftmost batch dimension, so each
child's log density comes out for every value at once. A child in an exponential family whose parameters do not
depend on the datum is not evaluated at all: it is kept as natural parameters and sufficient statistics,

    log p(x_n | c_n = k) = <eta_k, t(x_n)> - A_k + h(x_n),

and the matrix over (n, k) is one matrix product.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import Array

from vmix.distributions.augmented import Augmented
from vmix.distributions.structured import StructuredDiscrete
from vmix.families import Atom, Family, Frame, family_of, inner, unwrap
from vmix.layout import Layout, collapse, is_enumerated


@partial(
    jax.tree_util.register_dataclass, data_fields=["eta", "bias", "statistics", "base"], meta_fields=["hard_zeros"]
)
@dataclass(frozen=True)
class Compressed:
    """One compressed child: log p(x_n | c = k) = <eta_k, statistics_n> + bias_k + base_n, n a cell.

    Attributes:
        eta: natural parameters, shape (K, P).
        bias: minus the log-normaliser, shape (K,).
        statistics: sufficient statistics in the site's frame, shape (N, P), or (N T, P) with steps.
        base: base measures, shape (N,), or (N T,).
        hard_zeros: whether eta may hold minus infinity.
    """

    eta: Array
    bias: Array
    statistics: Array
    base: Array
    hard_zeros: bool = True


class LocalTerms(NamedTuple):
    """Local log densities for N data and K joint states, in nats; over cells, N T of them, where there are steps.

    Attributes:
        log_prior: log p(c = k), shape (1, K), or (N, K) where it differs per datum; zero beside a structured prior.
        prior: the structured discrete prior; None without one.
        compressed: the compressed children, by name.
        dense: log densities of children of a discrete site that do not compress, shape (cells, K); None without any.
        augmented: observed sites with hidden variables of their own, and their values, by name.
        shared: log densities of a cell that do not depend on the discrete sites, shape (cells,) or (1,).
        latents: of those, the latents' own densities, which `shared` leaves out, shape (cells,) or (1,).
        rows: log densities of a datum as a whole, where there are steps, shape (N,) or (1,).
    """

    log_prior: Array
    prior: StructuredDiscrete | None
    compressed: dict[str, Compressed]
    dense: Array | None
    augmented: dict[str, tuple[Augmented, Array]]
    shared: Array
    latents: Array
    rows: Array

    def likelihood(self) -> Array:
        """log p(children of c | c = k), base measures aside, shape (cells or 1, K)."""
        matrix = jnp.zeros_like(self.log_prior[:1]) if self.dense is None else self.dense
        if self.compressed:
            parts = self.compressed.values()
            eta = jnp.concatenate([part.eta for part in parts], -1)
            statistics = jnp.concatenate([part.statistics for part in parts], -1)
            hard_zeros = any(part.hard_zeros for part in parts)
            matrix = matrix + inner(eta, statistics, hard_zeros=hard_zeros) + sum(part.bias for part in parts)
        return matrix

    def base(self) -> Array:
        """Base measures and all else of a cell that does not depend on the discrete sites, shape (cells,) or (1,)."""
        return self.shared + self.latents + self.base_measures()

    def base_measures(self) -> Array:
        """Base measures of the compressed children, shape (cells,) or (1,)."""
        return sum((part.base for part in self.compressed.values()), jnp.zeros((1,)))


def local_terms(
    layout: Layout,
    sites: Mapping[str, dict],
    *,
    frames: Mapping[str, Frame],
    factors: Mapping[str, dist.Distribution] | None = None,
    known: Mapping[str, tuple[Array, Array]] | None = None,
    missing: bool = False,
    latents: Collection[str] = (),
) -> LocalTerms:
    """Gather the local terms of one enumerated trace.

    Args:
        layout: where the dimensions stand.
        sites: local sample sites of the trace, by name; discrete ones hold all their values.
        frames: the data frame of each site to compress; the others are evaluated in full.
        factors: variational factors of continuous latents; their expected statistics replace the draw's.
        known: statistics and base measures computed before, by site, row by row; they stand in for the trace's.
        missing: whether NaN in an observed value means missing.
        latents: names of continuous latents.

    Returns:
        The terms of these sites.
    """
    discrete, held = {name for name, _ in layout.discrete}, known or {}
    log_prior, dense, shared, rows = jnp.zeros((1, 1)), None, jnp.zeros((1,)), jnp.zeros((1,))
    prior, compressed, augmented, own = None, {}, {}, jnp.zeros((1,))
    for name, site in sites.items():
        if name in discrete and layout.num_steps is not None:
            prior = unwrap(site["fn"]).base
        elif name in discrete:
            log_prior = log_prior + collapse(layout, unwrap(site["fn"]).base.log_prob(site["value"]))
        elif name in frames:
            term = _compress(layout, site, frames[name], (factors or {}).get(name), missing)
            if name in held:
                statistics, base = (layout.to_cells(array) for array in held[name])
                term = replace(term, statistics=statistics, base=base)
            compressed[name] = term
        else:
            if isinstance(unwrap(site["fn"]).base, Augmented):
                augmented[name] = (unwrap(site["fn"]).base, site["value"])
            steps = has_steps(layout, site)
            matrix = collapse(
                layout, site_log_prob(site["fn"], site["value"], missing=missing, steps=steps), steps=steps
            )
            if is_enumerated(layout, site["fn"].batch_shape):
                dense = matrix if dense is None else dense + matrix
            elif name in latents and (steps or layout.num_steps is None):
                own = own + matrix[:, 0]
            elif steps or layout.num_steps is None:
                shared = shared + matrix[:, 0]
            else:
                rows = rows + matrix[:, 0]
    log_prior = jnp.broadcast_to(log_prior, (log_prior.shape[0], layout.num_states))
    return LocalTerms(log_prior, prior, compressed, dense, augmented, shared, own, rows)


def has_steps(layout: Layout, site: dict) -> bool:
    """Whether the first dimension of a site's event is that of the structured discrete site's steps."""
    atom = unwrap(site["fn"])
    if layout.num_steps is None or not atom.event_dims:
        return False
    shape, first = jnp.shape(site["value"]), atom.event_dims + atom.base.event_dim
    return len(shape) >= first and shape[-first] == layout.num_steps


def site_log_prob(fn: dist.Distribution, value: Array, *, missing: bool = False, steps: bool = False) -> Array:
    """Log density of a value, with NaN elements left out where `missing`.

    Returns:
        Nats, shape `fn.batch_shape` broadcast; with `steps`, one dimension more, in which they are not summed.
    """
    # data are checked at the door; NumPyro's own check would make grey Bernoulli pixels impossible
    with numpyro.validation_enabled(False):
        partial_rows = missing and jnp.issubdtype(jnp.result_type(value), jnp.floating)
        if not partial_rows and not steps:
            return fn.log_prob(value)
        atom = unwrap(fn)
        weight = _weight(atom, value, missing)
        element = atom.base.log_prob(_fill(value, atom) if partial_rows else value)
        element = element if weight is None else jnp.where(weight, element, 0.0)
        whole = atom.batch_shape + atom.event_shape[: atom.event_dims]
        element = jnp.broadcast_to(element, jnp.broadcast_shapes(element.shape, whole))
    return element.sum(tuple(range(-atom.event_dims + steps, 0))) if atom.event_dims > steps else element


def fill_missing(value: Array) -> Array:
    """Zeros for NaN: what an encoder sees where a value is missing."""
    value = jnp.asarray(value)
    return jnp.where(jnp.isnan(value), 0.0, value) if jnp.issubdtype(value.dtype, jnp.floating) else value


def compressible(layout: Layout, site: dict, *, fixed_mask: bool) -> tuple[Family | None, str]:
    """Whether a site's parameters are the same for every datum, and its family known.

    Args:
        layout: where the dimensions stand.
        site: the site of an enumerated trace.
        fixed_mask: whether its mask is known to be the same for all values of the discrete sites.

    Returns:
        The family, or None with the reason.
    """
    atom = unwrap(site["fn"])
    family = family_of(atom.base)
    if layout.data_dim is None:
        return None, "no data plate"
    if family is None:
        return None, _unknown_family(atom)
    if not fixed_mask and isinstance(atom.mask, jax.Array) and atom.mask.ndim > layout.nesting + atom.event_dims:
        return None, "its mask depends on a discrete site"
    eta, log_normaliser = family.natural(atom.base, _identity_frame())
    axes = {layout.data_dim - atom.event_dims: "datum"}
    if has_steps(layout, site):
        axes[-atom.event_dims] = "step"
    for array in (eta[..., 0], log_normaliser):
        for axis, what in axes.items():
            if array.ndim >= -axis and array.shape[axis] != 1:
                return None, f"its parameters differ per {what}"
    return family, "one matrix product"


def _known_family(atom: Atom) -> Family:
    """The family of a site that compresses."""
    family = family_of(atom.base)
    if family is None:
        raise ValueError(_unknown_family(atom))
    return family


def _unknown_family(atom: Atom) -> str:
    return f"{type(atom.base).__name__} is not in vmix's exponential families"


def data_frame(layout: Layout, site: dict) -> Frame:
    """The frame of a compressed site's data, shaped like its value with one row along the data plate."""
    atom = unwrap(site["fn"])
    family = _known_family(atom)
    axis = layout.rows_dim - atom.event_dims - atom.base.event_dim
    rows = jnp.moveaxis(without_masked(layout, site), axis, 0)
    steps = has_steps(layout, site)
    # rows are [N, other plates..., T, elements...]: the other plates are all but one of the nesting
    step_axis = rows.ndim - atom.event_dims - atom.base.event_dim
    if steps:
        rows = jnp.moveaxis(rows, step_axis, 1).reshape((-1, *rows.shape[1:step_axis], *rows.shape[step_axis + 1 :]))
    frame = family.frame(rows)

    def back(array: Array) -> Array:
        array = jnp.asarray(array)
        if array.ndim == 0:
            return array
        array = array[None]
        return jnp.moveaxis(jnp.expand_dims(array, step_axis) if steps else array, 0, axis)

    return Frame(back(frame.shift), back(frame.scale))


def _compress(layout: Layout, site: dict, frame: Frame, factor: Any, missing: bool) -> Compressed:
    atom, value = unwrap(site["fn"]), site["value"]
    family = _known_family(atom)
    where = _Where(layout, atom, _element_shape(layout, site, atom), has_steps(layout, site))
    weight = _weight(_with_one_mask(layout, atom), value, missing)
    value = _fill(value, atom) if missing else value
    statistics = where.cells(_statistics(family, atom, value, factor, frame), trailing=1)
    base = where.cells(family.base_measure(atom.base, value, frame), trailing=0)
    eta, log_normaliser = family.natural(atom.base, frame)
    rest = statistics.shape[1:-1]
    eta = where.states(eta, rest, trailing=1)
    log_normaliser = where.states(log_normaliser, rest, trailing=0)
    num_states, num_cells = layout.num_states, statistics.shape[0]
    bias = -log_normaliser.reshape(num_states, -1).sum(-1)
    if weight is not None:
        weight = jnp.broadcast_to(where.cells(weight, trailing=0), statistics.shape[:-1])
        base = jnp.where(weight, base, 0.0)
        counts = weight[..., None].astype(statistics.dtype)
        statistics = jnp.concatenate([jnp.where(weight[..., None], statistics, 0.0), counts], -1)
        eta = jnp.concatenate([eta, -log_normaliser[..., None]], -1)
        bias = jnp.zeros(num_states)
    return Compressed(
        eta.reshape(num_states, -1),
        bias,
        statistics.reshape(num_cells, -1),
        base.reshape(num_cells, -1).sum(-1),
        family.hard_zeros,
    )


def without_masked(layout: Layout, site: dict) -> Array:
    """A site's value with NaN in place of real numbers under its mask, which may be anything."""
    atom, value = _with_one_mask(layout, unwrap(site["fn"])), jnp.asarray(site["value"])
    if not isinstance(atom.mask, jax.Array) or not jnp.issubdtype(value.dtype, jnp.floating):
        return value
    seen = atom.mask.reshape(*atom.mask.shape, *(1,) * atom.base.event_dim)
    return jnp.where(seen, value, jnp.nan)


def _with_one_mask(layout: Layout, atom: Atom) -> Atom:
    """The atom with its mask at the first value of the discrete sites: NumPyro broadcasts it over all of them."""
    if not isinstance(atom.mask, jax.Array) or atom.mask.ndim <= layout.nesting + atom.event_dims:
        return atom
    kept = atom.mask.shape[atom.mask.ndim - layout.nesting - atom.event_dims :]
    return atom._replace(mask=atom.mask.reshape(-1, *kept)[0])


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


def _element_shape(layout: Layout, site: dict, atom: Atom) -> tuple[int, ...]:
    """Sizes of `[plates..., elements...]`, the enumeration dimensions left out."""
    plates = tuple(site["fn"].batch_shape)[-layout.nesting :]
    padded = (1,) * (layout.nesting - len(plates)) + plates
    elements = tuple(site["fn"].event_shape[: atom.event_dims])
    if has_steps(layout, site):
        elements = (layout.num_steps, *elements[1:])
    return padded + elements


class _Where(NamedTuple):
    """Where the dimensions of one site's arrays stand, elements of an event included."""

    layout: Layout
    atom: Atom
    shape: tuple[int, ...]
    steps: bool

    def cells(self, array: Array, *, trailing: int) -> Array:
        """Bring the data axis (and the steps') of `[plates..., elements..., trailing]` to the front."""
        array = array.reshape((1,) * (len(self.shape) + trailing - array.ndim) + array.shape)
        tail = array.shape[array.ndim - trailing :]
        full = jnp.broadcast_to(array, self.shape + tail)
        rows = jnp.moveaxis(full, self.layout.rows_dim - self.atom.event_dims - trailing, 0)
        if not self.steps:
            return rows
        rows = jnp.moveaxis(rows, self.layout.nesting, 1)
        return rows.reshape(-1, *rows.shape[2:])

    def states(self, array: Array, rest: tuple[int, ...], *, trailing: int) -> Array:
        """Bring `[values..., plates..., elements..., trailing]` (one datum, one step) to (K, *rest, trailing)."""
        layout = self.layout
        rank = len(layout.discrete) + layout.nesting + self.atom.event_dims + trailing
        array = array.reshape((1,) * (rank - array.ndim) + array.shape)
        axes = [rank + layout.rows_dim - self.atom.event_dims - trailing]
        if self.steps:
            axes.append(rank - self.atom.event_dims - trailing)
        array = jnp.squeeze(array, axes)
        tail = array.shape[array.ndim - trailing :]
        array = jnp.broadcast_to(array, layout.value_sizes + rest + tail)
        return array.reshape((layout.num_states,) + rest + tail)
