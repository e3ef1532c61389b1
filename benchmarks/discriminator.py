"""Do a GAN's discriminators improve the samples of a diffusion model over the same latents?

    python benchmarks/discriminator.py runs/cifar10/diffusion_locality_cpu --gan runs/cifar10/gan_latents \\
        --classifier runs/cifar10/classifier_cpu --num-images 1000

The samples' standardised latents climb the mean logit of all discriminators, in steps of equal length: a discriminator
gradient flow (Ansari et al., 2021) without its noise. For the samples themselves and for every --step-size, prints their mean
logit, how far the latents moved, and the metrics of sample/evaluate.py against the held-out split. Both runs must use the same
stage 1.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from genrep.coords import grid
from genrep.data.encoding import autoencoder_hash
from genrep.devices import choose_device, move
from genrep.errors import InputError
from genrep.metrics.fidelity import (
    Chosen,
    check_enough,
    classifier_distance,
    classifier_precision_recall,
    predicted_labels,
)
from genrep.models.discriminator import Discriminators
from genrep.options import positive, positive_number
from genrep.pipelines import load_pipeline
from genrep.sampling import parse_sampling
from genrep.training.checkpoint import list_checkpoints, load_checkpoint
from genrep.training.config import run_script
from genrep.training.folders import load_classifier, run_config
from genrep.training.specs import DiffusionRun, GANRun
from genrep.training.targets import target_sizes


class Critic:
    """The mean logit of a GAN's discriminators, which see renders, latents, or both.

    Args:
        run: run folder of a GAN of latents.
        pipeline: the diffusion model's, whose latents are judged.
    """

    def __init__(self, run: str, pipeline: Any):
        config = run_config(run, GANRun)
        if config.gan.target != "latents":
            raise InputError(f"--gan {run}: needs a GAN of latents (gan.target latents), and this is one of signals")
        gan = load_pipeline(run)
        if autoencoder_hash(gan.autoencoder) != autoencoder_hash(pipeline.autoencoder):
            raise InputError(f"--gan {run}: it was trained on the latents of another stage 1 than the diffusion model")
        sizes = target_sizes(config, pipeline.autoencoder.spec)
        self.autoencoder, self.normalizer = pipeline.autoencoder, gan.normalizer
        self.discriminators = Discriminators(
            sizes.signal_channels,
            sizes.latent_shape,
            pipeline.num_classes if config.gan.conditional else 0,
            num_axes=len(sizes.signal_shape or (1, 1)),
            **config.discriminator.model_dump(),
        )
        checkpoints = list_checkpoints(Path(run) / "checkpoints")
        if not checkpoints:
            raise InputError(f"--gan {run}: no checkpoint there, and only checkpoints hold the discriminators")
        self.discriminators.load_state_dict(load_checkpoint(checkpoints[-1]).tensors["discriminator"])
        self.discriminators.eval().requires_grad_(False).to(self.autoencoder.device)
        self.places = None if sizes.signal_shape is None else grid(sizes.signal_shape, device=self.autoencoder.device)
        self.signal_shape, self.sees_latents = sizes.signal_shape, sizes.latent_shape is not None

    def __call__(
        self, latents: Float[Tensor, "batch tokens latent"], labels: Int[Tensor, " batch"] | None
    ) -> Float[Tensor, " batch"]:
        """One number per standardised token set; high means real."""
        views = []
        if self.places is not None:
            decoded = self.autoencoder.decode(self.normalizer.restore(latents), self.places)
            views.append(decoded.mT.unflatten(2, self.signal_shape))
        if self.sees_latents:
            views.append(latents)
        return torch.stack([logits.mean(1) for logits in self.discriminators(views, labels)]).mean(0)

    def climb(self, latents: Tensor, labels: Tensor | None, step_size: float, num_steps: int) -> Tensor:
        """The latents after steps along the gradient, each of `step_size` standard deviations, root mean square."""
        for _ in range(num_steps):
            latents = latents.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(self(latents, labels).sum(), latents)
            scale = gradient.square().mean(dim=(1, 2), keepdim=True).sqrt().clamp_min(1e-12)
            latents = latents + step_size * gradient / scale
        return latents.detach()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder of train/diffusion.py")
    parser.add_argument("--gan", required=True, help="run folder of train/gan.py, over the same latents")
    parser.add_argument("--classifier", required=True, help="run or model folder of train/classifier.py")
    parser.add_argument("--num-images", type=positive, default=1000, help="samples (default 1000)")
    parser.add_argument("--steps", type=positive, default=10, help="gradient steps (default 10)")
    parser.add_argument(
        "--step-size",
        type=positive_number,
        nargs="+",
        default=[0.01, 0.03],
        help="length of a step, in standard deviations of the latents; one row for each (default 0.01 0.03)",
    )


def main() -> None:
    sampling, options = parse_sampling(
        __doc__ or "", add_options, pipelines=["LatentDiffusionPipeline"], former_flags=False
    )
    if options.dtype != "fp32":
        raise InputError(
            f"--dtype {options.dtype}: the discriminators compute in fp32, and so must the rest: leave it out"
        )
    device = choose_device(options.device)
    pipeline = move(sampling.load_pipeline(options.run), device, "fp32")
    critic = Critic(options.gan, pipeline)
    pipeline.set_progress_bar_config(disable=False)
    data = run_config(options.run, DiffusionRun).data.open("held_out", pipeline.image_shape, pipeline.channels)
    classifier = load_classifier(options.classifier, data, "--classifier")[0].to(device)
    check_enough(options.num_images, len(data))

    # samples
    indices = list(range(options.num_images))
    labels = torch.tensor(indices, device=device) % pipeline.num_classes if pipeline.num_classes else None
    sampled = sampling.images(pipeline, indices, None if labels is None else labels.tolist(), "latent").to(device)
    starts = critic.normalizer.standardize(sampled).split(sampling.batch_size)
    parts = [None] * len(starts) if labels is None else labels.split(sampling.batch_size)

    for step_size in (0.0, *options.step_size):
        # refined latents
        num_steps = options.steps if step_size else 0
        refined = [critic.climb(*pair, step_size, num_steps) for pair in zip(starts, parts, strict=True)]
        moved = (torch.cat(refined) - torch.cat(starts)).square().mean().sqrt()
        # renders and their metrics
        with torch.no_grad():
            logits = torch.cat([critic(*pair) for pair in zip(refined, parts, strict=True)])
            renders = [pipeline.autoencoder.render(critic.normalizer.restore(part)) for part in refined]
        kept = pipeline.signal.keep(torch.cat(renders)).cpu()
        row = {"logit": float(logits.mean()), "moved": float(moved)}
        row["fd_classifier"] = classifier_distance(classifier, pipeline.signal, kept, Chosen(data))
        if labels is not None:
            agrees = torch.eq(predicted_labels(classifier, pipeline.signal, kept), labels.cpu())
            row["class_agreement"] = float(agrees.float().mean())
        row |= classifier_precision_recall(classifier, pipeline.signal, kept, Chosen(data))
        print(f"step size {step_size:g}  " + "  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    run_script(main)
