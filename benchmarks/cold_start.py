"""How long from an empty process to a first result? vmix against scikit-learn and NumPyro, processes in turn.

Every process is started anew; the parent takes the time from its start to its end, compilation included. `imports`
loads JAX, NumPyro and Flax alone: what vmix stands on.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks._recording import RESULTS, Case, is_recorded, load_average, record

ROOT = Path(__file__).resolve().parent.parent
DIGITS = "from sklearn.datasets import load_digits; x = (load_digits().data / 16).astype('float32')\n"
NUMPYRO = """
import jax, jax.numpy as jnp, numpyro, numpyro.distributions as dist, optax
from numpyro.infer import SVI, Trace_ELBO, autoguide

def mixture(x):
    w = numpyro.sample("w", dist.Dirichlet(jnp.ones(10)))
    loc = numpyro.sample("loc", dist.Normal(0.5, 1.0).expand([10, 64]).to_event(2))
    scale = numpyro.sample("scale", dist.LogNormal(-1.0, 1.0).expand([10, 64]).to_event(2))
    with numpyro.plate("data", len(x)):
        parts = dist.Normal(loc, scale).to_event(1)
        numpyro.sample("x", dist.MixtureSameFamily(dist.Categorical(w), parts), obs=x)

svi = SVI(mixture, autoguide.AutoDelta(mixture), optax.adam(2e-2), Trace_ELBO())
print(svi.run(jax.random.key(0), 100, x, progress_bar=False).losses[-1])
"""
VMIX = """
import vmix
from vmix.inference import EM
from vmix.models import GaussianMixture, VaDE
"""
FIT = "print(vmix.fit({model}, x, engine=EM(num_sweeps={sweeps}, tolerance=None), seed=0).history['objective'][-1])"
# variant, case: what its process runs
CASES = {
    ("vmix", "imports"): "import vmix, vmix.models, vmix.inference, jax, numpyro, flax.nnx\nfrom vmix import fitting",
    ("JAX, NumPyro and Flax", "imports"): "import jax, numpyro, flax.nnx",
    ("vmix", "mixture"): DIGITS + VMIX + FIT.format(model="GaussianMixture(num_components=10)", sweeps=20),
    ("scikit-learn", "mixture"): DIGITS
    + "from sklearn.mixture import GaussianMixture\n"
    + "m = GaussianMixture(10, covariance_type='diag', reg_covar=1e-3, max_iter=20, random_state=0)\n"
    + "import warnings; warnings.simplefilter('ignore'); print(m.fit(x).score(x))",
    ("NumPyro", "mixture"): DIGITS + NUMPYRO,
    ("vmix", "vade, first epoch"): DIGITS
    + VMIX
    + FIT.format(model="VaDE(pretrain_epochs=0, views=1, mixture_restarts=1)", sweeps=1),
    ("vmix", "vade, one epoch"): DIGITS
    + VMIX
    + FIT.format(model="VaDE(pretrain_epochs=1, views=1, mixture_restarts=1)", sweeps=1),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is not in the file yet, round by round."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", nargs="+", choices=sorted({case for _, case in CASES}))
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    settings = {"rounds": options.rounds}
    cases = {
        (variant, case): Case(benchmark="cold_start", case=case, variant=variant, seed=0, settings=settings)
        for variant, case in CASES
        if options.case is None or case in options.case
    }
    waiting = {name: case for name, case in cases.items() if not is_recorded(case, options.folder)}
    seconds: dict[tuple[str, str], list[float]] = {name: [] for name in waiting}
    for _ in range(1 + options.rounds):  # the first warms the disk
        for name in waiting:
            seconds[name].append(once(CASES[name]))
    for name, case in waiting.items():
        timings = np.array(seconds[name][1:])
        metrics = {"seconds_median": float(np.median(timings)), "seconds_fastest": float(timings.min())}
        metrics |= {"load": load_average()}
        line = record(case, metrics, float(timings.sum()), options.folder)
        print(f"{name[1]}  {name[0]}", "  ".join(f"{k} {v:.3g}" for k, v in line["metrics"].items()), flush=True)


def once(code: str) -> float:
    """Seconds of one process.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    began = time.perf_counter()
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
    )
    if ran.returncode:
        raise RuntimeError(f"a process failed:\n{ran.stderr}")
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
