"""Encoding as an optimisation: clouds of latents fitted to images under a frozen decoder, many images at a time (ARC)."""

import copy
import hashlib
import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.coords import grid_at, pitch
from genrep.decoders.anchored import AnchoredDecoder
from genrep.encoders.anchors import draw_anchors, gradient_norm
from genrep.interpolation import values_at
from genrep.randomness import stream_generator


def points_at_once(device: torch.device) -> int:
    """Pixels that a step computes at a time: so few on a CPU that what lies between two layers stays in its cache."""
    return 2**12 if device.type == "cpu" else 2**20


class Clouds(NamedTuple):
    """Anchors placed on a batch of images.

    Attributes:
        positions: `[B, K, axes]`, in [-1, 1].
        features: `[B, K, z]`, as they start.
        mask: `[B, K]`, which anchors are there; None where all are.
        order: `[B, P]`, the pixels of each image in the order that steps take them in.
        shifts: `[B, draws, P, axes]`, how far from the pixels' centres images are asked for; None is not at all.
    """

    positions: Tensor
    features: Tensor
    mask: Tensor | None
    order: Tensor
    shifts: Tensor | None


class CloudFit(nn.Module):
    """Images to clouds: anchors drawn by the gradient, and features that Adam fits, the decoder left as it is.

    What is random about an image (its anchors, where its features start, the order of its pixels) depends on `seed` and on
    its values alone: so it has one encoding, whatever it is encoded beside, and with it its cloud ends as it would alone.

    Args:
        num_tokens: K, the anchors of an image.
        latent_dim: axes + width of a feature.
        steps: of Adam.
        lr: its rate.
        schedule: `constant`, or `cosine` down to 0.
        parts: the pixels, shuffled, are cut into so many parts; a step sees one of them, in turn.
        coords: where an image is compared: `grid`, at the centres of its pixels, or `uniform`, anywhere in them, with the
            image interpolated there: then what is rendered between the pixels fits too.
        draws: so many places in each pixel are drawn, of `uniform`, and steps take them in turn.
        start: features start uniform in ± this.
        jitter: anchors lie anywhere in their pixels in place of at their centres.
        flat: where fewer pixels than anchors have a gradient, anchors are drawn from the others too (`filled`), or those
            that lack are not there (`masked`).
        seed: of all draws.
    """

    def __init__(
        self,
        num_tokens: int,
        latent_dim: int,
        *,
        steps: int,
        lr: float,
        schedule: str,
        parts: int,
        coords: str,
        draws: int,
        start: float,
        jitter: bool,
        flat: str,
        seed: int,
    ):
        super().__init__()
        self.num_tokens, self.latent_dim = num_tokens, latent_dim
        self.steps, self.lr, self.schedule, self.parts = steps, lr, schedule, parts
        self.draws = draws if coords == "uniform" else 0
        self.start, self.jitter, self.flat, self.seed = start, jitter, flat, seed

    @torch.no_grad()
    def forward(
        self, values: Float[Tensor, "batch observed *shape"], decoder: AnchoredDecoder
    ) -> tuple[Float[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"] | None]:
        """Clouds of images. One channel more than the values' own says where they are there."""
        dtype = torch.promote_types(values.dtype, torch.float32)  # Adam's steps are too small for bf16
        latents, masks = [], []
        for images in self.split(values):
            clouds = self.place(images, decoder)
            features = fit(self, images.to(dtype), clouds, decoder)
            latents.append(torch.cat([clouds.positions.to(dtype), features], dim=-1).to(values.dtype))
            masks += [] if clouds.mask is None else [clouds.mask]
        return torch.cat(latents), torch.cat(masks) if masks else None

    def split(self, values: Float[Tensor, "batch observed *shape"]) -> tuple[Tensor, ...]:
        """Images in groups that are fitted together: whole images, as many as a step should compute at a time."""
        pixels_a_step = math.prod(values.shape[2:]) / self.parts
        return values.split(max(1, int(points_at_once(values.device) / pixels_a_step)))

    def place(self, values: Float[Tensor, "batch observed *shape"], decoder: AnchoredDecoder) -> Clouds:
        """Anchors on images, as many as the decoder looks at or more on each, and where their features start. Drawn on the CPU, whatever the device."""
        shape, device = values.shape[2:], values.device
        values = values.detach().float().cpu()
        norms = gradient_norm(values[:, : decoder.channels])
        if values.shape[1] > decoder.channels:  # no anchors where nothing is known
            norms = norms * values[:, decoder.channels]
        positions, features, masks, orders, all_shifts = [], [], [], [], []
        pixel = torch.tensor(pitch(shape))
        for image, norm in zip(values, norms.flatten(1), strict=True):
            digest = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
            generator = stream_generator(self.seed, "cloud", int.from_bytes(digest[:8], "big"))
            pixels = draw_anchors(norm, self.num_tokens, generator)
            places = grid_at(pixels, shape)
            shifts = torch.rand(places.shape, generator=generator).sub_(0.5) * pixel
            positions.append(places + shifts if self.jitter else places)
            drawn = torch.rand(self.num_tokens, self.latent_dim - len(shape), generator=generator)
            features.append((2 * drawn - 1) * self.start)
            orders.append(torch.randperm(len(norm), generator=generator))
            if self.draws:
                drawn = torch.rand(self.draws, len(norm), len(shape), generator=generator)
                all_shifts.append((drawn - 0.5) * pixel)
            there = norm[pixels] > 0
            masks.append(there | (there.logical_not().cumsum(0) <= decoder.num_neighbours - int(there.sum())))
        return Clouds(
            torch.stack(positions).to(device),
            torch.stack(features).to(device),
            torch.stack(masks).to(device) if self.flat == "masked" else None,
            torch.stack(orders).to(device),
            torch.stack(all_shifts).to(device) if self.draws else None,
        )

    def rate(self, step: int) -> float:
        """Adam's rate after `step` steps."""
        return self.lr if self.schedule == "constant" else self.lr * 0.5 * (1 + math.cos(math.pi * step / self.steps))


class Part:
    """Pixels that a step computes at a time, of some images: what depends neither on features nor on the decoder.

    Attributes:
        rows: `[N, n]`, the row of the table of `CloudFit`'s products that each neighbour of a pixel has.
        pixels, starts: the pixels that use each row, one row's after the other, and where each row's begin.
        offsets: `[N, n * axes + 1]`, where a pixel's neighbours lie, and a one.
        targets: `[N, C]`.
        weights: `[N, C]`, of the squared errors: each image's mean, so that images do not influence each other.
    """

    def __init__(self, num_rows: int, rows: Tensor, offsets: Tensor, targets: Tensor, weights: Tensor):
        self.rows = rows.int()
        used, order = rows.flatten().sort()
        self.pixels = order.div(rows.shape[1], rounding_mode="floor").int()
        self.starts = torch.searchsorted(used, torch.arange(num_rows, device=rows.device)).int()
        self.offsets, self.targets, self.weights = F.pad(offsets, (0, 1), value=1.0), targets, weights


def cut_into_parts(fitting: CloudFit, values: Tensor, clouds: Clouds, decoder: AnchoredDecoder) -> list[list[Part]]:
    """For each step, until they come round again, its pixels: in pieces, where one image has more of them than are computed at a time."""
    shape, batch, count = values.shape[2:], len(values), decoder.num_neighbours
    num_rows = batch * fitting.num_tokens * count
    nearest = decoder.nearest(clouds.positions, clouds.mask)
    may_miss = values.shape[1] > decoder.channels
    known = values[:, : decoder.channels]
    if may_miss:
        known = torch.where(values[:, decoder.channels :] > 0, known, torch.nan)
    first = torch.arange(batch, device=values.device)[:, None, None] * fitting.num_tokens
    steps = []
    for draw, chosen in itertools.product(range(fitting.draws or 1), clouds.order.tensor_split(fitting.parts, dim=1)):
        pieces = []
        for pixels in chosen.split(max(1, 16 * points_at_once(values.device) // batch), dim=1):
            coords = grid_at(pixels.flatten(), shape).unflatten(0, pixels.shape)
            if clouds.shifts is not None:
                coords = coords + clouds.shifts[:, draw].gather(1, pixels[..., None].expand_as(coords))
            index = nearest(coords)
            anchors = clouds.positions.flatten(0, 1)[index + first]
            offsets = decoder.offsets(coords, anchors).flatten(2).to(values.dtype)
            rows = (index + first) * count + torch.arange(count, device=values.device)
            targets = values_at(known, coords, "nearest" if clouds.shifts is None else "bicubic", may_miss)
            weights = targets.isfinite().to(values.dtype) / (chosen.shape[1] * decoder.channels)
            parts = [part.flatten(0, 1) for part in (rows, offsets, targets.nan_to_num(), weights)]
            pieces.append(Part(num_rows, *parts))
        steps.append(pieces)
    return steps


class _SumOfRows(torch.autograd.Function):
    """For each pixel the sum of its rows of a table; the gradient of a row is the sum over the pixels that use it."""

    @staticmethod
    def forward(ctx, table: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return F.embedding_bag(part.rows, table, mode="sum")

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # autograd's own adds row by row, ten times slower
        return F.embedding_bag(ctx.part.pixels, gradient.contiguous(), ctx.part.starts, mode="sum"), None


def first_layer(decoder: AnchoredDecoder, width: int) -> tuple[Tensor, Tensor]:
    """The first layer's weights, cut in two: features `[z, n * hidden]`, and offsets with the bias `[n * axes + 1, hidden]`.

    The layer is a sum over neighbours of W_j w_j, and of what the offsets say. So the product of every anchor's feature
    with every W_j is made once a step, and each pixel adds up those of its neighbours: with five anchors in a hundred
    pixels, and a quarter of the pixels a step, it takes a fifth of the products of every pixel with every neighbour.
    """
    first, count = decoder.mlp[0], decoder.num_neighbours
    assert isinstance(first, nn.Linear)
    of_features, of_offsets = first.weight.split([count * width, first.in_features - count * width], dim=1)
    to_table = of_features.unflatten(1, (count, width)).permute(2, 1, 0).flatten(1)
    return to_table, torch.cat([of_offsets, first.bias[:, None]], dim=1).T


def loss_of_part(
    decoder: AnchoredDecoder, features: Float[Tensor, "batch tokens feature"], part: Part
) -> Float[Tensor, ""]:
    """Squared errors at the pixels of a part: over all parts of a step, the sum of the images' mean squared errors."""
    to_table, of_offsets = first_layer(decoder, features.shape[2])
    table = (features.flatten(0, 1) @ to_table).view(-1, len(of_offsets.T))  # [B * K * n, hidden]
    values = decoder.mlp[1:](torch.addmm(_SumOfRows.apply(table, part), part.offsets, of_offsets))
    return ((values - part.targets).square() * part.weights).sum()


def fit(
    fitting: CloudFit, values: Tensor, clouds: Clouds, decoder: AnchoredDecoder
) -> Float[Tensor, "batch tokens feature"]:
    """Features after all steps of Adam on `loss_of_part`, whose gradient is written out here: autograd takes half as long again."""
    decoder = copy.deepcopy(decoder).to(values.dtype).requires_grad_(False)
    steps = cut_into_parts(fitting, values, clouds, decoder)
    to_table, of_offsets = (part.contiguous() for part in first_layer(decoder, clouds.features.shape[2]))
    others = [layer for layer in decoder.mlp[1:] if isinstance(layer, nn.Linear)]
    features = clouds.features.to(values.dtype).flatten(0, 1).clone()  # [B * K, z]
    optimizer = torch.optim.Adam([features], lr=fitting.lr, fused=True)
    for step in range(fitting.steps):
        table = (features @ to_table).view(-1, of_offsets.shape[1])  # [B * K * n, hidden]
        gradient = torch.zeros_like(features)
        for part in steps[step % len(steps)]:
            hidden = [F.embedding_bag(part.rows, table, mode="sum").addmm_(part.offsets, of_offsets)]
            for layer in others:
                hidden.append(layer(hidden[-1].clamp_(min=0)))
            slope = hidden.pop().sub_(part.targets).mul_(2 * part.weights)
            for layer in reversed(others):
                slope = slope @ layer.weight
                slope.mul_(hidden.pop().sign_())  # ReLU: 1 where it let pass, 0 elsewhere
            of_table = F.embedding_bag(part.pixels, slope, part.starts, mode="sum")
            gradient.addmm_(of_table.view(len(features), -1), to_table.T)
        features.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = fitting.rate(step)
        optimizer.step()
    return features.view_as(clouds.features)
