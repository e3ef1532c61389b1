"""One writer at a time in a folder: an advisory lock that dies with the process that holds it. Does not import torch."""

import contextlib
import errno
import json
import os
import platform
import shlex
import sys
import time
import warnings
import weakref
from pathlib import Path
from types import TracebackType

from genrep.errors import InputError
from genrep.files import make_folder, writing_to

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
_PAST_THE_TEXT = 1 << 30
"""On Windows other processes cannot read locked bytes, so the lock is on a byte beyond the end of the file."""
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}


class FolderLock:
    """Locks a folder for the duration of a `with` block; the folder is created if missing.

    The lock is the operating system's, on the file `.lock`, which says who holds it. It ends with the process, however that
    ends, so a file left by a killed process does no harm. Deleting the file while it is locked lets a second process in.

    Args:
        folder: the folder to lock.
        what: what is written there, for the message to a second process: "a training run", "a latent cache".

    Raises:
        InputError: another process has locked the folder, or the folder is not writable.
    """

    def __init__(self, folder: Path | str, what: str):
        self.path, self.what = Path(folder) / LOCK, what
        self._file: int | None = None

    def __enter__(self) -> "FolderLock":
        make_folder(self.path.parent)
        with writing_to(self.path):
            while self._file is None:
                file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    taken = _take(file)
                    # The previous holder may have deleted the file after it was opened here; a lock on it means nothing.
                    if taken and _is_at(file, self.path):
                        self._file = file
                    elif not taken:
                        raise InputError(self._refusal())
                except OSError as error:
                    if error.errno not in _NO_LOCKS:
                        raise
                    warnings.warn(
                        f"{self.path.parent}: this file system has no locks, so nothing stops a second process from "
                        "writing there at the same time",
                        stacklevel=2,
                    )
                    return self
                finally:
                    if self._file is None:
                        os.close(file)
            _held.add(self)
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps(_whoami()).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        _held.discard(self)
        if sys.platform == "win32":  # a file that is open, here or in another process, cannot be deleted
            os.close(self._file)
            with contextlib.suppress(PermissionError, FileNotFoundError):
                self.path.unlink()
        else:
            self.path.unlink(missing_ok=True)
            os.close(self._file)
        self._file = None

    def __del__(self) -> None:
        self.__exit__(None, None, None)

    def _refusal(self) -> str:
        try:
            holder = json.loads(self.path.read_text(encoding="utf-8"))
            who = f"process {holder['pid']} on {holder['host']} since {holder['started']} ({holder['command']})"
        except (OSError, ValueError, KeyError, TypeError):  # it has the lock but has not written its name yet
            who = "another process"
        return (
            f"{self.path.parent} is in use: {self.what} is being written there by {who}. "
            "Wait until it ends or stop it, or choose another folder"
        )


_held: "weakref.WeakSet[FolderLock]" = weakref.WeakSet()


def release_all() -> None:
    """Release every lock of this process, for example after an error has ended a run."""
    for lock in list(_held):
        lock.__exit__(None, None, None)


def _let_go() -> None:
    """Called in a forked child, which must not keep the lock of a parent that is killed."""
    for lock in _held:
        if lock._file is not None:
            os.close(lock._file)  # the parent keeps its lock, which ends with the last open copy of the file
            lock._file = None
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


def _whoami() -> dict[str, object]:
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": shlex.join(sys.argv),
    }


def _take(file: int) -> bool:
    """Try to lock an open file; False if another process has it."""
    try:
        if sys.platform == "win32":
            os.lseek(file, _PAST_THE_TEXT, os.SEEK_SET)
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
            os.lseek(file, 0, os.SEEK_SET)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True


def _is_at(file: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False
