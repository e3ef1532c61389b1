"""Guidance of a single prediction: the formulas of the papers, what is called for them, and guides that do not fit."""

import pytest
import torch

from genrep.diffusion.guidance import check_guide, guided_prediction
from genrep.errors import InputError
from tests.models.test_denoiser import woken
from tests.tiny import tiny_autoencoder

TIMESTEP = torch.tensor(500)


def counting(denoiser) -> list[int]:
    """A list that each call of a denoiser extends by its number of rows."""
    rows: list[int] = []
    denoiser.register_forward_pre_hook(lambda module, arguments: rows.append(len(arguments[0])))
    return rows


@pytest.fixture
def noisy():
    return torch.randn(2, 4, 8)


def test_classifier_free_guidance_is_the_formula_in_one_batch(noisy):
    denoiser, labels = woken(), torch.tensor([0, 2])
    rows = counting(denoiser)
    guided = guided_prediction(denoiser, None, noisy, TIMESTEP, labels, 2.5, None)
    assert rows == [4]
    conditional, unconditional = denoiser(noisy, TIMESTEP, labels), denoiser(noisy, TIMESTEP, None)
    torch.testing.assert_close(guided, unconditional + 2.5 * (conditional - unconditional), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("labels", [torch.tensor([0, 2]), None], ids=["classes", "no classes"])
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.5])
def test_autoguidance_is_equation_3_of_the_paper(noisy, labels, scale):
    """D_w = w D_1 + (1 - w) D_0, both for the same class."""
    classes = 0 if labels is None else 3
    denoiser, guide = woken(num_classes=classes), woken(num_classes=classes, dim=8, depth=1)
    rows = counting(denoiser), counting(guide)
    guided = guided_prediction(denoiser, guide, noisy, TIMESTEP, labels, scale, None)
    assert rows == ([2], [2])
    good, bad = denoiser(noisy, TIMESTEP, labels), guide(noisy, TIMESTEP, labels)
    torch.testing.assert_close(guided, scale * good + (1 - scale) * bad, atol=1e-5, rtol=1e-4)
    assert (good - bad).abs().max() > 0.1


def test_a_denoiser_that_guides_itself_changes_nothing(noisy):
    denoiser, labels = woken(), torch.tensor([0, 2])
    plain = guided_prediction(denoiser, None, noisy, TIMESTEP, labels, 1.0, None)
    assert torch.equal(guided_prediction(denoiser, denoiser, noisy, TIMESTEP, labels, 7.0, None), plain)


def test_scale_one_calls_the_denoiser_alone(noisy):
    denoiser, guide, labels = woken(), woken(), torch.tensor([0, 2])
    rows = counting(denoiser), counting(guide)
    alone = guided_prediction(denoiser, guide, noisy, TIMESTEP, labels, 1.0, None)
    assert rows == ([2], []) and torch.equal(alone, denoiser(noisy, TIMESTEP, labels))


def test_predictions_are_extrapolated_in_float32(noisy):
    denoiser, guide, labels = woken(), woken(depth=1), torch.tensor([0, 2])
    for model in (denoiser, guide):
        model.to(torch.bfloat16)
    guided = guided_prediction(denoiser, guide, noisy, TIMESTEP, labels, 2.5, None)
    good, bad = (model(noisy, TIMESTEP, labels) for model in (denoiser, guide))
    assert good.dtype == bad.dtype == torch.bfloat16 and guided.dtype == torch.float32
    assert torch.equal(guided, bad.float() + 2.5 * (good.float() - bad.float()))


@pytest.mark.parametrize(
    ("guide", "got"),
    [
        (woken(num_tokens=5), r"latents \(5, 8\), position_dim 0 and 3 classes"),
        (woken(latent_dim=6), r"latents \(4, 6\), position_dim 0 and 3 classes"),
        (woken(position_dim=2), r"latents \(4, 8\), position_dim 2 and 3 classes"),
        (woken(num_classes=0), r"latents \(4, 8\), position_dim 0 and 0 classes"),
    ],
)
def test_guides_that_do_not_fit_are_refused(guide, got):
    wanted = r"latents \(4, 8\), position_dim 0 and 3 classes"
    with pytest.raises(InputError, match=f"^a guide with {got} does not fit a denoiser with {wanted}$"):
        check_guide(guide, woken())


def test_only_a_denoiser_guides():
    for wrong, name in (("runs/small", "'runs/small'"), (tiny_autoencoder(), "INRAutoencoder")):
        with pytest.raises(
            InputError, match=f"guide must be a LatentDenoiser, such as another pipeline's .*; got {name}"
        ):
            check_guide(wrong, woken())
    check_guide(None, woken())
    check_guide(torch.compile(woken(dim=8, depth=1)), woken())
