"""Training of the shared decoder of anchored clouds, together with the clouds of some images (ARC, appendix A)."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.decoders.anchored import AnchoredDecoder
from genrep.encoders.fit import CloudFit, Part, cut_into_parts, loss_of_part
from genrep.randomness import stream_generator


class JointClouds(nn.Module):
    """A decoder and the features of the clouds that it is trained with; the anchors are fixed.

    Args:
        decoder: the decoder to train.
        encoder: draws the anchors and the initial features, and cuts the pixels into parts.
        values: the images.
        latent_noise: see `CloudRun`.
        seed: seed of that noise.
    """

    def __init__(
        self,
        decoder: AnchoredDecoder,
        encoder: CloudFit,
        values: Float[Tensor, "batch observed *shape"],
        *,
        latent_noise: float = 0.0,
        seed: int = 0,
    ):
        super().__init__()
        groups = [(images, encoder.place(images, decoder)) for images in encoder.split(values)]
        self.decoder, self.penalty = decoder, encoder.penalty
        self.latent_noise, self.seed = latent_noise, seed
        self.features = nn.Parameter(torch.cat([clouds.features for _, clouds in groups]))
        self.groups = [cut_into_parts(encoder, images, clouds, decoder) for images, clouds in groups]
        self.sizes = [len(images) for images, _ in groups]

    def parts(self, step: int) -> Iterator[tuple[slice, Part]]:
        """The pixels of a step, one group of images at a time: the slice of the images, and their pixels."""
        start = 0
        for steps, size in zip(self.groups, self.sizes, strict=True):
            for part in steps[step % len(steps)]:
                yield slice(start, start + size), part
            start += size

    def noise(self, step: int) -> Float[Tensor, "batch tokens feature"] | None:
        """What a step adds to the features, a pure function of seed and step; None without `latent_noise`."""
        if self.latent_noise == 0:
            return None
        generator = stream_generator(self.seed, "cloud noise", step)
        level = torch.randn(len(self.features), 1, 1, generator=generator).abs() * self.latent_noise
        noise = level * torch.randn(self.features.shape, generator=generator)
        return noise.to(self.features) * self.features.detach().std(dim=(0, 1))

    def forward(
        self, images: slice, part: Part, noise: Float[Tensor, "batch tokens feature"] | None = None
    ) -> Float[Tensor, ""]:
        """The contribution of a part to the mean squared error over all images."""
        features = self.features[images] if noise is None else self.features[images] + noise[images]
        return loss_of_part(self.decoder, features, part) / len(self.features)

    def regulariser(self) -> Float[Tensor, ""]:
        """The mean squared feature of all clouds, times its weight in the loss."""
        return self.penalty * self.features.square().mean()
