"""The shared decoder of anchored clouds while it is trained: together with the clouds of some images (ARC, appendix A)."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor, nn

from genrep.decoders.anchored import AnchoredDecoder
from genrep.encoders.fit import POINTS, CloudFit, Part, cut_into_parts, loss_of_part


class JointClouds(nn.Module):
    """A decoder and the features of the clouds that it is trained on; their anchors stay where they are.

    Args:
        decoder: what is wanted of it in the end.
        encoder: places the anchors, and says where features start and how pixels are cut into parts.
        values: the images.
    """

    def __init__(
        self, decoder: AnchoredDecoder, encoder: CloudFit, values: Float[Tensor, "batch observed *shape"]
    ):
        super().__init__()
        clouds = encoder.place(values, decoder.num_neighbours)
        self.decoder, self.features = decoder, nn.Parameter(clouds.features)
        points = POINTS["cpu" if values.device.type == "cpu" else "gpu"]
        self.steps = cut_into_parts(encoder, values, clouds, decoder, points)

    def parts(self, step: int) -> Iterator[Part]:
        """The pixels of a step, piece by piece."""
        yield from self.steps[step % len(self.steps)]

    def forward(self, part: Part) -> Float[Tensor, ""]:
        """What a piece adds to the mean over the images of their mean squared errors."""
        return loss_of_part(self.decoder, self.features, part) / len(self.features)
