"""Encoding by optimisation: clouds of latents are fitted to images under a frozen decoder, many images at a time (ARC)."""

import copy
import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from genrep.coords import grid_at, pitch, region_of
from genrep.decoders.anchored import AnchoredDecoder
from genrep.encoders import num_anchors
from genrep.encoders.anchors import beside_missing, draw_anchors, gradient_norm
from genrep.errors import InputError
from genrep.interpolation import values_at
from genrep.randomness import stream_generator


def points_at_once(device: torch.device) -> int:
    """Pixels that a step computes at a time; on a CPU, few enough for the activations to stay in its cache."""
    return 2**12 if device.type == "cpu" else 2**20


class Clouds(NamedTuple):
    """Anchors placed on a batch of images.

    Attributes:
        positions: `[B, K, axes]`, in the region that the images cover.
        features: `[B, K, z]`, their initial values.
        mask: `[B, K]`, True for anchors that are present; None if all are.
        order: `[B, P]`, the pixels of each image, shuffled; steps take them in this order.
        shifts: `[B, draws, P, axes]`, from the pixels' centres to the points at which images are compared; None for 0.
    """

    positions: Tensor
    features: Tensor
    mask: Tensor | None
    order: Tensor
    shifts: Tensor | None


class CloudFit(nn.Module):
    """Images to clouds: anchors are drawn by the image's gradient; features are fitted with Adam under the frozen decoder.

    Everything random about an image (its anchors, its initial features, the order of its pixels) depends only on `seed`,
    the image's values and the number of the fit. So an image has one encoding per number, whatever batch it is in.

    An image may have another size than the model's. Its pixels keep the size of the model's pixels, and it is centred at 0,
    so it covers less or more than [-1, 1] (`genrep.coords.region_of`), and the decoder sees the offsets of its training.

    Args:
        num_tokens: K, the number of anchors of an image; with `share`, the size that its set is padded to.
        latent_dim: the number of axes plus the width of a feature.
        image_shape: size of the images that cover [-1, 1], one length per axis.
        share: anchors per pixel; None gives every image `num_tokens`.
        steps: steps of Adam.
        lr, betas: Adam's learning rate and averaging factors.
        schedule: `constant`; `cosine`, half a cosine down to 0; or `trapezoid`, constant for two thirds of the steps, then
            linear down to 0.
        parts: number of parts that the shuffled pixels are cut into; steps take the parts in turn.
        coords: where the render is compared with the image: `grid`, at the pixel centres; or `uniform`, anywhere within
            the pixels, with the image interpolated there, so that renders are also right between the pixel centres.
        draws: for `uniform`, the number of points drawn in every pixel; steps take them in turn.
        start: features start uniform in [-start, start].
        penalty: weight of the mean squared feature in the loss.
        jitter: place anchors anywhere within their pixels instead of at the centres.
        flat: what to do if fewer pixels than anchors have a gradient: `filled` draws the remaining anchors from the flat
            pixels, `masked` masks them.
        seed: seed of all random numbers.
    """

    def __init__(
        self,
        num_tokens: int,
        latent_dim: int,
        image_shape: tuple[int, ...],
        *,
        share: float | None = None,
        steps: int,
        lr: float,
        betas: Sequence[float],
        schedule: str,
        parts: int,
        coords: str,
        draws: int,
        start: float,
        penalty: float,
        jitter: bool,
        flat: str,
        seed: int,
    ):
        super().__init__()
        self.num_tokens, self.latent_dim = num_tokens, latent_dim
        self.image_shape, self.share = tuple(image_shape), share
        self.steps, self.lr, self.schedule, self.parts = steps, lr, schedule, parts
        self.betas = (betas[0], betas[1])
        self.draws = draws if coords == "uniform" else 0
        self.start, self.penalty, self.jitter, self.flat, self.seed = start, penalty, jitter, flat, seed

    @torch.no_grad()
    def forward(
        self, values: Float[Tensor, "batch observed *shape"], decoder: AnchoredDecoder, number: int = 0
    ) -> tuple[Float[Tensor, "batch tokens latent"], Bool[Tensor, "batch tokens"] | None]:
        """Latents of images, and their mask or None. A channel after the decoder's channels says which values are present.

        Fits of other numbers have other anchors, initial features and orders of the pixels. InputError for images with too few
        pixels, or with more anchors than `num_tokens`.
        """
        dtype = torch.promote_types(values.dtype, torch.float32)  # Adam's steps are too small for bf16
        latents, masks = [], []
        for images in self.split(values):
            clouds = self.place(images, decoder, number)
            with torch.autocast(values.device.type, enabled=False):
                features = fit(self, images.to(dtype), clouds, decoder)
            latents.append(torch.cat([clouds.positions.to(dtype), features], dim=-1).to(values.dtype))
            masks += [] if clouds.mask is None else [clouds.mask]
        sets, mask = torch.cat(latents), torch.cat(masks) if masks else None
        if self.share is None:
            return sets, mask
        padding = self.num_tokens - sets.shape[1]
        mask = torch.ones(sets.shape[:2], dtype=torch.bool, device=sets.device) if mask is None else mask
        return F.pad(sets, (0, 0, 0, padding)), F.pad(mask, (0, padding), value=False)

    def num_anchors(self, shape: Sequence[int], decoder: AnchoredDecoder) -> int:
        """Anchors of an image of `shape`, at least the decoder's neighbours. InputError if an image of this size cannot be fitted."""
        pixels, size = math.prod(shape), " × ".join(map(str, shape))
        count = num_anchors(pixels, self.num_tokens, self.share, decoder.num_neighbours)
        if pixels < max(count, self.parts):
            raise InputError(
                f"an image must have at least {max(count, self.parts)} pixels, for its anchors and for encoder.parts; got {size}"
            )
        if count > self.num_tokens:
            raise InputError(
                f"an image may have at most {self.num_tokens:,} anchors, num_tokens; got {size} pixels, of which encoder.share "
                f"{self.share} is {count:,}: limit the images with data.longest_side, or raise num_tokens"
            )
        return count

    def split(self, values: Float[Tensor, "batch observed *shape"]) -> tuple[Tensor, ...]:
        """Groups of images to fit together, as many as a step can compute at a time, at least one."""
        pixels_per_step = math.prod(values.shape[2:]) / self.parts
        return values.split(max(1, int(points_at_once(values.device) / pixels_per_step)))

    def place(
        self, values: Float[Tensor, "batch observed *shape"], decoder: AnchoredDecoder, number: int = 0
    ) -> Clouds:
        """Anchors and initial features for a fit of images; no image gets fewer anchors than the decoder has neighbours.

        All random numbers are drawn on the CPU, so that they do not depend on the device.
        """
        shape, device = values.shape[2:], values.device
        values = values.detach().float().cpu()
        norms = gradient_norm(values[:, : decoder.channels])
        if values.shape[1] > decoder.channels:  # missing values are 0 here, and their edges are no edges of the image
            norms = norms.masked_fill(beside_missing(values[:, decoder.channels]), 0)
        # fit 0 is drawn without its number, as in earlier versions, so that their caches stay valid
        further_fit = (number,) if number else ()
        positions, features, masks, orders, all_shifts = [], [], [], [], []
        region, count = region_of(shape, self.image_shape), self.num_anchors(shape, decoder)
        pixel = torch.tensor(pitch(shape, region))
        for image, norm in zip(values, norms.flatten(1), strict=True):
            digest = hashlib.sha256(image.contiguous().numpy().tobytes()).digest()
            generator = stream_generator(self.seed, "cloud", int.from_bytes(digest[:8], "big"), *further_fit)
            pixels = draw_anchors(norm, count, generator)
            centres = grid_at(pixels, shape, region)
            shifts = torch.rand(centres.shape, generator=generator).sub_(0.5) * pixel
            positions.append(centres + shifts if self.jitter else centres)
            uniform = torch.rand(count, self.latent_dim - len(shape), generator=generator)
            features.append((2 * uniform - 1) * self.start)
            orders.append(torch.randperm(len(norm), generator=generator))
            if self.draws:
                uniform = torch.rand(self.draws, len(norm), len(shape), generator=generator)
                all_shifts.append((uniform - 0.5) * pixel)
            has_gradient = norm[pixels] > 0
            # keep as many flat anchors as are needed to give a coordinate its neighbours
            masks.append(has_gradient | ((~has_gradient).cumsum(0) <= decoder.num_neighbours - int(has_gradient.sum())))
        return Clouds(
            torch.stack(positions).to(device),
            torch.stack(features).to(device),
            torch.stack(masks).to(device) if self.flat == "masked" else None,
            torch.stack(orders).to(device),
            torch.stack(all_shifts).to(device) if self.draws else None,
        )

    def rate(self, step: int) -> float:
        """Adam's learning rate after `step` steps."""
        done = step / self.steps
        shares = {
            "constant": 1.0,
            "cosine": 0.5 * (1 + math.cos(math.pi * done)),
            "trapezoid": min(1.0, 3 * (1 - done)),
        }
        return self.lr * shares[self.schedule]


class Part:
    """Pixels of some images that are computed at a time: what depends neither on the features nor on the decoder's weights.

    Attributes:
        anchors: `[A]`, the anchors of the batch that are neighbours of these pixels.
        rows: `[N, n]`, rows of the table of their products (`first_layer`), one for each neighbour of a pixel.
        pixels, starts: the inverse of `rows`: the pixels that use row 0, then those that use row 1, and so on; and the index
            in `pixels` at which each row begins.
        offsets: `[N, n * axes + 1]`, the offsets of a pixel's neighbours, then a 1 for the bias.
        targets: `[N, C]`, the image's values.
        weights: `[N, C]`, weights of the squared errors: they average over one image, so that images do not influence
            each other.
    """

    def __init__(self, neighbours: Tensor, offsets: Tensor, targets: Tensor, weights: Tensor):
        count = neighbours.shape[1]
        self.anchors, index = neighbours.unique(return_inverse=True)
        rows = index * count + torch.arange(count, device=index.device)
        used, order = rows.flatten().sort()
        self.rows = rows.int()
        self.pixels = order.div(count, rounding_mode="floor").int()
        self.starts = torch.searchsorted(used, torch.arange(len(self.anchors) * count, device=index.device)).int()
        self.offsets, self.targets, self.weights = F.pad(offsets, (0, 1), value=1.0), targets, weights


def cut_into_parts(fitting: CloudFit, values: Tensor, clouds: Clouds, decoder: AnchoredDecoder) -> list[list[Part]]:
    """The pixels of each step; steps cycle through this list.

    The pixels of a step are cut into several pieces if there are too many to compute at a time. A piece is a strip of each
    image, which few of the anchors are near to.
    """
    shape = values.shape[2:]
    batch, anchors_per_image = clouds.positions.shape[:2]
    region = region_of(shape, fitting.image_shape)
    extent = torch.tensor(region[len(shape) :], device=values.device)
    nearest = decoder.nearest(clouds.positions, clouds.mask)
    may_miss = values.shape[1] > decoder.channels
    known = values[:, : decoder.channels]
    if may_miss:
        known = torch.where(values[:, decoder.channels :] > 0, known, torch.nan)
    first = torch.arange(batch, device=values.device)[:, None, None] * anchors_per_image
    steps = []
    for draw, of_step in itertools.product(range(fitting.draws or 1), clouds.order.tensor_split(fitting.parts, dim=1)):
        pieces = []
        for pixels in of_step.sort(dim=1).values.split(max(1, 16 * points_at_once(values.device) // batch), dim=1):
            coords = grid_at(pixels.flatten(), shape, region).unflatten(0, pixels.shape)
            if clouds.shifts is not None:
                coords = coords + clouds.shifts[:, draw].gather(1, pixels[..., None].expand_as(coords))
            index = nearest(coords)
            anchors = clouds.positions.flatten(0, 1)[index + first]
            offsets = decoder.offsets(coords, anchors).flatten(2).to(values.dtype)
            within = coords / extent  # where they are in the image, which covers [-1, 1] of its own
            targets = values_at(known, within, "nearest" if clouds.shifts is None else "bicubic", may_miss)
            weights = targets.isfinite().to(values.dtype) / (of_step.shape[1] * decoder.channels)
            parts = (index + first, offsets, targets.nan_to_num(), weights)
            pieces.append(Part(*(part.flatten(0, 1) for part in parts)))
        steps.append(pieces)
    return steps


class _SumOfRows(torch.autograd.Function):
    """For each pixel, the sum of its rows of a table. The gradient of a row is the sum over the pixels that use it."""

    @staticmethod
    def forward(ctx, table: Tensor, part: Part) -> Tensor:
        ctx.part = part
        return F.embedding_bag(part.rows, table, mode="sum")

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        # ten times faster than autograd's backward pass, which adds row by row
        return F.embedding_bag(ctx.part.pixels, gradient.contiguous(), ctx.part.starts, mode="sum"), None


def first_layer(decoder: AnchoredDecoder, width: int) -> tuple[Tensor, Tensor]:
    """The first layer's weights in two parts: for the features `[z, n * hidden]`, for offsets and bias `[n * axes + 1, hidden]`.

    The layer computes Σ_j W_j w_j over the neighbours, plus a term of the offsets. So a step multiplies every anchor's
    feature by every W_j once, and a pixel adds up the products of its neighbours. With 5 anchors per 100 pixels and 25 of
    these pixels per step, that is 5n products instead of 25n, one for each neighbour of each pixel.
    """
    first, count = decoder.mlp[0], decoder.num_neighbours
    assert isinstance(first, nn.Linear)
    of_features, of_offsets = first.weight.split([count * width, first.in_features - count * width], dim=1)
    to_table = of_features.unflatten(1, (count, width)).permute(2, 1, 0).flatten(1)
    return to_table, torch.cat([of_offsets, first.bias[:, None]], dim=1).T


def loss_of_part(
    decoder: AnchoredDecoder, features: Float[Tensor, "batch tokens feature"], part: Part
) -> Float[Tensor, ""]:
    """Weighted squared errors at the pixels of a part; over all parts of a step, the sum of the images' mean squared errors."""
    to_table, of_offsets = first_layer(decoder, features.shape[2])
    near = features.flatten(0, 1).index_select(0, part.anchors)
    table = (near @ to_table).view(-1, len(of_offsets.T))  # [A * n, hidden]
    values = decoder.mlp[1:](torch.addmm(_SumOfRows.apply(table, part), part.offsets, of_offsets))
    return ((values - part.targets).square() * part.weights).sum()


def fit(
    fitting: CloudFit, values: Tensor, clouds: Clouds, decoder: AnchoredDecoder
) -> Float[Tensor, "batch tokens feature"]:
    """Features after all steps of Adam on `loss_of_part` and the penalty. The gradient is written out, because autograd takes 1.5 times as long."""
    decoder = copy.deepcopy(decoder).to(values.dtype).requires_grad_(False)
    steps = cut_into_parts(fitting, values, clouds, decoder)
    to_table, of_offsets = (part.contiguous() for part in first_layer(decoder, clouds.features.shape[2]))
    later_layers = [layer for layer in decoder.mlp[1:] if isinstance(layer, nn.Linear)]
    features = clouds.features.to(values.dtype).flatten(0, 1).clone()  # [B * K, z]
    optimizer = torch.optim.Adam([features], lr=fitting.lr, betas=fitting.betas, fused=True)
    for step in range(fitting.steps):
        gradient = (2 * fitting.penalty / clouds.features[0].numel()) * features
        for part in steps[step % len(steps)]:
            table = (features.index_select(0, part.anchors) @ to_table).view(-1, of_offsets.shape[1])  # [A * n, hidden]
            hidden = [F.embedding_bag(part.rows, table, mode="sum").addmm_(part.offsets, of_offsets)]
            for layer in later_layers:
                hidden.append(layer(hidden[-1].clamp_(min=0)))
            slope = hidden.pop().sub_(part.targets).mul_(2 * part.weights)
            for layer in reversed(later_layers):
                slope = slope @ layer.weight
                slope.mul_(hidden.pop().sign_())  # ReLU's derivative: 1 where the activation is positive
            of_table = F.embedding_bag(part.pixels, slope, part.starts, mode="sum")
            gradient.index_add_(0, part.anchors, of_table.view(len(part.anchors), -1) @ to_table.T)
        features.grad = gradient
        for group in optimizer.param_groups:
            group["lr"] = fitting.rate(step)
        optimizer.step()
    return features.view_as(clouds.features)
