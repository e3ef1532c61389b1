"""What a killed process leaves: `kill -9` in the middle of writing, signals, and resuming bit for bit."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from genrep.training.checkpoint import list_checkpoints, load_checkpoint
from genrep.training.config import STOPPED
from tests.scripts import AUTOENCODER, PROJECT, diffusion, run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")

# Runs a script, and kills its process in the COUNT-th call of a function that all file writing passes through.
KILLER = """
import os, runpy, signal, sys
count, name, *sys.argv = sys.argv[1:]
module = __import__(name.rpartition(".")[0], fromlist=["x"])
original, calls = getattr(module, name.rpartition(".")[2]), 0
def killing(*arguments, **options):
    global calls
    calls += 1
    if calls == int(count):
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
setattr(module, name.rpartition(".")[2], killing)
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def start(*command: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, *map(str, command)], cwd=PROJECT, stderr=subprocess.PIPE, text=True)


def killed(count: int, function: str, *command: object) -> None:
    process = start("-c", KILLER, count, function, *command)
    output = process.communicate(timeout=120)[1]
    assert process.returncode == -signal.SIGKILL, output


def weights(folder):
    return load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).tensors


EVERY_STEP = [*AUTOENCODER, "--run.steps", 3, "--run.save_every", 1]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/autoencoder.py", *EVERY_STEP, "--run.folder", folder)
    return folder


# In the second checkpoint: after its weights, before its index, before its renaming, and before an old one is deleted.
@pytest.mark.parametrize(
    ("count", "function"),
    [
        (4, "genrep.training.checkpoint.save_file"),
        pytest.param(2, "genrep.training.checkpoint.write_json", marks=pytest.mark.slow),
        pytest.param(2, "genrep.training.checkpoint._hash_index", marks=pytest.mark.slow),
        pytest.param(1, "shutil.rmtree", marks=pytest.mark.slow),
    ],
)
def test_kill_9_while_a_checkpoint_is_written(straight, tmp_path, count, function):
    folder = tmp_path / "run"
    killed(count, function, "train/autoencoder.py", *EVERY_STEP, "--run.folder", folder)
    assert list_checkpoints(folder / "checkpoints")[0].name == "step-00000001"
    run("train/autoencoder.py", *EVERY_STEP, "--run.folder", folder)
    torch.testing.assert_close(weights(folder), weights(straight), rtol=0, atol=0)
    left = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert left[-2:] == ["step-00000002", "step-00000003"] and not any("partial" in name for name in left)


def test_kill_9_while_a_shard_is_written(stage1, tmp_path):
    """After the second shard's bytes are written, before it is renamed."""
    command = [*diffusion(stage1, tmp_path), "--latents.shard_size", 300]
    killed(4, "os.replace", "train/latents.py", *command)
    run("train/latents.py", *command)
    run("train/latents.py", *diffusion(stage1, tmp_path / "straight"), "--latents.shard_size", 300)
    for path in sorted((tmp_path / "straight" / "latents").glob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "latents" / path.name).read_bytes()
    assert not list((tmp_path / "latents").glob("*.partial*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_rerunning_resumes(straight, tmp_path, number):
    """In a separate process, as on a cluster, and with worker processes, which Ctrl-C reaches as well."""
    folder, workers = tmp_path / "run", ["--data.num_workers", 1]
    long = [*EVERY_STEP, "--run.save_every", 10**6, "--run.steps", 10**6, *workers]
    process = start("train/autoencoder.py", *long, "--run.folder", folder)
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text().count("\n") > 2:
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    started = time.monotonic()
    process.send_signal(number)
    output = process.communicate(timeout=60)[1]
    assert process.returncode == STOPPED and "Re-running the command resumes from it" in output, output
    assert time.monotonic() - started < 20
    checkpoints = list_checkpoints(folder / "checkpoints")
    assert len(checkpoints) == 1
    step = int(checkpoints[0].name.removeprefix("step-"))
    more = [*EVERY_STEP, "--run.steps", step + 2]
    run("train/autoencoder.py", *more, "--run.folder", folder)
    run("train/autoencoder.py", *more, "--run.folder", tmp_path / "straight")
    torch.testing.assert_close(weights(folder), weights(tmp_path / "straight"), rtol=0, atol=0)


@pytest.mark.slow
def test_a_second_signal_quits_at_once(tmp_path):
    folder = tmp_path / "run"
    slow = [*AUTOENCODER, "--run.steps", 10**6, "--run.batch", 1024, "--run.save_every", 10**6]
    process = start("train/autoencoder.py", *slow, "--run.folder", folder)
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").read_text():
        time.sleep(0.05)
        assert process.poll() is None, process.stderr.read()
    for _ in range(2):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.02)
    process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, STOPPED)  # the step may have ended between the two signals
