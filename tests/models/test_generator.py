"""The coordinate generator written out, the paper's parameters and cost, discriminators and their norms."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from genrep.coords import grid
from genrep.errors import InputError
from genrep.models.discriminator import Discriminators, ImageDiscriminator, TokenDiscriminator
from genrep.models.generator import CoordinateGenerator
from genrep.training.config import read_config
from genrep.training.describe import num_parameters
from genrep.training.specs import GANRun
from tests.scripts import PROJECT

SMALL = {"noise_dim": 5, "widths": [8, 8, 6], "tile": [2, 3], "cells": [2, 4], "num_frequencies": 2}


def make(**options) -> CoordinateGenerator:
    torch.manual_seed(0)
    generator = CoordinateGenerator(**{**SMALL, **options})
    for name, parameter in generator.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return generator


@pytest.mark.parametrize(
    "options",
    [{}, {"num_classes": 3}, {"embedding_dim": 4, "embedding_size": 6, "tile": 1}, {"num_axes": 1, "channels": 7}],
)
def test_a_generator_is_its_network_written_out_for_one_point(options):
    generator = make(**options)
    coords = torch.cat([grid((4,) * generator.num_axes), torch.rand(5, generator.num_axes) * 2 - 1])
    noise, labels = torch.randn(3, 5), torch.tensor([0, 2, 1]) if generator.num_classes else None
    values = generator(coords, noise, labels)
    assert values.shape == (3, len(coords), generator.config["channels"])
    for sample in range(3):
        for number, point in enumerate(coords):
            features = generator.encoding(point[None])
            if generator.embedding is not None:
                features = torch.cat([features, generator.embedding(point[None])], dim=1)
            hidden = generator.of_place(features)[0] + generator.of_noise.weight @ noise[sample]
            if labels is not None:
                hidden = hidden + generator.of_class.weight[labels[sample]]
            for block in generator.blocks:
                tile = block.first.tiling.index(point[None])[0]
                inner = block.first.weight[tile] @ F.leaky_relu(hidden, 0.2) + block.first.bias
                hidden = block.skip(hidden) + block.second(F.leaky_relu(inner, 0.2))
            expected = generator.to_values(F.leaky_relu(hidden, 0.2))
            torch.testing.assert_close(values[sample, number], expected, atol=1e-4, rtol=1e-4)


def test_prepared_coordinates_and_batches_give_the_same():
    generator, coords, noise = make(), grid(8), torch.randn(6, 5)
    whole = generator(coords, noise)
    torch.testing.assert_close(generator(generator.prepare(coords, 6), noise), whole)
    torch.testing.assert_close(torch.cat([generator(coords, part) for part in noise.split(1)]), whole)


def cost(generator) -> float:
    """Multiply-adds per point, without those computed once per sample."""
    prepared, counter, once = (
        generator.prepare(grid(16)),
        FlopCounterMode(display=False),
        FlopCounterMode(display=False),
    )
    noise = torch.randn(1, generator.noise_dim)
    with torch.no_grad():
        with counter:
            generator(prepared, noise)
        with once:
            generator.of_noise(noise)
    return (counter.get_total_flops() - once.get_total_flops()) / 2 / 256


def test_the_papers_generator_has_its_parameters_and_cost():
    """Table 4: 19.6M and 1.26M; the sizes are ours, since those of figure 10 are not legible."""
    generator = CoordinateGenerator()
    assert num_parameters(generator) == pytest.approx(19.6e6, rel=0.003)
    assert cost(generator) == pytest.approx(1.26e6, rel=0.005)
    assert len(generator.blocks) == 7 and generator.encoding.num_frequencies == 8


def test_the_papers_baseline_has_its_cost_and_nearly_its_parameters():
    """Table 4: 19.9M and 1.39M. The text's embedding, 256 channels on 256×256, and this network make 18.4M; 267×267 19.9M."""
    generator = CoordinateGenerator(tile=1, embedding_dim=256, embedding_size=256)
    assert cost(generator) == pytest.approx(1.39e6, rel=0.005)
    assert num_parameters(generator) == 18_429_603
    with torch.device("meta"):
        config = GANRun.model_validate(read_config(PROJECT / "configs" / "ffhq" / "gan_ce.yaml"))
        shipped = CoordinateGenerator(**config.generator.model_dump())
    assert num_parameters(shipped) == pytest.approx(19.9e6, rel=0.001)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_generator_runs_in_half_precision(dtype):
    for options in ({}, {"embedding_dim": 4, "embedding_size": 6}):
        generator = make(**options)
        expected = generator(grid(4), torch.ones(2, 5))
        values = generator.to(dtype)(grid(4), torch.ones(2, 5, dtype=dtype))
        assert values.dtype == dtype
        torch.testing.assert_close(values.float(), expected, atol=0.1, rtol=0.1)


def test_noise_and_coordinates_of_other_widths_are_refused():
    with pytest.raises(InputError, match="takes coordinates with 2 axes and noise of 5 numbers; got 2 and 4"):
        make()(make().prepare(grid(2)), torch.randn(1, 4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": [2]}, "tile must have one number per width after the first, 2; got 1"),
        ({"cells": [2, 4, 8]}, "cells must have one number per width after the first, 2; got 3"),
        ({"widths": [8]}, "widths"),
        ({"tile": 0}, "tile"),
        ({"embedding_dim": 2, "num_axes": 1}, "coordinate embedding"),
    ],
)
def test_invalid_generators_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_labels_are_required_exactly_if_there_are_classes():
    with pytest.raises(InputError, match="has 0 classes: give no class labels"):
        make()(grid(2), torch.randn(1, 5), torch.tensor([0]))
    with pytest.raises(InputError, match="has 3 classes: give one class label per sample"):
        make(num_classes=3)(grid(2), torch.randn(1, 5))


def test_a_saved_generator_makes_the_same(tmp_path):
    generator = make(num_classes=2)
    generator.save_pretrained(tmp_path)
    loaded, labels = CoordinateGenerator.from_pretrained(tmp_path), torch.tensor([0, 1])
    noise = torch.randn(2, 5)
    torch.testing.assert_close(loaded.state_dict(), generator.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(loaded(grid(4), noise, labels), generator(grid(4), noise, labels))


def test_equal_tiles_start_as_one_network_for_all_places(tmp_path):
    """All tiles of a layer start from one draw instead of separate ones; the choice is saved with the model."""
    torch.manual_seed(0)
    equal = CoordinateGenerator(2, 3, noise_dim=5, widths=[6, 8, 4], tile=2, cells=[2, 4], tiles_start="equal")
    for block in equal.blocks:
        assert block.first.weight.std() > 0.1 and (block.first.weight == block.first.weight[:1]).all()
    noise = torch.randn(2, 5)
    border = torch.tensor([[-1e-5, 0.3], [1e-5, 0.3]])  # two tiles of the first grid meet between these
    values = equal(border, noise)
    assert (values[:, 0] - values[:, 1]).abs().max() < 1e-2 * values.std()
    equal.save_pretrained(tmp_path)
    assert CoordinateGenerator.from_pretrained(tmp_path).config["tiles_start"] == "equal"
    with pytest.raises(InputError, match="tiles_start: must be 'apart' or 'equal'; got 'same'"):
        CoordinateGenerator(tiles_start="same")


def test_noise_may_start_larger():
    torch.manual_seed(0)
    plain = CoordinateGenerator(**SMALL)
    torch.manual_seed(0)
    louder = CoordinateGenerator(**SMALL, noise_gain=2.5)
    torch.testing.assert_close(louder.of_noise.weight, plain.of_noise.weight * 2.5)
    torch.testing.assert_close(louder.of_place.weight, plain.of_place.weight)
    with pytest.raises(InputError, match="noise_gain: .*; got 0"):
        CoordinateGenerator(noise_gain=0)


def shipped(path: str) -> CoordinateGenerator:
    """A shipped config's generator, of images or of latent sets."""
    config = GANRun.model_validate(read_config(PROJECT / "configs" / f"{path}.yaml"))
    return CoordinateGenerator(1 if config.gan.target == "latents" else 2, **config.generator.model_dump())


def size(values: torch.Tensor) -> float:
    return float(values.detach().square().mean().sqrt())


@pytest.mark.parametrize(
    "path", ["ffhq/gan", "ffhq/gan_ce", "ffhq/gan_ours", "cifar10/gan", "cifar10/gan_ce", "cifar10/gan_latents",
             "digits/gan", "digits/gan_latents"],
)  # fmt: skip
def test_the_first_layer_starts_as_one_linear_of_place_and_noise(path):
    """Section 4.4: the first layer takes z together with the place. Supplement A: Kaiming's uniform weights, zero biases."""
    torch.manual_seed(0)
    generator = shipped(path)
    coords, noise = torch.rand(1000, generator.num_axes) * 2 - 1, torch.randn(200, generator.noise_dim)
    place = generator.encoding(coords)
    if generator.embedding is not None:
        place = torch.cat([place, generator.embedding(coords)], dim=1)
    inputs = place.shape[1] + noise.shape[1]
    bound = (6 / ((1 + 0.2**2) * inputs)) ** 0.5
    of_place, of_noise = ((2 * torch.rand(5000, part.shape[1]) - 1) * bound for part in (place, noise))
    expected = torch.tensor([size(place @ of_place.T), size(noise @ of_noise.T)])
    first = torch.tensor([size(generator.of_place(place)), size(generator.of_noise(noise))])
    torch.testing.assert_close(first, expected, rtol=0.1, atol=0)
    for weight in (generator.of_place.weight, generator.of_noise.weight):
        assert 0.98 * bound < weight.abs().max() <= bound
    assert (generator.of_place.bias == 0).all()
    if path == "ffhq/gan":
        assert size(first.norm()) == pytest.approx(1.37, rel=0.03)


def test_the_papers_generator_and_baseline_start_with_images_alike():
    """Standard deviations of 2.1 and 1.8, averaged over many seeds."""
    deviations = []
    for path in ("ffhq/gan", "ffhq/gan_ce"):
        values = []
        for seed in range(4):
            torch.manual_seed(seed)
            generator = shipped(path)
            with torch.no_grad():
                values.append(float(generator(torch.rand(64, 2) * 2 - 1, torch.randn(8, 512)).std()))
        deviations.append(sum(values) / 4)
    assert deviations == pytest.approx([2.1, 1.8], rel=0.3)
    assert 1 / 1.5 < deviations[0] / deviations[1] < 1.5


def test_no_shipped_config_repairs_the_noise():
    for path in (PROJECT / "configs").glob("*/*.yaml"):
        assert "noise_gain" not in read_config(path).get("generator", {}), path


# discriminators


def test_spectral_norms_are_at_most_one():
    torch.manual_seed(0)
    judge = Discriminators(3, (4, 6), 5, width=8, depth=3, scales=2, token_width=16, token_depth=3)
    for _ in range(30):  # the power iteration runs in training
        judge([torch.randn(2, 3, 16, 16), torch.randn(2, 4, 6)], torch.tensor([0, 4]))
    normed = [module for module in judge.modules() if hasattr(module, "parametrizations")]
    assert len(normed) == 2 * (3 + 1) + 3 + 1  # layers and class embedding of each
    for module in normed:
        assert torch.linalg.matrix_norm(module.weight.detach().flatten(1), 2) == pytest.approx(1, abs=0.02)


def test_without_spectral_norm_weights_are_as_they_were_drawn():
    torch.manual_seed(0)
    sizes = {"width": 8, "depth": 3, "scales": 2, "token_width": 16, "token_depth": 3}
    judge = Discriminators(3, (4, 6), 5, **sizes, spectral_norm=False)
    assert not any(hasattr(module, "parametrizations") for module in judge.modules())
    assert torch.linalg.matrix_norm(judge.of_latents.layers[0].weight.detach(), 2) > 1.2
    labels, sets = torch.arange(5).repeat(20), torch.randn(100, 4, 6)
    with_class, without = (judge.of_latents(sets, class_labels).std() for class_labels in (labels, None))
    assert with_class < 3 * without  # the class does not drown the rest


def test_the_papers_discriminator_is_five_convolutions_at_two_scales():
    judge = ImageDiscriminator(3)
    assert [logits.shape for logits in judge(torch.randn(1, 3, 256, 256))] == [(1, 8 * 8), (1, 4 * 4)]
    convolutions = [module for module in judge.modules() if isinstance(module, torch.nn.Conv2d)]
    assert len(convolutions) == 10
    assert {(c.kernel_size, c.stride) for c in convolutions} == {((3, 3), (2, 2))}
    assert [logits.shape for logits in judge(torch.randn(2, 3, 9, 7))] == [
        (2, 1),
        (2, 1),
    ]  # any size, down to one patch


def test_the_class_moves_the_logits_by_an_inner_product():
    torch.manual_seed(0)
    judge = TokenDiscriminator(3, 4, num_classes=2, width=8, depth=2).eval()
    latents = torch.randn(5, 3, 4)
    hidden = F.leaky_relu(judge.layers[0](latents.flatten(1)), 0.2)
    first, second = (judge(latents, torch.full((5,), label)) for label in (0, 1))
    weight = judge.head.of_class.weight
    torch.testing.assert_close(first - second, hidden @ (weight[0] - weight[1])[:, None])
    images = ImageDiscriminator(1, num_classes=2, width=4, depth=2).eval()
    assert not torch.allclose(*(images(torch.ones(1, 1, 8, 8), torch.tensor([label]))[0] for label in (0, 1)))


def test_discriminators_of_saved_weights_load(tmp_path):
    for judge, inputs in (
        (ImageDiscriminator(1, 3, 4, 2, 1), torch.randn(2, 1, 8, 8)),
        (TokenDiscriminator(3, 4, 2, 8, 2), torch.randn(2, 3, 4)),
    ):
        judge.eval().save_pretrained(tmp_path / type(judge).__name__)
        loaded = type(judge).from_pretrained(tmp_path / type(judge).__name__)
        torch.testing.assert_close(loaded(inputs, torch.tensor([0, 1])), judge(inputs, torch.tensor([0, 1])))
