"""How many steps fit into a given time: measured on a run's first steps, then fixed, so that schedules have an end."""

STEPS = 10
"""Number of steps to skip before measuring, and the smallest number of steps to measure."""
SKIPPED, MEASURED = 0.05, 0.03
"""Shares of the time: the most to spend on skipped steps, and the least to spend on measured ones."""
LONGEST = 0.1
"""Share of the time after which measuring ends, even if fewer than `STEPS` steps were measured."""
USED = 0.98
"""Share of the time to plan steps for, so that a machine that slows down a little still completes the schedule."""


class Pace:
    """Finds the number of steps that a run of `seconds` has. Call `steps` after every step: it returns the number once.

    The first step is not measured, because it compiles and allocates. Nor are the next `STEPS` ones, or as many as fit
    into `SKIPPED` of the time, in which a GPU's caches and clocks and the search for a number of threads settle.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.decided = False
        self._first: tuple[int, float] | None = None
        self._start: tuple[int, float] | None = None

    def is_due(self, step: int, elapsed: float) -> bool:
        """Whether `steps` reads the clock after this step, so that the device must be synchronised first."""
        if self.decided:
            return False
        if self._first is None:
            return True
        start_step, start_seconds = self._first if self._start is None else self._start
        count, spent = step - start_step, elapsed - start_seconds
        if self._start is None:
            return count >= STEPS or spent >= SKIPPED * self.seconds
        enough = count >= STEPS and spent >= MEASURED * self.seconds
        return enough or spent >= LONGEST * self.seconds

    def steps(self, step: int, elapsed: float) -> int | None:
        """The total number of steps of the run, in the call in which it becomes known; None before and afterwards.

        Args:
            step: number of completed steps.
            elapsed: seconds of training so far.
        """
        if not self.is_due(step, elapsed):
            return None
        if self._first is None:
            self._first = (step, elapsed)
        elif self._start is None:
            self._start = (step, elapsed)
        else:
            start_step, start_seconds = self._start
            self.decided = True
            rate = (step - start_step) / max(1e-9, elapsed - start_seconds)
            return step + max(1, int(rate * (USED * self.seconds - elapsed)))
        return None
