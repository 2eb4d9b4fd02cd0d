"""The plan: which update every block of a program gets, derived and verified before the first step.

`make_plan` reads the program, decides which likelihoods compress, and looks for the complete conditional of
every global site by derivatives, at random points (`vmix.conditionals`). Engines ask the plan, never the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.distributions import biject_to
from numpyro.ops.provenance import eval_provenance

from vmix.agreement import check_steps, gaps, refuse_gaps, refuse_half_masked, same_for_every_row, uneven_states
from vmix.checks import spread_rows
from vmix.compilation import jit_once
from vmix.conditionals import Conditional, candidates, recognise
from vmix.enumeration import compressible, data_frame, fill_missing
from vmix.families import Frame, unwrap
from vmix.layout import Layout, is_enumerated
from vmix.log_joint import Batch, expected_statistics, model_sites, site_density
from vmix.program import (
    DISCRETE,
    FACTOR,
    GLOBAL,
    GLOBAL_FACTOR,
    LATENT,
    NETWORK,
    OBSERVED,
    Program,
    ProgramError,
    Site,
    analyse,
    as_program,
    trace_sites,
)
from vmix.reading import enumerating, read_layout, refuse_coupled
from vmix.supports import SupportCheck, refuse_parameters, sound_parameters

PLAN_ROWS = 256


@dataclass(frozen=True, eq=False)
class Plan:
    """What every engine needs to know of a program.

    Attributes:
        program: the program.
        sites: its sites, in program order.
        layout: where the dimensions of its batch shapes stand.
        frames: the data frame of each compressed site.
        conditionals: the recognised complete conditional of each global site that has one.
        supports: the support of each global site.
        reasons: site to why it does or does not get the exact update.
        missing: whether NaN means missing.
        initial: a value of each global: the middle of its prior; off it, where the global climbs by gradients.
        params: initial network parameters.
        template: a few rows of the data, for shapes.
        num_rows: N, the number of rows of the whole data.
        columns: names of the columns of each data array; None of those that have none.
        reads_data: sites that are the same for every row, but whose parameters the program computes from the data.
    """

    program: Program
    sites: Mapping[str, Site]
    layout: Layout
    frames: Mapping[str, Frame]
    conditionals: Mapping[str, Conditional]
    supports: Mapping[str, Any]
    reasons: Mapping[str, str]
    missing: bool = False
    initial: dict[str, Array] = field(default_factory=dict, repr=False)
    params: dict[str, Any] = field(default_factory=dict, repr=False)
    template: tuple = field(default=(), repr=False)
    num_rows: int = 0
    columns: tuple[list[str] | None, ...] = field(default=(), repr=False)
    reads_data: tuple[str, ...] = ()

    def names(self, role: str) -> tuple[str, ...]:
        """Names of the sites with a role, in program order."""
        return tuple(name for name, site in self.sites.items() if site.role == role)

    @property
    def latents(self) -> tuple[str, ...]:
        """Continuous local sites with an encoder."""
        return tuple(n for n, s in self.sites.items() if s.role == LATENT and s.has_encoder)

    @property
    def globals(self) -> tuple[str, ...]:
        """Global sites, and continuous local sites without an encoder, which are updated like them."""
        return tuple(n for n, s in self.sites.items() if s.role == GLOBAL or (s.role == LATENT and not s.has_encoder))

    @property
    def global_terms(self) -> tuple[str, ...]:
        """Sites whose log density counts once: globals, and factors outside the data plate."""
        return tuple(n for n, s in self.sites.items() if s.is_global_term)

    @property
    def others(self) -> tuple[str, ...]:
        """Globals without a recognised complete conditional."""
        return tuple(name for name in self.globals if name not in self.conditionals)

    @property
    def per_datum(self) -> tuple[str, ...]:
        """Continuous local sites without an encoder: one value per row of the data."""
        return tuple(n for n, s in self.sites.items() if s.role == LATENT and not s.has_encoder)

    @property
    def needs_all_rows(self) -> str | None:
        """Why some of the rows are not a smaller problem of the same kind, in words; None where they are."""
        if self.layout.data_dim is None:
            return "it has no data plate, so its density is not a product over rows"
        if self.reads_data:
            return (
                f"site {self.reads_data[0]!r} has parameters that the program computes from the data (x.mean(), say), "
                "which some of the rows would change; compute them before, and give the program the numbers"
            )
        return None

    def touched_by(self, name: str) -> frozenset[str]:
        """The sites whose log density depends on a global: itself and its children."""
        return frozenset((name, *self.sites[name].children))


Judge = Callable[[Mapping[str, Site], Layout], None]


def make_plan(program: Any, args: tuple, *, key: Array, missing: bool = False, judge: Judge | None = None) -> Plan:
    """Derive the plan of a program for some data.

    Args:
        program: a NumPyro function, or a record with `model` and `guide`.
        args: the data arrays, each with N rows; N may be a sample of the data.
        key: randomness for the points at which conditionals are verified.
        missing: whether NaN in the data means missing.
        judge: called with the sites and the layout, once they are read and before anything is compiled; it refuses by
            an error.

    Returns:
        The plan.

    Raises:
        ProgramError: if the program cannot be planned; the message names the site and the way out.
        ValueError: if data lie outside the support of their site.
    """
    program = as_program(program)
    sites = analyse(program, args)
    layout = read_layout(sites, args)
    if judge is not None:
        judge(sites, layout)
    SupportCheck(program, missing=missing)(*args)
    keys = dict(zip(("values", "responsibilities", "verify"), jax.random.split(key, 3), strict=True))
    cut = PLAN_ROWS if _can_cut(sites, layout) else None
    rows = tuple(jnp.asarray(spread_rows(a, cut)) for a in args)
    initial, params, latents, supports = _initial_values(program, sites, rows, keys["values"], missing)
    num_rows = args[0].shape[0]
    draft = Plan(program, sites, layout, {}, {}, supports, {}, missing, initial, params, rows, num_rows)
    frames, reasons, reads_data = _compressed(draft, args, rows, latents)
    draft = replace(draft, frames=frames, reads_data=reads_data)
    values = _nearby(draft, keys["verify"]) if draft.globals else {}
    conditionals, why = _conditionals(draft, values, rows, latents, keys["responsibilities"], keys["verify"])
    # what climbs by gradients starts off the middle of its prior: by symmetry that may be a saddle
    apart = {name: values[name] for name in draft.names(GLOBAL) if name not in conditionals}
    return replace(draft, initial=initial | apart, conditionals=conditionals, reasons=reasons | why)


def template_of(described: Any) -> tuple:
    """Arrays of ones of the shapes and kinds that a file tells, [shape, dtype] each; they take no memory."""
    return tuple(np.broadcast_to(np.ones((), dtype), shape) for shape, dtype in described)


def bare_plan(
    program: Any, template: tuple, *, frames: Mapping[str, Frame], updates: Mapping[str, str], missing: bool
) -> Plan:
    """A plan without updates but those of the named sites, enough to predict with: what `vmix.load` needs."""
    program = as_program(program)
    sites = analyse(program, template)
    layout = read_layout(sites, template)
    num_rows = template[0].shape[0]
    plan = Plan(program, sites, layout, frames, {}, {}, {}, missing, {}, {}, template, num_rows)
    if not updates:
        return plan
    rows = tuple(jnp.asarray(a) for a in template)
    initial, params, latents, supports = _initial_values(program, sites, rows, jax.random.key(0), missing)
    plan = replace(plan, params=params, supports=supports)
    priors = _priors(plan, initial, Batch(rows, latents, {}, None))
    options = {name: {option.name: option for option in candidates(priors[name])} for name in updates}
    return replace(plan, conditionals={name: options[name][update] for name, update in updates.items()}, params={})


def _can_cut(sites: Mapping[str, Site], layout: Layout) -> bool:
    """Whether a few rows stand for all: not where a row has latents of its own or nothing is local."""
    own = any(site.role == LATENT and not site.has_encoder for site in sites.values())
    return layout.data_dim is not None and not own


def _initial_values(program: Program, sites: Mapping[str, Site], rows: tuple, key: Array, missing: bool) -> tuple:
    """Central values of the globals, fresh networks, draws of the latents, and the supports."""
    filled = tuple(fill_missing(a) if missing else a for a in rows)
    names = [name for name, site in sites.items() if site.role in (GLOBAL, LATENT)]
    networks = [name for name, site in sites.items() if site.role == NETWORK]
    encoded = [name for name in names if sites[name].has_encoder]
    # what has no parents has the parameters that were written down, and the data's
    roots = [
        name for name, site in sites.items() if site.role not in (NETWORK, FACTOR, GLOBAL_FACTOR) and not site.parents
    ]
    supports: dict[str, Any] = {}

    def run(key: Array, *data: Array) -> tuple[dict, dict, dict, dict]:
        guided = handlers.trace(handlers.seed(program.guide, key)).get_trace(*data) if program.guide else {}
        latents = {name: guided[name]["value"] for name in encoded}
        seeded = handlers.substitute(handlers.seed(program.model, key), substitute_fn=central)
        trace = handlers.trace(handlers.substitute(seeded, data=latents)).get_trace(*data)
        supports.update({name: trace[name]["fn"].support for name in names})
        both = {**guided, **trace}
        values = {name: both[name]["value"] for name in names if name not in encoded}
        sound = {name: sound_parameters(trace[name]["fn"]) for name in roots}
        return values, {name: both[name]["value"] for name in networks}, latents, sound

    initial, params, latents, sound = jit_once(run)(key, *filled)
    refuse_parameters(sound, sites)
    for name, support in supports.items():
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(support)):
            raise ProgramError(
                f"the support of site {name!r} is computed inside the program; sample it on a fixed support and "
                "transform it with numpyro.deterministic"
            )
    return initial, params, latents, supports


def central(site: dict) -> Array | None:
    """The prior mean of a latent where it is finite and inside the support, else the middle of the support."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].support.is_discrete:
        return None
    fn = site["fn"]
    shape = fn.batch_shape + fn.event_shape
    middle = biject_to(fn.support)(jnp.zeros(biject_to(fn.support).inverse_shape(shape)))
    try:
        mean = jnp.broadcast_to(fn.mean, shape)
    except NotImplementedError:
        return middle
    usable = jnp.isfinite(mean).all() & jnp.all(fn.support(mean))
    return jnp.where(usable, mean, middle)


def _compressed(
    plan: Plan, args: tuple, rows: tuple, latents: dict
) -> tuple[dict[str, Frame], dict[str, str], tuple[str, ...]]:
    """Which local sites compress, with the frame of their data, why the others do not, and `Plan.reads_data`."""
    frames: dict[str, Frame] = {}
    found: dict[str, tuple] = {}

    def look(globals_: dict, latents: dict, params: dict, data: tuple) -> tuple[dict, dict]:
        sites = model_sites(plan, globals_, latents, params, data)
        refuse_half_masked(plan, sites)
        for name, site in sites.items():
            info = plan.sites[name]
            if info.is_global_term or info.role in (DISCRETE, NETWORK) or name in plan.per_datum:
                continue
            enumerated = is_enumerated(plan.layout, site["fn"].batch_shape)
            if not enumerated:
                refuse_coupled(info, plan.layout)
            if not enumerated and not _has_global_parent(plan, info):
                found[name] = (None, "does not depend on a global")
                continue
            check_steps(plan, info, site)
            masked = isinstance(unwrap(site["fn"]).mask, jax.Array)
            fixed_mask = masked and _has_fixed_mask(plan, name, rows, latents)
            found[name] = compressible(plan.layout, site, fixed_mask=fixed_mask)
        fixed = {name: _as_data_only(plan, name, sites[name]) for name in found}
        return fixed, {name: same_for_every_row(plan, name, site) for name, site in sites.items()}

    with enumerating(plan.program.name, plan.layout):
        values = {"globals_": plan.initial, "latents": latents, "params": plan.params}
        fixed, shared = eval_provenance(look, **values, data=rows)
    for name, of in fixed.items():
        if of & set(values):
            found[name] = (None, "what it observes, or its mask, is computed from a latent or a network")
    chosen = [name for name, (family, _) in found.items() if family is not None]
    reasons = {name: why for name, (_, why) in found.items()}
    if chosen:
        frames = _frames(plan, args, chosen)
    of_rows = {*found, *plan.per_datum} - {*chosen}
    return frames, reasons, tuple(name for name, of in shared.items() if "data" in of and name not in of_rows)


def _as_data_only(plan: Plan, name: str, site: dict) -> Array:
    """What compression takes for data: a number that depends on what a site observes and on its mask."""
    mask = unwrap(site["fn"]).mask
    parts = [site["value"]] if plan.sites[name].role == OBSERVED else []
    parts += [mask] if isinstance(mask, jax.Array) else []
    return sum((part.sum() for part in parts), jnp.zeros(()))


def _has_fixed_mask(plan: Plan, name: str, rows: tuple, latents: dict) -> bool:
    """Whether a site's mask does not depend on a discrete site."""

    def mask(shift: Array) -> Array:
        moved = {site: value + shift for site, value in plan.layout.enumerated().items()}
        values = {**plan.initial, **latents, **moved}
        # any key: every site is fixed
        trace = trace_sites(plan.program.model, rows, key=jax.random.key(0), values=values, params=dict(plan.params))
        found = unwrap(trace[name]["fn"]).mask
        return jnp.ones(()) if found is None else jnp.asarray(found)

    try:
        jax.eval_shape(jax.vmap(mask, out_axes=None), jnp.arange(2))
    except ValueError:  # vmap refuses to drop an axis along which the result varies
        return False
    return True


def _has_global_parent(plan: Plan, site: Site) -> bool:
    return any(parent in plan.globals for parent in site.parents)


def _frames(plan: Plan, args: tuple, chosen: list[str]) -> dict[str, Frame]:
    """Frames from (up to 100,000 rows of) the data; a latent's frame is the identity, its scale is the encoder's."""
    some = tuple(jnp.asarray(np.asarray(a[:100_000])) for a in args)
    latents = {name: jnp.zeros((some[0].shape[0], *plan.sites[name].shape[1:])) for name in plan.latents}

    @jit_once
    def compute(globals_: dict, params: dict, data: tuple) -> dict[str, Frame]:
        sites = model_sites(plan, globals_, latents, params, data)
        return {name: data_frame(plan.layout, sites[name]) for name in chosen if name not in plan.latents}

    frames = compute(plan.initial, plan.params, some)
    return frames | {name: Frame(jnp.zeros(()), jnp.ones(())) for name in chosen if name in plan.latents}


def _conditionals(plan: Plan, values: dict, rows: tuple, latents: dict, r_key: Array, key: Array) -> tuple[dict, dict]:
    """Recognise the complete conditional of every global, with random responsibilities on some rows."""
    num_rows = rows[0].shape[0]
    # NumPy's generator: compiling JAX's Dirichlet would take longer than the rest of the plan
    generator = np.random.default_rng(np.asarray(jax.random.key_data(r_key)))
    num_cells = num_rows * plan.layout.cells_per_datum
    shares = generator.dirichlet(np.full(plan.layout.num_states, 0.5), num_cells)
    log_weights = np.log(shares + 1e-12).astype(jnp.result_type(float))
    batch = Batch(rows, latents, {}, None)
    conditionals: dict[str, Conditional] = {}
    reasons: dict[str, str] = {}
    if not (plan.globals or plan.layout.discrete):
        return conditionals, reasons
    some, states = uneven_states(plan, batch)
    # one function: both need the enumerated program, and compiling is what takes time
    look = jit_once(lambda g, p, b, w, c, s: (expected_statistics(plan, g, p, b, w), gaps(plan, g, p, c, s)))
    expected, found = look(values, plan.params, batch, log_weights, some, states)
    refuse_gaps(plan, found)
    priors = _priors(plan, values, batch)
    for i, name in enumerate(plan.globals):
        density = site_density(plan, name, values, plan.params, batch, expected)
        result = recognise(priors[name], density, values[name], jax.random.fold_in(key, i))
        reasons[name] = result.reason
        if result.conditional is not None:
            conditionals[name] = result.conditional
    return conditionals, reasons


def _nearby(plan: Plan, key: Array) -> dict[str, Array]:
    """A generic point: the initial values, moved a little in unconstrained space so that no two are equal."""

    def move(values: dict[str, Array], key: Array) -> dict[str, Array]:
        key, moved = jax.random.fold_in(key, len(plan.sites)), {}
        for i, (name, value) in enumerate(values.items()):
            transform = biject_to(plan.supports[name])
            free = transform.inv(value)
            noise = jax.random.normal(jax.random.fold_in(key, i), free.shape)
            moved[name] = transform(free + 0.3 * noise)
        return moved

    return jit_once(move)(plan.initial, key)


def _priors(plan: Plan, values: dict, batch: Batch) -> dict[str, Any]:
    """The distribution of each global: its family and shape (its arrays are abstract).

    The discrete sites have one value each here: where all are enumerated, a latent of a datum that hangs on one has a
    shape that is not its own.
    """
    found: dict[str, Any] = {}
    num_rows, steps = batch.args[0].shape[0], plan.layout.num_steps
    cells = (num_rows,) if steps is None else (num_rows, steps)

    def look(values: dict) -> None:
        fixed = plan.layout.values_of(jnp.zeros(cells, int)) if plan.layout.discrete else {}
        both = {**values, **batch.latents, **fixed}
        # any key: every site is fixed
        sites = trace_sites(plan.program.model, batch.args, key=jax.random.key(0), values=both, params=plan.params)
        found.update({name: sites[name]["fn"] for name in plan.globals})

    jax.eval_shape(look, values)
    return found
