"""Fit a field to one signal: an image, a video, an animation.

    python train/field.py configs/camera/quad_tree.yaml --run.steps 1000
    python train/field.py configs/camera/quad_tree.yaml --signal.source photo.png --run.folder runs/photo

The run folder gets config.yaml, metrics.jsonl (PSNR and SSIM over time), samples/*.png (the render, the signal and the
error between them), checkpoints/ and model/, which NeuralField.from_pretrained reads and sample/render.py renders at any
size and region. The same command goes on from the last checkpoint of a run that was stopped.
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import FieldRun


def train(config: FieldRun, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.coords import grid_at
    from genrep.data.signals import open_signal, signal_hash
    from genrep.files import replacing
    from genrep.metrics.reconstruction import frames, quality
    from genrep.models.field import NeuralField
    from genrep.pictures import error_map, legible, picture_grid, save_png
    from genrep.randomness import stream_generator
    from genrep.render import from_uint8, to_uint8
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    pixels = open_signal(config.signal)
    shape = tuple(pixels.shape[1:])

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": signal_hash(pixels)}, splits_batch=False)
    rank, num_processes = run.process
    values = pixels.flatten(1).T.contiguous().to(run.device)  # [N, C] uint8

    # models
    torch.manual_seed(settings.seed)
    field = NeuralField(config.field.model_dump(), shape, len(pixels)).to(run.device)
    forward = run.accelerator.prepare(field)
    if settings.compile:
        forward = torch.compile(forward)

    # optimizer
    state = TrainingState(field, config.optimizer, config.ema, run.num_steps)

    # resume
    state.restore(run.checkpoint)

    def prepared(chosen):
        """This process's share of the chosen points, in chunks: what depends on the coordinates alone, and the values."""
        share = chosen.tensor_split(num_processes)[rank].to(run.device)
        num_chunks = -(-len(chosen) // (num_processes * config.fitting.chunk))  # as many on every process
        chunks = share.tensor_split(num_chunks)
        return [(field.prepare(grid_at(chunk, shape)), from_uint8(values[chunk])) for chunk in chunks]

    def evaluate() -> None:
        """PSNR and SSIM of the whole signal; of a video their means and standard deviations over its frames."""
        if run.is_main:
            with state.average.applied():
                rendered = frames(field.render().cpu())
            measured = quality(rendered, from_uint8(frames(pixels)))
            line = {name: float(values.mean()) for name, values in measured.items()}
            if len(shape) > 2:
                line |= {f"{name}_std": float(values.std(correction=0)) for name, values in measured.items()}
            run.write(line)

    def preview() -> None:
        """The middle frame: render, signal, and ten times the error."""
        if run.is_main:
            with state.average.applied():
                rendered = frames(to_uint8(field.render()).cpu())
            middle = len(rendered) // 2
            render, signal = rendered[middle], frames(pixels)[middle]
            picture = picture_grid(legible(torch.stack([render, signal, error_map(render, signal)])), columns=3)
            save_png(picture, run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    every_point, num_points = None, config.fitting.num_coords or len(values)
    total = num_points * len(pixels) / num_processes  # gradients are averaged; shares may differ by a point
    if config.fitting.num_coords is None:  # planned once
        every_point = prepared(torch.arange(len(values)))
    for step in run.steps():
        chunks = every_point
        if chunks is None:
            generator = stream_generator(settings.seed, "coords", step)
            chunks = prepared(torch.randint(len(values), (num_points,), generator=generator))
        for points, targets in chunks:
            run.backward(F.mse_loss(forward(points), targets, reduction="sum") / total)
        if run.finish_step(state):
            if run.due(settings.evaluate_every):
                evaluate()
            if run.due(settings.preview_every):
                preview()
            if run.due(settings.save_every):
                run.save(state)

    # done
    if run.is_main:
        with state.average.applied(), replacing(run.folder / "model") as partial:
            field.save_pretrained(partial)
        print(f"model: {run.folder / 'model'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: FieldRun) -> None:
    from genrep.data.signals import open_signal
    from genrep.models.field import NeuralField
    from genrep.training.cost import multiply_adds
    from genrep.training.stages import num_parameters

    pixels = open_signal(config.signal)
    field = NeuralField(config.field.model_dump(), pixels.shape[1:], len(pixels))
    print(f"field: {num_parameters(field):,} parameters, {multiply_adds(field):,} multiply-adds a point")
    points = config.fitting.num_coords or pixels[0].numel()
    print(f"signal: {' × '.join(map(str, pixels.shape))} numbers of {config.signal.source}")
    print(f"run: {config.run.num_steps:,} steps of {points:,} points")


def main() -> None:
    config, options = parse_command_line(FieldRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
