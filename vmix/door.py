"""What `vmix.fit` checks of its arguments.

Each error names the argument, what was found, what was expected and the way out.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vmix.checks import as_data, check_place, check_same_length
from vmix.layout import Layout
from vmix.plan import Plan
from vmix.program import GLOBAL, LATENT, Program, Site, as_program
from vmix.recipe import Recipe


def check_engine(engine: Any) -> None:
    """Refuse what is not an engine.

    Raises:
        TypeError: for a class in place of an instance, or anything else.
    """
    if isinstance(engine, type):
        raise TypeError(f"engine is the class {engine.__name__}; give an instance: engine={engine.__name__}()")
    if not callable(getattr(engine, "step", None)):
        names = {"svi": "SVI", "em": "EM", "gibbs": "Gibbs"}
        way = f": engine={names[engine.lower()]}()" if isinstance(engine, str) and engine.lower() in names else ""
        raise TypeError(f"engine must be SVI(...), EM(...) or Gibbs(...) from vmix.inference, found {engine!r}{way}")


def check_arrays(data: tuple, *, missing: str | None) -> tuple[np.ndarray, ...]:
    """Check the data arrays at the door.

    Raises:
        ValueError: naming the argument, what was found and what was expected.
    """
    if not data:
        raise ValueError("vmix.fit needs at least one data array: vmix.fit(program, x, engine=EM(), seed=0)")
    if missing not in (None, "nan"):
        raise ValueError(f'missing must be None or "nan", found {missing!r}')
    names = ["x"] if len(data) == 1 else [f"data[{i}]" for i in range(len(data))]
    arrays = tuple(as_data(a, name=n, allow_missing=missing is not None) for a, n in zip(data, names, strict=True))
    check_same_length(arrays, names)
    return arrays


def prepare(program: Any, arrays: tuple) -> Any:
    """Let a record settle what it left open (sizes, prior scales) on the data, and check the data it is given.

    Raises:
        ValueError: for another number of data arrays than the program takes.
    """
    wrapped = as_program(program)
    signature = inspect.signature(wrapped.model)
    try:
        signature.bind(*arrays)
    except TypeError as error:
        asked = [name for name, one in signature.parameters.items() if one.default is inspect.Parameter.empty]
        names = ", ".join(asked or signature.parameters)
        raise ValueError(
            f"program {wrapped.name} takes the data arrays ({names}); {len(arrays)} given; expected one for each, in "
            f"this order: vmix.fit(program, {names or '...'})"
        ) from error
    check_record(wrapped, arrays)
    settle = getattr(wrapped.source, "with_data", None)
    return as_program(settle(*arrays)) if callable(settle) else wrapped


def check_record(program: Program, arrays: tuple) -> bool:
    """Let a record judge the values of its data, where it has a method for that; whether it has one.

    Raises:
        ValueError: what the record's `check_data` raises.
    """
    check = getattr(program.source, "check_data", None)
    if callable(check):
        check(*arrays)
    return callable(check)


def check_components(program: Program, layout: Layout, num_rows: int) -> None:
    """Refuse more components than data, unless the program is a truncation that may leave components empty.

    Raises:
        ValueError: naming the site.
    """
    num_rows *= layout.cells_per_datum
    if num_rows < 2 and layout.discrete:
        raise ValueError("the data have 1 row; a mixture needs two rows or more: give an array of shape (N, D)")
    if getattr(program.source, "may_be_empty", False):
        return
    for name, size in layout.discrete:
        if size > num_rows:
            raise ValueError(
                f"site {name!r} has {size} components, but there are only {num_rows} data; expected at least as many "
                "data as components: ask for fewer components"
            )


def check_labels(layout: Layout, observed: Mapping[str, Any] | None, num_rows: int) -> dict[str, Array] | None:
    """Check the known values of discrete sites.

    Raises:
        TypeError: if `observed` is not a dict.
        ValueError: for unknown sites, wrong lengths, or values outside the site's support.
    """
    if observed is None:
        return None
    if not isinstance(observed, Mapping):
        raise TypeError(f'observed must be a dict by site, as {{"c": labels}}, found {type(observed).__name__}')
    sizes = dict(layout.discrete)
    labels = {}
    for name, values in observed.items():
        if name not in sizes:
            raise ValueError(f"observed names {name!r}; the program's discrete sites are {sorted(sizes)}")
        array, shape = np.asarray(values), _cell_shape(layout, num_rows)
        if array.shape != shape or array.dtype.kind not in "iu":
            way = "one label a row: take argmax of one-hot rows" if array.ndim > len(shape) else "-1 where unknown"
            raise ValueError(
                f"observed[{name!r}] must be whole numbers of shape {shape}, found {array.dtype} {array.shape}; {way}"
            )
        if array.min() < -1 or array.max() >= sizes[name]:
            raise ValueError(
                f"observed[{name!r}] must lie in 0..{sizes[name] - 1}, or -1 where unknown; found "
                f"{array.min()}..{array.max()}"
            )
        labels[name] = jnp.asarray(array, jnp.int32)
    return labels or None


def check_messages(layout: Layout, messages: Mapping[str, Any] | None, num_rows: int) -> dict[str, Array]:
    """Check the messages about discrete sites: log potentials of their values, nats.

    Raises:
        TypeError: if `messages` is not a dict.
        ValueError: for unknown sites, wrong shapes, NaN, or a datum with no possible value.
    """
    if messages is None:
        return {}
    if not isinstance(messages, Mapping):
        raise TypeError(f'messages must be a dict by site, as {{"c": log_potentials}}, found {type(messages).__name__}')
    sizes = dict(layout.discrete)
    found = {}
    for name, values in messages.items():
        if name not in sizes:
            raise ValueError(f"messages names {name!r}; the program's discrete sites are {sorted(sizes)}")
        shape = (*_cell_shape(layout, num_rows), sizes[name])
        try:
            array = np.asarray(values, np.float32)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"messages[{name!r}] is not an array of numbers; expected log potentials, {shape}"
            ) from error
        if array.shape != shape:
            raise ValueError(
                f"messages[{name!r}] must have shape {shape}: log potentials of {sizes[name]} values; "
                f"found {array.shape}"
            )
        if np.isnan(array).any() or np.isposinf(array).any():
            raise ValueError(f"messages[{name!r}] has NaN or infinity; expected log potentials, -inf for impossible")
        if np.isneginf(array).all(-1).any():
            where = np.argwhere(np.isneginf(array).all(-1))[0].tolist()
            raise ValueError(f"messages[{name!r}] leaves no value possible at row {where}; expected one finite entry")
        found[name] = jnp.asarray(array)
    return found


def join_messages(labels: Mapping[str, Array] | None, messages: Mapping[str, Array]) -> dict[str, Array] | None:
    """Labels and messages in one dict; where a site has both, the label rules out values of the message."""
    joined = dict(labels or {})
    for name, message in messages.items():
        if name in joined:
            known = joined[name][..., None]
            message = jnp.where((known < 0) | (known == jnp.arange(message.shape[-1])), message, -jnp.inf)
        joined[name] = message
    return joined or None


def _cell_shape(layout: Layout, num_rows: int) -> tuple[int, ...]:
    return (num_rows,) if layout.num_steps is None else (num_rows, layout.num_steps)


def check_start(sites: Mapping[str, Site], init: Any) -> None:
    """Refuse starts of the wrong kind, unknown sites and wrong shapes, before anything is compiled.

    Raises:
        ValueError: naming the argument.
    """
    if not isinstance(init, Mapping):
        if not (init is None or isinstance(init, Recipe | str)):
            raise ValueError(
                f"init must be a vmix.recipe.Recipe, a name or a dict of globals, found {type(init).__name__}"
            )
        if isinstance(init, str):
            Recipe(clusters=init)
        return
    shapes = {n: s.shape for n, s in sites.items() if s.role == GLOBAL or (s.role == LATENT and not s.has_encoder)}
    unknown = sorted(set(init) - set(shapes))
    if unknown:
        raise ValueError(f"init names {unknown}; the program's globals are {list(shapes)}")
    for name, value in init.items():
        if np.shape(value) != shapes[name]:
            raise ValueError(f"init[{name!r}] has shape {np.shape(value)}; the site has shape {shapes[name]}")
        if np.asarray(value).dtype.kind not in "biuf":
            raise ValueError(f"init[{name!r}] is not an array of numbers, found {np.asarray(value).dtype}")


def check_batch(engine: Any, num_rows: int) -> None:
    """Refuse minibatches that are larger than the data.

    Raises:
        ValueError: naming the option.
    """
    size = getattr(engine, "batch_size", None)
    if size is not None and size > num_rows:
        raise ValueError(
            f"{engine.name}(batch_size=) is {size}, but there are only {num_rows} rows; expected at most as many: "
            "leave it out (None) to take all of them at every step"
        )


def check_states(plan: Plan, engine: Any) -> None:
    """Refuse more restarts or chains than this machine could hold the globals and weights of, each on its own.

    Raises:
        ValueError: naming the option, and how many would fit if they were all there is.
    """
    if not hasattr(os, "sysconf"):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    a_state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((plan.initial, plan.params)))
    if a_state * engine.num_states > memory:
        option = "num_chains" if getattr(engine, "num_chains", 1) > 1 else "restarts"
        raise ValueError(
            f"{engine.name}({option}=) is {engine.num_states:,}, each with {a_state:,} bytes of globals and weights, "
            f"but this machine has {memory / 2**30:.0f} GiB of memory; expected far fewer than {memory // a_state:,}: "
            "a handful is usual"
        )


def check_folder(folder: Any, every: Any) -> None:
    """Refuse a folder to keep the state in that cannot be one, before anything is computed.

    Raises:
        TypeError: for what is no path.
        NotADirectoryError: where a file is in the way.
        ValueError: for seconds below 0, or without a folder.
    """
    if folder is None:
        if every is not None:
            raise ValueError(f"checkpoint_every is {every!r}, but there is no folder to save in: give checkpoint= one")
        return
    check_place(folder, "checkpoint")
    if not (every is None or (isinstance(every, int | float) and every >= 0)):
        raise ValueError(f"checkpoint_every must be seconds of at least 0, found {every!r}")


def given_globals(plan: Plan, default: dict[str, Array], init: Mapping[str, Any]) -> dict[str, Array]:
    """The default values of the globals, those named in `init` replaced.

    Raises:
        ValueError: for values outside the site's support; names and shapes are `check_start`'s.
    """
    values = dict(default)
    for name, value in init.items():
        array = jnp.asarray(value, values[name].dtype)
        if not bool(jnp.all(plan.supports[name](array))):
            raise ValueError(f"init[{name!r}] lies outside the site's support, {plan.supports[name]}; give one inside")
        values[name] = array
    return values
