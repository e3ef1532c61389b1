"""The state that training changes and a checkpoint saves: weights, optimizer, average of the weights."""

from torch import nn

from genrep.training.checkpoint import Checkpoint
from genrep.training.ema import WeightAverage
from genrep.training.optimizer import Optimizer
from genrep.training.specs import EMASpec, OptimizerSpec


class TrainingState:
    """A model with its optimizer and the average of its weights; saved and restored together.

    Args:
        model: the model itself, not accelerate's wrapper for several processes.
        optimizer, ema: the specs of both.
    """

    # No random state: noise, dropout and data order are pure functions of the seed and the position in the stream, which
    # follows from the step. So nothing else needs saving for a resumed run to equal an uninterrupted one.

    def __init__(self, model: nn.Module, optimizer: OptimizerSpec, ema: EMASpec | None):
        self.model = model
        self.optimizer = Optimizer(model, optimizer)
        self.average = WeightAverage(model, ema)

    def checkpoint(self, step: int) -> Checkpoint:
        """The state after `step` steps."""
        tensors = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        extra = {"average_updates": self.average.num_updates}  # the decay warms up with their number
        return Checkpoint(
            step,
            {name: part for name, part in tensors.items() if part},  # without an average there is no file for it
            {"optimizer": self.optimizer.state_dict()},
            extra,
        )

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Continue from a checkpoint; None leaves the initial state."""
        if checkpoint is not None:
            self.model.load_state_dict(checkpoint.tensors["model"])
            self.optimizer.load_state_dict(checkpoint.optimizers["optimizer"])
            self.average.load_state_dict(checkpoint.tensors.get("average", {}), checkpoint.extra["average_updates"])


class AdversarialState:
    """A generator's and its discriminators' `TrainingState`, saved and restored together."""

    def __init__(self, generator: TrainingState, discriminator: TrainingState):
        self.generator, self.discriminator = generator, discriminator

    def checkpoint(self, step: int) -> Checkpoint:
        """The state of both after `step` steps; the checkpoint's `model` holds the generator's weights."""
        generator, discriminator = self.generator.checkpoint(step), self.discriminator.checkpoint(step)
        return Checkpoint(
            step,
            {**generator.tensors, "discriminator": discriminator.tensors["model"]},
            {**generator.optimizers, "discriminator_optimizer": discriminator.optimizers["optimizer"]},
            generator.extra,
        )

    def restore(self, checkpoint: Checkpoint | None) -> None:
        """Continue from a checkpoint; None leaves the initial state."""
        if checkpoint is None:
            return
        self.generator.restore(checkpoint)
        tensors = {"model": checkpoint.tensors["discriminator"]}
        optimizers = {"optimizer": checkpoint.optimizers["discriminator_optimizer"]}
        # the discriminators have no average: only the generator is sampled from
        self.discriminator.restore(Checkpoint(checkpoint.step, tensors, optimizers, {"average_updates": 0}))
