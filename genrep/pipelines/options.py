"""Command-line options of sampling, the same for every script that draws samples. Light: no torch here."""

import argparse
import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genrep.errors import InputError, did_you_mean
from genrep.specs import validate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How samples are drawn, of any pipeline.

    Attributes:
        seed: image i depends on (seed, i).
        size: (height, width), or None for what the model was trained at.
        region: (y0, x0, y1, x1), or None for the whole image.
        batch_size: images at a time.
    """

    seed: int
    size: tuple[int, int] | None
    region: tuple[float, ...] | None
    batch_size: int

    def images(self, pipeline: Any, indices: Sequence[int], labels: Sequence[int] | None, **how: Any) -> Any:
        """uint8 images `[N, C, H, W]` of the given indices and, for a conditional model, labels."""
        from genrep.randomness import image_generators

        height, width = self.size or (None, None)
        return pipeline(
            class_labels=labels,
            num_images=None if labels is not None else len(indices),
            height=height,
            width=width,
            region=self.region,
            generator=image_generators(self.seed, indices),
            batch_size=self.batch_size,
            output_type="uint8",
            **how,
        ).images


@dataclasses.dataclass(frozen=True, kw_only=True)
class DiffusionSampling(Sampling):
    """How a diffusion pipeline draws samples.

    Attributes:
        scheduler: name of a diffusers scheduler, see `genrep.diffusion.schedulers`; None keeps the pipeline's.
        steps, guidance_scale, guidance_interval: as in the pipeline.
    """

    scheduler: str | None
    steps: int
    guidance_scale: float
    guidance_interval: tuple[float, float]

    def images(self, pipeline: Any, indices: Sequence[int], labels: Sequence[int] | None, **how: Any) -> Any:
        from genrep.diffusion.schedulers import scheduler_name, swap_scheduler

        if self.scheduler is not None and scheduler_name(pipeline.scheduler) != self.scheduler:
            pipeline.scheduler = swap_scheduler(self.scheduler, pipeline.scheduler)
        guidance = {"guidance_scale": self.guidance_scale, "guidance_interval": self.guidance_interval}
        return super().images(pipeline, indices, labels, num_inference_steps=self.steps, **guidance, **how)


@dataclasses.dataclass(frozen=True, kw_only=True)
class GANSampling(Sampling):
    """How a GAN draws samples.

    Attributes:
        truncation: as in the pipeline.
    """

    truncation: float

    def images(self, pipeline: Any, indices: Sequence[int], labels: Sequence[int] | None, **how: Any) -> Any:
        return super().images(pipeline, indices, labels, truncation=self.truncation, **how)


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """The options that `parse_sampling` reads."""
    group = parser.add_argument_group(
        "sampling", "defaults are those of the run's config.yaml, under `sampling`; of a pipeline folder, its own"
    )
    group.add_argument("--scheduler", help="of diffusion: ddpm, ddim, dpm_solver, euler or heun")
    group.add_argument("--steps", type=int, help="sampling steps")
    group.add_argument("--guidance-scale", type=float, help="classifier-free guidance; 1 is none")
    group.add_argument(
        "--guidance-interval", help="LOW,HIGH: share of the noise levels that is guided, 0 is the clean end"
    )
    group.add_argument("--truncation", type=float, help="of a GAN: factor on the noise; 1 is none")
    group.add_argument("--seed", type=non_negative, default=0, help="image i depends on (seed, i) alone (default 0)")
    group.add_argument("--size", help="N or HEIGHTxWIDTH in pixels; default is the size the model was trained at")
    group.add_argument("--region", help="Y0,X0,Y1,X1 in [-1, 1]: the part of the image to render")
    parser._negative_number_matcher = re.compile(r"^-[0-9.]+(,-?[0-9.]+)*$")  # --region -1,-1,0,0: a value, no option
    group.add_argument(
        "--batch-size", type=positive, default=64, help="images at a time; changes memory, not images (default 64)"
    )
    add_device_options(group)


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Where a script computes, for `genrep.devices.choose_device`, and in which numbers, by the names of its `DTYPES`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: a GPU where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="numbers of the models; bf16 and fp16 are for GPUs (default fp32)",
    )


DIFFUSION_OPTIONS, GAN_OPTIONS = ("scheduler", "steps", "guidance_scale", "guidance_interval"), ("truncation",)


def parse_sampling(options: argparse.Namespace, place: str) -> Sampling:
    """Options, over the settings of a run folder's config.yaml or a pipeline folder, over the defaults of their spec.

    InputError for what cannot be.
    """
    from genrep.pipelines import has_pipeline, pipeline_name, pipeline_sampling
    from genrep.training.config import read_config
    from genrep.training.specs import GANSamplingSpec, SamplingSpec

    config, own = Path(place) / "config.yaml", pipeline_sampling(place) if has_pipeline(place) else {}
    if not config.is_file() and not own:
        config = Path(place).parent / "config.yaml"  # a run's pipeline/, saved before pipelines had settings
    content = read_config(config) if config.is_file() else {}
    written = content.get("sampling", {})
    if not isinstance(written, Mapping):
        raise InputError(f"{config}: sampling: must be a mapping of keys; got {written!r}")
    settings: dict[str, Any] = dict(written)
    if not content and own:
        settings = {"steps" if key == "num_inference_steps" else key: value for key, value in own.items()}
    is_gan = "gan" in content or (not content and has_pipeline(place) and pipeline_name(place) == "GANPipeline")
    for key in DIFFUSION_OPTIONS if is_gan else GAN_OPTIONS:
        if getattr(options, key) is not None:
            kind, other = ("a GAN", "diffusion") if is_gan else ("diffusion", "a GAN")
            raise InputError(f"--{key.replace('_', '-')} is an option of {other}, {place} is {kind}: leave it out")
    for key in (*DIFFUSION_OPTIONS, *GAN_OPTIONS):
        given = getattr(options, key)
        if given is not None:
            settings[key] = list(numbers(given, 2, "--guidance-interval")) if key == "guidance_interval" else given
    region = numbers(options.region, 4, "--region") if options.region is not None else None
    shared: dict[str, Any] = {
        "seed": options.seed, "size": parse_size(options.size), "region": region, "batch_size": options.batch_size,
    }  # fmt: skip
    if is_gan:
        return GANSampling(truncation=validate(GANSamplingSpec, settings, where="sampling").truncation, **shared)
    spec = validate(SamplingSpec, settings, where="sampling")
    low, high = spec.guidance_interval
    scheduler = spec.scheduler if "scheduler" in settings else None
    return DiffusionSampling(
        scheduler=scheduler,
        steps=spec.steps,
        guidance_scale=spec.guidance_scale,
        guidance_interval=(low, high),
        **shared,
    )


def positive(text: str) -> int:
    """argparse type: a whole number from 1."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer; got {text!r}")
    return int(text)


def non_negative(text: str) -> int:
    """argparse type: a whole number from 0."""
    if not re.fullmatch(r"[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be an integer from 0; got {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """argparse type: a finite number above 0, such as a learning rate."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a finite number above 0; got {text!r}")
    return number


def positives(text: str) -> list[int]:
    """argparse type: positive integers with commas between them."""
    return [positive(part) for part in text.split(",")]


def non_negatives(text: str) -> list[int]:
    """argparse type: integers from 0 with commas between them."""
    return [non_negative(part) for part in text.split(",")]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """`64` or `48x64` (height × width)."""
    if text is None:
        return None
    match = re.fullmatch(r"([0-9]+)(?:[x×,]([0-9]+))?", text)
    if not match or 0 in (height := int(match[1]), width := int(match[2] or match[1])):
        raise InputError(f"--size {text!r}: give one positive number, or HEIGHTxWIDTH, as in 64 or 48x64")
    return height, width


def parse_classes(text: str, names: Mapping[int, str]) -> list[int]:
    """`0-9`, `3,5,7`, `cat,dog`: labels, ranges and names, in the order given."""
    if not names:
        raise InputError(
            f"--classes {text!r}: this model was trained without classes; leave it out and give --num-images"
        )
    by_name = {name: label for label, name in names.items()}
    labels: list[int] = []
    for part in text.split(","):
        part = part.strip()
        span = re.fullmatch(r"([0-9]+)-([0-9]+)", part)
        if part in by_name and not re.fullmatch(r"[0-9]+", part):
            labels.append(by_name[part])
        elif span and int(span[1]) <= int(span[2]):
            labels += range(int(span[1]), min(int(span[2]), max(names) + 1) + 1)
        elif re.fullmatch(r"[0-9]+", part):
            labels.append(int(part))
        else:
            raise InputError(
                f"--classes: {part!r} is no class; give labels, ranges or names, as in 0-9 or 3,5{did_you_mean(part, by_name)}"
            )
    for label in labels:
        if label not in names:
            raise InputError(f"--classes: class {label} does not exist; this model has {min(names)} to {max(names)}")
    return labels


def numbers(text: str, count: int, option: str) -> tuple[float, ...]:
    """`-1,0.5`: so many numbers with commas between them; InputError names the option."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        raise InputError(f"{option} {text!r}: give {count} numbers with commas between them")
    return found
