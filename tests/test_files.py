"""Files are complete or absent, whatever goes wrong while they are written."""

import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import save_file

from genrep.errors import InputError
from genrep.files import check_writable, file_hash, make_folder, replacing, write_json, write_text


def test_a_file_replaces_the_old_one_only_when_it_is_whole(tmp_path):
    path = write_text(tmp_path / "new" / "a.txt", "old")
    with pytest.raises(ValueError, match="half way"), replacing(path) as partial:
        partial.write_text("ne")
        raise ValueError("half way")
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]
    with replacing(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a.txt"]


def test_a_folder_replaces_the_old_one(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "model") as partial:
            partial.mkdir()
            (partial / f"{content}.txt").write_text(content)
    assert os.listdir(tmp_path) == ["model"] and os.listdir(tmp_path / "model") == ["new.txt"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_is_one_message(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(InputError, match=r"a.txt cannot be written: the disk is full"), replacing(tmp_path / "a.txt"):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(InputError, match="w.pt cannot be written: the disk is full"), replacing(tmp_path / "w.pt"):
        torch.save({"w": torch.zeros(1000)}, tmp_path / "full")
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "full"] and (tmp_path / "a.txt").read_text() == "old"


def test_a_failed_write_of_safetensors_is_one_message(tmp_path):
    limited = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="w.safetensors cannot be written"), replacing(limited):
        save_file({"w": torch.zeros(3)}, tmp_path / "nowhere" / "w.safetensors")


def test_a_path_below_a_file_is_one_message(tmp_path):
    (tmp_path / "file").write_text("")
    for write in (lambda p: write_text(p, ""), make_folder):
        with pytest.raises(InputError, match="a file is in the way, where a folder is needed"):
            write(tmp_path / "file" / "a")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for write in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(InputError, match="pipe is not a file but a device or a pipe; give the name of a file"):
            write(tmp_path / "pipe")
    assert (tmp_path / "pipe").is_fifo()


def test_a_path_is_checked_before_anything_is_written(tmp_path):
    (tmp_path / "file").write_text("")
    assert check_writable(tmp_path / "new" / "a.png") == tmp_path / "new" / "a.png"
    for path, why in ((tmp_path, "a folder is in the way"), (tmp_path / "file" / "a.png", "a file is in the way")):
        with pytest.raises(InputError, match=why):
            check_writable(path)
    assert os.listdir(tmp_path) == ["file"]


def test_json_and_hash(tmp_path):
    path = write_json(tmp_path / "a.json", {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}
    assert file_hash(path) == hashlib.sha256(path.read_bytes()).hexdigest()
