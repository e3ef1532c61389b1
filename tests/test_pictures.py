"""Pictures for people to look at, and how they are written."""

import pytest
import torch
from PIL import Image
from torchvision.utils import make_grid

from genrep.errors import InputError
from genrep.pictures import enlarged, legible, picture_grid, save_png, side_by_side


@pytest.mark.parametrize(
    ("shape", "larger"),
    [((8, 8), (96, 96)), ((16, 24), (64, 96)), ((40, 64), (80, 128)), ((95, 5), (190, 10)), ((96, 1), (96, 1))],
)
def test_small_images_are_enlarged_by_a_whole_factor(shape, larger):
    images = torch.randint(0, 256, (2, 3, *shape), dtype=torch.uint8)
    enlarged = legible(images)
    assert enlarged.shape == (2, 3, *larger) and enlarged.dtype == torch.uint8
    factor = larger[0] // shape[0]
    for row in range(factor):
        assert torch.equal(enlarged[..., row::factor, factor - 1 :: factor], images), "each pixel is a square"


def test_rows_of_small_images_are_legible():
    groups = [torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 1, 16, 16, dtype=torch.uint8)]
    assert side_by_side(groups).shape == (1, 2 * 96 + 3 * 2, 2 * 96 + 3 * 2)
    groups[1] = torch.zeros(2, 1, 200, 100, dtype=torch.uint8)
    assert side_by_side(groups).shape == (1, 2 * 200 + 3 * 2, 2 * 100 + 3 * 2)
    assert picture_grid(groups[0], columns=2).shape == (1, 8 + 2 * 2, 2 * 8 + 3 * 2), "results stay as they are"


def test_a_failed_write_of_a_picture_is_one_message(tmp_path):
    image = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    with Image.open(save_png(image, tmp_path / "new" / "one.png")) as picture:
        assert picture.size == (5, 4)
    with pytest.raises(InputError, match="a file is in the way, where a folder is needed"):
        save_png(image, tmp_path / "new" / "one.png" / "two.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one.png"]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 4, 5, 8])
def test_a_grid_of_pictures_is_torchvisions(channels, count):
    images = torch.randint(0, 255, (count, channels, 3, 5), dtype=torch.uint8)
    expected = make_grid(images, nrow=4, padding=2, pad_value=255)[:channels]  # torchvision's grey has three channels
    assert torch.equal(picture_grid(images, 4), expected)


def test_previews_are_bounded_in_all():
    """Four times the size, up to 1,024 per axis and 1,024² points: a volume of 128³ already has more."""
    assert enlarged((8, 8)) == (32, 32) and enlarged((256,)) == (1024,) and enlarged((512, 512)) == (1024, 1024)
    assert enlarged((8, 16, 16)) == (32, 64, 64) and enlarged((128, 128, 128)) == (128, 128, 128)
