"""What ends a run from outside."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def sigterm_as_interrupt() -> Iterator[list[int]]:
    """Take SIGTERM as Ctrl-C is taken; what is yielded is empty until it comes."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        yield seen
        return

    def take(signum: int, _: Any) -> None:
        seen.append(signum)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, take)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def ends_by_sigterm(kept: bool) -> Iterator[None]:
    """Let SIGTERM end what runs inside as Ctrl-C does, and then the process.

    Args:
        kept: whether what runs keeps its state; without that, and where somebody else takes SIGTERM or outside the
            main thread, nothing is changed.
    """
    here = threading.current_thread() is threading.main_thread()
    if not (kept and here and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL):
        yield
        return
    seen: list[int] = []
    try:
        with sigterm_as_interrupt() as seen:
            yield
    finally:
        if seen:
            os.kill(os.getpid(), signal.SIGTERM)
