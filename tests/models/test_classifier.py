"""The classifier: blocks, norms, and models of earlier versions."""

import json

import pytest
import torch
from torch import nn

from genrep.errors import InputError
from genrep.models.classifier import ImageClassifier
from genrep.training.describe import num_parameters


def test_depth_adds_blocks_of_a_known_size():
    """A block of c channels has 2 (9 c² + c) weights and biases in its convolutions, and 2 · 2 c in its group norms."""
    shallow, deep = (ImageClassifier(8, 1, 10, width=8, stages=2, depth=depth) for depth in (1, 3))
    extra = sum(2 * (2 * (9 * c**2 + c) + 4 * c) for c in (8, 16))
    assert num_parameters(deep) - num_parameters(shallow) == extra


@pytest.mark.parametrize(("size", "kind"), [(8, nn.BatchNorm2d), ([8], nn.BatchNorm1d), ([4, 4, 4], nn.BatchNorm3d)])
def test_batch_norm_is_that_of_the_signals_number_of_axes(size, kind):
    model = ImageClassifier(size, 1, 3, width=8, norm="batch")
    assert isinstance(model.norm, kind) and isinstance(model.blocks[0].norm1, kind)
    shape = (size, size) if isinstance(size, int) else size
    assert model.eval()(torch.zeros(2, 1, *shape)).shape == (2, 3)


def test_the_stems_stride_divides_the_resolution_of_all_stages():
    model = ImageClassifier(32, 3, 10, width=8, stages=3, stem_stride=2)
    assert model.stem(torch.zeros(1, 3, 32, 32)).shape == (1, 8, 16, 16)
    assert model.stem.weight.shape == (8, 3, 5, 5)
    assert model.blocks(model.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 32, 4, 4)


@pytest.mark.parametrize(("stride", "stages", "smallest"), [(1, 3, 4), (2, 3, 7), (4, 2, 5)])
def test_images_too_small_for_the_stages_are_refused(stride, stages, smallest):
    options = {"channels": 1, "num_classes": 3, "width": 8, "stages": stages, "stem_stride": stride}
    assert ImageClassifier(smallest, **options).eval()(torch.zeros(2, 1, smallest, smallest)).shape == (2, 3)
    with pytest.raises(InputError, match=f"at least {smallest} along every axis"):
        ImageClassifier(smallest - 1, **options)


def test_a_mirrored_classifier_averages_over_a_signal_and_its_mirror_image():
    plain, images = ImageClassifier(8, 1, 10, width=8, dropout=0.0).eval(), torch.randn(2, 1, 8, 8)
    mirrored = ImageClassifier(8, 1, 10, width=8, dropout=0.0, mirrored=True)
    mirrored.load_state_dict(plain.state_dict())
    assert torch.equal(mirrored.train()(images), plain(images)), "training sees what it is given"
    mirrored.eval()
    both = torch.stack([plain(images), plain(torch.flip(images, [3]))]).mean(0)
    torch.testing.assert_close(mirrored(images), both)
    torch.testing.assert_close(mirrored(images), mirrored(torch.flip(images, [3])))
    assert not torch.allclose(mirrored(images), plain(images), atol=1e-3)


def test_only_images_are_mirrored():
    with pytest.raises(InputError, match="mirrored is for images; got signals of type array: set it to false"):
        ImageClassifier(8, 1, 10, width=8, mirrored=True, signal={"type": "array"})


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match="norm"):
        ImageClassifier(8, 1, 10, norm="layer")


def test_a_classifier_saved_before_its_later_options_loads(tmp_path):
    model, images = ImageClassifier(8, 1, 10, width=8).eval(), torch.randn(2, 1, 8, 8)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["depth"], config["norm"], config["stem_stride"], config["mirrored"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(ImageClassifier.from_pretrained(tmp_path).eval()(images), model(images))
