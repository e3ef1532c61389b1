"""How many steps fit into a time: measured on the first steps of a run, then fixed, so that schedules have an end."""

STEPS = 10
"""Steps that are left out at the start, and as many, at least, that are measured."""
SKIPPED, MEASURED = 0.05, 0.03
"""Shares of the time after which fewer steps are left out, and which the measured steps take at least."""
LONGEST = 0.1
"""Share of the time after which it is decided, however few steps were measured."""
USED = 0.98
"""Share of the time that the steps are planned for: a machine that slows down a little still comes to the end of them."""


class Pace:
    """Finds the number of steps of a run of `seconds`. Give `steps` every step's time; it answers once, then None.

    The first step does not count at all: it compiles and allocates. Neither do the next ones, `STEPS` or as many as fit
    into `SKIPPED` of the time, since a GPU's caches and clocks, or the search for a number of threads, settle in them.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.decided = False
        self._first: tuple[int, float] | None = None
        self._start: tuple[int, float] | None = None

    def is_due(self, step: int, elapsed: float) -> bool:
        """Whether `steps` does something after this step, so that the clock must be exact: wait for the device before."""
        if self.decided:
            return False
        if self._first is None:
            return True
        begun, since = self._first if self._start is None else self._start
        count, spent = step - begun, elapsed - since
        if self._start is None:
            return count >= STEPS or spent >= SKIPPED * self.seconds
        enough = count >= STEPS and spent >= MEASURED * self.seconds
        return enough or spent >= LONGEST * self.seconds

    def steps(self, step: int, elapsed: float) -> int | None:
        """The number of steps that the run has in all, once it is known; None before and afterwards.

        Args:
            step: steps done.
            elapsed: seconds of training up to then.
        """
        if not self.is_due(step, elapsed):
            return None
        if self._first is None:
            self._first = (step, elapsed)
        elif self._start is None:
            self._start = (step, elapsed)
        else:
            begun, since = self._start
            self.decided = True
            rate = (step - begun) / max(1e-9, elapsed - since)
            return step + max(1, int(rate * (USED * self.seconds - elapsed)))
        return None
