"""Every bad input of the table gives one message and exit status 2, and a failed write leaves a usable folder."""

import contextlib
import itertools
import os
import re
import shutil

import datasets
import pytest

from genrep.data.latents import LatentCache
from genrep.training.checkpoint import list_checkpoints, load_checkpoint
from tests.bad_inputs import GROUPS, PROJECT, Call, Script, message_of_call, message_of_script, objects
from tests.scripts import AUTOENCODER, diffusion, run

resource = pytest.importorskip("resource")  # POSIX only, like the alarm that stops a case that hangs
if not os.path.exists("/dev/full"):
    pytest.skip("cases of full disks and of read-only places need Linux", allow_module_level=True)
CASES = list(itertools.chain(*GROUPS.values()))


@pytest.fixture(scope="module")
def runs(stage1, stage2, classifier, locality, tmp_path_factory):
    """A folder with a tiny run of each kind."""
    folder = tmp_path_factory.mktemp("bad_inputs")
    small = ["--run.steps", 1, "--run.report_every", 1]
    gan = ["--generator.widths", "[16, 16, 16, 16]", "--discriminator.width", 8, "--run.batch", 16]
    field = ["--signal.size", 32, "--field.widths", "[16, 16, 16]"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(PROJECT)
        run("train/gan.py", "configs/digits/gan.yaml", *gan, *small, "--run.folder", folder / "gan")
        run("train/field.py", "configs/camera/quad_tree.yaml", *field, *small, "--run.folder", folder / "field")
    shared = {"anr": stage1, "diffusion": stage2, "latents": stage2.parent / "latents"}
    for name, place in {**shared, "classifier": classifier, "locality": locality}.items():
        (folder / name).symlink_to(place)
    return folder


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the caches of `datasets` in a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        yield


@pytest.fixture(scope="module")
def names():
    return objects()


def of(kind):
    cases = [case for case in CASES if isinstance(case, kind)]
    return pytest.mark.parametrize("case", cases, ids=[case.wrong.replace(" ", "_") for case in cases])


@of(Script)
def test_one_message(case, runs, tmp_path, record_property):
    record_property("wrong", case.wrong)
    record_property("message", message_of_script(case, tmp_path, runs))


@of(Call)
def test_input_error(case, names, record_property):
    record_property("wrong", case.wrong)
    record_property("message", message_of_call(case, names))


def test_case_names_are_unique_and_on_the_page():
    page = (PROJECT / "docs" / "bad_inputs.md").read_text(encoding="utf-8")
    on_page = re.findall(r"^\| (.+?) \| `", page, re.MULTILINE)
    assert on_page == [case.wrong for case in CASES], (
        "regenerate the page: python tests/bad_inputs.py --out docs/bad_inputs.md"
    )
    assert len(set(on_page)) == len(on_page) and max(map(len, on_page)) < 70


@contextlib.contextmanager
def no_file_larger_than(num_bytes):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_failed_write_of_a_checkpoint_keeps_the_last_one(stage1, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(stage1, folder)
    model = (folder / "model" / "diffusion_pytorch_model.safetensors").read_bytes()
    resume = ["train/autoencoder.py", *AUTOENCODER, "--run.steps", 3, "--run.folder", folder]
    with no_file_larger_than(60_000):
        run(*resume, expect=2)
    output = capsys.readouterr().err
    assert re.search(
        r"^error: \S+step-00000003 cannot be written: .*file too large", output, re.MULTILINE | re.IGNORECASE
    ), output
    assert "Traceback" not in output and not list(folder.rglob("*.partial"))
    (last,) = list_checkpoints(folder / "checkpoints")
    assert load_checkpoint(last).step == 2
    assert (folder / "model" / "diffusion_pytorch_model.safetensors").read_bytes() == model
    run(*resume)
    assert load_checkpoint(list_checkpoints(folder / "checkpoints")[-1]).step == 3


def test_a_failed_write_of_latents_leaves_no_shard(stage1, tmp_path, capsys):
    encode = ["train/latents.py", *diffusion(stage1, tmp_path)]
    with no_file_larger_than(60_000):
        run(*encode, expect=2)
    output = capsys.readouterr().err
    assert re.search(
        r"^error: \S+latents-\S+ cannot be written: .*file too large", output, re.MULTILINE | re.IGNORECASE
    ), output
    assert "Traceback" not in output
    assert [path.name for path in (tmp_path / "latents").iterdir()] == ["unfinished.json"]
    run(*encode)
    assert len(LatentCache(tmp_path / "latents", verify=True)) == 1438
