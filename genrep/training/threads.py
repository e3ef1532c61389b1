"""How many CPU threads a run uses. Measured, because it depends on both the model's size and the machine's load.

A layer of a small model takes microseconds, and its threads wait for each other after every layer. When another process
occupies one of the cores, that means waiting for the scheduler, milliseconds each time: next to a busy process, a GAN of 128
channels trained at 147 images/s with two threads and at 1,094 with one. A large model hardly waits, and on an idle machine
gains from every core.
"""

import os
from collections.abc import Sequence

import torch

BLOCK_SECONDS = 0.25
"""How long a number of threads is tried at a time."""
ROUNDS = 2
"""How often all are tried in turn, so that a burst of load does not hit only one of them."""
LONG_STEP = 1.0
"""Steps longer than this many seconds keep all cores: their threads work far longer than they wait."""
MOST = torch.get_num_threads()
"""torch's initial number, one per core; read at import because an earlier run in this process may have set fewer."""
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def is_fixed() -> bool:
    """Whether the environment sets the number of threads."""
    return any(os.environ.get(name) for name in ENVIRONMENT)


def candidates(most: int) -> list[int]:
    """`most` threads, repeatedly halved down to one: `[16, 8, 4, 2, 1]`."""
    counts = []
    while most > 1:
        counts.append(most)
        most //= 2
    return [*counts, 1]


class ThreadSearch:
    """Tries several numbers of threads during the first steps of a run, for about a second, and keeps the fastest.

    Call `step_took` with the seconds of every step; it sets the number for the next one. The steps train as usual.
    """

    def __init__(self, counts: Sequence[int]):
        self.chosen: int | None = None
        self.seconds = {count: 0.0 for count in counts}
        self.steps = {count: 0 for count in counts}
        self._blocks = list(counts) * ROUNDS
        self._fresh, self._block_seconds = True, 0.0
        if len(counts) == 1:
            self._choose(counts[0])
        else:
            torch.set_num_threads(self._blocks[0])

    def step_took(self, seconds: float) -> bool:
        """Count a step; True if it was the last one of the search, which sets `chosen`."""
        if self.chosen is not None:
            return False
        if self._fresh:  # not timed: it started the threads, and the first one of all allocated and compiled
            self._fresh = False
            return False
        count = self._blocks[0]
        self.seconds[count] += seconds
        self.steps[count] += 1
        self._block_seconds += seconds
        # `seconds` is keyed by the numbers of threads, and the largest is all cores
        if seconds > LONG_STEP:
            self._choose(max(self.seconds))
        # by time, not by steps: fast steps need many to be measured, slow ones would make the search long
        elif self._block_seconds >= BLOCK_SECONDS:
            self._blocks.pop(0)
            self._fresh, self._block_seconds = True, 0.0
            if self._blocks:
                torch.set_num_threads(self._blocks[0])
            else:
                self._choose(max(self.rates, key=lambda count: self.rates[count]))
        return self.chosen is not None

    @property
    def rates(self) -> dict[int, float]:
        """Steps per second, by the number of threads, for those already tried."""
        return {count: self.steps[count] / self.seconds[count] for count in self.steps if self.steps[count]}

    def _choose(self, count: int) -> None:
        self.chosen = count
        torch.set_num_threads(count)
