"""Predictions of a fitted program: responsibilities, codes, reconstructions, samples, scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpyro import handlers
from numpyro.ops.provenance import eval_provenance

from vmix.checks import as_data, check_index, check_positive_int, check_same_length, check_seed, check_width
from vmix.columns import check_names
from vmix.door import check_record
from vmix.enumeration import has_steps
from vmix.free_energy import Evaluation, evaluate
from vmix.lapack import one_blas_thread
from vmix.log_joint import batch_terms, gather, guide_factors, model_sites
from vmix.mean_field import MEAN_FIELD, MODE, Factors, factorise
from vmix.plan import Plan, central
from vmix.program import OBSERVED, ProgramError
from vmix.supports import SupportCheck
from vmix.updates import maximise

CHUNK_ROWS = 4096
FOLD_SWEEPS = 50
LATENT_DRAWS = 32


class Predictor:
    """A plan with fitted values, ready for new data.

    Args:
        plan: the plan.
        globals_: values of the globals, one or several draws along the first axis.
        params: network parameters.
        per_datum: what latents of a datum without an encoder get on new data: their "mode", or a "mean-field" factor.
    """

    def __init__(
        self, plan: Plan, globals_: dict[str, Array], params: dict[str, Any], *, per_datum: str = MODE
    ) -> None:
        self.plan, self.globals, self.params, self.treatment = plan, globals_, params, per_datum
        self._twins: dict[int, Predictor] = {}

    @cached_property
    def num_components(self) -> int | None:
        """Joint values of the discrete sites, or of the hidden variables of an augmented site; None without any."""
        if self.plan.layout.discrete:
            return self.plan.layout.num_states
        one = {name: value[0] for name, value in self.globals.items()}
        shapes = jax.eval_shape(lambda: self._augmented(one, self.params, self.plan.template))
        sizes = [jax.eval_shape(lambda fn: fn.proportions(), fn).shape[-1] for fn, _ in shapes.values()]
        return sizes[0] if sizes else None

    def responsibilities(self, *data: Any) -> np.ndarray:
        """q(c = k), shape (N, K), or (N, T, K) where the discrete site has steps; a datum's proportions without one."""
        self._check_components()
        return self._rows("_responsibilities", data)

    def shares(self, *data: Any) -> np.ndarray:
        """Expected share of these data in each component, at each draw of the globals, shape (draws, K)."""
        self._check_components()
        return self._rows("_draw_shares", data).mean(0)

    def _check_components(self) -> None:
        if self.num_components is None:
            raise ProgramError(
                f"program {self.plan.program.name} has no discrete site, so there are no components to predict"
            )

    def codes(self, *data: Any) -> np.ndarray:
        """Encoder means of the latents that the data hang on, flattened and joined, shape (N, latent_dim)."""
        if not self.plan.latents:
            raise ProgramError(f"program {self.plan.program.name} has no latent with an encoder; use predict_proba(x)")
        return self._rows("_codes", data)

    def reconstructions(self, *data: Any) -> Any:
        """Mean of the observed sites, shape (N, D); a dict where there are several."""
        return _single(self._rows("_reconstructions", data))

    def per_datum(self, *data: Any) -> np.ndarray:
        """The elbo or log evidence of each datum in nats, the average density over draws, shape (N,)."""
        return self._rows("_per_datum", data)

    def sample(
        self, num_samples: int, *, component: int | None, seed: int, mean: bool, given: tuple[Any, ...] = ()
    ) -> Any:
        """New data; see `Fit.sample`."""
        check_positive_int(num_samples, "num_samples")
        check_seed(seed)
        discrete = self.plan.layout.discrete
        if component is not None and not discrete:
            raise ValueError(
                f"component is {component!r}, but program {self.plan.program.name} has no components; leave it out"
            )
        if component is not None:
            component = check_index(component, self.plan.layout.num_states, "component")
        drawing, rows = self, tuple(jnp.asarray(a)[jnp.zeros(num_samples, int)] for a in self.plan.template)
        if given:
            arrays = self._check(given)
            if len(arrays[0]) != num_samples:
                raise ValueError(f"given has {len(arrays[0])} rows; expected one for each of {num_samples} samples")
            drawing, rows = self._of_length(arrays), tuple(jnp.asarray(a) for a in arrays)
        elif self._covariates:
            names = " and ".join(f"data[{place}]" for place in self._covariates)
            raise ValueError(
                f"draws of program {self.plan.program.name} hang on {names}, which it does not model: give all data "
                f"arrays, {num_samples} row(s) of each, as given=(...)"
            )
        fixed = {}
        if component is not None:
            layout = drawing.plan.layout
            cells = (num_samples,) if layout.num_steps is None else (num_samples, layout.num_steps)
            fixed = layout.values_of(jnp.full(cells, component))
        drawn = drawing._draw(self.globals, self.params, rows, fixed, jax.random.key(seed), mean=mean)
        return _single(jax.tree.map(np.asarray, drawn))

    @one_blas_thread()
    def _rows(self, name: str, data: tuple) -> Any:
        """Apply one of the jitted functions chunk by chunk and join the rows."""
        arrays = self._check(data)
        function = getattr(self._of_length(arrays), name)
        parts = []
        size = len(arrays[0]) if self.plan.needs_all_rows else self.plan.layout.rows_for(CHUNK_ROWS)
        for first in range(0, arrays[0].shape[0], size):
            rows = tuple(jnp.asarray(a[first : first + size]) for a in arrays)
            parts.append(jax.device_get(function(self.globals, self.params, rows)))
        return jax.tree.map(lambda *pieces: np.concatenate(pieces), *parts)

    def _check(self, data: tuple) -> tuple[np.ndarray, ...]:
        template = self.plan.template
        if len(data) != len(template):
            raise ValueError(
                f"{len(data)} data array(s) given; the program was fitted to {len(template)}: give as many, in order"
            )
        stuck = [name for name in self.plan.per_datum if name not in self.plan.conditionals]
        if stuck:
            raise ProgramError(
                f"site {stuck[0]!r} is a latent of each training datum without an encoder or a closed-form update, so "
                "new data cannot be predicted; write a guide with an encoder"
            )
        names = ["x"] if len(data) == 1 else [f"data[{i}]" for i in range(len(data))]
        arrays, columns = [], self.plan.columns or (None,) * len(template)
        for array, name, like, fitted in zip(data, names, template, columns, strict=True):
            check_names(array, fitted, name)
            found = as_data(array, name=name, allow_missing=self.plan.missing)
            if found.ndim != like.ndim:
                raise ValueError(
                    f"{name} has {found.ndim} dimension(s), shape {found.shape}; this model was fitted to {like.ndim}: "
                    "one row is x[None]"
                )
            self._check_shape(found, like, name)
            if found.dtype.kind == "f" and like.dtype.kind in "iu" and (found != np.floor(found)).any():
                raise ValueError(
                    f"{name} has fractions, but this model was fitted to whole numbers; round it, or fit real numbers"
                )
            arrays.append(found.astype(like.dtype) if found.dtype != like.dtype else found)
        check_same_length(arrays, names)
        if not check_record(self.plan.program, tuple(arrays)):
            self._check_support(*arrays)
        return tuple(arrays)

    @cached_property
    def _check_support(self) -> SupportCheck:
        return SupportCheck(self.plan.program, missing=self.plan.missing)

    def _check_shape(self, found: np.ndarray, like: np.ndarray, name: str) -> None:
        """Compare with the shape the program was fitted to; the number of steps may be another."""
        has_steps = self.plan.layout.num_steps is not None and like.ndim > 1
        if like.ndim == 2 and not has_steps:
            check_width(found, like.shape[1], name)
        expected = (*found.shape[1:2], *like.shape[2:]) if has_steps else like.shape[1:]
        if found.shape[1:] != expected:
            wanted = ", ".join(["N", *(["T"] if has_steps else []), *(str(n) for n in like.shape[1 + has_steps :])])
            raise ValueError(f"{name} has shape {found.shape}; this model was fitted to ({wanted})")

    def _of_length(self, arrays: tuple) -> Predictor:
        """This predictor, or its twin for sequences of another number of steps."""
        layout = self.plan.layout
        if layout.num_steps is None or arrays[0].shape[1] == layout.num_steps:
            return self
        steps = arrays[0].shape[1]
        if steps not in self._twins:
            plan = replace(self.plan, layout=replace(layout, num_steps=steps))
            self._twins[steps] = Predictor(plan, self.globals, self.params, per_datum=self.treatment)
        return self._twins[steps]

    def word_probs(self, *data: Any) -> dict[str, np.ndarray]:
        """Probability of each word in each row, by augmented site, shape (N, V)."""
        return self._rows("_word_probs", data)

    @cached_property
    def _word_probs(self) -> Callable:
        def compute(globals_: dict, params: dict, rows: tuple) -> dict[str, Array]:
            def one(values: dict) -> dict[str, Array]:
                augmented = self._augmented(values, params, rows)
                return {name: fn.word_probs() for name, (fn, _) in augmented.items()}

            return jax.tree.map(lambda a: a.mean(0), self._over_draws(one, globals_))

        return jax.jit(compute)

    @cached_property
    def _responsibilities(self) -> Callable:
        return jax.jit(lambda *given: self._each_responsibilities(*given).mean(0))

    @cached_property
    def _draw_shares(self) -> Callable:
        def compute(*given: Any) -> Array:
            found = self._each_responsibilities(*given)
            steps = tuple(range(2, found.ndim - 1))
            return jnp.moveaxis(found.mean(steps), 0, 1)

        return jax.jit(compute)

    def _each_responsibilities(self, globals_: dict, params: dict, rows: tuple) -> Array:
        """q(c = k) at each draw of the globals, shape (draws, N, K) or (draws, N, T, K)."""

        def one(values: dict) -> Array:
            if not self.plan.layout.discrete:
                return next(fn.proportions() for fn, _ in self._augmented(values, params, rows).values())

            def shares(key: Array) -> Array:
                _, result = self._folded(values, params, rows, key=key)
                return self.plan.layout.to_rows(self._shares(result.assigned.shares, rows))

            if set(self.plan.latents) <= set(self.plan.frames):
                return shares(jax.random.key(0))
            # these latents enter at a draw, and one draw is not their expectation
            return jax.lax.map(shares, jax.random.split(jax.random.key(0), LATENT_DRAWS)).mean(0)

        return self._over_draws(one, globals_)

    @cached_property
    def _per_datum(self) -> Callable:
        def compute(globals_: dict, params: dict, rows: tuple) -> Array:
            def one(values: dict) -> Array:
                _, result = self._folded(values, params, rows, key=jax.random.key(0))
                return jnp.broadcast_to(result.per_datum, (rows[0].shape[0],))

            whole = rows[0].shape[0] if self.plan.layout.data_dim is None else 1  # then rows are shares of one density
            values = whole * self._over_draws(one, globals_)
            return (jax.scipy.special.logsumexp(values, axis=0) - jnp.log(values.shape[0])) / whole

        return jax.jit(compute)

    @cached_property
    def _codes(self) -> Callable:
        observed = set(self.plan.names(OBSERVED))
        latents = self.plan.latents
        names = [name for name in latents if observed & set(self.plan.sites[name].children)] or latents

        def compute(_: dict, params: dict, rows: tuple) -> Array:
            _, factors = guide_factors(self.plan, params, rows, key=jax.random.key(0))
            means = [factors[name].mean.reshape(rows[0].shape[0], -1) for name in names]
            return jnp.concatenate(means, 1)

        return jax.jit(compute)

    @cached_property
    def _reconstructions(self) -> Callable:
        names = self.plan.names(OBSERVED)

        def compute(globals_: dict, params: dict, rows: tuple) -> dict[str, Array]:
            def one(values: dict) -> dict[str, Array]:
                values, result = self._folded(values, params, rows, key=jax.random.key(0))
                _, factors = guide_factors(self.plan, params, rows, key=jax.random.key(0))
                latents = {name: factor.mean for name, factor in factors.items()}
                sites = model_sites(self.plan, values, latents, params, rows)
                weights = self._shares(result.assigned.shares, rows)
                return {name: self._mean_given(sites[name], weights) for name in names}

            draws = self._over_draws(one, globals_)
            return jax.tree.map(lambda a: a.mean(0), draws)

        return jax.jit(compute)

    def _augmented(self, values: dict, params: dict, rows: tuple) -> dict:
        """The observed sites with hidden variables of their own, at the folded latents, and their values."""
        values, result = self._folded(values, params, rows, key=jax.random.key(0))
        return batch_terms(self.plan, values, params, result.batch)[0].augmented

    def _folded(self, values: dict, params: dict, rows: tuple, *, key: Array) -> tuple[dict, Evaluation]:
        """Find the latents of these rows that have no encoder, given the rest.

        Returns:
            The globals with these latents at their mode or the mean of their factor, and the free energy of the rows;
            the key is fixed by those who ask: the score of a datum is the same number every time.
        """
        shared = {name: value for name, value in values.items() if name not in self.plan.per_datum}
        look = partial(evaluate, self.plan, params=params, args=rows, key=key)
        if not self.plan.per_datum:
            return values, look(values)

        def sweep(own: dict) -> tuple[Factors, Evaluation]:
            result = look({**shared, **own})
            return self._update({**shared, **own}, params, result)

        start = self._central(shared, params, rows)
        points = jax.lax.fori_loop(0, FOLD_SWEEPS, lambda _, own: sweep(own)[0].points, start)
        if self.treatment == MODE:
            return {**shared, **points}, look({**shared, **points})
        factors, result = sweep(points)
        return {**shared, **factors.means}, result

    def _update(self, values: dict, params: dict, result: Evaluation) -> tuple[Factors, Evaluation]:
        """One update of the latents without an encoder, with the bound where they have factors."""
        names = self.plan.per_datum
        expected = gather(self.plan, result.terms, result.assigned, key=None)
        if self.treatment == MEAN_FIELD:
            return factorise(self.plan, values, params, result, expected)
        moved = maximise(self.plan, values, params, result.batch, expected, only=names)
        modes = {name: moved[name] for name in names}
        return Factors(modes, modes), result

    def _central(self, shared: dict, params: dict, rows: tuple) -> dict[str, Array]:
        """The latents of some rows that have no encoder, in the middle of their prior."""
        model, key = self.plan.program.model, jax.random.key(0)
        latents, _ = guide_factors(self.plan, params, rows, key=key)
        seeded = handlers.substitute(handlers.seed(model, key), substitute_fn=central)
        trace = handlers.trace(handlers.substitute(seeded, data={**shared, **latents, **params})).get_trace(*rows)
        return {name: trace[name]["value"] for name in self.plan.per_datum}

    def _shares(self, shares: Array, rows: tuple) -> Array:
        layout = self.plan.layout
        return jnp.broadcast_to(shares, (rows[0].shape[0] * layout.cells_per_datum, layout.num_states))

    def _mean_given(self, site: dict, shares: Array) -> Array:
        """sum_k q(c = k) E[x | c = k] of an observed site, shape (N, *other plates, *event)."""
        fn, layout = site["fn"], self.plan.layout
        mean = jnp.broadcast_to(fn.mean, fn.batch_shape + fn.event_shape)
        if layout.data_dim is None:
            return jnp.broadcast_to(mean, jnp.shape(site["value"]))
        steps, num_sites = has_steps(layout, site), len(layout.discrete)
        num_batch = num_sites + layout.nesting
        mean = mean.reshape((1,) * (num_batch - len(fn.batch_shape)) + mean.shape)
        mean = jnp.moveaxis(mean, num_batch + layout.data_dim, num_sites)
        if not steps and layout.num_steps is not None:
            return mean[(0,) * num_sites]
        if steps:
            mean = jnp.moveaxis(mean, num_batch, num_sites + 1)
        cells = (shares.shape[0] // layout.cells_per_datum, *([layout.num_steps] if steps else []))
        rows = (*cells, *mean.shape[num_sites + len(cells) :])
        means = jnp.broadcast_to(mean, layout.value_sizes + rows).reshape(layout.num_states, shares.shape[0], -1)
        return jnp.einsum("nk,knd->nd", shares, means).reshape(rows)

    def _over_draws(self, one: Callable, globals_: dict) -> Any:
        if not globals_:
            return jax.tree.map(lambda a: a[None], one({}))
        return jax.lax.map(one, globals_)

    @cached_property
    def _covariates(self) -> list[int]:
        """Places of the data arrays that a draw hangs on and no site observes; none where there is one array alone."""
        plan, names = self.plan, self.plan.names(OBSERVED)
        shared = {name: value[0] for name, value in self.globals.items() if name not in plan.per_datum}

        def look(**arrays: Array) -> tuple[list[Array], list[Array]]:
            model = handlers.substitute(plan.program.model, data={**shared, **self.params})
            seeded = handlers.seed(model, jax.random.key(0))
            drawn, seen = (
                handlers.trace(one).get_trace(*arrays.values()) for one in (handlers.uncondition(seeded), seeded)
            )
            return [drawn[name]["value"] for name in names], [seen[name]["value"] for name in names]

        places = {f"data{i:03}": i for i in range(len(plan.template))}
        if len(places) < 2:
            return []
        drawn, seen = eval_provenance(look, **dict(zip(places, plan.template, strict=True)))
        return sorted(places[name] for name in frozenset().union(*drawn) - frozenset().union(*seen))

    @cached_property
    def _draw(self) -> Callable:
        """New data at one draw of the globals, compiled once for all components: `fixed` holds the discrete sites."""
        plan = self.plan
        names = plan.names(OBSERVED)

        def run(globals_: dict, params: dict, rows: tuple, fixed: dict[str, Array], key: Array, mean: bool) -> dict:
            pick_key, draw_key = jax.random.split(key)
            count = next(iter(globals_.values())).shape[0] if globals_ else 1
            pick = jax.random.randint(pick_key, (), 0, count)
            shared = {name: value[pick] for name, value in globals_.items() if name not in plan.per_datum}
            values: dict[str, Any] = {**shared, **fixed}
            free = handlers.uncondition(handlers.seed(plan.program.model, draw_key))
            trace = handlers.trace(handlers.substitute(free, data={**values, **params})).get_trace(*rows)
            return {n: trace[n]["fn"].mean if mean else trace[n]["value"] for n in names}

        return jax.jit(run, static_argnames="mean")


def _single(values: Any) -> Any:
    """The only entry of a dict, or the dict."""
    return next(iter(values.values())) if isinstance(values, dict) and len(values) == 1 else values
