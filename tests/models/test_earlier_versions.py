"""Files of earlier versions still load and resume: a run folder of two steps from before other encoders and decoders, random
crops and noised latents were added."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from genrep.coords import grid
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.generator import CoordinateGenerator
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from genrep.training.checkpoint import load_checkpoint, save_checkpoint
from genrep.training.config import read_config
from genrep.training.run import Run
from genrep.training.specs import AutoencoderRun
from tests.scripts import PROJECT, run

EARLIER = PROJECT / "tests" / "fixtures" / "earlier_run"
CONFIG = EARLIER / "config.yaml"


def test_an_earlier_model_loads_with_its_weights():
    model = INRAutoencoder.from_pretrained(EARLIER / "model")
    saved = load_file(EARLIER / "model" / "diffusion_pytorch_model.safetensors")
    torch.testing.assert_close(dict(model.state_dict()), saved, rtol=0, atol=0)
    assert model.render(model.encode(torch.zeros(1, 1, 8, 8)), size=20).isfinite().all()


def test_a_resumed_earlier_run_equals_a_new_one(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    shutil.copytree(EARLIER, tmp_path / "earlier")
    for name in ("earlier", "new"):
        run("train/autoencoder.py", CONFIG, "--run.folder", tmp_path / name, "--run.steps", 3)
    resumed, straight = (
        load_file(tmp_path / name / "checkpoints" / "step-00000003" / "model.safetensors")
        for name in ("earlier", "new")
    )
    # the earlier steps were orthogonalised in bfloat16, which has 8 bits; a wrong rate or state would be off by 1e-3
    torch.testing.assert_close(resumed, straight, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["multiband", "ipc"])
def test_axes_that_follow_from_the_signal_are_written_out(tmp_path, kind):
    """Earlier versions wrote the default of 2: their runs can be resumed, and equal models have equal hashes."""
    decoder = {"type": kind, "hidden_dim": 4, "num_features": 8}
    content = read_config(CONFIG)
    content["run"]["folder"] = str(tmp_path)
    runs = [
        AutoencoderRun.model_validate(
            {**content, "autoencoder": {**content["autoencoder"], "decoder": {**decoder, **axes}}}
        )
        for axes in ({}, {"num_axes": 2})
    ]
    assert runs[0] == runs[1] and runs[0].autoencoder.decoder.num_axes == 2
    curves = {**content["autoencoder"], "image_size": [8], "encoder": {"type": "joint_attention"}, "decoder": decoder}
    assert AutoencoderRun.model_validate({**content, "autoencoder": curves}).autoencoder.decoder.num_axes == 1


def test_a_key_with_another_value_than_its_default_is_still_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(PROJECT)
    shutil.copytree(EARLIER, tmp_path / "earlier")
    with pytest.raises(InputError, match="reconstruction.latent_noise: was 0.0, is now 0.5"):
        content = read_config(CONFIG)
        content["reconstruction"]["latent_noise"] = 0.5
        content["run"]["folder"] = str(tmp_path / "earlier")
        config = AutoencoderRun.model_validate(content)
        Run(config, config.run)


def test_a_checkpoint_without_a_record_of_its_data_resumes(tmp_path, monkeypatch):
    monkeypatch.chdir(PROJECT)
    shutil.copytree(EARLIER, tmp_path / "earlier")
    folder = tmp_path / "earlier" / "checkpoints"
    checkpoint = load_checkpoint(folder / "step-00000002")
    del checkpoint.extra["data"]
    shutil.rmtree(folder)
    save_checkpoint(folder, checkpoint, keep=1)
    run("train/autoencoder.py", CONFIG, "--run.folder", tmp_path / "earlier", "--run.steps", 3)
    assert load_checkpoint(folder / "step-00000003").extra["data"]


def test_an_earlier_pipeline_draws_the_images_it_drew():
    folder = PROJECT / "tests" / "fixtures" / "earlier_pipeline"
    pipeline = LatentDiffusionPipeline.from_pretrained(folder)
    images = pipeline(
        [0, 7],
        num_inference_steps=4,
        guidance_scale=1.5,
        height=12,
        width=10,
        generator=torch.Generator().manual_seed(0),
        output_type="uint8",
    ).images
    assert (images.int() - load_file(folder / "images.safetensors")["images"].int()).abs().max() <= 1
    assert not pipeline.scheduler.config.use_lu_lambdas, "its own spacing"
    assert pipeline.sampling_settings() == {
        "num_inference_steps": 50, "guidance_scale": 1.0, "guidance_interval": (0.0, 1.0),
    }  # fmt: skip


def test_an_earlier_generator_makes_the_values_it_made():
    """With a noise_gain of 2.5, from when place and noise were initialised separately: only the weights matter now."""
    folder = PROJECT / "tests" / "fixtures" / "earlier_generator"
    saved = load_file(folder / "values.safetensors")
    generator = CoordinateGenerator.from_pretrained(folder)
    torch.testing.assert_close(generator(grid(4), saved["noise"], torch.tensor([0, 1])), saved["values"])


def test_an_earlier_transinr_loads_with_the_key_of_its_shared_head(tmp_path):
    """It had one head for the tokens of all layers; without the key, the message says what to do."""
    folder = shutil.copytree(PROJECT / "tests" / "fixtures" / "earlier_transinr", tmp_path / "earlier")
    with pytest.raises(InputError, match='add "shared_head": true to the decoder in config.json'):
        INRAutoencoder.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["shared_head"] = True
    (folder / "config.json").write_text(json.dumps(config))
    saved = load_file(folder / "values.safetensors")
    torch.testing.assert_close(INRAutoencoder.from_pretrained(folder).encode(saved["images"]), saved["latents"])
