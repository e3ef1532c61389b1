"""Fit a field to one signal: an image, a video, an array of any number of axes.

    python train/field.py configs/camera/quad_tree.yaml --run.steps 1000
    python train/field.py configs/camera/quad_tree.yaml --signal.source photo.png --run.folder runs/photo

The run folder gets config.yaml, metrics.jsonl (PSNR and the signal's other metrics over time), samples/*.png (the render, the
signal and ten times the error), checkpoints/ and model/, which NeuralField.from_pretrained reads and sample/render.py renders
at any size and region. Re-running the command resumes from the latest checkpoint.
"""

from typing import TYPE_CHECKING

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import FieldRun

if TYPE_CHECKING:
    from genrep.data.single import SingleSignal
    from genrep.models.field import NeuralField


def build(config: FieldRun, single: "SingleSignal") -> "NeuralField":
    """The model of a run, for a signal."""
    from genrep.models.field import NeuralField

    channels, *shape = single.kept.shape
    return NeuralField(config.field.model_dump(), shape, channels, single.signal.spec.model_dump())


def train(config: FieldRun, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.coords import grid_at
    from genrep.files import replacing
    from genrep.pictures import save_png, side_by_side
    from genrep.randomness import stream_generator
    from genrep.training.optimizer import learning_rate
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    single = config.signal.open()
    signal, shape = single.signal, tuple(single.kept.shape[1:])

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": single.hash()}, splits_batch=False)
    rank, num_processes = run.process
    kept = single.kept.flatten(1).T.contiguous().to(run.device)  # [N, C]

    # models
    torch.manual_seed(settings.seed)
    field = build(config, single).to(run.device)
    forward = run.prepare(field)

    # optimizer
    state = TrainingState(field, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def prepared(chosen):
        """This process's share of the chosen points, in chunks: what depends on the coordinates alone, and the values."""
        share = chosen.tensor_split(num_processes)[rank].to(run.device)
        num_chunks = -(-len(chosen) // (num_processes * config.fitting.chunk))  # as many on every process
        chunks = share.tensor_split(num_chunks)
        return [(field.prepare(grid_at(chunk, shape)), signal.values(kept[chunk])) for chunk in chunks]

    def evaluate() -> None:
        """All metrics of the whole signal; of a video their means and standard deviations over its frames."""
        if run.is_main:
            with average.applied():
                rendered = field.render().cpu()
            metrics = signal.measure(rendered[None], single.values[None])
            run.write({name: float(value) for name, value in metrics.items()})

    def preview() -> None:
        """Render, signal, and ten times the error; of a video its middle frame."""
        if run.is_main:
            with average.applied():
                rendered = signal.keep(field.render().cpu())
            render, original = rendered[None], single.kept[None]
            parts = [signal.pictures(render), signal.pictures(original), signal.errors(render, original)]
            save_png(side_by_side([torch.cat(parts)]), run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    every_point, num_points = None, config.fitting.num_coords or len(kept)
    total = num_points * kept.shape[1] / num_processes  # gradients are averaged; shares may differ by a point
    if config.fitting.num_coords is None:  # planned once
        every_point = prepared(torch.arange(len(kept)))
    for step in run.steps():
        chunks = every_point
        if chunks is None:
            generator = stream_generator(settings.seed, "coords", step)
            chunks = prepared(torch.randint(len(kept), (num_points,), generator=generator))
        for points, targets in chunks:
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
        with average.applied(), replacing(run.folder / "model") as partial:
            field.save_pretrained(partial)
        print(f"model: {run.folder / 'model'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: FieldRun) -> None:
    from genrep.training.cost import multiply_adds
    from genrep.training.describe import parameters_text

    single = config.signal.open()
    field = build(config, single)
    print(f"field: {parameters_text(field)}, {multiply_adds(field):,} multiply-adds per point")
    points = config.fitting.num_coords or single.kept[0].numel()
    print(f"signal: {' × '.join(map(str, single.kept.shape))} numbers of {config.signal.source}")
    print(f"run: {config.run.length} of {points:,} points")


def main() -> None:
    config, options = parse_command_line(FieldRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
