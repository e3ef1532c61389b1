"""Runs of two steps, shared by the tests of this folder."""

import pytest

from tests.scripts import AUTOENCODER, LOCALITY, PROJECT, diffusion, run


@pytest.fixture(autouse=True)
def in_the_project(monkeypatch):
    monkeypatch.chdir(PROJECT)


@pytest.fixture(scope="session")
def stage1(tmp_path_factory):
    """An autoencoder trained for two steps."""
    folder = tmp_path_factory.mktemp("stage1") / "anr"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 2, "--run.folder", folder)
    return folder


@pytest.fixture(scope="session")
def stage2(stage1, tmp_path_factory):
    """A denoiser trained for two steps."""
    folder = tmp_path_factory.mktemp("stage2")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/diffusion.py", *diffusion(stage1, folder), "--run.steps", 2)
    return folder / "diffusion"


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run(
            "train/classifier.py", "configs/digits/classifier.yaml", "--run.steps", 60,
            "--classifier.width", 16, "--run.folder", folder,
        )  # fmt: skip
    return folder


@pytest.fixture(scope="session")
def locality(tmp_path_factory):
    """A locality-aware autoencoder, trained for a few steps."""
    folder = tmp_path_factory.mktemp("locality") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run(
            "train/autoencoder.py", "configs/digits/locality.yaml", *LOCALITY, "--run.steps", 20, "--run.folder", folder
        )
    return folder
