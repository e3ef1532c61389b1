"""The whole pipeline on scikit-learn's digits, in minutes on a CPU: every script, in the order of a manual run.

    python train/quickstart.py
    python train/quickstart.py --representation locality

It trains an autoencoder (R-tokens of ANR, or locality-aware latents), caches its latents, trains class-conditional
diffusion on them and a classifier to measure with, and draws samples at 64×64. The last lines say where the pictures
are; report.json in the same folder has the numbers.
"""

import argparse
import functools
import json
import shutil
import time
from pathlib import Path
from typing import Any

from genrep.errors import InputError
from genrep.files import write_json, write_text
from genrep.training.config import call_script, run_script

PROJECT = Path(__file__).resolve().parent.parent
CONFIGS = PROJECT / "configs" / "digits"


run = functools.partial(call_script, PROJECT)

DIFFUSION = {"anr": "diffusion.yaml", "locality": "diffusion_locality.yaml"}
"""Stage 2's config for each representation; stage 1's is named after the representation."""


def quickstart(folder: Path, representation: str) -> None:
    started = time.perf_counter()
    stages = {name: folder / name for name in (representation, "latents", "classifier", "diffusion")}
    marker = folder / "quickstart"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--folder must be a folder; {folder} is a file")
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise InputError(
            f"--folder must be new, empty or from an earlier quickstart, which deletes it to start over; {folder} holds other "
            "files"
        )
    shutil.rmtree(folder, ignore_errors=True)
    write_text(marker, "The quickstart created this folder, and deletes it to start over.\n")
    autoencoder, latents, classifier, diffusion = stages.values()
    stage2 = (
        CONFIGS / DIFFUSION[representation],
        "--autoencoder", autoencoder, "--latents.folder", latents, "--run.folder", diffusion,
    )  # fmt: skip

    # train
    run("train/autoencoder.py", CONFIGS / f"{representation}.yaml", "--run.folder", autoencoder)
    run("train/latents.py", *stage2)
    run("train/diffusion.py", *stage2)
    run("train/classifier.py", CONFIGS / "classifier.yaml", "--run.folder", classifier)

    # sample
    run("sample/reconstruct.py", autoencoder, "--size", 64, "--out", folder / "reconstructions.png")
    run(
        "sample/generate.py", diffusion, "--classes", "0-9", "--per-class", 8, "--size", 64,
        "--out", folder / "samples.png",
    )  # fmt: skip
    run(
        "sample/evaluate.py", diffusion, "--metrics", "fd_classifier,agreement", "--classifier", classifier,
        "--num-images", 800, "--batch-size", 250, "--out", folder / "evaluation.json",
    )  # fmt: skip

    # report
    draw_samples_and_real(folder)
    evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    reconstruction = json.loads((folder / "reconstructions.json").read_text(encoding="utf-8"))
    metrics = evaluation["metrics"]
    report: dict[str, Any] = {
        "representation": representation,
        "seconds": round(time.perf_counter() - started, 1),
        "reconstruction": {key: reconstruction[key] for key in ("psnr", "psnr_64", "ssim_64", "num_images")},
        "classifier": {"accuracy": metrics["classifier_accuracy"]},
        "generation": {
            "class_agreement": metrics["class_agreement"],
            "fd_classifier": metrics["fd_classifier"],
            "fd_floor": metrics["fd_floor"],
            "fd_reconstruction": metrics["fd_reconstruction"],
            "num_images": evaluation["num_images"],
            "guidance_scale": evaluation["sampling"]["guidance_scale"],
        },
    }
    write_json(folder / "report.json", report)
    print(f"""
held-out reconstruction at 8×8        {report["reconstruction"]["psnr"]:6.2f} dB PSNR
rendered at 64×64, against bicubic    {report["reconstruction"]["psnr_64"]:6.2f} dB PSNR
classifier's held-out accuracy        {metrics["classifier_accuracy"]:6.1%}
samples recognised as their class     {metrics["class_agreement"]:6.1%}
fd_classifier of the samples          {metrics["fd_classifier"]:6.3f}
  of the training images, the floor   {metrics["fd_floor"]:6.3f}
time                                  {report["seconds"]:6.0f} s

samples at 64×64, and real digits enlarged    {folder / "samples_beside_real.png"}
originals, reconstructions, renders           {folder / "reconstructions.png"}
the numbers                                   {folder / "report.json"}""")


def draw_samples_and_real(folder: Path) -> None:
    """Draw the grid of samples with, to its right, held-out digits of the same classes, enlarged bicubically."""
    import numpy as np
    import torch
    from PIL import Image

    from genrep.metrics.reconstruction import enlarge
    from genrep.pictures import picture_grid, save_png
    from genrep.render import from_uint8, to_uint8
    from genrep.training.folders import run_data

    held_out = run_data(folder / "diffusion").open("held_out", (8, 8), channels=1)
    assert held_out.labels is not None
    chosen = [index for label in range(10) for index in (held_out.labels == label).nonzero()[:8, 0].tolist()]
    real = picture_grid(to_uint8(enlarge(from_uint8(held_out.read(chosen)), 64)), columns=8)
    samples = torch.from_numpy(np.array(Image.open(folder / "samples.png")))[None]
    gap = torch.full((1, real.shape[1], 24), 255, dtype=torch.uint8)
    save_png(torch.cat([samples, gap, real], dim=2), folder / "samples_beside_real.png")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--representation", choices=DIFFUSION, default="anr", help="kind of latents (default anr)")
    parser.add_argument(
        "--folder", type=Path, help="where everything goes (default runs/quickstart or runs/quickstart_locality)"
    )
    options = parser.parse_args()
    name = "quickstart" if options.representation == "anr" else f"quickstart_{options.representation}"
    quickstart(options.folder or Path("runs") / name, options.representation)


if __name__ == "__main__":
    run_script(main)
