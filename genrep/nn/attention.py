"""Attention: the standard kind, and localized attention with L-softmax (ANR eqs. 4 to 7)."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.nn.linear import linear_after


def l_softmax(scores: Float[Tensor, "*rows tokens"], threshold: float) -> Float[Tensor, "*rows tokens"]:
    """L-softmax (ANR eqs. 6 and 7): Normalize(ReLU(softmax(x) - m)), computed in float32 or better.

    A row in which no weight exceeds `threshold` attends to nothing: its weights and gradients are zero, not 0/0.
    """
    # The largest of n softmax weights is at least 1/n, so a row can only be empty if m >= 1/n. The paper's m = 0.0015 at
    # 256 tokens is 0.384/n, far enough below.
    weights = F.relu(torch.softmax(_precise(scores), dim=-1) - threshold)
    return (weights / _total(weights)).to(scores.dtype)


def localized_attention(
    query: Float[Tensor, "#batch heads points dim"],
    key: Float[Tensor, "batch heads tokens dim"],
    value: Float[Tensor, "batch heads tokens dim"],
    threshold: float,
) -> Float[Tensor, "batch heads points dim"]:
    """LAL(Q, K, V) = L-softmax_m(QKᵀ/√d) V (ANR eq. 5); equal to `l_softmax(...) @ value`, with fewer passes.

    Computed in float32 or better, under autocast too: a threshold near 1/tokens compares weights that rounded scores blur.
    """
    with torch.autocast(value.device.type, enabled=False):
        # Scaling the queries (points × dim numbers) is cheaper than scaling the scores (points × tokens).
        scores = (_precise(query) * query.shape[-1] ** -0.5) @ _precise(key).transpose(-1, -2)
        weights = torch.softmax(scores, dim=-1)
        # In place unless autograd needs the softmax itself: as separate passes over the attention map, threshold and
        # normalisation take 25 to 35 % of the published decoder's time.
        weights = (weights - threshold if weights.requires_grad else weights.sub_(threshold)).relu_()
        # Normalising is linear, so it is done on the `dim` outputs instead of the `tokens` weights.
        return ((weights @ _precise(value)) / _total(weights)).to(value.dtype)


def _precise(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 unchanged."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _total(weights: Float[Tensor, "*rows tokens"]) -> Float[Tensor, "*rows 1"]:
    """The divisor of each row: the sum of its weights, or 1 for an empty row."""
    total = weights.sum(dim=-1, keepdim=True)
    # Clamping to a tiny number instead would overflow in the backward pass and turn 0 · inf into NaN.
    return torch.where(total > 0, total, 1)


class Attention(nn.Module):
    """Multi-head attention from `queries` to `context` (itself when None).

    Args:
        dim: width of queries and output.
        num_heads, head_dim: the inner width is their product, which may differ from `dim`.
        context_dim: width of the context; `dim` when None.
        qk_norm: RMS-normalise queries and keys per head, which keeps the logits bounded in long low-precision runs.
        qkv_bias: add biases to the three input projections; the output projection always has one.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        *,
        context_dim: int | None = None,
        qk_norm: bool = False,
        qkv_bias: bool = False,
    ):
        super().__init__()
        inner = num_heads * head_dim
        self.num_heads = num_heads
        self.to_query = nn.Linear(dim, inner, bias=qkv_bias)
        self.to_key_value = nn.Linear(dim if context_dim is None else context_dim, 2 * inner, bias=qkv_bias)
        self.query_norm = nn.RMSNorm(head_dim) if qk_norm else nn.Identity()
        self.key_norm = nn.RMSNorm(head_dim) if qk_norm else nn.Identity()
        self.to_out = nn.Linear(inner, dim)

    def forward(
        self,
        queries: Float[Tensor, "#batch points dim"],
        context: Float[Tensor, "batch tokens context"] | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch points dim"]:
        """Queries shared by the batch may have a batch size of 1. Tokens whose `mask` is False are not attended to."""
        return self.to_out(self.heads(queries, *self.keys_values(queries if context is None else context), mask))

    def keys_values(
        self, context: Float[Tensor, "batch tokens context"]
    ) -> tuple[Float[Tensor, "batch heads tokens head_dim"], Float[Tensor, "batch heads tokens head_dim"]]:
        """Keys and values of the context, split into heads."""
        projected = self.to_key_value(context)
        key, value = rearrange(projected, "b n (two h d) -> two b h n d", two=2, h=self.num_heads)
        return self.key_norm(key), value

    def heads(
        self,
        queries: Float[Tensor, "#batch points dim"],
        key: Float[Tensor, "batch heads tokens head_dim"],
        value: Float[Tensor, "batch heads tokens head_dim"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch points inner"]:
        """The concatenated heads, before the output projection, which a caller may fold into the next layer."""
        query = self.query_norm(rearrange(self.to_query(queries), "b n (h d) -> b h n d", h=self.num_heads))
        attn_mask = None if mask is None else mask[:, None, None]
        mixed = F.scaled_dot_product_attention(query.expand(len(key), -1, -1, -1), key, value, attn_mask=attn_mask)
        return rearrange(mixed, "b h n d -> b n (h d)")

    def readout(
        self, context: Float[Tensor, "batch tokens context"], layers: Sequence[nn.Linear]
    ) -> Callable[[Tensor], list[Tensor]]:
        """A function from queries `[#B, N, dim]` to `[layer(self(queries, context)) for layer in layers]`.

        For many queries of one context: whatever depends on the context alone is computed once, here.
        """
        key, value = self.keys_values(context)
        # The output projection and the layer after it are two Linears in a row, so they are merged into one: one product
        # less per query. Folding the query and value projections into the tokens as well would have to be redone for
        # every context: renders of 8×8 pixels from 64 tokens became twice as slow, and at best, with 8 tokens, 1.4 times
        # as fast.
        after = [linear_after(self.to_out, layer) for layer in layers]

        def read(queries: Tensor) -> list[Tensor]:
            heads = self.heads(queries, key, value)
            return [layer(heads) for layer in after]

        return read
