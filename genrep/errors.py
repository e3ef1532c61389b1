"""The exceptions that scripts turn into one message: a mistake that users can fix, and a signal to stop."""

import difflib
from collections.abc import Callable, Iterable


class InputError(ValueError):
    """Bad input: a config key, a file, a label, a size. The message says what is required, what was got and what to do.

    Scripts print the message without a traceback and exit with status 2.
    """


def did_you_mean(name: object, allowed: Iterable[str]) -> str:
    """`"; did you mean 'depth'?"` for the closest allowed name, or `""` if none is close."""
    near = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


class Stopped(KeyboardInterrupt):
    """A signal asked a run to stop, and its state is consistent: `save()` saves it and returns what it saved."""

    def __init__(self, save: Callable[[], str]):
        super().__init__("stopped by a signal")
        self.save = save
