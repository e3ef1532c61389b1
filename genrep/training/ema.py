"""Exponential moving average of the weights, on diffusers' EMAModel."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from genrep.errors import InputError
from genrep.training.specs import EMASpec


class WeightAverage:
    """Average of a model's parameters. With `spec` None there is no average, and `applied` leaves the weights alone."""

    def __init__(self, model: nn.Module, spec: EMASpec | None):
        self.spec, self.model = spec, model
        self.average = EMAModel(model.parameters(), decay=spec.decay, foreach=True) if spec else None

    def update(self, step: int) -> None:
        """Include the weights after `step` steps."""
        if self.average is not None and self.spec is not None and step % self.spec.every == 0:
            self.average.step(self.model.parameters())

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model holds the averaged weights; afterwards its own again."""
        if self.average is None:
            yield
            return
        # swapped into the model itself, not into a second one, which would take as much memory again
        self.average.store(self.model.parameters())
        self.average.copy_to(self.model.parameters())
        try:
            yield
        finally:
            self.average.restore(self.model.parameters())

    def state_dict(self) -> dict[str, Tensor]:
        """Averaged parameters by name; empty without an average."""
        if self.average is None:
            return {}
        # EMAModel keeps a list in the order of parameters(); names let a changed model be detected on loading
        names = [name for name, _ in self.model.named_parameters()]
        return dict(zip(names, self.average.shadow_params, strict=True))

    @property
    def num_updates(self) -> int:
        return self.average.optimization_step if self.average is not None else 0

    def load_state_dict(self, state: Mapping[str, Tensor], num_updates: int) -> None:
        if self.average is None:
            return
        for (name, _), shadow in zip(self.model.named_parameters(), self.average.shadow_params, strict=True):
            if name not in state:
                raise InputError(f"the checkpoint's weight average has no {name}: was ema off when it was written?")
            shadow.data.copy_(state[name])
        self.average.optimization_step = num_updates
