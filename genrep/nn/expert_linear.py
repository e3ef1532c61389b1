"""The expert linear layer of Levels-of-Experts: a Linear whose weight depends on where a point lies (LoE, eqs. 3 to 5).

`plain_expert_linear` is the definition. It holds one matrix per point: 274 GB for 512×512 points of 512 channels.
`ExpertLinear` computes the same with one product per tile, on points in the order that `PointOrder` plans.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from genrep.nn.point_order import BlendedSegments, EqualSegments, LayerOrder, Segments, permute
from genrep.nn.tiling import Tiling

SMALL_MATRIX = 2**14
"""Largest weight matrix, in numbers (here 128 × 128, 64 KiB in float32), for which the gradients of all segments of a tile
are computed in one batched product and then summed."""

GROUPED_MM_DTYPES: dict[str, tuple[torch.dtype, ...]] = {"cuda": (torch.bfloat16,)}
"""By device type, the dtypes for which torch's `grouped_mm` is a single kernel; see `_uses_grouped_mm`."""


def plain_expert_linear(
    values: Float[Tensor, "points batch inputs"],
    coords: Float[Tensor, "points axes"],
    weight: Float[Tensor, "tiles outputs inputs"],
    bias: Float[Tensor, " outputs"],
    tiling: Tiling,
) -> Float[Tensor, "points batch outputs"]:
    """y = W(p) x + bias, written out: the reference for the values and gradients of `ExpertLinear`.

    W(p) is the matrix of the point's tile (eq. 5) or, with linear blending, the weighted sum of the tiles around it (eq. 4).
    """
    if tiling.blending == "nearest":
        matrices = weight[tiling.index(coords)]
    else:
        corners = [weight[tile] * share[:, None, None] for tile, share in tiling.corners(coords)]
        matrices = torch.stack(corners).sum(0)
    return torch.einsum("noi,nbi->nbo", matrices, values) + bias


class ExpertLinear(nn.Module):
    """A Linear with one weight matrix per tile, or a blend of neighbouring ones, and one bias for all (LoE eqs. 3 to 5).

    Matrices are initialised with Kaiming's uniform distribution for leaky ReLU of slope 0.2, the bias with 0 (supplement A).
    With `start="equal"` all matrices share one draw, so that the layer starts as a plain Linear.
    """

    def __init__(self, in_features: int, out_features: int, tiling: Tiling, start: str = "apart"):
        super().__init__()
        self.tiling = tiling
        self.weight = nn.Parameter(torch.empty(tiling.num_tiles, out_features, in_features))
        self.bias = nn.Parameter(torch.zeros(out_features))
        # One matrix at a time: for the whole [tiles, outputs, inputs] tensor torch would take outputs × inputs as the fan-in.
        for matrix in self.weight.unbind():
            nn.init.kaiming_uniform_(matrix, a=0.2)
        if start == "equal":
            with torch.no_grad():
                self.weight.copy_(self.weight[:1].clone())

    def forward(
        self, values: Float[Tensor, "points batch inputs"], order: LayerOrder
    ) -> Float[Tensor, "points batch outputs"]:
        """Apply the layer to points in `order`, the entry of `PointOrder.layers` for this layer."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if torch.is_autocast_enabled(values.device.type) and values.dtype != torch.float64:
            dtype = torch.get_autocast_dtype(values.device.type)  # autocast does not reach into an autograd.Function
            values, weight, bias = values.to(dtype), weight.to(dtype), bias.to(dtype)
        if not isinstance(order, BlendedSegments):
            return _TileProducts.apply(values, weight, bias, order)
        # Eq. 4 by linearity: (Σ_j B_j W_j) x = Σ_j W_j (B_j x), one layer of nearest tiles per corner j. The bias belongs
        # to no tile, so it is added once.
        total: Tensor = bias
        for permutation, segments, share in order.corners:
            weighted = permute(values * share[:, None, None].to(values.dtype), permutation)
            product = _TileProducts.apply(weighted, weight, None, segments)
            total = total + permute(product, permutation.inverse)
        return total


class _TileProducts(torch.autograd.Function):
    """Multiplies every block of points with the matrix of its tile and writes the result in place, without copying values.

    The backward pass is explicit because autograd would allocate a gradient of all points for each tile's view.
    """

    @staticmethod
    def forward(ctx, values, weight, bias, order):
        values = values.contiguous()  # blocks are views, which rely on these strides
        ctx.save_for_backward(values, weight)
        ctx.order, ctx.has_bias = order, bias is not None
        if _uses_grouped_mm(values, weight, order):
            tiles, ends = order.segments
            matrices = weight.index_select(0, tiles).transpose(1, 2)
            # Segments are counted in points; a point has one row per signal of the batch.
            out = F.grouped_mm(values.flatten(0, 1), matrices, offs=ends * values.shape[1])
            out = out if bias is None else out.add_(bias)
            return out.unflatten(0, values.shape[:2])
        out = values.new_empty(*values.shape[:2], weight.shape[1])
        for (tile, block), (_, result) in zip(order.input_blocks(values), order.output_blocks(out), strict=True):
            matrices = weight[tile].T.expand(len(block), -1, -1)
            # `out=` writes through the strided view, so nothing has to be scattered afterwards.
            if bias is None:
                torch.bmm(block, matrices, out=result)
            else:
                torch.baddbmm(bias, block, matrices, out=result)
        return out

    # Once is enough: R1 differentiates twice, but only through discriminators.
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
    """The gradients of values and weight, one tile at a time."""
    to_values = to_weight = None
    if of_values:
        to_values = torch.empty_like(values)
        for (tile, upstream), (_, result) in zip(
            order.output_blocks(gradient), order.input_blocks(to_values), strict=True
        ):
            torch.bmm(upstream, weight[tile].expand(len(upstream), -1, -1), out=result)
    if of_weight:
        # Summed in float32 or better: thousands of products, one per point of the tile, do not add up in bfloat16's 8 bits.
        to_weight = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        for (tile, block), (_, upstream) in zip(order.input_blocks(values), order.output_blocks(gradient), strict=True):
            result = to_weight[tile]
            # One batched product and the sum of its matrices: a single launch on a GPU, and less overhead as long as the
            # matrices fit a CPU's cache. Larger ones are accumulated in place, segment by segment.
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
    """Whether `grouped_mm` computes the products of all tiles in one launch; otherwise there is one launch per tile.

    Its requirements, as of torch 2.11: bfloat16, an NVIDIA GPU of compute capability 9 or 10, rows whose size is a multiple
    of 16 bytes, fewer than 1,024 groups, and segments that are read and written in the same order.
    """
    rows, (_, outputs, inputs) = values.shape[0] * values.shape[1], weight.shape
    if rows == 0 or values.dtype not in GROUPED_MM_DTYPES.get(values.device.type, ()):
        return False
    # On other GPUs torch itself loops, and waits for the GPU to read the offsets: worse than our loop.
    if values.is_cuda and (
        torch.version.cuda is None or torch.cuda.get_device_capability(values.device)[0] not in (9, 10)
    ):
        return False
    if inputs * values.itemsize % 16 or outputs * values.itemsize % 16:  # multiples of 8 channels in bfloat16
        return False
    if not isinstance(order, EqualSegments | Segments) or order.segments is None:
        return False
    # It takes one matrix per segment, so a tile's matrix is copied for each of its segments. Accept that as long as the
    # copies are at most a quarter of the numbers that the product reads and writes anyway.
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
        # One gradient per segment, summed over the segments of each tile in float32, as in `_looped_gradients`.
        of_segments = F.grouped_mm(gradient_rows.T, values.flatten(0, 1), offs=ends)
        total = torch.zeros_like(weight, dtype=torch.promote_types(weight.dtype, torch.float32))
        to_weight = total.index_add_(0, tiles, of_segments.to(total.dtype)).to(weight.dtype)
    return to_values, to_weight
