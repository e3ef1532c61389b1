"""L-softmax and attention against plain references, values and gradients."""

import pytest
import torch

from genrep.nn.attention import Attention, l_softmax, localized_attention


def plain_l_softmax(row, threshold):
    """ANR eqs. 6 and 7, number by number."""
    powers = [torch.exp(x - row.max()) for x in row]
    total = sum(powers)
    kept = [torch.clamp(p / total - threshold, min=0) for p in powers]
    mass = sum(kept)
    return torch.stack([k / mass if mass > 0 else torch.zeros_like(k) for k in kept])


def plain_localized_attention(query, key, value, threshold):
    """One point, one head, one image at a time."""
    out = torch.zeros(
        *torch.broadcast_shapes(query.shape[:2], key.shape[:2]), query.shape[2], query.shape[3], dtype=query.dtype
    )
    rows = []
    for b in range(key.shape[0]):
        for h in range(key.shape[1]):
            for n in range(query.shape[2]):
                scores = (
                    torch.stack([(query[b % len(query), h, n] * k).sum() for k in key[b, h]]) / query.shape[-1] ** 0.5
                )
                rows.append(plain_l_softmax(scores, threshold) @ value[b, h])
    return torch.stack(rows).reshape(out.shape)


@pytest.mark.parametrize("threshold", [0.0, 0.05, 0.15])
def test_l_softmax_equals_the_plain_definition(threshold):
    scores = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(4, 6, dtype=torch.float64)
    ours, plain = l_softmax(scores, threshold), torch.stack([plain_l_softmax(row, threshold) for row in scores])
    torch.testing.assert_close(ours, plain)
    for mine, reference in zip(
        torch.autograd.grad(ours, scores, upstream), torch.autograd.grad(plain, scores, upstream), strict=True
    ):
        torch.testing.assert_close(mine, reference)


def test_rows_sum_to_one_and_small_weights_vanish():
    weights = l_softmax(3 * torch.randn(100, 16), threshold=0.03)
    torch.testing.assert_close(weights.sum(-1), torch.ones(100))
    soft = torch.softmax(torch.zeros(1, 4), -1)
    assert (l_softmax(soft.log() + torch.tensor([[2.0, 0, 0, 0]]), 0.2) == torch.tensor([[1.0, 0, 0, 0]])).all()


@pytest.mark.parametrize("shared", [True, False])
def test_localized_attention_equals_the_plain_definition(shared):
    """With queries shared by the batch, and with separate queries."""
    tensors = [torch.randn(1 if shared else 2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)]
    tensors = [tensor.requires_grad_() for tensor in tensors]
    ours, plain = localized_attention(*tensors, 0.1), plain_localized_attention(*tensors, 0.1)
    upstream = torch.randn_like(ours)
    torch.testing.assert_close(ours, plain)
    for mine, reference in zip(
        torch.autograd.grad(ours, tensors, upstream), torch.autograd.grad(plain, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(mine, reference, atol=1e-5, rtol=1e-4)


def test_an_empty_row_gives_zeros_and_zero_gradients():
    """Equal scores over 8 tokens weigh 1/8 each, below a threshold of 0.2: the published code divides 0 by 0 here."""
    query = torch.zeros(1, 1, 2, 4, requires_grad=True)
    key, value = torch.randn(1, 1, 8, 4, requires_grad=True), torch.randn(1, 1, 8, 4, requires_grad=True)
    out = localized_attention(query, key, value, 0.2)
    out.sum().backward()
    assert (out == 0).all()
    for tensor in (query, key, value):
        assert (tensor.grad == 0).all()
    scores = torch.zeros(1, 8, requires_grad=True)
    l_softmax(scores, 0.2).sum().backward()
    assert (scores.grad == 0).all()


HALF = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("upstream", [3.9, 4.1, 1e4])
def test_empty_rows_have_zero_gradients_for_any_upstream(upstream, dtype):
    """Dividing by the smallest normal number instead overflows above 4, and 0 times infinity is NaN."""
    torch.manual_seed(0)
    tensors = [torch.zeros(1, 1, 2, 4), torch.randn(1, 1, 8, 4), torch.randn(1, 1, 8, 4)]
    tensors = [tensor.to(dtype).requires_grad_() for tensor in tensors]
    out = localized_attention(*tensors, 0.5)
    for gradient in torch.autograd.grad(out, tensors, torch.full_like(out, upstream)):
        assert (gradient == 0).all()
    scores = torch.zeros(1, 8, dtype=dtype, requires_grad=True)
    weights = l_softmax(scores, 0.5)
    (gradient,) = torch.autograd.grad(weights, scores, torch.full_like(weights, upstream))
    assert weights.dtype == dtype and (weights == 0).all() and (gradient == 0).all()


@pytest.mark.parametrize("dtype", HALF)
def test_a_weight_just_above_the_threshold_has_the_row_to_itself(dtype):
    """Above it by the last bit of float32: the sum of the row is 6e-8."""
    torch.manual_seed(0)
    query, key, value = torch.randn(1, 1, 1, 4), 2 * torch.eye(4)[None, None], torch.randn(1, 1, 4, 4)
    tensors = [tensor.to(dtype).requires_grad_() for tensor in (query, key, value)]
    soft = torch.softmax(tensors[0].detach().float()[0, 0, 0], dim=-1)  # QKᵀ/√d = Q
    threshold = float(torch.nextafter(soft.max(), torch.tensor(0.0)))
    out = localized_attention(*tensors, threshold)
    torch.testing.assert_close(out[0, 0, 0], tensors[2][0, 0, soft.argmax()])
    for gradient in torch.autograd.grad(out, tensors, torch.full_like(out, 1e3)):
        assert gradient.isfinite().all()
    scores = tensors[0].detach()[0, 0].requires_grad_()
    weights = l_softmax(scores, threshold)
    assert weights[0, soft.argmax()] == 1
    assert torch.autograd.grad(weights, scores, torch.full_like(weights, 1e3))[0].isfinite().all()


def test_gradients_in_double_precision_are_those_of_differences():
    torch.manual_seed(0)
    tensors = [torch.randn(2, 2, count, 3, dtype=torch.float64, requires_grad=True) for count in (4, 6, 6)]
    assert torch.autograd.gradcheck(lambda *tensors: localized_attention(*tensors, 0.1), tensors)
    assert torch.autograd.gradcheck(lambda scores: l_softmax(scores, 0.1), tensors[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_rounds_no_score(dtype):
    """The weights are exact to 1e-5, whereas a QKᵀ in bfloat16 is off by more than 1e-3."""
    torch.manual_seed(0)
    query, key = (2 * torch.randn(1, 1, count, 64).to(dtype) for count in (50, 256))
    value = torch.eye(256)[None, None, :, :64]  # the output is the weights of the first 64 tokens
    threshold = 0.0015  # the paper's
    exact = localized_attention(query.double(), key.double(), value.double(), threshold)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        weights = localized_attention(query, key, value, threshold)
        scores = (query / 8) @ key.transpose(-1, -2)
    assert scores.dtype == torch.bfloat16 and weights.dtype == torch.float32
    rounded = l_softmax(scores.float(), threshold)[..., :64]
    assert (weights - exact).abs().max() < 1e-5
    assert (rounded - exact).abs().max() > 1e-3


def test_one_empty_row_leaves_the_others_alone():
    query = torch.stack([torch.zeros(4), torch.tensor([9.0, 0, 0, 0])])[None, None]
    key, value = torch.eye(4).repeat(2, 1)[None, None], torch.randn(1, 1, 8, 4)
    out = localized_attention(query, key, value, 0.2)
    assert (out[0, 0, 0] == 0).all() and (out[0, 0, 1] != 0).all()


def test_attention_equals_the_formula():
    layer, x, context = Attention(8, 2, 3, context_dim=5), torch.randn(2, 4, 8), torch.randn(2, 6, 5)
    query = layer.to_query(x).unflatten(-1, (2, 3)).transpose(1, 2)
    key, value = (part.unflatten(-1, (2, 3)).transpose(1, 2) for part in layer.to_key_value(context).chunk(2, -1))
    mixed = torch.softmax(query @ key.transpose(-1, -2) / 3**0.5, -1) @ value
    torch.testing.assert_close(layer(x, context), layer.to_out(mixed.transpose(1, 2).flatten(2)))


def test_qk_norm_bounds_the_logits():
    layer, x = Attention(8, 2, 4, qk_norm=True), torch.randn(1, 5, 8)
    torch.testing.assert_close(layer(x), layer(x * 1000), atol=1e3, rtol=1)  # values scale, logits do not
    query = layer.query_norm(layer.to_query(x * 1000).unflatten(-1, (2, 4)))
    torch.testing.assert_close(query.square().mean(-1), torch.ones(1, 5, 2), atol=1e-3, rtol=0)
