"""Train a coordinate GAN: of signals, or of the latents of a frozen autoencoder.

    python train/gan.py configs/digits/gan.yaml --run.steps 2000
    python train/gan.py configs/digits/gan_latents.yaml

With `gan.target: images` the generator makes pixels; with `latents` it makes token sets, which stage 1's frozen decoder
renders (train that first; `autoencoder` names its run folder). Every step updates the discriminators, then the generator.
The run folder receives config.yaml, metrics.jsonl (losses, share of logits above 0), samples/*.png, checkpoints/ and, at the
end, pipeline/, for GANPipeline.from_pretrained, sample/generate.py and sample/evaluate.py. Re-running the command resumes
from the latest checkpoint.
"""

from typing import TYPE_CHECKING

from genrep.training.config import add_training_options, parse_command_line, run_script
from genrep.training.specs import GANRun

if TYPE_CHECKING:
    from genrep.models.discriminator import Discriminators
    from genrep.models.generator import CoordinateGenerator
    from genrep.training.targets import TargetSizes


def build(config: GANRun, sizes: "TargetSizes", num_classes: int) -> tuple["CoordinateGenerator", "Discriminators"]:
    """The two networks of a run."""
    from genrep.models.discriminator import Discriminators
    from genrep.models.generator import CoordinateGenerator

    generator = CoordinateGenerator(len(sizes.grid), sizes.channels, num_classes, **config.generator.model_dump())
    discriminators = Discriminators(
        sizes.signal_channels,
        sizes.latent_shape,
        num_classes,
        num_axes=len(sizes.signal_shape or (1, 1)),
        **config.discriminator.model_dump(),
    )
    return generator, discriminators


def train(config: GANRun, config_path: str, restart: bool = False) -> None:
    import warnings
    from typing import Any

    import torch

    from genrep.files import replacing
    from genrep.gan.augment import NUM_DRAWS, augment
    from genrep.gan.losses import hinge_discriminator_loss, hinge_generator_loss, r1_penalty, share_above_zero
    from genrep.pipelines.gan import GANPipeline
    from genrep.randomness import normal_at, uniform_at
    from genrep.training.optimizer import learning_rate
    from genrep.training.previews import save_samples
    from genrep.training.run import Run
    from genrep.training.state import AdversarialState, TrainingState
    from genrep.training.targets import open_target

    # data
    settings, objective = config.run, config.gan
    target = open_target(config, config_path)
    class_names = target.data.class_names if objective.conditional else []

    # run
    run = Run(config, settings, restart, identity=target.identity)
    stream = target.open(run)

    # models
    torch.manual_seed(settings.seed)  # the initial weights depend on the seed alone
    generator, discriminators = build(config, target.sizes, len(class_names))
    generator, discriminators = generator.to(run.device), discriminators.to(run.device)
    # torch warns about the gradients' strides with several processes. Harmless: the last convolutions have one output
    # channel, and the stride of an axis of length 1 has no meaning.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    generate, judge = run.accelerator.prepare(generator), run.accelerator.prepare(discriminators)
    judge_for_penalty = judge  # R1 needs second derivatives, which a compiled network does not have
    if settings.compile:
        generate, judge = torch.compile(generate), torch.compile(judge)
    pipeline: Any = GANPipeline(
        generator,
        **target.pipeline_parts(),
        id2label=dict(enumerate(class_names)) or None,
        sampling=config.sampling.model_dump(),
    )
    points = generator.prepare(target.places(run.device), settings.batch // run.process[1])

    # optimizer
    critic = config.optimizer.model_copy(update={"lr": objective.discriminator_lr or config.optimizer.lr})
    state = AdversarialState(
        TrainingState(generator, config.optimizer, config.ema), TrainingState(discriminators, critic, None)
    )
    average = state.generator.average

    # resume
    state.restore(run.checkpoint)

    def fakes(positions, labels, stream_name) -> list[torch.Tensor]:
        """Views of generated samples; `positions` key their noise."""
        noise = normal_at(positions, (generator.noise_dim,), settings.seed, f"{stream_name} noise").to(run.device)
        return target.fake(generate(points, noise, labels))

    def augmented(views, positions, stream_name) -> list[torch.Tensor]:
        """The views with `gan.augment` applied to the images, which are the first view."""
        if not objective.augment:
            return views
        draws = uniform_at(positions, (NUM_DRAWS,), settings.seed, f"{stream_name} augmentation")
        return [augment(views[0], objective.augment, draws), *views[1:]]

    def preview() -> None:
        """Eight samples for each of up to ten classes, from the same noise every time."""
        if run.is_main:
            path = run.folder / "samples" / f"step-{run.step:08d}.png"
            with average.applied():
                save_samples(pipeline, len(class_names), settings.seed, config.latents.batch, path)

    # loop
    for step, parts in run.training_steps(stream, config.data.num_workers):
        (batch,) = parts  # run.accumulation is 1: the two networks are updated in turn
        positions = batch.positions
        labels = batch.labels.to(run.device) if class_names and batch.labels is not None else None
        real = target.real(batch)

        # discriminators
        discriminators.requires_grad_(True)
        with torch.no_grad():
            fake = fakes(positions, labels, "discriminator")
        # real and fake in one batch, so that each network runs only once
        view_pairs = zip(augmented(real, positions, "real"), augmented(fake, positions, "fake"), strict=True)
        pair_labels = None if labels is None else torch.cat([labels, labels])
        logits = judge([torch.cat(pair) for pair in view_pairs], pair_labels)
        real_logits, fake_logits = zip(*(part.chunk(2) for part in logits), strict=True)
        discriminator_loss = hinge_discriminator_loss(real_logits, fake_logits)
        # lazy R1 (Karras et al., 2020): every r1_every steps, r1_every times as strong
        if objective.r1 and step % objective.r1_every == 0:
            views = [view.detach().requires_grad_() for view in real]
            penalty = r1_penalty(judge_for_penalty(augmented(views, positions, "real"), labels), views)
            discriminator_loss = discriminator_loss + objective.r1 / 2 * objective.r1_every * penalty
        run.accelerator.backward(discriminator_loss)
        state.discriminator.optimizer.clip_gradients()
        state.discriminator.optimizer.step(learning_rate(critic, step, run.num_steps))

        # generator
        # with fresh noise: the fakes above were made without a graph
        discriminators.requires_grad_(False)  # backward passes through them without computing their gradients
        fake = augmented(fakes(positions, labels, "generator"), positions, "made")
        run.backward(hinge_generator_loss(judge(fake, labels)))
        rate = learning_rate(config.optimizer, step, run.num_steps)
        gradient_norm = state.generator.optimizer.clip_gradients()
        state.generator.optimizer.step(rate)
        average.update(step + 1)
        run.end_step(
            state,
            lr=rate,
            gradient_norm=gradient_norm,
            discriminator_loss=discriminator_loss.detach(),
            real_above_0=share_above_zero(real_logits),
            fake_above_0=share_above_zero(fake_logits),
        )

        if run.due(settings.preview_every):
            preview()
        if run.due(settings.save_every):
            run.save(state)

    # done
    if run.is_main:
        with average.applied(), replacing(run.folder / "pipeline") as partial:
            pipeline.save_pretrained(partial)
        print(f"pipeline: {run.folder / 'pipeline'}\npictures: {run.folder / 'samples'}")
    run.finish()


def dry_run(config: GANRun, config_path: str) -> None:
    from genrep.training.describe import check_data, on_meta, print_parts
    from genrep.training.folders import describe_autoencoder
    from genrep.training.targets import target_sizes

    autoencoder = None if config.autoencoder is None else describe_autoencoder(config.autoencoder, config_path)
    sizes = target_sizes(config, autoencoder)
    shape, channels = (
        (sizes.grid, sizes.channels) if autoencoder is None else (autoencoder.image_shape, autoencoder.channels)
    )
    num_classes = len(check_data(config.data, shape, channels).class_names) if config.gan.conditional else 0
    generator, discriminators = on_meta(lambda: build(config, sizes, num_classes))
    print_parts("generator", generator)
    print_parts("discriminators", discriminators)
    print(f"run: {config.run.length} of {config.run.batch} signals")


def main() -> None:
    config, options = parse_command_line(GANRun, __doc__, add_options=add_training_options)
    dry_run(config, options.config) if options.dry_run else train(config, options.config, options.restart)


if __name__ == "__main__":
    run_script(main)
