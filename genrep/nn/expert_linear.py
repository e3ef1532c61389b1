"""The expert linear layer of Levels-of-Experts: a Linear whose weight depends on where a point lies (LoE, eqs. 3 to 5).

`plain_expert_linear` is the definition. It holds a matrix for every point: 274 GB for 512×512 points of 512 channels.
`ExpertLinear` computes the same with one product per tile, on points in the order that `PointOrder` plans.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.nn.point_order import BlendedSegments, EqualSegments, LayerOrder, Segments, permute
from genrep.nn.tiling import Tiling

SMALL_MATRIX = 2**14
"""Numbers of a weight matrix up to which the gradients of a tile's segments are computed together, then summed."""

GROUPED_MM_DTYPES: dict[str, tuple[torch.dtype, ...]] = {"cuda": (torch.bfloat16,)}
"""Of every kind of device, the number types for which torch's `grouped_mm` is one kernel; see `_uses_grouped_mm`."""


def plain_expert_linear(
    values: Float[Tensor, "points batch inputs"],
    coords: Float[Tensor, "points axes"],
    weight: Float[Tensor, "tiles outputs inputs"],
    bias: Float[Tensor, " outputs"],
    tiling: Tiling,
) -> Float[Tensor, "points batch outputs"]:
    """y = W(p) x + bias, written out: what `ExpertLinear` must equal, in values and gradients.

    W(p) is the matrix of the point's tile (eq. 5) or, with linear blending, the sum of those around it (eq. 4).
    """
    if tiling.blending == "nearest":
        matrices = weight[tiling.index(coords)]
    else:
        corners = [weight[tile] * share[:, None, None] for tile, share in tiling.corners(coords)]
        matrices = torch.stack(corners).sum(0)
    return torch.einsum("noi,nbi->nbo", matrices, values) + bias


class ExpertLinear(nn.Module):
    """A Linear whose weight is that of each point's tile, or a blend of them, with one bias for all (LoE eqs. 3 to 5).

    Every matrix starts from Kaiming's uniform distribution for leaky ReLU of slope 0.2, the bias from 0 (supplement A). With
    `start="equal"` all matrices start from the same draw, so that the layer is at first a Linear.
    """

    def __init__(self, in_features: int, out_features: int, tiling: Tiling, start: str = "apart"):
        super().__init__()
        self.tiling = tiling
        self.weight = nn.Parameter(torch.empty(tiling.num_tiles, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        for matrix in self.weight.unbind():
            nn.init.kaiming_uniform_(matrix, a=0.2)
        if start == "equal":
            with torch.no_grad():
                self.weight.copy_(self.weight[:1].clone())

    def forward(
        self, values: Float[Tensor, "points batch inputs"], order: LayerOrder
    ) -> Float[Tensor, "points batch outputs"]:
        """The layer at points in `order`, which is the `PointOrder`'s for this layer."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(values.device.type) and values.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(values.device.type)  # autocast does not see into an autograd.Function
            values, weight, bias = values.to(dtype), weight.to(dtype), bias.to(dtype)
        if not isinstance(order, BlendedSegments):
            return _TileProducts.apply(values, weight, bias, order)
        # Eq. 4 by linearity: (Σ_j B_j W_j) x = Σ_j W_j (B_j x), a layer of nearest tiles for each corner j.
        total: Tensor = bias
        for permutation, segments, share in order.corners:
            weighted = permute(values * share[:, None, None].to(values.dtype), permutation)
            product = _TileProducts.apply(weighted, weight, None, segments)
            total = total + permute(product, permutation.inverse)
        return total


class _TileProducts(torch.autograd.Function):
    """Every block of points times the matrix of its tile, written where it belongs: no values are copied.

    The gradients are written by hand because autograd's of a view per tile would each be an array of all points.
    """

    @staticmethod
    def forward(ctx, values, weight, bias, order):
        values = values.contiguous()
        ctx.save_for_backward(values, weight)
        ctx.order, ctx.has_bias = order, bias is not None
        if _uses_grouped_mm(values, weight, order):
            tiles, ends = order.segments
            matrices = weight.index_select(0, tiles).transpose(1, 2)
            out = F.grouped_mm(values.flatten(0, 1), matrices, offs=ends * values.shape[1])
            out = out if bias is None else out.add_(bias)
            return out.unflatten(0, values.shape[:2])
        out = values.new_empty(*values.shape[:2], weight.shape[1])
        for (tile, block), (_, result) in zip(order.input_blocks(values), order.output_blocks(out), strict=True):
            matrices = weight[tile].T.expand(len(block), -1, -1)
            if bias is None:
                torch.bmm(block, matrices, out=result)
            else:
                torch.baddbmm(bias, block, matrices, out=result)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        values, weight = ctx.saved_tensors
        gradient, order = gradient.contiguous(), ctx.order
        products = _grouped_gradients if _uses_grouped_mm(values, weight, order) else _looped_gradients
        to_values, to_weight = products(values, weight, gradient, order, *ctx.needs_input_grad[:2])
        to_bias = gradient.sum((0, 1)) if ctx.has_bias and ctx.needs_input_grad[2] else None
        return to_values, to_weight, to_bias, None


def _looped_gradients(values, weight, gradient, order, of_values: bool, of_weight: bool):
    """The gradients of values and weight, a tile at a time."""
    to_values = to_weight = None
    if of_values:
        to_values = torch.empty_like(values)
        for (tile, upstream), (_, result) in zip(
            order.output_blocks(gradient), order.input_blocks(to_values), strict=True
        ):
            torch.bmm(upstream, weight[tile].expand(len(upstream), -1, -1), out=result)
    if of_weight:
        # Summed in float32 or better: a tile's points are thousands of products.
        to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for (tile, block), (_, upstream) in zip(order.input_blocks(values), order.output_blocks(gradient), strict=True):
            result = to_weight[tile]
            # One batched product, and the sum of its matrices: a single launch on a GPU, and less overhead while these
            # matrices stay in a CPU's cache. Large ones are added up in place, a segment at a time.
            if block.is_cuda or (len(block) > 1 and result.numel() <= SMALL_MATRIX):
                result += torch.bmm(upstream.transpose(1, 2), block).sum(0, dtype=result.dtype)
                continue
            for rows, upstream_rows in zip(block, upstream, strict=True):
                result.addmm_(upstream_rows.T.to(result.dtype), rows.to(result.dtype))
        to_weight = to_weight.to(weight.dtype)
    return to_values, to_weight


def _uses_grouped_mm(
    values: Float[Tensor, "points batch inputs"], weight: Float[Tensor, "tiles outputs inputs"], order: LayerOrder
) -> bool:
    """Whether `grouped_mm` does the products of all tiles in one launch; else each tile is a launch of its own.

    What it needs, from torch 2.11 on: bfloat16, and an NVIDIA GPU of compute capability 9 or 10 (elsewhere torch itself
    loops, and waits for the GPU to read the offsets: worse than our loop); rows in multiples of 16 bytes, so 8 channels in
    bfloat16; below 1,024 groups; segments that are read and written in one order.

    It wants a matrix per segment, so the tiles' matrices are copied for every segment they come again in. That is done
    while the copies are no more than a quarter of the numbers that are read and written anyway.
    """
    rows, (_, outputs, inputs) = values.shape[0] * values.shape[1], weight.shape
    if rows == 0 or values.dtype not in GROUPED_MM_DTYPES.get(values.device.type, ()):
        return False
    if values.is_cuda and (
        torch.version.cuda is None or torch.cuda.get_device_capability(values.device)[0] not in (9, 10)
    ):
        return False
    if inputs * values.itemsize % 16 or outputs * values.itemsize % 16:
        return False
    if not isinstance(order, EqualSegments | Segments) or order.segments is None:
        return False
    num_segments = len(order.segments[0])
    return num_segments < 1024 and 4 * num_segments * inputs * outputs <= rows * (inputs + outputs)


def _grouped_gradients(values, weight, gradient, order, of_values: bool, of_weight: bool):
    """The gradients of values and weight, all segments at once."""
    tiles, ends = order.segments
    ends, gradient_rows = ends * values.shape[1], gradient.flatten(0, 1)
    to_values = to_weight = None
    if of_values:
        to_values = F.grouped_mm(gradient_rows, weight.index_select(0, tiles), offs=ends).view_as(values)
    if of_weight:
        of_segments = F.grouped_mm(gradient_rows.T, values.flatten(0, 1), offs=ends)
        total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        to_weight = total.index_add_(0, tiles, of_segments.to(total.dtype)).to(weight.dtype)
    return to_values, to_weight
