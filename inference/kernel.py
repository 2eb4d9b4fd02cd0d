"""Blocked Gibbs as a NumPyro kernel: `numpyro.infer.MCMC` runs the chains, and what reads it (ArviZ) reads them.

The sweep is that of `vmix.inference.Gibbs`; the plan and each chain's start are made from the data when `MCMC.run`
hands them over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.infer.mcmc import MCMCKernel
from numpyro.util import is_prng_key

from vmix.door import check_arrays, check_labels, prepare
from vmix.engine import Data, Schedule
from vmix.inference.gibbs import Gibbs, GibbsState
from vmix.plan import Plan, make_plan
from vmix.program import Program, ProgramError, as_program
from vmix.recipe import Recipe
from vmix.starting import make_start, recipe_of


class KernelState(NamedTuple):
    """What NumPyro carries from sweep to sweep; its fields can be named in `MCMC.run(extra_fields=)`.

    Attributes:
        z: the draw of the globals.
        objective: log p(data, globals), discrete sites summed out, before the sweep; nats per datum.
        gibbs: the engine's state; `gibbs.assignments` and `gibbs.latents` are the local draws.
        rng_key: randomness to come.
    """

    z: dict[str, Array]
    objective: Array
    gibbs: GibbsState
    rng_key: Array


class GibbsKernel(MCMCKernel):
    """Blocked Gibbs sampling of any program under `numpyro.infer.MCMC`.

    Chains run one after another (`chain_method="sequential"`) or side by side (`"vectorized"`). NumPyro compiles the
    sweep with its own settings; for covariance matrices of 40 columns and more on CPUs use `vmix.fit` (see
    `vmix.compilation`).

    Args:
        program: a NumPyro function of the data arrays, or a record with `model` (and `guide`).
        init: a `vmix.starting.Recipe` or the name of a clustering ("k-means", "random", "prior").
        observed: known values of discrete sites, by site: whole numbers of shape (N,), -1 where unknown.
        missing: "nan" to read NaN in the data as missing.
        learning_rate: of Adam on networks during warm-up.
        target_acceptance: of NUTS on the globals that are not conjugate.

    Example:
        >>> import numpyro
        >>> from vmix.models import GaussianMixture
        >>> kernel = GibbsKernel(GaussianMixture(num_components=2))
        >>> mcmc = numpyro.infer.MCMC(kernel, num_warmup=100, num_samples=500, progress_bar=False)
    """

    def __init__(
        self,
        program: Any,
        *,
        init: Recipe | str | None = None,
        observed: Mapping[str, Any] | None = None,
        missing: str | None = None,
        learning_rate: float = 1e-3,
        target_acceptance: float = 0.8,
    ) -> None:
        self._program: Program = as_program(program)
        self._recipe, self._observed, self._missing = init, observed, missing
        self._options: dict[str, Any] = {"learning_rate": learning_rate, "target_acceptance": target_acceptance}
        self._engine = Gibbs(num_samples=1, **self._options)
        self._plan: Plan | None = None
        self._labels: dict[str, Array] | None = None
        self._seen: tuple = ()
        self._sample_fn: Callable | None = None

    @property
    def model(self) -> Callable[..., Any]:
        """The program's NumPyro function, under the name by which ArviZ looks for it."""
        return self._program.model if self._plan is None else self._plan.program.model

    @property
    def plan(self) -> Plan | None:
        """The plan that is followed; None before the first run."""
        return self._plan

    @property
    def sample_field(self) -> str:
        """The field that `MCMC.get_samples` returns."""
        return "z"

    @property
    def default_fields(self) -> tuple[str, ...]:
        """What is collected without being asked for."""
        return ("z", "objective")

    def get_diagnostics_str(self, state: KernelState) -> str:
        """The objective, for NumPyro's progress bar."""
        return f"{float(state.objective):.3f} nats per datum"

    def init(
        self, rng_key: Array, num_warmup: int, init_params: Any, model_args: tuple, model_kwargs: Mapping | None
    ) -> KernelState:
        """Plan the program for these data (once), and start one chain, or several for a batch of keys.

        Raises:
            TypeError: for keyword arguments or `init_params`, which have no meaning here.
            ProgramError: if the program cannot be planned, or chains are to run in parallel processes.
        """
        _refuse(rng_key, init_params, model_kwargs)
        self._engine = Gibbs(num_samples=1, num_warmup=num_warmup, **self._options)
        plan, args = self._planned(model_args)
        if is_prng_key(rng_key):
            return self._start(plan, rng_key, args)
        chains = [self._start(plan, key, args) for key in rng_key]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *chains)

    def sample(self, state: KernelState, model_args: tuple, model_kwargs: Mapping | None) -> KernelState:
        """One sweep of every chain."""
        if self._plan is None:
            raise ProgramError("GibbsKernel.sample was called before init; run it under numpyro.infer.MCMC")
        template = self._plan.template
        args = tuple(jnp.asarray(a, like.dtype) for a, like in zip(model_args, template, strict=True))
        if is_prng_key(state.rng_key):
            return self._sweep(self._plan, state, args)
        return jax.vmap(partial(self._sweep, self._plan, args=args))(state)

    def _sweep(self, plan: Plan, state: KernelState, args: tuple) -> KernelState:
        rng_key, key = jax.random.split(state.rng_key)
        one = jnp.ones(())
        # NumPyro hands over a new key after warm-up; the engine's own would repeat itself
        data = Data(args, self._labels, None)
        gibbs, info = self._engine.step(plan, state.gibbs._replace(key=key), data, Schedule(one, one))
        return KernelState(gibbs.globals, info.objective, gibbs, rng_key)

    def _planned(self, model_args: tuple) -> tuple[Plan, tuple]:
        """The plan, and the data, checked; a plan is kept for as long as the arrays are the same objects."""
        if not model_args:
            raise TypeError("GibbsKernel needs the data: MCMC(...).run(key, x)")
        same = len(model_args) == len(self._seen) and all(a is b for a, b in zip(model_args, self._seen, strict=True))
        arrays = check_arrays(model_args, missing=self._missing)
        if self._plan is None or not same:
            program = prepare(self._program, arrays)
            # any key: it only chooses the points at which conditionals are verified
            self._plan = make_plan(program, arrays, key=jax.random.key(0), missing=self._missing is not None)
            self._labels = check_labels(self._plan.layout, self._observed, len(arrays[0]))
            self._seen, self._sample_fn = model_args, self._sweep  # NumPyro does not call init again once this is set
        return self._plan, tuple(jnp.asarray(a) for a in arrays)

    def _start(self, plan: Plan, rng_key: Array, args: tuple) -> KernelState:
        data = Data(args, self._labels, None)
        start_key, init_key, rng_key = jax.random.split(rng_key, 3)
        start, _ = make_start(plan, data, recipe_of(plan, self._recipe), key=start_key)
        gibbs = self._engine.init(plan, start, data, key=init_key)
        return KernelState(gibbs.globals, jnp.zeros((), jnp.result_type(float)), gibbs, rng_key)


def _refuse(rng_key: Array, init_params: Any, model_kwargs: Mapping | None) -> None:
    if model_kwargs:
        raise TypeError(
            f"MCMC.run got keyword arguments {sorted(model_kwargs)}; a vmix program takes its data arrays in order: "
            "mcmc.run(key, x)"
        )
    if init_params is not None:
        raise TypeError("GibbsKernel takes its start from init=, not from MCMC.run(init_params=)")
    if isinstance(rng_key, jax.core.Tracer):
        raise ProgramError(
            'GibbsKernel starts its chains outside of compiled code: use MCMC(..., chain_method="sequential") or '
            '"vectorized" instead of "parallel" or a function'
        )
