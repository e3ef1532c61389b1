"""Render a field at any size and region: a picture of an image, a folder of frames of a video.

    python sample/render.py runs/camera/quad_tree --size 2048 --out camera.png
    python sample/render.py runs/camera/quad_tree --region -0.2,-0.2,0.2,0.2 --size 512 --out part.png

Regions are starts, then ends, of every axis in [-1, 1], in array order: Y0,X0,Y1,X1 of an image, T0,Y0,X0,T1,Y1,X1 of a
video. Only a chunk of points is held beside the result.
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
            f"--size {options.size!r}: give {num_axes} positive numbers, as in {'x'.join(map(str, field.shape))}"
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
    parser._negative_number_matcher = re.compile(r"^-[0-9.]+(,-?[0-9.]+)*$")  # --region -1,-1,0,0: a value, no option
    parser.add_argument("run", help="run or model folder of a field")
    parser.add_argument("--size", help="N, HEIGHTxWIDTH or FRAMESxHEIGHTxWIDTH (default: the signal's own)")
    parser.add_argument("--region", help="starts, then ends, of every axis in [-1, 1] (default: all)")
    parser.add_argument("--out", default="render.png", help="PNG; of a video the folder of this name without .png")
    add_device_options(parser)
    render(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
