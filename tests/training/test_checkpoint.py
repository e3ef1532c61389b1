"""Checkpoints and run folders: complete or absent, verified, resumed from, never mixed up."""

import json
import os
import re
import shutil
import signal

import pytest
import torch
from accelerate.tracking import get_available_trackers
from torch import nn

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError, Stopped
from genrep.render import from_uint8
from genrep.training import threads
from genrep.training.accelerator import make_accelerator
from genrep.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from genrep.training.config import read_config
from genrep.training.log import RunLog
from genrep.training.optimizer import learning_rate
from genrep.training.order import SignalStream
from genrep.training.run import Run
from genrep.training.specs import ClassifierRun, EMASpec, OptimizerSpec
from genrep.training.state import TrainingState

FILES = ["average.safetensors", "checkpoint.json", "model.safetensors", "optimizer.pt"]


def checkpoint(step: int) -> Checkpoint:
    generator = torch.Generator().manual_seed(step)
    tensors = {
        name: {"a.weight": torch.randn(3, 4, generator=generator), "b": torch.arange(step)}
        for name in ("model", "average")
    }
    optimizer = [
        {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.randn(2, generator=generator)}},
            "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.99)}],
        }
    ]
    return Checkpoint(step, tensors, {"optimizer": optimizer}, {"average_updates": 7, "note": "ø"})


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# checkpoints


def test_a_loaded_checkpoint_equals_the_saved_one(tmp_path):
    saved = checkpoint(5)
    path = save_checkpoint(tmp_path / "checkpoints", saved, keep=2)
    assert path == tmp_path / "checkpoints" / "step-00000005" and names(path) == FILES
    loaded = load_checkpoint(path)
    assert (loaded.step, loaded.extra) == (5, {"average_updates": 7, "note": "ø"})
    torch.testing.assert_close(loaded.tensors, saved.tensors, rtol=0, atol=0)
    torch.testing.assert_close(
        loaded.optimizers["optimizer"][0]["state"], saved.optimizers["optimizer"][0]["state"], rtol=0, atol=0
    )
    assert loaded.optimizers["optimizer"][0]["param_groups"] == saved.optimizers["optimizer"][0]["param_groups"]


def test_views_of_larger_tensors_are_saved_by_value(tmp_path):
    large = torch.randn(6, 4)
    saved = Checkpoint(1, {"model": {"transposed": large.t(), "rows": large[::2].clone().requires_grad_(True)}}, {}, {})
    loaded = load_checkpoint(save_checkpoint(tmp_path, saved, 1)).tensors["model"]
    assert torch.equal(loaded["transposed"], large.t()) and torch.equal(loaded["rows"], large[::2])


def test_the_newest_are_kept(tmp_path):
    for step in (8, 9, 10, 100):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-00000010", "step-00000100"] == names(tmp_path)


def test_saving_a_step_again_replaces_it(tmp_path):
    save_checkpoint(tmp_path, checkpoint(3), keep=2)
    other = Checkpoint(3, {"model": {"a.weight": torch.ones(1)}}, {}, {})
    loaded = load_checkpoint(save_checkpoint(tmp_path, other, keep=2))
    assert loaded.tensors["model"]["a.weight"].tolist() == [1.0] and loaded.tensors.keys() == {"model"}


def test_half_written_checkpoints_are_ignored_and_overwritten(tmp_path):
    partial = tmp_path / "step-00000009.partial"
    partial.mkdir(parents=True)
    (partial / "model.safetensors").write_bytes(b"half")
    (partial / "rubbish").write_bytes(b"half")
    assert list_checkpoints(tmp_path) == []
    path = save_checkpoint(tmp_path, checkpoint(9), keep=2)
    assert names(tmp_path) == ["step-00000009"] and names(path) == FILES
    load_checkpoint(path)


def test_a_missing_folder_has_no_checkpoints(tmp_path):
    assert list_checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("place", [0, 0.5, -1])
@pytest.mark.parametrize("name", [name for name in FILES if name != "checkpoint.json"])
def test_a_flipped_bit_is_found_and_the_file_named(tmp_path, name, place):
    path = save_checkpoint(tmp_path, checkpoint(5), keep=2)
    content = bytearray((path / name).read_bytes())
    content[int(place * len(content)) if place >= 0 else -1] ^= 1
    (path / name).write_bytes(content)
    advice = f"delete {path} to resume from the checkpoint before it, or start over with --restart"
    with pytest.raises(InputError, match=f"^{re.escape(f'{path / name}: damaged; {advice}')}$"):
        load_checkpoint(path)


def flipped_anywhere(path):
    """All versions of a file's content with a single bit flipped."""
    content = path.read_bytes()
    for place in range(len(content)):
        yield content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def test_a_flipped_bit_anywhere_in_the_index_is_found(tmp_path):
    path = save_checkpoint(tmp_path, Checkpoint(5, {"model": {"a": torch.ones(1)}}, {}, {"average_updates": 7}), keep=2)
    taken = []
    for content in flipped_anywhere(path / "checkpoint.json"):
        (path / "checkpoint.json").write_bytes(content)
        try:
            taken.append((load_checkpoint(path), content))
        except InputError as error:
            assert str(path) in str(error)
    assert taken == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"step": "x", "files": {}, "extra": {}}', b"\xff\xfe"])
def test_a_broken_index_is_named(tmp_path, content):
    path = save_checkpoint(tmp_path, checkpoint(5), keep=2)
    (path / "checkpoint.json").write_bytes(content)
    with pytest.raises(InputError, match=r"checkpoint.json: damaged or missing .*; delete .*step-00000005 to resume"):
        load_checkpoint(path)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(tmp_path, name):
    path = save_checkpoint(tmp_path, checkpoint(5), keep=2)
    (path / name).unlink()
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(path / name))}: .*missing.*; delete .* or start over with --restart"
    ):
        load_checkpoint(path)


class Attack:
    """Runs code if its pickle is executed."""

    def __reduce__(self):
        return os.mkdir, ("attacked",)


def test_pickles_are_never_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = save_checkpoint(tmp_path, Checkpoint(1, {}, {"optimizer": Attack()}, {}), keep=1)
    with pytest.raises(Exception, match="(?i)weights.only"):
        load_checkpoint(path)
    assert not (tmp_path / "attacked").exists()


# run folders


@pytest.fixture
def config(tmp_path):
    """Builds configs of a run in tmp_path, with some keys changed."""

    def config(optimizer=None, **run) -> ClassifierRun:
        settings = {"folder": str(tmp_path / "run"), "batch": 4, "steps": 50, "keep_checkpoints": 2, **run}
        settings = {key: value for key, value in settings.items() if value is not None}
        return ClassifierRun.model_validate(
            {"image_size": 8, "channels": 1, "optimizer": optimizer or {}, "run": settings}
        )

    return config


RUNS: list[Run] = []


def start(config: ClassifierRun, restart: bool = False) -> Run:
    """Start a run in place of the previous one, as if that one's process had ended."""
    while RUNS:
        RUNS.pop().release()
    RUNS.append(Run(config, config.run, restart))
    return RUNS[-1]


def tiny_state(run: Run) -> TrainingState:
    torch.manual_seed(0)
    return TrainingState(nn.Linear(64, 1), OptimizerSpec(), EMASpec())


def save_at(run: Run, *steps: int) -> None:
    for run.step in steps:
        run.save(tiny_state(run))


def test_a_new_run_writes_its_config_and_starts_at_0(config, tmp_path):
    run = start(config())
    assert (run.step, run.num_steps, run.checkpoint, run.process, run.is_main) == (0, 50, None, (0, 1), True)
    assert read_config(tmp_path / "run" / "config.yaml") == config().model_dump(mode="json")
    assert start(config(steps=None, images=203)).num_steps == 51


def test_a_run_resumes_from_its_newest_checkpoint(config):
    save_at(start(config()), 10, 20, 30)
    run = start(config())
    assert (run.step, run.checkpoint.step) == (30, 30)
    torch.testing.assert_close(run.checkpoint.tensors["model"], tiny_state(run).model.state_dict(), rtol=0, atol=0)
    assert names(run.folder / "checkpoints") == ["step-00000020", "step-00000030"]


def test_a_killed_save_resumes_from_the_previous_checkpoint(config):
    run = start(config())
    save_at(run, 10)
    (run.folder / "checkpoints" / "step-00000020.partial").mkdir()
    assert start(config()).step == 10


def test_a_damaged_checkpoint_stops_the_run_with_advice_that_helps(config):
    run = start(config())
    save_at(run, 10, 20)
    damaged = run.folder / "checkpoints" / "step-00000020"
    (damaged / "model.safetensors").write_bytes(b"x")
    advice = r"step-00000020/model.safetensors: damaged; delete .*step-00000020 to resume from the checkpoint before it"
    with pytest.raises(InputError, match=advice):
        start(config())
    shutil.rmtree(damaged)
    assert start(config()).step == 10


def test_another_config_is_refused_by_key(config):
    run = start(config())
    save_at(run, 10)
    saved = (run.folder / "config.yaml").read_bytes()
    with pytest.raises(InputError) as error:
        start(config(optimizer={"lr": 0.5, "betas": [0.8, 0.9]}, batch=8, seed=1))
    head, *lines = str(error.value).splitlines()
    assert head == (
        f"{run.folder} holds a run with another config. "
        "Give that config to resume it, another run.folder to keep both, or --restart to start over."
    )
    assert [line.strip() for line in lines] == [
        "optimizer.betas: was [0.9, 0.999], is now [0.8, 0.9]",
        "optimizer.lr: was 0.0001, is now 0.5",
        "run.batch: was 4, is now 8",
        "run.seed: was 0, is now 1",
    ]
    assert (run.folder / "config.yaml").read_bytes() == saved


def test_disabling_a_section_changes_the_config(config):
    save_at(start(config()), 10)
    with pytest.raises(InputError, match=r"ema.decay: was 0.999, is now None"):
        start(config().model_copy(update={"ema": None}))


def test_length_and_intervals_may_change(config):
    save_at(start(config()), 10)
    often = {"report_every": 3, "evaluate_every": 4, "evaluate_images": 5, "preview_every": 6, "save_every": 7}
    run = start(config(steps=70, keep_checkpoints=8, **often))
    assert (run.step, run.num_steps) == (10, 70)
    assert read_config(run.folder / "config.yaml")["run"]["steps"] == 70
    assert start(config(steps=None, images=400)).num_steps == 100


def test_without_a_checkpoint_any_config_may_start(config):
    start(config())
    assert start(config(optimizer={"lr": 0.5})).step == 0


def test_a_moved_run_resumes(config, tmp_path):
    save_at(start(config()), 10)
    (tmp_path / "run").rename(tmp_path / "moved")
    assert start(config(folder=str(tmp_path / "moved"))).step == 10


def test_restart_deletes_what_a_run_wrote_and_nothing_else(config):
    run = start(config())
    run.write({"psnr": 1})
    save_at(run, 10)
    own = ["model/config.json", "pipeline/model_index.json", "samples/step-1.png"]
    foreign = ["notes.txt", "mine/a.txt", "checkpoints.txt", "config.yaml.bak"]
    for name in own + foreign:
        (run.folder / name).parent.mkdir(exist_ok=True)
        (run.folder / name).write_text("x")
    again = start(config(optimizer={"lr": 0.5}), restart=True)
    assert (again.step, again.checkpoint) == (0, None)
    assert [(run.folder / name).read_text() for name in foreign] == ["x"] * 4
    left = [
        ".lock",
        "checkpoints.txt",
        "config.yaml",
        "config.yaml.bak",
        "metrics.jsonl",
        "mine",
        "notes.txt",
        "samples",
    ]
    assert names(run.folder) == left and names(run.folder / "samples") == []
    assert (run.folder / "metrics.jsonl").read_text() == ""
    assert read_config(run.folder / "config.yaml")["optimizer"]["lr"] == 0.5


def test_restart_leaves_a_folder_without_a_run_alone(config, tmp_path):
    """Without a config or checkpoints the folder may be anyone's: its `model` and `samples` must not be deleted."""
    for name in ("model", "samples"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "mine").write_text("x")
    start(config(), restart=True)
    assert [(tmp_path / "run" / name / "mine").read_text() for name in ("model", "samples")] == ["x", "x"]


def test_restart_works_without_the_saved_config(config):
    run = start(config())
    save_at(run, 10)
    (run.folder / "config.yaml").unlink()
    assert start(config(), restart=True).step == 0


# steps and metrics.jsonl


@pytest.fixture(scope="module")
def stream():
    spec = ImageDataSpec(train_split="train[:20]", held_out_fraction=0.0, in_memory=True)
    return SignalStream(ImageData(spec, "train", (8, 8), 1), seed=0, flips=False)


def end_step(run: Run, state: TrainingState, step: int) -> None:
    """What every loop in train/ does once a step's gradients are computed."""
    rate = learning_rate(state.optimizer.spec, step, run.num_steps)
    gradient_norm = state.optimizer.clip_gradients()
    state.optimizer.step(rate)
    state.average.update(step + 1)
    run.end_step(state, lr=rate, gradient_norm=gradient_norm)


def train(run: Run, stream: SignalStream, stop: int | None = None, scale: float = 1.0) -> list[float]:
    """A loop as in train/, killed after `stop` steps; returns the loss of every part."""
    state, losses = tiny_state(run), []
    state.restore(run.checkpoint)
    forward = run.accelerator.prepare(state.model)
    for step, parts in run.training_steps(stream, num_workers=0):
        for batch in parts:
            with run.accelerator.accumulate(forward):
                loss = scale * forward(from_uint8(batch.signals).flatten(1)).square().mean()
                losses.append(float(loss.detach()))
                run.backward(loss)
        end_step(run, state, step)
        if run.due(run.settings.save_every):
            run.save(state)
        if run.step == stop:
            break
    return losses


def metrics(run: Run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_a_killed_and_resumed_run_has_the_metrics_of_a_straight_one(config, stream, tmp_path):
    often = {"steps": 5, "report_every": 1, "save_every": 2}
    straight = start(config(folder=str(tmp_path / "straight"), **often))
    losses = train(straight, stream)
    assert straight.step == 5 and [line["step"] for line in metrics(straight)] == [1, 2, 3, 4, 5]
    assert [line["images"] for line in metrics(straight)] == [4, 8, 12, 16, 20]
    assert [line["loss"] for line in metrics(straight)] == pytest.approx(losses)

    killed = start(config(**often))
    train(killed, stream, stop=3)
    with (killed.folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')  # killed while writing
    resumed = start(config(**often))
    assert resumed.step == 2 and [line["step"] for line in metrics(resumed)] == [1, 2]
    assert train(resumed, stream) == losses[2:]
    for one, other in zip(metrics(resumed), metrics(straight), strict=True):
        clock = {"images_per_second": 0, "seconds": 0, "peak_memory_gib": 0}
        assert {**one, **clock} == {**other, **clock}


def test_a_step_counts_and_reports_after_its_last_part(config, stream):
    run = start(config(steps=3, accumulation=2, report_every=1))
    losses = train(run, stream)
    assert len(losses) == 6 and run.step == 3
    means = [(one + two) / 2 for one, two in zip(losses[::2], losses[1::2], strict=True)]
    assert [line["loss"] for line in metrics(run)] == pytest.approx(means)


def test_accumulated_parts_equal_a_whole_batch(config, stream, tmp_path):
    saved = []
    for parts in (1, 4):
        run = start(config(folder=str(tmp_path / str(parts)), steps=3, accumulation=parts))
        assert len(train(run, stream)) == 3 * parts
        saved.append(load_checkpoint(run.folder / "checkpoints" / "step-00000003").tensors["model"])
    torch.testing.assert_close(saved[1], saved[0], atol=1e-6, rtol=1e-5)


def test_a_new_run_keeps_no_metrics_of_another(config):
    run = start(config())
    run.write({"psnr": 1})
    run.step = 10
    run.write({"psnr": 2})
    assert len(metrics(run)) == 2
    assert metrics(start(config())) == []


def test_metrics_are_on_disk_at_once(tmp_path):
    log = RunLog(tmp_path / "metrics.jsonl", 0)
    log.write({"step": 1, "psnr": 20.5})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "psnr": 20.5}\n'


@pytest.mark.parametrize("scale", [float("nan"), float("inf")])
def test_a_run_that_diverges_stops_and_says_what_to_do(config, stream, scale):
    run = start(config(report_every=1))
    message = r"step 1: the run has diverged: .* is not finite. It has no checkpoint to resume from; lower optimizer.lr"
    with pytest.raises(InputError, match=message):
        train(run, stream, scale=scale)
    assert metrics(run) == []


def test_intervals_are_due_on_time(config):
    run, twenties, end = start(config(steps=50)), [], []
    for run.step in range(1, 51):
        twenties += [run.step] if run.due(20) else []
        end += [run.step] if run.due(None) else []
    assert (twenties, end) == ([20, 40, 50], [50])


# processes and trackers


def test_processes_that_do_not_form_a_group_are_refused(monkeypatch):
    make_accelerator()
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        InputError,
        match="2 processes were launched, but each is running on its own.*torchrun --nproc_per_node N, or accelerate launch",
    ):
        make_accelerator()


def test_a_tracker_that_is_not_installed_is_refused():
    available = {str(getattr(name, "value", name)) for name in get_available_trackers()}
    missing = sorted({"wandb", "trackio", "mlflow"} - available)
    if not missing:
        pytest.skip("every tracker is installed")
    with pytest.raises(
        InputError,
        match=f"run.tracker '{missing[0]}' is not installed .installed: .*: run pip install {missing[0]}, or leave run.tracker out",
    ):
        make_accelerator(tracker=missing[0])


# signals, locks, a changed length


def test_fewer_steps_than_completed_are_refused(config):
    run = start(config())
    save_at(run, 40)
    saved = (run.folder / "config.yaml").read_bytes()
    with pytest.raises(InputError, match="has completed 40 steps, but run.steps .* asks for 30: give at least 40"):
        start(config(steps=30))
    assert (run.folder / "config.yaml").read_bytes() == saved
    assert start(config(steps=40)).step == 40


def test_two_runs_in_one_folder_are_refused(config):
    run = start(config())
    saved = (run.folder / "config.yaml").read_bytes()
    other = config(seed=7)
    with pytest.raises(InputError, match=rf"is in use: a training run is being written there by process {os.getpid()}"):
        Run(other, other.run)
    assert (run.folder / "config.yaml").read_bytes() == saved
    run.release()
    assert Run(other, other.run).step == 0


def test_extending_a_cosine_prints_the_change_of_the_rate(config, capsys):
    cosine = {"lr": 4e-3, "schedule": "cosine"}
    save_at(start(config(optimizer=cosine)), 50)
    capsys.readouterr()
    start(config(optimizer=cosine, steps=100))
    # 4e-3 · (1 + cos(π 49/50)) / 2 = 3.95e-6, and half way through 100 steps half of 4e-3
    assert "run.steps was 50 and is now 100" in (output := capsys.readouterr().out)
    assert "the learning rate changes from 3.95e-06 to 0.002 at step 50" in output
    start(config(optimizer=cosine, steps=100))
    save_at(start(config(optimizer={"lr": 4e-3}, folder=str(RUNS[-1].folder) + "_constant")), 50)
    start(config(optimizer={"lr": 4e-3}, steps=100, folder=str(RUNS[-1].folder)))
    assert capsys.readouterr().out.count("run.steps was") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_a_step_ends_the_run_after_it(config, stream, number):
    before = signal.getsignal(number)
    run = start(config(save_every=50))
    state = tiny_state(run)
    with pytest.raises(Stopped) as stopped:
        for step, (batch,) in run.training_steps(stream, num_workers=0):
            if run.step == 3:
                signal.raise_signal(number)
                assert signal.getsignal(number) == before  # a second signal ends the process
            run.backward(state.model(from_uint8(batch.signals).flatten(1)).square().mean())
            end_step(run, state, step)
    assert re.match(r"stopped after step 4 of 50; .* Re-running the command resumes from it", stopped.value.save())
    assert list_checkpoints(run.folder / "checkpoints")[-1].name == "step-00000004"
    assert signal.getsignal(number) == before


def test_a_signal_between_steps_ends_the_run_there(config, stream):
    run = start(config(save_every=50))
    state = tiny_state(run)
    with pytest.raises(Stopped) as stopped:
        for step, (batch,) in run.training_steps(stream, num_workers=0):
            run.backward(state.model(from_uint8(batch.signals).flatten(1)).square().mean())
            end_step(run, state, step)
            if run.step == 2:
                with state.average.applied():
                    signal.raise_signal(signal.SIGTERM)
                    raise AssertionError("an evaluation continues after a signal")
    stopped.value.save()
    saved = load_checkpoint(list_checkpoints(run.folder / "checkpoints")[-1])
    assert saved.step == 2  # the weights themselves, not their average, which was swapped in
    torch.testing.assert_close(saved.tensors["model"], state.model.state_dict(), rtol=0, atol=0)
    assert not torch.equal(saved.tensors["model"]["weight"], saved.tensors["average"]["weight"])


def test_a_resumed_run_keeps_its_number_of_threads(config, stream, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(threads, "MOST", 2)
    run = start(config(steps=2))
    assert run._threads is not None  # two threads or one has to be measured
    run.threads = 1
    save_at(run, 1)
    resumed = start(config(steps=2))
    assert resumed._threads is None and resumed.threads == torch.get_num_threads() == 1
    assert start(config(steps=2, threads=2)).threads == torch.get_num_threads() == 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)
    assert start(config(steps=2)).threads == 1


def test_a_damaged_line_of_metrics_is_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n[1]\n3\n\xff\xfe\n{"step": 2, "lo')
    RunLog(path, step=2).write({"step": 3})
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="metrics.jsonl cannot be written: a folder is in the way"):
        RunLog(path, step=2)
