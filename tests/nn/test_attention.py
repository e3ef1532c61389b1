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
    """Queries that the batch shares, and queries of their own."""
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
