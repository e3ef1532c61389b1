"""Train stage 1: an INR autoencoder that turns images into latent tokens and back.

    python train/autoencoder.py configs/digits/anr.yaml --optimizer.lr 1e-3

The run folder gets config.yaml, metrics.jsonl, samples/*.png, checkpoints/ and model/, which from_pretrained reads. The
same command goes on from the last checkpoint of a run that was stopped.
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import AutoencoderRun


def train(config: AutoencoderRun, restart: bool = False) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.data.images import open_images
    from genrep.files import replacing
    from genrep.metrics.reconstruction import enlarge, reconstruction_psnr
    from genrep.models.autoencoder import INRAutoencoder
    from genrep.pictures import enlarged, save_png, side_by_side
    from genrep.randomness import stream_seed
    from genrep.render import from_uint8, to_uint8
    from genrep.training.order import ImageStream
    from genrep.training.reconstruction import coords_and_targets, latent_noise
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    data, held_out = open_images(config.data, config.autoencoder.image_shape, config.autoencoder.channels)

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": data.fingerprint()})
    wants_source = config.data.source_size is not None
    stream = ImageStream(data, settings.seed, config.data.flip, wants_source=wants_source)

    # models
    torch.manual_seed(settings.seed)
    autoencoder = INRAutoencoder(**config.autoencoder.model_dump()).to(run.device)
    forward = run.accelerator.prepare(autoencoder)
    if settings.compile:
        forward = torch.compile(forward)

    # optimizer
    state = TrainingState(autoencoder, config.optimizer, config.ema, run.num_steps)

    # resume
    state.restore(run.checkpoint)

    def evaluate() -> None:
        """PSNR on held-out images."""
        with state.average.applied(), torch.no_grad():
            decibels = reconstruction_psnr(autoencoder.eval(), held_out, run.held_out_share(held_out))
        autoencoder.train()
        run.write_mean("psnr", float(decibels.sum()), len(decibels))

    def preview() -> None:
        """Held-out images, their reconstructions, larger renders, and bicubic enlargements."""
        if run.is_main:
            pixels = held_out.pixels(range(min(8, len(held_out))))
            large = enlarged(autoencoder.image_shape)
            with state.average.applied(), torch.no_grad():
                latents = autoencoder.eval().encode(from_uint8(pixels.to(run.device)))
                small, large_render = (
                    to_uint8(autoencoder.render(latents, size=n)) for n in (pixels.shape[-2:], large)
                )
            autoencoder.train()
            bicubic = to_uint8(enlarge(from_uint8(pixels), large))
            picture = side_by_side([pixels, small, large_render, bicubic], size=large)
            save_png(picture, run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    for batch in run.training_batches(stream, config.data.num_workers):
        torch.manual_seed(stream_seed(settings.seed, "dropout", batch.positions[0]))
        assert batch.pixels is not None
        with run.accelerator.accumulate(forward):
            images = from_uint8(batch.pixels.to(run.device, non_blocking=True))
            sources = from_uint8(batch.source_pixels.to(run.device)) if batch.source_pixels is not None else None
            coords, targets = coords_and_targets(
                config.reconstruction, images, sources, settings.seed, run.step, batch.positions
            )
            noise = latent_noise(config.reconstruction, batch.positions, autoencoder.latent_shape, settings.seed)
            values = forward(images, coords, None if noise is None else noise.to(run.device))
            loss = F.mse_loss(values, targets)
            run.backward(loss)
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
            autoencoder.eval().save_pretrained(partial)
        print(f"model: {run.folder / 'model'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: AutoencoderRun) -> None:
    import torch
    import torch.nn.functional as F

    from genrep.models.autoencoder import INRAutoencoder
    from genrep.training.memory import training_memory
    from genrep.training.stages import build_empty, check_data, print_memory, print_parts

    spec = config.autoencoder
    print_parts("autoencoder", build_empty(INRAutoencoder, spec.model_dump()))
    print(
        f"representation: {spec.num_tokens} tokens of {spec.latent_dim}, {spec.num_tokens * spec.latent_dim:,} numbers an image"
    )
    part = config.run.batch // config.run.accumulation
    num_coords = config.num_coords

    def loss(autoencoder):
        images, coords = torch.zeros(part, spec.channels, *spec.image_shape), torch.zeros(num_coords, 2)
        if config.reconstruction.per_image:
            coords = coords.expand(part, -1, -1)
        return F.mse_loss(autoencoder(images, coords), torch.zeros(part, num_coords, spec.channels))

    def build():
        return INRAutoencoder(**spec.model_dump())

    print_memory(part, *training_memory(build, loss, config.optimizer, config.ema))
    print(f"run: {config.run.num_steps:,} steps of {config.run.batch} images, {num_coords:,} coordinates each")
    check_data(config.data, spec.image_shape, spec.channels)


def main() -> None:
    config, options = parse_command_line(AutoencoderRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
