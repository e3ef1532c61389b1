"""The output heads of a hypernetwork: from the width of its transformer to that of a latent token."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


def make_head(dim: int, latent_dim: int, token_groups: Sequence[int]) -> nn.Module:
    """LayerNorm and Linear, `[B, R, dim]` to `[B, R, D]`, with separate weights for every group of tokens."""
    heads = [nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, latent_dim)) for _ in token_groups]
    # A single head stays a plain Sequential, so that its weights keep the names that they have in saved models.
    return heads[0] if len(heads) == 1 else GroupHeads(heads, token_groups)


class GroupHeads(nn.ModuleList):
    """Head k reads the k-th group of consecutive tokens, as in TransINR's code, where each MLP layer has a group."""

    def __init__(self, heads: Sequence[nn.Module], token_groups: Sequence[int]):
        super().__init__(heads)
        self.token_groups = list(token_groups)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens latent"]:
        parts = tokens.split(self.token_groups, dim=1)
        return torch.cat([head(part) for head, part in zip(self, parts, strict=True)], dim=1)
