"""Random crops depend only on seed and position."""

import numpy as np
import pytest
import torch
from PIL import Image

from genrep.data import ImageDataSpec
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.randomness import uniform_at
from genrep.specs import validate
from genrep.training.order import DataOrder, PositionBatches, SignalStream, training_loader


@pytest.fixture
def numbered(tmp_path):
    """Two grey images, of 6×9 and 3×4 pixels, whose values are row × 10 + column."""
    for name, (height, width) in {"a": (6, 9), "b": (3, 4)}.items():
        values = np.arange(height)[:, None] * 10 + np.arange(width)
        Image.fromarray(values.astype(np.uint8)).save(tmp_path / f"{name}.png")
    return ImageDataSpec(source=str(tmp_path), label_column=None, held_out_fraction=0.0, crop="random")


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_random_crop_is_cut_from_the_unresized_image(numbered, in_memory):
    data = ImageData(numbered.model_copy(update={"in_memory": in_memory}), "train", (4, 4), 1)
    crops = data.crops([0, 0, 0], torch.tensor([[0.0, 0.0], [0.999, 0.999], [0.5, 0.5]]))
    assert crops[:, 0, 0, 0].tolist() == [0, 25, 13]  # the first position, the last, and one in between
    piece = torch.arange(4)[:, None] * 10 + torch.arange(4)
    assert torch.equal(crops[1, 0] - crops[1, 0, 0, 0], piece.to(torch.uint8))


def test_all_crop_positions_are_equally_likely(numbered):
    data = ImageData(numbered, "train", (4, 4), 1)
    corners = data.crops([0] * 1800, torch.rand(1800, 2, generator=torch.Generator().manual_seed(0)))[:, 0, 0, 0]
    counts = torch.bincount(corners.long())
    assert (counts > 0).sum() == 3 * 6 and counts[counts > 0].min() > 60


def test_an_image_smaller_than_the_crop_is_resized_to_cover_it(numbered):
    assert ImageData(numbered, "train", (8, 8), 1).crops([1], torch.tensor([[0.9, 0.9]])).shape == (1, 1, 8, 8)


def test_the_stream_crops_by_position_and_held_out_images_are_centred(numbered):
    data = ImageData(numbered, "train", (4, 4), 1)
    stream = SignalStream(data, seed=3, flips=False)
    first, again = stream.__getitems__([0, 1, 2, 3]).signals, stream.__getitems__([3, 2, 1, 0]).signals
    assert torch.equal(first, again.flip(0))
    assert not torch.equal(first, stream.__getitems__([4, 5, 6, 7]).signals)
    at = DataOrder(len(data), 3).indices([0, 1, 2, 3])
    assert torch.equal(first, data.crops(at, uniform_at([0, 1, 2, 3], (2,), 3, "crop")))
    centred = ImageData(numbered.model_copy(update={"crop": "centre"}), "train", (4, 4), 1)
    assert torch.equal(SignalStream(centred, seed=3, flips=False).__getitems__([0, 1]).signals, centred.read(at[:2]))


@pytest.mark.parametrize("in_memory", [False, True])
def test_workers_crop_and_mirror_like_a_single_process(numbered, in_memory):
    data = ImageData(numbered.model_copy(update={"in_memory": in_memory}), "train", (3, 3), 1)
    stream, batches = SignalStream(data, seed=5, flips=True), PositionBatches(4, 1, (0, 1), 0, 3)
    alone, working = (torch.cat([part.signals for part in training_loader(stream, batches, n)]) for n in (0, 2))
    assert torch.equal(alone, working)
    mirrored = uniform_at(range(12), (), 5, "flip") < 0.5
    places, at = uniform_at(range(12), (2,), 5, "crop"), DataOrder(len(data), 5).indices(list(range(12)))
    expected = torch.stack(
        [crop.flip(-1) if flip else crop for crop, flip in zip(data.crops(at, places), mirrored, strict=True)]
    )
    assert torch.equal(alone, expected)


def test_a_random_crop_of_a_resized_image_is_refused():
    with pytest.raises(
        InputError, match="crop random cuts from the unresized image, but source_size asks for a resized one"
    ):
        validate(ImageDataSpec, {"crop": "random", "source_size": 64})
