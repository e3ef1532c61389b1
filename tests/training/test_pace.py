"""How many steps fit into a time, found from the first of them."""

import json

import pytest
import torch
from safetensors.torch import load_file

from genrep.training.checkpoint import list_checkpoints, load_checkpoint
from genrep.training.pace import LONGEST, SKIPPED, STEPS, USED, Pace
from tests.scripts import run

CLASSIFIER = ["configs/digits/classifier.yaml", "--run.batch", 8, "--run.steps", "null", "--classifier.width", 8]


def answers(seconds: float, *step_seconds: float) -> dict[int, int]:
    """What a pace says, by the step after which it says it."""
    pace, elapsed, said = Pace(seconds), 0.0, {}
    for step, took in enumerate(step_seconds, start=1):
        elapsed += took
        count = pace.steps(step, elapsed)
        if count is not None:
            said[step] = count
    return said


def test_the_first_steps_do_not_count():
    """A first step of 20 s, ten of 1 s and then 0.25 s each: 4 steps per second for what is left of 98 of 100 s."""
    said = answers(100.0, 20.0, *[0.5] * STEPS, *[0.25] * 200)
    (step, count), *more = said.items()
    assert not more and step == 1 + STEPS + 12  # 3 s of 0.25 s are 12 steps, more than the ten that are asked for
    elapsed = 20 + 0.5 * STEPS + 0.25 * 12
    assert count == step + int((100 * USED - elapsed) * 4)


def test_long_steps_are_decided_within_a_tenth_of_the_time():
    said = answers(100.0, *[4.0] * 30)
    (step, count), *more = said.items()
    assert not more and 4.0 * (step - 1) <= 100 * (SKIPPED + LONGEST) + 2 * 4.0
    assert count == pytest.approx(100 * USED / 4, abs=1)


def test_a_time_that_is_over_leaves_one_more_step():
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


def test_its_number_of_steps_is_kept(paced, capsys):
    before = (paced / "model" / "diffusion_pytorch_model.safetensors").read_bytes()
    run("train/classifier.py", *CLASSIFIER, "--run.seconds", 1.5, "--run.folder", paced, "--run.threads", 1)
    assert "fit into" not in capsys.readouterr().out
    assert (paced / "model" / "diffusion_pytorch_model.safetensors").read_bytes() == before


def test_it_equals_a_run_of_as_many_steps(tmp_path):
    """Where the warm-up is longer than the measurement, whose rates do not depend on the number of steps."""
    warm = [*CLASSIFIER, "--optimizer.warmup_steps", 10_000, "--run.threads", 1]
    run("train/classifier.py", *warm, "--run.seconds", 1, "--run.folder", tmp_path / "seconds")
    steps = list_checkpoints(tmp_path / "seconds" / "checkpoints")[-1].name.removeprefix("step-")
    run("train/classifier.py", *warm, "--run.folder", tmp_path / "steps", "--run.steps", int(steps))
    models = [
        load_file(tmp_path / name / "model" / "diffusion_pytorch_model.safetensors") for name in ("seconds", "steps")
    ]
    torch.testing.assert_close(*models, rtol=0, atol=0)
