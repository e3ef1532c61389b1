"""A run: its folder, its processes, its log, where it goes on from."""

import json
import os
import re
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor
from tqdm.auto import tqdm

from genrep.data.images import evenly
from genrep.errors import InputError
from genrep.specs import Spec, validate
from genrep.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from genrep.training.config import dump_config, parse_yaml
from genrep.training.order import ImageStream, PositionBatches, TrainingBatch, training_loader
from genrep.training.specs import RunSpec
from genrep.training.state import AdversarialState, TrainingState

MAY_CHANGE = re.compile(
    r"run\.(steps|images|seconds|report_every|evaluate_every|evaluate_images|preview_every|save_every|keep_checkpoints|tracker"
    r"|folder|compile)|data\.(source|num_workers|in_memory)|latents\.(folder|batch|verify|shard_size)|sampling\..*|autoencoder"
)
"""Keys that a resumed run may have otherwise than the one it continues: they change what is shown or where it lies, not
what is learned. That moved data and a moved autoencoder are the same is checked by their content (`identity`)."""


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
        step, num_steps: steps done, and to be done at the end.
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
        self.num_steps, self.identity = settings.num_steps, dict(identity or {})
        if splits_batch:  # one that cannot be cut stops here
            PositionBatches(settings.batch, settings.accumulation, self.process, 0, 0)
        fault: list[str | None] = [None]
        if self.is_main:
            try:
                self._prepare_folder(config, restart)
            except InputError as error:  # every process must stop, not the first alone
                fault = [str(error)]
        broadcast_object_list(fault)
        if fault[0]:
            raise InputError(fault[0])
        found = list_checkpoints(self.folder / "checkpoints")
        self.checkpoint = load_checkpoint(found[-1]) if found else None
        for name, now in self.identity.items():
            before = self.checkpoint.extra.get(name) if self.checkpoint else None
            if before not in (None, now):  # earlier versions did not record it
                raise InputError(
                    f"{self.folder}: this run was trained on another {name} than this (hash {before}, now {now}); give it back, "
                    "or begin anew with --restart"
                )
        self.step = self.checkpoint.step if self.checkpoint else 0
        self.seconds = float(self.checkpoint.extra.get("seconds", 0.0)) if self.checkpoint else 0.0
        self.log = RunLog(self.folder / "metrics.jsonl", self.step) if self.is_main else None
        if settings.tracker is not None:
            self.accelerator.init_trackers(self.folder.name, config=_flat(config.model_dump(mode="json")))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._reported = (self.step, self.seconds)
        self._loss = torch.zeros((), device=self.device)
        self._stop_in_time()

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

    def training_batches(self, stream: ImageStream, num_workers: int) -> Iterator[TrainingBatch]:
        """This process's part of every step still to do, `run.accumulation` parts a step, under a progress bar."""
        settings = self.settings
        batches = PositionBatches(settings.batch, settings.accumulation, self.process, self.step, self.num_steps)
        parts = iter(training_loader(stream, batches, num_workers, pin=self.device.type == "cuda"))
        return (next(parts) for _ in self.steps())

    def steps(self) -> Iterator[int]:
        """The number of every step still to do (of every part of one), under a progress bar."""
        self._bar = tqdm(
            total=self.num_steps,
            initial=self.step,
            desc=self.folder.name,
            unit="step",
            disable=not self.is_main,
            dynamic_ncols=True,
        )
        with self._bar:
            while self.step < self.num_steps:
                self._asked = time.perf_counter()
                yield self.step

    def backward(self, loss: Tensor) -> None:
        """Gradients of one part of a step; its loss is kept for the report."""
        self.accelerator.backward(loss)
        self._loss = self._loss + loss.detach() / self.settings.accumulation

    def finish_step(
        self, state: TrainingState | AdversarialState, extra: Mapping[str, float | Tensor] | None = None
    ) -> bool:
        """After the last part of a step: move the weights, count the step, report if it is due (with what `extra` adds).

        False after other parts.
        """
        is_whole = bool(self.accelerator.sync_gradients)
        measured = state.update(self.step) if is_whole else {}
        self.step += is_whole
        settings = self.settings
        often = (settings.report_every, settings.evaluate_every, settings.preview_every, settings.save_every)
        if self.device.type == "cuda" and is_whole and any(map(self.due, often)):
            torch.cuda.synchronize(self.device)  # what is queued belongs to the steps, not to what follows
        self.seconds += time.perf_counter() - self._asked
        if not is_whole:
            return False
        self._stop_in_time()
        self._bar.update()
        if self.due(self.settings.report_every):
            self._report({"loss": self._loss, **measured, **(extra or {})})
            self._bar.set_postfix(loss=f"{float(self._loss):.5f}")
        self._loss = torch.zeros((), device=self.device)
        return True

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
        self.write({**shown, "images_per_second": speed, "peak_memory_gib": self._peak_memory() / 2**30})

    def _peak_memory(self) -> int:
        """Most bytes that this process has held: of the GPU's memory where it has one, else of the machine's."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return kilobytes * (1 if sys.platform == "darwin" else 1024)

    def _stop_in_time(self) -> None:
        """With `run.seconds`, this step is the last one when the time is up; the main process' clock counts for all."""
        if self.settings.seconds is not None:
            seconds = [self.seconds]
            broadcast_object_list(seconds)
            if seconds[0] >= self.settings.seconds:
                self.num_steps = self.step

    def _diverged(self, what: str) -> InputError:
        return InputError(
            f"step {self.step}: {what} is not finite, the run has diverged. It can go on from its last checkpoint in "
            f"{self.folder / 'checkpoints'}; lower optimizer.lr, or set optimizer.clip_norm"
        )

    def held_out_share(self, held_out: Sized) -> list[int]:
        """Indices of the held-out images that this process evaluates: all processes together see each image once."""
        rank, num_processes = self.process
        return evenly(len(held_out), self.settings.evaluate_images)[rank::num_processes]

    def write_mean(self, name: str, total: float, count: int) -> None:
        """A line with a mean over the held-out images, from every process's sum and count."""
        sums = torch.tensor([total, count], dtype=torch.float64, device=self.device)
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
            checkpoint.extra.update(self.identity, seconds=self.seconds)
            save_checkpoint(self.folder / "checkpoints", checkpoint, self.settings.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def finish(self) -> None:
        """Close the trackers."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    def _prepare_folder(self, config: Spec, restart: bool) -> None:
        saved = self.folder / "config.yaml"
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(f"run.folder {self.folder} is a file: give a folder")
        is_run = saved.exists() or bool(list_checkpoints(self.folder / "checkpoints"))
        if restart and is_run:  # nothing is deleted of a folder that holds no run
            for name in ("checkpoints", "model", "pipeline", "samples"):
                shutil.rmtree(self.folder / name, ignore_errors=True)
            (self.folder / "metrics.jsonl").unlink(missing_ok=True)
        elif list_checkpoints(self.folder / "checkpoints"):
            _refuse_changed(saved, config)
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "samples").mkdir(exist_ok=True)
        dump_config(config, saved)


class RunLog:
    """`metrics.jsonl`, one JSON object a line; lines after `step`, from a run that was killed, are taken out."""

    def __init__(self, path: Path, step: int):
        kept = (
            [line for line in path.read_text().splitlines() if _step_of(line) <= step]
            if path.exists() and step > 0
            else []
        )
        partial = path.with_suffix(".partial")
        partial.write_text("".join(line + "\n" for line in kept))
        os.replace(partial, path)
        self.file = path.open("a", buffering=1)

    def write(self, line: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(dict(line)) + "\n")


def make_accelerator(
    precision: str = "fp32", accumulation: int = 1, tracker: str | None = None, folder: Path | None = None
) -> Accelerator:
    """An Accelerator that runs with as many processes as it was started with; InputError if not, or without the tracker."""
    if tracker is not None:
        from accelerate.tracking import get_available_trackers

        available = [str(getattr(name, "value", name)) for name in get_available_trackers()]
        if tracker not in available:
            raise InputError(
                f"run.tracker {tracker!r} is not installed; installed: {', '.join(available) or 'none'}. pip install {tracker}, or leave it out"
            )
    accelerator = Accelerator(
        mixed_precision="bf16" if precision == "bf16" else "no",
        gradient_accumulation_steps=accumulation,
        log_with=tracker,
        project_dir=str(folder) if folder else None,
    )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != asked:
        raise InputError(
            f"{asked} processes were launched but each runs alone. On machines without a GPU set ACCELERATE_USE_CPU=true and use "
            "torchrun --nproc_per_node N, or accelerate launch --multi_gpu --num_processes N"
        )
    return accelerator


def _refuse_changed(saved: Path, config: Spec) -> None:
    written = parse_yaml(saved.read_text(), str(saved)) if saved.exists() else {}
    # a key that an older version did not have stands for its default
    before = _flat(validate(type(config), written, where=str(saved)).model_dump(mode="json"))
    now = _flat(config.model_dump(mode="json"))
    changed = [
        f"{key}: was {before.get(key)!r}, is now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not MAY_CHANGE.fullmatch(key)
    ]
    if changed:
        raise InputError(
            f"{saved.parent} holds a run with another config. Give its config to go on, another run.folder to keep both, or --restart to begin anew.\n  "
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


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError):
        return 2**62
