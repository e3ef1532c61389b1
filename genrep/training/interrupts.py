"""Ending a run on a signal without losing work: Ctrl-C, or the SIGTERM that clusters send before they take a machine."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Between `start` and `stop` the first Ctrl-C or SIGTERM only sets `received`; a second one ends the process at once.

    A training step is never cut in two: the loop looks at `received` after each one. Where the run is between steps, such
    as in an evaluation of minutes, `between_steps` is called from the handler instead, and may raise.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.between_steps: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def start(self) -> None:
        """Take over the signals. Python delivers them to the main thread alone; in another one nothing changes."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def stop(self) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.stop()  # the next signal does what it does without us
        self.received = signal.Signals(number)
        print(
            f"\n{self.received.name}: a checkpoint is saved after this step; once more ends at once",
            file=sys.stderr,
            flush=True,
        )
        if self.between_steps is not None:
            self.between_steps()


def ignore_signals(worker: int) -> None:
    """For a data loader's workers: Ctrl-C reaches them too, but the main process ends them when it has saved."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run_child(command: Sequence[str]) -> int:
    """Run a command and return its exit status; on a signal let it end by itself, as a training run does.

    The terminal sends Ctrl-C to the child as well. SIGTERM reaches this process alone, and is passed on.
    """
    child = subprocess.Popen(command)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: child.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items() if in_main_thread}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
