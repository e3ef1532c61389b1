"""A run: its folder, its processes, its log, where it goes on from."""

import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn
from tqdm.auto import tqdm

from genrep.data.signals import evenly
from genrep.devices import float64_device, peak_memory, synchronize
from genrep.errors import InputError, Stopped
from genrep.files import make_folder
from genrep.lock import FolderLock
from genrep.specs import MAY_CHANGE, Spec, unmarked, validate
from genrep.training import threads
from genrep.training.accelerator import make_accelerator
from genrep.training.checkpoint import Checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from genrep.training.config import dump_config, read_config
from genrep.training.interrupts import Interrupts
from genrep.training.log import RunLog
from genrep.training.optimizer import learning_rate
from genrep.training.order import PositionBatches, SignalStream, TrainingBatch, training_loader
from genrep.training.pace import Pace
from genrep.training.specs import OptimizerSpec, RunSpec
from genrep.training.state import AdversarialState, TrainingState
from genrep.training.threads import ThreadSearch

ENDLESS = 2**40
"""Steps of a run that is given seconds alone, until its pace is known."""


class Run:
    """Folder, accelerator and log of one training run. The newest checkpoint in the folder is where it goes on.

    One at a time in a process: accelerate keeps what it knows of accumulation for the whole process.

    Args:
        config: the whole config of the run; it is written to `config.yaml`.
        settings: its `run` part.
        restart: delete what an earlier run left in the folder.
        identity: hashes of what the run builds on; a run does not go on on anything else.
        splits_batch: whether the processes share the images of a step; those of a field share the points of its signal.

    Attributes:
        accelerator: device, processes, precision.
        checkpoint: what to go on from, or None at the start.
        step, num_steps: steps done, and to be done at the end; of a run that is given seconds alone, `ENDLESS` until its
            first steps have told how many fit.
        seconds: seconds of training so far; evaluation, previews and checkpoints are not counted.

    Raises:
        InputError: the folder holds a run with another config, or a damaged checkpoint; fewer processes than asked for.
    """

    def __init__(
        self,
        config: Spec,
        settings: RunSpec,
        restart: bool = False,
        identity: Mapping[str, str] | None = None,
        splits_batch: bool = True,
    ):
        self.settings, self.folder = settings, Path(settings.folder)
        self.accelerator = make_accelerator(settings.precision, settings.accumulation, settings.tracker, self.folder)
        self.num_steps, self.identity = settings.num_steps or ENDLESS, dict(identity or {})
        self._pace = Pace(settings.seconds) if settings.num_steps is None and settings.seconds is not None else None
        self.checkpoint: Checkpoint | None = None
        self.log: RunLog | None = None
        if splits_batch:  # one that cannot be cut stops here
            PositionBatches(settings.batch, settings.accumulation, self.process, 0, 0)
        self._lock = FolderLock(self.folder, "a training run")
        try:
            self._on_main(lambda: self._open_folder(config, restart))
            extra = self._resume()
            self._on_main(lambda: self._begin(config))
        except BaseException:
            self.release()
            raise
        if settings.tracker is not None:
            self.accelerator.init_trackers(self.folder.name, config=_flat(config.model_dump(mode="json")))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._reported = (self.step, self.seconds)
        self._loss = torch.zeros((), device=self.device)
        self._threads = self._choose_threads(extra.get("threads"))
        self._interrupts = Interrupts()
        self._next_agreement, self._agreed_seconds = self.step, self.seconds
        self._agree_to_stop()

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def process(self) -> tuple[int, int]:
        """(rank, number of processes)."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def prepare(self, model: nn.Module) -> Any:
        """What a loop calls for the model: it splits batches over processes, computes in `run.precision`, and is compiled.

        With `run.compile` a model that names its repeated blocks (diffusers' `_repeated_blocks`) has those compiled, once
        for all of them: twelve blocks take as long as one. Another model is compiled as a whole.
        """
        by_blocks = self.settings.compile and bool(getattr(model, "_repeated_blocks", None))
        if by_blocks:
            model.compile_repeated_blocks()  # type: ignore[operator] # of diffusers' ModelMixin
        forward = self.accelerator.prepare(model)
        return torch.compile(forward) if self.settings.compile and not by_blocks else forward

    def training_steps(self, stream: SignalStream, num_workers: int) -> Iterator[tuple[int, Iterator[TrainingBatch]]]:
        """Every step still to do, under a progress bar: its number, and this process's `run.accumulation` parts of its batch."""
        settings = self.settings
        batches = PositionBatches(settings.batch, settings.accumulation, self.process, self.step, self.num_steps)
        parts = iter(training_loader(stream, batches, num_workers, pin=self.device.type == "cuda"))
        for step in self.steps():
            yield step, itertools.islice(parts, settings.accumulation)

    def steps(self) -> Iterator[int]:
        """The number of every step still to do, under a progress bar. Each must come to `end_step`."""
        self._bar = tqdm(
            total=self.num_steps if self.num_steps < ENDLESS else None,
            initial=self.step,
            desc=self.folder.name,
            unit="step",
            disable=not self.is_main,
            dynamic_ncols=True,
        )
        with self._bar:
            self._interrupts.start()
            try:
                while self.step < self.num_steps:
                    self._interrupts.between_steps = None
                    self._started = time.perf_counter()
                    yield self.step
            finally:
                self._interrupts.stop()

    def backward(self, loss: Tensor) -> None:
        """Gradients of one part of a step; its loss is kept for the report."""
        self.accelerator.backward(loss)
        self._loss = self._loss + loss.detach() / self.settings.accumulation

    def end_step(self, state: TrainingState | AdversarialState, **metrics: float | Tensor) -> None:
        """Count a step whose weights have moved, and report it if that is due: its loss, and these metrics.

        Ends the run with a checkpoint of `state` where a signal has asked for it.
        """
        self.step += 1
        settings = self.settings
        often = (settings.report_every, settings.evaluate_every, settings.preview_every, settings.save_every)
        elapsed = self.seconds + time.perf_counter() - self._started
        if any(map(self.due, often)) or (self._pace is not None and self._pace.is_due(self.step, elapsed)):
            synchronize(self.device)  # what is queued belongs to the steps, not to what follows
        step_seconds = time.perf_counter() - self._started
        self.seconds += step_seconds
        if self._threads is not None and self._threads.step_took(step_seconds):
            self._say_threads(self._threads)
        self._set_length()
        self._agree_to_stop()
        self._bar.update()
        if self.due(self.settings.report_every):
            self._report({"loss": self._loss, **metrics})
            self._bar.set_postfix(loss=f"{float(self._loss):.5f}")
        self._loss = torch.zeros((), device=self.device)
        if self._interrupts.received is not None and self._stop_now:
            raise Stopped(lambda: self._save_and_say(state))
        if self.process[1] == 1:  # several processes must stop together, after a step
            self._interrupts.between_steps = lambda: self._stop_between(state)

    def due(self, every: int | None) -> bool:
        """Whether something done every so many steps, and at the end, is due after this step."""
        return self.step == self.num_steps or (every is not None and self.step % every == 0)

    def _report(self, values: Mapping[str, float | Tensor]) -> None:
        """A line of metrics; tensors are averaged over the processes. InputError if the loss is no number."""
        shown = {
            key: float(self.accelerator.reduce(v.detach().float(), "mean")) if isinstance(v, Tensor) else v
            for key, v in values.items()
        }
        if not all(map(_finite, shown.values())):
            raise self._diverged(str(shown))
        step, seconds = self._reported
        speed = (self.step - step) * self.settings.batch / max(1e-9, self.seconds - seconds)
        self._reported = (self.step, self.seconds)
        self.write({**shown, "images_per_second": speed, "peak_memory_gib": peak_memory(self.device) / 2**30})

    def _set_length(self) -> None:
        """Fix the number of steps of a run that is given seconds alone, once its pace is known; the main process's counts."""
        searching = self._threads is not None and self._threads.chosen is None
        if self._pace is None or self._pace.decided or searching:
            return
        answer = [self._pace.steps(self.step, self.seconds)]
        broadcast_object_list(answer)
        if answer[0] is None:
            return
        self._pace.decided, self.num_steps = True, answer[0]
        self._bar.total = self.num_steps
        if self.is_main:
            tqdm.write(f"{self.num_steps:,} steps fit into the {self.settings.seconds:g} s of run.seconds")

    def _agree_to_stop(self) -> None:
        """Whether this step is the last one: `run.seconds` are up, or a signal came. All processes must say the same.

        They ask each other about once a second, after every step where `run.seconds` is given, so that it costs nothing.
        """
        self._stop_now = self._interrupts.received is not None
        if self.process[1] > 1:
            self._stop_now = False
            if self.step < self._next_agreement:
                return
            answers = gather_object([(self._interrupts.received, self.seconds)])
            received = [number for number, _ in answers if number is not None]
            if received:
                self._interrupts.received, self._stop_now = received[0], True
            elapsed = answers[0][1]  # the main process's clock counts for all
            steps = max(1, self.step - self._next_agreement + 1)
            seconds = max(1e-6, elapsed - self._agreed_seconds)
            wait = 1 if self.settings.seconds is not None else max(1, min(1000, round(steps / seconds)))
            self._next_agreement, self._agreed_seconds = self.step + wait, elapsed
        else:
            elapsed = self.seconds
        if self.settings.seconds is not None and elapsed >= self.settings.seconds:
            self.num_steps = self.step

    def _stop_between(self, state: TrainingState | AdversarialState) -> None:
        raise Stopped(lambda: self._save_and_say(state))

    def _save_and_say(self, state: TrainingState | AdversarialState) -> str:
        """Keep the state of a run that a signal ends; returns what to tell the user."""
        existing = list_checkpoints(self.folder / "checkpoints")
        if not existing or existing[-1].name != f"step-{self.step:08d}":
            self.save(state)
        self.finish()
        of_all = f" of {self.num_steps:,}" if self.num_steps < ENDLESS else ""
        return (
            f"stopped after step {self.step:,}{of_all}; the checkpoint is in {self.folder / 'checkpoints'}, and "
            "the same command goes on from it"
        )

    def _choose_threads(self, before: Any) -> ThreadSearch | None:
        """Set the number of CPU threads, or find it in the first steps: then the search is returned.

        A resumed run takes the number that it was begun with, since sums are rounded in another order with another one.
        """
        self.threads = torch.get_num_threads()
        if self.settings.threads is not None:
            self.threads = self.settings.threads
        elif threads.is_fixed() or self.device.type != "cpu" or self.process[1] > 1 or self.settings.compile:
            return None
        elif isinstance(before, int) and before <= (os.cpu_count() or 1):
            self.threads = before
        else:
            return ThreadSearch(threads.candidates(threads.MOST))
        torch.set_num_threads(self.threads)
        return None

    def _say_threads(self, search: ThreadSearch) -> None:
        assert search.chosen is not None
        self.threads = search.chosen
        if len(search.rates) > 1:
            rates = ", ".join(
                f"{rate * self.settings.batch:,.3g} images/s with {count}" for count, rate in search.rates.items()
            )
            tqdm.write(f"threads: {search.chosen} ({rates}; run.threads or OMP_NUM_THREADS sets it)")

    def _diverged(self, what: str) -> InputError:
        saved = list_checkpoints(self.folder / "checkpoints")
        resume = f"It can go on from {saved[-1]}" if saved else "It has no checkpoint to go on from"
        return InputError(
            f"step {self.step}: {what} is not finite, the run has diverged. {resume}; lower optimizer.lr, or set "
            "optimizer.clip_norm"
        )

    def held_out_share(self, held_out: Sized) -> list[int]:
        """Indices of the held-out images that this process evaluates: all processes together see each image once."""
        rank, num_processes = self.process
        return evenly(len(held_out), self.settings.evaluate_images)[rank::num_processes]

    def write_mean(self, name: str, total: float, count: int) -> None:
        """A line with a mean over the held-out images, from every process's sum and count."""
        sums = torch.tensor([total, count], dtype=torch.float64, device=float64_device(self.device))
        total, images = self.accelerator.reduce(sums, "sum").tolist()
        self.write({name: total / images, "held_out_images": int(images)})

    def write(self, values: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, and of the tracker: the step, images and seconds of training so far, and these values."""
        line = {"step": self.step, "images": self.step * self.settings.batch, "seconds": self.seconds, **values}
        if self.log is not None:
            self.log.write(line)
        if self.settings.tracker is not None:
            self.accelerator.log({key: value for key, value in line.items() if key != "step"}, step=self.step)

    def save(self, state: TrainingState | AdversarialState) -> None:
        """Write a checkpoint from the main process; all wait. InputError if the weights are not finite."""
        if self.is_main:
            checkpoint = state.checkpoint(self.step)
            if not all(bool(weight.isfinite().all()) for weight in checkpoint.tensors["model"].values()):
                raise self._diverged("a weight")
            known = self.num_steps if self.num_steps < ENDLESS else None
            paced_for = None if self._pace is None else self.settings.seconds
            checkpoint.extra.update(
                self.identity, seconds=self.seconds, num_steps=known, threads=self.threads, paced_for=paced_for
            )
            save_checkpoint(self.folder / "checkpoints", checkpoint, self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Close the trackers and let go of the folder."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        self.release()

    def release(self) -> None:
        """Let go of the folder, for another run to go on there."""
        self._lock.__exit__(None, None, None)

    def _on_main(self, work: Callable[[], None]) -> None:
        """Do something on the main process alone; where it fails, every process stops with its message."""
        fault: list[str | None] = [None]
        if self.is_main:
            try:
                work()
            except InputError as error:
                fault = [str(error)]
        broadcast_object_list(fault)
        if fault[0]:
            raise InputError(fault[0])

    def _open_folder(self, config: Spec, restart: bool) -> None:
        """Take the folder; refuse a run with another config in it, or delete that run where that was asked for."""
        saved = self.folder / "config.yaml"
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"run.folder {self.folder} is a file: give a folder")
        self._lock.__enter__()
        is_run = saved.exists() or bool(list_checkpoints(self.folder / "checkpoints"))
        if restart and is_run:  # nothing is deleted of a folder that holds no run
            for name in ("checkpoints", "model", "pipeline", "samples"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        elif list_checkpoints(self.folder / "checkpoints"):
            _refuse_changed(saved, config)

    def _resume(self) -> dict[str, Any]:
        """Read the newest checkpoint, if there is one, and go on from it; returns its plain data."""
        checkpoints = list_checkpoints(self.folder / "checkpoints")
        self.checkpoint = load_checkpoint(checkpoints[-1]) if checkpoints else None
        extra = self.checkpoint.extra if self.checkpoint else {}
        for name, now in self.identity.items():
            before = extra.get(name)
            if before not in (None, now):  # earlier versions did not record it
                raise InputError(
                    f"{self.folder}: the {name} is not what this run was trained on (hash {before}, now {now}); give that, "
                    "or start over with --restart"
                )
        if self._pace is not None and extra.get("paced_for") == self.settings.seconds and extra.get("num_steps"):
            self.num_steps, self._pace.decided = int(extra["num_steps"]), True
        self.step = self.checkpoint.step if self.checkpoint else 0
        if self.step > self.num_steps:
            raise InputError(
                f"{self.folder} has done {self.step:,} steps, and run.steps (or run.images) asks for {self.num_steps:,}: give at "
                f"least {self.step:,}, another run.folder, or --restart to start over"
            )
        self.seconds = float(extra.get("seconds", 0.0))
        return extra

    def _begin(self, config: Spec) -> None:
        """Write the config, open the log, and say what a changed number of steps does to the learning rate."""
        make_folder(self.folder / "samples")
        dump_config(config, self.folder / "config.yaml")
        self.log = RunLog(self.folder / "metrics.jsonl", self.step)
        note = self.checkpoint and _schedule_note(self.checkpoint, getattr(config, "optimizer", None), self.num_steps)
        if note:
            print(note)


def _schedule_note(checkpoint: Checkpoint, optimizer: OptimizerSpec | None, num_steps: int) -> str | None:
    """What another number of steps than before does to the rate of a resumed run; None where it does nothing."""
    before, step = checkpoint.extra.get("num_steps"), checkpoint.step
    if (
        optimizer is None
        or not isinstance(before, int)
        or before == num_steps
        or step >= num_steps
        or num_steps == ENDLESS
    ):
        return None
    last, following = learning_rate(optimizer, max(0, step - 1), before), learning_rate(optimizer, step, num_steps)
    if math.isclose(last, following, rel_tol=0.05):
        return None
    return (
        f"run.steps was {before:,} and is now {num_steps:,}: the {optimizer.schedule} schedule is that of {num_steps:,} steps "
        f"from here on, so the learning rate goes from {last:.3g} to {following:.3g} at step {step:,}"
    )


def _refuse_changed(saved: Path, config: Spec) -> None:
    written = read_config(saved) if saved.exists() else {}
    # a key that an older version did not have stands for its default
    before, now = unmarked(validate(type(config), written, where=str(saved)), MAY_CHANGE), unmarked(config, MAY_CHANGE)
    changed = [
        f"{key}: was {before.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise InputError(
            f"{saved.parent} holds a run with another config. Give its config to resume it, another run.folder to keep both, or --restart to start over.\n  "
            + "\n  ".join(changed)
        )


def _flat(nested: Any, at: str = "") -> dict[str, Any]:
    if not isinstance(nested, dict):
        return {at: nested if isinstance(nested, int | float | str | bool) else str(nested)}
    return {
        key: value
        for name, part in nested.items()
        for key, value in _flat(part, f"{at}.{name}" if at else name).items()
    }


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")
