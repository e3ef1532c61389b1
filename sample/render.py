"""Render a field at any size and region, as a picture or, for a video, a folder of frames.

    python sample/render.py runs/camera/quad_tree --size 2048 --out camera.png
    python sample/render.py runs/camera/quad_tree --region -0.2,-0.2,0.2,0.2 --size 512 --out part.png

A region gives the start of every axis, then the end of every axis, in [-1, 1] and array order: Y0,X0,Y1,X1 for an image,
T0,Y0,X0,T1,Y1,X1 for a video. Besides the result, memory holds one chunk of points.
"""

import argparse
import re

from genrep.errors import InputError
from genrep.options import add_device_options, parse_region, parse_size
from genrep.training.config import run_script


def render(options: argparse.Namespace) -> None:
    from genrep.coords import grid_shape
    from genrep.devices import choose_device, move
    from genrep.files import check_writable
    from genrep.models.field import NeuralField
    from genrep.pictures import save_png
    from genrep.training.folders import model_folder

    out = check_writable(options.out)
    field = move(NeuralField.from_pretrained(model_folder(options.run)), choose_device(options.device), options.dtype)
    num_axes, size = len(field.shape), parse_size(options.size)
    region = parse_region(options.region, num_axes)
    if size is not None and (num_axes > 2 if isinstance(size, int) else len(size) != num_axes):
        raise InputError(
            f"--size must be {num_axes} positive integers, as in {'x'.join(map(str, field.shape))}; got {options.size!r}"
        )
    size = None if size is None else grid_shape(size, num_axes)
    pictures = field.signal.frames(field.signal.keep(field.render(size, region).cpu()))
    if len(pictures) == 1:
        print(f"picture: {save_png(pictures[0], out)}")
        return
    folder = out.with_suffix("")
    for number, picture in enumerate(pictures):
        save_png(picture, folder / f"{number:06d}.png")
    print(f"frames: {folder}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    # argparse would take the value of --region -1,-1,0,0 for an option
    parser._negative_number_matcher = re.compile(r"^-[0-9.]+(,-?[0-9.]+)*$")
    parser.add_argument("run", help="run folder of train/field.py, or its model folder")
    parser.add_argument("--size", help="N, HEIGHTxWIDTH or FRAMESxHEIGHTxWIDTH (default: that of the signal)")
    parser.add_argument(
        "--region", help="start of every axis, then end of every axis, in [-1, 1] (default: everything)"
    )
    parser.add_argument(
        "--out",
        default="render.png",
        help="PNG; for a video, the name of the frames' folder plus .png (default render.png)",
    )
    add_device_options(parser)
    render(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
