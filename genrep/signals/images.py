"""Pictures: 8-bit pixels, PSNR and SSIM. How they are read is in `genrep/data/images.py`."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from genrep.pictures import error_map, from_uint8, picture, to_uint8
from genrep.signals import ImageSignalSpec
from genrep.signals.base import Signal
from genrep.signals.quality import enlarge, frames, psnr, psnr_8bit, quality

STILLS = 4
"""Largest number of frames to draw when two videos are shown side by side."""


class ImageSignal(Signal):
    """Images `[B, C, H, W]`, or videos `[B, C, T, H, W]`, grey or RGB."""

    dtype = torch.uint8

    def __init__(self, spec: ImageSignalSpec):
        self.spec = spec

    def values(self, kept: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        return from_uint8(kept)

    def keep(self, values: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
        return to_uint8(values)

    def pictures(self, kept: UInt8[Tensor, "batch channels *shape"]) -> UInt8[Tensor, "batch channels height width"]:
        """The image, or the middle frame of a video."""
        if kept.ndim == 4:
            return kept
        clips = [frames(clip) for clip in kept]
        return torch.stack([clip[len(clip) // 2] for clip in clips])

    def errors(
        self, kept: UInt8[Tensor, "batch channels *shape"], reference: UInt8[Tensor, "batch channels *shape"]
    ) -> UInt8[Tensor, "batch channels height width"]:
        pairs = zip(self.pictures(kept), self.pictures(reference), strict=True)
        return torch.stack([error_map(image, target) for image, target in pairs])

    def stills(self, kept: UInt8[Tensor, "channels *shape"]) -> list[UInt8[Tensor, "channels height width"]]:
        """The image, or up to four frames of a video, evenly spaced from the first to the last."""
        pictures = frames(kept)
        chosen = torch.linspace(0, len(pictures) - 1, min(STILLS, len(pictures))).round().long()
        return list(pictures[chosen])

    def frames(self, kept: UInt8[Tensor, "channels *shape"]) -> UInt8[Tensor, "frames channels height width"]:
        return frames(kept)

    def measure(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        """PSNR and SSIM (unless the image is smaller than its window); for a video, means and `_std` over its frames."""
        if values.ndim == 4:
            return quality(values, reference)
        metrics: dict[str, list[Tensor]] = {}
        for clip, target in zip(values, reference, strict=True):
            for name, per_frame in quality(frames(clip), frames(target)).items():
                metrics.setdefault(name, []).append(per_frame.mean())
                metrics.setdefault(f"{name}_std", []).append(per_frame.std(correction=0))
        return {name: torch.stack(per_clip) for name, per_clip in metrics.items()}

    def psnr(
        self, values: Float[Tensor, "batch channels *shape"], reference: Float[Tensor, "batch channels *shape"]
    ) -> Float[Tensor, " batch"]:
        return psnr(values, reference)

    def measure_kept(
        self, kept: UInt8[Tensor, "batch channels *shape"], reference: UInt8[Tensor, "batch channels *shape"]
    ) -> dict[str, Float[Tensor, " batch"]]:
        return {"psnr_8bit": psnr_8bit(kept, reference)}

    def resize(
        self, values: Float[Tensor, "batch channels *shape"], size: Sequence[int]
    ) -> Float[Tensor, "batch channels *size"]:
        return enlarge(values, size)

    def output(self, kept: UInt8[Tensor, "batch channels *shape"], output_type: str) -> Any:
        if output_type == "np":
            return kept.movedim(1, -1).numpy().astype("float32") / 255
        if output_type == "pt":
            return kept.float().div_(255)
        return [picture(image) for image in self.pictures(kept)] if output_type == "pil" else kept
