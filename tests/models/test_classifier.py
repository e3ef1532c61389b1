"""The classifier: blocks, norms, and models of earlier versions."""

import json

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from genrep.errors import InputError
from genrep.models.classifier import ImageClassifier, PooledBlock, WhitenedPatches
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


# pooled blocks on whitened patches (Jordan, 2024)

POOLED = {"norm": "batch", "blocks": "pooled", "dropout": 0.0}


def test_pooled_blocks_have_a_known_size():
    """24 components; per stage two convolutions without biases and the biases of two norms, whose gains stay 1; the head."""
    model = ImageClassifier(32, 3, 10, width=64, stages=3, **POOLED)
    widths = [(24, 64), (64, 128), (128, 256)]
    trained = [parameter.numel() for parameter in model.parameters() if parameter.requires_grad]
    assert sum(trained) == sum(9 * (a * b + b * b) + 2 * b for a, b in widths) + 10 * (256 + 1)
    assert all(bool((block.norm1.weight == 1).all()) for block in model.blocks)


def test_a_pooled_classifier_equals_its_formula():
    """In training, where the statistics of the norms tell whether they are those of the pooled maps."""
    torch.manual_seed(0)
    model, images = ImageClassifier(9, 1, 3, width=8, stages=2, **POOLED), torch.randn(6, 1, 9, 9)
    model.measure_patches([images])
    maps = F.gelu(F.conv2d(images, model.stem.convolution.weight))
    assert maps.shape == (6, 8, 8, 8)
    for block in model.blocks:
        for number, (conv, norm) in enumerate(((block.conv1, block.norm1), (block.conv2, block.norm2))):
            nn.init.normal_(norm.bias)
            maps = F.conv2d(maps, conv.weight, padding=1)
            if number == 0:
                maps = F.max_pool2d(maps, 2)
            variance, mean = torch.var_mean(maps, (0, 2, 3), correction=0, keepdim=True)
            maps = F.gelu((maps - mean) / (variance + norm.eps).sqrt() + norm.bias.view(1, -1, 1, 1))
    assert maps.shape == (6, 16, 2, 2)
    torch.testing.assert_close(model.train()(images), maps.mean((2, 3)) @ model.head.weight.T + model.head.bias)


@pytest.mark.parametrize("shape", [(40,), (12, 14), (6, 7, 8)])
def test_whitened_patches_are_uncorrelated_and_of_unit_variance(shape):
    """Over the signals they were measured on, up to the constant that is added to the variances."""
    torch.manual_seed(0)
    signals = torch.randn(200, 2, *shape).cumsum(2) / 3  # neighbours are correlated
    stem = WhitenedPatches(2, len(shape))
    stem.measure(signals.split(70))
    count = 2 * 2 ** len(shape)
    assert torch.equal(stem.convolution.weight[count:], -stem.convolution.weight[:count])
    functions = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
    maps = functions[len(shape)](signals, stem.convolution.weight[:count])
    torch.testing.assert_close(stem(signals)[:, :count], F.gelu(maps))
    components = maps.movedim(1, 0).flatten(1).double()
    covariance = components @ components.T / components.shape[1]
    torch.testing.assert_close(covariance, torch.eye(count, dtype=torch.float64), atol=1e-2, rtol=0)
    norms = stem.convolution.weight[:count].flatten(1).norm(dim=1)  # the most variable component is scaled up the least
    assert bool((norms.diff() >= 0).all())


def test_a_component_that_never_varies_is_not_amplified():
    stem = WhitenedPatches(1, 2)
    stem.measure([torch.randn(50, 1, 1, 9).expand(-1, -1, 9, -1)])  # equal rows: two of four components are 0
    norms = stem.convolution.weight[:4].flatten(1).norm(dim=1)
    assert norms[2:].tolist() == pytest.approx([WhitenedPatches.VARIANCE**-0.5] * 2, rel=1e-3)


def test_patches_that_were_not_measured_are_passed_on_as_they_are():
    stem, signals = WhitenedPatches(1, 2), torch.randn(2, 1, 3, 3)
    points = signals.unfold(2, 2, 1).unfold(3, 2, 1).flatten(4).movedim(4, 1).squeeze(2)  # [2, 4 points, 2, 2]
    torch.testing.assert_close(stem(signals), F.gelu(torch.cat([points, -points], dim=1)))


def test_pooled_convolutions_start_as_the_identity():
    block = PooledBlock(4, 6, 2, "batch")
    maps = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(block.conv1(maps)[:, :4], maps)
    wide = torch.randn(1, 6, 8, 8)
    torch.testing.assert_close(block.conv2(wide), wide)


def test_images_too_small_for_pooled_blocks_are_refused():
    options = {"channels": 1, "num_classes": 3, "width": 8, "stages": 3, "blocks": "pooled"}
    assert ImageClassifier(9, **options).eval()(torch.zeros(2, 1, 9, 9)).shape == (2, 3)
    with pytest.raises(InputError, match="at least 9 along every axis for 3 stages of pooled blocks"):
        ImageClassifier(8, **options)


@pytest.mark.parametrize("name", ["depth", "stem_stride"])
def test_options_that_pooled_blocks_do_not_have_are_refused(name):
    with pytest.raises(InputError, match=f"{name} must be 1 with blocks pooled; got 2"):
        ImageClassifier(32, 3, 10, width=8, blocks="pooled", **{name: 2})


def test_a_trained_first_layer_measures_no_patches():
    with pytest.raises(InputError, match="measure_patches is for classifiers with blocks pooled"):
        ImageClassifier(8, 1, 10, width=8).measure_patches([torch.zeros(4, 1, 8, 8)])


def test_a_classifier_is_saved_with_its_patches(tmp_path):
    model, images = ImageClassifier(9, 1, 3, width=8, stages=2, **POOLED), torch.randn(6, 1, 9, 9)
    model.measure_patches([images])
    model.save_pretrained(tmp_path)
    assert torch.equal(ImageClassifier.from_pretrained(tmp_path).eval()(images), model.eval()(images))
    assert float(model(images).detach().std()) > 0


# inputs and earlier versions


def test_an_unknown_norm_is_refused():
    with pytest.raises(InputError, match="norm"):
        ImageClassifier(8, 1, 10, norm="layer")


def test_a_classifier_saved_before_its_later_options_loads(tmp_path):
    model, images = ImageClassifier(8, 1, 10, width=8).eval(), torch.randn(2, 1, 8, 8)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for later in ("depth", "norm", "stem_stride", "mirrored", "blocks"):
        del config[later]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert torch.equal(ImageClassifier.from_pretrained(tmp_path).eval()(images), model(images))


@pytest.mark.parametrize("blocks", ["residual", "pooled"])
def test_feature_maps_are_those_of_every_resolution(blocks):
    model = ImageClassifier(16, 3, 10, width=8, stages=3, norm="batch", blocks=blocks).eval()
    images = torch.randn(2, 3, 16, 16)
    maps = model.feature_maps(images)
    if blocks == "residual":  # before every halving, and the last after its norm
        assert [tuple(of.shape[1:]) for of in maps] == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
        first, halve, second, *_ = model.blocks
        torch.testing.assert_close(maps[1], second(halve(first(model.stem(images)))))
    else:  # of the patches, then after every block
        assert [tuple(of.shape[1:]) for of in maps] == [(24, 15, 15), (8, 7, 7), (16, 3, 3), (32, 1, 1)]
        torch.testing.assert_close(maps[1], model.blocks[0](model.stem(images)))
    torch.testing.assert_close(maps[-1].mean((2, 3)), model.features(images))
    smallest = model.smallest_side
    assert model.feature_maps(torch.randn(1, 3, smallest, smallest))[-1].shape == (1, 32, 1, 1)
