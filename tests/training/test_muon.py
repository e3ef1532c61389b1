"""Muon on a CPU: the published iteration, torch's state, no bfloat16, convolutions as matrices."""

import math

import pytest
import torch

from genrep.training.muon import Muon, orthogonalized

COEFFICIENTS = (3.4445, -4.775, 2.0315)


def weights(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]


@pytest.mark.parametrize("shape", [(6, 10), (10, 6), (8, 8), (1, 5)])
def test_singular_values_follow_the_polynomial(shape):
    """p(s) = a s + b s³ + c s⁵ is applied five times to the normalised singular values; U and V do not change."""
    matrix = weights(shape)[0].detach().double()
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    s = s / s.norm()
    for _ in range(5):
        s = COEFFICIENTS[0] * s + COEFFICIENTS[1] * s**3 + COEFFICIENTS[2] * s**5
    torch.testing.assert_close(orthogonalized(matrix, COEFFICIENTS, 5, 1e-7), u @ torch.diag(s) @ vt)
    assert orthogonalized(matrix.float(), COEFFICIENTS, 5, 1e-7).dtype == torch.float32


def test_steps_equal_torchs_up_to_rounding():
    shapes = [(16, 24), (24, 16)]
    ours, theirs = weights(*shapes), weights(*shapes)
    optimizers = [Muon(ours, lr=0.02, weight_decay=0.1)]
    optimizers.append(torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"))
    start = [weight.detach().clone() for weight in ours]
    for step in range(5):
        for number, gradient in enumerate(weights(*shapes, seed=1 + step)):
            ours[number].grad, theirs[number].grad = gradient.detach().clone(), gradient.detach().clone()
        for optimizer in optimizers:
            optimizer.step()
    for initial, one, other in zip(start, ours, theirs, strict=True):
        assert float((one - other).norm() / (one - initial).norm()) < 0.02  # bfloat16 has 8 bits
    for one, other in zip(ours, theirs, strict=True):
        buffers = [
            optimizer.state[weight]["momentum_buffer"]
            for optimizer, weight in zip(optimizers, (one, other), strict=True)
        ]
        assert torch.equal(*buffers)


def test_a_checkpoint_of_torchs_muon_resumes(tmp_path):
    (one,), (other,) = weights((8, 12)), weights((8, 12))
    first = torch.optim.Muon([one], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    one.grad = torch.ones(8, 12)
    first.step()
    second = Muon([other], lr=0.1, weight_decay=0.0)
    second.load_state_dict(first.state_dict())
    assert torch.equal(second.state[other]["momentum_buffer"], first.state[one]["momentum_buffer"])
    other.grad = torch.ones(8, 12)
    second.step()


def test_an_update_has_the_size_of_adamws():
    """An RMS of 0.2 times the learning rate, up to the spread of the singular values around 1."""
    (weight,) = weights((32, 64))
    start, weight.grad = weight.detach().clone(), weights((32, 64), seed=3)[0].detach()
    Muon([weight], lr=0.1, weight_decay=0.0).step()
    rms = float((weight - start).square().mean().sqrt())
    # √32 singular values of about 1 over √(32 · 64) entries, times 0.2 √64
    assert rms == pytest.approx(0.1 * 0.2 * math.sqrt(64) * math.sqrt(32 / (32 * 64)), rel=0.25)


@pytest.mark.parametrize("shape", [(6, 10), (6, 2, 3, 3)])
def test_weights_of_one_shape_move_together_as_they_move_alone(shape):
    """What a GPU does with the blocks of a network, in the CPU's number type."""
    shapes = [shape] * 3
    together, alone = weights(*shapes), weights(*shapes)
    for number, gradient in enumerate(weights(*shapes, seed=5)):
        together[number].grad, alone[number].grad = gradient.detach().clone(), gradient.detach().clone()
    one, other = Muon(together, lr=0.1, weight_decay=0.1), Muon(alone, lr=0.1, weight_decay=0.1)
    with torch.no_grad():
        one._move(together, one.param_groups[0])
    other.step()
    torch.testing.assert_close(together, alone)
    assert all(
        torch.equal(one.state[a]["momentum_buffer"], other.state[b]["momentum_buffer"])
        for a, b in zip(together, alone, strict=True)
    )


@pytest.mark.parametrize("shape", [(6, 2, 3, 3), (40, 2, 3, 3), (8, 5, 3), (4, 2, 2, 2, 2)])
def test_a_convolution_moves_as_the_matrix_of_its_kernels(shape):
    """Output channels by input channels times points of the kernel; (40, 2, 3, 3) is taller than wide."""
    (kernels,), gradients = weights(shape), weights(shape, seed=7)[0].detach()
    matrix = torch.nn.Parameter(kernels.detach().flatten(1).clone())
    kernels.grad, matrix.grad = gradients, gradients.flatten(1)
    for weight in (kernels, matrix):
        Muon([weight], lr=0.1, weight_decay=0.1).step()
    torch.testing.assert_close(kernels.flatten(1), matrix)
    assert kernels.shape == shape
