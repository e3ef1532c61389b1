"""Train stage 1: an INR autoencoder that turns signals into latent tokens and back.

    python train/autoencoder.py configs/digits/anr.yaml
    python train/autoencoder.py configs/digits/anr.yaml --optimizer.lr 1e-3 --run.folder runs/digits/anr_fast
    python train/autoencoder.py configs/celeba/anr.yaml --data.source FOLDER --dry-run

The run folder receives config.yaml, metrics.jsonl (loss, held-out PSNR), samples/*.png (originals, reconstructions, larger
renders, bicubic enlargements), checkpoints/ and, at the end, model/, for INRAutoencoder.from_pretrained and for stage 2.
Re-running the command resumes from the latest checkpoint.
"""

from typing import TYPE_CHECKING, Any

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import AutoencoderRun

if TYPE_CHECKING:
    from genrep.models.autoencoder import INRAutoencoder


def build(config: AutoencoderRun, signal: dict[str, Any]) -> "INRAutoencoder":
    """The model of a run. `signal` is the spec of its kind of signals, as plain data."""
    from genrep.models.autoencoder import INRAutoencoder

    return INRAutoencoder(**{**config.autoencoder.model_dump(), "signal": signal})


def train(config: AutoencoderRun, restart: bool = False) -> None:
    import torch

    from genrep.files import replacing
    from genrep.metrics.reconstruction import reconstruction_psnr
    from genrep.randomness import stream_seed
    from genrep.training.optimizer import learning_rate
    from genrep.training.order import SignalStream
    from genrep.training.perceptual import PerceptualLoss
    from genrep.training.previews import save_reconstructions
    from genrep.training.reconstruction import check_model, latent_noise, noise_shapes, training_points
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    shape, channels = config.autoencoder.image_shape, config.autoencoder.channels
    data, held_out = (config.data.open(split, shape, channels) for split in ("train", "held_out"))
    signal = data.signal
    check_model(config.autoencoder, data)
    perceptual = None if config.perceptual is None else PerceptualLoss(config.perceptual, data)

    # run
    settings, identity = config.run, {"data": data.fingerprint()}
    if perceptual is not None:
        identity["perceptual.classifier"] = perceptual.hash
    run = Run(config, settings, restart, identity=identity)
    noise_of = noise_shapes(config.reconstruction, config.autoencoder)
    stream = SignalStream(data, settings.seed, data.flips, wants_source=data.has_source, noise=noise_of)

    # models
    torch.manual_seed(settings.seed)  # the initial weights depend on the seed alone
    autoencoder = build(config, signal.spec.model_dump()).to(run.device)
    forward = run.prepare(autoencoder)
    if perceptual is not None:
        perceptual.classifier.to(run.device)

    # optimizer
    state = TrainingState(autoencoder, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def evaluate() -> None:
        """PSNR on held-out signals."""
        with average.applied(), torch.no_grad():
            decibels = reconstruction_psnr(autoencoder.eval(), held_out, run.held_out_share(held_out))
        autoencoder.train()
        run.write_mean("psnr", float(decibels.sum()), len(decibels))

    def preview() -> None:
        """Held-out signals and their reconstructions."""
        if run.is_main:
            with average.applied():
                save_reconstructions(autoencoder.eval(), held_out, run.folder / "samples" / f"step-{run.step:08d}.png")
            autoencoder.train()

    # loop
    for step, parts in run.training_steps(stream, config.data.num_workers):
        metrics = {}
        for batch in parts:
            # dropout draws from the global generator: seeded from the position, a resumed run drops the same units
            torch.manual_seed(stream_seed(settings.seed, "dropout", batch.positions[0]))
            with run.accelerator.accumulate(forward):
                values = signal.values(batch.signals.to(run.device, non_blocking=True))
                points = training_points(config.reconstruction, data, batch, run.device, settings.seed, step)
                noise = latent_noise(config.reconstruction, batch, run.device)
                window = None if perceptual is None else perceptual.window(values, settings.seed, step)
                # in one pass, because several processes exchange their gradients after each
                coords = points.coords if window is None else window.after(points.coords)
                predicted = forward(values, coords, noise)
                loss = points.loss(predicted[:, : points.coords.shape[-2]])
                if perceptual is not None and window is not None:
                    with run.accelerator.autocast():
                        distance = perceptual(predicted, window)
                    loss, metrics["perceptual"] = loss + perceptual.spec.weight * distance, distance
                run.backward(loss)
        rate = learning_rate(config.optimizer, step, run.num_steps)
        gradient_norm = optimizer.clip_gradients()
        optimizer.step(rate)
        average.update(step + 1)
        run.end_step(state, lr=rate, gradient_norm=gradient_norm, **metrics)

        if run.due(settings.evaluate_every):
            evaluate()
        if run.due(settings.preview_every):
            preview()
        if run.due(settings.save_every):
            run.save(state)

    # done
    if run.is_main:
        with average.applied(), replacing(run.folder / "model") as partial:
            autoencoder.eval().save_pretrained(partial)
        print(f"model: {run.folder / 'model'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: AutoencoderRun) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.training.describe import check_data, on_meta, print_memory, print_parts
    from genrep.training.memory import training_memory
    from genrep.training.reconstruction import check_model

    spec = config.autoencoder
    print_parts("autoencoder", on_meta(lambda: build(config, {"type": "image"})))
    print(
        f"representation: {spec.num_tokens} tokens of {spec.latent_dim}, {spec.num_tokens * spec.latent_dim:,} numbers per signal"
    )
    part = config.run.batch // config.run.accumulation
    num_coords = config.num_coords

    def loss(autoencoder):
        signals = torch.zeros(part, spec.channels, *spec.image_shape)
        coords = torch.zeros(num_coords, len(spec.image_shape))
        if config.reconstruction.per_image:
            coords = coords.expand(part, -1, -1)
        return F.mse_loss(autoencoder(signals, coords), torch.zeros(part, num_coords, spec.channels))

    memory = training_memory(lambda: build(config, {"type": "image"}), loss, config.optimizer, config.ema)
    print_memory(part, *memory)
    print(f"run: {config.run.length} of {config.run.batch} signals with {num_coords:,} coordinates each")
    check_model(spec, check_data(config.data, spec.image_shape, spec.channels))


def main() -> None:
    config, options = parse_command_line(AutoencoderRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
