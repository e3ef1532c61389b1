"""Move, hide, mix and stack the anchors of clouds, and render what becomes of the images (ARC, figures 5 and 6).

    python sample/clouds.py runs/cifar10/arc --num-images 6

A row an image: the image, its render, its anchors moved by a quarter of the image, turned, mirrored, drawn together; half of
them hidden at random; its left half with the right half of the next image; and both stacked. Neighbours are found anew each
time. The report gives the PSNR of the renders, and of the moved ones against the renders moved by as many whole pixels, where
they overlap: a decoder that sees offsets alone moves with its anchors, up to rounding.
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
            f"{options.run}: only clouds of images can be moved about; its tokens have no positions on an image"
        )
    data = open_for(autoencoder, run_data(options.run).light(), options.split)
    signal, shape = data.signal, autoencoder.image_shape
    kept = data.read(evenly(len(data), options.num_images))
    values = signal.values(kept.to(autoencoder.device))

    # clouds
    latents, mask = autoencoder.encode_set(values)
    others, their_mask = latents.roll(-1, 0), None if mask is None else mask.roll(-1, 0)
    there = torch.ones_like(latents[..., 0], dtype=torch.bool) if mask is None else mask
    generator = stream_generator(options.seed, "hidden")
    hidden = torch.rand(latents.shape[:2], generator=generator).argsort(dim=1) < latents.shape[1] // 2
    steps = [max(1, length // 4) for length in shape]
    shifted = moved(latents, [2 * step / length for step, length in zip(steps, shape, strict=True)])
    left = there & within(latents, (-9, -9, 9, 0))
    right = ~within(others, (-9, -9, 9, 0)) if their_mask is None else their_mask & ~within(others, (-9, -9, 9, 0))
    clouds = {
        "render": (latents, mask),
        "moved": (shifted, mask),
        "turned": (turned(latents, 30, shape), mask),
        "mirrored": (scaled(latents, (1, -1)), mask),
        "drawn together": (scaled(latents, (0.6, 0.6)), mask),
        "hidden": (latents, there & ~hidden.to(there.device)),
        "mixed": stacked([(latents, left), (others, right)]),
        "stacked": stacked([(latents, mask), (others, their_mask)]),
    }

    # renders
    size = tuple(options.scale * length for length in shape)
    renders = {name: autoencoder.render(cloud, size=size, mask=seen) for name, (cloud, seen) in clouds.items()}
    own = autoencoder.render(latents, mask=mask)
    of_moved = autoencoder.render(shifted, mask=mask)[:, :, steps[0] :, steps[1] :]
    overlap = own[:, :, : -steps[0], : -steps[1]]

    # write
    shown = [signal.keep(signal.resize(values, size)), *(signal.keep(render) for render in renders.values())]
    rows = torch.stack([signal.pictures(part.cpu()) for part in shown], dim=1)
    save_png(picture_grid(legible(rows.flatten(0, 1)), columns=rows.shape[1]), out)
    report = {
        "psnr": float(signal.psnr(own, values).mean()),
        "psnr_moved": float(signal.psnr(of_moved, overlap).mean()),
        "columns": ["image", *clouds],
        "num_images": len(kept),
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
    parser.add_argument("--num-images", type=positive, default=6, help="images, evenly spaced (default 6)")
    parser.add_argument(
        "--scale", type=positive, default=2, help="render at so many times the image's size (default 2)"
    )
    parser.add_argument("--split", default="held_out", help="held_out or train (default held_out)")
    parser.add_argument("--seed", type=non_negative, default=0, help="seed of the anchors that are hidden (default 0)")
    parser.add_argument("--out", help="PNG; the report goes beside it as JSON (default RUN/clouds.png)")
    add_device_options(parser)
    show(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
