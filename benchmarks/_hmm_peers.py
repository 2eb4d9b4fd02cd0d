"""hmmlearn, dynamax and pomegranate on the sequences of `_hmm_em`: (advance a round, its values, what was chosen).

hmmlearn (0.3): scaled or logarithmic recursions in C++, float64, its sweep called as its own loop does, with one or
more BLAS threads. dynamax (1.0): its `fit_em` body compiled once, on all sequences by vmap as its documentation does;
float32. Its priors cannot be switched off, so they are made as flat as floats allow. pomegranate (1.1, on PyTorch):
its sweep called as in its own loop, float32, with one or more threads, or on the GPU if JAX has one; its chain may end
after any step, which costs it one step in T, and the rows of its transitions are made to sum to one for the judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata, util
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._peers import thread_counts, torch_device, torch_threads, wait_for

if TYPE_CHECKING:
    from benchmarks._hmm_em import Settings

Values = dict[str, np.ndarray]
Form = tuple[Callable[[], None], Callable[[], Values], dict[str, float]]
# what dynamax imports besides itself
NEEDS = {
    "hmmlearn": ("hmmlearn",),
    "dynamax": ("dynamax", "tensorflow_probability", "fastprogress"),
    "pomegranate": ("torch", "pomegranate", "apricot"),
}
FLAT = 1e-6
# pomegranate's loop over steps is Python's: a sweep of 100,000 takes half a minute
STEPS_IN_PYTHON = 10_000
NAMES = ("initial", "transition", "loc", "covariance")


def installed(num_steps: int) -> list[str]:
    """The peers at hand for sequences so long, with their versions; those that are not are named on the screen."""
    found = []
    for peer, modules in NEEDS.items():
        if peer == "pomegranate" and num_steps > STEPS_IN_PYTHON:
            print(f"{peer} is left out: it takes {num_steps} steps one by one in Python")
            continue
        missing = [module for module in modules if util.find_spec(module) is None]
        if missing:
            print(f"{peer} is left out: {', '.join(missing)} not installed")
        else:
            found.append(f"{peer} {metadata.version(peer)}")
    return found


def forms(name: str, settings: Settings, x: np.ndarray, start: dict[str, np.ndarray]) -> Iterator[Form]:
    """The forms of a peer, of which the fastest counts."""
    if name.startswith("dynamax"):
        yield dynamax_form(settings, x, start)
        return
    if name.startswith("pomegranate"):
        for threads in torch_threads():
            yield pomegranate_form(settings, x, start, threads)
        return
    for implementation in ("log", "scaling"):
        for threads in thread_counts():
            yield hmmlearn_form(settings, x, start, implementation, threads)


def _variances(settings: Settings, start: dict[str, np.ndarray]) -> np.ndarray:
    return 1 / start["precision"] if settings.covariance == "diagonal" else np.linalg.inv(start["precision"])


def hmmlearn_form(
    settings: Settings, x: np.ndarray, start: dict[str, np.ndarray], implementation: str, threads: int
) -> Form:
    """hmmlearn's sweep without the set-up of its `fit`."""
    from hmmlearn.hmm import GaussianHMM

    model = GaussianHMM(
        settings.num_components,
        covariance_type={"diagonal": "diag", "full": "full"}[settings.covariance],
        min_covar=0,
        covars_prior=0,
        init_params="",
        implementation=implementation,
    )
    steps, lengths = x.reshape(-1, x.shape[-1]), [x.shape[1]] * len(x)
    model.n_features = x.shape[-1]
    model.startprob_, model.transmat_, model.means_ = start["initial"], start["transition"], start["loc"]
    model.covars_ = _variances(settings, start)

    def advance() -> None:
        with threadpool_limits(threads):
            for _ in range(settings.sweeps):
                statistics, _ = model._do_estep(steps, lengths)
                model._do_mstep(statistics)

    about = {"threads": threads, "scaled": float(implementation == "scaling")}

    def values() -> Values:
        found = (model.startprob_, model.transmat_, model.means_, model.covars_)
        return dict(zip(NAMES, found, strict=True))

    return advance, values, about


def dynamax_form(settings: Settings, x: np.ndarray, start: dict[str, np.ndarray]) -> Form:
    """dynamax's EM sweeps in one compiled scan a round, the body of its `fit_em`."""
    from dynamax.hidden_markov_model import DiagonalGaussianHMM, GaussianHMM

    k, d = settings.num_components, x.shape[-1]
    dirichlet = {"initial_probs_concentration": 1.0 + FLAT, "transition_matrix_concentration": 1.0 + FLAT}
    first = {
        "initial_probs": start["initial"],
        "transition_matrix": start["transition"],
        "emission_means": start["loc"],
    }
    if settings.covariance == "diagonal":
        # the mode of its variances divides by 2 (a + 1 + n / 2) + 1: at a = -1.5 by n
        flat = {"emission_prior_mean_concentration": FLAT, "emission_prior_concentration": -1.5}
        model = DiagonalGaussianHMM(k, d, **flat, emission_prior_scale=FLAT, **dirichlet)
        first["emission_scale_diags"] = np.sqrt(_variances(settings, start))
    else:
        # its covariances divide by n + 2 d + 2, 0.2 % more than n at full size; it refuses fewer degrees of freedom
        flat = {"emission_prior_concentration": FLAT, "emission_prior_extra_df": 0.0}
        model = GaussianHMM(k, d, **flat, emission_prior_scale=FLAT, **dirichlet)
        first["emission_covariances"] = _variances(settings, start)
    values = {name: jnp.asarray(value, jnp.float32) for name, value in first.items()}
    params, properties = model.initialize(jax.random.key(0), **values)
    data = jnp.asarray(x, jnp.float32)
    inner = model.initialize_m_step_state(params, properties)

    def sweep(carry: tuple, _: None) -> tuple[tuple, None]:
        params, inner = carry
        statistics, _ = jax.vmap(partial(model.e_step, params))(data)
        return model.m_step(params, properties, statistics, inner), None

    @jax.jit
    def sweeps(carry: tuple) -> tuple:
        return jax.lax.scan(sweep, carry, None, length=settings.sweeps)[0]

    carry: Any = (params, inner)

    def advance() -> None:
        nonlocal carry
        carry = jax.block_until_ready(sweeps(carry))

    def values() -> Values:
        params = carry[0]
        if settings.covariance == "diagonal":
            covariance = jnp.vectorize(jnp.diag, signature="(d)->(d,d)")(params.emissions.scale_diags**2)
        else:
            covariance = params.emissions.covs
        found = (params.initial.probs, params.transitions.transition_matrix, params.emissions.means, covariance)
        return dict(zip(NAMES, (np.asarray(value, np.float64) for value in found), strict=True))

    return advance, values, {}


def pomegranate_form(settings: Settings, x: np.ndarray, start: dict[str, np.ndarray], threads: int) -> Form:
    """pomegranate's dense model with a number of PyTorch's threads, all sequences in one batch."""
    import torch
    from pomegranate.distributions import Normal
    from pomegranate.hmm import DenseHMM

    kind = {"diagonal": "diag", "full": "full"}[settings.covariance]
    shapes = zip(np.float32(start["loc"]), np.float32(_variances(settings, start)), strict=True)
    model = DenseHMM(
        [Normal(loc, variance, covariance_type=kind) for loc, variance in shapes],
        edges=np.float32(start["transition"] * (1 - 1 / x.shape[1])),
        starts=np.float32(start["initial"]),
        ends=np.full(settings.num_components, 1 / x.shape[1], np.float32),
    )
    device = torch_device()
    model, data = model.to(device), torch.tensor(x, dtype=torch.float32, device=device)

    def advance() -> None:
        torch.set_num_threads(threads)
        for _ in range(settings.sweeps):
            model.summarize(data)
            model.from_summaries()
        wait_for(data)

    def values() -> Values:
        edges = np.exp(model.edges.detach().double().cpu().numpy())
        covariances = np.stack([part.covs.detach().double().cpu().numpy() for part in model.distributions])
        if settings.covariance == "diagonal":
            covariances = np.stack([np.diag(variance) for variance in covariances])
        return {
            "initial": np.exp(model.starts.detach().double().cpu().numpy()),
            "transition": edges / edges.sum(1, keepdims=True),
            "loc": np.stack([part.means.detach().double().cpu().numpy() for part in model.distributions]),
            "covariance": covariances,
        }

    return advance, values, {"threads": threads}
