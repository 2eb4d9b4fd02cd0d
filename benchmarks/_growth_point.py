"""One point of a curve of `growth`, in a process of its own: seconds a sweep or step, and how much memory it took.

    python -m benchmarks._growth_point '{"loop": "mixture", "on_disk": false, "seed": 0, "sizes": {...}}'

prints one line of JSON. `bytes_peak` is the largest resident set from the moment the data are there, `bytes_private`
the part of it that is no mapped file; both less what the process held after its imports. Pages of a memory-mapped file
count as resident while they are in the disk cache, though the system takes them back when it needs them: of data on
disk, only the private part is the fit's own.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._loops import LOOPS
from benchmarks._recording import load_average
from benchmarks._sweeps import MAX_CHUNK, Sweeps

ROUND_SECONDS, ROUNDS = 0.3, 7
STATUS = Path("/proc/self/status")


def resident(part: str) -> int:
    """Bytes that the process holds: VmRSS (now), VmHWM (at most) or RssAnon (now, without mapped files).

    Where there is no such file, the largest resident set. (Not by `getrusage` where there is: a child begins with its
    parent's peak.)
    """
    if not STATUS.exists():
        factor = 1 if sys.platform == "darwin" else 1024
        return factor * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(part + ":"))


class Watch:
    """The largest private memory, looked at every few milliseconds."""

    def __init__(self) -> None:
        self.peak, self.over = 0, threading.Event()
        self.thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()
        self.peak = max(self.peak, resident("RssAnon"))

    def _look(self) -> None:
        while not self.over.wait(0.005):
            self.peak = max(self.peak, resident("RssAnon"))


def measure(loop: str, sizes: dict[str, Any], *, on_disk: bool, seed: int) -> dict[str, float]:
    """Advance a loop in rounds of a third of a second.

    Returns:
        Name to number: seconds, bytes, load.
    """
    import jax

    jax.block_until_ready(jax.numpy.zeros(1))  # the device is there before memory is looked at
    before, private = resident("VmRSS"), resident("RssAnon")
    with tempfile.TemporaryDirectory() as scratch:
        folder = {"folder": Path(scratch)} if on_disk else {}
        made = LOOPS[loop](**sizes, **folder, seed=seed)
        _forget_peak()
        with Watch() as watch:
            turns = Sweeps(made.model, (made.data,), made.engine, seed=seed)
            turns.start_at(made.start)
            first = _seconds(turns, 1)
            once = _seconds(turns, 1)
            sweeps = int(np.clip(ROUND_SECONDS / once, 1, MAX_CHUNK))
            rounds = ROUNDS if once < 10 * ROUND_SECONDS else 3
            timings = np.array([_seconds(turns, sweeps) / sweeps for _ in range(rounds)])
    return {
        "seconds_per_iteration": float(np.median(timings)),
        "seconds_per_iteration_fastest": float(timings.min()),
        "seconds_plan": turns.seconds_plan,
        "seconds_first": first,
        "bytes_peak": float(resident("VmHWM") - before),
        "bytes_private": float(watch.peak - private),
        "bytes_data": float(made.data.nbytes),
        "load": load_average(),
    }


def _forget_peak() -> None:
    """Begin to look for the peak anew: making the data does not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _seconds(turns: Sweeps, sweeps: int) -> float:
    began = time.perf_counter()
    turns.advance(sweeps)
    return time.perf_counter() - began


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps(measure(asked["loop"], asked["sizes"], on_disk=asked["on_disk"], seed=asked["seed"])))
