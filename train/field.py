"""Fit a field to one signal: an image, a video, an array of any number of axes, the signed distance of a shape.

    python train/field.py configs/camera/quad_tree.yaml --run.steps 1000
    python train/field.py configs/camera/quad_tree.yaml --signal.source photo.png --run.folder runs/photo
    python train/field.py configs/shapes/siren.yaml --signal.source bunny.obj --run.folder runs/bunny

The run folder receives config.yaml, metrics.jsonl (PSNR and the signal's other metrics over time), samples/*.png (the
render, the signal and ten times the error), checkpoints/ and model/, which NeuralField.from_pretrained loads and
sample/render.py renders at any size and region; for a shape also mesh.ply. Re-running the command resumes from the
latest checkpoint.
"""

import functools
from typing import TYPE_CHECKING, Any

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import FieldRun

if TYPE_CHECKING:
    from torch import Tensor

    from genrep.data.single.base import SingleSignal
    from genrep.models.field import NeuralField


def build(config: FieldRun, single: "SingleSignal") -> "NeuralField":
    """The model of a run, for a signal."""
    from genrep.models.field import NeuralField

    return NeuralField(config.field.model_dump(), single.shape, single.channels, single.signal.spec.model_dump())


def train(config: FieldRun, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.data.single.base import Rendered, Share
    from genrep.files import replacing
    from genrep.pictures import save_png
    from genrep.randomness import stream_generator
    from genrep.training.optimizer import learning_rate
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    single = config.signal.open()

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": single.hash()}, splits_batch=False)
    single.to(run.device)
    share = Share(*run.process)

    # models
    torch.manual_seed(settings.seed)
    field = build(config, single).to(run.device)
    forward = run.prepare(field)

    # optimizer
    state = TrainingState(field, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def draw(step: int) -> list[tuple[Any, "Tensor"]]:
        """This process's share of a step's points, in chunks: the prepared coordinates, and the target values."""
        points = single.points(config.fitting, stream_generator(settings.seed, "coords", step), share)
        num_chunks = -(-num_points // (share.num_processes * config.fitting.chunk))  # the same on every process
        chunks = zip(*(part.tensor_split(num_chunks) for part in points), strict=True)
        return [(field.prepare(coords), values) for coords, values in chunks]

    @functools.lru_cache(maxsize=1)
    def rendered(step: int) -> Rendered:
        """The field after a step, to measure, draw and save; call it with the averaged weights applied."""
        return Rendered(field)

    def evaluate() -> None:
        """All metrics of the whole signal."""
        if run.is_main:
            with average.applied():
                run.write(single.measure(rendered(run.step)))

    def preview() -> None:
        """The render next to the signal."""
        if run.is_main:
            with average.applied():
                save_png(single.picture(rendered(run.step)), run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    num_points = config.fitting.num_coords or single.num_points
    total = num_points * single.channels / share.num_processes  # gradients are averaged; shares may differ by a point
    fixed = draw(0) if single.is_fixed(config.fitting) else None
    for step in run.steps():
        for points, targets in fixed or draw(step):
            run.backward(F.mse_loss(forward(points), targets, reduction="sum") / total)
        rate = learning_rate(config.optimizer, step, run.num_steps)
        gradient_norm = optimizer.clip_gradients()
        optimizer.step(rate)
        average.update(step + 1)
        run.end_step(state, lr=rate, gradient_norm=gradient_norm)

        if run.due(settings.evaluate_every):
            evaluate()
        if run.due(settings.preview_every):
            preview()
        if run.due(settings.save_every):
            run.save(state)

    # done
    if run.is_main:
        with average.applied():
            with replacing(run.folder / "model") as partial:
                field.save_pretrained(partial)
            files = single.save(rendered(run.step), run.folder)
        print(f"model: {run.folder / 'model'}\npictures: {run.folder / 'samples'}")
        for file in files:
            print(f"{file.stem}: {file}")
    run.finish()


def dry_run(config: FieldRun) -> None:
    from genrep.training.cost import multiply_adds
    from genrep.training.describe import parameters_text

    single = config.signal.open()
    field = build(config, single)
    print(f"field: {parameters_text(field)}, {multiply_adds(field):,} multiply-adds per point")
    print(f"signal: {single.describe()}")
    points = config.fitting.num_coords or single.num_points
    print(f"run: {config.run.length} of {points:,} points")


def main() -> None:
    config, options = parse_command_line(FieldRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
