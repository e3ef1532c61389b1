"""The denoiser: structure, parity with plain formulas, the tester contract of every model."""

import copy

import pytest
import torch

from genrep.errors import InputError
from genrep.models.denoiser import LatentDenoiser
from genrep.models.normalizer import LatentNormalizer

SMALL = {
    "num_tokens": 4,
    "latent_dim": 8,
    "num_classes": 3,
    "dim": 16,
    "depth": 2,
    "num_heads": 2,
    "head_dim": 8,
    "mlp_dim": 32,
}
VARIANTS = [
    {"conditioning": "adaln"},
    {"conditioning": "token"},
    {"conditioning": "adaln", "mlp": "swiglu", "norm": "rms", "qk_norm": True},
    {"conditioning": "token", "mlp": "swiglu", "norm": "rms", "qk_norm": True, "num_classes": 0},
]


def woken(**options) -> LatentDenoiser:
    """A denoiser whose zero-initialised layers are random, as after training."""
    denoiser = LatentDenoiser(**{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in denoiser.parameters():
            if parameter.abs().sum() == 0:
                parameter.normal_(std=0.3)
    return denoiser


def test_dit_l_has_458_million_parameters():
    """The locality-aware paper's generator is DiT-L with adaLN-zero: 24 blocks, 1024 wide, 16 heads."""
    with torch.device("meta"):
        denoiser = LatentDenoiser(256, 256, 1000, dim=1024, depth=24, num_heads=16, head_dim=64, mlp_dim=4096)
    assert sum(p.numel() for p in denoiser.parameters()) == pytest.approx(458e6, rel=0.01)


@pytest.mark.parametrize("options", VARIANTS)
def test_the_first_prediction_is_the_mean(options):
    denoiser = LatentDenoiser(**{**SMALL, **options})
    assert (denoiser(torch.randn(2, 4, 8), torch.tensor([0, 999])) == 0).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_time_and_class_matter_and_no_class_is_the_last_label(options):
    denoiser, noisy = woken(**options), torch.randn(2, 4, 8)
    early, late = (denoiser(noisy, torch.full((2,), t)) for t in (10, 900))
    assert not torch.allclose(early, late, atol=1e-3)
    if denoiser.spec.num_classes:
        labels = [denoiser(noisy, torch.full((2,), 10), torch.full((2,), label)) for label in (0, 1, 3)]
        assert not torch.allclose(labels[0], labels[1], atol=1e-4)
        torch.testing.assert_close(labels[2], early)


@pytest.mark.parametrize("options", VARIANTS)
def test_rows_of_a_batch_are_independent(options):
    denoiser, noisy, timesteps = woken(**options), torch.randn(5, 4, 8), torch.tensor([1, 50, 300, 700, 999])
    torch.testing.assert_close(
        denoiser(noisy, timesteps)[3:4], denoiser(noisy[3:4], timesteps[3:4]), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("options", VARIANTS)
def test_one_training_step_moves_every_parameter(options):
    denoiser = LatentDenoiser(**{**SMALL, **options})
    before = copy.deepcopy(denoiser.state_dict())
    optimizer = torch.optim.SGD(denoiser.parameters(), lr=1.0)
    labels = torch.tensor([0, 1, 2, 3]) if denoiser.spec.num_classes else None
    for _ in range(3):  # zero-initialised layers let gradients through one after the other
        optimizer.zero_grad()
        (
            denoiser(torch.randn(4, 4, 8), torch.tensor([5, 100, 500, 900]), labels) - torch.randn(4, 4, 8)
        ).square().mean().backward()
        optimizer.step()
    assert [name for name, value in denoiser.named_parameters() if torch.equal(value, before[name])] == []


def test_adaln_block_equals_dit_equations():
    block, tokens, condition = woken().blocks[0], torch.randn(2, 4, 16), torch.randn(2, 16)
    shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (
        part[:, None] for part in block.modulation(condition).chunk(6, -1)
    )

    def norm(x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()

    expected = tokens + gate_a * block.attention(norm(tokens) * (1 + scale_a) + shift_a)
    expected = expected + gate_m * block.mlp(norm(expected) * (1 + scale_m) + shift_m)
    torch.testing.assert_close(block(tokens, condition), expected, atol=1e-5, rtol=1e-4)


def test_swiglu_equals_its_formula():
    mlp, x = woken(mlp="swiglu").blocks[0].mlp, torch.randn(3, 16)
    gate, value = mlp.up(x).chunk(2, -1)
    torch.testing.assert_close(mlp(x), mlp.down(gate * torch.sigmoid(gate) * value))


@pytest.mark.parametrize("conditioning", ["adaln", "token"])
def test_routed_tokens_skip_the_blocks_in_the_middle_of_a_training_step(conditioning):
    """Each set by itself, written out: the first block, the middle for half of the tokens, the last block."""
    denoiser = woken(conditioning=conditioning, depth=4, routed=0.5).train()
    seen, first, middle = {}, denoiser.blocks[0], denoiser.blocks[1]
    first.register_forward_hook(lambda _, inputs, output: seen.update(first=output))
    middle.register_forward_hook(lambda _, inputs, output: seen.update(entered=inputs[0], condition=inputs[1]))
    noisy, timesteps = torch.randn(3, 4, 8), torch.tensor([10, 500, 900])
    predicted = denoiser(noisy, timesteps)
    num_extra = 2 if conditioning == "token" else 0
    assert seen["entered"].shape == (3, 2 + num_extra, 16)
    expected = []
    for tokens, entered, condition in zip(seen["first"], seen["entered"], seen["condition"], strict=True):
        kept = [int((tokens == token).all(dim=1).nonzero()) for token in entered]
        assert sorted(kept)[2:] == list(range(4, 4 + num_extra)), "the extra tokens never skip"
        part = entered[None]
        for block in denoiser.blocks[1:-1]:
            part = block(part, condition[None])
        tokens = tokens.clone()
        tokens[kept] = part[0]
        tokens = denoiser.blocks[-1](tokens[None], condition[None])[:, :4]
        if denoiser.modulation is None:
            expected.append(denoiser.head(denoiser.norm(tokens)))
        else:
            shift, scale = denoiser.modulation(condition)[None, None].chunk(2, dim=-1)
            expected.append(denoiser.head(denoiser.norm(tokens) * (1 + scale) + shift))
    torch.testing.assert_close(predicted, torch.cat(expected))
    torch.manual_seed(1)
    again = denoiser(noisy, timesteps)
    assert not torch.allclose(again, predicted), "other tokens skip in another step"


@pytest.mark.parametrize("conditioning", ["adaln", "token"])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_the_tokens_after_a_block_are_those_of_the_latents(conditioning, block):
    denoiser, outputs = woken(conditioning=conditioning, depth=3), []
    denoiser.blocks[block - 1].register_forward_hook(lambda _, inputs, output: outputs.append(output))
    noisy, timesteps = torch.randn(3, 4, 8), torch.tensor([10, 500, 900])
    predicted, hidden = denoiser.predict(noisy, timesteps, block=block)
    torch.testing.assert_close(hidden, outputs[0][:, :4])  # the tokens of time and class follow
    torch.testing.assert_close(predicted, denoiser(noisy, timesteps))
    assert denoiser.predict(noisy, timesteps)[1] is None


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_tokens_that_skip_a_block_are_those_after_the_first(block):
    denoiser, seen = woken(depth=4, routed=0.5).train(), {}
    for number, layer in enumerate(denoiser.blocks, 1):
        layer.register_forward_hook(lambda _, inputs, output, number=number: seen.update({number: (inputs[0], output)}))
    hidden = denoiser.predict(torch.randn(3, 4, 8), torch.tensor([10, 500, 900]), block=block)[1]
    if block in (1, 4):  # all tokens pass these
        torch.testing.assert_close(hidden, seen[block][1])
        return
    for image in range(3):
        after_first, entered = seen[1][1][image], seen[2][0][image]
        expected = after_first.clone()
        for token, output in zip(entered, seen[block][1][image], strict=True):
            expected[int((after_first == token).all(dim=1).nonzero())] = output
        torch.testing.assert_close(hidden[image], expected)


def test_no_token_skips_blocks_outside_of_training():
    routed, plain = woken(depth=3, routed=0.5), woken(depth=3)
    routed.load_state_dict(plain.state_dict())
    noisy = torch.randn(2, 4, 8)
    assert torch.equal(routed.eval()(noisy, 10.0), plain.eval()(noisy, 10.0))
    assert not torch.equal(routed.train()(noisy, 10.0), plain(noisy, 10.0)), "in training they do"


def test_absent_tokens_skip_first_and_one_token_stays():
    options = {**SMALL, "depth": 3, "position_dim": 2, "routed": 0.9}
    denoiser, mask = LatentDenoiser(**options).train(), torch.zeros(2, 4, dtype=torch.bool)
    mask[0, 2], mask[1, 1:] = True, True
    masks = []
    denoiser.blocks[1].register_forward_hook(lambda _, inputs, output: masks.append(inputs[2]))
    for _ in range(20):
        denoiser(torch.randn(2, 4, 8), 10.0, mask=mask)
    assert all(part.shape == (2, 1) and part.all() for part in masks)


def test_routing_needs_blocks_to_skip():
    with pytest.raises(InputError, match="routed needs a depth of at least 3"):
        LatentDenoiser(**{**SMALL, "depth": 2, "routed": 0.5})


@pytest.mark.parametrize("options", VARIANTS)
def test_save_and_load_are_equal(tmp_path, options):
    denoiser, noisy, timesteps = woken(**options), torch.randn(2, 4, 8), torch.tensor([3, 400])
    denoiser.save_pretrained(tmp_path)
    loaded = LatentDenoiser.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.state_dict(), denoiser.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(loaded(noisy, timesteps), denoiser(noisy, timesteps))


def test_impossible_arguments_are_refused():
    with pytest.raises(InputError, match="depth: must be greater than 0; got 0"):
        LatentDenoiser(4, 8, depth=0)
    with pytest.raises(InputError, match="conditioning: must be .*; got 'adanl'; did you mean 'adaln'"):
        LatentDenoiser(4, 8, conditioning="adanl")
    with pytest.raises(InputError, match="trained without classes"):
        LatentDenoiser(**{**SMALL, "num_classes": 0})(
            torch.zeros(1, 4, 8), torch.zeros(1), torch.zeros(1, dtype=torch.long)
        )


def test_normalizer_standardises_and_restores(tmp_path):
    latents = torch.randn(200, 4, 8) * torch.rand(4, 8) + torch.randn(4, 8)
    normalizer = LatentNormalizer.from_statistics(latents.mean(0), latents.std(0, correction=0))
    standard = normalizer.standardize(latents)
    torch.testing.assert_close(standard.mean(0), torch.zeros(4, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.ones(4, 8), atol=1e-4, rtol=0)
    torch.testing.assert_close(normalizer.restore(standard), latents)
    normalizer.save_pretrained(tmp_path)
    assert torch.equal(LatentNormalizer.from_pretrained(tmp_path).standardize(latents), standard)


def test_a_channel_that_never_varies_divides_nothing_by_zero():
    normalizer = LatentNormalizer.from_statistics(torch.ones(1, 2), torch.tensor([[0.0, 2.0]]))
    assert normalizer.standardize(torch.ones(3, 1, 2)).isfinite().all()
