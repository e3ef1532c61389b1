"""The Fourier-feature field against its formula."""

import math

import pytest
import torch
from torch import nn

from genrep.coords import grid
from genrep.fields.fourier import FourierField


@pytest.mark.parametrize("depth", [1, 2, 5])
@pytest.mark.parametrize(("axes", "channels"), [(2, 3), (3, 1)])
def test_field_equals_its_formula_point_by_point(axes, channels, depth):
    """[cos 2πBv, sin 2πBv] of v in [0, 1], then Linear layers with ReLU between them."""
    field = FourierField(axes, channels, hidden_dim=7, depth=depth, num_features=10, scale=2.0)
    layers = [layer for layer in field.mlp if isinstance(layer, nn.Linear)]
    assert len(layers) == depth and field.frequencies.shape == (5, axes)
    coords, expected = torch.rand(2, 6, axes) * 2 - 1, []
    for point in coords.flatten(0, 1):
        angles = [
            2 * math.pi * sum(b * (c + 1) / 2 for b, c in zip(row, point, strict=True)) for row in field.frequencies
        ]
        value = torch.tensor([math.cos(a) for a in angles] + [math.sin(a) for a in angles])
        for number, layer in enumerate(layers):
            value = layer.weight @ (value.clamp_min(0) if number else value) + layer.bias
        expected.append(value)
    torch.testing.assert_close(field(coords), torch.stack(expected).reshape(2, 6, channels), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [1, 10.0])
def test_frequencies_have_the_stated_deviation_and_are_not_trained(scale):
    field = FourierField(num_features=20_000, hidden_dim=4, scale=scale)
    assert float(field.frequencies.std()) == pytest.approx(scale, rel=0.02)
    assert float(field.frequencies.mean()) == pytest.approx(0, abs=0.03 * scale)
    assert "frequencies" in field.state_dict() and "frequencies" not in dict(field.named_parameters())


def test_the_defaults_have_the_stated_sizes():
    """512 features, 5 layers of 256, RGB."""
    field = FourierField()
    expected = (512 * 256 + 256) + 3 * (256 * 256 + 256) + (256 * 3 + 3)
    assert sum(p.numel() for p in field.parameters()) == expected
    assert float(field.frequencies.std()) == pytest.approx(10, rel=0.1)


def test_angles_are_not_rounded_under_autocast_or_in_half_precision():
    """They reach a few hundred radians, where bfloat16 is off by one."""
    torch.manual_seed(0)
    field, coords = FourierField(hidden_dim=16, depth=2), grid(16)
    inputs: list[torch.Tensor] = []
    field.mlp.register_forward_pre_hook(lambda _, features: inputs.append(features[0].float()))
    field(coords)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        field(coords)
    torch.testing.assert_close(inputs[1], inputs[0], rtol=0, atol=0)
    field.frequencies = field.frequencies.bfloat16().float()  # rounded, as in a model in bfloat16
    expected, values = field(coords), field.to(torch.bfloat16)(coords)
    assert values.dtype == torch.bfloat16
    torch.testing.assert_close(inputs[3], inputs[2], rtol=0, atol=2**-8)
    torch.testing.assert_close(values.float(), expected, rtol=0.05, atol=0.02)


def test_a_field_learns_one_signal():
    field, coords = FourierField(channels=1, hidden_dim=16, depth=2, num_features=16, scale=2.0), grid(8)
    target = torch.cos(4 * coords[:, :1])
    optimizer = torch.optim.Adam(field.parameters(), lr=0.02)
    losses = []
    for _ in range(40):
        loss = (field(coords) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
