"""The transformer that denoises latent sets."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from genrep.arguments import as_floats, as_number, shown
from genrep.errors import InputError
from genrep.models.loading import StrictLoading
from genrep.models.specs import DenoiserSpec
from genrep.nn.attention import Attention
from genrep.nn.fourier import FourierFeatures, timestep_features
from genrep.nn.transformer import FeedForward
from genrep.specs import from_arguments

TIME_FEATURES = 256
"""Sinusoidal features of a timestep, as in DiT."""
POSITION_FREQUENCIES = 16
"""Frequencies of a token's position on each axis, from 1 to this many periods over its range."""
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


class DenoiserBlock(nn.Module):
    """A pre-norm transformer block; adaLN-zero (DiT) adds shift and scale to its norms and gates to its branches."""

    def __init__(self, spec: DenoiserSpec):
        super().__init__()
        adaptive = spec.conditioning == "adaln"
        self.attention_norm = _norm(spec, affine=not adaptive)
        self.attention = Attention(spec.dim, spec.num_heads, spec.head_dim, qk_norm=spec.qk_norm)
        self.mlp_norm = _norm(spec, affine=not adaptive)
        self.mlp = FeedForward(spec.dim, spec.mlp_dim, spec.mlp)
        self.modulation = nn.Linear(spec.dim, 6 * spec.dim) if adaptive else None
        if self.modulation is not None:  # gates start at 0, so the block starts as the identity
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        condition: Float[Tensor, "batch dim"],
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens dim"]:
        if self.modulation is None:
            tokens = tokens + self.attention(self.attention_norm(tokens), mask=mask)
            return tokens + self.mlp(self.mlp_norm(tokens))
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.modulation(condition)[:, None].chunk(6, dim=-1)
        tokens = tokens + gate_a * self.attention(self.attention_norm(tokens) * (1 + scale_a) + shift_a, mask=mask)
        return tokens + gate_m * self.mlp(self.mlp_norm(tokens) * (1 + scale_m) + shift_m)


class LatentDenoiser(StrictLoading, ModelMixin, ConfigMixin):
    """A transformer that predicts the clean latent set (x0) from a noisy one, `[B, R, D]`, independent of the noise schedule.

    Tokens with slots get a learned embedding per slot. Tokens with positions get an embedding of their (noisy) position, so
    that permuting them permutes the prediction; their number is free, and `mask` says which are present. Time and class
    enter as extra tokens (ANR, appendix I) or through adaptive norms (adaLN-zero).

    Args:
        num_tokens, latent_dim: R and D.
        num_classes: number of classes; 0 is unconditional. The label `num_classes` means "no class", as guidance needs it.
        dim, depth, num_heads, head_dim, mlp_dim: width, blocks, heads, width of a head, feed-forward width.
        conditioning: "token" or "adaln".
        mlp: "gelu" or "swiglu".
        norm: "layer" or "rms".
        qk_norm: RMS-normalise queries and keys.
        routed: share of the tokens that skip all blocks but the first and the last, chosen at random in every training step
            (TREAD, Krause et al. 2025). Outside of training no token skips any.
        position_dim: leading channels of a token that are its position; 0 is tokens with slots.
        position_scale: standard deviation of the positions of clean latents, if `position_dim` is not 0.

    Raises:
        InputError: an invalid argument.
    """

    _repeated_blocks = ["DenoiserBlock"]  # noqa: RUF012 diffusers' own declaration

    @register_to_config
    def __init__(
        self,
        num_tokens: int,
        latent_dim: int,
        num_classes: int = 0,
        dim: int = 512,
        depth: int = 8,
        num_heads: int = 8,
        head_dim: int = 64,
        mlp_dim: int = 2048,
        conditioning: str = "adaln",
        mlp: str = "gelu",
        norm: str = "layer",
        qk_norm: bool = False,
        position_dim: int = 0,
        position_scale: float = 1.0,
        routed: float = 0.0,
    ):
        super().__init__()
        self.spec = spec = from_arguments(DenoiserSpec, locals(), where=type(self).__name__)
        # A latent set lies on no grid: attention distinguishes tokens by these embeddings of slots or positions alone.
        self.embed = nn.Linear(latent_dim, dim)
        if position_dim:
            self.encode_position = FourierFeatures(position_dim, POSITION_FREQUENCIES, float(POSITION_FREQUENCIES))
            self.embed_position = nn.Linear(self.encode_position.num_features, dim)
        else:
            self.slots = nn.Parameter(0.02 * torch.randn(num_tokens, dim))
        self.embed_time = nn.Sequential(nn.Linear(TIME_FEATURES, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.embed_class = nn.Embedding(num_classes + 1, dim) if num_classes else None  # the last row is "no class"
        self.blocks = nn.ModuleList(DenoiserBlock(spec) for _ in range(depth))
        self.norm = _norm(spec, affine=conditioning == "token")
        self.modulation = nn.Linear(dim, 2 * dim) if conditioning == "adaln" else None
        self.head = nn.Linear(dim, latent_dim)
        nn.init.zeros_(self.head.weight)  # the first prediction is the mean of standardised latents
        nn.init.zeros_(self.head.bias)
        if self.embed_class is not None:
            nn.init.normal_(self.embed_class.weight, std=0.02)
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    @property
    def latent_shape(self) -> tuple[int, int]:
        """(R, D); for tokens with positions R is the largest set seen in training."""
        return self.spec.num_tokens, self.spec.latent_dim

    def _embedded(self, noisy_latents: Tensor) -> Float[Tensor, "batch tokens dim"]:
        """Tokens with an embedding of their slot or position."""
        position_dim = self.spec.position_dim
        if not position_dim:
            return self.embed(noisy_latents) + self.slots
        # Positions with noise reach about four standard deviations, which are mapped to the encoding's [-1, 1]. In the
        # model's dtype only after the encoding, which computes in float32.
        features = self.encode_position(noisy_latents[..., :position_dim] / (4 * max(1.0, self.spec.position_scale)))
        return self.embed(noisy_latents) + self.embed_position(features.to(noisy_latents.dtype))

    def forward(
        self,
        noisy_latents: Float[Tensor, "batch tokens latent"] | Any,
        timesteps: Float[Tensor, " batch"] | Int[Tensor, " batch"] | Any,
        class_labels: Int[Tensor, " batch"] | Any | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
    ) -> Float[Tensor, "batch tokens latent"]:
        """Predict the clean latents.

        Args:
            noisy_latents: `[B, R, D]`, in any floating-point type; converted to the model's.
            timesteps: `[B]`, or one number for the whole batch.
            class_labels: integers `[B]`; None and `num_classes` mean "no class".
            mask: which tokens are present, `[B, R]`, for tokens with positions; None is all.

        Raises:
            InputError: shapes or types that do not fit. Values are not checked, which would slow down training loops.
        """
        return self.predict(noisy_latents, timesteps, class_labels, mask)[0]

    def predict(
        self,
        noisy_latents: Float[Tensor, "batch tokens latent"] | Any,
        timesteps: Float[Tensor, " batch"] | Int[Tensor, " batch"] | Any,
        class_labels: Int[Tensor, " batch"] | Any | None = None,
        mask: Bool[Tensor, "batch tokens"] | None = None,
        block: int | None = None,
    ) -> tuple[Float[Tensor, "batch tokens latent"], Float[Tensor, "batch tokens dim"] | None]:
        """`forward`'s prediction, and the tokens after the block of this number, counted from 1; None without a number.

        Tokens that skip that block in training are those after the first.
        """
        noisy_latents = as_floats(noisy_latents, "noisy_latents", "[batch, tokens, dim]", self.embed.weight.dtype)
        rows, width = self.latent_shape
        fits = noisy_latents.ndim == 3 and noisy_latents.shape[2] == width
        if not fits or (not self.spec.position_dim and noisy_latents.shape[1] != rows):
            tokens_axis = "tokens" if self.spec.position_dim else rows
            raise InputError(
                f"noisy_latents must be [batch, {tokens_axis}, {width}] for this denoiser; got {list(noisy_latents.shape)}"
            )
        if mask is not None and (not self.spec.position_dim or mask.shape != noisy_latents.shape[:2]):
            raise InputError(
                f"mask must be [batch, tokens], for tokens with positions; got {list(mask.shape)} for latents "
                f"{list(noisy_latents.shape)} and position_dim {self.spec.position_dim}"
            )
        batch = len(noisy_latents)
        # Schedulers give a 0-d tensor, training [B]; users may give a plain number.
        if not isinstance(timesteps, Tensor):
            timesteps = torch.tensor(as_number(timesteps, "timesteps", low=0), device=noisy_latents.device)
        if timesteps.ndim == 0:
            timesteps = timesteps.expand(batch)
        if timesteps.shape != (batch,) or timesteps.dtype == torch.bool:
            raise InputError(
                f"timesteps must be one number, or [{batch}]; got {timesteps.dtype} {list(timesteps.shape)}"
            )
        if class_labels is not None:
            are_integers = isinstance(class_labels, Tensor) and class_labels.dtype in INTEGERS
            if not are_integers or class_labels.shape != (batch,):
                raise InputError(f"class_labels must be a tensor of {batch} integers; got {shown(class_labels)}")
        time = self.embed_time(timestep_features(timesteps, TIME_FEATURES).to(self.embed.weight.dtype))  # [B, dim]
        tokens = self._embedded(noisy_latents)  # [B, R, dim]
        label = None
        if self.embed_class is not None:
            if class_labels is None:
                class_labels = torch.full((batch,), self.spec.num_classes, device=tokens.device)
            label = self.embed_class(class_labels.long())
        elif class_labels is not None:
            raise InputError("this denoiser was trained without classes: leave class_labels out")

        if self.modulation is None:  # time and class as tokens at the end of the sequence, dropped again by the head
            extra = time[:, None] if label is None else torch.stack([time, label], dim=1)
            num_tokens, tokens = tokens.shape[1], torch.cat([tokens, extra], dim=1)
            if mask is not None:
                mask = F.pad(mask, (0, extra.shape[1]), value=True)  # they are always present
            tokens, hidden = self._through_blocks(tokens, time, mask, block, num_extra=extra.shape[1])
            return self.head(self.norm(tokens[:, :num_tokens])), None if hidden is None else hidden[:, :num_tokens]

        condition = F.silu(time if label is None else time + label)  # DiT's: one vector for all blocks
        tokens, hidden = self._through_blocks(tokens, condition, mask, block)
        shift, scale = self.modulation(condition)[:, None].chunk(2, dim=-1)
        return self.head(self.norm(tokens) * (1 + scale) + shift), hidden

    def _through_blocks(
        self,
        tokens: Float[Tensor, "batch tokens dim"],
        condition: Float[Tensor, "batch dim"],
        mask: Bool[Tensor, "batch tokens"] | None,
        wanted: int | None,
        num_extra: int = 0,
    ) -> tuple[Float[Tensor, "batch tokens dim"], Float[Tensor, "batch tokens dim"] | None]:
        """The tokens after all blocks, and after the block `wanted`.

        In training, `routed` of the tokens skip the blocks in the middle, but none of the `num_extra` at the end.
        """
        hidden = None
        if not (self.training and self.spec.routed):
            for number, block in enumerate(self.blocks, 1):
                tokens = block(tokens, condition, mask)
                hidden = tokens if number == wanted else hidden
            return tokens, hidden
        first, *middle, last = self.blocks
        tokens = first(tokens, condition, mask)
        hidden = tokens if wanted == 1 else None
        order = torch.rand(tokens.shape[:2], device=tokens.device)
        order[:, tokens.shape[1] - num_extra :] = -1
        if mask is not None:
            order = order.masked_fill(~mask, 2)  # absent tokens skip first
        num_tokens = tokens.shape[1] - num_extra
        num_routed = min(round(self.spec.routed * num_tokens), num_tokens - 1)
        index = order.argsort(dim=1)[:, : tokens.shape[1] - num_routed]
        where = index[..., None].expand(-1, -1, tokens.shape[2])
        part, part_mask = tokens.gather(1, where), None if mask is None else mask.gather(1, index)
        for number, block in enumerate(middle, 2):
            part = block(part, condition, part_mask)
            hidden = tokens.scatter(1, where, part) if number == wanted else hidden
        tokens = last(tokens.scatter(1, where, part), condition, mask)
        return tokens, tokens if wanted == len(self.blocks) else hidden


def _norm(spec: DenoiserSpec, affine: bool) -> nn.Module:
    kind = nn.RMSNorm if spec.norm == "rms" else nn.LayerNorm
    # `affine` is False where adaLN supplies shift and scale. eps as in DiT.
    return kind(spec.dim, eps=1e-6, elementwise_affine=affine)
