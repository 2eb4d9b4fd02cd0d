"""Data that stay on disk give the same fit as data in memory."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vmix
from vmix import streaming
from vmix.inference import EM, SVI, Gibbs
from vmix.models import VAE, GaussianMixture
from vmix.program import ProgramError

MODEL = GaussianMixture(num_components=3)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(m, 1.0, (400, 3)) for m in (-5.0, 0.0, 5.0)]).astype(np.float32)


@pytest.fixture
def on_disk(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(streaming, "CHUNK_BYTES", 250 * 4 * 3)  # five chunks, the last one shorter
    np.save(tmp_path / "rows.npy", rows)
    return np.load(tmp_path / "rows.npy", mmap_mode="r")


def start(rows):
    return {"loc": np.array([[-4.0] * 3, [0.5] * 3, [4.0] * 3], np.float32)}


def test_em_on_disk_equals_em_in_memory(rows, on_disk):
    engine = EM(num_sweeps=20, tolerance=None)
    here = vmix.fit(MODEL, rows, engine=engine, seed=0, init=start(rows))
    there = vmix.fit(MODEL, on_disk, engine=engine, seed=0, init=start(rows))
    np.testing.assert_allclose(there.history["objective"], here.history["objective"], rtol=1e-5)
    np.testing.assert_allclose(there.posterior["loc"], here.posterior["loc"], atol=1e-3)


@pytest.mark.slow
def test_gibbs_on_disk_draws_from_the_same_posterior(rows, on_disk):
    engine = Gibbs(num_samples=300, num_warmup=50)
    here = vmix.fit(MODEL, rows, engine=engine, seed=0, init=start(rows))
    there = vmix.fit(MODEL, on_disk, engine=engine, seed=1, init=start(rows))
    spread = here.posterior["loc"].std(0)
    # 9 means, each a difference of two averages of about 300 independent draws: 5 standard errors
    error = np.abs(there.posterior["loc"].mean(0) - here.posterior["loc"].mean(0))
    assert (error < 5 * spread * np.sqrt(2 / 300)).all()


@pytest.mark.slow
def test_svi_on_disk_reaches_the_optimum(rows, on_disk):
    exact = vmix.fit(MODEL, rows, engine=EM(), seed=0, init=start(rows))
    there = vmix.fit(MODEL, on_disk, engine=SVI(num_steps=400, batch_size=256), seed=0, init=start(rows))
    assert there.score(rows) > exact.score(rows) - 0.02


def test_svi_on_disk_asks_for_a_batch_size(on_disk):
    with pytest.raises(ProgramError, match="batch_size"):
        vmix.fit(MODEL, on_disk, engine=SVI(), seed=0)


def test_em_on_disk_refuses_networks(on_disk):
    with pytest.raises(ProgramError, match="networks"):
        vmix.fit(VAE(hidden=(4,), latent_dim=2, pixels="gaussian"), on_disk, engine=EM(), seed=0)


def test_em_on_disk_refuses_what_does_not_compress(on_disk):
    def regression(x):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("y", dist.Normal(b * x[:, 0], 1.0), obs=x[:, 1])

    with pytest.raises(ProgramError, match="does not compress"):
        vmix.fit(regression, on_disk, engine=EM(), seed=0)
