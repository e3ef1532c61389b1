"""Command-line options other than config keys: their types, and those that several scripts share. Does not import torch."""

import argparse
import math
import re
from collections.abc import Mapping

from genrep.errors import InputError, did_you_mean


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Add `--device`, for `genrep.devices.choose_device`, and `--dtype`, a name in `genrep.devices.DTYPES`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: a GPU if there is one)")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="number format of the models; bf16 and fp16 are for GPUs (default fp32)",
    )


def positive(text: str) -> int:
    """argparse type: a positive integer."""
    if not re.fullmatch(r"[0-9]+", text) or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a positive integer; got {text!r}")
    return int(text)


def non_negative(text: str) -> int:
    """argparse type: an integer from 0."""
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
    """argparse type: positive integers separated by commas."""
    return [positive(part) for part in text.split(",")]


def non_negatives(text: str) -> list[int]:
    """argparse type: integers from 0 separated by commas."""
    return [non_negative(part) for part in text.split(",")]


def parse_size(text: str | None) -> int | tuple[int, ...] | None:
    """`64` for all axes, or one length per axis: `48x64` (height × width), `8x16x16`. InputError for anything else."""
    if text is None:
        return None
    lengths = [int(part) for part in re.split("[x×,]", text)] if re.fullmatch(r"[0-9]+([x×,][0-9]+)*", text) else [0]
    if 0 in lengths:
        raise InputError(
            f"--size must be a positive integer, or one per axis as in 48x64 (height × width); got {text!r}"
        )
    return lengths[0] if len(lengths) == 1 else tuple(lengths)


def parse_region(text: str | None, num_axes: int | None = None) -> tuple[float, ...] | None:
    """`Y0,X0,Y1,X1`: the starts, then the ends, of all axes (`num_axes` if known). InputError for anything else."""
    if text is None:
        return None
    if num_axes is not None:
        return numbers(text, 2 * num_axes, "--region")
    count = text.count(",") + 1
    try:
        return numbers(text, count + count % 2, "--region")
    except InputError:
        raise InputError(
            f"--region must be the starts, then the ends, of all axes, separated by commas (for an image -1,-1,0,0); got {text!r}"
        ) from None


def parse_classes(text: str, names: Mapping[int, str]) -> list[int]:
    """`0-9`, `3,5,7`, `cat,dog`: labels, ranges and names, in this order. InputError for anything else."""
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
                f"--classes must be labels, ranges or names, as in 0-9 or 3,5; got {part!r}{did_you_mean(part, by_name)}. "
                f"The names are {', '.join(list(by_name)[:10])}{', ...' if len(by_name) > 10 else ''}"
            )
    for label in labels:
        if label not in names:
            raise InputError(
                f"--classes must be in {min(names)} to {max(names)}, the classes of this model; got {label}"
            )
    return labels


def numbers(text: str, count: int, option: str) -> tuple[float, ...]:
    """`-1,0.5`: `count` numbers separated by commas. InputError names the option."""
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise InputError(f"{option} must be {count} numbers separated by commas; got {text!r}")
    return values
