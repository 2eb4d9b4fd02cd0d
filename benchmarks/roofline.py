"""How near is vmix to the machine's limit? Five hot loops against the rates that the machine shows in the same rounds.

Operations and bytes of a sweep or step are counted by hand (`_roofline_counts` says how) and set beside what XLA
counts. The limit is the longer of two times: operations over the rate of a large product of matrices, and bytes over
the rate at which an array far larger than the caches is read, or copied where that is faster. The fraction is that
limit over the fastest round.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks._loops import LOOPS
from benchmarks._recording import RESULTS, Case, is_recorded, load_average, record
from benchmarks._roofline_counts import COUNTS
from benchmarks._sweeps import MAX_CHUNK, Sweeps

MIXTURE = {"num_data": 100_000, "data_dim": 16, "num_components": 10}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixture, diagonal": ("mixture", {"covariance": "diagonal", **MIXTURE}),
    "mixture, full": ("mixture", {"covariance": "full", **MIXTURE}),
    "HMM": (
        "hmm",
        {"covariance": "diagonal", "num_sequences": 100, "num_steps": 1_000, "data_dim": 8, "num_components": 10},
    ),
    "LDA": ("lda", {"num_documents": 5_000, "num_words": 1_000, "num_components": 10}),
    "VaDE, a step": (
        "vade",
        {"num_data": 10_000, "data_dim": 784, "hidden": [500, 500, 2000], "latent_dim": 10, "batch_size": 256},
    ),
}
# small enough for a test; the sizes of rows alone, so that the shapes stay
QUICK = {"num_data": 5_000, "num_sequences": 20, "num_steps": 100, "num_documents": 300}
PRODUCT, COPIED = 2_048, 1 << 26
ROUND_SECONDS = 0.3


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the loops that are not in the file yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--quick", action="store_true", help="few rows")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args(arguments)
    for name in options.case:
        loop, sizes = CASES[name]
        if options.quick:
            sizes = sizes | {axis: value for axis, value in QUICK.items() if axis in sizes}
        settings = {**sizes, "rounds": options.rounds}
        case = Case(benchmark="roofline", case=name, variant="vmix", seed=0, settings=settings)
        if is_recorded(case, options.folder):
            print(f"{name}: recorded before")
            continue
        began = time.perf_counter()
        metrics = measure(loop, sizes, options.rounds)
        record(case, metrics, time.perf_counter() - began, options.folder)
        print(name, "  ".join(f"{key} {value:.4g}" for key, value in metrics.items()), flush=True)


def measure(loop: str, sizes: dict[str, Any], rounds: int) -> dict[str, float]:
    """A loop, a product, a copy and a reading in turn.

    Returns:
        Name to number: seconds, operations, bytes, rates, the limit and the fraction of it.
    """
    made = LOOPS[loop](**sizes, seed=0)
    turns = Sweeps(made.model, (made.data,), made.engine)
    turns.start_at(made.start)
    turns.advance(1)
    once = _seconds(lambda: turns.advance(1))
    sweeps = int(np.clip(ROUND_SECONDS / once, 1, MAX_CHUNK))
    rates = Rates()
    timings = []
    for _ in range(rounds):
        timings.append(_seconds(lambda: turns.advance(sweeps)) / sweeps)
        rates.run_round()
    work, fastest = COUNTS[loop](**sizes), min(timings)
    arithmetic, memory = work.flops / rates.flops, work.bytes / rates.bytes
    return {
        "seconds_per_iteration": float(np.median(timings)),
        "seconds_per_iteration_fastest": fastest,
        "seconds_limit": max(arithmetic, memory),
        "fraction": max(arithmetic, memory) / fastest,
        "is_arithmetic": float(arithmetic >= memory),
        "flops": work.flops,
        "bytes": work.bytes,
        "machine_flops": rates.flops,
        "machine_bytes": rates.bytes,
        **by_xla(turns),
        "load": load_average(),
    }


class Rates:
    """What the machine does in its best round: a product of matrices in float32, and a long array read or copied."""

    def __init__(self) -> None:
        size = PRODUCT
        self.square = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
        self.long = jnp.ones(COPIED, jnp.float32)
        self.product, self.copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1.0)
        self.read = jax.jit(lambda a: (a * a).sum())
        self.seconds: list[tuple[float, float, float]] = []
        self.run_round()
        self.seconds.clear()  # compilation

    def run_round(self) -> None:
        """Once each."""
        self.seconds.append(
            (
                _seconds(lambda: jax.block_until_ready(self.product(self.square))),
                _seconds(lambda: jax.block_until_ready(self.copy(self.long))),
                _seconds(lambda: jax.block_until_ready(self.read(self.long))),
            )
        )

    @property
    def flops(self) -> float:
        """Operations a second."""
        return 2.0 * PRODUCT**3 / min(product for product, _, _ in self.seconds)

    @property
    def bytes(self) -> float:
        """Bytes a second, read, or read and written: a copy also waits for the pages that it is written to."""
        copy, read = (min(seconds) for seconds in tuple(zip(*self.seconds, strict=True))[1:])
        return COPIED * max(8.0 / copy, 4.0 / read)


def by_xla(turns: Sweeps) -> dict[str, float]:
    """Operations of a chunk as XLA counts them in what it compiled; a loop's body, so one sweep, once.

    So are the steps of a Markov chain and blocks of rows: there its count is below ours.
    """
    chunk: Any = turns.run.chunk
    compiled = chunk.lower(turns.state, turns.data, turns.run.schedule(0), 1).compile()
    found = compiled.cost_analysis() or {}
    found = found[0] if isinstance(found, list) else found
    return {
        f"{key}_by_xla": found[name]
        for key, name in {"flops": "flops", "bytes": "bytes accessed"}.items()
        if name in found
    }


def _seconds(run: Callable[[], object]) -> float:
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
