"""Optimizers from a spec, and the learning rate as a function of the global step."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from genrep.errors import InputError
from genrep.training.muon import Muon, matrices_of
from genrep.training.specs import OptimizerSpec


class Optimizer:
    """AdamW, or Muon for the weights of linear layers and convolutions and AdamW for the rest, behind one `step` and one state.

    Muon orthogonalises the momentum of a matrix. It gets the weights of all such layers, including input embeddings and
    output heads. Its updates are scaled to the size of AdamW's (`match_rms_adamw`), so one learning rate serves both.
    """

    def __init__(self, model: nn.Module, spec: OptimizerSpec):
        self.spec = spec
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = list(matrices_of(model)) if spec.type == "muon" else []
        # by identity: `in` would compare the values of tensors
        matrix_ids = {id(parameter) for parameter in matrices}
        rest = [parameter for parameter in self.parameters if id(parameter) not in matrix_ids]
        self.parts: list[torch.optim.Optimizer] = []
        if matrices:
            self.parts.append(Muon(matrices, lr=spec.lr, weight_decay=spec.weight_decay))
        if rest:
            self.parts.append(
                torch.optim.AdamW(
                    rest, lr=spec.lr, betas=(spec.betas[0], spec.betas[1]), weight_decay=spec.weight_decay, fused=True
                )
            )

    def clip_gradients(self) -> Tensor:
        """Scale the gradients down to a norm of at most `clip_norm`; returns the norm before that."""
        # with an infinite limit nothing is scaled, but the norm is still measured, for the report
        return nn.utils.clip_grad_norm_(
            self.parameters, math.inf if self.spec.clip_norm is None else self.spec.clip_norm
        )

    def step(self, lr: float) -> None:
        """Update the weights at learning rate `lr`, and reset the gradients."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = lr
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        if len(states) != len(self.parts):
            raise InputError(
                f"the checkpoint holds {len(states)} optimizer states, but this run has {len(self.parts)}: was optimizer.type "
                "changed?"
            )
        for part, state in zip(self.parts, states, strict=True):
            part.load_state_dict(state)


def learning_rate(spec: OptimizerSpec, step: int, num_steps: int) -> float:
    """Learning rate of step `step`, counted from 0: linear warm-up, then constant, or down to `min_lr` by the schedule."""
    # A function of the step rather than an LR scheduler: nothing to save or restore, and a scheduler that accelerate
    # prepares steps once per process, so that the schedule would depend on the number of GPUs.
    if step < spec.warmup_steps:
        return spec.lr * (step + 1) / spec.warmup_steps
    if spec.schedule == "constant":
        return spec.lr
    if spec.schedule == "drop":
        return spec.lr if step < num_steps / 2 else spec.min_lr
    progress = min(1.0, (step - spec.warmup_steps) / max(1, num_steps - spec.warmup_steps))
    share = 1 - progress if spec.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    return spec.min_lr + (spec.lr - spec.min_lr) * share
