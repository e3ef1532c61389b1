"""One writer at a time in a folder, whatever becomes of the writer."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from genrep.errors import InputError
from genrep.lock import LOCK, FolderLock, release_all

PROJECT = Path(__file__).parent.parent
HOLD = """
import sys, time
from genrep.lock import FolderLock
with FolderLock(sys.argv[1], "a run"):
    {then}
    print("held", flush=True)
    time.sleep(60)
"""


def holder(folder, then: str = "pass") -> subprocess.Popen:
    """A process that holds a folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD.format(then=then), str(folder)], stdout=subprocess.PIPE, text=True, cwd=PROJECT
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    process = holder(tmp_path)
    try:
        with (
            pytest.raises(
                InputError,
                match=rf"{re.escape(str(tmp_path))} is in use: a cache is being written there by process {process.pid} on .+ since "
                r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \(-c .*\). Wait until it ends or stop it, or choose another folder",
            ),
            FolderLock(tmp_path, "a cache"),
        ):
            pass
    finally:
        process.kill()
        process.wait()


def test_a_killed_process_leaves_no_obstacle(tmp_path):
    process = holder(tmp_path)
    process.kill()
    process.wait()
    assert (tmp_path / LOCK).exists()
    with FolderLock(tmp_path, "a run"):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_worker_does_not_keep_the_lock(tmp_path):
    """A loader's workers outlive a killed trainer by seconds."""
    process = holder(tmp_path, "import os\n    if os.fork() == 0: time.sleep(20); os._exit(0)")
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    while True:  # on a busy machine the fork may take a while to get to where it lets go
        try:
            with FolderLock(tmp_path, "a run"):
                break
        except InputError:
            assert time.monotonic() - started < 5
            time.sleep(0.05)


def test_a_folder_is_held_until_the_block_ends(tmp_path):
    folder = tmp_path / "new" / "run"
    with FolderLock(folder, "a run"):
        with pytest.raises(InputError, match="is in use: a run is being written there by process"):
            FolderLock(folder, "a run").__enter__()
        with pytest.raises(InputError, match="is in use"):
            FolderLock(folder, "a run").__enter__()  # the refusal before has not let go of it
    with pytest.raises(ValueError, match="half way"), FolderLock(folder, "a run"):
        raise ValueError("half way")
    assert os.listdir(folder) == []


def test_a_lock_file_that_says_nothing_still_locks(tmp_path):
    with FolderLock(tmp_path, "a run"):
        (tmp_path / LOCK).write_text("")
        with pytest.raises(InputError, match="by another process"):
            FolderLock(tmp_path, "a run").__enter__()


def test_a_failure_to_create_the_folder_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file is in the way"):
        FolderLock(tmp_path / "file" / "run", "a run").__enter__()


def test_the_end_of_a_script_lets_go_of_all_folders(tmp_path):
    lock = FolderLock(tmp_path, "a run").__enter__()
    with pytest.raises(InputError, match="is in use"), FolderLock(tmp_path, "a run"):
        pass
    release_all()
    assert not (tmp_path / LOCK).exists()
    with FolderLock(tmp_path, "a run"):
        lock.__exit__(None, None, None)
        assert (tmp_path / LOCK).exists(), "one that was let go of holds nothing"
