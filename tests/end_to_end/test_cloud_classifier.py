"""Point transformers on cached clouds, through train/classifier.py: training, resuming, ARCMix, mistakes in configs."""

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from genrep.data.latents import LatentCache
from genrep.errors import InputError
from genrep.models.cloud_classifier import CloudClassifier
from genrep.randomness import uniform_at
from genrep.specs import validate
from genrep.training.classification import CloudClassification
from genrep.training.config import read_config
from genrep.training.run import Run
from genrep.training.specs import ClassifierRun
from tests.end_to_end.test_clouds import SMALL as SMALL_CLOUDS
from tests.scripts import AUTOENCODER, PROJECT, lines, run

CONFIG = "configs/digits/classifier_arc.yaml"
SMALL = [
    "--classifier.widths", "[8,16]", "--classifier.depths", "[1,1]", "--classifier.num_heads", 2, "--run.batch", 16,
    "--run.save_every", 2, "--run.evaluate_every", 4, "--run.report_every", 1,
]  # fmt: skip


@pytest.fixture(scope="module")
def stage1(tmp_path_factory):
    """A decoder trained for a few steps; the first test that needs its latent cache writes it."""
    folder = tmp_path_factory.mktemp("clouds")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/clouds.py", *SMALL_CLOUDS, "--run.steps", 5, "--run.folder", folder / "arc")
    return folder


def options(stage1, folder, *more):
    places = ["--autoencoder", stage1 / "arc", "--latents.folder", stage1 / "latents", "--run.folder", folder]
    return [CONFIG, *SMALL, *places, *more]


@pytest.mark.parametrize("attention", ["neighbours", "grid"])
def test_a_resumed_run_equals_a_straight_one(stage1, tmp_path, attention):
    more = ["--classifier.attention", attention, "--optimizer.schedule", "constant", "--augment.mix", "true"]
    for name, steps in (("straight", 4), ("resumed", 2), ("resumed", 4)):
        run("train/classifier.py", *options(stage1, tmp_path / name, *more, "--run.steps", steps, "--shifted_by", 2))
    straight, resumed = (
        load_file(tmp_path / name / "model" / "diffusion_pytorch_model.safetensors") for name in ("straight", "resumed")
    )
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[key], resumed[key]) for key in straight)
    last = lines(tmp_path / "straight")[-1]
    assert 0 <= last["accuracy"] <= 1 and 0 <= last["accuracy_shifted"] <= 1
    if attention == "neighbours":  # sees only relative positions, so a shift of the cloud changes nothing
        assert last["accuracy_shifted"] == pytest.approx(last["accuracy"], abs=0.02)
    with Image.open(tmp_path / "straight" / "confusion.png") as picture:
        assert min(picture.size) > 300


def test_a_run_on_several_fits_resumes(stage1, tmp_path):
    several = ["--latents.fits", 3, "--latents.folder", tmp_path / "latents", "--data.train_split", "train[:100]"]
    more = [*several, "--optimizer.schedule", "constant", "--augment.mix", "true"]
    for name, steps in (("straight", 4), ("resumed", 2), ("resumed", 4)):
        run("train/classifier.py", *options(stage1, tmp_path / name, *more, "--run.steps", steps))
    assert LatentCache(tmp_path / "latents").num_views == 3
    straight, resumed = (
        load_file(tmp_path / name / "model" / "diffusion_pytorch_model.safetensors") for name in ("straight", "resumed")
    )
    assert straight.keys() == resumed.keys() and all(torch.equal(straight[key], resumed[key]) for key in straight)


def opened(stage1, folder, **changes):
    content = read_config(PROJECT / CONFIG)
    content |= {"autoencoder": str(stage1 / "arc"), "latents": {"folder": str(stage1 / "latents")}, **changes}
    content["run"] |= {"folder": str(folder), "batch": 8}
    config = validate(ClassifierRun, content, where="test")
    classification = CloudClassification(config, CONFIG)
    run_ = Run(config, config.run, identity=classification.identity)
    return classification, classification.open(run_)


def test_mixed_labels_are_shares_of_the_two_classes(stage1, tmp_path):
    classification, stream = opened(stage1, tmp_path, augment={"mix": True})
    positions = list(range(8))
    batch, following = stream.__getitems__(positions), stream.__getitems__([p + 1 for p in positions])
    (latents, mask), targets = classification.examples(batch)
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    for row, (own, partner) in enumerate(zip(batch.labels.tolist(), following.labels.tolist(), strict=True)):
        assert set(targets[row].nonzero().flatten().tolist()) <= {own, partner}
        if own != partner:  # mixed from ⌊λ n⌋ and ⌊(1 - λ) n⌋ points
            share = float(targets[row, own])
            assert int(mask[row].sum()) == int(share * 24) + int((1 - share) * 24)
    alone = classification.examples(stream.__getitems__([3]))
    torch.testing.assert_close(alone[1], targets[3:4])
    torch.testing.assert_close(alone[0][0], latents[3:4])


@pytest.mark.parametrize("normalize", ["channel", "whole", "none"])
def test_features_are_standardised_as_normalize_says(stage1, tmp_path, normalize):
    classification, _ = opened(stage1, tmp_path, normalize=normalize)
    model = classification.build()
    features = LatentCache(stage1 / "latents").stored(range(1438)).double()[..., 2:].flatten(0, 1)
    standard = (features - model.feature_mean) / model.feature_std
    if normalize == "channel":
        torch.testing.assert_close(standard.mean(0), torch.zeros(8).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(standard.std(0), torch.ones(8).double(), rtol=0, atol=1e-3)
    elif normalize == "whole":
        assert abs(float(standard.mean())) < 1e-4 and abs(float(standard.std()) - 1) < 1e-3
        assert float(standard.std(0).max() - standard.std(0).min()) > 1e-3
    else:
        torch.testing.assert_close(standard, features)


def test_mistakes_in_configs_are_refused(stage1, tmp_path, capsys):
    for changes, message in (
        (["--image_size", 8], "point_transformer needs autoencoder, which determines image_size: leave image_size out"),
        (["--latents.folder", "null"], "reads clouds from a latent cache: set latents.folder"),
        (["--classifier.widths", "[8]"], "widths and depths must both have one number per stage"),
    ):
        run("train/classifier.py", *options(stage1, tmp_path / "no"), *changes, expect=2)
        assert message in capsys.readouterr().err
    for key, value in (
        ("pushed_by", 2),
        ("shifted_by", 2),
        ("displaced_by", 1),
        ("normalize", "none"),
        ("augment.flip", "true"),
    ):
        run("train/classifier.py", "configs/digits/classifier.yaml", f"--{key}", value, expect=2)
        name = key.partition(".")[0]
        message = f"{name} is for classifier.type point_transformer, and has no effect on convolutional: leave it out"
        assert message in capsys.readouterr().err
    run("train/classifier.py", "configs/digits/classifier.yaml", "--autoencoder", stage1 / "arc", expect=2)
    assert "classifier.type convolutional needs image_size and no autoencoder" in capsys.readouterr().err
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 1, "--run.folder", tmp_path / "slots")
    run("train/classifier.py", *options(stage1, tmp_path / "no"), "--autoencoder", tmp_path / "slots", expect=2)
    assert "needs tokens with positions, and the tokens of" in capsys.readouterr().err
    with pytest.raises(InputError):
        CloudClassifier.from_pretrained(tmp_path / "slots" / "model")


def test_a_cache_without_held_out_clouds_is_refused_before_training(stage1, tmp_path, capsys):
    arguments = options(stage1, tmp_path / "run", "--latents.held_out", "false", "--run.steps", 1)
    run("train/classifier.py", *arguments, "--latents.folder", tmp_path / "latents", expect=2)
    assert "the cache has no held-out latents" in capsys.readouterr().err


def test_displaced_images_are_fitted_anew(stage1, tmp_path):
    classification, _ = opened(stage1, tmp_path, displaced_by=2)
    data = classification.config.data.open("held_out", (8, 8), 1)
    (latents, mask), labels = classification.displaced[0]
    assert sum(len(labels) for _, labels in classification.displaced) == len(data) == 359
    assert torch.equal(labels, data.labels_of(range(len(labels)))) and bool(mask.all())
    draws = uniform_at(range(len(labels)), (2,), classification.config.run.seed, "displaced")
    moves = (draws * 5).long() - 2
    assert set(moves.flatten().tolist()) == {-2, -1, 0, 1, 2}
    values = data.signal.values(data.read([0, 1, 2]))
    rows, columns = (torch.arange(8)[None] + moves[:3, axis, None] for axis in range(2))
    moved = torch.stack(
        [
            image[:, row.clamp(0, 7)][:, :, column.clamp(0, 7)]
            for image, row, column in zip(values, rows, columns, strict=True)
        ]
    )
    torch.testing.assert_close(classification.autoencoder.encode(moved), latents[:3], rtol=1e-3, atol=1e-3)

    class First(torch.nn.Module):
        def forward(self, latents, mask):
            return torch.nn.functional.one_hot(torch.zeros(len(latents), dtype=torch.long), 10).float()

    metrics = classification.measure(First())
    assert metrics["accuracy_displaced"] == metrics["accuracy"] == pytest.approx(0.1, abs=0.05)


def test_held_out_clouds_are_shifted_as_a_whole_and_pushed_point_by_point(stage1, tmp_path):
    classification, _ = opened(stage1, tmp_path, shifted_by=2.0, pushed_by=3.0)
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, latents, mask):
            seen.append(latents)
            return torch.nn.functional.one_hot(torch.zeros(len(latents), dtype=torch.long), 10).float()

    metrics = classification.measure(Watching())
    assert (
        metrics["accuracy"] == metrics["accuracy_shifted"] == metrics["accuracy_pushed"] == pytest.approx(0.1, abs=0.05)
    )
    intact, moved, pushed = torch.cat(seen).chunk(3)
    assert (
        len(intact) == 359
        and torch.equal(intact[..., 2:], moved[..., 2:])
        and torch.equal(intact[..., 2:], pushed[..., 2:])
    )
    shift, push = (positions[..., :2] - intact[..., :2] for positions in (moved, pushed))
    shift, push = shift * 8 / 2, push * 8 / 2  # pixels
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=0, atol=1e-4)
    assert 1.9 < float(shift.abs().max()) <= 2.0001 and 2.9 < float(push.abs().max()) <= 3.0001
    assert abs(float(push.mean())) < 0.1 and float(push.std(1).mean()) == pytest.approx(3 / 3**0.5, rel=0.05)  # uniform


def test_evaluation_records_no_graph_and_rotation_needs_two_axes(stage1, tmp_path):
    classification, _ = opened(stage1, tmp_path, shifted_by=2.0)
    grad_enabled = []

    class Watching(torch.nn.Module):
        def forward(self, latents, mask):
            grad_enabled.append(torch.is_grad_enabled())
            return torch.zeros(len(latents), 10)

    metrics = classification.measure(Watching())
    assert metrics["held_out_images"] == 359 and metrics["accuracy"] == metrics["accuracy_shifted"]
    assert grad_enabled and not any(grad_enabled)
    classification.autoencoder.decoder.position_dim = 1
    content = read_config(PROJECT / CONFIG) | {"autoencoder": str(stage1 / "arc"), "augment": {"rotation": 90}}
    config = validate(ClassifierRun, content, where="test")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(InputError, match="augment.rotation is for images"):
        patch.setattr("genrep.training.classification.load_autoencoder", lambda *_: classification.autoencoder)
        CloudClassification(config, CONFIG)
