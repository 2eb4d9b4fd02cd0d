"""What a fit says of sequences: the most probable path, smoothing, filtering and forecasts.

For any program whose discrete site is structured, as a `MarkovChain` is. The log evidence of sequences, held out or
not, is `fit.score_samples(x)`, the total of each sequence in nats, shape (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro import handlers

from vmix.checks import check_fit, check_positive_int, check_seed
from vmix.distributions import MarkovChain, StructuredDiscrete
from vmix.enumeration import has_steps
from vmix.families import unwrap
from vmix.log_joint import Batch, batch_terms, guide_factors, model_sites, state_log_weights
from vmix.plan import Plan
from vmix.predicting import CHUNK_ROWS, Predictor
from vmix.program import OBSERVED, ProgramError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from vmix.results import Fit


class Forecast(NamedTuple):
    """What follows the last step of each sequence.

    Attributes:
        probabilities: p(c_{T+h} = k | x_1..T) at [n, h - 1, k], shape (N, steps, K).
        mean: E[x_{T+h} | x_1..T] by observed site, shape (N, steps, ...); of a categorical site the probabilities of
            its values, (N, steps, ..., V). Sites behind a latent are left out: their mean has no closed form.
        draw: one future of each observed site, drawn jointly over the steps, (N, steps, ...); None without a seed.
    """

    probabilities: np.ndarray
    mean: dict[str, np.ndarray]
    draw: dict[str, np.ndarray] | None


def smooth(fit: Fit, *data: ArrayLike) -> np.ndarray:
    """p(c_t = k | x_1..T) at [n, t, k], shape (N, T, K): `fit.predict_proba`; zeros at absent steps.

    Raises:
        ProgramError: if the program has no structured discrete site.
    """
    _check_structured(fit)
    return fit.predict_proba(*data)


def filtered(fit: Fit, *data: ArrayLike) -> np.ndarray:
    """p(c_t = k | x_1..t): what is known of a state when its step has just been seen.

    Args:
        fit: of a program with a structured discrete site.
        *data: as for `fit.predict`; the number of steps may differ from the fit's.

    Returns:
        Probabilities at [n, t, k], shape (N, T, K), averaged over draws for Gibbs; zeros at absent steps.

    Raises:
        ProgramError: if the program has no structured discrete site, or its prior cannot be filtered.
    """
    return _by_rows(fit, _filter, data, None)


def most_probable_path(fit: Fit, *data: ArrayLike) -> np.ndarray:
    """The most probable path of states as a whole, given all the steps (Viterbi).

    `fit.predict` takes the most probable state of each step alone, which may join states that never follow each other.
    Paths of several draws have no mean, so for Gibbs the path is that at the posterior mean of the globals.

    Args:
        fit: of a program with a structured discrete site.
        *data: as for `fit.predict`.

    Returns:
        States, shape (N, T), int; 0 at absent steps, -1 in a sequence that no path can explain.

    Raises:
        ProgramError: if the program has no structured discrete site.

    Example:
        >>> import numpy as np, vmix
        >>> from vmix.inference import EM
        >>> from vmix.models import HMM
        >>> x = np.repeat([[0.0, 8.0, 0.0], [8.0, 0.0, 8.0]], 5, axis=1)[..., None]
        >>> x += np.random.default_rng(0).normal(size=x.shape)
        >>> fit = vmix.fit(HMM(num_components=2), x, engine=EM(), seed=0)
        >>> path = vmix.sequences.most_probable_path(fit, x)
        >>> bool((path == (x[..., 0] > 4)).all() or (path == (x[..., 0] < 4)).all())
        True
    """
    return _by_rows(fit, _viterbi, data, None)


def forecast(fit: Fit, *data: ArrayLike, steps: int, seed: int | None = None) -> Forecast:
    """What follows the last existing step of each sequence.

    Args:
        fit: of a program with a structured discrete site.
        *data: as for `fit.predict`.
        steps: how many steps ahead.
        seed: to draw one future as well; probabilities and means are exact and need none.

    Returns:
        The forecast; for Gibbs probabilities and means are averaged over draws, and `draw` comes from one of them.

    Raises:
        ProgramError: if the program has no structured discrete site, its prior cannot be forecast, or the emission
            depends on inputs that are not known beyond the last step.
    """
    check_positive_int(steps, "steps")
    _check_structured(fit)
    _check_stationary(fit._predictor)
    probabilities, mean = _by_rows(fit, lambda plan: _ahead(plan, steps), data, None)
    draw = None
    if seed is not None:
        check_seed(seed)
        draw = _by_rows(fit, lambda plan: _future(fit._predictor, plan, steps), data, jax.random.key(seed))
    return Forecast(probabilities, mean, draw)


def _by_rows(fit: Fit, make: Callable[[Plan], Callable], data: tuple, key: Array | None) -> Any:
    """Apply a jitted function of (globals, params, rows), and of a key if given, chunk by chunk and join the rows."""
    _check_structured(fit)
    predictor = fit._predictor
    arrays = predictor._check(data)
    twin = predictor._of_length(arrays)
    function, parts = make(twin.plan), []
    size = twin.plan.layout.rows_for(CHUNK_ROWS)
    for first in range(0, arrays[0].shape[0], size):
        rows = tuple(jnp.asarray(a[first : first + size]) for a in arrays)
        more = () if key is None else (jax.random.fold_in(key, first),)
        parts.append(jax.device_get(function(twin.globals, twin.params, rows, *more)))
    return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)


def _check_structured(fit: Fit) -> None:
    check_fit(fit)
    plan = fit._plan
    if plan.layout.num_steps is None:
        raise ProgramError(
            f"program {plan.program.name} has no structured discrete site (a hidden MarkovChain), so its data are not "
            "sequences of states; for components of single data use fit.predict(x) and fit.predict_proba(x)"
        )


def _check_stationary(predictor: Predictor) -> None:
    """Refuse emissions whose parameters differ per datum or step: beyond the last step they are not known."""
    plan = predictor.plan

    def look(globals_: Mapping, params: Mapping, rows: tuple) -> None:
        for name, site in _emissions(plan, globals_, params, rows).items():
            atom = unwrap(site["fn"])
            shape = atom.base.batch_shape
            differ = [what for axis, what in _axes(plan, atom).items() if len(shape) >= -axis and shape[axis] != 1]
            if differ:
                raise ProgramError(
                    f"the parameters of site {name!r} differ per {differ[0]}, so they are not known beyond the last "
                    "step; expected an emission that depends on the state alone: append the steps to come to the data, "
                    'with NaN where x is not known, in a fit with missing="nan", and use fit.reconstruct'
                )

    values = {name: value[0] for name, value in predictor.globals.items()}
    jax.eval_shape(look, values, predictor.params, tuple(jnp.asarray(a) for a in plan.template))


def _axes(plan: Plan, atom: Any) -> dict[int, str]:
    """Where data and steps stand in the batch of an emission's base distribution."""
    return {plan.layout.data_dim - atom.event_dims: "datum", -atom.event_dims: "step"}


def _emissions(plan: Plan, globals_: Mapping, params: Mapping, rows: tuple) -> dict[str, dict]:
    """Observed sites with steps, those behind a latent aside, at all values of the states."""
    _, factors = guide_factors(plan, params, rows, key=jax.random.key(0))
    sites = model_sites(plan, globals_, {name: factor.mean for name, factor in factors.items()}, params, rows)
    names = [name for name in plan.names(OBSERVED) if not set(plan.latents) & set(plan.sites[name].parents)]
    return {name: sites[name] for name in names if has_steps(plan.layout, sites[name])}


def _evidence(plan: Plan, globals_: Mapping, params: Mapping, rows: tuple) -> tuple[Any, Array]:
    """The structured prior, and the log potentials of its states that the data make, shape (N, T, K)."""
    # the key is read only where an encoder's moments do not compress; fixed, so that answers repeat
    latents, factors = guide_factors(plan, params, rows, key=jax.random.key(0))
    batch = Batch(rows, latents, factors)
    terms, _ = batch_terms(plan, globals_, params, batch)
    return terms.prior, plan.layout.to_rows(state_log_weights(plan, terms, batch))


def _capable(plan: Plan, prior: StructuredDiscrete, method: str) -> Callable:
    if not hasattr(prior, method):
        raise ProgramError(
            f"site {plan.layout.discrete[0][0]!r} ({type(prior).__name__}) has no method {method!r}, which this needs; "
            "a MarkovChain has it, smooth and most_probable_path need none"
        )
    return getattr(prior, method)


def _over_draws(one: Callable[[dict], Any], globals_: dict) -> Any:
    """The mean of a function over the draws of the globals."""
    if not globals_:
        return one({})
    return jax.tree.map(lambda a: a.mean(0), jax.lax.map(one, globals_))


@lru_cache(maxsize=16)
def _filter(plan: Plan) -> Callable:
    @jax.jit
    def compute(globals_: dict, params: dict, rows: tuple) -> Array:
        def one(values: dict) -> Array:
            prior, unary = _evidence(plan, values, params, rows)
            return _capable(plan, prior, "filtered")(unary)

        return _over_draws(one, globals_)

    return compute


@lru_cache(maxsize=16)
def _viterbi(plan: Plan) -> Callable:
    @jax.jit
    def compute(globals_: dict, params: dict, rows: tuple) -> Array:
        # supports of globals are convex, so the mean of draws lies in them
        prior, unary = _evidence(plan, jax.tree.map(lambda a: a.mean(0), globals_), params, rows)
        return prior.mode(unary)

    return compute


@lru_cache(maxsize=16)
def _ahead(plan: Plan, steps: int) -> Callable:
    @jax.jit
    def compute(globals_: dict, params: dict, rows: tuple) -> tuple[Array, dict[str, Array]]:
        def one(values: dict) -> tuple[Array, dict[str, Array]]:
            prior, unary = _evidence(plan, values, params, rows)
            probabilities = _capable(plan, prior, "forecast")(unary, steps)
            emissions = _emissions(plan, values, params, rows)
            means = {name: _state_means(plan, site) for name, site in emissions.items()}
            return probabilities, {n: jnp.einsum("nhk,k...->nh...", probabilities, m) for n, m in means.items()}

        return _over_draws(one, globals_)

    return compute


def _state_means(plan: Plan, site: dict) -> Array:
    """E[x_t | c_t = k] of a site whose parameters depend on the state alone, shape (K, ...)."""
    atom = unwrap(site["fn"])
    is_categorical = isinstance(atom.base, dist.CategoricalProbs | dist.CategoricalLogits)
    mean = atom.base.probs if is_categorical else atom.base.mean
    trailing = atom.base.event_dim + is_categorical
    rank = 1 + plan.layout.nesting + atom.event_dims
    tail = mean.shape[mean.ndim - trailing :]
    mean = mean.reshape((1,) * (rank + trailing - mean.ndim) + mean.shape)
    mean = jnp.squeeze(mean, [rank + axis for axis in _axes(plan, atom)])
    elements = site["fn"].event_shape[1 : atom.event_dims]
    kept = mean.shape[1 : mean.ndim - trailing - len(elements)]
    return jnp.broadcast_to(mean, (plan.layout.num_states, *kept, *elements, *tail))


@lru_cache(maxsize=16)
def _future(predictor: Predictor, plan: Plan, steps: int) -> Callable:
    """Draw states, then what is observed of them, from one draw of the globals."""
    chain = plan.layout.discrete[0][0]

    @jax.jit
    def compute(globals_: dict, params: dict, rows: tuple, key: Array) -> dict[str, Array]:
        pick_key, path_key, draw_key = jax.random.split(key, 3)
        count = next(iter(globals_.values())).shape[0] if globals_ else 1
        pick = jax.random.randint(pick_key, (), 0, count)
        values = {name: value[pick] for name, value in globals_.items()}
        prior, unary = _evidence(plan, values, params, rows)
        first = _capable(plan, prior, "forecast")(unary, 1)[:, 0]
        path = MarkovChain(first, prior.transition_probs, steps, validate_args=False).sample(path_key)
        # the first step of a sequence always exists, so a mask made of it marks every step as there
        ahead = tuple(jnp.repeat(a[:, :1], steps, axis=1) if a.ndim > 1 else a for a in rows)
        free = handlers.uncondition(handlers.seed(plan.program.model, draw_key))
        trace = handlers.trace(handlers.substitute(free, data={**values, **params, chain: path})).get_trace(*ahead)
        twin = predictor._of_length(ahead).plan.layout
        return {name: trace[name]["value"] for name in plan.names(OBSERVED) if has_steps(twin, trace[name])}

    return compute
