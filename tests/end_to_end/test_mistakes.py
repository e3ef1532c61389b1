"""Mistakes must not cost a valuable run. All kinds of bad input are in test_bad_inputs.py."""

import shutil

from tests.scripts import AUTOENCODER, diffusion, run


def test_a_failed_start_deletes_nothing(stage1, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(stage1, folder)
    nowhere = ["--data.source", "./nowhere", "--restart", "--run.folder", folder]
    run("train/autoencoder.py", *AUTOENCODER, *nowhere, "--run.steps", 2, expect=2)
    assert (folder / "model" / "config.json").exists() and (folder / "checkpoints" / "step-00000002").is_dir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    run("train/quickstart.py", "--folder", tmp_path / "mine", expect=2)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_stage_2_does_not_resume_on_another_autoencoder(stage1, tmp_path, capsys):
    place = tmp_path / "anr"
    shutil.copytree(stage1, place)
    arguments = [*diffusion(place, tmp_path), "--latents.folder", "null"]
    run("train/diffusion.py", *arguments, "--run.steps", 1)
    run("train/autoencoder.py", *AUTOENCODER, "--run.steps", 3, "--run.folder", place)
    run("train/diffusion.py", *arguments, "--run.steps", 2, expect=2)
    assert "the autoencoder differs from what this run was trained on" in capsys.readouterr().err
