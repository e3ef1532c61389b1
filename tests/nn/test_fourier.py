"""Positional encoding in closed form."""

import math

import torch

from genrep.nn.fourier import FourierFeatures, timestep_features


def test_frequencies_run_from_one_to_the_maximum():
    frequencies = FourierFeatures(2, 128, 1024.0).frequencies
    assert frequencies[0] == 1 and frequencies[-1] == 1024
    torch.testing.assert_close(
        frequencies[1:] / frequencies[:-1], torch.full((127,), 1024 ** (1 / 127)), rtol=1e-4, atol=0
    )


def test_features_in_closed_form():
    encoding, point = FourierFeatures(2, 3, 4.0), torch.tensor([[0.3, -0.7]])
    angles = [math.pi * w * c for c in (0.3, -0.7) for w in (1, 2, 4)]
    expected = torch.tensor([[math.cos(a) for a in angles] + [math.sin(a) for a in angles]])
    torch.testing.assert_close(encoding(point), expected)
    assert encoding.num_features == 12


def test_timestep_features_in_closed_form():
    features = timestep_features(torch.tensor([0.0, 7.5]), 4)
    torch.testing.assert_close(features[0], torch.tensor([1.0, 1, 0, 0]))
    torch.testing.assert_close(
        features[1], torch.tensor([math.cos(7.5), math.cos(0.075), math.sin(7.5), math.sin(0.075)])
    )
