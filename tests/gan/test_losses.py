"""Hinge losses on worked examples, R1 in closed form."""

import pytest
import torch

from genrep.gan.losses import hinge_discriminator_loss, hinge_generator_loss, r1_penalty


def test_hinge_losses_on_a_worked_example():
    """LoE eqs. 9 and 10: a logit beyond ±1 on the right side costs nothing."""
    real, fake = torch.tensor([[2.0, 0.5], [-1.0, 1.0]]), torch.tensor([[-3.0, 0.0]])
    assert hinge_discriminator_loss([real], [fake]) == pytest.approx((0 + 0.5 + 2 + 0) / 4 + (0 + 1) / 2)
    assert hinge_generator_loss([fake]) == 1.5


def test_every_discriminator_weighs_the_same_however_many_logits_it_has():
    patches, single = torch.zeros(2, 64), torch.full((2, 1), 3.0)
    assert hinge_discriminator_loss([patches, single], [patches, -single]) == pytest.approx((2 + 0) / 2)
    assert hinge_generator_loss([patches, single]) == pytest.approx(-1.5)


def test_hinge_gradients_vanish_where_the_discriminator_is_sure():
    real, fake = torch.tensor([[2.0], [0.0]], requires_grad=True), torch.tensor([[-2.0], [0.0]], requires_grad=True)
    gradients = torch.autograd.grad(hinge_discriminator_loss([real], [fake]), [real, fake])
    assert [gradient.flatten().tolist() for gradient in gradients] == [[0.0, -0.5], [0.0, 0.5]]


def test_r1_of_linear_discriminators_is_the_sum_of_their_squared_weights():
    weights, others = torch.randn(2, 3, 4), torch.randn(1, 5)
    images, latents = torch.randn(6, 3, 4, requires_grad=True), torch.randn(6, 5, requires_grad=True)
    logits = [torch.einsum("lcd,bcd->bl", weights, images), latents @ others.T]
    expected = weights.mean(0).square().sum() + others.square().sum()
    assert float(r1_penalty(logits, [images, latents])) == pytest.approx(float(expected), rel=1e-5)


def test_r1_has_a_gradient_to_the_discriminator():
    layer, real = torch.nn.Linear(4, 1), torch.randn(3, 4, requires_grad=True)
    r1_penalty([layer(real).tanh()], [real]).backward()
    assert layer.weight.grad.abs().sum() > 0
