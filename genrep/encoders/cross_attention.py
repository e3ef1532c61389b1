"""ANR's hypernetwork: signals to R-tokens through an encoder-decoder transformer (appendix A)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.encoders.heads import make_head
from genrep.nn.patches import PatchTokenizer
from genrep.nn.transformer import DecoderBlock, EncoderBlock


class CrossAttentionEncoder(nn.Module):
    """Patches through a transformer encoder; learned queries read it through a transformer decoder; a per-token affine.

    Pre-norm blocks without dropout, no norm on the encoder's output. The decoder's output goes through LayerNorm, a
    Linear to `latent_dim`, and a scale (from 1) and offset (from N(0, 1)) of its own for every token and channel: the
    offset is what tells one token from another. With `token_groups`, each group of consecutive tokens has a LayerNorm and
    Linear of its own.
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
        encoder_depth: int,
        decoder_depth: int,
        num_heads: int,
        head_dim: int,
        mlp_dim: int,
    ):
        super().__init__()
        self.tokenizer = PatchTokenizer(image_size, channels, patch_size, dim)
        self.encoder = nn.ModuleList(EncoderBlock(dim, num_heads, head_dim, mlp_dim) for _ in range(encoder_depth))
        self.queries = nn.Parameter(torch.randn(num_tokens, dim))
        self.decoder = nn.ModuleList(DecoderBlock(dim, num_heads, head_dim, mlp_dim) for _ in range(decoder_depth))
        self.head = make_head(dim, latent_dim, token_groups or [num_tokens])
        self.scale = nn.Parameter(torch.ones(num_tokens, latent_dim))
        self.offset = nn.Parameter(torch.randn(num_tokens, latent_dim))

    def forward(self, signals: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch tokens latent"]:
        patches = self.tokenizer(signals)  # [B, P, dim]
        for block in self.encoder:
            patches = block(patches)
        tokens = self.queries.expand(len(signals), -1, -1)  # [B, R, dim]
        for block in self.decoder:
            tokens = block(tokens, patches)
        return self.head(tokens) * self.scale + self.offset  # [B, R, D]
