"""The one exception for mistakes a user can make and mend."""

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input: a config key, a file, a label, a size. The message says what was got, what was wanted, what to do.

    Scripts print the message without a traceback and exit with status 2.
    """


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """`"; did you mean 'depth'?"` for the nearest allowed name, or `""` when none is near."""
    near = difflib.get_close_matches(str(given), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
