"""What ends a run from outside."""

from __future__ import annotations

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
