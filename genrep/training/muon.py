"""torch's Muon, whose orthogonalisation runs in the precision that the device is fast at."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class Muon(torch.optim.Muon):
    """`torch.optim.Muon` with `adjust_lr_fn="match_rms_adamw"`, in float32 on a CPU, weights of one shape at a time on a GPU.

    torch iterates in bfloat16 everywhere. On a CPU without bfloat16 units, as most are, that is not the fast way: products
    of 96×96 and 96×384 took 2,372 µs in place of 110 in float32 on an AVX2 machine, and Muon nine tenths of a training step.
    On a GPU bfloat16 stays, but torch's loop over the weights asks for some 25 small kernels of each, so that the asking
    takes longer than the work: the blocks of a transformer have few shapes, and the weights of a shape are one batch here.
    The state is torch's, so checkpoints of either fit the other.
    """

    def __init__(self, params: Any, lr: float, weight_decay: float):
        super().__init__(params, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights by their orthogonalised Nesterov momentum."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weights in _together(group["params"]):
                self._move(weights, group)
        return loss

    def _move(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        """Move weights of one shape."""
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        for weight in weights:
            if "momentum_buffer" not in self.state[weight]:
                self.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        averages = [self.state[weight]["momentum_buffer"] for weight in weights]
        torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
        updates = torch._foreach_lerp(gradients, averages, group["momentum"]) if group["nesterov"] else averages
        moves = updates[0] if len(weights) == 1 else torch.stack(list(updates))  # [weights, rows, columns]
        if moves.device.type == "cuda":
            moves = moves.bfloat16()
        moves = orthogonalized(moves, group["ns_coefficients"], group["ns_steps"], group["eps"]).to(weights[0].dtype)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        # 0.2 √max(rows, columns): entries of the size of AdamW's updates (Liu et al., 2025)
        size = 0.2 * math.sqrt(max(weights[0].shape))
        torch._foreach_add_(weights, [moves] if len(weights) == 1 else list(moves.unbind()), alpha=-size * group["lr"])


def _together(weights: Sequence[Tensor]) -> list[list[Tensor]]:
    """Weights that have gradients, those of one shape in a list; each in one of its own on a CPU, where that is as fast."""
    groups: dict[Any, list[Tensor]] = {}
    for number, weight in enumerate(weights):
        if weight.grad is not None:
            alone = number if weight.device.type == "cpu" else None
            groups.setdefault((weight.shape, weight.dtype, weight.device, alone), []).append(weight)
    return list(groups.values())


def orthogonalized(
    matrices: Float[Tensor, "*count rows columns"], coefficients: tuple[float, float, float], steps: int, eps: float
) -> Float[Tensor, "*count rows columns"]:
    """About U Vᵀ of a matrix U S Vᵀ, or of each of several, by Newton-Schulz iterations X <- a X + (b X Xᵀ + c (X Xᵀ)²) X (Jordan et al., 2024).

    The published coefficients end with singular values between about 0.7 and 1.2 instead of at 1.
    """
    a, b, c = coefficients
    is_wide = matrices.shape[-2] <= matrices.shape[-1]
    wide = matrices if is_wide else matrices.mT  # the smaller Gram matrix
    x = wide / wide.norm(dim=(-2, -1), keepdim=True).clamp(min=eps)
    add_product = torch.addmm if matrices.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = add_product(x, add_product(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if is_wide else x.mT
