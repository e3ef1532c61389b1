"""A training run: its folder, processes and log, and the checkpoint it resumes from."""

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
"""Number of steps of a run with `run.seconds` alone, until its pace is known."""


class Run:
    """Folder, accelerator and log of one training run, which resumes from the newest checkpoint in the folder.

    A process may have only one at a time, because accelerate's state of gradient accumulation is global.

    Args:
        config: the whole config of the run; it is written to `config.yaml`.
        settings: the config's `run` section.
        restart: delete what an earlier run left in the folder.
        identity: hashes of the run's inputs, such as its data, by name; resuming with different ones is refused.
        splits_batch: whether the processes divide the images of a step; for a field they divide the points of its signal.

    Attributes:
        accelerator: device, processes, precision.
        checkpoint: the checkpoint to resume from, or None at the start.
        step, num_steps: number of completed steps, and of all steps; with `run.seconds` alone, `ENDLESS` until the pace of
            the first steps is known.
        seconds: seconds of training so far, not counting evaluation, previews and checkpoints.

    Raises:
        InputError: the folder holds a run with another config or a damaged checkpoint, or is in use; fewer processes than
            were launched.
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
        self._measured: tuple[int, dict[str, Any]] | None = None
        if splits_batch:  # refuses a batch that does not divide evenly, before anything is written
            PositionBatches(settings.batch, settings.accumulation, self.process, 0, 0)
        self._lock = FolderLock(self.folder, "a training run")
        # Only the main process changes the folder; all read the checkpoint afterwards. The config is written last, so that
        # a refused run does not replace the config of the run in the folder.
        try:
            self._on_main(lambda: self._open_folder(config, restart))
            extra = self._resume()
            self._on_main(lambda: self._begin(config))
        except BaseException:
            self.release()
            raise
        if settings.tracker is not None:
            self.accelerator.init_trackers(self.folder.name, config=_flat(config.model_dump(mode="json")))
        if self.device.type == "cuda":  # so that the peak is that of this run, not of an earlier one in the process
            torch.cuda.reset_peak_memory_stats(self.device)
        self._reported = (self.step, self.seconds)
        self._loss = torch.zeros((), device=self.device)
        self._threads = self._choose_threads(extra.get("threads"))
        self._interrupts = Interrupts()
        self._next_agreement, self._agreed_seconds = self.step, self.seconds
        self._agree_to_stop()  # a resumed run may have used up run.seconds already

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
        """The model as the loop calls it: split over processes, computing in `run.precision`, compiled with `run.compile`.

        Of a model that names its repeated blocks (diffusers' `_repeated_blocks`) only these are compiled, once for all
        of them: twelve blocks compile as fast as one. Other models are compiled as a whole.
        """
        by_blocks = self.settings.compile and bool(getattr(model, "_repeated_blocks", None))
        if by_blocks:
            model.compile_repeated_blocks()  # type: ignore[operator] # of diffusers' ModelMixin
        forward = self.accelerator.prepare(model)
        return torch.compile(forward) if self.settings.compile and not by_blocks else forward

    def training_steps(self, stream: SignalStream, num_workers: int) -> Iterator[tuple[int, Iterator[TrainingBatch]]]:
        """Iterate over the remaining steps, with a progress bar: (step, this process's `run.accumulation` parts of its batch)."""
        settings = self.settings
        batches = PositionBatches(settings.batch, settings.accumulation, self.process, self.step, self.num_steps)
        parts = iter(training_loader(stream, batches, num_workers, pin=self.device.type == "cuda"))
        for step in self.steps():
            yield step, itertools.islice(parts, settings.accumulation)

    def steps(self) -> Iterator[int]:
        """Iterate over the numbers of the remaining steps, with a progress bar. Every step must end with `end_step`."""
        self._bar = tqdm(
            total=self.num_steps if self.num_steps < ENDLESS else None,
            initial=self.step,
            desc=self.folder.name,
            unit="step",
            disable=not self.is_main,
            dynamic_ncols=True,
        )
        with self._bar:
            # not earlier: during set-up there is no state to save, and Ctrl-C should end the process
            self._interrupts.start()
            try:
                while self.step < self.num_steps:
                    self._interrupts.between_steps = None  # from here to `end_step` a signal waits
                    self._started = time.perf_counter()
                    yield self.step
            finally:
                self._interrupts.stop()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of one part of a step, and keep its loss for the report."""
        self.accelerator.backward(loss)
        # stays on the device: reading it every step would make the CPU wait for the GPU
        self._loss = self._loss + loss.detach() / self.settings.accumulation

    def end_step(self, state: TrainingState | AdversarialState, **metrics: float | Tensor) -> None:
        """Count a completed step and, when a report is due, write its loss and `metrics`.

        If a signal has arrived, ends the run with a checkpoint of `state`.
        """
        self.step += 1
        settings = self.settings
        intervals = (settings.report_every, settings.evaluate_every, settings.preview_every, settings.save_every)
        elapsed = self.seconds + time.perf_counter() - self._started
        pace_is_due = self._pace is not None and self._pace.is_due(self.step, elapsed)
        # A GPU works through its queue behind the CPU. What is still queued belongs to the steps, not to the evaluation
        # or report that follows; synchronising after every step would cost speed.
        if any(map(self.due, intervals)) or pace_is_due:
            synchronize(self.device)
        step_seconds = time.perf_counter() - self._started
        self.seconds += step_seconds
        # the search for the number of threads times the first steps
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
        # A single process may also stop between steps, such as minutes into an evaluation. Several must stop after the
        # same step, or those left behind would wait forever for the others' gradients.
        if self.process[1] == 1:
            self._interrupts.between_steps = lambda: self._stop_between(state)

    def due(self, every: int | None) -> bool:
        """Whether something that happens every `every` steps, and after the last one, is due now."""
        return self.step == self.num_steps or (every is not None and self.step % every == 0)

    def _report(self, values: Mapping[str, float | Tensor]) -> None:
        """Write a line of metrics; tensors are averaged over the processes. InputError if any value is not finite."""
        metrics = {
            key: float(self.accelerator.reduce(v.detach().float(), "mean")) if isinstance(v, Tensor) else v
            for key, v in values.items()
        }
        if not all(map(_finite, metrics.values())):
            raise self._diverged(str(metrics))
        step, seconds = self._reported
        speed = (self.step - step) * self.settings.batch / max(1e-9, self.seconds - seconds)
        self._reported = (self.step, self.seconds)
        self.write({**metrics, "images_per_second": speed, "peak_memory_gib": peak_memory(self.device) / 2**30})

    def _set_length(self) -> None:
        """With `run.seconds` alone, fix the number of steps once the pace is known; the main process decides for all."""
        searching = self._threads is not None and self._threads.chosen is None
        if self._pace is None or self._pace.decided or searching:
            return
        num_steps = [self._pace.steps(self.step, self.seconds)]
        broadcast_object_list(num_steps)
        if num_steps[0] is None:
            return
        self._pace.decided, self.num_steps = True, num_steps[0]
        self._bar.total = self.num_steps
        if self.is_main:
            tqdm.write(f"{self.num_steps:,} steps fit into the {self.settings.seconds:g} s of run.seconds")

    def _agree_to_stop(self) -> None:
        """Decide whether this step is the last one: `run.seconds` have passed, or a signal arrived. All processes agree.

        They exchange answers about once a second, which costs nothing measurable, or after every step with
        `run.seconds`.
        """
        self._stop_now = self._interrupts.received is not None
        if self.process[1] > 1:
            self._stop_now = False
            if self.step < self._next_agreement:
                return
            answers = gather_object([(self._interrupts.received, self.seconds)])
            received = [number for number, _ in answers if number is not None]  # a cluster may signal only one of them
            if received:
                self._interrupts.received, self._stop_now = received[0], True
            # All use the main process's clock, so that all compute the same next step to agree after: with separate clocks,
            # one could wait in gather_object while another waits for its gradients.
            elapsed = answers[0][1]
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
        """Save the state of a run that a signal ends, and return the message for the user."""
        existing = list_checkpoints(self.folder / "checkpoints")
        # the step may just have been saved as usual
        if not existing or existing[-1].name != f"step-{self.step:08d}":
            self.save(state)
        self.finish()
        of_all = f" of {self.num_steps:,}" if self.num_steps < ENDLESS else ""
        return (
            f"stopped after step {self.step:,}{of_all}; the checkpoint is in {self.folder / 'checkpoints'}. "
            "Re-running the command resumes from it"
        )

    def _choose_threads(self, before: Any) -> ThreadSearch | None:
        """Set the number of CPU threads, or return a search that finds it during the first steps.

        A resumed run keeps the number it was started with, because the order in which sums are rounded depends on it.
        """
        self.threads = torch.get_num_threads()
        if self.settings.threads is not None:
            self.threads = self.settings.threads
        # Not worth a search: on a GPU the CPU's threads hardly matter, several processes would have to agree on a number,
        # and with compile the first steps would time the compiler.
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
            tqdm.write(f"threads: {search.chosen} ({rates}; set run.threads or OMP_NUM_THREADS to choose)")

    def _diverged(self, what: str) -> InputError:
        saved = list_checkpoints(self.folder / "checkpoints")
        resume = f"It can resume from {saved[-1]}" if saved else "It has no checkpoint to resume from"
        return InputError(
            f"step {self.step}: the run has diverged: {what} is not finite. {resume}; lower optimizer.lr, or set "
            "optimizer.clip_norm"
        )

    def held_out_share(self, held_out: Sized) -> list[int]:
        """Indices of the held-out images that this process evaluates; together the processes see every image once."""
        # not accelerate's split: it repeats images to make the shares equal, which would bias the mean
        rank, num_processes = self.process
        return evenly(len(held_out), self.settings.evaluate_images)[rank::num_processes]

    def write_mean(self, name: str, total: float, count: int) -> None:
        """Write a line with a mean over the held-out images, from every process's sum and count."""
        sums = torch.tensor([total, count], dtype=torch.float64, device=float64_device(self.device))
        total, images = self.accelerator.reduce(sums, "sum").tolist()
        self.write({name: total / images, "held_out_images": int(images)})

    def write(self, values: Mapping[str, Any]) -> None:
        """Write a line to metrics.jsonl and the tracker: step, images and seconds of training so far, and these values."""
        if "images_per_second" not in values:  # an evaluation, not a report of training
            self._measured = (self.step, dict(values))
        line = {"step": self.step, "images": self.step * self.settings.batch, "seconds": self.seconds, **values}
        if self.log is not None:
            self.log.write(line)
        if self.settings.tracker is not None:
            self.accelerator.log({key: value for key, value in line.items() if key != "step"}, step=self.step)

    def save(self, state: TrainingState | AdversarialState) -> None:
        """Write a checkpoint from the main process while the others wait. InputError if the weights are not finite."""
        if self.is_main:
            checkpoint = state.checkpoint(self.step)
            # a checkpoint with NaN would resume into NaN, and push the last good one out of `keep_checkpoints`
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
        """Print what the last evaluation measured, close the trackers and unlock the folder."""
        if self.is_main and self._measured is not None:
            step, metrics = self._measured
            print(f"step {step:,}: " + ", ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()
        self.release()

    def release(self) -> None:
        """Unlock the folder, so that another run may use it."""
        self._lock.__exit__(None, None, None)

    def _on_main(self, work: Callable[[], None]) -> None:
        """Call `work` on the main process only; if it fails, every process stops with its message."""
        # an error raised on one process alone would leave the others waiting until a timeout
        message: list[str | None] = [None]
        if self.is_main:
            try:
                work()
            except InputError as error:
                message = [str(error)]
        broadcast_object_list(message)
        if message[0]:
            raise InputError(message[0])

    def _open_folder(self, config: Spec, restart: bool) -> None:
        """Lock the folder. If it holds a run, delete that with `restart`, else refuse a config that differs from its own."""
        saved = self.folder / "config.yaml"
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"run.folder must be a folder; {self.folder} is a file")
        self._lock.__enter__()
        is_run = saved.exists() or bool(list_checkpoints(self.folder / "checkpoints"))
        if restart and is_run:  # deletes only what a run writes, and only if the folder holds a run
            for name in ("checkpoints", "model", "pipeline", "samples"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        elif list_checkpoints(self.folder / "checkpoints"):
            _refuse_changed(saved, config)

    def _resume(self) -> dict[str, Any]:
        """Continue from the newest checkpoint, if there is one; returns its plain data."""
        checkpoints = list_checkpoints(self.folder / "checkpoints")
        self.checkpoint = load_checkpoint(checkpoints[-1]) if checkpoints else None
        extra = self.checkpoint.extra if self.checkpoint else {}
        for name, now in self.identity.items():
            before = extra.get(name)
            if before not in (None, now):  # None: earlier versions did not record it
                raise InputError(
                    f"{self.folder}: the {name} differs from what this run was trained on (hash {now}, was {before}); give the "
                    "same one, or start over with --restart"
                )
        if self._pace is not None and extra.get("paced_for") == self.settings.seconds and extra.get("num_steps"):
            self.num_steps, self._pace.decided = int(extra["num_steps"]), True
        self.step = self.checkpoint.step if self.checkpoint else 0
        if self.step > self.num_steps:
            raise InputError(
                f"{self.folder} has completed {self.step:,} steps, but run.steps (or run.images) asks for {self.num_steps:,}: give "
                f"at least {self.step:,}, another run.folder, or --restart to start over"
            )
        self.seconds = float(extra.get("seconds", 0.0))
        return extra

    def _begin(self, config: Spec) -> None:
        """Write the config, open the log, and print what a changed number of steps does to the learning rate."""
        make_folder(self.folder / "samples")
        dump_config(config, self.folder / "config.yaml")
        self.log = RunLog(self.folder / "metrics.jsonl", self.step)
        note = self.checkpoint and _schedule_note(self.checkpoint, getattr(config, "optimizer", None), self.num_steps)
        if note:
            print(note)


def _schedule_note(checkpoint: Checkpoint, optimizer: OptimizerSpec | None, num_steps: int) -> str | None:
    """How a changed number of steps alters the learning rate of a resumed run; None if it hardly does."""
    before, step = checkpoint.extra.get("num_steps"), checkpoint.step
    if (
        optimizer is None
        or not isinstance(before, int)
        or before == num_steps
        or step >= num_steps
        or num_steps == ENDLESS
    ):
        return None
    # A finished cosine run that is extended jumps from nearly min_lr back up, which can undo what it learned.
    previous_rate, next_rate = (
        learning_rate(optimizer, max(0, step - 1), before),
        learning_rate(optimizer, step, num_steps),
    )
    if math.isclose(previous_rate, next_rate, rel_tol=0.05):
        return None
    return (
        f"run.steps was {before:,} and is now {num_steps:,}: from here on the {optimizer.schedule} schedule is that of "
        f"{num_steps:,} steps, so the learning rate changes from {previous_rate:.3g} to {next_rate:.3g} at step {step:,}"
    )


def _refuse_changed(saved: Path, config: Spec) -> None:
    """InputError if a run's saved config differs from `config` in a key that affects the result."""
    content = read_config(saved) if saved.exists() else {}
    # validated first, so that a key which an older version did not have counts as its default
    before, now = unmarked(validate(type(config), content, where=str(saved)), MAY_CHANGE), unmarked(config, MAY_CHANGE)
    changed = [
        f"{key}: was {before.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise InputError(
            f"{saved.parent} holds a run with another config. Give that config to resume it, another run.folder to keep both, or "
            "--restart to start over.\n  " + "\n  ".join(changed)
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
