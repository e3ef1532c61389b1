"""The hypernetwork of TransINR, IPC and the locality-aware INR: patches and learned tokens in one transformer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.encoders.heads import make_head
from genrep.nn.patches import PatchTokenizer
from genrep.nn.transformer import EncoderBlock


class JointAttentionEncoder(nn.Module):
    """R learned tokens ~ N(0, 1) follow the patches; the transformer turns them into the latents (section 3.2).

    Pre-norm blocks with biases; the tokens then pass through LayerNorm and a Linear to `latent_dim`. TransINR's decoder asks
    for one such head per layer of its MLP: `token_groups` are the numbers of consecutive tokens that share a head; None is
    one head for all.
    """

    def __init__(
        self,
        image_size: tuple[int, ...],
        channels: int,
        num_tokens: int,
        latent_dim: int,
        token_groups: Sequence[int] | None = None,
        *,
        patch_size: int | Sequence[int],
        dim: int,
        depth: int,
        num_heads: int,
        head_dim: int,
        mlp_dim: int,
        dropout: float,
    ):
        super().__init__()
        self.tokenizer = PatchTokenizer(image_size, channels, patch_size, dim)
        self.tokens = nn.Parameter(torch.randn(num_tokens, dim))
        self.blocks = nn.ModuleList(
            EncoderBlock(dim, num_heads, head_dim, mlp_dim, qkv_bias=True, dropout=dropout) for _ in range(depth)
        )
        # The paper does not mention a projection, but its encoder is 768 wide and its latents 256 (table 5). IPC's published
        # code has one in this place.
        self.head = make_head(dim, latent_dim, token_groups or [num_tokens])

    def forward(self, signals: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch tokens latent"]:
        patches = self.tokenizer(signals)  # [B, P, dim]
        sequence = torch.cat([patches, self.tokens.expand(len(signals), -1, -1)], dim=1)  # [B, P + R, dim]
        for block in self.blocks:
            sequence = block(sequence)
        return self.head(sequence[:, patches.shape[1] :])  # [B, R, D]
