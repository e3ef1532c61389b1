"""ANR's decoder, MLP ∘ LAL: from coordinates and R-tokens to values (eqs. 1 to 7)."""

from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from genrep.coords import Coords
from genrep.decoders.base import Decoder, with_batch
from genrep.nn.attention import localized_attention
from genrep.nn.fourier import FourierFeatures
from genrep.nn.linear import linear_after


class LocalizedAttentionDecoder(Decoder):
    """f_θ(c, D) = MLP ∘ LAL(W_q γ(c), W_k D, W_v D), ANR eq. 3.

    A single attention layer without residual or norm, then `depth` Linear layers with ReLU in between. At the paper's image
    setting (the defaults of `LocalizedAttentionSpec`, 256 tokens of 512, RGB) the parameters and one representation are
    1,970,179 numbers, the 1970k of its table.
    """

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        *,
        hidden_dim: int,
        depth: int,
        num_heads: int,
        head_dim: int,
        num_frequencies: int,
        max_frequency: float,
        threshold: float,
        num_axes: int = 2,
    ):
        super().__init__()
        self.num_axes = num_axes
        inner = num_heads * head_dim
        self.num_heads, self.threshold = num_heads, threshold
        # W_q takes the encoding directly, without a Linear before it; the three projections have no bias (published code).
        self.encoding = FourierFeatures(num_axes, num_frequencies, max_frequency)
        self.to_query = nn.Linear(self.encoding.num_features, inner, bias=False)
        self.to_key = nn.Linear(latent_dim, inner, bias=False)
        self.to_value = nn.Linear(latent_dim, inner, bias=False)
        self.to_out = nn.Linear(inner, hidden_dim)
        layers: list[nn.Module] = []
        for _ in range(depth - 1):
            layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU(inplace=True)]
        self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, channels))

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        key = rearrange(self.to_key(latents), "b r (h d) -> b h r d", h=self.num_heads)
        value = rearrange(self.to_value(latents), "b r (h d) -> b h r d", h=self.num_heads)
        first_of_mlp = self.mlp[0]
        assert isinstance(first_of_mlp, nn.Linear)
        first = linear_after(self.to_out, first_of_mlp)  # saves 0.52 of the paper's 3.29 MFLOP per coordinate

        def values(coords: Coords) -> Tensor:
            # Coordinates shared by the batch are encoded once and keep a batch size of 1 until they meet the tokens.
            query = with_batch(self.encoding.projected(self.to_query, coords))
            query = rearrange(query, "b n (h d) -> b h n d", h=self.num_heads)
            mixed = rearrange(localized_attention(query, key, value, self.threshold), "b h n d -> b n (h d)")
            return self.mlp[1:](first(mixed))  # linear at the end: images are in [-1, 1] up to the model's error

        return values
