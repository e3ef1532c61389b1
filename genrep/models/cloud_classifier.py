"""Classifiers of latent sets whose tokens have positions: point transformers on anchored clouds (ARC, section 3.3)."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import CloudClassifierSpec
from genrep.nn.clouds import (
    Cloud,
    farthest_points,
    gather,
    grid_cells,
    interleave,
    lexicographic_order,
    nearest,
    pool_cells,
)
from genrep.nn.sines import full_precision
from genrep.specs import from_arguments

CURVE_BITS = 16
"""Bits per axis of a position along the curve. With extent 2, a step of it is 1/32,768 of the image, finer than any pixel."""


MOST_POINTS = 4096
"""Points of the largest cloud for `neighbours`, whose memory grows with the square of their number."""


def _lowest(dtype: torch.dtype) -> float:
    """A logit whose weight is 0, finite also when others are added to it."""
    return torch.finfo(dtype).min / 2


class NeighbourAttention(nn.Module):
    """Vector attention over a point's nearest neighbours (Point Transformer, eq. 3):

        y_i = Σ_j softmax_j(γ(φ(x_i) - ψ(x_j) + δ_ij)) ⊙ (α(x_j) + δ_ij),    δ_ij = θ(p_i - p_j)

    Positions enter only as differences, so shifting the cloud changes nothing.
    """

    def __init__(self, dim: int, num_axes: int, neighbours: int):
        super().__init__()
        self.neighbours = neighbours
        self.norm = nn.LayerNorm(dim)
        self.query, self.key, self.value = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.position = nn.Sequential(nn.Linear(num_axes, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.weight = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.out = nn.Linear(dim, dim)

    def forward(self, cloud: Cloud, spacing: float) -> Float[Tensor, "batch points dim"]:
        features = self.norm(cloud.features)
        indices, present = nearest(cloud.positions, cloud, self.neighbours, spacing)
        offsets = (cloud.positions[:, :, None] - gather(cloud.positions, indices)) / spacing
        offsets = offsets.masked_fill(~present[..., None], 0).to(features.dtype)
        encoded = self.position(offsets)
        logits = self.weight(self.query(features)[:, :, None] - gather(self.key(features), indices) + encoded)
        # -inf would make NaN of a cloud without points
        weights = logits.masked_fill(~present[..., None], _lowest(logits.dtype)).softmax(dim=2)
        values = gather(self.value(features), indices) + encoded
        return cloud.features + self.out((weights * values).sum(2))


class PatchAttention(nn.Module):
    """Attention within patches of points that are consecutive along a space-filling curve (Point Transformer V3).

    The curve runs through a fixed grid, so the patches depend on the absolute positions of the points. A bias computed from
    the differences of positions is added to the logits, and a depthwise convolution over the grid's cells encodes positions.
    """

    def __init__(
        self, dim: int, num_axes: int, num_heads: int, patch: int, bits: int, turned: bool, extent: float = 2.0
    ):
        super().__init__()
        self.num_heads, self.patch, self.bits, self.turned, self.extent = num_heads, patch, bits, turned, extent
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[num_axes]
        self.neighbourhood = convolution(dim, dim, 3, padding=1, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.to_qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.bias = nn.Sequential(nn.Linear(num_axes, 16), nn.GELU(), nn.Linear(16, num_heads))

    def forward(self, cloud: Cloud, spacing: float) -> Float[Tensor, "batch points dim"]:
        cells = grid_cells(cloud.positions, 2**self.bits, -self.extent, self.extent)
        features = cloud.features + self._convolved(cloud, cells)
        # order along the curve, absent points last; in every second block the curve takes the axes in reverse order
        fine = grid_cells(
            cloud.positions, 2**CURVE_BITS, -self.extent, self.extent
        )  # finer than the cells, so that no two points tie
        code = interleave(fine.flip(-1) if self.turned else fine, CURVE_BITS)
        order = code.masked_fill(~cloud.mask, torch.iinfo(torch.int64).max).argsort(dim=1, stable=True)
        points = features.shape[1]
        size = min(self.patch, points)
        padding = -points % size
        ordered = F.pad(gather(features, order), (0, 0, 0, padding)).unflatten(1, (-1, size))  # [B, patches, P, dim]
        positions = F.pad(gather(cloud.positions, order), (0, 0, 0, padding)).unflatten(1, (-1, size))
        present = F.pad(cloud.mask.gather(1, order), (0, padding)).unflatten(1, (-1, size))
        query, key, value = (
            part.unflatten(-1, (self.num_heads, -1)).transpose(2, 3)
            for part in self.to_qkv(self.norm(ordered)).chunk(3, dim=-1)
        )
        offsets = (positions[:, :, :, None] - positions[:, :, None]) / spacing
        bias = self.bias(offsets.to(query.dtype)).movedim(-1, 2)
        bias = bias.masked_fill(~present[:, :, None, None], _lowest(query.dtype))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        attended = self.out(attended.transpose(2, 3).flatten(3)).flatten(1, 2)[:, :points]
        back = order.argsort(dim=1)
        return features + gather(attended, back)

    def _convolved(self, cloud: Cloud, cells: Tensor) -> Tensor:
        """Mean features of the cells, convolved over the grid and looked up for every point."""
        batch, _, axes = cells.shape
        side = 2**self.bits
        powers = side ** torch.arange(axes - 1, -1, -1, device=cells.device)
        flat = (cells * powers).sum(-1)
        weights = cloud.mask.to(cloud.features.dtype)[..., None]
        dim = cloud.features.shape[-1]
        index = flat[..., None].expand(-1, -1, dim)
        maps = cloud.features.new_zeros(batch, side**axes, dim).scatter_add(1, index, cloud.features * weights)
        counts = cloud.features.new_zeros(batch, side**axes, 1).scatter_add(1, flat[..., None], weights)
        maps = (maps / counts.clamp(min=1)).transpose(1, 2).unflatten(2, (side,) * axes)
        return gather(self.neighbourhood(maps).flatten(2).transpose(1, 2), flat)


class Block(nn.Module):
    """Attention between points, then a feed-forward layer, both residual."""

    def __init__(self, attention: nn.Module, dim: int):
        super().__init__()
        self.attention = attention
        self.mlp = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, cloud: Cloud, spacing: float) -> Cloud:
        features = self.attention(cloud, spacing)
        return cloud._replace(features=features + self.mlp(features))


class CloudClassifier(StrictLoading, ModelMixin, ConfigMixin):
    """Clouds to class logits. The input features are the tokens' features; positions are not among them (ARC, section 3.3).

    Args:
        num_tokens: points of the cloud of an image that covers [-1, 1], so that the unit of distances is that between
            points, 2 / num_tokens^(1 / axes). Other clouds may have more or fewer.
        latent_dim: numbers in a token, the position included.
        position_dim: how many of them, at the start, are the position; 1 to 3.
        num_classes: number of classes.
        attention: `neighbours`, attention among nearest neighbours and thinning to farthest points, both invariant to
            shifts of the cloud (Point Transformer, Zhao et al. 2021); or `grid`, attention along a curve and pooling over
            the cells of a fixed grid (Point Transformer V3, Wu et al. 2024).
        widths: width of each stage; between stages the cloud is thinned or pooled.
        depths: blocks in each stage.
        neighbours: for `neighbours`: nearest points that a point attends to, itself included.
        patch: for `grid`: points that attend to each other.
        num_heads: for `grid`: attention heads.
        dropout: dropout before the last layer.
        extent: for `grid`: its range, [-extent, extent] along every axis: the images, and a margin for shifted clouds. Points
            outside are in the outermost cells.

    Raises:
        InputError: for an unknown key, a wrong type, or an impossible value; in a forward pass of `neighbours`, for clouds of
            more than 4,096 points.
    """

    @register_to_config
    def __init__(
        self,
        num_tokens: int,
        latent_dim: int,
        position_dim: int,
        num_classes: int,
        attention: str = "neighbours",
        widths: Sequence[int] = (64, 128, 256),
        depths: Sequence[int] = (1, 2, 2),
        neighbours: int = 16,
        patch: int = 32,
        num_heads: int = 8,
        dropout: float = 0.3,
        extent: float = 2.0,
    ):
        super().__init__()
        self.spec = spec = from_arguments(CloudClassifierSpec, locals(), where="CloudClassifier")
        self.feature_mean: Tensor
        self.feature_std: Tensor
        self.register_buffer("feature_mean", torch.zeros(latent_dim - position_dim))
        self.register_buffer("feature_std", torch.ones(latent_dim - position_dim))
        self.embed = nn.Linear(latent_dim - position_dim, widths[0])
        self.stages, self.joins = nn.ModuleList(), nn.ModuleList()
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            if stage:
                self.joins.append(nn.Sequential(nn.LayerNorm(widths[stage - 1]), nn.Linear(widths[stage - 1], width)))
            attentions = [self._attention(spec, width, stage, turned=block % 2 == 1) for block in range(depth)]
            self.stages.append(nn.ModuleList(Block(attention, width) for attention in attentions))
        self.norm = nn.LayerNorm(widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def _attention(self, spec: CloudClassifierSpec, width: int, stage: int, turned: bool) -> nn.Module:
        if spec.attention == "neighbours":
            return NeighbourAttention(width, spec.position_dim, spec.neighbours)
        bits = self._bits(stage)
        return PatchAttention(width, spec.position_dim, spec.num_heads, spec.patch, bits, turned, spec.extent)

    def _bits(self, stage: int) -> int:
        """Bits of a cell's index along an axis: at first about one point per cell; cells twice as wide in every further stage."""
        per_axis = self.spec.num_tokens ** (1 / self.spec.position_dim)
        return max(1, math.ceil(math.log2(per_axis * self.spec.extent)) - stage)

    def set_statistics(self, mean: Float[Tensor, " features"], std: Float[Tensor, " features"]) -> None:
        """Set the mean and standard deviation that features are standardised with; they are saved with the weights."""
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(std.clamp(min=1e-12))

    def features(
        self, latents: Float[Tensor, "batch tokens latent"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch features"]:
        """Clouds => features: the normalised mean over the last stage's points."""
        axes = self.spec.position_dim
        # positions in float32 also in a half-precision model: their squared distances would be rounded, or overflow
        positions, features = latents[..., :axes].to(full_precision(latents.dtype)), latents[..., axes:]
        mask = torch.ones(latents.shape[:2], dtype=torch.bool, device=latents.device) if mask is None else mask
        positions = positions.masked_fill(~mask[..., None], 0)
        embedded = self.embed((features - self.feature_mean) / self.feature_std)
        cloud = Cloud(positions, embedded.masked_fill(~mask[..., None], 0), mask)
        if self.spec.attention == "neighbours":
            if latents.shape[1] > MOST_POINTS:
                raise InputError(
                    f"attention neighbours compares all pairs of points, up to {MOST_POINTS:,} points; got clouds of "
                    f"{latents.shape[1]:,}: use attention grid"
                )
            order = lexicographic_order(cloud)
            cloud = Cloud(gather(positions, order), gather(cloud.features, order), mask.gather(1, order))
        spacing = 2 / self.spec.num_tokens ** (1 / axes)
        for stage, blocks in enumerate(self.stages):
            if stage:
                spacing *= 2 ** (1 / axes) if self.spec.attention == "neighbours" else 2
                cloud = self._joined(cloud, stage, spacing)
            for block in blocks.children():
                cloud = block(cloud, spacing)
        weights = cloud.mask.to(latents.dtype)[..., None]
        return self.norm((cloud.features * weights).sum(1) / weights.sum(1).clamp(min=1))

    def _joined(self, cloud: Cloud, stage: int, spacing: float) -> Cloud:
        """The points of the next stage: half of them, spread out, with their neighbours' maximum; or one per cell."""
        cloud = cloud._replace(features=self.joins[stage - 1](cloud.features))
        if self.spec.attention == "grid":
            bits = self._bits(stage)
            cells = grid_cells(cloud.positions, 2**bits, -self.spec.extent, self.spec.extent)
            return pool_cells(cloud, cells, 2**bits)
        indices, mask = farthest_points(cloud, (cloud.mask.sum(1) + 1) // 2, spacing)
        positions = gather(cloud.positions, indices)
        neighbours, present = nearest(positions, cloud, self.spec.neighbours, spacing)
        pooled = gather(cloud.features, neighbours).masked_fill(~present[..., None], -torch.inf).amax(2)
        return Cloud(positions, pooled.masked_fill(~mask[..., None], 0), mask)

    def forward(
        self, latents: Float[Tensor, "batch tokens latent"], mask: Bool[Tensor, "batch tokens"] | None = None
    ) -> Float[Tensor, "batch classes"]:
        return self.head(self.dropout(self.features(latents, mask)))
