"""How many steps fit into a given time, estimated from the first ones."""

import json

import pytest
import torch
from safetensors.torch import load_file

from genrep.training.checkpoint import list_checkpoints, load_checkpoint
from genrep.training.pace import LONGEST, SKIPPED, STEPS, USED, Pace
from tests.scripts import run

CLASSIFIER = ["configs/digits/classifier.yaml", "--run.batch", 8, "--run.steps", "null", "--classifier.width", 8]


def answers(seconds: float, *step_seconds: float) -> dict[int, int]:
    """The answers of a pace, by the step after which it gives them."""
    pace, elapsed, counts = Pace(seconds), 0.0, {}
    for step, duration in enumerate(step_seconds, start=1):
        elapsed += duration
        count = pace.steps(step, elapsed)
        if count is not None:
            counts[step] = count
    return counts


def test_the_first_steps_do_not_count():
    """A first step of 20 s, ten of 0.5 s, then steps of 0.25 s: 4 steps per second in the rest of 98 of the 100 s."""
    ((step, count),) = answers(100.0, 20.0, *[0.5] * STEPS, *[0.25] * 200).items()
    assert step == 1 + STEPS + 12  # 3 s are 12 steps of 0.25 s, more than the minimum of ten
    elapsed = 20 + 0.5 * STEPS + 0.25 * 12
    assert count == step + int((100 * USED - elapsed) * 4)


def test_long_steps_are_measured_for_a_limited_share_of_the_time():
    ((step, count),) = answers(100.0, *[4.0] * 30).items()
    assert 4.0 * (step - 1) <= 100 * (SKIPPED + LONGEST) + 2 * 4.0
    assert count == pytest.approx(100 * USED / 4, abs=1)


def test_a_run_whose_time_is_up_has_one_more_step():
    assert list(answers(1.0, *[5.0] * 5).values()) == [4]


@pytest.fixture(scope="module")
def paced(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paced") / "run"
    run("train/classifier.py", *CLASSIFIER, "--run.seconds", 1.5, "--run.folder", folder, "--run.threads", 1)
    return folder


def test_a_run_of_seconds_ends_with_the_steps_that_fit(paced):
    (checkpoint,) = [load_checkpoint(path) for path in list_checkpoints(paced / "checkpoints")][-1:]
    rows = [json.loads(line) for line in (paced / "metrics.jsonl").read_text().splitlines()]
    assert checkpoint.step == checkpoint.extra["num_steps"] == rows[-1]["step"]
    assert rows[-1]["seconds"] < 1.5 + 0.5


def test_a_resumed_run_of_seconds_keeps_its_number_of_steps(paced, capsys):
    before = (paced / "model" / "diffusion_pytorch_model.safetensors").read_bytes()
    run("train/classifier.py", *CLASSIFIER, "--run.seconds", 1.5, "--run.folder", paced, "--run.threads", 1)
    assert "fit into" not in capsys.readouterr().out
    assert (paced / "model" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_a_run_of_seconds_equals_one_of_as_many_steps(tmp_path):
    """The warm-up is longer than both runs, so that the learning rates do not depend on the number of steps."""
    warm = [*CLASSIFIER, "--optimizer.warmup_steps", 10_000, "--run.threads", 1]
    run("train/classifier.py", *warm, "--run.seconds", 1, "--run.folder", tmp_path / "seconds")
    steps = list_checkpoints(tmp_path / "seconds" / "checkpoints")[-1].name.removeprefix("step-")
    run("train/classifier.py", *warm, "--run.folder", tmp_path / "steps", "--run.steps", int(steps))
    models = [
        load_file(tmp_path / name / "model" / "diffusion_pytorch_model.safetensors") for name in ("seconds", "steps")
    ]
    torch.testing.assert_close(*models, rtol=0, atol=0)
