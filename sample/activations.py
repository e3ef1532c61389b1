"""Draw the activations of a field's hidden layers over the signal, one picture per unit.

    python sample/activations.py runs/siemens/scone --out activations.png
    python sample/activations.py runs/siemens/wire --num-units 16 --size 512

Every layer is a block of pictures, one per unit (as in figure 6 of SCONE, whose masks, bases and products are separate
blocks). Grey levels range from the block's lowest value to its highest, which its label gives; masks range from 0 to 1.
For WIRE's complex activations the real parts are drawn, for a video its middle frame. The JSON report next to the
picture has the mean and standard deviation of each layer over the units drawn.
"""

import argparse
from pathlib import Path

from genrep.options import add_device_options, parse_size, positive
from genrep.training.config import run_script

CHUNK = 16_384
"""Points computed at a time."""


def draw(options: argparse.Namespace) -> None:
    import torch

    from genrep.coords import grid, grid_shape
    from genrep.devices import choose_device, move
    from genrep.errors import InputError
    from genrep.files import write_json
    from genrep.models.field import NeuralField
    from genrep.pictures import labelled, legible, picture_and_report, picture_grid, save_png, to_uint8
    from genrep.training.folders import model_folder

    # model
    out, report_file = picture_and_report(options.out)
    field = move(NeuralField.from_pretrained(model_folder(options.run)), choose_device(options.device), options.dtype)
    num_axes = len(field.shape)
    if num_axes not in (2, 3):
        raise InputError(f"{options.run}: the signal must be an image or a video; it has {num_axes} axes")
    size = parse_size(options.size)
    if isinstance(size, tuple) and len(size) != num_axes:
        raise InputError(
            f"--size must be {num_axes} positive integers, as in {'x'.join(map(str, field.shape))}; got {options.size!r}"
        )
    *frames, height, width = field.shape if size is None else grid_shape(size, num_axes)
    start = frames[0] // 2 * height * width if frames else 0

    # activations
    parts: dict[str, list[torch.Tensor]] = {}
    for first in range(start, start + height * width, CHUNK):
        stop = min(first + CHUNK, start + height * width)
        coords = grid((*frames, height, width), start=first, stop=stop, device=field.device)
        with torch.no_grad():
            for name, units in field.field.activations(coords).items():
                parts.setdefault(name, []).append(units[:, : options.num_units].float().cpu())

    # write
    blocks, report = [], {}
    for name, chunks in parts.items():
        units = torch.cat(chunks).T.reshape(-1, 1, height, width)
        low, high = (0.0, 1.0) if name.startswith("mask") else (float(units.min()), float(units.max()))
        report[name] = {"mean": float(units.mean()), "std": float(units.std()), "low": low, "high": high}
        grey = to_uint8(2 * (units - low) / max(high - low, torch.finfo(torch.float32).tiny) - 1)
        blocks.append(labelled(picture_grid(legible(grey), options.columns), f"{name}: {low:.2f} to {high:.2f}"))
    widest = max(block.shape[-1] for block in blocks)
    rows = [torch.nn.functional.pad(block, (0, widest - block.shape[-1]), value=255) for block in blocks]
    print(f"picture: {save_png(torch.cat(rows, dim=1), out)}")
    write_json(report_file, {"layers": report, "model": str(options.run), "size": [height, width]})
    for name, statistics in report.items():
        print(f"{name}: mean {statistics['mean']:.3f}, standard deviation {statistics['std']:.3f}")
    print(f"report: {report_file}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run or model folder of a field")
    parser.add_argument(
        "--num-units", type=positive, default=64, help="draw this many units per layer, the first ones (default 64)"
    )
    parser.add_argument("--columns", type=positive, default=8, help="pictures per row (default 8)")
    parser.add_argument("--size", help="N, HEIGHTxWIDTH or FRAMESxHEIGHTxWIDTH (default: the signal's own)")
    parser.add_argument(
        "--out", type=Path, default=Path("activations.png"), help="PNG; the JSON report goes next to it"
    )
    add_device_options(parser)
    draw(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
