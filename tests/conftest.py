"""What every test shares: threads, the compilation cache, the digits and strict ranks."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmix.compilation import compile_everything_quickly

WORKER = os.environ.get("PYTEST_XDIST_WORKER")
if WORKER:  # several workers on the same cores: one thread each; XLA reads this when JAX is first imported
    for variable in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(variable, "1")


def pytest_configure(config: pytest.Config) -> None:
    """Compile quickly, and keep what was compiled.

    The tests that are not slow compile more than they compute, so XLA's optimiser is off for them; the slow ones run
    as users do. Compiled functions stay in one folder a worker: JAX writes the entries in place, not atomically.
    """
    if config.option.markexpr == "not slow":
        compile_everything_quickly()
    cache = getattr(config, "cache", None)
    if cache is not None:
        folder = Path(cache.mkdir("jax")) / (WORKER or "main")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)  # not setdefault: workers inherit the first process's
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


@pytest.fixture(scope="session")
def digits():
    """The embedded digits: images (1797, 64) in [0, 1] and labels (1797,)."""
    from vmix import data

    return data.load("digits")


@pytest.fixture
def strict_ranks() -> Iterator[None]:
    """Refuse silent rank promotion, for tests of pure functions: NumPyro's own log_prob relies on it everywhere."""
    import jax

    with jax.numpy_rank_promotion("raise"):
        yield
