"""A Dirichlet-process mixture to convergence against scikit-learn: held-out log density against own seconds.

vmix finds the posterior's mode by EM, scikit-learn a variational posterior; each takes its own priors, its own start by
k-means and its own stopping rule, and one judge in float64 scores held-out rows under the mixture that each one's point
estimates stand for. So the curves compare whole recipes. Contestants advance in turn; scoring is not counted.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
from sklearn.mixture import BayesianGaussianMixture
from threadpoolctl import threadpool_limits

from benchmarks import _mixtures_em as em
from benchmarks import _peers as peers
from benchmarks._code_mixtures import Density, density_of_posterior, log_likelihood
from benchmarks._lda_contest import Point, seconds_to_reach
from benchmarks._recording import Case, is_recorded, load_average, record
from benchmarks._sweeps import MAX_CHUNK, Sweeps, next_length
from vmix.driving import JUDGE_EVERY
from vmix.inference import EM
from vmix.models import DirichletProcessMixture

# nats a row below scikit-learn's last value that count as having reached it
NEAR = 0.01
USED = 0.001


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Rows to fit and to hold out, columns, true components, truncation; sweeps and own seconds at most."""

    covariance: str
    num_data: int = 100_000
    held_out: int = 10_000
    data_dim: int = 16
    true_components: int = 20
    truncation: int = 50
    concentration: float = 1.0
    sweeps: int = 1_000
    budget: float = 600.0


class Contestant(ABC):
    """Something that advances piece by piece until it settles, or its sweeps or seconds are spent."""

    def __init__(self, settings: Settings, held_out: np.ndarray) -> None:
        self.settings, self.held_out = settings, held_out
        self.seconds, self.sweeps, self.settled = 0.0, 0, False
        self.about: dict[str, float] = {}
        self.points: list[Point] = []

    @abstractmethod
    def start(self) -> None:
        """Go to where a fit begins."""

    @abstractmethod
    def advance(self) -> int:
        """Some sweeps; how many."""

    @abstractmethod
    def density(self) -> Density:
        """The mixture where it stands."""

    @property
    def is_done(self) -> bool:
        """Whether it has settled or spent what it has."""
        spent = self.seconds >= self.settings.budget or self.sweeps >= self.settings.sweeps
        return self.settled or (spent and self.sweeps > 0)

    def run_piece(self) -> None:
        """The start, or some sweeps, timed, and then the score."""
        began = time.perf_counter()
        if self.points:
            self.sweeps += self.advance()
        else:
            self.start()
            self.about["seconds_start"] = time.perf_counter() - began
        self.seconds += time.perf_counter() - began
        self.points.append(Point(self.seconds, log_likelihood(self.density(), self.held_out)))


class Ours(Contestant):
    """vmix, chunk by chunk as its driver does; planned and compiled before."""

    def __init__(self, settings: Settings, x: np.ndarray, held_out: np.ndarray, seed: int) -> None:
        super().__init__(settings, held_out)
        began = time.perf_counter()
        model = DirichletProcessMixture(
            truncation=settings.truncation, concentration=settings.concentration, covariance=settings.covariance
        )
        self.turns = Sweeps(model, (x.astype(np.float32),), EM(num_sweeps=settings.sweeps), seed=seed)
        self.turns.start()
        self.turns.advance(1)
        self.length = 1
        self.infos: list[Any] = []
        self.about["seconds_before"] = time.perf_counter() - began

    def start(self) -> None:
        self.turns.start()

    def advance(self) -> int:
        length = min(self.length, JUDGE_EVERY - self.sweeps % JUDGE_EVERY, self.settings.sweeps - self.sweeps)
        began = time.perf_counter()
        self.infos.append(self.turns.advance(length))
        self.length = min(next_length(length, time.perf_counter() - began, first=False), MAX_CHUNK)
        self.settled = self.turns.run._converged(self.infos, self.sweeps + length)
        return length

    def density(self) -> Density:
        found = self.turns.values()
        if self.settings.covariance == "diagonal":
            found["precision"] = np.stack([np.diag(tau) for tau in found["precision"]])
        return density_of_posterior(found)


class Peer(Contestant):
    """scikit-learn in float64, its default: the calls of its own loop, one sweep a piece."""

    def __init__(self, settings: Settings, x: np.ndarray, held_out: np.ndarray, seed: int, threads: int) -> None:
        super().__init__(settings, held_out)
        self.x, self.threads, self.bound = x, threads, -np.inf
        self.about["threads"] = threads
        self.model = BayesianGaussianMixture(
            n_components=settings.truncation,
            covariance_type={"diagonal": "diag", "full": "full"}[settings.covariance],
            weight_concentration_prior_type="dirichlet_process",
            weight_concentration_prior=settings.concentration,
            random_state=seed,
        )

    def start(self) -> None:
        with threadpool_limits(self.threads):
            self.model._check_parameters(self.x)
            self.model._initialize_parameters(self.x, np.random.RandomState(self.model.random_state))

    def advance(self) -> int:
        with threadpool_limits(self.threads):
            log_norm, log_responsibilities = self.model._e_step(self.x)
            self.model._m_step(self.x, log_responsibilities)
        before, self.bound = self.bound, self.model._compute_lower_bound(log_responsibilities, log_norm)
        self.settled = abs(self.bound - before) < self.model.tol
        return 1

    def density(self) -> Density:
        self.model._set_parameters(self.model._get_parameters())  # its weights are made there
        covariance = self.model.covariances_
        if self.settings.covariance == "diagonal":
            covariance = np.stack([np.diag(variance) for variance in covariance])
        return Density(self.model.weights_, self.model.means_, covariance)


def compare(settings: Settings, seed: int, *, folder: Path) -> list[dict[str, Any]]:
    """Run one case, in turns by own seconds, and record a line a contestant.

    Args:
        settings: sizes.
        seed: of data and starts.
        folder: where the results are.

    Returns:
        The lines; none if they are there already.
    """
    peer = f"scikit-learn {sklearn.__version__}, BayesianGaussianMixture"
    cases = {
        v: Case(benchmark="mixtures", case=f"dp-{settings.covariance}", variant=v, seed=seed, settings=asdict(settings))
        for v in ("vmix", peer)
    }
    if all(is_recorded(case, folder) for case in cases.values()):
        return []
    x, held_out = make_data(settings, seed)
    threads = fastest_threads(settings, x, held_out, seed)
    who: dict[str, Contestant] = {
        "vmix": Ours(settings, x, held_out, seed),
        peer: Peer(settings, x, held_out, seed, threads),
    }
    while waiting := [one for one in who.values() if not one.is_done]:
        # who has spent less goes on, so that both meet the same hours of the machine
        min(waiting, key=lambda one: one.seconds).run_piece()
    goal = who[peer].points[-1].held_out - NEAR
    reached = {v: seconds_to_reach(goal, one.points) for v, one in who.items()}
    lines = []
    for variant, one in who.items():
        metrics = _metrics(one, reached[variant])
        if variant == "vmix" and reached[variant]:
            metrics["times_sooner_than_scikit_learn"] = who[peer].seconds / reached[variant]
            metrics["times_sooner_at_the_same_value"] = (reached[peer] or np.nan) / reached[variant]
        lines.append(record(cases[variant], metrics, one.seconds, folder))
    return lines


def make_data(settings: Settings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit and rows to score from one mixture, float64."""
    sizes = {"num_data": settings.num_data + settings.held_out, "data_dim": settings.data_dim}
    drawn = em.make_data(
        em.Settings(covariance=settings.covariance, num_components=settings.true_components, **sizes), seed
    )
    return drawn[: settings.num_data], drawn[settings.num_data :]


def fastest_threads(settings: Settings, x: np.ndarray, held_out: np.ndarray, seed: int) -> int:
    """The number of BLAS threads with which scikit-learn's second sweep is the faster; not counted."""
    taken = {}
    for threads in peers.thread_counts():
        one = Peer(settings, x, held_out, seed, threads)
        one.model.set_params(init_params="random")
        one.start()
        one.advance()
        began = time.perf_counter()
        one.advance()
        taken[threads] = time.perf_counter() - began
    return min(taken, key=lambda threads: taken[threads])


def _metrics(one: Contestant, reached: float | None) -> dict[str, float]:
    return {
        "held_out": one.points[-1].held_out,
        "seconds_to_settle": one.seconds,
        "settled": float(one.settled),
        **({} if reached is None else {"seconds_to_reach_scikit_learn": reached}),
        "seconds_per_iteration": (one.seconds - one.about["seconds_start"]) / max(one.sweeps, 1),
        "sweeps": one.sweeps,
        "components_used": int((one.density().w > USED).sum()),
        "load": load_average(),
        **one.about,
    }
