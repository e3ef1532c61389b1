"""Train stage 2: a diffusion transformer over the latents of a frozen autoencoder.

    python train/diffusion.py configs/digits/diffusion.yaml --optimizer.lr 3e-4

Encodes the data set first if `latents.folder` is empty. The run folder gets config.yaml, metrics.jsonl, samples/*.png,
checkpoints/ and pipeline/, which LatentDiffusionPipeline.from_pretrained reads. The same command goes on from the last
checkpoint of a run that was stopped.
"""

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import DiffusionRun


def train(config: DiffusionRun, config_path: str, restart: bool = False) -> None:
    from typing import Any

    import torch

    from genrep.coords import grid, random_subset, values_at
    from genrep.data.images import ImageData
    from genrep.data.latents import LatentCache, autoencoder_hash, encode_views
    from genrep.diffusion.losses import latent_loss, two_term_loss
    from genrep.diffusion.noise_levels import NoiseLevels
    from genrep.diffusion.schedulers import make_scheduler
    from genrep.errors import InputError
    from genrep.files import replacing
    from genrep.models.denoiser import LatentDenoiser
    from genrep.models.normalizer import LatentNormalizer
    from genrep.pictures import legible, picture_grid, save_png
    from genrep.pipelines.diffusion import LatentDiffusionPipeline
    from genrep.randomness import image_generators, normal_at, stream_generator, uniform_at
    from genrep.render import from_uint8
    from genrep.training.latents import open_latents, open_split
    from genrep.training.order import ImageStream
    from genrep.training.run import Run
    from genrep.training.stages import load_autoencoder
    from genrep.training.state import TrainingState

    # data
    settings, objective, sampling = config.run, config.diffusion, config.sampling
    autoencoder = load_autoencoder(config.autoencoder, config_path)
    two_terms = objective.loss == "two_term"  # it compares pixels; without it a whole cache is enough
    data, held_out = (
        open_split(config.data, config.latents, autoencoder, split, pixels=two_terms) for split in ("train", "held_out")
    )
    identity = {"autoencoder": autoencoder_hash(autoencoder), "data": data.fingerprint()}

    pixels_an_image = autoencoder.image_shape[0] * autoencoder.image_shape[1]
    if objective.image_coords is not None and objective.image_coords > pixels_an_image:
        raise InputError(
            f"diffusion.image_coords {objective.image_coords} is more than an image's {pixels_an_image} pixels"
        )

    levels = NoiseLevels(objective.noise, autoencoder.latent_shape)

    # run
    run = Run(config, settings, restart, identity=identity)
    autoencoder.to(run.device)
    latent_data = open_latents(autoencoder, data, config.latents, run.process, run.accelerator.wait_for_everyone)
    if not two_terms and config.latents.folder is not None and isinstance(data, ImageData):  # just encoded
        held_out = open_split(config.data, config.latents, autoencoder, "held_out")
    stream = ImageStream(
        data,
        settings.seed,
        latent_data.flips,
        wants_pixels=two_terms or latent_data.wants_pixels,
        cache=latent_data.cache,
        noise={"training noise": autoencoder.latent_shape},
    )

    # models
    torch.manual_seed(settings.seed)
    num_tokens, latent_dim = autoencoder.latent_shape
    denoiser = LatentDenoiser(num_tokens, latent_dim, len(data.class_names), **config.denoiser.model_dump()).to(
        run.device
    )
    normalizer = LatentNormalizer.from_statistics(latent_data.mean, latent_data.std).to(run.device)
    forward = run.accelerator.prepare(denoiser)
    if settings.compile:
        forward = torch.compile(forward)
    pipeline: Any = LatentDiffusionPipeline(
        autoencoder,
        denoiser,
        normalizer,
        make_scheduler(sampling.scheduler, levels),
        id2label=dict(enumerate(data.class_names)) or None,
        sampling=sampling.model_dump(exclude={"scheduler"}),  # which is a component, above
    )
    pipeline.set_progress_bar_config(disable=True)

    # optimizer
    state = TrainingState(denoiser, config.optimizer, config.ema, run.num_steps)

    # resume
    state.restore(run.checkpoint)

    def denoising_loss(latents, pixels, labels, positions, noise, stream_name, model):
        """The objective for images at `positions`, which key its randomness."""
        clean = normalizer.standardize(latents)
        draws = uniform_at(positions, (2,), settings.seed, f"{stream_name} levels")
        timesteps = levels.timesteps(draws[:, 0])
        if labels is not None:
            dropped = draws[:, 1] < objective.label_dropout
            labels = torch.where(dropped, len(data.class_names), labels).to(run.device)
        noise = noise.to(run.device, non_blocking=True)
        predicted = model(levels.add_noise(clean, noise, timesteps), timesteps.to(run.device), labels)
        weight = levels.weight(timesteps).to(run.device)
        if not two_terms:
            return latent_loss(predicted, clean, weight)
        coords = grid(autoencoder.image_shape, device=run.device)
        if objective.image_coords is not None:
            chosen = random_subset(
                len(coords),
                objective.image_coords,
                stream_generator(settings.seed, f"{stream_name} coords", positions[0]),
            )
            coords = coords[chosen.to(run.device)]
        restored = normalizer.restore(predicted)
        values = values_at(from_uint8(pixels.to(run.device)), coords, "nearest")
        return two_term_loss(restored, latents, autoencoder.decode(restored, coords), values, weight)

    def evaluate() -> None:
        """The objective on held-out images, with the same noise every time."""
        total, share = 0.0, run.held_out_share(held_out)
        with state.average.applied(), torch.no_grad():
            denoiser.eval()
            for start in range(0, len(share), config.latents.batch):
                indices = list(share[start : start + config.latents.batch])
                if isinstance(held_out, LatentCache):
                    pixels, latents = None, held_out.latents(indices).to(run.device)
                else:
                    pixels = held_out.pixels(indices)
                    latents = encode_views(autoencoder, pixels, flips=False)[:, 0]
                noise = normal_at(indices, autoencoder.latent_shape, settings.seed, "held-out noise")
                labels = held_out.labels_of(indices)
                loss = denoising_loss(latents, pixels, labels, indices, noise, "held-out", denoiser)
                total += float(loss) * len(indices)
        denoiser.train()
        run.write_mean("held_out_loss", total, len(share))

    def preview() -> None:
        """Eight samples of each of up to ten classes, the same noise every time."""
        if run.is_main:
            labels = [label for label in range(min(10, len(data.class_names))) for _ in range(8)] or None
            count = len(labels or range(32))
            with state.average.applied():
                images = pipeline(
                    labels,
                    num_images=count,
                    generator=image_generators(settings.seed, range(count)),
                    batch_size=config.latents.batch,
                    output_type="uint8",
                ).images
            denoiser.train()
            save_png(picture_grid(legible(images), columns=8), run.folder / "samples" / f"step-{run.step:08d}.png")

    # loop
    denoiser.train()
    for batch in run.training_batches(stream, config.data.num_workers):
        with run.accelerator.accumulate(forward):
            latents = latent_data.latents(batch).to(run.device, non_blocking=True).float()
            noise = batch.noise["training noise"]
            loss = denoising_loss(latents, batch.pixels, batch.labels, batch.positions, noise, "training", forward)
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
        with state.average.applied(), replacing(run.folder / "pipeline") as partial:
            denoiser.eval()
            pipeline.save_pretrained(partial)
        print(f"pipeline: {run.folder / 'pipeline'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: DiffusionRun, config_path: str) -> None:
    from genrep.diffusion.noise_levels import NoiseLevels
    from genrep.models.autoencoder import INRAutoencoder
    from genrep.models.denoiser import LatentDenoiser
    from genrep.training.stages import build_empty, check_data, describe_autoencoder, print_parts

    spec = describe_autoencoder(config.autoencoder, config_path)
    print_parts("autoencoder (frozen)", build_empty(INRAutoencoder, spec.model_dump()))
    print(
        f"representation: {spec.num_tokens} tokens of {spec.latent_dim}, {spec.num_tokens * spec.latent_dim:,} numbers an image"
    )
    levels = NoiseLevels(config.diffusion.noise, (spec.num_tokens, spec.latent_dim))
    print(
        f"noise: {len(levels.log_snr)} levels, log-SNR {float(levels.log_snr[0]):.2f} to {float(levels.log_snr[-1]):.2f}, shift {levels.shift:.3g}"
    )
    print(f"run: {config.run.num_steps:,} steps of {config.run.batch} images")
    classes = check_data(config.data, spec.image_shape, spec.channels)
    sizes = {"num_tokens": spec.num_tokens, "latent_dim": spec.latent_dim, "num_classes": classes}
    print_parts("denoiser", build_empty(LatentDenoiser, {**sizes, **config.denoiser.model_dump()}))


def main() -> None:
    config, options = parse_command_line(DiffusionRun, __doc__, add_options=add_training_options)
    dry_run(config, options.config) if options.dry_run else train(config, options.config, options.restart)


if __name__ == "__main__":
    run_script(main)
