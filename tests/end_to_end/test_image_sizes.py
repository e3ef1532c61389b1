"""Images of different sizes through the scripts: decoder from crops, cache, point transformer, leak check, diffusion."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from genrep.data.latents import LatentCache
from genrep.models.size_classifier import SizeClassifier
from genrep.specs import validate
from genrep.training.classification import CloudClassification, extent_of, trimmed
from genrep.training.config import read_config
from genrep.training.run import Run
from genrep.training.specs import ClassifierRun
from tests.scripts import PROJECT, SMALL_DENOISER, lines, run

CONFIGS = "configs/imagenette"
SPLIT = ["--data.held_out_split", "null", "--data.held_out_fraction", 0.25, "--data.num_workers", 0]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two classes of twelve images: upright ones and wide ones."""
    folder = tmp_path_factory.mktemp("photos")
    generator = np.random.default_rng(0)
    for number in range(24):
        short = int(generator.integers(8, 20))
        long = short + int(generator.integers(3, 9))
        height, width = (short, long) if number % 2 else (long, short)
        path = folder / ("wide" if number % 2 else "upright") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        coarse = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="module")
def stage1(photos, tmp_path_factory):
    """A decoder trained on crops of 8×8; the first test that needs its latent cache writes it."""
    folder = tmp_path_factory.mktemp("sizes")
    encoder = {"type": "fit", "share": 0.2, "steps": 20, "parts": 1, "lr": 0.02}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run(
            "train/clouds.py", f"{CONFIGS}/arc_full.yaml", "--data.source", photos, *SPLIT, "--autoencoder.image_size", 8,
            "--autoencoder.num_tokens", 200, "--autoencoder.latent_dim", 6, "--autoencoder.encoder", json.dumps(encoder),
            "--autoencoder.decoder.hidden_dim", 8, "--run.batch", 8, "--run.steps", 20, "--run.report_every", 1,
            "--run.folder", folder / "arc",
        )  # fmt: skip
    return folder


def of_clouds(photos, stage1, folder, *more):
    return [
        "--data.source", photos, *SPLIT, "--data.native_size", "true", "--data.longest_side", "null",
        "--autoencoder", stage1 / "arc",
        "--latents.folder", stage1 / "latents", "--run.folder", folder, *more,
    ]  # fmt: skip


SMALL = [
    "--classifier.widths", "[8,16]", "--classifier.depths", "[1,1]", "--classifier.num_heads", 2, "--run.batch", 6,
    "--run.steps", 2, "--run.report_every", 1, "--latents.shard_size", 8, "--latents.dtype", "float32", "--run.precision", "fp32",
]  # fmt: skip


def test_clouds_of_different_sizes_are_classified_and_generated(photos, stage1, tmp_path):
    config = f"{CONFIGS}/classifier_arc_full.yaml"
    run("train/classifier.py", config, *of_clouds(photos, stage1, tmp_path / "classifier", *SMALL))
    assert lines(tmp_path / "classifier")[-1]["held_out_images"] == 6
    cache = LatentCache(stage1 / "latents")
    sizes = cache.sizes.tolist()
    assert len({tuple(size) for size in sizes}) > 10 and max(max(size) for size in sizes) > 20
    assert cache.masks(range(18)).sum(1).tolist() == [int(0.2 * height * width) for height, width in sizes]
    classifier = json.loads((tmp_path / "classifier" / "model" / "config.json").read_text())
    assert classifier["num_tokens"] == 12 and classifier["extent"] == pytest.approx(cache.sizes.max().item() / 8 + 1)
    run(
        "train/diffusion.py", "configs/digits/diffusion_arc.yaml", *SMALL_DENOISER, "--data.in_memory", "false",
        *of_clouds(photos, stage1, tmp_path / "diffusion"), "--latents.shard_size", 8, "--run.batch", 4, "--run.steps", 2,
        "--run.report_every", 1, "--sampling.num_inference_steps", 2,
    )  # fmt: skip
    assert any(row.get("held_out_loss", 0) > 0 for row in lines(tmp_path / "diffusion"))


def test_a_batch_of_clouds_equals_clouds_one_at_a_time(photos, stage1, tmp_path):
    """Also augmented, and whatever the padding."""
    content = read_config(PROJECT / CONFIGS / "classifier_arc_full.yaml")
    data = {"source": str(photos), "native_size": True, "held_out_split": None, "held_out_fraction": 0.25}
    small = {"type": "point_transformer", "attention": "grid", "widths": [8, 16], "depths": [1, 1], "num_heads": 2}
    changes = {
        "data": data,
        "autoencoder": str(stage1 / "arc"),
        "classifier": small,
        "latents": {"folder": str(stage1 / "latents"), "shard_size": 8},
        "augment": {"noise": 0.1, "drop": 0.3, "mix": True, "push": 1.0, "shift": 2.0},
    }
    run_settings = {"folder": str(tmp_path), "batch": 6, "steps": 1}
    config = validate(ClassifierRun, {**content, **changes, "run": run_settings}, where="test")
    classification = CloudClassification(config, str(CONFIGS))
    stream = classification.open(Run(config, config.run, identity=classification.identity))
    torch.manual_seed(0)
    model = classification.build().eval()
    (latents, mask), _ = classification.examples(stream.__getitems__(list(range(6))))
    assert latents.shape[1] < 200, "trimmed to the largest"
    together = model(latents, mask)
    for position in range(6):
        inputs, _ = classification.examples(stream.__getitems__([position]))
        torch.testing.assert_close(model(*inputs)[0], together[position], atol=1e-4, rtol=1e-4)


def test_trimming_keeps_all_points_that_are_present():
    latents = torch.randn(2, 5, 3)
    mask = torch.tensor([[True, False, True, False, False], [True, False, False, False, False]])
    short, short_mask = trimmed(latents, mask)
    assert torch.equal(short, latents[:, :3]) and torch.equal(short_mask, mask[:, :3])
    assert trimmed(latents, torch.zeros(2, 5, dtype=torch.bool))[1].tolist() == [[False], [False]]
    assert extent_of(None, (8, 8)) == 2 and extent_of(torch.tensor([[4, 32], [8, 8]]), (8, 8)) == 5


def test_sizes_tell_the_class_where_they_differ(photos, stage1, tmp_path):
    """From the images' headers, and from a cache; not from a cache of images of one size."""
    config = [f"{CONFIGS}/classifier_size.yaml", "--run.batch", 18, "--run.steps", 60, "--optimizer.lr", 1e-2]
    from_data = ["--data.source", photos, *SPLIT, "--run.folder", tmp_path / "data"]
    run("train/classifier.py", *config, *from_data)
    assert lines(tmp_path / "data")[-1]["accuracy"] == 1.0
    from_cache = of_clouds(photos, stage1, tmp_path / "cache", "--latents.shard_size", 8)
    run("train/latents.py", "configs/digits/diffusion_arc.yaml", *from_cache, "--data.in_memory", "false")
    run("train/classifier.py", *config, *from_cache)
    models = [SizeClassifier.from_pretrained(tmp_path / name / "model") for name in ("data", "cache")]
    for name, weights in models[0].state_dict().items():
        torch.testing.assert_close(models[1].state_dict()[name], weights)
    one_size = of_clouds(photos, stage1, tmp_path / "one", "--latents.shard_size", 8)
    for option, value in (("--data.native_size", "false"), ("--latents.folder", tmp_path / "latents")):
        one_size[one_size.index(option) + 1] = value
    run("train/latents.py", "configs/digits/diffusion_arc.yaml", *one_size, "--data.in_memory", "false")
    run("train/classifier.py", *config, *one_size)
    model = SizeClassifier.from_pretrained(tmp_path / "one" / "model")
    assert torch.equal(model(torch.tensor([[8.0, 8.0]])), model.mlp(torch.zeros(1, 2)))


def test_the_mlp_has_the_papers_layers():
    model = SizeClassifier(num_axes=2, num_classes=10)
    layers = [layer.weight.shape[::-1] for layer in model.mlp if isinstance(layer, torch.nn.Linear)]
    assert layers == [(2, 64), (64, 64), (64, 64), (64, 10)]
    sizes = torch.tensor([[300.0, 500.0], [375.0, 500.0]])
    model.set_statistics(sizes)
    assert ((sizes - model.mean) / model.std).tolist() == [[-1, 0], [1, 0]]


def test_mistakes_in_configs_of_sizes_are_refused(photos, stage1, tmp_path, capsys):
    config = [f"{CONFIGS}/classifier_size.yaml", "--data.source", photos, *SPLIT, "--run.folder", tmp_path / "no"]
    for changes, message in (
        (["--image_size", 8], "classifier.type image_size takes the sizes from the data: leave image_size out"),
        (["--data.native_size", "false"], "needs the images' own sizes: set data.native_size, or give autoencoder"),
        (["--autoencoder", stage1 / "arc"], "reads sizes from a latent cache: set latents.folder, or leave"),
    ):
        run("train/classifier.py", *config, *changes, expect=2)
        assert message in capsys.readouterr().err
    run("train/classifier.py", *config, "--dry-run")
    assert "classifier: 8,642 parameters" in capsys.readouterr().out  # 192 + 2 · 4,160 + 2 · 65
