"""Loading refuses missing or damaged files and those of another model, and says which and where."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from genrep.diffusion import NoiseSpec
from genrep.diffusion.noise_levels import NoiseLevels
from genrep.diffusion.schedulers import make_scheduler
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.classifier import ImageClassifier
from genrep.models.denoiser import LatentDenoiser
from genrep.models.loading import HASHES
from genrep.models.normalizer import LatentNormalizer
from genrep.pipelines import load_pipeline
from genrep.pipelines.diffusion import LatentDiffusionPipeline
from tests.tiny import tiny_autoencoder, tiny_denoiser

MODELS = {
    "autoencoder": tiny_autoencoder,
    "denoiser": tiny_denoiser,
    "normalizer": lambda: LatentNormalizer.from_statistics(torch.randn(4, 8), torch.rand(4, 8)),
    "classifier": lambda: ImageClassifier(8, 1, 10, width=8),
}
WEIGHTS = "diffusion_pytorch_model.safetensors"
every_model = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def change_weights(folder: Path, change) -> None:
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file({name: value.clone() for name, value in weights.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / HASHES).unlink(missing_ok=True)  # as somebody who edits them on purpose


def change_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


# models


@every_model
def test_saving_and_loading_a_model_changes_nothing(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    for place in (tmp_path, str(tmp_path)):
        loaded = type(saved).from_pretrained(place)
        torch.testing.assert_close(loaded.state_dict(), saved.state_dict(), rtol=0, atol=0)
        assert not loaded.training
    loaded, info = type(saved).from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is type(saved) and info["missing_keys"] == []
    saved.save_pretrained(tmp_path / "whole" / "part")
    assert type(type(saved).from_pretrained(tmp_path / "whole", subfolder="part")) is type(saved)


@every_model
@pytest.mark.parametrize("place", [-1, -17, -64])
def test_a_flipped_bit_in_the_weights_is_found(model, tmp_path, place):
    """Safetensors itself does not notice: any bits are a number."""
    model().save_pretrained(tmp_path)
    content = bytearray((tmp_path / WEIGHTS).read_bytes())
    content[place] ^= 1
    (tmp_path / WEIGHTS).write_bytes(content)
    with pytest.raises(InputError, match=f"{WEIGHTS}: damaged, its hash differs from that of the saved weights"):
        type(model()).from_pretrained(tmp_path)
    (tmp_path / HASHES).unlink()  # changed on purpose, or saved by an earlier version
    type(model()).from_pretrained(tmp_path)


def test_hashes_that_are_damaged_themselves(tmp_path):
    tiny_denoiser().save_pretrained(tmp_path)
    (tmp_path / HASHES).write_text("[1")
    with pytest.raises(InputError, match=f"{HASHES}: damaged"):
        LatentDenoiser.from_pretrained(tmp_path)


@every_model
@pytest.mark.parametrize("relative", [False, True])
def test_a_missing_folder_is_refused_without_asking_the_network(model, relative, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = type(model())
    place = "nowhere" if relative else str(tmp_path / "no" / "where")
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(place)}: no {kind.__name__} here \(no config.json\); give a folder written by save_pretrained$",
    ):
        kind.from_pretrained(place)


@every_model
def test_a_folder_without_config_is_refused(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"{re.escape(str(tmp_path / 'part'))}: no {type(saved).__name__} here"):
        type(saved).from_pretrained(tmp_path, subfolder="part")
    (tmp_path / "config.json").unlink()
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(tmp_path))}: no {type(saved).__name__} here \(no config.json\)"
    ):
        type(saved).from_pretrained(tmp_path)


@every_model
@pytest.mark.parametrize("length", [0, 4, -4])
def test_truncated_weights_are_refused(model, length, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    content = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(content[:length])
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path / WEIGHTS))}: damaged"):
        type(saved).from_pretrained(tmp_path)
    (tmp_path / HASHES).unlink()
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(str(tmp_path))}: this {type(saved).__name__} is damaged or of another kind .*{WEIGHTS}",
    ):
        type(saved).from_pretrained(tmp_path)


@every_model
def test_missing_weights_are_named(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    gone = sorted(saved.state_dict())[0]
    change_weights(tmp_path, lambda weights: weights.pop(gone))
    message = rf"^{tmp_path}: the weights do not fit the {type(saved).__name__} that config.json describes: missing keys \['{re.escape(gone)}'\]; save the model"
    with pytest.raises(InputError, match=message):
        type(saved).from_pretrained(tmp_path)


@every_model
def test_surplus_weights_are_named(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    change_weights(tmp_path, lambda weights: weights.update({"of_another.model": torch.zeros(2)}))
    with pytest.raises(
        InputError,
        match=r"the weights do not fit .*: unexpected keys \['of_another.model'\]; save the model again, or fix config.json",
    ):
        type(saved).from_pretrained(tmp_path)


@every_model
def test_weights_of_another_shape_are_named(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    name, value = sorted(saved.state_dict().items())[0]
    change_weights(
        tmp_path, lambda weights: weights.update({name: torch.zeros(*value.shape[:-1], value.shape[-1] + 1)})
    )
    with pytest.raises(
        InputError,
        match=rf"this {type(saved).__name__} is damaged or of another kind.*{re.escape(name)} expected shape",
    ):
        type(saved).from_pretrained(tmp_path)


@every_model
def test_missing_weights_file_is_refused(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(
        InputError, match=rf"^{re.escape(str(tmp_path))}: this {type(saved).__name__} is damaged or of another kind"
    ):
        type(saved).from_pretrained(tmp_path)


def test_pickled_weights_are_not_read(tmp_path):
    saved = tiny_denoiser()
    saved.save_pretrained(tmp_path)
    torch.save(saved.state_dict(), tmp_path / "diffusion_pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(InputError, match="safetensors"):
        LatentDenoiser.from_pretrained(tmp_path)


@every_model
def test_a_damaged_config_is_refused(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(str(tmp_path / 'config.json'))}: damaged",
    ):
        type(saved).from_pretrained(tmp_path)


def test_a_misspelt_key_inside_a_part_is_named(tmp_path):
    tiny_autoencoder().save_pretrained(tmp_path)
    change_config(tmp_path, lambda config: config["encoder"].update(dmi=config["encoder"].pop("dim")))
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(str(tmp_path / 'config.json'))}: INRAutoencoder: encoder.dmi: unknown key; did you mean 'dim'\?",
    ):
        INRAutoencoder.from_pretrained(tmp_path)


def test_an_impossible_value_in_a_config_is_named(tmp_path):
    tiny_denoiser().save_pretrained(tmp_path)
    change_config(tmp_path, lambda config: config.update(conditioning="adanl"))
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(str(tmp_path / 'config.json'))}: LatentDenoiser: conditioning: must be .*; got 'adanl'; did you mean 'adaln'\?",
    ):
        LatentDenoiser.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("model", "key"),
    [
        ("autoencoder", "encoder"), ("autoencoder", "num_tokens"), ("denoiser", "latent_dim"), ("denoiser", "depth"), ("denoiser", "num_classes"),
        ("normalizer", "num_tokens"), ("classifier", "num_classes"), ("classifier", "width"),
    ],
)  # fmt: skip
def test_a_misspelt_key_that_shapes_the_weights_never_loads(model, key, tmp_path):
    saved = MODELS[model]()
    saved.save_pretrained(tmp_path)
    change_config(tmp_path, lambda config: config.update({f"{key}x": config.pop(key)}))
    with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path))}"):
        type(saved).from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "model",
    [lambda: tiny_denoiser(norm="rms"), lambda: ImageClassifier(8, 1, 10, width=8, dropout=0.7)],
    ids=["norm", "dropout"],
)
def test_a_misspelt_key_that_shapes_no_weight_never_loads_either(model, tmp_path):
    saved = model()
    saved.save_pretrained(tmp_path)
    key = "norm" if isinstance(saved, LatentDenoiser) else "dropout"
    change_config(tmp_path, lambda config: config.update({f"{key}x": config.pop(key)}))
    with pytest.raises(InputError, match=rf"config.json: .*{key}x.*did you mean '{key}'"):
        type(saved).from_pretrained(tmp_path)


def test_one_model_is_not_another(tmp_path):
    tiny_denoiser().save_pretrained(tmp_path)
    for kind in (INRAutoencoder, LatentNormalizer, ImageClassifier):
        with pytest.raises(InputError, match=rf"^{re.escape(str(tmp_path))}"):
            kind.from_pretrained(tmp_path)


# pipelines


@pytest.fixture(scope="module")
def saved_pipeline(tmp_path_factory):
    """A run folder with a pipeline in it."""
    scheduler = make_scheduler("dpm_solver", NoiseLevels(NoiseSpec(num_timesteps=20), (4, 8)))
    pipeline = LatentDiffusionPipeline(tiny_autoencoder(), tiny_denoiser(), MODELS["normalizer"](), scheduler)
    folder = tmp_path_factory.mktemp("run")
    pipeline.save_pretrained(folder / "pipeline")
    return folder


@pytest.fixture
def run_folder(saved_pipeline, tmp_path):
    shutil.copytree(saved_pipeline, tmp_path / "run")
    return tmp_path / "run"


def test_a_pipeline_is_found_in_a_run_folder_and_in_its_own(saved_pipeline):
    for place in (saved_pipeline, saved_pipeline / "pipeline", str(saved_pipeline)):
        assert isinstance(load_pipeline(place), LatentDiffusionPipeline)


def test_a_missing_pipeline_is_refused(tmp_path):
    with pytest.raises(
        InputError,
        match=rf"^{re.escape(str(tmp_path))}: no pipeline here \(no {re.escape(str(tmp_path / 'model_index.json'))}\); give the folder of a finished run of stage 2",
    ):
        load_pipeline(tmp_path)
    for place in (tmp_path, tmp_path / "nowhere", "nowhere", "./no/where"):
        with pytest.raises(
            InputError,
            match=r"no LatentDiffusionPipeline here \(no model_index.json\); give a folder written by save_pretrained",
        ):
            LatentDiffusionPipeline.from_pretrained(place)


def test_a_run_folder_is_told_from_its_pipeline(saved_pipeline):
    with pytest.raises(InputError, match=r"no model_index.json, but there is one in pipeline/\)"):
        LatentDiffusionPipeline.from_pretrained(saved_pipeline)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"model_index.json: damaged .*; save the pipeline again"),
        ("[]", r"model_index.json: damaged .*; save the pipeline again"),
        ("{}", r"model_index.json: damaged \(KeyError\('_class_name'\)\); save the pipeline again"),
        (
            '{"_class_name": "DDPMPipeline"}',
            r"model_index.json: the pipeline must be one of LatentDiffusionPipeline, .*; got DDPMPipeline",
        ),
    ],
)
def test_an_index_of_something_else_is_refused(run_folder, content, message):
    (run_folder / "pipeline" / "model_index.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_pipeline(run_folder)


@pytest.mark.parametrize(
    ("part", "kind"),
    [("autoencoder", "INRAutoencoder"), ("denoiser", "LatentDenoiser"), ("normalizer", "LatentNormalizer")],
)
def test_a_missing_or_damaged_part_of_a_pipeline_is_named(run_folder, part, kind):
    weights = run_folder / "pipeline" / part / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(InputError, match=rf"pipeline/{part}/{WEIGHTS}: damaged"):
        load_pipeline(run_folder)
    shutil.rmtree(weights.parent)
    with pytest.raises(InputError, match=rf"no {kind} here \(no config.json\)"):
        load_pipeline(run_folder)


def test_a_pipeline_without_its_scheduler_is_refused(run_folder):
    shutil.rmtree(run_folder / "pipeline" / "scheduler")
    with pytest.raises(InputError, match="scheduler"):
        load_pipeline(run_folder)


def test_an_index_that_lacks_a_part_is_refused(run_folder):
    index = run_folder / "pipeline" / "model_index.json"
    content = json.loads(index.read_text())
    del content["denoiser"]
    index.write_text(json.dumps(content))
    with pytest.raises(InputError, match="denoiser"):
        load_pipeline(run_folder)
