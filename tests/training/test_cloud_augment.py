"""Augmentation of clouds: every kind alone, the random numbers, and the points that ARCMix takes."""

import pytest
import torch

from genrep.training.cloud_augment import augment_clouds, mix
from genrep.training.specs import CloudAugmentSpec

SHAPE = (16, 32)


def clouds(sizes=(6, 4)):
    generator = torch.Generator().manual_seed(0)
    latents = torch.rand(len(sizes), max(sizes), 5, generator=generator) * 2 - 1
    return latents, torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]


def augmented(positions=(8, 9), **options):
    latents, mask = clouds()
    return latents, mask, *augment_clouds(latents, mask, SHAPE, CloudAugmentSpec(**options), positions, seed=3)


def test_nothing_is_changed_by_default():
    latents, mask, after, after_mask = augmented()
    assert torch.equal(after, latents) and torch.equal(after_mask, mask)


def test_noise_changes_only_the_features():
    latents, _, after, _ = augmented(noise=0.5)
    assert torch.equal(after[..., :2], latents[..., :2])
    assert 0.2 < (after - latents)[..., 2:].std() < 0.8


def test_drop_removes_its_share_of_the_points():
    _, mask, _, after = augmented(drop=0.5)
    assert after.sum(1).tolist() == [3, 2] and not (after & ~mask).any()


def test_push_moves_points_independently_within_the_limit():
    latents, _, after, _ = augmented(push=2.0)
    pixels = (after - latents)[..., :2] * torch.tensor([8.0, 16.0])
    assert pixels.abs().max() <= 2.0 and pixels.std() > 0.5
    assert pixels.flatten(0, 1).unique(dim=0).shape[0] == 12


def test_shift_moves_the_cloud_as_a_whole():
    latents, _, after, _ = augmented(shift=3.0)
    pixels = (after - latents)[..., :2] * torch.tensor([8.0, 16.0])
    torch.testing.assert_close(pixels, pixels[:, :1].expand_as(pixels), rtol=0, atol=1e-5)
    assert 0 < pixels.abs().max() <= 3.0 and not torch.allclose(pixels[0, 0], pixels[1, 0])


def test_flip_mirrors_half_of_the_clouds_along_x():
    latents, mask = clouds((4,) * 64)
    after, _ = augment_clouds(latents, mask, SHAPE, CloudAugmentSpec(flip=True), range(64), seed=0)
    same = (after == latents).all(-1).all(-1)
    mirrored = latents * torch.tensor([1.0, -1.0, 1.0, 1.0, 1.0])
    assert torch.equal(after[~same], mirrored[~same]) and 20 < same.sum() < 44


def test_rotation_keeps_distances_in_pixels():
    latents, _, after, _ = augmented(rotation=180.0)
    before, rotated = (part[..., :2] * torch.tensor([8.0, 16.0]) for part in (latents, after))
    torch.testing.assert_close(torch.cdist(rotated, rotated), torch.cdist(before, before), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(rotated.norm(dim=-1), before.norm(dim=-1))
    assert (rotated - before).abs().max() > 0.5


def test_random_numbers_depend_only_on_the_position_in_the_stream():
    options = CloudAugmentSpec(noise=0.1, drop=0.3, push=1.0, rotation=30.0, flip=True, shift=1.0)
    latents, mask = clouds()
    together = augment_clouds(latents, mask, SHAPE, options, [8, 9], seed=3)
    alone = augment_clouds(latents[1:], mask[1:], SHAPE, options, [9], seed=3)
    torch.testing.assert_close(together[0][1:], alone[0], rtol=0, atol=0)
    assert torch.equal(together[1][1:], alone[1])


@pytest.mark.parametrize(("share", "counts"), [(0.0, (0, 4)), (0.5, (3, 2)), (0.75, (4, 1)), (1.0, (6, 0))])
def test_mix_takes_the_stated_number_of_points_from_both(share, counts):
    latents, mask = clouds((6,))
    partners, partner_mask = torch.full((1, 6, 5), 9.0), torch.arange(6)[None] < 4
    draws = torch.rand(1, 2, 6, generator=torch.Generator().manual_seed(1))
    mixed, present = mix(latents, mask, partners, partner_mask, torch.tensor([share]), draws)
    kept = mixed[0][present[0]]
    from_partner = (kept == 9.0).all(-1)
    assert ((~from_partner).sum().item(), from_partner.sum().item()) == counts
    own = [row.tolist() for row in latents[0]]
    assert all(row.tolist() in own for row in kept[~from_partner])
