"""Move, hide, mix and stack the anchors of clouds, and render the result (ARC, figures 5 and 6).

    python sample/clouds.py runs/cifar10/arc --num-images 6

Every row shows one image: the image and its render, then renders with the anchors moved by a quarter of the image, rotated,
mirrored, and scaled by 0.6; with half of the anchors hidden at random; with the left half of the image joined to the right
half of the next one; and with both images stacked. Neighbours are searched again for every render. The report gives the PSNR of
the renders, and of the moved renders relative to the renders shifted by the same number of whole pixels, where they overlap:
the decoder sees only offsets, so the two are equal up to rounding.
"""

import argparse
from pathlib import Path

from genrep.options import add_device_options, non_negative, positive
from genrep.training.config import run_script


def show(options: argparse.Namespace) -> None:
    import torch

    from genrep.clouds import moved, scaled, stacked, turned, within
    from genrep.data.signals import evenly
    from genrep.devices import choose_device, move
    from genrep.errors import InputError
    from genrep.files import write_json
    from genrep.pictures import legible, picture_and_report, picture_grid, save_png
    from genrep.randomness import stream_generator
    from genrep.training.folders import load_autoencoder, run_data
    from genrep.training.latents import open_for

    # model and data
    out, report_file = picture_and_report(options.out or Path(options.run) / "clouds.png")
    autoencoder = move(load_autoencoder(options.run), choose_device(options.device), options.dtype)
    if autoencoder.position_dim != 2 or len(autoencoder.image_shape) != 2:
        raise InputError(
            f"{options.run} must be a model of images whose tokens have positions; got one of {len(autoencoder.image_shape)} axes with "
            f"{autoencoder.position_dim} numbers of position per token: give a run of train/clouds.py"
        )
    data = open_for(autoencoder, run_data(options.run).light(), options.split)
    signal, shape = data.signal, autoencoder.image_shape
    images = data.read(evenly(len(data), options.num_images))
    values = signal.values(images.to(autoencoder.device))

    # clouds
    latents, mask = autoencoder.encode_set(values)
    next_latents, next_mask = latents.roll(-1, 0), None if mask is None else mask.roll(-1, 0)
    present = torch.ones_like(latents[..., 0], dtype=torch.bool) if mask is None else mask
    generator = stream_generator(options.seed, "hidden")
    draws = torch.rand(latents.shape[:2], generator=generator).to(present.device).masked_fill(~present, 2)
    counts, needed = present.sum(1), autoencoder.decoder.num_neighbours
    remaining = (
        draws.argsort(dim=1).argsort(dim=1) < torch.maximum((counts + 1) // 2, counts.clamp(max=needed))[:, None]
    )
    steps = [max(1, length // 4) for length in shape]
    shifted = moved(latents, [2 * step / length for step, length in zip(steps, shape, strict=True)])
    left = present & within(latents, (-9, -9, 9, 0))  # ±9: no limit, every anchor is nearer
    right = present.roll(-1, 0) & ~within(next_latents, (-9, -9, 9, 0))
    joined = left.sum(1) + right.sum(1)
    if bool((joined < needed).any()):
        image = int((joined < needed).nonzero()[0])
        raise InputError(
            f"joining two halves needs at least {needed} anchors; image {image} has {int(left[image].sum())} in its left half, and "
            f"the next one has {int(right[image].sum())} in its right half: choose other images with --num-images or --split"
        )
    clouds = {
        "render": (latents, mask),
        "moved": (shifted, mask),
        "rotated": (turned(latents, 30, shape), mask),
        "mirrored": (scaled(latents, (1, -1)), mask),
        "scaled": (scaled(latents, (0.6, 0.6)), mask),
        "hidden": (latents, remaining & present),
        "mixed": stacked([(latents, left), (next_latents, right)]),
        "stacked": stacked([(latents, mask), (next_latents, next_mask)]),
    }

    # renders
    size = tuple(options.scale * length for length in shape)
    renders = {name: autoencoder.render(cloud, size=size, mask=kept) for name, (cloud, kept) in clouds.items()}
    plain = autoencoder.render(latents, mask=mask)
    of_moved = autoencoder.render(shifted, mask=mask)[:, :, steps[0] :, steps[1] :]
    overlap = plain[:, :, : -steps[0], : -steps[1]]

    # write
    columns = [signal.keep(signal.resize(values, size)), *(signal.keep(render) for render in renders.values())]
    rows = torch.stack([signal.pictures(part.cpu()) for part in columns], dim=1)
    save_png(picture_grid(legible(rows.flatten(0, 1)), columns=rows.shape[1]), out)
    report = {
        "psnr": float(signal.psnr(plain, values).mean()),
        "psnr_moved": float(signal.psnr(of_moved, overlap).mean()),
        "columns": ["image", *clouds],
        "num_images": len(images),
        "size": list(size),
        "data": data.name,
        "autoencoder": str(options.run),
    }
    write_json(report_file, report)
    print(f"psnr: {report['psnr']:.2f}\npsnr_moved: {report['psnr_moved']:.2f}\npicture: {out}\nreport: {report_file}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run folder of train/clouds.py")
    parser.add_argument(
        "--num-images", type=positive, default=6, help="number of images, evenly spaced in the split (default 6)"
    )
    parser.add_argument(
        "--scale", type=positive, default=2, help="render at this many times the image's size (default 2)"
    )
    parser.add_argument("--split", default="held_out", help="held_out or train (default held_out)")
    parser.add_argument("--seed", type=non_negative, default=0, help="seed that chooses the hidden anchors (default 0)")
    parser.add_argument("--out", help="PNG file; the report is written next to it as JSON (default RUN/clouds.png)")
    add_device_options(parser)
    show(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
