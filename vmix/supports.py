"""Whether observed values lie in the support of their sites: checked once, at the door, for any program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
from jax import Array
from numpyro.distributions import constraints

from vmix.checks import first_rows
from vmix.compilation import jit_once
from vmix.families import unwrap
from vmix.families_protocol import Atom
from vmix.program import Program, ProgramError, Site, trace_sites

_WORDS = (
    (constraints.nonnegative_integer, "counts 0, 1, 2, ..."),
    (constraints.positive_integer, "whole numbers 1, 2, 3, ..."),
    (constraints.boolean, "values in [0, 1]"),
    (constraints.positive, "numbers above 0"),
    (constraints.nonnegative, "numbers of at least 0"),
    (constraints.unit_interval, "values in [0, 1]"),
    (constraints.simplex, "numbers of at least 0 that sum to 1"),
)


_ANYTHING = "finite numbers"


class _Found(NamedTuple):
    """The first bad element of a site: whether there is one, where (flat), and its value."""

    bad: Array
    place: Array
    value: Array


class _Place(NamedTuple):
    """What a message needs of a site: element shape, the data plate's axis, family, and its support in words."""

    shape: tuple[int, ...]
    axis: int
    family: str
    words: str


class SupportCheck:
    """Refuse data outside the support of the observed sites of a program.

    A support that depends on a latent is not judged: whether a value lies in it is what a fit finds out. Bernoulli
    takes fractions in [0, 1]; elements under a mask are passed over, and so is NaN where it means missing.

    Args:
        program: the program.
        missing: whether NaN means missing.

    Example:
        >>> import numpyro, numpyro.distributions as dist, numpy as np
        >>> from vmix.program import as_program
        >>> def program(x):
        ...     rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
        ...     with numpyro.plate("data", x.shape[0]):
        ...         numpyro.sample("x", dist.Poisson(rate), obs=x)
        >>> SupportCheck(as_program(program), missing=False)(np.array([3, 1, -2]))
        Traceback (most recent call last):
        ...
        ValueError: site 'x' has -2 at row 2, outside the support of Poisson; expected counts 0, 1, 2, \
...: repair or drop it, or use a likelihood that can explain it
    """

    def __init__(self, program: Program, *, missing: bool) -> None:
        self._program, self._missing = program, missing
        self._places: dict[str, _Place] = {}
        self._names: tuple[str, ...] | None = None
        self._find = jit_once(lambda args: self._look(jax.random.key(0), args, self._names, partial_rows=False))
        self._find_partial = jit_once(lambda args: self._look(jax.random.key(0), args, None, partial_rows=True))

    def __call__(self, *args: Any) -> None:
        """Check the data arrays.

        Raises:
            ValueError: naming the site, the row, the value and what was expected.
        """
        args = tuple(jnp.asarray(first_rows(a)) for a in args)
        if self._names is None:
            self._names = self._judged(args)
        if self._missing:
            for name, found in self._find_partial(args).items():
                self._refuse_partial(name, found)
        if self._names:
            for name, found in self._find(args).items():
                self._refuse(name, found)

    def _judged(self, args: tuple) -> tuple[str, ...]:
        """Names of the observed sites whose support is the same whatever the latents are."""
        keys = jax.random.split(jax.random.key(0), 2)  # any keys: only whether a result depends on them counts
        names = jax.eval_shape(lambda keys: self._look(keys[0], args, None, partial_rows=False), keys)
        judged = (name for name in names if self._places[name].words != _ANYTHING)
        return tuple(name for name in judged if self._is_fixed(name, keys, args))

    def _is_fixed(self, name: str, keys: Array, args: tuple) -> bool:
        def look(key: Array) -> Array:
            return self._look(key, args, (name,), partial_rows=False)[name].bad

        try:
            jax.eval_shape(jax.vmap(look, out_axes=None), keys)
        except ValueError:  # vmap refuses to drop an axis along which the result varies
            return False
        return True

    def _look(self, key: Array, args: tuple, names: tuple[str, ...] | None, *, partial_rows: bool) -> dict[str, _Found]:
        found = {}
        # only the supports leave this function, so the compiler drops the draws and the networks
        for name, site in trace_sites(self._program.model, args, key=key, validate=True).items():
            if site["type"] != "sample" or not site["is_observed"] or (names is not None and name not in names):
                continue
            value = jnp.asarray(site["value"])
            if value.size:
                atom = unwrap(site["fn"])
                self._places[name] = _place(site, atom, num_rows=args[0].shape[0])
                judge: Callable = _partly_missing if partial_rows else _outside
                found[name] = _first(judge(atom, value, missing=self._missing), value, atom)
        return found

    def _refuse(self, name: str, found: _Found) -> None:
        if not bool(found.bad):
            return
        place = self._places[name]
        raise ValueError(
            f"site {name!r} has {_shown(found.value)} at {_where(place, found)}, outside the support of "
            f"{place.family}; expected {place.words}: repair or drop it, or use a likelihood that can explain it"
        )

    def _refuse_partial(self, name: str, found: _Found) -> None:
        if not bool(found.bad):
            return
        place = self._places[name]
        raise ValueError(
            f'site {name!r} is missing in part at {_where(place, found)}; missing="nan" takes a row of {place.family} '
            "as missing in whole or not at all: use a likelihood with independent columns (a diagonal covariance), or "
            "fill or drop those rows"
        )


def _place(site: dict, atom: Atom, *, num_rows: int) -> _Place:
    shape = _element_shape(atom)
    rows = [frame.dim for frame in site["cond_indep_stack"] if frame.size == num_rows]
    axis = len(atom.batch_shape) + rows[0] if rows else 0
    support = atom.base.support
    family = type(atom.base).__name__.removesuffix("Probs").removesuffix("Logits")
    return _Place(shape, axis, family, _words(support))


def _words(support: constraints.Constraint) -> str:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if support is constraints.real or support is constraints.real_vector:
        return _ANYTHING
    for known, words in _WORDS:
        if support is known:
            return words
    if isinstance(support, constraints.multinomial):
        return "counts 0, 1, 2, ... that sum to its total_count"
    return "whole numbers from 0 to the largest that it can take" if support.is_discrete else "values inside it"


def _element_shape(atom: Atom) -> tuple[int, ...]:
    return atom.batch_shape + atom.event_shape[: atom.event_dims]


def _outside(atom: Atom, value: Array, *, missing: bool) -> Array:
    """Whether each element is outside its support, shape `[plates..., elements...]`."""
    support, event = atom.base.support, tuple(range(-atom.base.event_dim, 0))
    real = jnp.issubdtype(value.dtype, jnp.floating)
    if support is constraints.boolean:
        inside = (value >= 0) & (value <= 1)
    else:
        with numpyro.validation_enabled(False):
            inside = support(value)
        if real and support.is_discrete:  # the constraint of counts that sum to a total does not look at this
            whole = value == jnp.floor(value)
            inside = inside & (whole.all(event) if event else whole)
    outside = ~inside
    if atom.mask is not None:
        outside = outside & atom.mask
    if missing and real:
        absent = jnp.isnan(value)
        outside = outside & ~(absent.any(event) if event else absent)
    return outside


def _partly_missing(atom: Atom, value: Array, *, missing: bool) -> Array:
    """Whether each element is a vector with NaN in some places and not in others."""
    event = tuple(range(-atom.base.event_dim, 0))
    if not event or not missing or not jnp.issubdtype(value.dtype, jnp.floating):
        return jnp.zeros(_element_shape(atom), bool)
    absent = jnp.isnan(value)
    partly = absent.any(event) & ~absent.all(event)
    return partly if atom.mask is None else partly & atom.mask


def _first(bad: Array, value: Array, atom: Atom) -> _Found:
    shape = _element_shape(atom)
    flat = jnp.broadcast_to(bad, shape).reshape(-1)
    index = flat.argmax()
    event = value.shape[value.ndim - atom.base.event_dim :]
    elements = jnp.broadcast_to(value, shape + event).reshape((-1, *event))
    return _Found(flat.any(), index, elements[index])


def _where(place: _Place, found: _Found) -> str:
    index = [int(i) for i in np.unravel_index(int(found.place), place.shape)]
    if not index:
        return "its only element"
    row = index.pop(place.axis)
    return f"row {row}" + (f", column {index[0] if len(index) == 1 else tuple(index)}" if index else "")


def _shown(value: Array) -> str:
    if value.ndim == 0:
        return f"{value.item():g}"
    return np.array2string(np.asarray(value), precision=6, separator=", ", threshold=8)


def sound_parameters(fn: Any) -> dict[str, Array]:
    """Whether each parameter of a distribution obeys its constraint, by name; under `jit` NumPyro does not judge."""
    found: dict[str, Array] = {}
    while fn is not None:
        for name, constraint in fn.arg_constraints.items():
            if name in vars(fn) and not constraints.is_dependent(constraint):
                found[name] = jnp.all(_obeys(constraint, getattr(fn, name)))
        fn = getattr(fn, "base_dist", None)
    return found


def _obeys(constraint: Any, value: Any) -> Array:
    """NumPyro's own verdict; of a simplex with room for the rounding of a sum of many float32."""
    if constraint is constraints.simplex:
        return (jnp.abs(value.sum(-1) - 1.0) < 1e-3) & (value >= 0.0).all(-1)
    return jnp.asarray(constraint(value))


def refuse_parameters(sound: Mapping[str, Mapping[str, Array]], sites: Mapping[str, Site]) -> None:
    """Refuse parameters outside of their range.

    Args:
        sound: what `sound_parameters` found, by site.
        sites: the program's sites.

    Raises:
        ProgramError: naming the site, its distribution and the parameter.
    """
    for name, verdicts in sound.items():
        bad = [parameter for parameter, verdict in verdicts.items() if not bool(verdict)]
        if bad:
            raise ProgramError(
                f"site {name!r} is {sites[name].family} with {bad[0]} out of its range; give scales, rates and "
                "concentrations above 0, probabilities that sum to 1, and positive definite matrices"
            )
