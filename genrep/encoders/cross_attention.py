"""ANR's hypernetwork: signals to R-tokens through an encoder-decoder transformer (appendix A)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from genrep.encoders.heads import make_head
from genrep.nn.patches import PatchTokenizer
from genrep.nn.transformer import DecoderBlock, EncoderBlock


class CrossAttentionEncoder(nn.Module):
    """A transformer encoder over patches, a transformer decoder over learned queries, an affine map per token.

    Pre-norm blocks without dropout, and no norm on the encoder's output. The decoder's output passes through LayerNorm, a
    Linear to `latent_dim`, and a scale and an offset for every token and channel. With `token_groups`, each group of
    consecutive tokens has its own LayerNorm and Linear.
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
        # The initial values of queries, scale and offset are the published code's; the paper does not give them.
        self.queries = nn.Parameter(torch.randn(num_tokens, dim))
        self.decoder = nn.ModuleList(DecoderBlock(dim, num_heads, head_dim, mlp_dim) for _ in range(decoder_depth))
        self.head = make_head(dim, latent_dim, token_groups or [num_tokens])
        self.scale = nn.Parameter(torch.ones(num_tokens, latent_dim))
        self.offset = nn.Parameter(torch.randn(num_tokens, latent_dim))  # what distinguishes the tokens from the start

    def forward(self, signals: Float[Tensor, "batch channels *shape"]) -> Float[Tensor, "batch tokens latent"]:
        patches = self.tokenizer(signals)  # [B, P, dim]
        for block in self.encoder:
            patches = block(patches)
        tokens = self.queries.expand(len(signals), -1, -1)  # [B, R, dim]
        for block in self.decoder:
            tokens = block(tokens, patches)
        return self.head(tokens) * self.scale + self.offset  # [B, R, D]
