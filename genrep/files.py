"""Atomic writing: a file is complete or absent. All writing goes through here, and all hashes. Does not import torch."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from genrep.errors import InputError

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file would be larger than this system allows (see `ulimit -f`)",
    errno.EACCES: "permission is denied; choose another folder, or change its permissions",
    errno.EPERM: "permission is denied; choose another folder, or change its permissions",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a file is in the way, where a folder is needed; choose another path",
    errno.EEXIST: "a file is in the way, where a folder is needed; choose another path",
    errno.EISDIR: "a folder is in the way; give the name of a file",
}


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Errors of the disk, whatever is being written."""


def explain(error: OSError) -> str:
    """Why a file could not be written, and what to do."""
    return _REASONS.get(error.errno or 0, str(error))


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """A temporary path next to `path` for a file or a folder, which replaces `path` when the block ends.

    If the block fails, the temporary path is removed and `path` stays as it was. The parent folder is created if missing.

    Raises:
        InputError: writing fails: a full disk, a file-size limit, no permission, a path below a file.
    """
    path = Path(path)
    _refuse_device(path)
    partial = path.with_name(path.name + ".partial")
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove(partial)  # left by a process that was killed
        try:
            yield partial
            if partial.is_dir() and path.is_dir():  # a folder can only be renamed onto an empty one
                old = path.with_name(path.name + ".old")
                remove(old)
                os.replace(path, old)
                os.replace(partial, path)
                remove(old)
            else:
                os.replace(partial, path)
        except BaseException:  # Ctrl-C too
            remove(partial)
            raise


def check_writable(path: Path | str) -> Path:
    """InputError if no file can be written to `path`. Writes nothing, so it can be called before the work."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} cannot be written: {_REASONS[errno.EISDIR]}")
    _refuse_device(path)
    above = next(folder for folder in path.absolute().parents if folder.exists())
    for fails, number in ((not above.is_dir(), errno.ENOTDIR), (not os.access(above, os.W_OK), errno.EACCES)):
        if fails:
            raise InputError(f"{path} cannot be written: {_REASONS[number]}")
    return path


def _refuse_device(path: Path) -> None:
    """InputError for a device such as /dev/null, which `replacing` would turn into a file for everybody."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise InputError(f"{path} is not a file but a device or a pipe; give the name of a file")


@contextlib.contextmanager
def writing_to(path: Path | str) -> Iterator[None]:
    """Turn errors while `path` is written into one InputError that names it and says what to do."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {explain(error)}") from error
    except (SafetensorError, RuntimeError) as error:  # safetensors and torch.save wrap the system's error in their own
        # torch's writer reports a short write without a reason, so its failures are taken for a full disk
        if isinstance(error, SafetensorError) and "I/O error" not in str(error) and "IoError" not in str(error):
            raise
        if isinstance(error, RuntimeError) and not any(
            word in str(error) for word in ("PytorchStreamWriter", "enforce fail at inline_container", "iostream error")
        ):
            raise
        raise InputError(f"{path} cannot be written: the disk is full, or the file too large ({error})") from error


def remove(path: Path) -> None:
    """Delete a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_folder(path: Path | str) -> Path:
    """Create a folder and its parents. InputError if that fails, for example below a file."""
    path = Path(path)
    with writing_to(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_text(path: Path | str, text: str) -> Path:
    """Write a text file atomically. InputError if that fails."""
    path = Path(path)
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")
    return path


def write_json(path: Path | str, content: Any) -> Path:
    """Write plain data as indented JSON, atomically. InputError if that fails."""
    return write_text(path, json.dumps(content, indent=2) + "\n")


def file_hash(path: Path | str) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """Hash of the model files (JSON and safetensors) in a folder and below it."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors")):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()[:16]
