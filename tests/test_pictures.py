"""Pictures of several images."""

import pytest
import torch
from torchvision.utils import make_grid

from genrep.pictures import picture_grid


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_a_grid_of_pictures_is_torchvisions(channels, count):
    images = torch.randint(0, 255, (count, channels, 3, 5), dtype=torch.uint8)
    expected = make_grid(images, nrow=4, padding=2, pad_value=255)[:channels]  # torchvision's grey has three channels
    assert torch.equal(picture_grid(images, 4), expected)
