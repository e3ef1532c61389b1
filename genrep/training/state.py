"""What changes while a model trains: weights, optimizer, average."""

from torch import nn

from genrep.training.checkpoint import Checkpoint
from genrep.training.ema import WeightAverage
from genrep.training.optimizer import Optimizer
from genrep.training.specs import EMASpec, OptimizerSpec


class TrainingState:
    """A model with its optimizer and the average of its weights; saved and restored as one.

    Args:
        model: the bare model, not its wrapper for many processes.
        optimizer, ema: their specs.
    """

    def __init__(self, model: nn.Module, optimizer: OptimizerSpec, ema: EMASpec | None):
        self.model = model
        self.optimizer = Optimizer(model, optimizer)
        self.average = WeightAverage(model, ema)

    def checkpoint(self, step: int) -> Checkpoint:
        """The state after `step` steps."""
        tensors = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        extra = {"average_updates": self.average.num_updates}
        return Checkpoint(
            step,
            {name: part for name, part in tensors.items() if part},
            {"optimizer": self.optimizer.state_dict()},
            extra,
        )

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint; None is the beginning."""
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint.tensors["model"])
            self.optimizer.load_state_dict(checkpoint.optimizers["optimizer"])
            self.average.load_state_dict(checkpoint.tensors.get("average", {}), checkpoint.extra["average_updates"])


class AdversarialState:
    """Generator and discriminators, each with its own `TrainingState`; saved and restored as one."""

    def __init__(self, generator: TrainingState, discriminator: TrainingState):
        self.generator, self.discriminator = generator, discriminator

    def checkpoint(self, step: int) -> Checkpoint:
        """The state of both after `step` steps; the generator's weights are its `model`."""
        one, other = self.generator.checkpoint(step), self.discriminator.checkpoint(step)
        return Checkpoint(
            step,
            {**one.tensors, "discriminator": other.tensors["model"]},
            {**one.optimizers, "discriminator_optimizer": other.optimizers["optimizer"]},
            one.extra,
        )

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Go on from a checkpoint; None is the beginning."""
        if checkpoint is None:
            return
        self.generator.restore(checkpoint)
        tensors = {"model": checkpoint.tensors["discriminator"]}
        optimizers = {"optimizer": checkpoint.optimizers["discriminator_optimizer"]}
        self.discriminator.restore(Checkpoint(checkpoint.step, tensors, optimizers, {"average_updates": 0}))
