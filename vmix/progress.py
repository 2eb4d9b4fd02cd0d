"""A progress line for the driver: drawn between compiled chunks, on standard error only, silent in pipes."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar


class Progress:
    """Show how far a fit is and what its objective reads.

    Nothing happens inside compiled code: the driver calls `update` between two chunks. A call only stores
    numbers (a thread of Rich's draws them ten times a second), so it costs microseconds.

    Args:
        total: number of sweeps or steps to come; None when it is not known.
        step_name: the word in front of the count, `"sweep"` or `"step"`, or the name of a stage.
        enabled: True or False to force; None shows the line only where standard error is a terminal.

    Example:
        >>> with Progress(100, "sweep", enabled=False) as progress:
        ...     progress.update(50, -812.4, "nats per datum")
        >>> progress.enabled
        False
    """

    def __init__(self, total: int | None, step_name: str, *, enabled: bool | None = None) -> None:
        self.enabled = _is_terminal() if enabled is None else bool(enabled)
        self._total = total
        self._step_name = step_name
        self._bar: Bar | None = None
        self._task: Any = None

    def __enter__(self) -> Progress:
        if self.enabled:
            self._bar = _make_bar()
            self._bar.start()
            self._task = self._bar.add_task(self._step_name, total=self._total, reading="")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, done: int, objective: float | None = None, unit: str = "") -> None:
        """Set the count and the objective.

        Args:
            done: sweeps or steps finished so far, counted from the start (not since the last call).
            objective: the latest value, any scalar that `float` takes; None while there is none.
            unit: unit of the objective, such as `"nats per datum"`.
        """
        if self._bar is None:
            return
        reading = "" if objective is None else f"{float(objective):.4f} {unit}".rstrip()
        self._bar.update(self._task, completed=done, reading=reading)


def _is_terminal() -> bool:
    """Whether standard error exists and is a terminal."""
    return sys.stderr is not None and sys.stderr.isatty()


def _make_bar() -> Bar:
    """A Rich bar: name, count, bar, objective, time gone, time left."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}", markup=False),
        MofNCompleteColumn(),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[reading]}", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # Rich would send what the program prints on standard output to this console, which is standard error.
        redirect_stdout=False,
    )
