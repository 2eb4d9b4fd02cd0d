"""How fast is a training step of a VAE and of VaDE? vmix against NumPyro, PyTorch and ClustPy, interleaved in one run.

Every contestant takes a few steps a round, in turn: 784-500-500-2000-10 and back, minibatches of 256, Adam at a
constant rate. All minimise the same bound, so the mean bound of the last round stands beside the time. Peers that are
not installed are left out, and said.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optax

from benchmarks import _deep_steps_peers as peers
from benchmarks._recording import RESULTS, Case, is_recorded, load_average, record
from benchmarks._sweeps import Sweeps
from vmix.inference import SVI
from vmix.models import VAE, VaDE

CASES = ("vae", "vade")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Sizes: rows, columns, widths, latents, rows a step, steps a round, timed rounds, rate of Adam."""

    num_data: int = 10_000
    data_dim: int = 784
    hidden: tuple[int, ...] = (500, 500, 2000)
    latent_dim: int = 10
    batch_size: int = 256
    steps: int = 10
    rounds: int = 7
    learning_rate: float = 1e-3


@dataclass
class Contestant:
    """Something that trains; its first round (compilation, warming up) is kept out of the timings.

    Args:
        advance: so many steps; returns the mean bound over them, nats per datum.
    """

    advance: Callable[[int], float]

    def __post_init__(self) -> None:
        self.seconds: list[float] = []
        self.elbo = float("nan")

    def run_round(self, steps: int) -> None:
        """Advance and take the time."""
        began = time.perf_counter()
        self.elbo = self.advance(steps)
        self.seconds.append(time.perf_counter() - began)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the cases that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--num-data", type=int, default=Settings.num_data)
    parser.add_argument("--data-dim", type=int, default=Settings.data_dim)
    parser.add_argument("--hidden", nargs="+", type=int, default=Settings.hidden)
    parser.add_argument("--steps", type=int, default=Settings.steps, help="a round")
    parser.add_argument("--rounds", type=int, default=Settings.rounds, help="timed; one more warms up")
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = vars(parser.parse_args(arguments))
    cases, seeds, folder = options.pop("case"), options.pop("seeds"), options.pop("folder")
    settings = Settings(**options | {"hidden": tuple(options["hidden"])})
    for case in cases:
        for seed in seeds:
            compare(case, settings, seed, folder=folder)


def compare(case: str, settings: Settings, seed: int, *, folder: Path) -> None:
    """Run one case, interleaved, and record a line a variant."""
    makers = {"vmix": ours} | peers.installed(case)
    chosen = asdict(settings) | {"hidden": list(settings.hidden)}
    cases = {v: Case(benchmark="deep_steps", case=case, variant=v, seed=seed, settings=chosen) for v in makers}
    if all(is_recorded(one, folder) for one in cases.values()):
        print(f"{case}, seed {seed}: recorded before")
        return
    x = images(settings, seed)
    who = {variant: Contestant(make(case, settings, x, seed)) for variant, make in makers.items()}
    for _ in range(1 + settings.rounds):
        for contestant in who.values():
            contestant.run_round(settings.steps)
    for variant, contestant in who.items():
        timings = np.array(contestant.seconds[1:])
        metrics = {
            "seconds_per_step": float(np.median(timings)) / settings.steps,
            "seconds_per_step_fastest": float(timings.min()) / settings.steps,
            "seconds_first_round": contestant.seconds[0],
            "elbo": contestant.elbo,
            "load": load_average(),
        }
        if variant == "vmix":
            for other, peer in list(who.items())[1:]:
                # round by round, so that a drift of the machine's load cancels
                ratio = float(np.median(np.array(peer.seconds[1:]) / timings))
                metrics[f"times_faster_than_{peers.short_name(other)}"] = ratio
        record(cases[variant], metrics, sum(contestant.seconds), folder)
        print(f"{case}  {variant}", "  ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


def images(settings: Settings, seed: int) -> np.ndarray:
    """Smooth grey images of ten kinds, in [0, 1], shape (N, D): as sparse and as clustered as digits are."""
    rng = np.random.default_rng(seed)
    kinds = rng.random((10, settings.data_dim)) < 0.2
    flips = rng.random((settings.num_data, settings.data_dim)) < 0.05
    lit = kinds[rng.integers(0, 10, settings.num_data)] ^ flips
    return (lit * rng.uniform(0.5, 1.0, lit.shape)).astype(np.float32)


def ours(case: str, settings: Settings, x: np.ndarray, seed: int) -> Callable[[int], float]:
    """vmix, advanced as its driver does: a compiled chunk of steps a round."""
    engine = SVI(
        num_steps=settings.steps * (settings.rounds + 1),
        batch_size=settings.batch_size,
        optimizer=optax.adam(settings.learning_rate),
    )
    turns = Sweeps(zoo_model(case, settings), (x,), engine, seed=seed)
    turns.start_at({}) if case == "vae" else turns.start_at(vade_values(settings, seed))
    return lambda steps: float(np.mean(turns.advance(steps).objective))


def zoo_model(case: str, settings: Settings) -> VAE | VaDE:
    """The zoo's program."""
    sizes = {"latent_dim": settings.latent_dim, "hidden": settings.hidden}
    return VAE(**sizes) if case == "vae" else VaDE(num_components=10, covariance="diagonal", **sizes)


def vade_values(settings: Settings, seed: int) -> dict[str, np.ndarray]:
    """The same components for all to begin with."""
    rng = np.random.default_rng(seed)
    shape = (10, settings.latent_dim)
    return {"w": np.full(10, 0.1), "loc": rng.normal(size=shape), "precision": np.ones(shape)}


if __name__ == "__main__":
    main()
