"""Stage 1's objective: coordinates, targets and noise on the latents."""

import pytest
import torch
import torch.nn.functional as F

from genrep.coords import grid
from genrep.data import ImageDataSpec, all_of
from genrep.data.images import ImageData
from genrep.errors import InputError
from genrep.interpolation import values_at
from genrep.pictures import from_uint8
from genrep.randomness import stream_generator
from genrep.training.order import SignalStream, TrainingBatch
from genrep.training.reconstruction import latent_noise, noise_shapes, refinement_objective, training_points
from genrep.training.specs import ReconstructionSpec
from tests.scripts import AUTOENCODER, PROJECT, lines, run
from tests.tiny import tiny_autoencoder


def noise_at(spec, positions):
    """Latent noise of a batch of the training stream, for 4 tokens of 8."""
    signals = all_of("image", source="digits", in_memory=True).open("train", (8, 8), 1)
    stream = SignalStream(signals, 1, False, noise=noise_shapes(spec, tiny_autoencoder().spec))
    return latent_noise(spec, stream.__getitems__(list(positions)), torch.device("cpu"))


def test_every_image_has_its_own_noise_level_keyed_by_position():
    spec = ReconstructionSpec(latent_noise=0.5)
    noise = noise_at(spec, range(2000))
    levels = noise.std(dim=(1, 2))
    assert noise.shape == (2000, 4, 8)
    torch.testing.assert_close(levels.square().mean().sqrt(), torch.tensor(0.5), atol=0.03, rtol=0)  # |N(0, 0.5²)|
    assert levels.min() < 0.05 and levels.max() > 1.0
    torch.testing.assert_close(noise_at(spec, [7, 3]), noise[[7, 3]])
    assert noise_at(ReconstructionSpec(), [0]) is None


def test_noise_is_relative_to_the_deviation_between_images():
    """Differences between tokens that are the same in every image do not count: a generator standardises them away."""
    model, images, coords = tiny_autoencoder(), torch.rand(3, 1, 8, 8) * 2 - 1, grid(5)
    noise = torch.randn(3, 4, 8)
    latents = model.encode(images)
    unit = (latents - latents.mean(dim=0)).square().sum(dim=0).div(2).mean(dim=0).sqrt()  # [8]
    expected = model.decode(latents + noise * unit, coords)
    with pytest.raises(InputError, match="every process needs at least two at a time"):
        model(images[:1], coords, noise[:1])
    torch.testing.assert_close(model(images, coords, noise), expected)
    torch.testing.assert_close(model(images, coords, torch.zeros(3, 4, 8)), model(images, coords))


@pytest.fixture(scope="module")
def data():
    return ImageData(ImageDataSpec(train_split="train[:2]", held_out_fraction=0.0), "train", (8, 8), 1)


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def drawn(data, spec, kept, positions, step=0, sources=None):
    """Coordinates and targets for a batch of images at these positions."""
    unmirrored = torch.zeros(len(kept), dtype=torch.bool)
    batch = TrainingBatch(list(positions), [0] * len(kept), unmirrored, kept, sources, labels=None)
    points = training_points(spec, data, batch, torch.device("cpu"), 7, step)
    assert points.weights is None, "no pixel is missing"
    return points.coords, points.values


def per_image(data, kept, positions, step=0, sources=None, **options):
    return drawn(data, ReconstructionSpec(per_image=True, **options), kept, positions, step, sources)


OBJECTIVES = [
    {"coords": "uniform", "targets": "bicubic"},
    {"coords": "uniform", "targets": "bicubic", "num_coords": 20, "target_size": 11},
    {"coords": "gaussian", "targets": "pixel", "num_coords": 64},
    {"coords": "grid", "targets": "pixel", "num_coords": 5},
]


@pytest.mark.parametrize("options", OBJECTIVES)
def test_per_image_coordinates_equal_a_plain_loop(data, options):
    kept, positions = pixels(3, 2, 8, 8), [40, 7, 19]
    coords, targets = per_image(data, kept, positions, **options)
    side, count = options.get("target_size", 8), options.get("num_coords")
    assert coords.shape == (3, count or side**2, 2) and targets.shape == (3, count or side**2, 2)
    for number, position in enumerate(positions):
        generator = stream_generator(7, "image coords", position)
        centres = grid(side) if count is None else grid(side)[torch.randperm(side**2, generator=generator)[:count]]
        expected = centres
        if options["coords"] == "uniform":
            expected = centres + (torch.rand(centres.shape, generator=generator) - 0.5) * 2 / side
        elif options["coords"] == "gaussian":
            noise = torch.randn(centres.shape, generator=generator)
            expected = centres + (noise * 0.15).clamp(-0.25, 0.25) * 2 / side
        torch.testing.assert_close(coords[number], expected)
        way = (centres, "nearest") if options["targets"] == "pixel" else (expected, "bicubic")
        torch.testing.assert_close(targets[number], values_at(from_uint8(kept[[number]]), *way)[0])


@pytest.mark.parametrize("options", OBJECTIVES)
def test_per_image_coordinates_do_not_depend_on_the_batch(data, options):
    kept = pixels(4, 1, 8, 8)
    coords, targets = per_image(data, kept, [3, 4, 5, 6], **options)
    for part, step in ((slice(0, 1), 0), (slice(1, 4), 9)):
        alone = per_image(data, kept[part], list(range(3, 7))[part], step, **options)
        torch.testing.assert_close(alone, (coords[part], targets[part]), rtol=0, atol=0)
    assert not torch.equal(coords[0], coords[1])


def test_shared_coordinates_depend_on_the_step_not_the_images(data):
    spec, kept = ReconstructionSpec(num_coords=6), pixels(2, 1, 8, 8)
    (one, _), (same, _), (other, _) = (
        drawn(data, spec, kept, positions, step) for step, positions in ((1, [0, 1]), (1, [2, 3]), (2, [0, 1]))
    )
    assert one.shape == (6, 2) and torch.equal(one, same) and not torch.equal(one, other)


def test_a_step_has_one_random_target_size_for_all_images(data):
    """Between 8 and 16 pixels; targets come from the resized source."""
    kept, sources, counts = pixels(2, 1, 8, 8), pixels(2, 1, 16, 16), set()
    for step in range(12):
        positions = [2 * step, 2 * step + 1]
        coords, targets = per_image(data, kept, positions, step, sources, coords="grid", targets="pixel")
        side = round(coords.shape[1] ** 0.5)
        resized = F.interpolate(
            from_uint8(sources), size=(side, side), mode="bicubic", align_corners=False, antialias=True
        )
        torch.testing.assert_close(targets, resized.flatten(2).transpose(1, 2))
        counts.add(side)
    assert len(counts) > 3 and counts <= set(range(8, 17))


def test_training_with_per_image_coordinates(tmp_path):
    """They are keyed by position, so accumulation does not change them."""
    for name, parts in (("whole", 1), ("parts", 4)):
        arguments = [*AUTOENCODER, "--reconstruction.per_image", "true", "--run.accumulation", parts]
        run(
            "train/autoencoder.py", PROJECT / arguments[0], *arguments[1:], "--run.steps", 3,
            "--run.folder", tmp_path / name,
        )  # fmt: skip
    for one, two in zip(lines(tmp_path / "whole"), lines(tmp_path / "parts"), strict=True):
        assert one == pytest.approx(two, abs=1e-4, rel=1e-4)


def test_refinement_draws_targets_as_the_run_did(tmp_path):
    defaults = refinement_objective(tmp_path)
    assert defaults["coords"] == "uniform" and defaults["targets"] == "bicubic" and defaults["target_size"] is None
    (tmp_path / "config.yaml").write_text(
        "reconstruction: {coords: gaussian, targets: pixel, jitter_std: 0.2, num_coords: 4, target_size: 9}"
    )
    expected = {"coords": "gaussian", "targets": "pixel", "jitter_std": 0.2, "jitter_clip": 0.25, "target_size": 9}
    assert refinement_objective(tmp_path) == expected
