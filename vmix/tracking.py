"""Logging a fit as it runs: a callback that writes the objective and diagnostics for TensorBoard.

Needs the extra `tracking` (tensorboardX, which writes the files without TensorFlow); vmix itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from vmix.checks import check_place, check_positive_int

if TYPE_CHECKING:
    from vmix.results import Fit


class TensorBoard:
    """A callback for `vmix.fit` that writes event files, to be seen by `tensorboard --logdir FOLDER`.

    Every sweep or step is written, `every` of them at a time: the objective in nats per datum, and those of the
    engine's diagnostics that are one number a step. Of several restarts it is the best until then. At the end of the
    `with` block, or by `finish(fit)`, come the steps that are left.

    Args:
        folder: where the event files go; made when missing. A folder a fit.
        every: how many sweeps or steps are written at a time; looking at the fit costs some milliseconds.

    Raises:
        ImportError: where tensorboardX is not installed.

    Example:
        >>> from types import SimpleNamespace
        >>> import tempfile
        >>> fit = SimpleNamespace(history={"objective": np.array([-3.0, -2.5])})
        >>> with tempfile.TemporaryDirectory() as folder, TensorBoard(folder, every=1) as log:
        ...     log(2, lambda: fit)
        ...     log.written
        2
    """

    def __init__(self, folder: str | Path, *, every: int = 20) -> None:
        check_place(folder, "folder")
        self.every = check_positive_int(every, "every")
        try:
            from tensorboardX import SummaryWriter
        except ImportError as error:
            raise ImportError(
                'logging for TensorBoard needs tensorboardX: pip install "vmix[tracking]", or pip install tensorboardX'
            ) from error
        self._writer = SummaryWriter(str(folder))
        self._last: Callable[[], Fit] | None = None
        self.written = 0

    def __call__(self, number: int, so_far: Callable[[], Fit]) -> None:
        """Write the steps up to `number`, when there are `every` of them since the last time."""
        self._last = so_far
        if number - self.written >= self.every:
            self._write(so_far().history)
            self._writer.flush()

    def finish(self, fit: Fit) -> None:
        """Write the steps that are left, and what was fitted and how, as text.

        Args:
            fit: what `vmix.fit` returned.
        """
        self._last = None
        self._write(fit.history)
        about = {"model": fit.model_name, "engine": fit.engine_name, "seed": fit.seed, "settings": fit.settings}
        self._writer.add_text("fit", "\n\n".join(f"{name}: {value}" for name, value in about.items()))
        self.close()

    def close(self) -> None:
        """Write the steps that are left, and close the files."""
        if self._last is not None:
            self._write(self._last().history)
        self._last = None
        self._writer.close()

    def _write(self, history: Mapping[str, Any]) -> None:
        traces = {name: _best(values) for name, values in history.items() if isinstance(values, np.ndarray)}
        length = len(traces["objective"])
        for name, values in traces.items():
            if values.shape != (length,):
                continue
            for step in range(self.written, length):
                self._writer.add_scalar(name, float(values[step]), step + 1)
        self.written = length

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _best(values: np.ndarray) -> np.ndarray:
    """The trace of one number a step; of several restarts the first, which is the best."""
    return values[0] if values.ndim == 2 else values
