"""A script that runs another one lets it save after a signal."""

import os
import signal
import subprocess
import sys
import time

import pytest

from genrep.training.interrupts import run_child

# Prints that it has started, and takes half a second to save after a signal; a second signal would end it at once.
CHILD = """
import signal, sys, time
def save(number, frame):
    signal.signal(number, signal.SIG_DFL)
    time.sleep(0.5)
    open(sys.argv[1], "w").write("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
print("started", flush=True)
time.sleep(60)
"""
PARENT = f"""
import sys
from genrep.training.interrupts import run_child
sys.exit(run_child([sys.executable, "-c", {CHILD!r}, sys.argv[1]]))
"""


def test_the_exit_status_is_returned_and_handlers_are_restored():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run_child([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("whole_group", [False, True])
def test_the_child_saves_whichever_process_is_signalled(tmp_path, whole_group):
    """SIGTERM goes to the parent only, as from `kill`; Ctrl-C to both processes, as from a terminal."""
    command = [sys.executable, "-c", PARENT, str(tmp_path / "state")]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout.readline() == "started\n"
    time.sleep(0.1)
    if whole_group:
        os.killpg(parent.pid, signal.SIGINT)
    else:
        parent.send_signal(signal.SIGTERM)
    assert parent.wait(timeout=30) == 75
    assert (tmp_path / "state").read_text() == "saved"
