"""Pre-norm transformer blocks."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.nn.attention import Attention


class FeedForward(nn.Module):
    """Two linear layers with GELU, or SwiGLU: W₃(SiLU(W₁x) ⊙ W₂x)."""

    def __init__(self, dim: int, hidden_dim: int, kind: str = "gelu"):
        super().__init__()
        self.gated = kind == "swiglu"
        self.up = nn.Linear(dim, hidden_dim * (2 if self.gated else 1))
        self.down = nn.Linear(hidden_dim, dim)

    def forward(self, tokens: Float[Tensor, "*rows dim"]) -> Float[Tensor, "*rows dim"]:
        hidden = self.up(tokens)
        if self.gated:
            gate, hidden = hidden.chunk(2, dim=-1)
            return self.down(F.silu(gate) * hidden)
        return self.down(F.gelu(hidden))


class EncoderBlock(nn.Module):
    """Self-attention, then feed-forward: LayerNorm before each, dropout on each residual branch."""

    def __init__(
        self, dim: int, num_heads: int, head_dim: int, mlp_dim: int, *, qkv_bias: bool = False, dropout: float = 0.0
    ):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, head_dim, qkv_bias=qkv_bias)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Float[Tensor, "batch tokens dim"]) -> Float[Tensor, "batch tokens dim"]:
        tokens = tokens + self.dropout(self.attention(self.attention_norm(tokens)))
        return tokens + self.dropout(self.mlp(self.mlp_norm(tokens)))


class DecoderBlock(nn.Module):
    """Self-attention, cross-attention to a context without norm, feed-forward; no causal mask (ANR appendix A)."""

    def __init__(self, dim: int, num_heads: int, head_dim: int, mlp_dim: int):
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, num_heads, head_dim)
        self.cross_norm = nn.LayerNorm(dim)
        self.cross_attention = Attention(dim, num_heads, head_dim)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = FeedForward(dim, mlp_dim)

    def forward(
        self, queries: Float[Tensor, "batch queries dim"], context: Float[Tensor, "batch tokens dim"]
    ) -> Float[Tensor, "batch queries dim"]:
        queries = queries + self.attention(self.attention_norm(queries))
        queries = queries + self.cross_attention(self.cross_norm(queries), context)
        return queries + self.mlp(self.mlp_norm(queries))
