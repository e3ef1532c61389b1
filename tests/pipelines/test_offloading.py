"""Offloading to the CPU and bounded memory in both pipelines, as the base class promises."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import make_scheduler
from genrep.errors import InputError
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import base
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.randomness import image_generators
from tests.models.test_denoiser import woken
from tests.pipelines.test_gan import latents as gan_of_latents
from tests.pipelines.test_gan import pixels as gan_of_pixels
from tests.tiny import tiny_autoencoder


def diffusion(guide=None, **sampling):
    normalizer = LatentNormalizer.from_statistics(torch.zeros(4, 8), torch.ones(4, 8))
    scheduler = make_scheduler("dpm_solver", NoiseLevels(NoiseSpec(), (4, 8)))
    sampling = {"num_inference_steps": 2, **sampling}
    parts = (tiny_autoencoder(), woken(), normalizer, scheduler)
    pipeline = LatentDiffusionPipeline(*parts, sampling=sampling, guide=guide)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def autoguided():
    torch.manual_seed(1)
    return diffusion(woken(depth=1), guidance_scale=2.0)


every_pipeline = pytest.mark.parametrize("make", [diffusion, autoguided, gan_of_pixels, gan_of_latents])


def draw(pipeline, count=2, **options):
    generators = image_generators(0, range(count))
    return pipeline([0, 1] * (count // 2), generator=generators, output_type="uint8", **options).images


@every_pipeline
def test_offloading_reaches_every_model_in_the_order_of_use(make):
    """With the CPU as the accelerator: each model's hook runs before it is used, and sends the one before it back."""
    pipeline, expected, events = make(), draw(make()), []
    pipeline.enable_model_cpu_offload(device="cpu")
    models = [name for name in pipeline.model_cpu_offload_seq.split("->") if getattr(pipeline, name) is not None]
    assert {name for name, part in pipeline.components.items() if isinstance(part, nn.Module)} - {"normalizer"} == set(
        models
    )
    for name, hook in zip(models, pipeline._all_hooks, strict=True):
        moved = getattr(pipeline, name)._hf_hook

        def before(module, *args, name=name, pre_forward=moved.pre_forward, **kwargs):
            events.append(name)
            return pre_forward(module, *args, **kwargs)

        moved.pre_forward = before
        assert hook.model is getattr(pipeline, name)
    assert torch.equal(draw(pipeline), expected)
    assert list(dict.fromkeys(events)) == models
    assert torch.equal(draw(pipeline), expected), "a second call starts over"


def test_hooks_reach_what_is_called_outside_a_pipeline():
    from accelerate import cpu_offload_with_hook

    autoencoder = tiny_autoencoder()
    cpu_offload_with_hook(autoencoder, torch.device("cpu"))
    calls, pre_forward = [], autoencoder._hf_hook.pre_forward
    autoencoder._hf_hook.pre_forward = lambda *args, **kwargs: calls.append(1) or pre_forward(*args, **kwargs)
    for call in (
        lambda: autoencoder.encode(torch.zeros(1, 1, 8, 8)),
        lambda: autoencoder.decode(torch.zeros(1, 4, 8), torch.zeros(3, 2)),
        lambda: autoencoder.decoding(torch.zeros(1, 4, 8)),
        lambda: autoencoder.render(torch.zeros(1, 4, 8)),
    ):
        calls.clear()
        call()
        assert calls


class LargestFloats(TorchDispatchMode):
    """Records the size in bytes of the largest floating-point tensor that any operation creates."""

    largest = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else [result]:
            if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                self.largest = max(self.largest, tensor.untyped_storage().nbytes())
        return result


@every_pipeline
def test_no_floats_but_one_chunks_exist_at_any_size(make):
    """Four images of 96 × 96 make 36,864 pixels, of 288 × 288 nine times as many: the largest float tensor is the same."""
    pipeline, largest = make(), []
    for size in (96, 288):
        with LargestFloats() as floats:
            images = draw(pipeline, count=4, height=size, width=size)
        assert images.shape == (4, 1, size, size)
        largest.append(floats.largest)
    if make is gan_of_pixels:  # a chunk is 65,536 pixels, 16,384 of each image; 96² are fewer
        assert largest[1] <= 65_536 * 8 * 4, "rows of the widest layer"
        assert images.numel() * 8 * 4 > 5 * largest[1]
    else:
        assert largest[0] == largest[1]


@every_pipeline
def test_parts_on_the_way_to_the_cpu_change_nothing(make, monkeypatch):
    pipeline = make()
    whole = draw(pipeline, count=6)
    monkeypatch.setattr(base, "PART_PIXELS", 200)  # two or three images of 8 × 8 or 8 × 10
    assert (draw(pipeline, count=6).int() - whole.int()).abs().max() <= 1


@every_pipeline
def test_more_than_the_machine_holds_is_refused_before_work(make):
    pipeline = make()
    message = "2 images of 1000000 × 1000000 pixels would take 1,863 GiB, but cpu has .* GiB: render a smaller size, or one region"
    with pytest.raises(InputError, match=message):
        draw(pipeline, height=10**6, width=10**6)
