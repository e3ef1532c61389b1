"""The locality-aware decoder: selective token aggregation and multi-band feature modulation (section 3.3)."""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from genrep.coords import Coords
from genrep.decoders.base import Decoder, with_batch
from genrep.decoders.modulated_mlp import ComposedLinear
from genrep.nn.attention import Attention
from genrep.nn.fourier import FrequencyFeatures


class MultiBandDecoder(Decoder):
    """Each coordinate reads a modulation vector from the tokens, which modulates frequency features (eqs. 4 to 9).

    A query q_v (eq. 4) aggregates the tokens into m_v by multi-head attention (eq. 5), without residual or norm. m_v
    modulates frequency features of L bandwidths (eqs. 6 and 7), which L - 1 layers compose from the first level to the
    last (eq. 8); every level has its own linear output, and their sum is the value (eq. 9).

    Options replace either half, as in table 3: the attention by IPC's composed weight, or the bands by a plain MLP on m_v.
    With both replaced the layers are IPC's, except that IPC also normalises its shared weights and has a single bandwidth:
    for IPC itself use `IPCDecoder`.
    """

    def __init__(
        self,
        channels: int,
        latent_dim: int,
        num_tokens: int,
        *,
        hidden_dim: int,
        num_features: int,
        bandwidths: Sequence[float],
        query_bandwidth: float,
        num_heads: int,
        num_axes: int,
        aggregation: str,
        modulation: str,
        mlp_depth: int,
    ):
        super().__init__()
        self.num_axes = num_axes
        # The paper found PSNR best for σ_1 >= σ_2 >= σ_q: for images 128, 32 and 16.
        self.query = FrequencyFeatures(num_axes, num_features, query_bandwidth, hidden_dim)
        self.aggregate = (
            Attention(hidden_dim, num_heads, hidden_dim // num_heads, context_dim=latent_dim)
            if aggregation == "attention"
            else ComposedLinear(num_tokens, hidden_dim, hidden_dim)
        )
        self.mlp: nn.Sequential | None = None
        if modulation == "mlp":
            layers: list[nn.Module] = []
            for _ in range(mlp_depth - 1):
                layers += [nn.Linear(hidden_dim, hidden_dim), nn.ReLU()]
            self.mlp = nn.Sequential(*layers, nn.Linear(hidden_dim, channels))
            return
        self.bands = nn.ModuleList(
            FrequencyFeatures(num_axes, num_features, bandwidth, hidden_dim) for bandwidth in bandwidths
        )
        self.modulate = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in bandwidths)
        # One layer less than levels: h(1) is m(1) itself.
        self.layers = nn.ModuleList(nn.Linear(hidden_dim, hidden_dim) for _ in bandwidths[1:])
        self.to_values = nn.ModuleList(nn.Linear(hidden_dim, channels) for _ in bandwidths)

    def decoding(self, latents: Float[Tensor, "batch tokens latent"]) -> Callable[[Coords], Tensor]:
        # The layers that take m_v are merged with the attention's output projection, see `Attention.readout`.
        first = self.mlp[:1] if self.mlp is not None else self.modulate
        layers = [layer for layer in first if isinstance(layer, nn.Linear)]
        if isinstance(self.aggregate, Attention):
            read = self.aggregate.readout(latents, layers)
        else:
            composed = self.aggregate.layer(latents)

            def read(query: Tensor) -> list[Tensor]:
                vector = composed(query).relu_()
                return [layer(vector) for layer in layers]

        def values(coords: Coords) -> Tensor:
            query = with_batch(self.query(coords))  # eq. 4; [1, N, d] if the batch shares the coordinates
            modulations = read(query)  # W_m m_v of every level, eq. 5 and part of eq. 7
            if self.mlp is not None:
                return self.mlp[1:](modulations[0])
            hidden: Tensor | None = None
            total: Tensor | None = None
            for level, (band, to_values) in enumerate(zip(self.bands, self.to_values, strict=True)):
                modulation = modulations[level].add_(with_batch(band(coords))).relu_()  # eq. 7
                hidden = modulation if hidden is None else self.layers[level - 1](modulation + hidden).relu_()  # eq. 8
                level_values = to_values(hidden)
                total = level_values if total is None else total.add_(level_values)  # eq. 9
            assert total is not None
            return total

        return values
