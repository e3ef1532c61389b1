"""The command line of scripts that draw samples: settings of the pipeline, as `--sampling.key VALUE`, and further flags.

    python sample/generate.py RUN --sampling.num_inference_steps 20 --sampling.guidance_interval "[0.1,0.8]" --size 64

As in Python, the settings are those that the pipeline was saved with, unless overridden. Overrides use the same keys, parser
and messages as in train/. Does not import torch, so that `--help` stays fast.
"""

import argparse
import dataclasses
import re
import shlex
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from genrep.errors import InputError
from genrep.files import folder_hash
from genrep.options import add_device_options, non_negative, parse_region, parse_size, positive
from genrep.pipelines import PIPELINES, SamplingSpec, index_file, load_pipeline, pipeline_name, pipeline_sampling
from genrep.specs import Spec
from genrep.training.config import describe, override, parse_options, read_config, split_overrides

S = TypeVar("S", bound=SamplingSpec)


class SamplingConfig(Spec, Generic[S]):
    """The part of a run's config that scripts in sample/ can override."""

    sampling: S
    """How samples are drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a script draws samples from a pipeline.

    Attributes:
        settings: settings of the sampler, as in the pipeline.
        seed: image i depends on (seed, i).
        size: one length per axis, such as (height, width), or one for all; None is the size that the model was trained on.
        region: (y0, x0, y1, x1), or None for the whole image.
        batch_size: images at a time.
        num_tokens: tokens per sample, for tokens with positions: a number, "data" to draw it from those of the training data,
            or None for the pipeline's default.
        guide: the run or pipeline folder whose denoiser guides; None is the pipeline's own guide, if it has one.
    """

    settings: SamplingSpec
    seed: int
    size: int | tuple[int, ...] | None
    region: tuple[float, ...] | None
    batch_size: int
    num_tokens: int | Literal["data"] | None = None
    guide: str | None = None

    def load_pipeline(self, place: str | Path) -> Any:
        """The pipeline of a run or pipeline folder, without progress bars, with the scheduler of the settings and the guide."""
        pipeline = load_pipeline(place)
        pipeline.set_progress_bar_config(disable=True)
        scheduler = getattr(self.settings, "scheduler", None)
        if (
            scheduler is not None and "scheduler" in self.settings.model_fields_set
        ):  # otherwise keep the saved scheduler
            from genrep.diffusion.schedulers import scheduler_name, swap_scheduler

            if scheduler_name(pipeline.scheduler) != scheduler:
                pipeline.scheduler = swap_scheduler(scheduler, pipeline.scheduler)
        if self.guide is not None:
            from genrep.pipelines.guide import load_guide

            pipeline.guide = load_guide(self.guide, pipeline)
        return pipeline

    def grid(self, pipeline: Any) -> tuple[int, ...]:
        """The size of the samples, one length per axis. InputError if its number of axes is not the pipeline's."""
        from genrep.coords import grid_shape

        trained = tuple(pipeline.image_shape)
        return trained if self.size is None else grid_shape(self.size, len(trained))

    def refuse_resizing(self, pipeline: Any, data: Any) -> None:
        """InputError if samples would be compared with data of another size that cannot be resized."""
        if not data.resizes and self.grid(pipeline) != tuple(pipeline.image_shape):
            raise InputError(
                "--size: these signals exist at one size only, at which samples are compared: leave it out"
            )

    def images(
        self, pipeline: Any, indices: Sequence[int], labels: Sequence[int] | None, output_type: str = "uint8"
    ) -> Any:
        """Samples with these indices and, for a conditional model, labels: uint8 pictures `[N, C, H, W]`, or another output."""
        from genrep.randomness import image_generators

        return pipeline(
            class_labels=labels,
            num_images=None if labels is not None else len(indices),
            size=self.size,
            region=self.region,
            generator=image_generators(self.seed, indices),
            batch_size=self.batch_size,
            output_type=output_type,
            **self.settings.model_dump(exclude={"scheduler"}),
            **({} if self.num_tokens is None else {"num_tokens": self.num_tokens}),  # a GAN's call does not have it
        ).images

    def record(self, pipeline: Any) -> dict[str, Any]:
        """Everything that samples of `load_pipeline`'s pipeline depend on, other than the pipeline, as plain data."""
        record = {**self.settings.model_dump(), "seed": self.seed, "region": self.region}
        if self.num_tokens is not None:  # left out otherwise: earlier versions' samples stay valid
            record["num_tokens"] = self.num_tokens
        if self.guide is not None:  # by content: the folder may be copied, or trained anew
            record["guide"] = folder_hash(index_file(self.guide).parent / "denoiser")
        record["size"] = None if self.size is None else self.grid(pipeline)
        if "scheduler" in record:
            from genrep.diffusion.schedulers import scheduler_name

            record["scheduler"] = scheduler_name(pipeline.scheduler)
        return record


def parse_sampling(
    description: str,
    add_options: Callable[[argparse.ArgumentParser], None],
    argv: Sequence[str] | None = None,
    pipelines: Sequence[str] = tuple(PIPELINES),
    former_flags: bool = True,
) -> tuple[Sampling, argparse.Namespace]:
    """Parse `script.py RUN --sampling.key VALUE --flag`: how to draw samples from RUN, and the script's own options.

    Args:
        description: the beginning of `--help`.
        add_options: adds the script's own options, including `run`.
        argv: arguments; None is the command line.
        pipelines: pipeline classes that the script supports.
        former_flags: whether earlier versions of the script had flags instead of `--sampling.key`.

    Raises:
        InputError: invalid options, or no supported pipeline in RUN.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.usage = "%(prog)s RUN [--sampling.key VALUE ...] [options]"
    add_options(parser)
    _add_flags(parser)
    if former_flags:
        for flag in FORMER_FLAGS:
            parser.add_argument(flag, dest=flag, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.epilog = "\n".join(_help_on_keys(pipelines))
    rest, overrides = split_overrides(SamplingConfig, sys.argv[1:] if argv is None else argv)
    options = parse_options(parser, rest)
    former: list[tuple[str, str]] = []
    for flag in [flag for flag in FORMER_FLAGS if hasattr(options, flag)]:
        text = getattr(options, flag)
        value = f"[{text}]" if flag == "--guidance-interval" else text  # it used to be written 0.1,0.8
        former.append((f"sampling.{FORMER_FLAGS[flag]}", value))
        replacement = f"--sampling.{FORMER_FLAGS[flag]} {shlex.quote(value)}"
        warnings.warn(f"{flag} {text} is now {replacement}", FutureWarning, stacklevel=2)

    pipeline = pipeline_name(options.run)
    if pipeline not in pipelines:
        raise InputError(f"{options.run} has a {pipeline}; this script needs a {' or a '.join(pipelines)}")
    if options.num_tokens is not None and pipeline == "GANPipeline":
        raise InputError("--num-tokens is for diffusion over tokens with positions, and this is a GAN: leave it out")
    if options.guide is not None and pipeline == "GANPipeline":
        raise InputError("--guide is for diffusion, and this is a GAN: leave it out")
    saved, where = saved_settings(options.run)
    kind: Any = SamplingConfig[PIPELINES[pipeline].sampling]  # type: ignore[misc] # which one is known at run time
    settings = override(kind, {"sampling": saved}, [*former, *overrides], where).sampling
    return Sampling(
        settings=settings,
        seed=options.seed,
        size=parse_size(options.size),
        region=parse_region(options.region),
        batch_size=options.batch_size,
        num_tokens=options.num_tokens,
        guide=options.guide,
    ), options


def saved_settings(place: str | Path) -> tuple[Any, str]:
    """The saved settings of a run's or folder's pipeline, not yet validated, and the file that they are from."""
    # Earlier versions saved pipelines without settings: they used the run's config or, outside a run, the spec's defaults.
    settings = pipeline_sampling(place)
    if settings is not None:
        return settings, str(index_file(place))
    for config in (Path(place) / "config.yaml", Path(place).parent / "config.yaml"):
        if config.is_file():
            return read_config(config).get("sampling", {}), str(config)
    return {}, str(index_file(place))


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """The options common to all scripts that draw samples."""
    group = parser.add_argument_group("drawing")
    group.add_argument("--seed", type=non_negative, default=0, help="image i depends only on (seed, i) (default 0)")
    group.add_argument(
        "--size",
        help="N or HEIGHTxWIDTH in pixels, or one length per axis (default: the size the model was trained on)",
    )
    group.add_argument("--region", help="Y0,X0,Y1,X1 in [-1, 1]: the part of the image to render (default: all)")
    parser._negative_number_matcher = re.compile(r"^-[0-9.]+(,-?[0-9.]+)*$")  # -1,-1,0,0 is a value of --region
    group.add_argument(
        "--num-tokens",
        type=_number_or_data,
        metavar="N|data",
        help="tokens per sample, if tokens have positions (clouds); data draws the number from those of the training data "
        "(default: the largest trained with)",
    )
    group.add_argument(
        "--guide",
        metavar="RUN",
        help="run or pipeline folder of a smaller or less trained denoiser of the same latents: guidance moves away from its "
        "predictions instead of those without class (autoguidance; default: the pipeline's guide, if it has one)",
    )
    group.add_argument(
        "--batch-size", type=positive, default=64, help="images at a time; affects memory, not images (default 64)"
    )
    add_device_options(group)


def _number_or_data(text: str) -> int | str:
    """argparse type: a positive integer, or `data`."""
    if text == "data":
        return text
    try:
        return positive(text)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"must be a positive integer, or data; got {text!r}") from None


FORMER_FLAGS = {
    "--scheduler": "scheduler",
    "--steps": "num_inference_steps",
    "--guidance-scale": "guidance_scale",
    "--guidance-interval": "guidance_interval",
    "--truncation": "truncation",
}
"""Flags of earlier versions, and the keys of `sampling` that replaced them."""


def _help_on_keys(pipelines: Sequence[str]) -> list[str]:
    lines = ["keys of the sampler (type, meaning); those that are not given are as the pipeline was saved with:"]
    for name in pipelines:
        lines += ["", f"for a {name}:", *describe(PIPELINES[name].sampling, "sampling", defaults=False)]
    return lines
