"""What scripts have for options beside the keys of a config: their types, and those that several share. Does not import torch."""

import argparse
import math
import re
from collections.abc import Mapping

from genrep.errors import InputError, did_you_mean


def add_device_options(parser: argparse._ActionsContainer) -> None:
    """Where a script computes, for `genrep.devices.choose_device`, and in which numbers, by the names of its `DTYPES`."""
    parser.add_argument("--device", help="cpu, cuda, cuda:1 or mps (default: a GPU where there is one)")
    parser.add_argument(
        "--dtype",
        choices=("fp32", "bf16", "fp16"),
        default="fp32",
        help="numbers of the models; bf16 and fp16 are for GPUs (default fp32)",
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


def parse_size(text: str | None) -> int | tuple[int, ...] | None:
    """`64`, which stands for all axes, or one length per axis: `48x64` (height × width), `8x16x16`."""
    if text is None:
        return None
    lengths = [int(part) for part in re.split("[x×,]", text)] if re.fullmatch(r"[0-9]+([x×,][0-9]+)*", text) else [0]
    if 0 in lengths:
        raise InputError(f"--size {text!r}: give one positive number, or HEIGHTxWIDTH, as in 64 or 48x64")
    return lengths[0] if len(lengths) == 1 else tuple(lengths)


def parse_region(text: str | None, num_axes: int | None = None) -> tuple[float, ...] | None:
    """`Y0,X0,Y1,X1`: starts, then ends, of every axis; of `num_axes` axes where their number is known."""
    if text is None:
        return None
    if num_axes is not None:
        return numbers(text, 2 * num_axes, "--region")
    count = text.count(",") + 1
    try:
        return numbers(text, count + count % 2, "--region")
    except InputError:
        raise InputError(
            f"--region {text!r}: give a start for each axis, then an end for each, with commas between them, "
            "as in -1,-1,0,0 of images"
        ) from None


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
