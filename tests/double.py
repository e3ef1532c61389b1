"""Run one of the project's scripts in float64: `python tests/double.py train/gan.py CONFIG ...`.

Runs on one and on two processes round their sums differently. A GAN amplifies the difference about threefold per step, so
that after a dozen steps of float32 rounding cannot be distinguished from an error; in float64 it can.
"""

import runpy
import sys
from pathlib import Path

import torch

import genrep.pictures
import genrep.randomness

torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign]
genrep.pictures.from_uint8 = lambda pixels: pixels.double().mul_(2 / 255).sub_(1)
for name in ("normal_at", "uniform_at"):
    draw = getattr(genrep.randomness, name)
    setattr(genrep.randomness, name, lambda *arguments, draw=draw: draw(*arguments).double())

import genrep.training.folders  # noqa: E402 after the patches above, which its imports must see

load = genrep.training.folders.load_autoencoder
genrep.training.folders.load_autoencoder = lambda *arguments: load(*arguments).double()

sys.argv = sys.argv[1:]
runpy.run_path(str(Path(__file__).parent.parent / sys.argv[0]), run_name="__main__")
