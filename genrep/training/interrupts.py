"""Stopping a run on a signal without losing work: Ctrl-C, or the SIGTERM that clusters send before reclaiming a machine."""

import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Between `start` and `stop`, the first Ctrl-C or SIGTERM only sets `received`; a second one ends the process at once.

    A training step is never interrupted: the loop checks `received` after every step. Between steps, for instance during a
    long evaluation, the handler calls `between_steps`, which may raise.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.between_steps: Callable[[], None] | None = None
        self._before: dict[signal.Signals, Any] = {}

    def start(self) -> None:
        """Install the handlers. Does nothing outside the main thread, the only one that Python delivers signals to."""
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}

    def stop(self) -> None:
        """Restore the previous handlers."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.stop()  # so that a second signal ends the process: saving a large model can take long
        self.received = signal.Signals(number)
        print(
            f"\n{self.received.name}: saving a checkpoint after this step; send it again to quit at once",
            file=sys.stderr,
            flush=True,
        )
        if self.between_steps is not None:
            self.between_steps()


def ignore_signals(worker: int) -> None:
    """Initialise a data loader's worker so that only the main process reacts to signals."""
    # The terminal sends Ctrl-C to the whole process group. A worker that died of it would fail the step in progress; the
    # main process ends its workers itself once it has saved.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def run_child(command: Sequence[str]) -> int:
    """Run a command and return its exit status; after a signal, wait for the child to save and exit."""
    # The terminal sends Ctrl-C to the child as well, but SIGTERM reaches only this process, which passes it on.
    child = subprocess.Popen(command)
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: child.terminate()}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items() if in_main_thread}
    try:
        return child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
