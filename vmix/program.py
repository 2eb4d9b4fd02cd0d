"""Programs: any NumPyro function, or a record with `model` and `guide`, read off one abstract trace.

Nothing is computed here: the program runs once under `jax.eval_shape`, and what is kept of each site is
its name, its role, its shape, its plates and its parents. The planner builds on that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers
from numpyro.infer.inspect import get_dependencies

from vmix.checks import first_rows
from vmix.distributions.structured import StructuredDiscrete
from vmix.families import unwrap
from vmix.program_errors import (
    IN_PLACE_OF_SCAN,
    ProgramError,
    digest,
    refuse_partial_observation,
    refuse_strangers,
    running,
)

OBSERVED = "observed"
DISCRETE = "discrete local"
LATENT = "continuous local"
GLOBAL = "global"
NETWORK = "network"
FACTOR = "factor"
GLOBAL_FACTOR = "global factor"


@dataclass(frozen=True, eq=False)
class Program:
    """A generative `model(*data)` and, where a latent has an encoder, a `guide(*data)`; equal to itself alone."""

    model: Callable[..., Any]
    guide: Callable[..., Any] | None
    name: str
    source: Any = field(repr=False)


class Plate(NamedTuple):
    """One conditional-independence plate: `dim` counts from the right (-1 is the last batch dimension)."""

    name: str
    dim: int
    size: int


@dataclass(frozen=True)
class Site:
    """What the planner knows of one site; shapes are those of the data the program was read with.

    Of a network, `leaves` are the places and shapes of its weights.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    batch_shape: tuple[int, ...]
    event_dim: int
    family: str
    plates: tuple[Plate, ...]
    num_values: int | None = None
    num_steps: int | None = None
    has_encoder: bool = False
    parents: tuple[str, ...] = ()
    children: tuple[str, ...] = ()
    leaves: tuple[tuple[str, tuple[int, ...]], ...] = ()

    @property
    def is_local(self) -> bool:
        """Whether the site repeats for every datum."""
        return self.role in (OBSERVED, DISCRETE, LATENT, FACTOR)

    @property
    def is_global_term(self) -> bool:
        """Whether its log density counts once, whatever the number of rows: a global, or a factor outside the plate."""
        return self.role in (GLOBAL, GLOBAL_FACTOR)


def as_program(program: Any) -> Program:
    """Wrap a NumPyro function or a record with `model` (and `guide`).

    Args:
        program: a callable `model(*data)`, an object with a `model` method, or a `Program`.

    Returns:
        The program.

    Raises:
        TypeError: if it is none of these.
    """
    if isinstance(program, Program):
        return program
    if isinstance(program, type):
        raise TypeError(f"program is the class {program.__name__}; give an instance: {program.__name__}(...)")
    if callable(getattr(program, "model", None)):
        guide = getattr(program, "guide", None)
        return Program(program.model, guide if callable(guide) else None, type(program).__name__, program)
    if callable(program):
        return Program(program, None, getattr(program, "__name__", type(program).__name__), program)
    raise TypeError(
        f"program must be a NumPyro function or an object with a `model` method, found {type(program).__name__}"
    )


def trace_sites(
    fn: Callable[..., Any],
    args: tuple,
    *,
    key: Array,
    values: dict[str, Array] | None = None,
    params: dict[str, Any] | None = None,
    validate: bool = False,
) -> dict[str, dict]:
    """Run a program once with the given site values and network parameters; return its trace.

    Args:
        fn: the model or the guide.
        args: the data arrays, handed over in order.
        key: randomness for whatever is not in `values`.
        values: sample sites to fix, by name.
        params: network parameters, by name.
        validate: whether NumPyro checks the parameters of distributions. Once is enough, when the program is first
            read: its checks compile dozens of tiny functions, even inside `jit`.

    Returns:
        NumPyro's trace: site name to message.
    """
    seeded = handlers.substitute(handlers.seed(fn, key), substitute_fn=inside_improper)
    fixed = handlers.substitute(seeded, data={**(values or {}), **(params or {})})
    with numpyro.validation_enabled(validate):
        return handlers.trace(fixed).get_trace(*args)


def inside_improper(site: dict) -> Array | None:
    """A value of a prior that cannot be drawn from, the middle of its support; None for other sites."""
    if site["type"] != "sample" or not isinstance(unwrap(site["fn"]).base, dist.ImproperUniform):
        return None
    shape, transform = site["fn"].batch_shape + site["fn"].event_shape, dist.biject_to(site["fn"].support)
    return transform(jax.numpy.zeros(transform.inverse_shape(shape)))


def analyse(program: Program, args: tuple) -> dict[str, Site]:
    """Read the program's sites: roles, shapes, plates, parents and children.

    Args:
        program: the program.
        args: the data arrays, each with N rows.

    Returns:
        Site name to `Site`, in program order, network parameters last.

    Raises:
        ProgramError: if the program cannot be traced, or observes nothing.
    """
    found = _abstract_sites(program.model, args, program.name, again=True)
    samples = {name: site for name, site in found.items() if site["type"] == "sample"}
    if not any(site["observed"] for site in samples.values()):
        raise ProgramError(
            f"program {program.name} has no observed site; pass the data to a sample statement: "
            'numpyro.sample("x", ..., obs=x)'
        )
    refuse_partial_observation(samples)
    encoded = set()
    networks = {name: site for name, site in found.items() if site["type"] == "param"}
    if program.guide is not None:
        guided = _abstract_sites(program.guide, args, f"{program.name}'s guide")
        refuse_strangers(guided, samples, program.name)
        encoded = {name for name, site in guided.items() if site["type"] == "sample"}
        networks |= {name: site for name, site in guided.items() if site["type"] == "param"}
    plate = find_data_plate(samples, num_rows=args[0].shape[0])
    parents = _parents(program, args, samples)
    sites = {}
    for name, raw in samples.items():
        children = tuple(child for child in samples if name in parents[child])
        sites[name] = _site(name, raw, plate, name in encoded, parents[name], children)
    _check_factors(sites)
    for name, raw in networks.items():
        sites[name] = Site(name, NETWORK, raw["shape"], (), 0, "parameters", (), leaves=raw["leaves"])
    return sites


def find_data_plate(samples: dict[str, dict], *, num_rows: int) -> Plate | None:
    """The plate that repeats for every datum: it holds every observed site and, where one does, has N rows."""
    seen = [site for site in samples.values() if site["observed"]]
    # a factor may stand outside the data plate; what it weighs is then the globals
    observed = [site["plates"] for site in seen if site["family"] != "Unit"] or [site["plates"] for site in seen]
    common = [plate for plate in observed[0] if all(plate in plates for plates in observed)]
    if not common:
        return None
    sized = [plate for plate in common if plate.size == num_rows] or common
    latent = [site["plates"] for site in samples.values() if not site["observed"] and site["num_values"] is not None]
    preferred = [plate for plate in sized if any(plate in plates for plates in latent)]
    # where columns are as many as rows: rows are the first axis of what is observed
    leading = [p for p in sized if all(len(s["shape"]) - s["event_dim"] == -p.dim for s in seen if p in s["plates"])]
    return (preferred or leading or sized)[0]


def _site(name: str, raw: dict, plate: Plate | None, encoded: bool, parents: tuple, children: tuple) -> Site:
    local = plate is not None and plate in raw["plates"]
    if raw["observed"] and raw["family"] == "Unit":
        role = FACTOR if local or plate is None else GLOBAL_FACTOR
    elif raw["observed"]:
        role = OBSERVED
    elif raw["discrete"]:
        role = DISCRETE
        if not local and raw["plates"] and plate is not None:
            raise ProgramError(
                f"site {name!r} is discrete and stands in plate {raw['plates'][0].name!r}, but the observed sites "
                f"stand in plate {plate.name!r}; write both under one plate over the rows of the data"
            )
        if not local:
            raise ProgramError(
                f"site {name!r} is a discrete global; vmix sums out discrete sites inside the data plate: "
                f'move it under `numpyro.plate("data", ...)`, or fit one program per value'
            )
        if raw["num_values"] is None and raw["event_dim"]:
            raise ProgramError(
                f"site {name!r} is discrete with {raw['event_dim']} event dimension(s) ({raw['family']}); "
                "expected one value a datum: write one site for each entry, or a MarkovChain over steps"
            )
        if raw["num_values"] is None:
            raise ProgramError(
                f"site {name!r} is discrete with infinite support ({raw['family']}); only finite support can be "
                "summed out: truncate it, as a Categorical over the values that matter"
            )
    elif raw["family"] == "Delta":
        raise ProgramError(
            f"site {name!r} is Delta, which has one value and nothing to find; write it as numpyro.deterministic"
        )
    else:
        role = LATENT if local else GLOBAL
    return Site(
        name,
        role,
        raw["shape"],
        raw["batch_shape"],
        raw["event_dim"],
        raw["family"],
        raw["plates"],
        raw["num_values"],
        raw["num_steps"],
        encoded and role == LATENT,
        parents,
        children,
    )


def _check_factors(sites: dict[str, Site]) -> None:
    for site in sites.values():
        inside = [p for p in site.parents if sites[p].role == DISCRETE or sites[p].has_encoder]
        if site.role == GLOBAL_FACTOR and inside:
            raise ProgramError(
                f"factor {site.name!r} stands outside the data plate but depends on the local site {inside[0]!r}; "
                "write it inside the plate, one term for each datum"
            )


def _abstract_sites(fn: Callable[..., Any], args: tuple, name: str, *, again: bool = False) -> dict[str, dict]:
    found: dict[str, dict] = {}

    def run(key: Array, *data: Array) -> None:
        for site in trace_sites(fn, data, key=key, validate=True).values():
            if site["type"] == "mutable":
                _refuse_state(site)
            if site["type"] in ("sample", "param"):
                found[site["name"]] = _describe(site)

    with running(name, args):
        first, second = (lambda *given: run(*given) for _ in range(2))  # JAX would not run one function twice
        traced = jax.make_jaxpr(first)(jax.random.key(0), *args)
        if again and digest(jax.make_jaxpr(second)(jax.random.key(0), *args)) != digest(traced):
            raise ProgramError(
                f"{name} is not the same when it runs twice: it draws numbers of its own, as by np.random, or keeps "
                "something from run to run; draw with numpyro.sample, and let it depend on its arguments alone"
            )
    return found


def leaves_of(params: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Place and shape of each array of a network's parameters, such as ("body.layers.0.kernel", (64, 128))."""
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    return tuple(
        (jax.tree_util.keystr(path, simple=True, separator="."), tuple(jax.numpy.shape(leaf))) for path, leaf in found
    )


def _refuse_state(site: dict) -> None:
    """Refuse what a network keeps besides its weights: engines run a program many times over, and in no one order."""
    leaves = jax.tree_util.tree_flatten_with_path(site["value"])[0]
    kept = [jax.tree_util.keystr(path[1:], simple=True, separator=".") for path, _ in leaves]
    raise ProgramError(
        f"network {site['name'].removesuffix('$state')!r} keeps something besides its weights ({', '.join(kept[:4])}), "
        "as BatchNorm and Dropout do; expected nnx.Param alone: use LayerNorm, and plain arrays for constants"
    )


def _describe(site: dict) -> dict:
    if site["type"] == "param":
        leaves = leaves_of(site["value"])
        return {"type": "param", "shape": (sum(math.prod(shape) for _, shape in leaves),), "leaves": leaves}
    fn = site["fn"]
    if site["scale"] is not None:
        raise ProgramError(
            f"site {site['name']!r} is scaled (numpyro.handlers.scale, or a plate with subsample_size); vmix weighs "
            'minibatches itself: write numpyro.plate("data", x.shape[0]) and set batch_size on the engine'
        )
    _check_value(site)
    discrete = bool(getattr(fn.support, "is_discrete", False))
    if discrete and not site["is_observed"]:
        _check_first_value(site)
    return {
        "type": "sample",
        "observed": site["is_observed"],
        "shape": tuple(jax.numpy.shape(site["value"])),
        "batch_shape": tuple(fn.batch_shape),
        "event_dim": fn.event_dim,
        "family": _family_name(fn),
        "discrete": discrete,
        "num_values": _num_values(site) if discrete and not site["is_observed"] else None,
        "num_steps": fn.event_shape[0] if isinstance(unwrap(fn).base, StructuredDiscrete) else None,
        "plates": tuple(Plate(f.name, f.dim, f.size) for f in site["cond_indep_stack"]),
    }


def _check_value(site: dict) -> None:
    fn = site["fn"]
    if _family_name(fn) == "Categorical" and jax.numpy.issubdtype(site["value"].dtype, jax.numpy.floating):
        raise ProgramError(
            f"site {site['name']!r} is Categorical, but its values are {site['value'].dtype}; give whole numbers: "
            "x.astype(int)"
        )
    expected, found = tuple(fn.batch_shape + fn.event_shape), jax.numpy.shape(site["value"])
    try:
        jax.numpy.broadcast_shapes(expected, found)
    except ValueError as error:
        raise ProgramError(
            f"site {site['name']!r} has shape {expected}, but its value has shape {found}; make the plate and the "
            "parameters as large as the data"
        ) from error


def _check_first_value(site: dict) -> None:
    """Refuse a latent whose values do not begin at 0 (they are enumerated as 0..K - 1), and one inside a scan."""
    if "_scan_current_index" in site["infer"]:
        raise ProgramError(
            f"site {site['name']!r} is discrete and stands inside numpyro.contrib.control_flow.scan; {IN_PLACE_OF_SCAN}"
        )
    first = getattr(unwrap(site["fn"]).base.support, "lower_bound", 0)
    known = not isinstance(first, jax.core.Tracer)
    if not known or np.any(np.asarray(first) != 0):
        where = f"begin at {first}" if known else "begin at a number that is computed inside the program"
        raise ProgramError(
            f"site {site['name']!r} is {_family_name(site['fn'])} with values that {where}; values are counted from 0: "
            "sample it on 0..K-1 and add the first value where it is used"
        )


def _family_name(fn: dist.Distribution) -> str:
    while isinstance(fn, dist.ExpandedDistribution | dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return type(fn).__name__.removesuffix("Probs").removesuffix("Logits")


def _num_values(site: dict) -> int | None:
    fn, base = site["fn"], unwrap(site["fn"]).base
    if isinstance(base, StructuredDiscrete):
        return base.num_values
    if not fn.has_enumerate_support or fn.event_dim:
        return None
    try:
        return int(jax.eval_shape(lambda: fn.enumerate_support(expand=False)).shape[0])
    except (NotImplementedError, jax.errors.ConcretizationTypeError) as error:
        raise ProgramError(
            f"site {site['name']!r} is {_family_name(fn)} with a number of values that is computed inside the program "
            "or differs from datum to datum; write the largest down as a number, and give probability 0 to the rest"
        ) from error


def _parents(program: Program, args: tuple, samples: dict[str, dict]) -> dict[str, tuple[str, ...]]:
    # the data are concrete here, and NumPyro would warn of grey Bernoulli values; vmix.supports judges them
    with numpyro.validation_enabled(False), running(program.name, args):
        # as JAX arrays: a program may index its data with a site, which NumPy's arrays refuse
        rows = tuple(jax.numpy.asarray(first_rows(a)) for a in args)
        found = get_dependencies(program.model, rows)["prior_dependencies"]
    return {name: tuple(p for p in found.get(name, {}) if p != name and p in samples) for name in samples}
