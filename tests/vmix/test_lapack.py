"""Batched linear algebra on CPUs: the same numbers matrix by matrix, and no call that could wait for itself."""

import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

import vmix
import vmix.program  # what it imports is told of batches
from vmix import lapack
from vmix.inference import EM
from vmix.models import GaussianMixture

BATCH = np.random.default_rng(0).normal(size=(2, 3, 4, 4)).astype(np.float32)
MATRICES = BATCH @ BATCH.swapaxes(-1, -2) + 4 * np.eye(4, dtype=np.float32)

needed = pytest.mark.skipif(
    not lapack.waits_for_itself() or jax.default_backend() != "cpu", reason="this jaxlib takes matrices in turn itself"
)


@pytest.mark.parametrize("name", ["cholesky", "inv", "det", "eigvalsh", "svdvals"])
def test_a_batch_has_the_numbers_of_numpy(name):
    found = jax.jit(getattr(jnp.linalg, name))(MATRICES)
    expected = getattr(np.linalg, name)(MATRICES.astype(np.float64))
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)


def test_a_batch_of_triangular_systems_is_solved():
    roots = np.linalg.cholesky(MATRICES)
    solve = jax.jit(lambda a, b: jax.scipy.linalg.solve_triangular(a, b, lower=True, trans=1))
    found = np.asarray(solve(roots, BATCH))
    np.testing.assert_allclose(roots.swapaxes(-1, -2) @ found, BATCH, atol=1e-5)


def test_gradients_go_through_a_batch():
    slope = jax.jit(jax.grad(lambda x: jnp.linalg.slogdet(x)[1].sum()))(MATRICES)
    np.testing.assert_allclose(slope, np.linalg.inv(MATRICES).swapaxes(-1, -2), rtol=2e-4, atol=1e-5)


@needed
@pytest.mark.parametrize("name", ["cholesky", "inv", "eigh", "svd", "qr"])
def test_lapack_is_given_one_matrix_at_a_time(name):
    text = jax.jit(getattr(jnp.linalg, name)).lower(MATRICES).as_text()
    calls = re.findall(r"custom_call @(lapack_\w+).*?: \((.*?)\) ->", text)
    assert calls and "while" in text
    assert [call for call in calls if re.search(r"tensor<\d+x\d+x\d+", call[1])] == [], "a batch in one call"


def test_a_single_matrix_needs_no_loop():
    assert "while" not in jax.jit(jnp.linalg.cholesky).lower(MATRICES[0, 0]).as_text()


def test_it_may_be_asked_for_twice():
    lapack.take_matrices_in_turn()
    assert jax.jit(jnp.linalg.cholesky).lower(MATRICES).as_text().count("stablehlo.while") == lapack.waits_for_itself()


def blas_threads():
    import scipy.linalg.cython_blas  # noqa: F401

    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_a_fit_leaves_the_cores_to_xla_and_then_gives_them_back():
    seen, before = [], blas_threads()
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    model, engine = GaussianMixture(num_components=2), EM(num_sweeps=2, tolerance=None)
    vmix.fit(model, x, engine=engine, seed=0, callback=lambda *_: seen.append(blas_threads()))
    assert {threads for each in seen for threads in each} == {1}
    assert blas_threads() == before


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_a_prediction_leaves_the_cores_to_xla_too(monkeypatch):
    x = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    fit = vmix.fit(GaussianMixture(num_components=2), x, engine=EM(num_sweeps=2, tolerance=None), seed=0)
    seen, get = [], jax.device_get
    monkeypatch.setattr(jax, "device_get", lambda found: (seen.append(blas_threads()), get(found))[1])
    with threadpool_limits(2, user_api="blas"):
        fit.predict(x)
        assert blas_threads() and set(blas_threads()) == {2}
    assert {threads for each in seen for threads in each} == {1}


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of CPUs")
def test_fits_in_several_threads_give_the_cores_back_when_the_last_has_ended():
    first, second = lapack.one_blas_thread(), lapack.one_blas_thread()
    with threadpool_limits(2, user_api="blas"):
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert set(blas_threads()) == {1}
        second.__exit__(None, None, None)
        assert set(blas_threads()) == {2}


CALLS_AT_ONCE = """
import jax, jax.numpy as jnp, vmix.program

@jax.jit
def many(x):
    roots = jnp.linalg.cholesky(x)
    systems = [(roots + i * jnp.eye(40), jnp.sin(x * (i + 1.0)) @ x) for i in range(8)]
    return sum(jnp.sum(jax.scipy.linalg.solve_triangular(a, b, lower=True)) for a, b in systems)

x = jax.random.normal(jax.random.key(0), (400, 40, 40))
x = x @ x.mT + 40 * jnp.eye(40)
for _ in range(80):
    many(x).block_until_ready()
"""


@pytest.mark.slow
@pytest.mark.faults
def test_many_calls_at_once_come_to_an_end():
    subprocess.run([sys.executable, "-c", CALLS_AT_ONCE], check=True, timeout=300)
