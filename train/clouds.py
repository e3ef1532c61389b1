"""Train the shared decoder of anchored clouds (ARC), together with the clouds of some training images.

    python train/clouds.py configs/digits/arc.yaml

The decoder is trained on `run.batch` images, evenly spaced in the training split, together with a cloud for every image. Every
step uses all of these images. The clouds themselves are not part of the result: the model, an INRAutoencoder, fits a new cloud
to any image under the frozen decoder. PSNR is measured on held-out images, fitted and rendered. The run folder receives
config.yaml, metrics.jsonl, samples/*.png, checkpoints/ and model/, which from_pretrained loads. Re-running the command resumes
from the latest checkpoint.
"""

from typing import TYPE_CHECKING, Any

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import CloudRun

if TYPE_CHECKING:
    from genrep.models.autoencoder import INRAutoencoder


def build(config: CloudRun, signal: dict[str, Any]) -> "INRAutoencoder":
    """The model of a run. `signal` is the spec of the kind of signal, as plain data."""
    from genrep.models.autoencoder import INRAutoencoder

    return INRAutoencoder(**{**config.autoencoder.model_dump(), "signal": signal})


def train(config: CloudRun, restart: bool = False) -> None:
    import torch

    from genrep.data.signals import evenly
    from genrep.errors import InputError
    from genrep.files import replacing
    from genrep.metrics.reconstruction import reconstruction_psnr
    from genrep.training.clouds import JointClouds
    from genrep.training.optimizer import learning_rate
    from genrep.training.previews import save_reconstructions
    from genrep.training.reconstruction import check_model
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    shape, channels = config.autoencoder.image_shape, config.autoencoder.channels
    data, held_out = (config.data.open(split, shape, channels) for split in ("train", "held_out"))
    signal = data.signal
    check_model(config.autoencoder, data)
    if config.run.batch > len(data):
        raise InputError(
            f"run.batch must be at most {len(data)}, the images of {data.name}, all of which a step uses; got {config.run.batch}"
        )

    # run
    settings = config.run
    run = Run(config, settings, restart, identity={"data": data.fingerprint()}, splits_batch=False)
    if run.process[1] > 1:
        raise InputError(
            f"train/clouds.py must be started with one process; got {run.process[1]}. train/latents.py, which fits clouds under the "
            "trained decoder, runs on any number of processes"
        )

    # models
    torch.manual_seed(settings.seed)
    autoencoder = build(config, signal.spec.model_dump()).to(run.device)
    indices = evenly(len(data), settings.batch)
    images = data.read_training(indices, indices, settings.seed).to(
        run.device
    )  # cropped at random with data.crop random
    clouds = JointClouds(
        autoencoder.decoder,
        autoencoder.encoder,
        autoencoder.observed(signal.values(images)),
        latent_noise=config.latent_noise,
        seed=settings.seed,
    )
    forward = run.accelerator.prepare(clouds)

    # optimizer
    state = TrainingState(clouds, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def evaluate() -> None:
        """PSNR of held-out signals, fitted with the current decoder."""
        with average.applied():
            decibels = reconstruction_psnr(autoencoder, held_out, run.held_out_share(held_out))
        run.write_mean("psnr", float(decibels.sum()), len(decibels))

    def preview() -> None:
        """Held-out signals, fitted and rendered."""
        with average.applied():
            save_reconstructions(autoencoder, held_out, run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    for step in run.steps():
        noise = clouds.noise(step)
        for rows, part in clouds.parts(step):
            run.backward(forward(rows, part, noise))
        if clouds.penalty:
            run.backward(clouds.regulariser())
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
    with average.applied(), replacing(run.folder / "model") as partial:
        autoencoder.save_pretrained(partial)
    print(f"model: {run.folder / 'model'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: CloudRun) -> None:
    from genrep.encoders import CloudFitSpec
    from genrep.training.describe import check_data, on_meta, print_parts
    from genrep.training.reconstruction import check_model

    spec, encoder = config.autoencoder, config.autoencoder.encoder
    assert isinstance(encoder, CloudFitSpec)  # checked by CloudRun
    print_parts("autoencoder", on_meta(lambda: build(config, {"type": "image"})))
    tokens = spec.tokens_at_image_size
    more = f" of image_size; up to {spec.num_tokens} tokens for larger ones" if tokens < spec.num_tokens else ""
    print(
        f"representation: {tokens} tokens of {spec.latent_dim}, {tokens * spec.latent_dim:,} numbers per signal{more}"
    )
    print(
        f"run: {config.run.num_steps:,} steps of {config.run.batch} signals, 1 / {encoder.parts} of their pixels per step"
    )
    check_model(spec, check_data(config.data, spec.image_shape, spec.channels))


def main() -> None:
    config, options = parse_command_line(CloudRun, __doc__, add_options=add_training_options)
    dry_run(config) if options.dry_run else train(config, options.restart)


if __name__ == "__main__":
    run_script(main)
