"""Learning rate, optimizers and weight average against closed forms and plain loops; resumed equals uninterrupted."""

import itertools
import math

import pytest
import torch
from torch import nn

from genrep.errors import InputError
from genrep.models.classifier import ImageClassifier
from genrep.training.checkpoint import load_checkpoint, save_checkpoint
from genrep.training.ema import WeightAverage
from genrep.training.muon import Muon
from genrep.training.optimizer import Optimizer, learning_rate
from genrep.training.specs import EMASpec, OptimizerSpec
from genrep.training.state import TrainingState
from tests.tiny import tiny_autoencoder, tiny_denoiser

# learning rate


def test_warm_up_then_constant():
    spec = OptimizerSpec(lr=2.0, warmup_steps=4)
    assert [learning_rate(spec, step, 100) for step in range(6)] == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert learning_rate(OptimizerSpec(lr=2.0), 0, 100) == 2.0


def test_the_cosine():
    spec = OptimizerSpec(lr=2.0, min_lr=0.5, schedule="cosine", warmup_steps=10)
    rates = [learning_rate(spec, step, 110) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert (rates[10], rates[60], rates[110]) == pytest.approx((2.0, 1.25, 0.5))  # its start, middle and end
    assert rates[35] == pytest.approx(0.5 + 1.5 * (1 + math.sqrt(0.5)) / 2)  # a quarter of the way, cos 45°
    assert all(after < before for before, after in itertools.pairwise(rates[10:]))
    assert learning_rate(spec, 1000, 110) == 0.5


def test_the_line():
    spec = OptimizerSpec(lr=2.0, min_lr=0.5, schedule="linear", warmup_steps=10)
    rates = [learning_rate(spec, step, 110) for step in range(111)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10:] == pytest.approx([2.0 - 1.5 * i / 100 for i in range(101)])
    assert learning_rate(spec, 1000, 110) == 0.5


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_stays_within_its_bounds(schedule):
    for warmup in (0, 5, 20, 50):
        spec = OptimizerSpec(lr=1.0, min_lr=0.1, schedule=schedule, warmup_steps=warmup)
        assert all(0 < learning_rate(spec, step, 20) <= 1 for step in range(25))


# optimizers


def names_of(model: nn.Module, parameters) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(parameter)] for parameter in parameters}


@pytest.mark.parametrize(
    "make",
    [
        tiny_denoiser,
        lambda: tiny_autoencoder().requires_grad_(True),
        lambda: ImageClassifier(8, 3, 10, width=8),
        lambda: ImageClassifier((4, 8, 8), 1, 4, width=8, signal={"type": "array"}),
    ],
)
def test_muon_gets_the_weights_of_linear_layers_and_convolutions_and_adamw_the_rest(make):
    model = make()
    muon, adamw = Optimizer(model, OptimizerSpec(type="muon")).parts
    assert isinstance(muon, Muon) and isinstance(adamw, torch.optim.AdamW)
    layers = (nn.Linear, nn.Conv2d, nn.Conv3d)
    matrices = {f"{name}.weight" for name, module in model.named_modules() if isinstance(module, layers)}
    groups = [[parameter for group in part.param_groups for parameter in group["params"]] for part in (muon, adamw)]
    assert names_of(model, groups[0]) == matrices and len(groups[0]) == len(matrices) > 5
    assert names_of(model, groups[1]) == {name for name, _ in model.named_parameters()} - matrices


def test_adamw_gets_depthwise_convolutions():
    """Each of their channels has a vector of its own, so that there is no matrix to orthogonalise."""
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 8, 3, bias=False))
    muon, adamw = Optimizer(model, OptimizerSpec(type="muon")).parts
    assert names_of(model, muon.param_groups[0]["params"]) == {"1.weight"}
    assert names_of(model, adamw.param_groups[0]["params"]) == {"0.weight"}


def test_adamw_gets_all_trainable_parameters():
    model = tiny_denoiser()
    model.slots.requires_grad_(False)
    model.head.requires_grad_(False)
    for kind in ("adamw", "muon"):
        held = [
            p
            for part in Optimizer(model, OptimizerSpec(type=kind)).parts
            for group in part.param_groups
            for p in group["params"]
        ]
        assert names_of(model, held) == {name for name, _ in model.named_parameters()} - {
            "slots",
            "head.weight",
            "head.bias",
        }
    assert len(Optimizer(model, OptimizerSpec()).parts) == 1


def fill_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_a_step_equals_clipping_and_torchs_adamw():
    ours, plain = tiny_denoiser(), tiny_denoiser()
    optimizer = Optimizer(ours, OptimizerSpec(lr=1.0, betas=[0.8, 0.95], weight_decay=0.1, clip_norm=0.5))
    reference = torch.optim.AdamW(plain.parameters(), betas=(0.8, 0.95), weight_decay=0.1)
    for step, lr in enumerate((1e-2, 3e-3, 1e-3)):
        fill_gradients(ours, step)
        fill_gradients(plain, step)
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in plain.parameters()))
        for parameter in plain.parameters():
            parameter.grad *= 0.5 / norm
        reference.param_groups[0]["lr"] = lr
        reference.step()
        assert float(optimizer.clip_gradients()) == pytest.approx(norm, rel=1e-5)
        optimizer.step(lr)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), atol=1e-6, rtol=1e-5)


def test_without_clip_norm_the_gradient_is_only_measured():
    model = tiny_denoiser()
    optimizer = Optimizer(model, OptimizerSpec(clip_norm=None))
    fill_gradients(model, 0)
    before = [parameter.grad.clone() for parameter in model.parameters()]
    norm = optimizer.clip_gradients()
    assert float(norm) == pytest.approx(math.sqrt(sum(float(grad.square().sum()) for grad in before)), rel=1e-5)
    assert all(torch.equal(parameter.grad, grad) for parameter, grad in zip(model.parameters(), before, strict=True))
    optimizer.step(1e-3)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_muons_updates_have_the_size_of_adamws():
    """match_rms_adamw: an orthogonal update of a matrix is scaled to an RMS of 0.2 lr, whatever its shape."""
    model = nn.Linear(48, 16, bias=False)
    before = model.weight.detach().clone()
    fill_gradients(model, 0)
    Optimizer(model, OptimizerSpec(type="muon", clip_norm=None)).step(1e-2)
    assert float((model.weight.detach() - before).square().mean().sqrt()) == pytest.approx(0.2 * 1e-2, rel=0.2)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_state_of_another_optimizer_is_refused(kind):
    other = {"adamw": "muon", "muon": "adamw"}[kind]
    state = Optimizer(tiny_denoiser(), OptimizerSpec(type=other)).state_dict()
    counts = {"adamw": 1, "muon": 2}
    with pytest.raises(
        InputError,
        match=f"holds {counts[other]} optimizer states, but this run has {counts[kind]}: was optimizer.type changed",
    ):
        Optimizer(tiny_denoiser(), OptimizerSpec(type=kind)).load_state_dict(state)


# average of the weights


def moved(model: nn.Module, seed: int) -> None:
    """An arbitrary training step."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("decay", [0.15, 0.9, 0.9999])
def test_the_average_equals_a_plain_loop(decay):
    """Update n = 0, 1, ... has decay min(decay, (1 + n) / (10 + n)), except that the first copies the weights."""
    model = tiny_denoiser()
    average = WeightAverage(model, EMASpec(decay=decay))
    plain: dict[str, torch.Tensor] = {}
    for n in range(12):
        moved(model, n)
        average.update(n + 1)
        rate = min(decay, (1 + n) / (10 + n)) if n else 0.0
        plain = {
            name: value.detach().double() * (1 - rate) + rate * plain.get(name, 0)
            for name, value in model.named_parameters()
        }
    assert average.num_updates == 12 and average.state_dict().keys() == plain.keys()
    for name, value in average.state_dict().items():
        torch.testing.assert_close(value.double(), plain[name], atol=1e-6, rtol=1e-5)


def test_the_average_is_updated_at_its_interval():
    model, seldom = tiny_denoiser(), tiny_denoiser()
    often, third = WeightAverage(model, EMASpec(decay=0.5)), WeightAverage(seldom, EMASpec(decay=0.5, every=3))
    for step in range(1, 10):
        moved(seldom, step)
        third.update(step)
        if step % 3 == 0:
            model.load_state_dict(seldom.state_dict())
            often.update(step)
    assert third.num_updates == 3
    torch.testing.assert_close(third.state_dict(), often.state_dict(), atol=0, rtol=0)


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def assert_weights(model: nn.Module, expected) -> None:
    torch.testing.assert_close(dict(model.named_parameters()), dict(expected), atol=0, rtol=0)


def test_applied_swaps_the_average_in_and_out():
    model = tiny_denoiser()
    average = WeightAverage(model, EMASpec(decay=0.5))
    for step in range(1, 4):
        moved(model, step)
        average.update(step)
    own, mean = copied(model), {name: value.clone() for name, value in average.state_dict().items()}
    assert any(not torch.equal(own[name], mean[name]) for name in own)
    with average.applied():
        assert_weights(model, mean)
    assert_weights(model, own)
    with pytest.raises(ZeroDivisionError), average.applied():
        raise ZeroDivisionError
    assert_weights(model, own)
    torch.testing.assert_close(average.state_dict(), mean, atol=0, rtol=0)


def test_without_a_spec_there_is_no_average():
    model = tiny_denoiser()
    average, own = WeightAverage(model, None), copied(model)
    average.update(1)
    with average.applied():
        assert_weights(model, own)
    assert average.state_dict() == {} and average.num_updates == 0
    average.load_state_dict({}, 0)


def test_an_average_without_all_weights_is_refused():
    average = WeightAverage(tiny_denoiser(), EMASpec())
    state = dict(average.state_dict())
    del state["head.bias"]
    with pytest.raises(
        InputError, match=r"the checkpoint's weight average has no head.bias: was ema off when it was written\?"
    ):
        average.load_state_dict(state, 1)


# the whole state


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("ema", [EMASpec(decay=0.5), None])
def test_resuming_equals_training_without_a_break(kind, ema, tmp_path):
    spec = OptimizerSpec(type=kind, lr=1e-2, weight_decay=0.1, schedule="cosine", warmup_steps=2)

    def trained(state: TrainingState, steps: range) -> list[float]:
        rates = []
        for step in steps:
            noisy = torch.randn(4, 4, 8, generator=torch.Generator().manual_seed(step))
            (state.model(noisy, torch.full((4,), step)) - noisy).square().mean().backward()
            rates.append(learning_rate(spec, step, 8))
            state.optimizer.clip_gradients()
            state.optimizer.step(rates[-1])
            state.average.update(step + 1)
        return rates

    straight = TrainingState(tiny_denoiser(), spec, ema)
    rates = trained(straight, range(5))
    path = save_checkpoint(tmp_path, straight.checkpoint(5), keep=1)
    resumed = TrainingState(tiny_denoiser(seed=9), spec, ema)
    resumed.restore(load_checkpoint(path))
    assert trained(straight, range(5, 8)) == trained(resumed, range(5, 8))
    assert rates == [learning_rate(spec, step, 8) for step in range(5)]
    assert_weights(resumed.model, straight.model.named_parameters())
    torch.testing.assert_close(resumed.average.state_dict(), straight.average.state_dict(), atol=0, rtol=0)
    assert resumed.average.num_updates == straight.average.num_updates == (8 if ema else 0)
    if ema:
        assert any(
            not torch.equal(value, straight.average.state_dict()[name])
            for name, value in straight.model.named_parameters()
        )


def test_restoring_none_keeps_the_initial_state():
    state = TrainingState(tiny_denoiser(), OptimizerSpec(), EMASpec())
    before = copied(state.model)
    state.restore(None)
    assert_weights(state.model, before)
