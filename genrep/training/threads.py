"""How many CPU threads a run uses. Measured, because neither the model's size nor the load alone decides it.

A layer of a small model takes microseconds. Its threads wait for each other after every one, and where another process
holds one of the cores they wait for the scheduler, milliseconds each time: beside a busy process a GAN of 128 channels
trained at 147 images/s with two threads and at 1,094 with one. A large model loses nothing by it and gains a core's worth on a quiet machine.
"""

import os
from collections.abc import Sequence

import torch

BLOCK_SECONDS = 0.25
"""How long each number of threads is tried at a time."""
ROUNDS = 2
"""How often all are tried in turn: a burst of load must not fall on one of them alone."""
LONG_STEP = 1.0
"""Seconds of a step above which all cores are kept: threads then work far longer than they wait."""
MOST = torch.get_num_threads()
"""What torch starts with, a thread for each core: a run before this one in the process may have set fewer."""
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


def is_fixed() -> bool:
    """Whether the environment says how many threads to use."""
    return any(os.environ.get(name) for name in ENVIRONMENT)


def candidates(most: int) -> list[int]:
    """`most` threads, halves of that, and one: `[16, 8, 4, 2, 1]`."""
    counts = []
    while most > 1:
        counts.append(most)
        most //= 2
    return [*counts, 1]


class ThreadSearch:
    """Tries numbers of threads on the first steps of a run, about a second of them, and keeps the fastest.

    Give `step_took` the seconds of every step; it sets the number for the next one. The steps count as any others.
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
        """Count a step; True when it was the last one of the search, and `chosen` is set."""
        if self.chosen is not None:
            return False
        if self._fresh:  # it started the threads, and perhaps the whole model
            self._fresh = False
            return False
        count = self._blocks[0]
        self.seconds[count] += seconds
        self.steps[count] += 1
        self._block_seconds += seconds
        if seconds > LONG_STEP:
            self._choose(max(self.seconds))
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
        """Steps per second by number of threads, of those that were tried."""
        return {count: self.steps[count] / self.seconds[count] for count in self.steps if self.steps[count]}

    def _choose(self, count: int) -> None:
        self.chosen = count
        torch.set_num_threads(count)
