"""Point transformers: order of points, absent points, shifts, gradients; vector attention against its equation."""

import pytest
import torch

from genrep.coords import grid
from genrep.errors import InputError
from genrep.models.cloud_classifier import CloudClassifier, NeighbourAttention, PatchAttention
from genrep.nn.clouds import Cloud

KINDS = ("neighbours", "grid")


def tiny(kind, **changes):
    torch.manual_seed(0)
    arguments = {"num_tokens": 12, "latent_dim": 6, "position_dim": 2, "num_classes": 3, "attention": kind}
    sizes = {"widths": [8, 16], "depths": [2, 1], "neighbours": 4, "patch": 4, "num_heads": 2, "dropout": 0.0}
    return CloudClassifier(**{**arguments, **sizes, **changes}).eval()


def clouds(batch=3, points=12):
    generator = torch.Generator().manual_seed(1)
    positions = torch.rand(batch, points, 2, generator=generator) * 1.6 - 0.8
    return torch.cat([positions, torch.randn(batch, points, 4, generator=generator)], dim=-1)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_points_does_not_matter(kind):
    model, latents = tiny(kind), clouds()
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(model(latents[:, order]), model(latents), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_absent_points_change_nothing(kind):
    model, latents = tiny(kind), clouds()
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 9:] = False
    padded = latents.clone()
    padded[1, 9:] = 100.0
    together = model(padded, mask)
    torch.testing.assert_close(together[1:2], model(latents[1:2, :9]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together[:1], model(latents[:1]), rtol=1e-5, atol=1e-6)


def test_a_shift_of_the_cloud_changes_only_attention_grid():
    latents = clouds()
    shifted = latents.clone()
    shifted[..., :2] += torch.tensor([0.13, -0.21])
    invariant = tiny("neighbours")
    torch.testing.assert_close(invariant(shifted), invariant(latents), rtol=1e-4, atol=1e-5)
    on_grid = tiny("grid")
    assert (on_grid(shifted) - on_grid(latents)).abs().max() > 1e-4


@pytest.mark.parametrize("side", [32, 28, 224])
def test_clouds_at_pixel_centres_are_invariant_too(side):
    """Among pixels, many points are equally far; which of them are neighbours must depend on neither order nor rounding."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.rand(3, side * side, generator=generator).topk(51, dim=1).indices
    pixels[2] = torch.arange(51) + side  # a whole block of pixels
    positions = grid(side)[pixels]
    latents = torch.cat([positions, torch.randn(3, 51, 4, generator=generator)], dim=-1)
    model = tiny("neighbours", num_tokens=51)
    expected = model(latents)
    order = torch.randperm(51, generator=generator)
    torch.testing.assert_close(model(latents[:, order]), expected, rtol=1e-4, atol=1e-5)
    for pixels_down, pixels_right in ((1, -2), (3, 5)):
        shifted = latents.clone()
        shifted[..., :2] += torch.tensor([pixels_down, pixels_right]) * (2 / side)
        torch.testing.assert_close(model(shifted), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(kind, dtype):
    model, latents = tiny(kind), clouds()
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 9:] = False
    expected = model(latents.to(dtype).float(), mask)
    half = model.to(dtype)(latents.to(dtype), mask)
    assert half.dtype == dtype
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)


def test_clouds_too_large_for_all_pairs_are_refused():
    model = tiny("neighbours")
    with pytest.raises(InputError, match="up to 4,096 points; got clouds of 4,097: use attention grid"):
        model(torch.zeros(1, 4097, 6))


def test_positions_are_not_input_features():
    model = tiny("neighbours")
    assert model.embed.in_features == 4


def test_vector_attention_equals_its_equation():
    torch.manual_seed(0)
    layer = NeighbourAttention(8, 2, 3).double()
    positions, features = torch.rand(1, 6, 2).double(), torch.randn(1, 6, 8).double()
    result = layer(Cloud(positions, features, torch.ones(1, 6, dtype=torch.bool)), spacing=0.5)
    normed = layer.norm(features)[0]
    for i in range(6):
        near = (positions[0] - positions[0, i]).norm(dim=-1).argsort()[:3].tolist()
        delta = [layer.position((positions[0, i] - positions[0, j]) / 0.5) for j in near]
        logits = [
            layer.weight(layer.query(normed[i]) - layer.key(normed[j]) + d) for j, d in zip(near, delta, strict=True)
        ]
        weights = torch.stack(logits).softmax(dim=0)
        total = sum(w * (layer.value(normed[j]) + d) for w, j, d in zip(weights, near, delta, strict=True))
        torch.testing.assert_close(result[0, i], features[0, i] + layer.out(total))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_parameter(kind):
    model, latents = tiny(kind).train(), clouds()
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[2, 5:] = False
    model(latents, mask).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_classifier_keeps_its_statistics(kind, tmp_path):
    model, latents = tiny(kind), clouds()
    model.set_statistics(torch.arange(4.0), torch.full((4,), 2.0))
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(CloudClassifier.from_pretrained(tmp_path)(latents), model(latents), rtol=0, atol=0)


def test_learns_where_a_marked_point_lies_relative_to_another():
    generator = torch.Generator().manual_seed(3)
    latents = torch.zeros(64, 6, 4)
    latents[..., :2] = torch.rand(64, 6, 2, generator=generator) - 0.5
    latents[:, 0, 2], latents[:, 1, 3] = 1.0, 1.0  # two marked points: is the first above the second?
    labels = (latents[:, 0, 0] > latents[:, 1, 0]).long()
    model = tiny("neighbours", num_tokens=6, latent_dim=4, num_classes=2, neighbours=6, widths=[32, 32]).train()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(latents), labels).backward()
        optimizer.step()
    assert (model(latents).argmax(1) == labels).float().mean() > 0.95


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": [8], "depths": [1, 1]}, "widths and depths must both have one number per stage"),
        ({"attention": "grid", "widths": [9, 16]}, "widths must be multiples of num_heads"),
        ({"latent_dim": 2}, "latent_dim must be more than position_dim, 2"),
        ({"position_dim": 4, "latent_dim": 8}, "position_dim"),
        ({"attention": "voxels"}, "attention"),
    ],
)
def test_impossible_arguments_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        tiny(
            **{
                "kind": "neighbours",
                **({"kind": changes.pop("attention")} if "attention" in changes else {}),
                **changes,
            }
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_half_precision_is_near_float32(kind, dtype, error):
    model, latents = tiny(kind), clouds()
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[1, 5:] = False
    with torch.autocast("cpu", dtype):
        logits = model(latents, mask)
    logits.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    assert (logits.float() - model(latents, mask)).abs().max() < error


@pytest.mark.parametrize("kind", KINDS)
def test_a_cloud_without_points_gives_no_nan(kind):
    mask = torch.ones(3, 12, dtype=torch.bool)
    mask[2] = False
    assert tiny(kind)(clouds(), mask).isfinite().all()


def test_patch_attention_equals_its_definition():
    torch.manual_seed(0)
    layer = PatchAttention(8, 2, num_heads=2, patch=3, bits=2, turned=False).double()
    positions = torch.rand(1, 7, 2).double() * 2 - 1
    features = torch.randn(1, 7, 8).double()
    mask = torch.tensor([[True] * 6 + [False]])
    result = layer(Cloud(positions, features, mask), spacing=0.5)
    # the mean feature of every cell of a 4×4 grid over [-2, 2], convolved channel by channel, and read at the points
    cells = ((positions[0] + 2) / 4 * 4).floor().long()
    maps = torch.zeros(8, 4, 4).double()
    for cell in {tuple(cell) for cell in cells[:6].tolist()}:
        members = [i for i in range(6) if tuple(cells[i].tolist()) == cell]
        maps[(slice(None), *cell)] = features[0, members].mean(0)
    convolved = torch.nn.functional.conv2d(
        maps[None], layer.neighbourhood.weight, layer.neighbourhood.bias, padding=1, groups=8
    )[0]
    encoded = torch.stack([features[0, i] + convolved[(slice(None), *cells[i].tolist())] for i in range(6)])
    # patches of three along the curve, y the higher of each pair of bits
    places = [[int((value + 2) / 4 * 2**16) for value in position] for position in positions[0, :6].tolist()]
    codes = [sum(((y >> b & 1) << (2 * b + 1)) | ((x >> b & 1) << (2 * b)) for b in range(16)) for y, x in places]
    order = sorted(range(6), key=codes.__getitem__)
    query, key, value = layer.to_qkv(layer.norm(encoded)).chunk(3, dim=-1)
    for patch in (order[:3], order[3:]):
        for i in patch:
            heads = []
            for head in range(2):
                part = slice(4 * head, 4 * head + 4)
                bias = torch.stack([layer.bias((positions[0, i] - positions[0, j]) / 0.5)[head] for j in patch])
                logits = torch.stack([query[i, part] @ key[j, part] for j in patch]) / 2 + bias  # √4 = 2
                heads.append((logits.softmax(0)[:, None] * value[patch][:, part]).sum(0))
            torch.testing.assert_close(result[0, i], encoded[i] + layer.out(torch.cat(heads)))
