"""Train a coordinate GAN: of images, or of the latents of a frozen autoencoder.

    python train/gan.py configs/digits/gan.yaml --run.steps 2000
    python train/gan.py configs/digits/gan_latents.yaml

Every step moves the discriminators, then the generator. The run folder gets config.yaml, metrics.jsonl, samples/*.png,
checkpoints/ and pipeline/, which GANPipeline.from_pretrained, sample/generate.py and sample/evaluate.py read. The same
command goes on from the last checkpoint of a run that was stopped.
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import GANRun


def train(config: GANRun, config_path: str, restart: bool = False) -> None:
    import warnings
    from typing import Any

    import torch

    from genrep.coords import grid
    from genrep.data.images import ImageData
    from genrep.data.latents import autoencoder_hash
    from genrep.files import replacing
    from genrep.gan.augment import NUM_DRAWS, augment
    from genrep.gan.losses import hinge_discriminator_loss, hinge_generator_loss, r1_penalty
    from genrep.models.discriminator import Discriminators
    from genrep.models.generator import CoordinateGenerator
    from genrep.models.normalizer import LatentNormalizer
    from genrep.pictures import legible, picture_grid, save_png
    from genrep.pipelines.gan import GANPipeline
    from genrep.randomness import image_generators, normal_at, uniform_at
    from genrep.render import from_uint8
    from genrep.training.latents import open_latents, open_split
    from genrep.training.order import ImageStream
    from genrep.training.run import Run
    from genrep.training.stages import load_autoencoder
    from genrep.training.state import AdversarialState, TrainingState

    # data
    settings, objective = config.run, config.gan
    autoencoder: Any = None if config.autoencoder is None else load_autoencoder(config.autoencoder, config_path)
    shape = config.image_shape if autoencoder is None else autoencoder.image_shape
    channels: Any = config.channels if autoencoder is None else autoencoder.config["channels"]
    sees_images, sees_latents = objective.sees != "latents", objective.sees != "images"
    shows_reconstructions = autoencoder is not None and sees_images and objective.real == "reconstructions"
    shows_pixels = sees_images and not shows_reconstructions
    data: Any
    if autoencoder is None:
        data = ImageData(config.data, "train", shape, channels)
    else:
        data = open_split(config.data, config.latents, autoencoder, "train", pixels=shows_pixels)
    identity = {"data": data.fingerprint()}
    if autoencoder is not None:
        identity["autoencoder"] = autoencoder_hash(autoencoder)

    # run
    run = Run(config, settings, restart, identity=identity)
    normalizer: Any = None
    latent_data, flips = None, config.data.flip
    if autoencoder is not None:
        autoencoder.to(run.device)
        latent_data = open_latents(autoencoder, data, config.latents, run.process, run.accelerator.wait_for_everyone)
        normalizer = LatentNormalizer.from_statistics(latent_data.mean, latent_data.std).to(run.device)
        flips = latent_data.flips
    wants_pixels = shows_pixels or (latent_data is not None and latent_data.wants_pixels)
    cache = latent_data.cache if latent_data is not None and (sees_latents or shows_reconstructions) else None
    stream = ImageStream(data, settings.seed, flips, wants_pixels=wants_pixels, cache=cache)

    # models
    torch.manual_seed(settings.seed)
    num_classes = len(data.class_names) if objective.conditional else 0
    values = channels if autoencoder is None else autoencoder.latent_shape[1]
    num_axes = 2 if autoencoder is None else 1
    generator = CoordinateGenerator(num_axes, values, num_classes, **config.generator.model_dump()).to(run.device)
    discriminators = Discriminators(
        channels if sees_images else None,
        autoencoder.latent_shape if sees_latents and autoencoder is not None else None,
        num_classes,
        **config.discriminator.model_dump(),
    ).to(run.device)
    # The last convolutions have one output, an axis whose stride means nothing; torch warns of it with several processes
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    generate, judge = run.accelerator.prepare(generator), run.accelerator.prepare(discriminators)
    plain_judge = judge  # a compiled network has no second derivatives, which R1 takes
    if settings.compile:
        generate, judge = torch.compile(generate), torch.compile(judge)
    pipeline: Any = GANPipeline(
        generator,
        autoencoder,
        normalizer,
        sample_size=shape if autoencoder is None else None,
        id2label=dict(enumerate(data.class_names[:num_classes])) or None,
        sampling=config.sampling.model_dump(),
    )
    places = grid(shape if autoencoder is None else autoencoder.latent_shape[:1], device=run.device)
    prepared = generator.prepare(places, settings.batch // run.process[1])

    # optimizer
    critic = config.optimizer.model_copy(update={"lr": objective.discriminator_lr or config.optimizer.lr})
    state = AdversarialState(
        TrainingState(generator, config.optimizer, config.ema, run.num_steps),
        TrainingState(discriminators, critic, None, run.num_steps),
    )

    # resume
    state.restore(run.checkpoint)

    def fakes(positions, labels, stream_name) -> tuple[Any, Any]:
        """What the generator makes for `positions`, which key its noise: what the discriminators see of it."""
        noise = normal_at(positions, (generator.noise_dim,), settings.seed, f"{stream_name} noise").to(run.device)
        made = generate(prepared, noise, labels)
        if autoencoder is None:
            return made.transpose(1, 2).unflatten(2, shape), None
        latents = normalizer.restore(made)
        return autoencoder.render(latents, gradients=True) if sees_images else None, made if sees_latents else None

    def seen(images, latents, positions, stream_name) -> tuple[Any, Any]:
        """What the discriminators are shown, augmented."""
        if images is not None and objective.augment:
            draws = uniform_at(positions, (NUM_DRAWS,), settings.seed, f"{stream_name} augmentation")
            images = augment(images, objective.augment, draws)
        return images, latents

    def preview() -> None:
        """Eight samples of each of up to ten classes, the same noise every time."""
        if run.is_main:
            labels = [label for label in range(min(10, num_classes)) for _ in range(8)] or None
            count = len(labels or range(32))
            with state.generator.average.applied():
                images = pipeline(
                    labels,
                    num_images=count,
                    generator=image_generators(settings.seed, range(count)),
                    batch_size=config.latents.batch,
                    output_type="uint8",
                ).images
            save_png(picture_grid(legible(images), columns=8), run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    for batch in run.training_batches(stream, config.data.num_workers):
        positions = batch.positions
        labels = batch.labels.to(run.device) if num_classes and batch.labels is not None else None
        images: Any = None
        if shows_pixels:
            assert batch.pixels is not None, "the stream was opened without pixels"
            images = from_uint8(batch.pixels.to(run.device, non_blocking=True))
        latents = None
        if latent_data is not None and (sees_latents or shows_reconstructions):
            encoded = latent_data.latents(batch).to(run.device, non_blocking=True).float()
            latents = normalizer.standardize(encoded) if sees_latents else None
            images = autoencoder.render(encoded) if shows_reconstructions else images

        # discriminators
        discriminators.requires_grad_(True)
        with torch.no_grad():
            fake = fakes(positions, labels, "discriminator")
        shown = [
            None if one is None else torch.cat([one, other])
            for one, other in zip(seen(images, latents, positions, "real"), seen(*fake, positions, "fake"), strict=True)
        ]
        logits = judge(*shown, None if labels is None else torch.cat([labels, labels]))
        of_real, of_fake = zip(*(each.chunk(2) for each in logits), strict=True)
        loss = hinge_discriminator_loss(of_real, of_fake)
        if objective.r1 and run.step % objective.r1_every == 0:
            real = [None if part is None else part.detach().requires_grad_() for part in (images, latents)]
            penalty = r1_penalty(
                plain_judge(*seen(real[0], real[1], positions, "real"), labels),
                [part for part in real if part is not None],
            )
            loss = loss + objective.r1 / 2 * objective.r1_every * penalty
        run.accelerator.backward(loss)
        state.discriminator.update(run.step)

        # generator
        discriminators.requires_grad_(False)
        made = seen(*fakes(positions, labels, "generator"), positions, "made")
        run.backward(hinge_generator_loss(judge(*made, labels)))
        measured = {
            "discriminator_loss": loss.detach(),
            "real_above_0": torch.stack([(each > 0).float().mean() for each in of_real]).mean(),
            "fake_above_0": torch.stack([(each > 0).float().mean() for each in of_fake]).mean(),
        }
        if run.finish_step(state, measured):
            if run.due(settings.preview_every):
                preview()
            if run.due(settings.save_every):
                run.save(state)

    # done
    if run.is_main:
        with state.generator.average.applied(), replacing(run.folder / "pipeline") as partial:
            pipeline.save_pretrained(partial)
        print(f"pipeline: {run.folder / 'pipeline'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: GANRun, config_path: str) -> None:
    from typing import Any

    from genrep.models.discriminator import Discriminators
    from genrep.models.generator import CoordinateGenerator
    from genrep.training.stages import build_empty, check_data, describe_autoencoder, print_parts

    spec = None if config.autoencoder is None else describe_autoencoder(config.autoencoder, config_path)
    shape = config.image_shape if spec is None else spec.image_shape
    channels: Any = config.channels if spec is None else spec.channels
    classes = check_data(config.data, shape, channels) if config.gan.conditional else 0
    latent_shape = None if spec is None else (spec.num_tokens, spec.latent_dim)
    values = {"num_axes": 2 if spec is None else 1, "channels": channels if spec is None else spec.latent_dim}
    print_parts(
        "generator",
        build_empty(CoordinateGenerator, {**values, "num_classes": classes, **config.generator.model_dump()}),
    )
    seen = {
        "channels": channels if config.gan.sees != "latents" else None,
        "latent_shape": latent_shape if config.gan.sees != "images" else None,
    }
    print_parts(
        "discriminators",
        build_empty(Discriminators, {**seen, "num_classes": classes, **config.discriminator.model_dump()}),
    )
    print(f"run: {config.run.num_steps:,} steps of {config.run.batch} images")


def main() -> None:
    config, options = parse_command_line(GANRun, __doc__, add_options=add_training_options)
    dry_run(config, options.config) if options.dry_run else train(config, options.config, options.restart)


if __name__ == "__main__":
    run_script(main)
