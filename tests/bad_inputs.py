"""A table of bad inputs, what people type by mistake and what a faulty disk leaves, with the message for each.

    python tests/bad_inputs.py --out docs/bad_inputs.md

runs all cases (tests/end_to_end/test_bad_inputs.py) and writes their messages as a page. A case of a script is a command line.
It runs in an empty folder with `configs/`, `runs/` (a tiny run of each kind) and `small/` (configs of equally tiny runs). A
case of the Python API is an expression of the names in `objects`.
"""

import argparse
import contextlib
import io
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parent.parent
SECONDS = 60
"""A case that takes longer counts as hanging."""


@dataclass(frozen=True)
class Script:
    """A command that must exit with status 2 and one message, and leave no files.

    Attributes:
        wrong: what is wrong, in words; the name of the test.
        command: the command line without `python`.
        message: a regular expression that must occur in the message.
        prepare: creates what the command needs in the folder that it runs in.
        environment: environment variables.
        leaves: patterns of files that it may leave: those of a run that had started.
    """

    wrong: str
    command: str | Sequence[str]
    message: str
    prepare: Callable[[Path], object] | None = None
    environment: dict[str, str] = field(default_factory=dict)
    leaves: tuple[str, ...] = ()


@dataclass(frozen=True)
class Call:
    """An expression that must raise an InputError."""

    wrong: str
    code: str
    message: str


# preparing a case's folder


def small_configs(folder: Path) -> None:
    """Write configs of tiny runs on digits, all with `run` as the run folder."""
    run = {"folder": "run", "batch": 16, "steps": 2, "report_every": 1, "evaluate_images": 20}
    encoder, decoder = {"dim": 16, "mlp_dim": 16}, {"hidden_dim": 16}
    gan = {
        "generator": {"widths": [16] * 4},
        "discriminator": {"width": 8},
        "run": {**run, "steps": 1},
    }
    configs = {
        "anr": {"autoencoder": {"encoder": encoder, "decoder": decoder}, "run": run},
        "diffusion": {
            "autoencoder": "runs/anr",
            "latents": {"folder": "latents"},
            "denoiser": {"dim": 16, "depth": 1, "mlp_dim": 16},
            "sampling": {"num_inference_steps": 2},
            "run": run,
        },
        "classifier": {"classifier": {"width": 16}, "run": {**run, "evaluate_images": None}},
        "gan": gan,
        "gan_latents": {"autoencoder": "runs/anr", "latents": {"folder": "latents"}, **gan},
        "field": {"signal": {"size": 32}, "field": {"widths": [16] * 3}, "run": {**run, "batch": 1}},
    }
    folder.mkdir()
    for name, content in configs.items():
        base = "camera/quad_tree" if name == "field" else f"digits/{name}"
        content = {"base": f"../configs/{base}.yaml", **content}
        if name != "field":
            content["data"] = {"in_memory": False}
        (folder / f"{name}.yaml").write_text(json.dumps(content))  # JSON is YAML


def text(path: str, content: str | bytes) -> Callable[[Path], object]:
    """Writes a file with this content."""

    def prepare(here: Path) -> None:
        (here / path).parent.mkdir(parents=True, exist_ok=True)
        (here / path).write_bytes(content.encode() if isinstance(content, str) else content)

    return prepare


def config(content: str) -> Callable[[Path], object]:
    return text("my.yaml", content)


def damaged(run: str, path: str, damage: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Copies a run to `damaged` and changes one of its files."""

    def prepare(here: Path) -> None:
        shutil.copytree(here / "runs" / run, here / "damaged")
        (file,) = (here / "damaged").glob(path)
        file.write_bytes(damage(file.read_bytes()))

    return prepare


def whole(run: str) -> Callable[[Path], object]:
    """Copies a run to `damaged`, with nothing wrong with it."""
    return damaged(run, "metrics.jsonl", lambda content: content)


def without(run: str, path: str) -> Callable[[Path], object]:
    """Copies a run to `damaged`, without one of its files or folders."""

    def prepare(here: Path) -> None:
        shutil.copytree(here / "runs" / run, here / "damaged")
        (gone,) = (here / "damaged").glob(path)
        shutil.rmtree(gone) if gone.is_dir() else gone.unlink()

    return prepare


def flipped(content: bytes) -> bytes:
    """The content with one bit of its second-last byte flipped: in a number, not in a header."""
    return content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def to(content: str | bytes) -> Callable[[bytes], bytes]:
    return lambda _: content.encode() if isinstance(content, str) else content


def with_sampling(settings: object = None) -> Callable[[bytes], bytes]:
    """Replaces a pipeline's sampling settings or, as earlier versions saved it, removes them."""

    def damage(content: bytes) -> bytes:
        index = json.loads(content)
        del index["sampling"]
        return json.dumps(index if settings is None else {**index, "sampling": settings}).encode()

    return damage


def cut_off(pattern: str) -> Callable[[Path], object]:
    """Truncates files to their first 50 bytes."""

    def prepare(here: Path) -> None:
        for path in here.glob(pattern):
            path.write_bytes(path.read_bytes()[:50])

    return prepare


def pictures(folder: str, count: int = 5, size: int = 8, **damage: str | bytes) -> Callable[[Path], object]:
    """Writes a folder of square grey PNGs, and `.png` files with other content, by their stems."""

    def prepare(here: Path) -> None:
        from PIL import Image

        (here / folder).mkdir()
        for number in range(count):
            Image.new("L", (size, size), 20 * number).save(here / folder / f"{number}.png")
        for stem, content in damage.items():
            text(f"{folder}/{stem}.png", content)(here)

    return prepare


def table(path: str, **columns: Sequence[object]) -> Callable[[Path], object]:
    """Writes a parquet file of five 8×8 grey images, with more columns."""

    def prepare(here: Path) -> None:
        import io

        import pyarrow
        import pyarrow.parquet
        from PIL import Image

        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, format="PNG")
        pyarrow.parquet.write_table(pyarrow.table({"image": [file.getvalue()] * 5, **columns}), here / path)

    return prepare


def all_of(*steps: Callable[[Path], object]) -> Callable[[Path], object]:
    def prepare(here: Path) -> None:
        for step in steps:
            step(here)

    return prepare


def held(folder: str) -> Callable[[Path], object]:
    """Locks a folder as another run would. The lock belongs to the open file, so it also holds within this process."""

    def prepare(here: Path) -> object:
        from genrep.lock import FolderLock

        lock = FolderLock(here / folder, "a training run")
        lock.__enter__()
        return lock

    return prepare


ANR, STAGE1 = "train/autoencoder.py configs/digits/anr.yaml", "train/autoencoder.py small/anr.yaml"
RESUMED = "train/autoencoder.py small/anr.yaml --run.folder damaged --run.steps 3"
DIFFUSION, STAGE2 = "train/diffusion.py configs/digits/diffusion.yaml", "train/diffusion.py small/diffusion.yaml"
GENERATE, EVALUATE = "sample/generate.py runs/diffusion", "sample/evaluate.py runs/diffusion --num-images 4"

CONFIGS = [
    Script("a misspelt key", f"{ANR} --optimizer.lrr 1", "command line: optimizer.lrr: unknown key; did you mean 'lr'"),
    Script("a misspelt section", f"{ANR} --optimiser.lr 1", "optimiser: unknown key; did you mean 'optimizer'"),
    Script("a key without a value", f"{ANR} --optimizer.lr", "--optimizer.lr needs a value"),
    Script("a key followed by a key", f"{ANR} --optimizer.lr --run.batch 2", "--optimizer.lr needs a value"),
    Script("an unknown option", f"{ANR} --dryrun", "--dryrun: unknown option"),
    Script("an abbreviated option", f"{ANR} --dry", "--dry: unknown option"),
    Script("two configs", f"{ANR} configs/digits/locality.yaml", "configs/digits/locality.yaml: unknown option"),
    Script("no config", "train/autoencoder.py", "the following arguments are required: config"),
    Script("text for a number", f"{ANR} --run.batch ten", "run.batch: must be a valid integer; got 'ten'"),
    Script("a fraction for an integer", f"{ANR} --run.steps 10.5", "run.steps: .*valid integer; got 10.5"),
    Script("a bool for an integer", f"{ANR} --run.batch true", "run.batch: must be a valid integer; got True"),
    Script("a batch of 0", f"{ANR} --run.batch 0", "run.batch: must be greater than 0; got 0"),
    Script("a learning rate below 0", f"{ANR} --optimizer.lr -1", "optimizer.lr: .*greater than 0; got -1"),
    Script("a learning rate of NaN", f"{ANR} --optimizer.lr .nan", "optimizer.lr: .*finite number; got nan"),
    Script("an infinite learning rate", f"{ANR} --optimizer.lr .inf", "optimizer.lr: .*finite number; got inf"),
    Script("three betas", f"{ANR} --optimizer.betas [0.9,0.9,0.9]", "optimizer.betas: .*at most 2 items"),
    Script("a beta of 1", f"{ANR} --optimizer.betas [0.9,1]", "optimizer.betas: .*less than 1; got 1"),
    Script("a seed below 0", f"{ANR} --run.seed -1", "run.seed: .*greater than or equal to 0; got -1"),
    Script("a seed too large for a generator", f"{ANR} --run.seed {2**70}", "run.seed: .*less.*; got 1180591620717411303424"),
    Script("steps and images", f"{ANR} --run.images 9", "run: give either steps or images, not both"),
    Script("neither steps nor images", f"{ANR} --run.steps null", "run: give steps or images, or seconds to train for"),
    Script("a batch that does not divide into parts", f"{ANR} --run.accumulation 7", "batch must be a multiple of accumulation, 7; got 64"),
    Script("an unknown choice", f"{ANR} --optimizer.type adam", "optimizer.type: must be .*; got 'adam'; did you mean"),
    Script("an unknown encoder", f"{ANR} --autoencoder.encoder.type vit", "encoder.type: must be one of cross_attention, fit, joint_attention; got 'vit'"),
    Script("an encoder without a type", f"{ANR} --autoencoder.encoder null", "autoencoder.encoder"),
    Script("null for a section", f"{ANR} --run null", "run: must be a mapping of keys .accumulation, batch, .*; got None"),
    Script("a number for a section", f"{ANR} --run 5", "run: must be a mapping of keys .accumulation, batch, .*; got 5"),
    Script("a key below a number", f"{ANR} --run.steps.more 1", "run.steps"),
    Script("an empty run folder", [*ANR.split(), "--run.folder", "''"], "run.folder: .*at least 1 character; got ''"),
    Script("a value that is not YAML", f"{ANR} --run.steps [1", "--run.steps: not valid YAML: line 1"),
    Script("three numbers for a size", f"{ANR} --autoencoder.image_size [8,8,8]", "needs 2 axes and 1 or 3 channels; got 3 axes .image_size. and 1 channels"),
    Script("two channels", f"{ANR} --autoencoder.channels 2", "2 axes and 1 or 3 channels; got 2 axes .image_size. and 2 channels"),
    Script("more coordinates than pixels", f"{ANR} --reconstruction.num_coords 122", "num_coords must be at most 121, .*; got 122"),
    Script("noise on the latents of one image", f"{ANR} --reconstruction.latent_noise 0.3 --run.accumulation 64",
           "run.batch / run.accumulation must be 2 or more"),
    Script("a perceptual term without its classifier", f"{ANR} --perceptual.weight 0.1", "perceptual.classifier: this key is required"),
    Script("a perceptual term by a classifier that is not there", f"{ANR} --perceptual.classifier runs/nowhere --perceptual.window 4",
           "perceptual.classifier 'runs/nowhere': no model there .*train one with train/classifier.py"),
    Script("an autoencoder for a perceptual term", f"{ANR} --perceptual.classifier runs/anr --perceptual.window 4", "runs/anr/model"),
    Script("a perceptual window larger than the image", f"{ANR} --perceptual.classifier runs/classifier",
           "perceptual.window must be at most 8, the image's side; got 16"),
    Script("a perceptual window too small for the classifier", f"{ANR} --perceptual.classifier runs/classifier --perceptual.window 1",
           "perceptual.window must be at least 2, which the halvings of perceptual.classifier 'runs/classifier' need; got 1"),
    Script("an alignment with a classifier that is not there", f"{STAGE2} --diffusion.alignment.classifier runs/nowhere --diffusion.alignment.block 1",
           "diffusion.alignment.classifier 'runs/nowhere': no model there .*train one with train/classifier.py"),
    Script("an alignment of a block that is not there", f"{STAGE2} --diffusion.alignment.classifier runs/classifier --diffusion.alignment.block 3",
           "diffusion.alignment.block must be at most 1, the denoiser's depth; got 3"),
    Script("an alignment of a weight below 0", f"{STAGE2} --diffusion.alignment.classifier runs/classifier --diffusion.alignment.weight -1",
           "diffusion.alignment.weight: must be greater than 0; got -1"),
    Script("a decoder of three axes for images", "train/autoencoder.py configs/digits/locality.yaml --autoencoder.decoder.num_axes 3",
           "num_axes 3 does not fit signals of 2 axes"),
    Script("a decoder of another width", ["train/autoencoder.py", "configs/digits/locality.yaml", "--autoencoder.latent_dim", "8",
           "--autoencoder.decoder", "{type: ipc, hidden_dim: 16}"], "decoder ipc does not fit latents of width 8"),
    Script("crops and a source size", f"{ANR} --data.crop random --data.source_size 16", "give only one of them"),
    Script("all images held out", f"{ANR} --data.held_out_fraction 1", "data.held_out_fraction: .*less than 1; got 1"),
    Script("a missing config", "train/autoencoder.py configs/digits/none.yaml", "no such config file; that folder has .*anr.yaml"),
    Script("a folder for a config", "train/autoencoder.py configs/digits", "configs/digits: no such config file"),
    Script("an empty config", "train/autoencoder.py my.yaml", "my.yaml: a config must be a mapping of keys", config("")),
    Script("a list for a config", "train/autoencoder.py my.yaml", "my.yaml: a config must be a mapping of keys; got list", config("[1]")),
    Script("a picture for a config", "train/autoencoder.py my.yaml", "my.yaml: not a text file", config(b"\x89PNG\xff\x00")),
    Script("a control character", "train/autoencoder.py my.yaml", "my.yaml: not valid YAML: line 2", config(b"run:\n  a: \x00")),
    Script("a tab for an indent", "train/autoencoder.py my.yaml", "my.yaml: not valid YAML: line 2", config("run:\n\tbatch: 1")),
    Script("a duplicate key", "train/autoencoder.py my.yaml", "my.yaml: not valid YAML: line 2: .*duplicate key", config("run: {}\nrun: {}")),
    Script("a config that includes itself", "train/autoencoder.py my.yaml", "my.yaml: includes itself through `base`", config("base: my.yaml")),
    Script("a missing include", "train/autoencoder.py my.yaml", "none.yaml: no such config file", config("base: none.yaml")),
    Script("a number for an include", "train/autoencoder.py my.yaml", "my.yaml: base must be a file, or a list of files, .*; got 3", config("base: 3")),
    Script("a number for a key", "train/autoencoder.py my.yaml", "my.yaml: 1: keys must be names; got 1", config("1: 2\nrun: {batch: 1}")),
    Script("the config of another script", "train/autoencoder.py configs/digits/diffusion.yaml", "autoencoder: must be a mapping of keys .* got 'runs/digits/anr'"),
    Script("the config of a GAN for a classifier", "train/classifier.py configs/digits/gan.yaml", "gan: unknown key"),
    Script("a model larger than any memory", f"{STAGE1} --autoencoder.image_size 1000000", "out of memory .a single request was for 16000000000000 bytes", leaves=("run/*",)),
    Script("a tracker that is not installed", f"{STAGE1} --run.tracker mlflow", "run.tracker 'mlflow' is not installed"),
    Script("processes that cannot find each other", STAGE1, "WORLD_SIZE is 2 but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT are not set",
           environment={"WORLD_SIZE": "2"}),
]  # fmt: skip

RUNS = [
    Script("a file for a run folder", f"{STAGE1} --run.folder note", "run.folder must be a folder; note is a file", text("note", "")),
    Script("a run folder below a file", f"{STAGE1} --run.folder note/run", "note/run cannot be written: a file is in the way", text("note", "")),
    Script("a run folder in /proc", f"{STAGE1} --run.folder /proc/run", "/proc/run cannot be written"),
    Script("a run folder below a device", f"{STAGE1} --run.folder /dev/full/run", "/dev/full/run cannot be written: a file is in the way"),
    Script("a run folder in use by another process", f"{STAGE1} --run.folder run", "run is in use: a training run is being written there by process",
           held("run"), leaves=("run/.lock",)),
    Script("fewer steps than completed", f"{STAGE1} --run.folder damaged --run.steps 1", "damaged has completed 2 steps, but run.steps",
           whole("anr")),
    Script("another config on resuming", f"{RESUMED} --run.batch 8", "holds a run with another config.*run.batch: was 16, is now 8",
           whole("anr")),
    Script("another data set on resuming", f"{RESUMED} --data.source my.parquet", "damaged: the data differs from what this run was trained on .hash",
           all_of(whole("anr"), table("my.parquet", label=[0, 1, 2, 3, 4]))),
    Script("a list for a checkpoint's index", RESUMED, "checkpoint.json: damaged or missing", damaged("anr", "checkpoints/*/checkpoint.json", to("[1]"))),
    Script("a checkpoint's index cut off", RESUMED, "checkpoint.json: damaged or missing", damaged("anr", "checkpoints/*/checkpoint.json", halved)),
    Script("a flipped bit in a checkpoint", RESUMED, "model.safetensors: damaged; delete", damaged("anr", "checkpoints/*/model.safetensors", flipped)),
    Script("a checkpoint's weights cut off", RESUMED, "average.safetensors: damaged; delete", damaged("anr", "checkpoints/*/average.safetensors", halved)),
    Script("a checkpoint without its optimizer", RESUMED, "optimizer.pt: missing; delete", without("anr", "checkpoints/*/optimizer.pt")),
    Script("a run's config that is a list", RESUMED, "damaged/config.yaml: a config must be a mapping of keys", damaged("anr", "config.yaml", to("[1]"))),
    Script("a run's config that is not text", RESUMED, "damaged/config.yaml: not a text file", damaged("anr", "config.yaml", to(b"\xff\xfe\x00"))),
    Script("a run's config that is empty", RESUMED, "damaged/config.yaml: a config must be a mapping of keys", damaged("anr", "config.yaml", to(""))),
    Script("a run that diverges", f"{STAGE1} --optimizer.lr 1e30 --optimizer.warmup_steps 0 --optimizer.clip_norm null",
           "the run has diverged: .* is not finite. It has no checkpoint to resume from; lower optimizer.lr", leaves=("run/*",)),
    Script("a file for the samples", f"{STAGE1}", "run/samples cannot be written: a file is in the way", text("run/samples", ""), leaves=("run/*",)),
]  # fmt: skip


def source(path: str, extra: str = "") -> str:
    return f"{STAGE1} --data.source {path} {extra}".strip()


CLASSES = "train/classifier.py small/classifier.yaml --data.source my.parquet"

DATA = [
    Script("a missing source", source("./nowhere"), "data.source './nowhere' does not exist"),
    Script("a misspelt source", source("digit"), "data.source 'digit' does not exist: .*did you mean 'digits'"),
    Script("a file of another type", source("my.csv"), r".csv files are not supported: give parquet or Arrow files", text("my.csv", "a,b")),
    Script("a source of one picture", source("my.png"), r".png files are not supported", text("my.png", "a")),
    Script("a glob without matches", source("my/*.parquet"), r"data.source 'my/\*.parquet' matches no files"),
    Script("an empty folder", source("empty"), "data.source empty", lambda here: (here / "empty").mkdir()),
    Script("a folder without pictures", source("texts"), "data.source texts", text("texts/a.txt", "hello")),
    Script("a parquet file cut off", source("my.parquet"), "data.source my.parquet: cannot be read as parquet",
           all_of(table("my.parquet"), cut_off("my.parquet"))),
    Script("a parquet file that is text", source("my.parquet"), "data.source my.parquet: cannot be read as parquet", text("my.parquet", "hello")),
    Script("a damaged saved data set", source("saved"), "data.source saved: a file is damaged or missing", text("saved/state.json", "{}")),
    Script("a picture that is text", source("pictures", "--data.in_memory true"), "cannot be decoded as an image .not in a known image format",
           pictures("pictures", zero="hello")),
    Script("a picture cut off", source("pictures", "--data.held_out_fraction 0.5"), "cannot be decoded as an image .image file is truncated",
           all_of(pictures("pictures"), cut_off("pictures/*")), leaves=("run/*",)),
    Script("only pictures that are text, skipped", source("pictures", "--data.on_bad_image skip"), "none of the 2 images can be decoded",
           pictures("pictures", 0, a="hello", b="hello", c="x")),
    Script("a missing image column", source("digits", "--data.image_column picture"), "data.image_column 'picture' is not in 'digits', which has image, label"),
    Script("a column of numbers for images", source("digits", "--data.image_column label"), "data.image_column 'label' of 'digits' must hold images"),
    Script("a missing label column", source("digits", "--data.label_column kind"), "data.label_column 'kind' is not in 'digits', which has image, label"),
    Script("labels that are text", CLASSES, "data.label_column 'label' must hold integers", table("my.parquet", label=list("abcde"))),
    Script("labels that are fractions", CLASSES, "data.label_column 'label' must hold integers", table("my.parquet", label=[0.5, 1, 2, 3, 4])),
    Script("labels with gaps", CLASSES, "data.label_column 'label' must hold integers", table("my.parquet", label=[0, None, 2, 3, 4])),
    Script("a label below 0", CLASSES, "must hold integers from 0 to 3, .*row 2 of split train has -1", table("my.parquet", label=[0, 1, -1, 2, 3])),
    Script("an identifier for a label", CLASSES, "has a label of 1,000,000,000, which would make", table("my.parquet", label=[0, 1, 2, 3, 10**9])),
    Script("no labels for a classifier", f"{CLASSES}", "has no labels, which a classifier needs", table("my.parquet")),
    Script("no labels for agreement", "train/classifier.py small/classifier.yaml --data.label_column null", "has no labels, which a classifier needs"),
    Script("a missing split", source("digits", "--data.train_split test"), "data.source 'digits' has no split 'test'; it has train .1,797"),
    Script("an invalid slice", source("digits", "--data.train_split train[:x]"), "data.train_split 'train.:x.' is not a valid split"),
    Script("a missing held-out split", source("digits", "--data.held_out_split val"), "has no split 'val'"),
    Script("a slice past the end", source("digits", "--data.held_out_split train[2000:]"), "data.held_out_split 'train.2000:.' holds no images"),
    Script("fewer images than the held-out slice", source("pictures", "--data.train_split train[:-5000] --data.held_out_split train[-5000:]"),
           "data.train_split 'train.:-5000.' holds no images: split train of pictures has 5", pictures("pictures")),
    Script("a held-out fraction of less than one image", source("pictures", "--data.held_out_fraction 0.01"), "0.01 of 5 images holds out none", pictures("pictures")),
    Script("a single image, held out", source("pictures", "--data.held_out_fraction 0.9"), "0.9 of 1 images leaves none to train on", pictures("pictures", 1)),
    Script("a source size below the image size", source("digits", "--data.source_size 4"), "data.source_size must be at least 8, the image size; got 4"),
    Script("an unknown split to measure", "sample/reconstruct.py runs/anr --split test --out x.png", "split must be train or held_out; got 'test'"),
]  # fmt: skip

STAGES = [
    Script("an untrained autoencoder", f"{DIFFUSION} --autoencoder runs/nowhere", "no model there .*give the run or model folder of stage 1"),
    Script("how to train the autoencoder", "train/latents.py configs/celeba/diffusion.yaml", "train it first: python train/autoencoder.py configs/celeba/anr.yaml"),
    Script("a field for an autoencoder", f"{STAGE2} --autoencoder runs/field", "runs/field/model"),
    Script("a diffusion run for an autoencoder", f"{STAGE2} --autoencoder runs/diffusion", "no model there"),
    Script("a classifier for an autoencoder", f"{STAGE2} --autoencoder runs/classifier", "runs/classifier/model"),
    Script("a flipped bit in the autoencoder", f"{STAGE2} --autoencoder damaged", "damaged, its hash differs",
           damaged("anr", "model/*.safetensors", flipped)),
    Script("an autoencoder's weights cut off", f"{STAGE2} --autoencoder damaged", "damaged, its hash differs",
           damaged("anr", "model/*.safetensors", halved)),
    Script("an autoencoder without weights", f"{STAGE2} --autoencoder damaged", "damaged/model: ", without("anr", "model/*.safetensors")),
    Script("a list of hashes of weights", f"{STAGE2} --autoencoder damaged", "weights.sha256.json: damaged", damaged("anr", "model/weights.sha256.json", to("[1]"))),
    Script("an autoencoder's config cut off", f"{STAGE2} --autoencoder damaged", "model/config.json: damaged", damaged("anr", "model/config.json", halved)),
    Script("a list for an autoencoder's config", f"{STAGE2} --autoencoder damaged", "model/config.json: damaged", damaged("anr", "model/config.json", to("[1]"))),
    Script("an autoencoder of another width", f"{STAGE2} --autoencoder damaged", "this INRAutoencoder is damaged or of another kind .* expected shape",
           damaged("anr", "model/config.json", lambda content: content.replace(b'"latent_dim": 16', b'"latent_dim": 8'))),
    Script("an unknown key in a model's config", f"{STAGE2} --autoencoder damaged", "INRAutoencoder has no argument 'token'",
           damaged("anr", "model/config.json", lambda content: content.replace(b'"num_tokens"', b'"token"'))),
    Script("no folder for latents", "train/latents.py small/diffusion.yaml --latents.folder null", "latents.folder is null"),
    Script("a file for a folder of latents", "train/latents.py small/diffusion.yaml --latents.folder note", "note cannot be written: a file is in the way", text("note", "")),
    Script("latents below a file", "train/latents.py small/diffusion.yaml --latents.folder note/a", "note/a cannot be written: a file is in the way", text("note", "")),
    Script("latents being written by another process", "train/latents.py small/diffusion.yaml", "latents is in use: a latent cache is being written there",
           held("latents"), leaves=("latents/.lock",)),
    Script("latents of another autoencoder", f"{STAGE2} --autoencoder runs/locality --latents.folder runs/latents",
           "this cache was made from something else.*autoencoder: the cache has"),
    Script("latents of other settings", f"{STAGE2} --latents.folder runs/latents --latents.flips true", "num_views: the cache has 1, this run needs 2"),
    Script("latents of other images", f"{STAGE2} --latents.folder runs/latents --data.split_seed 1", "data: the cache has"),
    Script("a list for a manifest", f"{STAGE2} --latents.folder damaged", "manifest.json: damaged .it must hold a JSON object; got list", damaged("latents", "manifest.json", to("[1]"))),
    Script("a manifest cut off", f"{STAGE2} --latents.folder damaged", "manifest.json: damaged", damaged("latents", "manifest.json", halved)),
    Script("a manifest that is not text", f"{STAGE2} --latents.folder damaged", "manifest.json: damaged", damaged("latents", "manifest.json", to(b"\xff\xfe"))),
    Script("a shard cut off", f"{STAGE2} --latents.folder damaged", "latents-.*: this shard is damaged", damaged("latents", "latents-*", halved)),
    Script("a shard that is empty", f"{STAGE2} --latents.folder damaged", "latents-.*: this shard is damaged", damaged("latents", "latents-*", to(b""))),
    Script("a missing shard", f"{STAGE2} --latents.folder damaged", "latents-.*: this shard is missing", without("latents", "latents-*")),
    Script("damaged statistics", f"{STAGE2} --latents.folder damaged", "statistics.safetensors: this shard is damaged", damaged("latents", "statistics*", flipped)),
    Script("a flipped bit in a shard", f"{STAGE2} --latents.folder damaged --latents.verify true", "this shard is damaged .its hash does not match",
           damaged("latents", "latents-*", flipped), leaves=("run/*",)),
    Script("a missing held-out shard", f"{STAGE2} --latents.folder damaged", "held_out-.* missing", without("latents", "held_out-*"), leaves=("run/*",)),
    Script("mirrored images in stage 2", f"{DIFFUSION} --data.flip true", "set latents.flips"),
    Script("crops in stage 2", f"{DIFFUSION} --data.crop random", "each image is encoded once"),
    Script("more steps than noise levels", f"{DIFFUSION} --sampling.num_inference_steps 1001",
           "sampling.num_inference_steps must be at most diffusion.noise.num_timesteps, 1000; got 1001"),
    Script("one noise level", f"{STAGE2} --diffusion.noise.num_timesteps 1 --sampling.num_inference_steps 1", "num_timesteps: .*; got 1"),
    Script("a former key and its new name", [*DIFFUSION.split(), "--sampling", "{steps: 3, num_inference_steps: 4}"],
           "sampling.steps is the former name of sampling.num_inference_steps: give only one of them"),
    Script("betas that fall", f"{DIFFUSION} --diffusion.noise.beta_start 0.5", "beta_start must be below beta_end"),
    Script("an interval backwards", f"{DIFFUSION} --sampling.guidance_interval [0.8,0.2]", "guidance_interval must be .low, high. with low <= high; got .0.8, 0.2"),
    Script("an infinite shift", f"{DIFFUSION} --diffusion.noise.shift .inf", "diffusion.noise.shift"),
    Script("a density at NaN", f"{DIFFUSION} --diffusion.noise.density_mean .nan", "density_mean: .*; got nan"),
    Script("a noise density far from all levels", f"{STAGE2} --diffusion.noise.density normal --diffusion.noise.density_mean 1e6",
           "got 1e.06 with density_std 2, which gives no level any weight"),
    Script("a scheduler that cannot do a single step, before training", f"{STAGE2} --sampling.scheduler euler --sampling.num_inference_steps 1 --latents.folder runs/latents",
           "num_inference_steps must be at least 2", leaves=("run/*",)),
    Script("more coordinates than an image's pixels", f"{STAGE2} --diffusion.loss two_term --diffusion.image_coords 65", "image_coords must be at most 64, the pixels of an image; got 65"),
    Script("a classifier with more stages than the image allows", "train/classifier.py configs/digits/classifier.yaml --classifier.stages 6", "would halve 8 pixels to less than one"),
    Script("a classifier width that is not a multiple of 8", "train/classifier.py configs/digits/classifier.yaml --classifier.width 10", "multiple of 8"),
    Script("a GAN of images with an autoencoder", "train/gan.py configs/digits/gan.yaml --autoencoder runs/anr", "gan.target images needs image_size and channels, and takes no"),
    Script("a GAN of latents without one", "train/gan.py configs/digits/gan.yaml --gan.target latents", "gan.target latents needs autoencoder"),
    Script("a GAN with accumulation", "train/gan.py configs/digits/gan.yaml --run.accumulation 2", "run.accumulation must be 1 for a GAN"),
    Script("a GAN with too few numbers of tiles", "train/gan.py configs/digits/gan.yaml --generator.tile [2,2]", "tile must have one number per width after the first, 3; got 2"),
    Script("a GAN of images that sees latents", "train/gan.py configs/digits/gan.yaml --gan.sees both", "gan.sees both needs gan.target latents"),
    Script("an embedding for one axis", "train/gan.py small/gan_latents.yaml --latents.folder runs/latents --generator.embedding_dim 4", "embedding", leaves=("run/*",)),
    Script("an unknown augmentation", "train/gan.py configs/digits/gan.yaml --gan.augment [colour]", "gan.augment"),
]  # fmt: skip

FIELD, SMALL_FIELD = "train/field.py configs/camera/quad_tree.yaml", "train/field.py small/field.yaml"
PE = "train/field.py configs/camera/pe_mlp.yaml"
STAR, SHAPE = "train/field.py configs/siemens/scone.yaml", "train/field.py configs/shapes/siren.yaml"
SINES = "train/field.py configs/aliasing/without.yaml"
SOUND = f"{SINES} --signal.type array"
COMPARE = "train/compare.py configs/camera/pe_mlp.yaml configs/camera/quad_tree.yaml"

FIELDS = [
    Script("a missing signal", f"{SMALL_FIELD} --signal.source none.png", "signal.source 'none.png' does not exist"),
    Script("a signal that is text", f"{SMALL_FIELD} --signal.source my.png", "cannot be read as a picture", text("my.png", "hello")),
    Script("a signal cut off", f"{SMALL_FIELD} --signal.source pictures/1.png", "cannot be read",
           all_of(pictures("pictures"), cut_off("pictures/1.png"))),
    Script("a folder without frames", f"{SMALL_FIELD} --signal.source texts", "must contain pictures", text("texts/a.txt", "")),
    Script("a video for a signal", f"{SMALL_FIELD} --signal.source my.mp4", "cannot be read as a video: it is empty or damaged", text("my.mp4", "ftyp")),
    Script("frames of different sizes", f"{SMALL_FIELD} --signal.source pictures --signal.size null", "its frames must have the same size and channels",
           all_of(pictures("pictures"), pictures("pictures/more", size=9), lambda here: (here / "pictures/more/1.png").rename(here / "pictures/9.png"))),
    Script("a batch for a field", f"{FIELD} --run.batch 2", "run.batch must be 1, because a field has one signal; got 2"),
    Script("a field of an unknown type", f"{FIELD} --field.type sirne", "field.type: must be one of fourier, .*, wire; got 'sirne'; did you mean 'siren'"),
    Script("an unknown mask", f"{STAR} --field.mask sine", "field.mask: must be 'sin_squared', .*; got 'sine'; did you mean 'sin'"),
    Script("fewer layers than omegas", f"{STAR} --field.widths [8,8]", "omegas must have one number per layer: 2, as in widths; got 4"),
    Script("an odd number of Fourier features", "train/field.py configs/siemens/fourier.yaml --field.num_features 7", "num_features must be even, .*; got 7"),
    Script("more frames than there are", f"{SMALL_FIELD} --signal.source pictures --signal.num_frames 9", "must have 9 or more frames from frame 0 on, .*; got 5",
           pictures("pictures")),
    Script("a WAV file that is text", f"{SOUND} --signal.source my.wav", "cannot be read as a WAV file of 8, 16, 24 or 32-bit integers", text("my.wav", "hello")),
    Script("a missing WAV file", f"{SOUND} --signal.source none.wav", "signal.source 'none.wav' does not exist: give a WAV file"),
    Script("too few samples for a sine", f"{SINES} --signal.length 20", "length must be more than twice the highest frequency, 15, .*; got 20"),
    Script("fewer amplitudes than sines", f"{SINES} --signal.amplitudes [1]", "amplitudes must have one number per sine: 10, as in frequencies; got 1"),
    Script("a missing shape", f"{SHAPE} --signal.source none.obj", "signal.source 'none.obj' does not exist: give a mesh, or a cloud of points"),
    Script("a shape that is text", f"{SHAPE} --signal.source my.ply", "my.ply: cannot be read as a shape: it is empty or damaged", text("my.ply", "hello")),
    Script("a text file for a shape", f"{SHAPE} --signal.source my.txt", "my.txt: must be one of .obj, .ply, .stl, .off; got .txt", text("my.txt", "hello")),
    Script("shifted coordinates of a shape", f"{SHAPE} --fitting.coords uniform", "fitting.coords and fitting.targets apply to signals on a grid"),
    Script("a field without layers", f"{FIELD} --field.widths []", "field.*widths: .*at least 1 item"),
    Script("tiles for fewer layers than there are", f"{FIELD} --field.tile [2,2]", "tile must be one number, or one per layer: 9, as in widths; got 2"),
    Script("a Gray code of four", f"{SMALL_FIELD} --field.layout gray_code --field.tile 4", "layout gray_code needs tiles of 2", leaves=("run/*",)),
    Script("an order of nine layers for three", f"{SMALL_FIELD} --field.layout permuted", "layout permuted needs the 9 tiled layers of table 5", leaves=("run/*",)),
    Script("an embedding with too many sizes", f"{PE} --signal.size 32 --run.folder run --field.embedding_dim 4 --field.embedding_size [4,4,4]",
           "embedding", leaves=("run/*",)),
    Script("frequencies beyond float32", f"{SMALL_FIELD} --field.num_frequencies 2000", "field.num_frequencies: .*less than or equal to 24; got 2000"),
    Script("no points per step", f"{FIELD} --fitting.num_coords 0", "fitting.num_coords: .*greater than 0; got 0"),
    Script("configs of one name", "train/compare.py configs/digits/anr.yaml configs/celeba/anr.yaml --folder out", "two of the configs have the same file name"),
    Script("no folder to compare in", COMPARE, "the following arguments are required: --folder"),
    Script("a folder for every run", f"{COMPARE} --folder out --run.folder x", "--run.folder: every run has its own; give --folder"),
    Script("a comparison below a file", f"{COMPARE} --folder note/out --run.steps 1", "note/out cannot be written", text("note", "")),
    Script("a comparison of other data", "train/compare.py configs/digits/anr.yaml configs/cifar10/compare/ipc.yaml --folder out", "differ in"),
    Script("a comparison of a field and an image", "train/compare.py configs/camera/pe_mlp.yaml configs/digits/anr.yaml --folder out", "must both train autoencoders, or both train fields"),
    Script("a missing file of published numbers", f"{COMPARE} --folder out --published none.json", "none.json must be a JSON file like"),
    Script("published numbers that are text", f"{COMPARE} --folder out --published my.json", "must hold the PSNR of pe_mlp", text("my.json", '{"pe_mlp": "31"}')),
    Script("published numbers without the first", f"{COMPARE} --folder out --published my.json", "must hold the PSNR of pe_mlp", text("my.json", '{"a": 1}')),
    Script("two sources of one name", f"{COMPARE} --folder out --sources a/x.png b/x.png", "two of the --sources have the same file name"),
    Script("a source beside --sources", f"{COMPARE} --folder out --sources a.png --signal.source b.png", "--signal.source: every run has its own with --sources"),
    Script("sources for autoencoders", "train/compare.py configs/digits/anr.yaml --folder out --sources a", "--sources is for fields, which have one signal"),
    Script("a comparison of no images", f"{COMPARE} --folder out --num-images 0", "argument --num-images: must be a positive integer; got '0'"),
    Script("a comparison with a seed below 0", f"{COMPARE} --folder out --seeds -1", "argument --seeds"),
    Script("a comparison on a missing device", "train/compare.py configs/digits/anr.yaml --folder out --device cuda:99 --run.steps 1", "device cuda:99: torch finds"),
    Script("a comparison of nothing", "train/compare.py --folder out", "the following arguments are required: configs"),
    Script("the quickstart in a folder with other files", "train/quickstart.py --folder mine", "--folder must be new, empty or from an earlier quickstart, .*; mine holds other files", text("mine/thesis.txt", "")),
    Script("the quickstart in a file", "train/quickstart.py --folder note", "--folder must be a folder; note is a file", text("note", "")),
    Script("the quickstart below a file", "train/quickstart.py --folder note/a", "note/a/quickstart cannot be written: a file is in the way", text("note", "")),
    Script("the quickstart of an unknown representation", "train/quickstart.py --representation ipc", "invalid choice: 'ipc'"),
]  # fmt: skip

RECONSTRUCT, LOCALITY = (
    "sample/reconstruct.py runs/anr --num-images 2 --out x.png",
    "sample/locality.py runs/locality --out x.png",
)
INTERPOLATE, PATTERN = (
    "sample/interpolate.py runs/gan --out x.png",
    "sample/pattern.py runs/gan --num-images 2 --out x.png",
)
RENDER, CLASSIFIED = "sample/render.py runs/field --out x.png", f"{EVALUATE} --metrics fd_classifier --classifier"
REFINE = f"{RECONSTRUCT} --refine-steps 1"
ACTIVATIONS = "sample/activations.py runs/field --out x.png"

SAMPLES = [
    Script("a missing run", "sample/generate.py runs/nowhere", "no pipeline here"),
    Script("no run", "sample/generate.py", "the following arguments are required: run"),
    Script("an autoencoder to generate from", "sample/generate.py runs/anr", "no pipeline here"),
    Script("a field to generate from", "sample/generate.py runs/field", "no pipeline here"),
    Script("an unknown class", f"{GENERATE} --classes 10", "--classes must be in 0 to 9, the classes of this model; got 10"),
    Script("a word for a class", f"{GENERATE} --classes zero", "--classes must be labels, ranges or names, .*; got 'zero'"),
    Script("a range of classes backwards", f"{GENERATE} --classes 5-3", "--classes must be labels, ranges or names, .*; got '5-3'"),
    Script("an empty list of classes", [*GENERATE.split(), "--classes", ""], "--classes must be labels, ranges or names, .*; got ''"),
    Script("classes of a GAN without labels", "sample/generate.py runs/gan --classes 99", "--classes must be in 0 to 9, .*; got 99"),
    Script("classes and a number of images", f"{GENERATE} --num-images 3 --classes 1", "with --classes, give --per-class instead"),
    Script("no images per class", f"{GENERATE} --per-class 0", "argument --per-class: must be .* got '0'"),
    Script("no images", f"{GENERATE} --num-images 0", "argument --num-images: must be .* got '0'"),
    Script("fewer than no images", f"{GENERATE} --num-images -3", "argument --num-images: must be .* got '-3'"),
    Script("a size of 0", f"{GENERATE} --size 0", "--size must be a positive integer, .*; got '0'"),
    Script("a size below 0", f"{GENERATE} --size -8", "--size must be a positive integer, .*; got '-8'"),
    Script("a size in words", f"{GENERATE} --size large", "--size must be a positive integer, .*; got 'large'"),
    Script("a size of three", f"{GENERATE} --size 8x8x8", "size must be one number, or 2, one per axis; got .8, 8, 8."),
    Script("a size beyond memory", f"{GENERATE} --size 1000000", "64 images of 1000000 × 1000000 pixels would take .* GiB"),
    Script("a region of three numbers", f"{GENERATE} --region 0,0,1", "--region must be the starts, then the ends, of all axes, .*; got '0,0,1'"),
    Script("a region backwards", f"{GENERATE} --region 1,1,0,0", "region must have every start below its end"),
    Script("a region of NaN", f"{GENERATE} --region nan,0,1,1", "region must be 4 finite numbers"),
    Script("an infinite region", f"{GENERATE} --region 0,0,inf,1", "region must be 4 finite numbers"),
    Script("an unknown scheduler", f"{GENERATE} --sampling.scheduler ddimm", "command line: sampling.scheduler: must be .*; got 'ddimm'; did you mean 'ddim'"),
    Script("no steps", f"{GENERATE} --sampling.num_inference_steps 0", "command line: sampling.num_inference_steps: .*greater than 0; got 0"),
    Script("half a step", f"{GENERATE} --sampling.num_inference_steps 2.5", "sampling.num_inference_steps: .*valid integer; got 2.5"),
    Script("more steps than levels", f"{GENERATE} --sampling.num_inference_steps 1001", "num_inference_steps must be an integer from 1 to 1000; got 1001"),
    Script("a scheduler that cannot do a single step", f"{GENERATE} --sampling.scheduler euler --sampling.num_inference_steps 1",
           "num_inference_steps must be at least 2"),
    Script("a guidance of NaN", f"{GENERATE} --sampling.guidance_scale .nan", "sampling.guidance_scale: .*finite number; got nan"),
    Script("an infinite guidance", f"{GENERATE} --sampling.guidance_scale .inf", "sampling.guidance_scale: .*finite number; got inf"),
    Script("a guidance below 0", f"{GENERATE} --sampling.guidance_scale -1", "sampling.guidance_scale: .*greater than or equal to 0; got -1"),
    Script("a guidance so large that latents overflow", f"{GENERATE} --sampling.guidance_scale 1e38", "latents that are not finite"),
    Script("a guided interval of one number", f"{GENERATE} --sampling.guidance_interval [0.5]", "sampling.guidance_interval: .*at least 2 items"),
    Script("a guided interval without brackets", f"{GENERATE} --sampling.guidance_interval 0.2,0.8", "sampling.guidance_interval: .*valid list; got '0.2,0.8'"),
    Script("a guided interval backwards", f"{GENERATE} --sampling.guidance_interval [0.8,0.2]", "guidance_interval must be .low, high. with low <= high"),
    Script("a guided interval of NaN", f"{GENERATE} --sampling.guidance_interval [.nan,1]", "sampling.guidance_interval: .*; got nan"),
    Script("a misspelt key of sampling", f"{GENERATE} --sampling.guidance 2", "sampling.guidance: unknown key; did you mean 'guidance_scale'"),
    Script("a key of sampling without a value", f"{GENERATE} --sampling.guidance_scale --size 8", "--sampling.guidance_scale needs a value: write --sampling.guidance_scale VALUE"),
    Script("a key of training for samples", f"{GENERATE} --data.source digits", "command line: data: unknown key; allowed here: sampling"),
    Script("a former flag of half a step", f"{GENERATE} --steps 2.5", "sampling.num_inference_steps: .*valid integer; got 2.5"),
    Script("a former flag of a GAN", f"{GENERATE} --truncation 0.5", "sampling.truncation: unknown key; allowed here: guidance_interval"),
    Script("a truncation of diffusion", f"{GENERATE} --sampling.truncation 0.5", "sampling.truncation: unknown key; allowed here: guidance_interval"),
    Script("steps of a GAN", "sample/generate.py runs/gan --sampling.num_inference_steps 5", "sampling.num_inference_steps: unknown key; allowed here: truncation"),
    Script("a truncation of NaN", "sample/generate.py runs/gan --sampling.truncation .nan", "sampling.truncation: .*; got nan"),
    Script("a truncation below 0", "sample/generate.py runs/gan --sampling.truncation -1", "sampling.truncation: .*; got -1"),
    Script("a guide of a GAN", "sample/generate.py runs/gan --guide runs/diffusion", "--guide is for diffusion, and this is a GAN: leave it out"),
    Script("a missing guide", f"{GENERATE} --guide runs/nowhere", "runs/nowhere: no pipeline here"),
    Script("an autoencoder for a guide", f"{GENERATE} --guide runs/anr", "runs/anr: no pipeline here"),
    Script("a GAN for a guide", f"{GENERATE} --guide runs/gan", "runs/gan has a GANPipeline; a guide is the denoiser of a LatentDiffusionPipeline"),
    Script("a guide without its denoiser", f"{GENERATE} --guide damaged", "damaged/pipeline: no LatentDenoiser here", without("diffusion", "pipeline/denoiser")),
    Script("a flipped bit in a guide", f"{GENERATE} --guide damaged", "damaged, its hash differs", damaged("diffusion", "pipeline/denoiser/*.safetensors", flipped)),
    Script("a batch of no images", f"{GENERATE} --batch-size 0", "argument --batch-size: must be a positive integer; got '0'"),
    Script("a seed below 0 for samples", f"{GENERATE} --seed -1", "argument --seed: must be an integer from 0; got '-1'"),
    Script("a seed in words", f"{GENERATE} --seed x", "argument --seed: must be an integer from 0; got 'x'"),
    Script("a device of an unknown kind", f"{GENERATE} --device tpu", "device must be cpu, mps, cuda or cuda:N; got 'tpu'"),
    Script("a missing GPU", f"{GENERATE} --device cuda:99", "device cuda:99: torch finds"),
    Script("an unknown number type", f"{GENERATE} --dtype fp8", "argument --dtype: invalid choice: 'fp8'"),
    Script("a folder for a picture", f"{GENERATE} --out mine", "mine cannot be written: a folder is in the way", lambda here: (here / "mine").mkdir()),
    Script("a picture below a file", f"{GENERATE} --out note/x.png", "note/x.png cannot be written: a file is in the way", text("note", "")),
    Script("a picture in /proc", f"{GENERATE} --out /proc/x.png", "/proc/x.png cannot be written"),
    Script("a pipe for a picture", f"{GENERATE} --out pipe", "pipe is not a file but a device or a pipe", lambda here: os.mkfifo(here / "pipe")),
    Script("a file for a folder of images", f"{GENERATE} --out x.png --images note", "note/0.png cannot be written: a file is in the way", text("note", "")),
    Script("no columns", f"{GENERATE} --columns 0", "argument --columns: must be .* got '0'"),
    Script("an abbreviated option of sampling", f"{GENERATE} --class 3", "--class: unknown option; write config keys as --section.key VALUE"),
    Script("a flipped bit in a pipeline", "sample/generate.py damaged", "damaged, its hash differs", damaged("diffusion", "pipeline/denoiser/*.safetensors", flipped)),
    Script("a list for a pipeline's index", "sample/generate.py damaged", "model_index.json: damaged", damaged("diffusion", "pipeline/model_index.json", to("[1]"))),
    Script("a pipeline's index cut off", "sample/generate.py damaged", "model_index.json: damaged", damaged("diffusion", "pipeline/model_index.json", halved)),
    Script("a pipeline of another kind", "sample/generate.py damaged", "the pipeline must be one of .*; got StableDiffusionPipeline",
           damaged("diffusion", "pipeline/model_index.json", to('{"_class_name": "StableDiffusionPipeline"}'))),
    Script("a pipeline without its denoiser", "sample/generate.py damaged", "damaged/pipeline", without("diffusion", "pipeline/denoiser")),
    Script("a pipeline with a list for its scheduler", "sample/generate.py damaged", "damaged/pipeline", damaged("diffusion", "pipeline/scheduler/*.json", to("[1]"))),
    Script("a pipeline's scheduler cut off", "sample/generate.py damaged", "damaged/pipeline", damaged("diffusion", "pipeline/scheduler/*.json", halved)),
    Script("a run's config that is damaged", "sample/evaluate.py damaged --num-images 4", "damaged/config.yaml: not valid YAML", damaged("diffusion", "config.yaml", to("a: ["))),
    Script("a number for a pipeline's sampling", "sample/generate.py damaged", "model_index.json: sampling: must be a mapping of keys; got 3",
           damaged("diffusion", "pipeline/model_index.json", with_sampling(3))),
    Script("text for a pipeline's steps", "sample/generate.py damaged", "model_index.json: sampling.num_inference_steps: .*valid integer; got '9'",
           damaged("diffusion", "pipeline/model_index.json", with_sampling({"num_inference_steps": "9"}))),
    Script("an unknown setting of a saved pipeline", "sample/generate.py damaged", "model_index.json: sampling.steps: unknown key; allowed here",
           damaged("diffusion", "pipeline/model_index.json", with_sampling({"steps": 9}))),
    Script("a number for an earlier run's sampling", "sample/generate.py damaged", "config.yaml: sampling: must be a mapping of keys .*; got 3",
           all_of(damaged("diffusion", "pipeline/model_index.json", with_sampling()), text("damaged/config.yaml", "sampling: 3"))),
    Script("a list for a run's data", "sample/reconstruct.py damaged --out x.png", "config.yaml: data: must be a mapping of keys .*; got .1.", damaged("anr", "config.yaml", to("data: [1]"))),
    Script("refinement options without steps", f"{RECONSTRUCT} --refine-lr 0.1", "has no effect without --refine-steps: give a number of steps"),
    Script("a decoder's rate without refining the decoder", f"{REFINE} --refine-decoder-lr 0.1", "has no effect without --refine-decoder: give both"),
    Script("refining the decoder for a batch", f"{REFINE} --refine-decoder --batch-size 2", "--batch-size must be 1 with --refine-decoder, which refines one decoder per image; got 2"),
    Script("a refinement rate of NaN", f"{REFINE} --refine-lr nan", "argument --refine-lr: must be a finite number above 0; got 'nan'"),
    Script("a refinement rate of 0", f"{REFINE} --refine-lr 0", "argument --refine-lr: must be a finite number above 0; got '0'"),
    Script("more points than pixels", f"{REFINE} --refine-coords 10000", "num_coords must be an integer from 1 to 121; got 10000"),
    Script("refinement steps below 0", f"{RECONSTRUCT} --refine-steps -1", "argument --refine-steps: must be .* got '-1'"),
    Script("a diffusion run to reconstruct", "sample/reconstruct.py runs/diffusion --out x.png", "no model there"),
    Script("missing other images", f"{RECONSTRUCT} --source nowhere", "data.source 'nowhere' does not exist"),
    Script("other images without the column", f"{RECONSTRUCT} --source digits --image-column picture", "data.image_column 'picture' is not in 'digits'"),
    Script("a model folder without images", "sample/reconstruct.py runs/anr/model --out x.png", "give a run folder, or name other images with --source"),
    Script("a reconstruction too large", f"{RECONSTRUCT} --size 1000000", "one render of 1000000 × 1000000 would take .* GiB"),
    Script("a picture called .json", "sample/reconstruct.py runs/anr --out x.json", "--out x.json"),
    Script("a reconstruction below a file", "sample/reconstruct.py runs/anr --out note/x.png", "note/x.png cannot be written", text("note", "")),
    Script("a token below 0", f"{LOCALITY} --tokens=-1", "tokens must be in 0 to 7; got -1"),
    Script("a token past the last", f"{LOCALITY} --tokens 0,99", "tokens must be in 0 to 7; got 99"),
    Script("a word for a token", f"{LOCALITY} --tokens first", "--tokens must be integers, as in 0,3,7; got 'first'"),
    Script("more tokens than there are", f"{LOCALITY} --num-tokens 9", "--num-tokens must be at most 8, the tokens of .*; got 9"),
    Script("a scale of 0", f"{LOCALITY} --scale 0", "argument --scale: must be .* got '0'"),
    Script("a scale beyond memory", f"{LOCALITY} --scale 1000000", "a render of 8000000 × 8000000 would take .* GiB"),
    Script("a picture of tokens below a file", "sample/locality.py runs/locality --out note/x.png", "note/x.png cannot be written", text("note", "")),
    Script("a diffusion run to interpolate", "sample/interpolate.py runs/diffusion", "has a LatentDiffusionPipeline; this script needs a GANPipeline"),
    Script("steps of a walk", f"{INTERPOLATE} --sampling.num_inference_steps 5", "sampling.num_inference_steps: unknown key; allowed here: truncation"),
    Script("no rows", f"{INTERPOLATE} --rows 0", "argument --rows: must be .* got '0'"),
    Script("no steps of interpolation", f"{INTERPOLATE} --steps 0", "argument --steps: must be .* got '0'"),
    Script("an unknown class of a GAN", f"{INTERPOLATE} --classes 10", "--classes must be in 0 to 9, .*; got 10"),
    Script("an interpolation below a file", "sample/interpolate.py runs/gan --out note/x.png", "note/x.png cannot be written", text("note", "")),
    Script("a pattern of a part of the image", f"{PATTERN} --region 0,0,1,1", "--region: a part of an image cannot be compared with whole images"),
    Script("a pattern of a pipeline without images", "sample/pattern.py runs/gan/pipeline", "no config.yaml there to name the data set; give a run folder$"),
    Script("a pattern below a file", "sample/pattern.py runs/gan --out note/x.png", "note/x.png cannot be written", text("note", "")),
    Script("a pattern called .json", "sample/pattern.py runs/gan --out x.json", "--out x.json"),
    Script("a missing field", "sample/render.py runs/nowhere", "runs/nowhere: no NeuralField here"),
    Script("an image's size for a video's", f"{RENDER} --size 8x8x8", "--size must be 2 positive integers, as in .*; got '8x8x8'"),
    Script("a render of size 0", f"{RENDER} --size 0", "--size must be a positive integer, .*; got '0'"),
    Script("a render beyond memory", f"{RENDER} --size 1000000", "1000000 × 1000000 would take"),
    Script("a render of three bounds", f"{RENDER} --region 0,0,1", "--region must be 4 numbers separated by commas; got '0,0,1'"),
    Script("a render of an empty region", f"{RENDER} --region 0,0,0,1", "region must have every start below its end"),
    Script("an autoencoder to render", "sample/render.py runs/anr", "NeuralField has no argument"),
    Script("a GAN to render", "sample/render.py runs/gan", "runs/gan: no NeuralField here"),
    Script("a render below a file", "sample/render.py runs/field --out note/x.png", "note/x.png cannot be written", text("note", "")),
    Script("activations of a missing field", "sample/activations.py runs/nowhere --out x.png", "runs/nowhere: no NeuralField here"),
    Script("activations of no units", f"{ACTIVATIONS} --num-units 0", "argument --num-units: must be a positive integer; got '0'"),
    Script("activations at a video's size", f"{ACTIVATIONS} --size 8x8x8", "--size must be 2 positive integers, as in .*; got '8x8x8'"),
    Script("activations below a file", "sample/activations.py runs/field --out note/x.png", "note/x.png cannot be written", text("note", "")),
    Script("an unknown metric", f"{EVALUATE} --metrics fdi", "'fdi' is not one of .*did you mean 'fid'"),
    Script("no metric", [*EVALUATE.split(), "--metrics", ""], "'' is not one of"),
    Script("a run without a config", "sample/evaluate.py runs/diffusion/pipeline", "not a run folder .it has no config.yaml"),
    Script("a stage 1 to evaluate", "sample/evaluate.py runs/anr", "runs/anr: no pipeline here"),
    Script("a classifier's metric without one", f"{EVALUATE} --metrics fd_classifier", "need --classifier"),
    Script("a missing classifier", f"{CLASSIFIED} runs/nowhere", "runs/nowhere: no ImageClassifier here"),
    Script("an autoencoder for a classifier", f"{CLASSIFIED} runs/anr", "ImageClassifier has no argument"),
    Script("a classifier of another size", f"{CLASSIFIED} runs/classifier --size 16", "its image_size is 8×8, but the samples have 16×16"),
    Script("a flipped bit in the classifier", f"{CLASSIFIED} damaged", "damaged, its hash differs", damaged("classifier", "model/*.safetensors", flipped)),
    Script("missing Inception weights", f"{EVALUATE} --inception-weights none.pth", "--inception-weights none.pth: no such file"),
    Script("Inception weights that are text", f"{EVALUATE} --inception-weights my.pth", "not a weights file", text("my.pth", "hello")),
    Script("Inception weights offline", EVALUATE, "Inception weights could not be downloaded", environment={
        "TORCH_HOME": "torch", "https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}),
    Script("a distance of one image", "sample/evaluate.py runs/diffusion --num-images 1 --metrics fd_classifier --classifier runs/classifier", "at least 2 images"),
    Script("a distance to one image", f"{CLASSIFIED} runs/classifier --reference-images 1", "at least 2 images"),
    Script("reconstructions of a GAN of pixels", "sample/evaluate.py runs/gan --metrics rfid", "rfid measures reconstructions"),
    Script("a part of the image to evaluate", f"{EVALUATE} --region 0,0,1,1", "a part of an image cannot be compared"),
    Script("an unknown reference", f"{EVALUATE} --reference test", "argument --reference: invalid choice: 'test'"),
    Script("a report below a file", f"{CLASSIFIED} runs/classifier --out note/x.json", "note/x.json cannot be written", text("note", "")),
    Script("features in batches of 0", f"{EVALUATE} --feature-batch 0", "argument --feature-batch: must be .* got '0'"),
]  # fmt: skip

BENCHMARKS = [
    Script("workers in words", "benchmarks/data.py --workers two", "argument --workers: must be an integer from 0; got 'two'"),
    Script("workers below 0", "benchmarks/data.py --workers=-1", "argument --workers: must be an integer from 0; got '-1'"),
    Script("a step of NaN", "benchmarks/data.py --step nan", "argument --step: must be a finite number above 0; got 'nan'"),
    Script("a step below 0", "benchmarks/data.py --step=-1", "argument --step: must be a finite number above 0; got '-1'"),
    Script("a cache of no images", "benchmarks/data.py --images 0", "argument --images: must be .* got '0'"),
    Script("a cache beyond memory", "benchmarks/data.py --tokens 1000000 --latent-dim 1000000", "out of memory"),
    Script("heads that do not divide", "benchmarks/render.py --heads 7 --size 8", "hidden_dim must be a multiple of num_heads; got 256 and 7"),
    Script("chunks in words", "benchmarks/render.py --size 8 --chunks all", "argument --chunks: must be a positive integer; got 'all'"),
    Script("chunks of 0", "benchmarks/render.py --size 8 --chunks 0", "argument --chunks: must be a positive integer; got '0'"),
    Script("an unknown representation", "benchmarks/render.py --representation ipc", "invalid choice: 'ipc'"),
    Script("a benchmark on an unknown device", "benchmarks/expert_linear.py --device tpu", "device must be cpu, mps, cuda or cuda:N"),
    Script("a benchmark on a missing GPU", "benchmarks/expert_linear.py --device cuda:99", "device cuda:99: torch finds"),
    Script("a side of 0 points", "benchmarks/expert_linear.py --side 0", "argument --side: must be .* got '0'"),
    Script("a refinement of no run", "benchmarks/refinement.py runs/nowhere --source digits", "no model there"),
    Script("a refinement of no images", "benchmarks/refinement.py runs/anr --source nowhere", "data.source 'nowhere' does not exist"),
    Script("a refinement at a rate below 0", "benchmarks/refinement.py runs/anr --source digits --lr=-1 --steps 1 --num-images 1 --out out", "argument --lr: must be a finite number above 0; got '-1'"),
    Script("a field at a rate of NaN", "benchmarks/refinement.py runs/anr --source digits --field-lr nan --steps 1 --num-images 1 --out out", "argument --field-lr: must be a finite number above 0; got 'nan'"),
    Script("a refinement below a file", "benchmarks/refinement.py runs/anr --source digits --steps 1 --num-images 1 --out note/a", "note/a/refinement.json cannot be written: a file is in the way", text("note", "")),
    Script("threads of no config", "benchmarks/threads.py none.yaml", "none.yaml: no such config file"),
    Script("threads in no runs", "benchmarks/threads.py small/gan.yaml --runs 0", "argument --runs: must be .* got '0'"),
    Script("threads in one step", "benchmarks/threads.py small/gan.yaml --steps 1", "--steps must be at least 2"),
    Script("threads of a run that fails", "benchmarks/threads.py small/gan.yaml --runs 1 --steps 2 --run.batch 0", "run.batch: must be greater than 0; got 0"),
]  # fmt: skip


def objects() -> dict[str, Any]:
    """The names in the expressions of `PYTHON`: tiny models, valid arguments for them, and functions."""
    import diffusers
    import numpy
    import torch

    import genrep
    from genrep import coords, data, devices, diffusion, interpolation, refine
    from genrep.data import images, latents
    from genrep.diffusion import schedulers
    from genrep.metrics import fidelity, generated, locality, pattern, reconstruction
    from tests import tiny

    torch.manual_seed(0)
    autoencoder, denoiser, normalizer = tiny.tiny_autoencoder(), tiny.tiny_denoiser(), genrep.LatentNormalizer(4, 8)
    scheduler = schedulers.make_scheduler("dpm_solver", genrep.NoiseLevels(diffusion.NoiseSpec(), (4, 8)))
    pipe = genrep.LatentDiffusionPipeline(autoencoder, denoiser, normalizer, scheduler)
    pipe.set_progress_bar_config(disable=True)
    generator_model = genrep.CoordinateGenerator(
        channels=1, num_classes=3, noise_dim=4, widths=[8, 8], tile=[2], cells=[2], num_frequencies=2
    )
    return {
        **{name: getattr(genrep, name) for name in genrep.__all__},
        "torch": torch, "np": numpy, "nan": math.nan, "inf": math.inf, "Path": Path, "DDPMScheduler": diffusers.DDPMScheduler,
        "images": torch.zeros(2, 1, 8, 8), "latents": torch.zeros(2, 4, 8), "coords": torch.zeros(3, 2),
        "autoencoder": autoencoder, "denoiser": denoiser, "normalizer": normalizer, "scheduler": scheduler, "pipe": pipe,
        "generator_model": generator_model, "gan": genrep.GANPipeline(generator_model, sample_size=[8, 8]),
        "field": genrep.NeuralField({"type": "positional_mlp", "widths": [8], "num_frequencies": 2}, [8, 8], 1),
        "AUTOENCODER": tiny.AUTOENCODER, "tiny_denoiser": tiny.tiny_denoiser,
        "NoiseSpec": diffusion.NoiseSpec, "swap_scheduler": schedulers.swap_scheduler, "refine": refine.refine,
        "grid": coords.grid, "random_subset": coords.random_subset, "values_at": interpolation.values_at,
        "choose_device": devices.choose_device, "ImageDataSpec": data.ImageDataSpec, "ImageData": images.ImageData,
        "LatentCache": latents.LatentCache, "psnr": reconstruction.psnr, "ssim": reconstruction.ssim,
        "token_differences": locality.token_differences, "statistics": pattern.statistics,
        "GeneratedImages": generated.GeneratedImages, "check_weights": fidelity.check_weights,
    }  # fmt: skip


PYTHON = [
    # an autoencoder
    Call("images of bytes", "autoencoder.encode((images * 255).byte())", "images must be floating-point numbers; got torch.uint8.*from_uint8"),
    Call("images of NumPy", "autoencoder.encode(images.numpy())", "images must be a torch tensor .*got numpy.ndarray.*from_numpy"),
    Call("a list of images", "autoencoder.encode([images])", "images must be a torch tensor .*got list"),
    Call("images that are NaN", "autoencoder.encode(images + nan)", "images must be finite; 128 of 128 numbers are NaN or infinite"),
    Call("no images to encode", "autoencoder.encode(images[:0])", "there are no images to encode"),
    Call("one image without a batch", "autoencoder.encode(images[0])", "images must be .batch, channels, height, width.; got .1, 8, 8."),
    Call("images of another size", "autoencoder.encode(torch.zeros(2, 1, 9, 8))", "images of shape .* do not fit the encoder"),
    Call("images of three channels", "autoencoder.encode(torch.zeros(2, 3, 8, 8))", "images of shape .* do not fit the encoder"),
    Call("latents that are NaN", "autoencoder.render(latents + nan)", "latents must be finite"),
    Call("integer latents", "autoencoder.decode(latents.long(), coords)", "latents must be floating-point numbers; got torch.int64"),
    Call("latents of another width", "autoencoder.decode(torch.zeros(2, 4, 9), coords)", "latents must be .batch, 4, 8. for this decoder; got"),
    Call("latents without a batch", "autoencoder.decode(latents[0], coords)", "latents must be .batch, 4, 8. for this decoder"),
    Call("no latents", "autoencoder.render(latents[:0])", "there are no latents to render"),
    Call("infinite coordinates", "autoencoder.decode(latents, coords + inf)", "coords must be finite"),
    Call("coordinates of three axes", "autoencoder.decode(latents, torch.zeros(3, 3))", "coords must be .points, 2"),
    Call("coordinates of another batch", "autoencoder.decode(latents, torch.zeros(3, 5, 2))", "coords must be .*; got .3, 5, 2"),
    Call("coordinates in a list", "autoencoder.decode(latents, [[0.0, 0.0]])", "coords must be a torch tensor .points, axes.* got list"),
    Call("pixel indices for coordinates", "autoencoder.decode(latents, coords.long())", "coords must be floating-point numbers; got torch.int64"),
    Call("a size of half a pixel", "autoencoder.render(latents, size=8.5)", "size must be a positive integer, or one per axis .*; got 8.5"),
    Call("a size in a string", "autoencoder.render(latents, size='8')", "size must be a positive integer, or one per axis .*; got '8'"),
    Call("a size of True", "autoencoder.render(latents, size=True)", "size must be a positive integer, or one per axis .*; got True"),
    Call("a size of three axes", "autoencoder.render(latents, size=(8, 8, 8))", "size must be one number, or 2, one per axis; got .8, 8, 8."),
    Call("a size beyond memory, in Python", "autoencoder.render(latents, size=10**6)", "1000000 × 1000000 would take .* GiB"),
    Call("a region of two numbers", "autoencoder.render(latents, region=(0, 1))", "region must be 4 finite numbers"),
    Call("a region of NaN, in Python", "autoencoder.render(latents, region=(nan, 0, 1, 1))", "region must be 4 finite numbers"),
    Call("a region backwards, in Python", "autoencoder.render(latents, region=(1, 1, 0, 0))", "region must have every start below its end"),
    Call("a region in a string", "autoencoder.render(latents, region='all')", "region must be 4 finite numbers"),
    Call("a chunk of 0", "autoencoder.render(latents, chunk=0)", "chunk must be an integer from 1; got 0"),
    Call("gradients of bytes", "autoencoder.render(latents, gradients=True, as_uint8=True)", "as_uint8 rounds and has no gradients"),
    Call("an unknown key of a model", "INRAutoencoder(**{**AUTOENCODER, 'encoder': {'type': 'cross_attention', 'dimm': 8}})", "encoder.dimm: unknown key; did you mean 'dim'"),
    Call("a model of no tokens", "INRAutoencoder(**{**AUTOENCODER, 'num_tokens': 0})", "num_tokens: .*; got 0"),
    Call("a string for an encoder", "INRAutoencoder(**{**AUTOENCODER, 'encoder': 'anr'})", "encoder: must be a mapping of keys .type, .*; got 'anr'"),
    Call("a missing model", "INRAutoencoder.from_pretrained('./nowhere')", "nowhere: no INRAutoencoder here"),
    Call("a number for a folder", "INRAutoencoder.from_pretrained(3)", "INRAutoencoder.from_pretrained takes a folder or a Hub id; got 3"),
    Call("a missing pipeline", "LatentDiffusionPipeline.from_pretrained('./nowhere')", "nowhere: no LatentDiffusionPipeline here"),
    # diffusion
    Call("a string for labels", "pipe(class_labels='3')", "class_labels must be an integer; got '3'"),
    Call("strings for labels", "pipe(class_labels=['3'])", "every number of class_labels must be an integer; got '3'"),
    Call("a fraction for a label", "pipe(class_labels=[3.7])", "every number of class_labels must be an integer; got 3.7"),
    Call("bools for labels", "pipe(class_labels=[True])", "every number of class_labels must be an integer; got True"),
    Call("a label past the last", "pipe(class_labels=[10])", "class_labels must be in 0 to 9, the classes of this model; got 10"),
    Call("a label below 0, in Python", "pipe(class_labels=-1)", "class_labels must be in 0 to 9, the classes of this model; got -1"),
    Call("no labels", "pipe(class_labels=[])", "class_labels is empty: give one label per image"),
    Call("fewer labels than images", "pipe(class_labels=[1, 2], num_images=3)", "class_labels must have one label per image; got 2 for 3 images"),
    Call("labels in a table", "pipe(class_labels=torch.tensor([[1, 2]]))", "class_labels must be an integer"),
    Call("half an image", "pipe(num_images=1.5)", "num_images must be an integer from 1; got 1.5"),
    Call("no images of a pipeline", "pipe(num_images=0)", "num_images must be an integer from 1; got 0"),
    Call("half a step, in Python", "pipe(num_inference_steps=2.5)", "num_inference_steps must be an integer from 1 to 1000; got 2.5"),
    Call("no steps, in Python", "pipe(num_inference_steps=0)", "num_inference_steps must be an integer from 1 to 1000; got 0"),
    Call("more steps than levels, in Python", "pipe(num_inference_steps=1001)", "num_inference_steps must be an integer from 1 to 1000; got 1001"),
    Call("a guidance of NaN, in Python", "pipe(guidance_scale=nan)", "guidance_scale must be a finite number"),
    Call("a guidance in a string", "pipe(guidance_scale='2')", "guidance_scale must be a finite number; got '2'"),
    Call("a guided interval backwards, in Python", "pipe(guidance_interval=(0.8, 0.2))", "guidance_interval must be .low, high."),
    Call("a guided interval of one", "pipe(guidance_interval=0.5)", "guidance_interval must be .low, high."),
    Call("a height of 0", "pipe(height=0)", "size must be a positive integer"),
    Call("a width of NaN", "pipe(width=nan)", "size must be a positive integer"),
    Call("a batch of half an image", "pipe(batch_size=0.5)", "batch_size must be an integer from 1; got 0.5"),
    Call("an unknown type of output", "pipe(output_type='jpeg')", "output_type must be one of pil, np, pt, uint8, kept, latent; got 'jpeg'"),
    Call("more images than memory", "pipe(num_images=10, height=10**6, width=10**6)", "10 images of 1000000 × 1000000 pixels would take"),
    Call("two generators for three images", "pipe(num_images=3, generator=[torch.Generator()] * 2)", "generator must be a single one, or one per image, 3; got 2"),
    Call("a seed for a generator", "pipe(generator=3)", "generator must be a torch.Generator, or one per image; got .3"),
    Call("noise of NaN", "pipe(latents=torch.full((1, 4, 8), nan))", "latents must be finite"),
    Call("noise of another shape", "pipe(latents=torch.zeros(1, 4, 9))", "latents must be .1, 4, 8., noise for each image"),
    Call("noise for more images than labels", "pipe(class_labels=[1], latents=torch.zeros(2, 4, 8))", "latents must be .1, 4, 8."),
    Call("an unknown input of a callback", "pipe(callback_on_step_end_tensor_inputs=['image'])", "'image' is not one of latents"),
    Call("latents of a denoiser that has diverged", "LatentDiffusionPipeline(autoencoder, tiny_denoiser().apply(lambda m: [p.data.fill_(nan) for p in m.parameters()] and None), normalizer, scheduler)(num_inference_steps=2)",
         "sampling gave latents that are not finite"),
    Call("a denoiser of other latents", "LatentDiffusionPipeline(autoencoder, LatentDenoiser(5, 8, dim=8, depth=1, mlp_dim=8), normalizer, scheduler)", "does not fit an autoencoder with latents"),
    Call("a normalizer of other latents", "LatentDiffusionPipeline(autoencoder, denoiser, LatentNormalizer(5, 8), scheduler)", "a normalizer with statistics .5, 8. does not fit"),
    Call("a scheduler that predicts noise", "LatentDiffusionPipeline(autoencoder, denoiser, normalizer, DDPMScheduler())", "must have prediction_type=.sample.*; got 'epsilon'"),
    Call("a string for a scheduler", "LatentDiffusionPipeline(autoencoder, denoiser, normalizer, 'ddim')", "scheduler must be a diffusers scheduler, .*; got 'ddim'"),
    Call("a guide of other latents", "LatentDiffusionPipeline(autoencoder, denoiser, normalizer, scheduler, guide=LatentDenoiser(5, 8, dim=8, depth=1, mlp_dim=8))", "a guide with latents .5, 8.*0 classes does not fit a denoiser with latents .4, 8.*10 classes"),
    Call("an unknown scheduler, in Python", "swap_scheduler('ddimm', scheduler)", "scheduler must be one of .*; got 'ddimm'; did you mean 'ddim'"),
    Call("an unknown setting", "LatentDiffusionPipeline(autoencoder, denoiser, normalizer, scheduler, sampling={'steps': 3})", "has no setting 'steps'"),
    Call("a setting of NaN", "LatentDiffusionPipeline(autoencoder, denoiser, normalizer, scheduler, sampling={'guidance_scale': nan})", "guidance_scale must be a finite number"),
    Call("labels of a denoiser without classes", "tiny_denoiser(0)(latents, 3, torch.tensor([1, 1]))", "this denoiser was trained without classes: leave class_labels out"),
    Call("labels of a denoiser in a list", "denoiser(latents, 3, [1, 1])", "class_labels must be a tensor of 2 integers"),
    Call("fractions for a denoiser's labels", "denoiser(latents, 3, torch.tensor([1.0, 1.0]))", "class_labels must be a tensor of 2 integers"),
    Call("timesteps of another batch", "denoiser(latents, torch.tensor([1, 2, 3]))", "timesteps must be one number, or .2."),
    Call("a timestep in a string", "denoiser(latents, 'last')", "timesteps must be a finite number from 0; got 'last'"),
    Call("noisy latents of another shape", "denoiser(torch.zeros(2, 5, 8), 3)", "noisy_latents must be .batch, 4, 8. for this denoiser"),
    Call("an unknown conditioning", "tiny_denoiser(conditioning='film')", "conditioning: .*; got 'film'"),
    Call("latents of another width to standardise", "normalizer.standardize(torch.zeros(2, 4, 9))", "latents must be .* for this normalizer"),
    Call("statistics that are NaN", "LatentNormalizer.from_statistics(latents[0] + nan, latents[0])", "the mean of the latents must be finite"),
    Call("noise levels without weight", "NoiseLevels(NoiseSpec(density='normal', density_mean=1000.0), (4, 8))", "gives no level any weight"),
    # GANs
    Call("an unknown class of a GAN, in Python", "gan(class_labels=[3])", "class_labels must be in 0 to 2, the classes of this model; got 3"),
    Call("a truncation of NaN, in Python", "gan(truncation=nan)", "truncation must be a finite number from 0"),
    Call("a truncation below 0, in Python", "gan(truncation=-1)", "truncation must be a finite number from 0; got -1"),
    Call("latents of a GAN of pixels", "gan(output_type='latent')", "needs a GAN of latents; this one generates pixels"),
    Call("noise of another width", "gan(latents=torch.zeros(1, 5))", "latents must be .1, 4., noise for each image"),
    Call("noise in a list", "gan.from_noise([[0.0] * 4], [0], 8)", "latents must be a torch tensor .* got list"),
    Call("noise without labels", "gan.from_noise(torch.zeros(2, 4), [0], 8)", "class_labels must have one label per image; got 1 for 2 images"),
    Call("a GAN without a size", "GANPipeline(generator_model)", "or sample_size for a GAN of pixels"),
    Call("a GAN of pixels with an autoencoder", "GANPipeline(generator_model, autoencoder, normalizer)", "generator_model must have 1 axes and 8 channels here; got 2 and 1"),
    Call("a GAN of a size of 0", "GANPipeline(generator_model, sample_size=[0, 8])", "size must be a positive integer"),
    Call("a generator without labels", "generator_model(coords, torch.zeros(1, 4))", "give one class label per sample"),
    Call("a generator's noise in NumPy", "generator_model(coords, np.zeros((1, 4)), torch.tensor([0]))", "noise must be a torch tensor .*got numpy.ndarray"),
    Call("a generator of too few tiles", "CoordinateGenerator(widths=[8, 8, 8], tile=[2], cells=[2])", "tile must have one number per width after the first, 2; got 1"),
    # fields
    Call("a field's coordinates of three axes", "field(torch.zeros(3, 3))", "coords must be .points, 2.; got .3, 3."),
    Call("a field's coordinates that are NaN", "field.eval()(coords + nan)", "coords must be finite"),
    Call("a field's coordinates of integers", "field(coords.long())", "coords must be floating-point numbers"),
    Call("a field of an unknown type, in Python", "NeuralField({'type': 'nerf'}, [8, 8])", "field.type: .*; got 'nerf'"),
    Call("a field of a shape of 0", "NeuralField({'type': 'positional_mlp'}, [8, 0])", "shape.*got 0"),
    Call("a field's render of three axes", "field.render((8, 8, 8))", "size must be one number, or 2, one per axis; got .8, 8, 8."),
    Call("a field's render beyond memory", "field.render(10**6)", "1000000 × 1000000 would take"),
    Call("a field's chunk of a fraction", "field.render(chunk=0.5)", "chunk must be an integer from 1; got 0.5"),
    # refinement, coordinates, rounding
    Call("refinement of bytes", "refine(autoencoder, images.byte(), 1)", "images must be floating-point numbers; got torch.uint8"),
    Call("refinement in half a step", "refine(autoencoder, images, 0.5)", "steps must be an integer from 0; got 0.5"),
    Call("refinement at a rate of NaN", "refine(autoencoder, images, 1, lr=nan)", "lr must be a finite number above 0; got nan"),
    Call("refinement at a rate in a string", "refine(autoencoder, images, 1, lr='0.1')", "lr must be a finite number above 0; got '0.1'"),
    Call("refinement of a decoder at a rate of 0", "refine(autoencoder, images, 1, decoder_lr=0)", "decoder_lr must be a finite number above 0; got 0"),
    Call("refinement at more points than pixels", "refine(autoencoder, images, 1, num_coords=65)", "num_coords must be an integer from 1 to 64; got 65"),
    Call("refinement at unknown coordinates", "refine(autoencoder, images, 1, coords='random')", "coords must be one of grid, gaussian, uniform; got 'random'"),
    Call("refinement of NaN", "refine(autoencoder, images + nan, 1)", "images must be finite"),
    Call("a grid of no pixels", "grid(0)", "size must be a positive integer"),
    Call("a grid from below 0", "grid(8, start=-1)", "start must be an integer from 0; got -1"),
    Call("a region of strings", "grid(8, region='abcd')", "region must be 4 finite numbers"),
    Call("more points than exist", "random_subset(3, 4, torch.Generator())", "the number of points to draw must be 1 to 3; got 4"),
    Call("an unknown interpolation", "values_at(images, coords, 'cubic')", "interpolation must be one of"),
    Call("an unknown device, in Python", "choose_device('tpu')", "device must be cpu, mps, cuda or cuda:N; got 'tpu'"),
    # data and metrics
    Call("a missing source, in Python", "ImageData(ImageDataSpec(source='nowhere'), 'train', (8, 8), 1)", "data.source 'nowhere' does not exist"),
    Call("an unknown split", "ImageData(ImageDataSpec(), 'test', (8, 8), 1)", "split must be train or held_out; got 'test'"),
    Call("a folder without latents", "LatentCache('nowhere')", "nowhere: no latent cache here"),
    Call("PSNR of bytes", "psnr(images.byte(), images)", "images must be floats in .-1, 1.; got torch.uint8"),
    Call("PSNR of images of other sizes", "psnr(images, torch.zeros(2, 1, 1, 1))", "images and reference must have the same shape; got .2, 1, 8, 8. and .2, 1, 1, 1."),
    Call("SSIM of small images", "ssim(images, images)", "images must have at least 11×11 pixels for SSIM; got 8×8"),
    Call("a missing token", "token_differences(autoencoder, latents, [4], 8)", "tokens must be in 0 to 3; got 4"),
    Call("no token", "token_differences(autoencoder, latents, [], 8)", "tokens is empty"),
    Call("statistics of nothing", "statistics([])", "there are no images"),
    Call("no generated images", "GeneratedImages(Path('x'), {}, 0, 3)", "num_images must be a positive integer; got 0"),
    Call("missing Inception weights, in Python", "check_weights('none.pth')", "none.pth: no such file"),
]  # fmt: skip


GROUPS: dict[str, Sequence[Script | Call]] = {
    "Configs and command lines": CONFIGS,
    "Run folders and checkpoints": RUNS,
    "Data": DATA,
    "Models, latents, and the stages after them": STAGES,
    "Fields, comparisons, the quickstart": FIELDS,
    "Sampling and measuring": SAMPLES,
    "Benchmarks": BENCHMARKS,
    "Python": PYTHON,
}


# running a case


def message_of_call(case: Call, names: dict[str, Any]) -> str:
    """Evaluate the expression; returns the message of its InputError."""
    from genrep.errors import InputError

    with pytest.raises(InputError) as caught:
        eval(case.code, names)
    assert re.search(case.message, str(caught.value), re.DOTALL), caught.value
    return str(caught.value)


def message_of_script(case: Script, here: Path, runs: Path) -> str:
    """Run the command in the empty folder `here` and check all its promises; returns the message."""
    (here / "configs").symlink_to(PROJECT / "configs")
    (here / "runs").symlink_to(runs)
    small_configs(here / "small")
    lock = case.prepare(here) if case.prepare else None
    before = {**files(here), **files(runs)}
    from tests.scripts import run

    stderr, environment = io.StringIO(), dict(os.environ)
    script, *arguments = words(case)
    try:
        os.environ.update(case.environment)
        with contextlib.chdir(here), no_longer_than(SECONDS), contextlib.redirect_stderr(stderr):
            run(script, *arguments, expect=2)
    finally:
        os.environ.clear()
        os.environ.update(environment)
    del lock
    # as a terminal shows it, where a progress bar overwrites itself; and then without the bars
    output = re.sub(r"\r[^\n]*", lambda line: "\n" + line[0].rpartition("\r")[2], stderr.getvalue())
    output = re.sub(r"^.* \d+/\d+ \[.*\n?", "", output, flags=re.MULTILINE)
    _, *messages = re.split(r"^(?:\S+\.py: )?error: ", output, flags=re.MULTILINE)
    assert len(messages) == 1 and "Traceback" not in output, output
    assert re.search(case.message, messages[0], re.DOTALL), messages[0]
    after = {**files(here), **files(runs)}
    written = [os.path.relpath(path, here) for path, state in after.items() if before.get(path) != state]
    assert not [path for path in written if not any(fnmatch(path, pattern) for pattern in case.leaves)], written
    assert not [path for path in written if path.endswith(".partial")], written
    return messages[0].strip().replace(f"{here}/", "")


def words(case: Script) -> list[str]:
    return case.command.split() if isinstance(case.command, str) else list(case.command)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files in a folder; for a case's folder without those it links to."""
    states = {}
    for place, _, names in os.walk(folder, followlinks=not (folder / "runs").is_symlink()):
        for name in names:
            state = os.lstat(os.path.join(place, name))
            states[os.path.join(place, name)] = (state.st_size, state.st_mtime_ns)
    return states


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {seconds} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# the page


def page(messages: dict[str, str]) -> str:
    """Markdown of all cases, with their messages by name."""
    lines = [
        "# Bad inputs",
        "",
        "The messages for wrong arguments, files and folders. Written by `python tests/bad_inputs.py --out docs/bad_inputs.md`;",
        "`tests/end_to_end/test_bad_inputs.py` runs every line. Every command exits with status 2 and one message on stderr, without",
        "a traceback, and leaves no new files. Every expression raises `InputError`, a `ValueError`.",
    ]
    for title, cases in GROUPS.items():
        input_kind = "expression" if title == "Python" else "command"
        lines += [
            "",
            f"## {title}",
            "",
            f"| what is wrong | {input_kind} | status | message |",
            "| --- | --- | --- | --- |",
        ]
        for case in cases:
            what = case.code if isinstance(case, Call) else shown_command(case)
            status = "InputError" if isinstance(case, Call) else "2"
            lines.append(f"| {case.wrong} | {code(what)} | {status} | {code(messages[case.wrong])} |")
    return "\n".join(lines) + "\n"


def shown_command(case: Script) -> str:
    return " ".join([*(f"{name}={value}" for name, value in case.environment.items()), shlex.join(words(case))])


def code(text: str) -> str:
    """Text as code in a table cell; only the first of several lines."""
    first, *more = text.splitlines()
    cell = (first + (" ..." if more else "")).replace("|", "\\|")
    cell = re.sub(r"process \d+ on \S+ since [\d-]+ [\d:]+ \(.*?\)", "process 4711 on HOST since TIME (COMMAND)", cell)
    return f"`` {cell} ``" if "`" in cell else f"`{cell}`"


class Collector:
    """A pytest plugin that collects the messages that the tests recorded."""

    def __init__(self) -> None:
        self.messages: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        recorded = dict(report.user_properties)
        if report.when == "call" and "message" in recorded:
            self.messages[recorded["wrong"]] = recorded["message"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="Markdown page to write")
    options = parser.parse_args()
    collector = Collector()
    test = PROJECT / "tests" / "end_to_end" / "test_bad_inputs.py"
    status = pytest.main(["-q", "-n", "0", "-k", "one_message or input_error", str(test)], plugins=[collector])
    if status:
        raise SystemExit(int(status))
    options.out.write_text(page(collector.messages), encoding="utf-8")


if __name__ == "__main__":
    sys.path.insert(0, str(PROJECT))
    main()
