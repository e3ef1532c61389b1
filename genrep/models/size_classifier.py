"""A classifier that sees only the size of an image: how much the sizes in a data set tell about the class (ARC, experiment 1)."""

import itertools
from collections.abc import Sequence

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float
from torch import Tensor, nn

from genrep.models.loading import StrictLoading
from genrep.models.specs import SizeClassifierSpec
from genrep.specs import from_arguments


class SizeClassifier(StrictLoading, ModelMixin, ConfigMixin):
    """Sizes to class logits: an MLP with ReLU, in the paper 2, 64, 64, 64 and 10 units wide.

    A classifier of clouds whose accuracy is no better may have learned the images' sizes instead of their content.

    Args:
        num_axes: numbers in a size: 2, height and width, for images.
        num_classes: number of classes.
        widths: widths of the hidden layers.

    Raises:
        InputError: an unknown key, a wrong type, or an impossible value.
    """

    @register_to_config
    def __init__(self, num_axes: int, num_classes: int, widths: Sequence[int] = (64, 64, 64)):
        super().__init__()
        from_arguments(SizeClassifierSpec, locals(), where=type(self).__name__)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.zeros(num_axes))
        self.register_buffer("std", torch.ones(num_axes))
        layers: list[nn.Module] = []
        for width, next_width in itertools.pairwise((num_axes, *widths)):
            layers += [nn.Linear(width, next_width), nn.ReLU()]
        self.mlp = nn.Sequential(*layers, nn.Linear((num_axes, *widths)[-1], num_classes))

    def set_statistics(self, sizes: Float[Tensor, "images axes"]) -> None:
        """Standardise sizes with the mean and standard deviation of these; both are saved with the weights."""
        std = sizes.std(dim=0, correction=0)
        self.mean.copy_(sizes.mean(dim=0))
        self.std.copy_(torch.where(std > 0, std, 1))  # images of one size all become 0

    def forward(self, sizes: Float[Tensor, "batch axes"]) -> Float[Tensor, "batch classes"]:
        """Sizes in pixels => logits."""
        return self.mlp((sizes - self.mean) / self.std)
