"""The memory estimate against what autograd really saves."""

import pytest
import torch
import torch.nn.functional as F

from genrep.training.memory import training_memory
from genrep.training.specs import EMASpec, OptimizerSpec
from tests.tiny import AUTOENCODER, tiny_autoencoder

LINEAR = torch.nn.Linear  # 3 × 5 weights and 5 biases below


def linear():
    return torch.nn.Sequential(LINEAR(3, 5), torch.nn.Tanh())


def squares(model):
    return model(torch.zeros(7, 3)).square().sum()


@pytest.mark.parametrize(
    ("optimizer", "ema", "numbers"),
    [
        ("adamw", None, 4 * 20),
        ("adamw", EMASpec(), 5 * 20),
        ("muon", None, 4 * 20 - 15),
        ("muon", EMASpec(), 5 * 20 - 15),
    ],
)
def test_the_state_is_weights_gradients_and_averages(optimizer, ema, numbers):
    """Muon keeps one average per matrix, AdamW two per parameter."""
    state, _ = training_memory(linear, squares, OptimizerSpec(type=optimizer), ema)
    assert state == 4 * numbers


def test_the_activations_of_a_layer_equal_a_manual_count():
    """Kept for the backward: the input [7, 3] and tanh's output [7, 5], once although the square keeps it too. And three
    times the larger one."""
    assert training_memory(linear, squares, OptimizerSpec(), None)[1] == 4 * (7 * 3 + 7 * 5 + 3 * 7 * 5)


def test_the_activations_equal_what_autograd_saves():
    images, coords = torch.zeros(4, 1, 8, 8), torch.rand(50, 2)

    def loss(model):
        return F.mse_loss(model(torch.zeros(4, 1, 8, 8), torch.zeros(50, 2)), torch.zeros(4, 50, 1))

    def build():
        return type(tiny_autoencoder())(**AUTOENCODER)

    _, estimated = training_memory(build, loss, OptimizerSpec(), None)
    model, kept = build(), {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()  # kept alive, so that no address is reused
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        F.mse_loss(model(images, coords), torch.zeros(4, 50, 1))
    real = [storage.nbytes() for address, storage in kept.items() if address not in own]
    assert estimated == pytest.approx(sum(real) + 3 * max(real), rel=0.1)


def test_nothing_is_allocated():
    """A model of a terabyte can be measured on any machine."""
    state, activations = training_memory(
        lambda: LINEAR(2**19, 2**19, bias=False),
        lambda model: model(torch.zeros(1, 2**19)).sum(),
        OptimizerSpec(),
        None,
    )
    assert state == 16 * 2**38 and activations == 4 * 4 * 2**19
