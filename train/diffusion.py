"""Train stage 2: a diffusion transformer over the latents of a frozen autoencoder.

    python train/diffusion.py configs/digits/diffusion.yaml
    python train/diffusion.py configs/digits/diffusion.yaml --optimizer.lr 3e-4 --run.folder runs/digits/diffusion_fast
    accelerate launch --multi_gpu --num_processes 8 train/diffusion.py configs/imagenet/diffusion.yaml

Train stage 1 first: the key `autoencoder` names its run folder. The data set is encoded before training if `latents.folder`
holds no cache yet (train/latents.py does only that). The run folder receives config.yaml, metrics.jsonl (loss, held-out
loss), samples/*.png, checkpoints/ and, at the end, pipeline/, for LatentDiffusionPipeline.from_pretrained,
sample/generate.py and sample/evaluate.py. Re-running the command resumes from the latest checkpoint.
"""

from typing import TYPE_CHECKING

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import DiffusionRun

if TYPE_CHECKING:
    from genrep.models.denoiser import LatentDenoiser
    from genrep.models.specs import AutoencoderSpec


def build(config: DiffusionRun, autoencoder: "AutoencoderSpec", num_classes: int) -> "LatentDenoiser":
    """The denoiser of a run, for the latents of an autoencoder."""
    from genrep.models.denoiser import LatentDenoiser

    return LatentDenoiser(
        autoencoder.num_tokens,
        autoencoder.latent_dim,
        num_classes,
        position_dim=autoencoder.decoder.position_dim,
        **config.denoiser.model_dump(),
    )


def train(config: DiffusionRun, config_path: str, restart: bool = False) -> None:
    from typing import Any

    import torch

    from genrep.data.encoding import autoencoder_hash
    from genrep.data.latents import LatentCache
    from genrep.data.signals import SignalData, check_whole
    from genrep.diffusion.noise_levels import NoiseLevels
    from genrep.diffusion.objective import DenoisingObjective
    from genrep.diffusion.schedulers import make_scheduler
    from genrep.files import replacing
    from genrep.models.normalizer import LatentNormalizer
    from genrep.pipelines.diffusion import LatentDiffusionPipeline
    from genrep.randomness import normal_at, stream_generator, stream_seed, uniform_at
    from genrep.training.alignment import AlignedDenoiser, ClassifierFeatures
    from genrep.training.folders import load_autoencoder
    from genrep.training.latents import (
        check_cached,
        check_decoded_points,
        decoded_points,
        encode_batch,
        open_latents,
        open_split,
    )
    from genrep.training.optimizer import learning_rate
    from genrep.training.order import SignalStream
    from genrep.training.previews import save_samples
    from genrep.training.run import Run
    from genrep.training.state import TrainingState

    # data
    settings, sampling = config.run, config.sampling
    autoencoder = load_autoencoder(config.autoencoder, config_path)
    # the two-term loss compares decoded values with the signals, for which a cache of latents is not enough
    two_terms, alignment = config.diffusion.loss == "two_term", config.diffusion.alignment
    check_decoded_points(config.diffusion, autoencoder)
    data = open_split(config.data, config.latents, autoencoder, "train", signals=two_terms or alignment is not None)
    held_out = open_split(config.data, config.latents, autoencoder, "held_out", signals=two_terms)
    identity = {"autoencoder": autoencoder_hash(autoencoder), "data": data.fingerprint()}
    clean_features = None
    # isinstance is for the type checker: open_split gave signals where they are needed
    if two_terms and isinstance(data, SignalData):
        check_whole(data, "diffusion.loss two_term")
    if alignment is not None and isinstance(data, SignalData):
        clean_features = ClassifierFeatures(alignment, data, autoencoder)
        identity["diffusion.alignment.classifier"] = clean_features.hash
    class_names, latent_shape = data.class_names, autoencoder.latent_shape
    levels = NoiseLevels(config.diffusion.noise, latent_shape)

    # run
    run = Run(config, settings, restart, identity=identity)
    autoencoder.to(run.device)
    latent_data = open_latents(autoencoder, data, config.latents, run.process, run.accelerator.wait_for_everyone)
    # the cache did not exist when the data were opened and does now: read the held-out latents from it as well
    if not two_terms and config.latents.folder is not None and isinstance(data, SignalData):
        held_out = open_split(config.data, config.latents, autoencoder, "held_out")
    check_cached(held_out, config.latents.folder)
    stream = SignalStream(
        data,
        settings.seed,
        latent_data.flips,
        wants_signals=two_terms or clean_features is not None or latent_data.wants_signals,
        cache=latent_data.cache,
        noise={"training noise": latent_shape},
    )

    # models
    torch.manual_seed(settings.seed)  # the initial weights depend on the seed alone
    denoiser = build(config, autoencoder.spec, len(class_names)).to(run.device)
    normalizer = LatentNormalizer.from_statistics(
        latent_data.mean, latent_data.std, autoencoder.position_dim, config.denoiser.position_scale
    ).to(run.device)
    trained: Any = denoiser
    if alignment is not None and clean_features is not None:
        trained = AlignedDenoiser(denoiser, alignment.block, clean_features.shape).to(run.device)
        clean_features.classifier.to(run.device)
    forward = run.prepare(trained)
    objective = DenoisingObjective(config.diffusion, levels, normalizer, len(class_names), autoencoder.decode)
    pipeline: Any = LatentDiffusionPipeline(
        autoencoder,
        denoiser,
        normalizer,
        make_scheduler(sampling.scheduler, levels),
        id2label=dict(enumerate(class_names)) or None,
        sampling=sampling.model_dump(exclude={"scheduler"}),  # the scheduler is saved as a component
        token_counts=dict(latent_data.token_counts) if autoencoder.position_dim else None,
    )
    pipeline.set_progress_bar_config(disable=True)

    # optimizer
    state = TrainingState(trained, config.optimizer, config.ema)
    optimizer, average = state.optimizer, state.average

    # resume
    state.restore(run.checkpoint)

    def denoising_loss(model, sets, signals, labels, positions, noise, stream_name, features=None):
        """The objective for signals at `positions`, which key its randomness."""
        # float32, whatever the cache stores: latents are standardised and mixed with noise in it
        latents, mask = sets
        latents = latents.to(run.device, non_blocking=True).float()
        mask = None if mask is None else mask.to(run.device, non_blocking=True)
        points = None
        if two_terms:
            generator = stream_generator(settings.seed, f"{stream_name} coords", positions[0])
            points = decoded_points(config.diffusion, autoencoder, signals.to(run.device), generator)
        draws = uniform_at(positions, (2,), settings.seed, f"{stream_name} levels")
        noise = noise.to(run.device, non_blocking=True)
        return objective(model, latents, labels, noise, draws, mask, points, features)

    def evaluate() -> None:
        """The objective on held-out signals."""
        # keyed by the signals' indices: the same noise and levels every time, so that changes come from the model alone
        total, share = 0.0, run.held_out_share(held_out)
        with average.applied(), torch.no_grad():
            denoiser.eval()
            for start in range(0, len(share), config.latents.batch):
                indices = list(share[start : start + config.latents.batch])
                if isinstance(held_out, LatentCache):
                    signals, sets = None, (held_out.latents(indices), held_out.masks(indices))
                else:
                    signals = held_out.read(indices)
                    sets = encode_batch(autoencoder, held_out, signals)
                noise = normal_at(indices, latent_shape, settings.seed, "held-out noise")
                labels = held_out.labels_of(indices)
                loss = denoising_loss(denoiser, sets, signals, labels, indices, noise, "held-out")
                total += float(loss) * len(indices)
        denoiser.train()
        run.write_mean("held_out_loss", total, len(share))

    def preview() -> None:
        """Eight samples for each of up to ten classes, from the same noise every time."""
        if run.is_main:
            path = run.folder / "samples" / f"step-{run.step:08d}.png"
            with average.applied():
                save_samples(pipeline, len(class_names), settings.seed, config.latents.batch, path)
            denoiser.train()

    # loop
    denoiser.train()
    for step, parts in run.training_steps(stream, config.data.num_workers):
        for batch in parts:
            # routing draws from the global generator: seeded from the position, a resumed run routes the same tokens
            torch.manual_seed(stream_seed(settings.seed, "routing", batch.positions[0]))
            with run.accelerator.accumulate(forward):
                sets, noise = latent_data.sets(batch), batch.noise["training noise"]
                features = None
                if clean_features is not None:
                    with run.accelerator.autocast():
                        features = clean_features(batch.signals.to(run.device, non_blocking=True))
                loss = denoising_loss(
                    forward, sets, batch.signals, batch.labels, batch.positions, noise, "training", features
                )
                run.backward(loss)
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
        with average.applied(), replacing(run.folder / "pipeline") as partial:
            denoiser.eval()
            pipeline.save_pretrained(partial)
        print(f"pipeline: {run.folder / 'pipeline'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: DiffusionRun, config_path: str) -> None:
    from genrep.diffusion.noise_levels import NoiseLevels
    from genrep.models.autoencoder import INRAutoencoder
    from genrep.training.describe import check_data, on_meta, print_parts
    from genrep.training.folders import describe_autoencoder

    spec = describe_autoencoder(config.autoencoder, config_path)
    config.latents.check_encoder(spec.encoder.type)
    print_parts("autoencoder (frozen)", on_meta(lambda: INRAutoencoder(**spec.model_dump())))
    print(
        f"representation: {spec.num_tokens} tokens of {spec.latent_dim}, {spec.num_tokens * spec.latent_dim:,} numbers per signal"
    )
    levels = NoiseLevels(config.diffusion.noise, (spec.num_tokens, spec.latent_dim))
    low, high = float(levels.log_snr[0]), float(levels.log_snr[-1])
    print(f"noise: {len(levels.log_snr)} levels, log-SNR {low:.2f} to {high:.2f}, shift {levels.shift:.3g}")
    print(f"run: {config.run.length} of {config.run.batch} signals")
    num_classes = len(check_data(config.data, spec.image_shape, spec.channels).class_names)
    print_parts("denoiser", on_meta(lambda: build(config, spec, num_classes)))


def main() -> None:
    config, options = parse_command_line(DiffusionRun, __doc__, add_options=add_training_options)
    dry_run(config, options.config) if options.dry_run else train(config, options.config, options.restart)


if __name__ == "__main__":
    run_script(main)
