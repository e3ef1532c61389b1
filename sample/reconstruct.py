"""Encode held-out images and render them back: pictures side by side, PSNR and SSIM.

    python sample/reconstruct.py runs/digits/anr --size 128

The picture shows originals, reconstructions, renders at --size and bicubic enlargements. PSNR at another size than the
image's own is against the bicubic resize of the original.
"""

import argparse
from pathlib import Path

from genrep.pipelines.options import choose_device, parse_size, positive
from genrep.training.config import run_script


def reconstruct(options: argparse.Namespace) -> None:
    import json

    import torch
    from tqdm.auto import tqdm

    from genrep.data import DataSpec
    from genrep.data.images import ImageData, evenly
    from genrep.errors import InputError
    from genrep.metrics.reconstruction import SSIM_WINDOW, enlarge, psnr, ssim
    from genrep.pictures import save_png, side_by_side
    from genrep.render import from_uint8, to_uint8
    from genrep.specs import validate
    from genrep.training.config import read_config
    from genrep.training.stages import load_autoencoder

    # model and data
    autoencoder = load_autoencoder(options.run).to(choose_device(options.device))
    config = Path(options.run) / "config.yaml"
    if options.source is not None:
        spec, split = (
            DataSpec(
                source=options.source, image_column=options.image_column, label_column=None, held_out_fraction=0.0
            ),
            "train",
        )
    elif config.is_file():
        spec, split = validate(DataSpec, read_config(config).get("data", {}), where=str(config)), options.split
    else:
        raise InputError(f"{options.run} is a model folder without a run's config.yaml: say which images with --source")
    data = ImageData(
        spec.model_copy(update={"in_memory": False}), split, autoencoder.image_shape, autoencoder.config["channels"]
    )
    chosen = evenly(len(data), options.num_images)
    count = len(chosen)
    size = parse_size(options.size) or tuple(4 * length for length in autoencoder.image_shape)

    # encode and render
    found: dict[str, list[torch.Tensor]] = {}
    shown: list[list[torch.Tensor]] = []
    with torch.no_grad(), tqdm(total=count, desc="reconstructing", unit=" images") as bar:
        for start in range(0, count, options.batch_size):
            pixels = data.pixels(chosen[start : start + options.batch_size])
            latents = autoencoder.encode(from_uint8(pixels.to(autoencoder.device)))
            pairs = []
            for shape in dict.fromkeys([autoencoder.image_shape, size]):
                rendered, reference = to_uint8(autoencoder.render(latents, size=shape)).cpu(), enlarge(pixels, shape)
                pairs += [rendered, reference]
                suffix = (
                    ""
                    if shape == autoencoder.image_shape
                    else f"_{shape[0]}"
                    if shape[0] == shape[1]
                    else f"_{shape[0]}x{shape[1]}"
                )
                found.setdefault(f"psnr{suffix}", []).append(psnr(rendered, reference))
                if min(shape) >= SSIM_WINDOW:
                    found.setdefault(f"ssim{suffix}", []).append(ssim(rendered, reference))
            if sum(len(rows[0]) for rows in shown) < options.show:
                shown.append([pixels, pairs[0], *pairs[2:]])
            bar.update(len(pixels))

    # write
    report = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    report |= {"num_images": count, "size": list(size), "data": data.name, "autoencoder": str(options.run)}
    rows = [torch.cat(parts)[: options.show] for parts in zip(*shown, strict=True)]
    out = Path(options.out or Path(options.run) / "reconstructions.png")
    save_png(side_by_side(rows, size), out)
    out.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    for name, value in report.items():
        print(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    print(f"picture: {out}\nreport: {out.with_suffix('.json')}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("run", help="run folder of stage 1, or a model folder")
    parser.add_argument("--size", help="N or HEIGHTxWIDTH to render at as well (default: four times the image)")
    parser.add_argument("--split", default="held_out", help="held_out or train (default held_out)")
    parser.add_argument(
        "--source", help="other images: a folder, parquet files, a Hub id (default: the run's own data)"
    )
    parser.add_argument("--image-column", default="image", help="column of --source that holds images (default image)")
    parser.add_argument("--num-images", type=positive, help="images to measure (default: all)")
    parser.add_argument("--show", type=positive, default=8, help="images in the picture (default 8)")
    parser.add_argument("--out", help="PNG; the report goes beside it as JSON (default RUN/reconstructions.png)")
    parser.add_argument("--batch-size", type=positive, default=64, help="images at a time (default 64)")
    parser.add_argument("--device", help="cpu or cuda; default is cuda where there is one")
    reconstruct(parser.parse_args())


if __name__ == "__main__":
    run_script(main)
