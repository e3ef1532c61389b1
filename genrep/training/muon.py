"""Muon for the weights of linear layers and convolutions, with the orthogonalisation in the precision that suits the device."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers whose weights are matrices. A convolution's maps the values under its kernel to the output channels."""


def matrices_of(model: nn.Module) -> Iterator[Tensor]:
    """The weights that Muon can train."""
    for module in model.modules():
        if not isinstance(module, MATRICES) or not module.weight.requires_grad:
            continue
        # a weight that is not a leaf is computed from others, as under spectral norm: those are what is trained
        is_computed = not module.weight.is_leaf
        # the kernels of a depthwise convolution are a vector per channel, which no other channel mixes with
        is_grouped = not isinstance(module, nn.Linear) and module.groups > 1
        if not is_computed and not is_grouped:
            yield module.weight


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) as `torch.optim.Muon` has it with `adjust_lr_fn="match_rms_adamw"`, with three differences.

    It iterates in float32 on a CPU. On CUDA it iterates in bfloat16, as torch does, but on all weights of the same shape as
    one batch: torch's loop launches about 25 small kernels per weight, which takes longer than the arithmetic, and a
    transformer's blocks share few shapes. And it takes the weights of convolutions, as matrices of output channels by
    everything else. The state is the same as torch's, so either can load the other's checkpoints.
    """

    # torch iterates in bfloat16 on every device. Most CPUs have no bfloat16 units: on an AVX2 machine a product of 96×96 and
    # 96×384 took 2,372 µs in bfloat16 and 110 µs in float32, and Muon took nine tenths of a training step.

    def __init__(self, params: Any, lr: float, weight_decay: float):
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": 0.95,
            "nesterov": True,
            "ns_coefficients": (3.4445, -4.775, 2.0315),
            "ns_steps": 5,
            "eps": 1e-7,
            "adjust_lr_fn": "match_rms_adamw",  # of torch's, which may load this state
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the weights by their orthogonalised Nesterov momentum."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in _together(group["params"]):
                self._move(weights, group)
        return loss

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Update weights of the same shape."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        averages = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
        moves = updates[0] if len(weights) == 1 else torch.stack(list(updates))
        moves = moves.flatten(-weights[0].ndim + 1)  # [weights, rows, columns], a single weight without the first
        if moves.device.type == "cuda":
            moves = moves.bfloat16()
        moves = orthogonalized(moves, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(weights[0].dtype)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        # Entries of an orthogonal matrix have an RMS of 1/√max(rows, columns). This scales it to 0.2, about that of AdamW's
        # updates (Liu et al., 2025), so one learning rate serves both.
        size = 0.2 * math.sqrt(max(moves.shape[-2:]))
        each = [moves] if len(weights) == 1 else moves.unbind()
        torch._foreach_add_(weights, [move.reshape(weights[0].shape) for move in each], alpha=-size * group["lr"])


def _together(weights: Sequence[Tensor]) -> list[list[Tensor]]:
    """Weights with gradients, grouped by shape; on a CPU one by one, where batching is no faster."""
    groups: dict[Any, list[Tensor]] = {}
    for number, weight in enumerate(weights):
        if weight.grad is not None:
            alone = number if weight.device.type == "cpu" else None
            groups.setdefault((weight.shape, weight.dtype, weight.device, alone), []).append(weight)
    return list(groups.values())


def orthogonalized(
    matrices: Float[Tensor, "*count rows columns"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "*count rows columns"]:
    """Approximately U Vᵀ of a matrix U S Vᵀ, or of each of several, by Newton-Schulz iterations X <- a X + (b X Xᵀ + c (X Xᵀ)²) X.

    From Jordan et al., 2024. Their coefficients trade accuracy for speed: the singular values end between about 0.7 and
    1.2 rather than at 1.
    """
    a, b, c = coefficients
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    wide = matrices if is_wide else matrices.mT  # X Xᵀ is then the smaller of the two Gram matrices
    # the Frobenius norm bounds all singular values by 1, where the iteration converges
    x = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    add_product = torch.addmm if matrices.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if is_wide else x.mT
