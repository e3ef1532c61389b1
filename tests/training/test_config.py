"""YAML with includes, dotted overrides, one message for all errors, and a --help with every key."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from genrep.errors import InputError, Stopped
from genrep.specs import Spec
from genrep.training.config import (
    STOPPED,
    dump_config,
    dump_yaml,
    parse_command_line,
    parse_yaml,
    read_config,
    run_script,
)
from genrep.training.specs import AutoencoderRun, ClassifierRun, CloudRun, DiffusionRun, FieldRun, GANRun

PROJECT = Path(__file__).parents[2]
STAGE1 = """\
data: {source: digits}
autoencoder:
  image_size: 8
  encoder: {type: cross_attention, dim: 16}
  decoder: {type: localized_attention}
optimizer: {type: muon, lr: 1e-3, warmup_steps: 10}
run: {folder: runs/a, batch: 4, steps: 5}
"""


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


@pytest.fixture
def parse(write):
    """Parses command-line overrides of STAGE1, or of another YAML text, into a config."""

    def parse(*overrides: str, text: str = STAGE1) -> AutoencoderRun:
        return parse_command_line(AutoencoderRun, "help", [str(write("run.yaml", text)), *overrides])[0]

    return parse


# YAML


def test_numbers_and_booleans_follow_yaml_1_2():
    text = "{a: 1e-4, b: 010, c: on, d: -3, e: 1_000, f: .5, g: -1.5E+3, h: yes, i: ~, j: , k: 2024-01-01, l: -.inf, m: 1:30, n: '1', o: true, p: '010', q: 0x1F, r: =}"
    assert parse_yaml(text, "x") == {
        "a": 1e-4, "b": 10, "c": "on", "d": -3, "e": 1000, "f": 0.5, "g": -1500.0, "h": "yes", "i": None, "j": None, "k": "2024-01-01",
        "l": float("-inf"), "m": "1:30", "n": "1", "o": True, "p": "010", "q": 31, "r": "=",
    }  # fmt: skip
    types = [type(parse_yaml(text, "x")) for text in ("1e-4", "010", "10.", "1", "null", "off", "1E5")]
    assert types == [float, int, float, int, type(None), str, float]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: [1, 2", 2),
        ("a: 1\n---\nb: 2", 2),
        ("a: 1\n\x07", 2),
        ("a:\n\tb: 1", 2),
        ("\na: *b", 2),
        ("a: !foo 1", 1),
        ("? {a: 1}\n: 3", 1),
    ],
)
def test_invalid_yaml_is_reported_with_its_line(text, line):
    with pytest.raises(InputError, match=f"^a.yaml: not valid YAML: line {line}: [^\n]+$"):
        parse_yaml(text, "a.yaml")


@pytest.mark.parametrize("text", ["a: !!int x", "a: !!bool x", "a: +_", "a: " + "1" * 5000])
def test_a_value_that_does_not_fit_its_tag_is_refused(text):
    with pytest.raises(InputError, match="^a.yaml: not valid YAML: "):
        parse_yaml(text, "a.yaml")


def test_a_duplicate_key_is_named(write):
    path = write("a.yaml", "run:\n  folder: a\n  batch: 3\n  folder: b\n")
    with pytest.raises(InputError, match=rf'^{re.escape(str(path))}: not valid YAML: line 4: .*duplicate key "folder"'):
        read_config(path)


OLD = """\
a: on
b: '1e-4'
c: '010'
d: 1.0e-05
e: 1:30
f: 2024-01-01
g: null
h: true
i: 'true'
j:
- 0.9
- 0.95
k: []
l: {}
m: "\\xE9 \\u6F22"
n: ''
o: 'a: b # c'
p: 'line

  break'
q: .inf
r: =
s: <<
t: 100000.0
"""
"""As earlier versions, which used PyYAML, wrote it."""


def test_a_config_of_an_earlier_version_reads_the_same():
    assert parse_yaml(OLD, "x") == {
        "a": "on", "b": "1e-4", "c": "010", "d": 1e-5, "e": "1:30", "f": "2024-01-01", "g": None, "h": True, "i": "true",
        "j": [0.9, 0.95], "k": [], "l": {}, "m": "é 漢", "n": "", "o": "a: b # c", "p": "line\nbreak", "q": float("inf"),
        "r": "=", "s": "<<", "t": 100000.0,
    }  # fmt: skip


def test_dumped_data_reads_back_equal():
    texts = ["on", "1e-4", "010", "1:30", "2024-01-01", "", "~", "null", "NULL", "true", ".5", ".inf", "1_000", "0x1F"]
    texts += ["0o17", "=", "<<", "- a", "a: b # c", "'q'", "line\nbreak", "\t", "é 漢", " a ", "word " * 300, "*a", "[1"]  # fmt: skip
    content = {
        "texts": texts, "as keys": dict.fromkeys(texts, 1), "numbers": [1, -3, 1e-5, 1e16, 0.1, float("inf")],
        "rest": [None, True, False, [], {}, [[1], {"a": []}]],
    }  # fmt: skip
    again = parse_yaml(dump_yaml(content), "x")
    assert again == content and list(again) == list(content)
    assert [type(number) for number in again["numbers"]] == [int, int, float, float, float, float]
    assert dump_yaml({"b": {"c": [1, 2]}, "a": 1e-4}) == "b:\n  c:\n  - 1\n  - 2\na: 0.0001\n"


@pytest.mark.parametrize(("text", "kind"), [("", "NoneType"), ("- a", "list"), ("just words", "str")])
def test_a_config_must_be_a_mapping(write, text, kind):
    with pytest.raises(InputError, match=f"a config must be a mapping of keys; got {kind}"):
        read_config(write("a.yaml", text))


def test_no_python_object_is_ever_built(write):
    with pytest.raises(InputError, match="not valid YAML"):
        read_config(write("a.yaml", "a: !!python/object/apply:os.getcwd []"))


@pytest.mark.parametrize(
    "content", [b"\x07a: 1", b"a: \xff\xfe", b"base: 3\na: 1", b"base: null\na: 1", b"base: {a: b}"]
)
def test_every_broken_file_is_named(tmp_path, content):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))}: "):
        read_config(path)


# includes


def test_base_is_read_first_and_relative_to_its_file(write):
    write("deep/data.yaml", "data: {source: digits, flip: true}\n")
    write("deep/base.yaml", "base: data.yaml\ndata: {flip: false}\nrun: {batch: 1, seed: 2}\n")
    path = write("run.yaml", "base: deep/base.yaml\nrun: {batch: 3}\n")
    origins: dict[str, str] = {}
    assert read_config(path, origins) == {"data": {"source": "digits", "flip": False}, "run": {"batch": 3, "seed": 2}}
    assert {key: Path(origins[key]).name for key in ("data.source", "data.flip", "run.batch", "run.seed")} == {
        "data.source": "data.yaml", "data.flip": "base.yaml", "run.batch": "run.yaml", "run.seed": "base.yaml",
    }  # fmt: skip


def test_the_later_of_several_bases_wins(write):
    write("a.yaml", "data: {source: a, flip: true}\n")
    write("b.yaml", "data: {source: b}\n")
    assert read_config(write("c.yaml", "base: [a.yaml, b.yaml]\n")) == {"data": {"source": "b", "flip": True}}


def test_the_same_base_may_be_included_twice(write):
    write("d.yaml", "run: {batch: 1}\n")
    write("a.yaml", "base: d.yaml\n")
    write("b.yaml", "base: d.yaml\n")
    assert read_config(write("c.yaml", "base: [a.yaml, b.yaml]\n")) == {"run": {"batch": 1}}


def test_circular_includes_are_refused(write):
    write("a.yaml", "base: b.yaml\n")
    write("b.yaml", "base: c.yaml\n")
    with pytest.raises(InputError, match=r"a.yaml: includes itself through `base`"):
        read_config(write("c.yaml", "base: a.yaml\n").parent / "a.yaml")


def test_a_missing_file_lists_its_neighbours(write):
    near = [write(name, "a: 1") for name in ("anr.yaml", "data.yaml")]
    with pytest.raises(InputError, match=rf"arn.yaml: no such config file; that folder has {near[0]}, {near[1]}$"):
        read_config(near[0].parent / "arn.yaml")
    with pytest.raises(InputError, match=r"nowhere/a.yaml: no such config file$"):
        read_config(near[0].parent / "nowhere" / "a.yaml")
    with pytest.raises(InputError, match=r"gone.yaml: no such config file; that folder has .*child.yaml"):
        read_config(write("child.yaml", "base: gone.yaml\n"))


def test_changing_a_type_drops_the_keys_of_the_old_one(write, parse):
    base = write("base.yaml", STAGE1)
    changed = read_config(write("a.yaml", "base: base.yaml\noptimizer: {type: adamw, betas: [0.9, 0.95]}\n"))
    assert changed["optimizer"] == {"type": "adamw", "betas": [0.9, 0.95]}
    same = read_config(write("a.yaml", f"base: {base}\noptimizer: {{type: muon, betas: [0.9, 0.95]}}\n"))
    assert same["optimizer"] == {"type": "muon", "lr": 1e-3, "warmup_steps": 10, "betas": [0.9, 0.95]}
    assert parse("--optimizer.type", "adamw").optimizer.warmup_steps == 0


def test_a_section_can_be_disabled_and_enabled_again(write):
    write("off.yaml", "ema: null\n")
    write("on.yaml", "ema: {decay: 0.5}\n")
    assert read_config(write("a.yaml", "base: [on.yaml, off.yaml]\n")) == {"ema": None}
    assert read_config(write("a.yaml", "base: [off.yaml, on.yaml]\n")) == {"ema": {"decay": 0.5}}


def test_a_former_key_warns_and_keeps_its_precedence(write):
    """If an earlier file sets `steps`, a later one may use either name, and the later one wins."""
    write("former.yaml", "sampling: {steps: 5, guidance_scale: 2}\n")
    write("now.yaml", "sampling: {num_inference_steps: 7}\n")
    former = r"former.yaml: sampling.steps is now sampling.num_inference_steps$"
    for order, expected in (("[former.yaml, now.yaml]", 7), ("[now.yaml, former.yaml]", 5)):
        origins = {}
        with pytest.warns(FutureWarning, match=former):
            content = read_config(write("a.yaml", f"base: {order}\n"), origins)
        assert content == {"sampling": {"num_inference_steps": expected, "guidance_scale": 2}}
        assert "now" in origins["sampling.num_inference_steps"] or expected == 5
    with pytest.raises(
        InputError,
        match="b.yaml: sampling.steps is the former name of sampling.num_inference_steps: give only one of them$",
    ):
        read_config(write("b.yaml", "sampling: {steps: 5, num_inference_steps: 7}\n"))


def test_a_former_key_on_the_command_line(write):
    path = write(
        "run.yaml", "autoencoder: runs/a\nsampling: {num_inference_steps: 9}\nrun: {folder: r, batch: 4, steps: 5}\n"
    )
    with pytest.warns(FutureWarning, match="^command line: sampling.steps is now sampling.num_inference_steps$"):
        config = parse_command_line(DiffusionRun, "help", [str(path), "--sampling.steps", "4"])[0]
    assert config.sampling.num_inference_steps == 4
    with (
        pytest.warns(FutureWarning),
        pytest.raises(InputError, match="^command line: sampling.num_inference_steps: .*greater than 0; got 0"),
    ):
        parse_command_line(DiffusionRun, "help", [str(path), "--sampling.steps=0"])
    with pytest.raises(
        InputError, match="sampling.num_inference_steps must be at most diffusion.noise.num_timesteps, 1000; got 1001$"
    ):
        parse_command_line(DiffusionRun, "help", [str(path), "--sampling.num_inference_steps=1001"])


# command line


def test_overrides_with_and_without_an_equals_sign(parse):
    for overrides in (("--optimizer.lr", "5e-3", "--run.steps", "010"), ("--optimizer.lr=5e-3", "--run.steps=010")):
        config = parse(*overrides)
        assert (config.optimizer.lr, config.run.steps) == (5e-3, 10)
        assert (config.optimizer.warmup_steps, config.run.batch) == (10, 4)


def test_overrides_are_parsed_as_yaml(parse):
    config = parse(
        "--optimizer.betas", "[0.8, 0.9]", "--ema", "null", "--data.train_split", "train[:-5]",
        "--autoencoder.encoder", "{dim: 32}", "--data.label_column=",
    )  # fmt: skip
    assert config.optimizer.betas == [0.8, 0.9] and config.ema is None and config.data.train_split == "train[:-5]"
    assert config.autoencoder.encoder.dim == 32 and config.data.label_column is None


def test_a_negative_value_is_not_an_option(tmp_path, write):
    path = write("run.yaml", "autoencoder: runs/a\nrun: {folder: r, batch: 4, steps: 5}\n")
    for form in (["--diffusion.noise.density_mean", "-1.5"], ["--diffusion.noise.density_mean=-1.5"]):
        assert parse_command_line(DiffusionRun, "help", [str(path), *form])[0].diffusion.noise.density_mean == -1.5


def test_the_last_of_two_overrides_wins(parse):
    assert parse("--run.steps", "7", "--run.steps=8").run.steps == 8


def test_the_order_of_overrides_does_not_matter(parse):
    for overrides in (
        ["--optimizer.type=adamw", "--optimizer.lr=5e-3"],
        ["--optimizer.lr=5e-3", "--optimizer.type=adamw"],
        ["--optimizer.lr=5e-3", "--optimizer={type: adamw}"],
    ):
        assert parse(*overrides).optimizer.lr == 5e-3


def test_a_scripts_own_options_are_separated(write):
    path = write("run.yaml", STAGE1)

    def add_options(parser):
        parser.add_argument("--dry-run", action="store_true")
        parser.add_argument("--out")

    config, options = parse_command_line(
        AutoencoderRun, "help", ["--dry-run", str(path), "--out", "a.b", "--run.seed", "3"], add_options=add_options
    )
    assert (config.run.seed, options.dry_run, options.out, options.config) == (3, True, "a.b", str(path))


def test_text_that_looks_like_a_number_survives_the_run_folder(parse, tmp_path):
    config = parse("--run.folder", "'1e5'", "--data.source", "'010'")
    dump_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml")["run"]["folder"] == "1e5"
    assert read_config(tmp_path / "config.yaml")["data"]["source"] == "010"


def test_an_option_is_not_taken_for_a_value(parse):
    with pytest.raises(InputError, match=r"^--optimizer.lr needs a value"):
        parse("--optimizer.lr", "--run.steps", "5")
    with pytest.raises(InputError, match=r"^--optimizer.lr needs a value"):
        parse("--optimizer.lr", "--dry-run")  # of the script, not of the config


def test_a_key_without_a_value_is_refused(parse):
    with pytest.raises(InputError, match=r"^--optimizer.lr needs a value: write --optimizer.lr VALUE$"):
        parse("--optimizer.lr")


@pytest.mark.parametrize("flag", ["--lr", "--lr=3", "--restrat", "leftover"])
def test_an_unknown_option_is_named(parse, flag):
    with pytest.raises(
        InputError, match=rf"^{flag}: unknown option; write config keys as --section.key VALUE, and see --help"
    ):
        parse(flag)


def test_an_unknown_key_names_the_nearest(parse):
    with pytest.raises(
        InputError, match=r"^command line: optimizer.ler: unknown key; did you mean 'lr'\? allowed here: .*warmup_steps"
    ):
        parse("--optimizer.ler", "3")
    with pytest.raises(InputError, match=r"^command line: autoencoder.encoder.dmi: unknown key; did you mean 'dim'\?"):
        parse("--autoencoder.encoder.dmi=3")
    with pytest.raises(InputError, match=r"run.yaml: optimiser: unknown key; did you mean 'optimizer'\?"):
        parse(text=STAGE1 + "optimiser: {lr: 1}\n")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--optimizer.lr=-1", r"optimizer.lr: must be greater than 0; got -1"),
        ("--optimizer.lr=fast", r"optimizer.lr: must be a valid number; got 'fast'"),
        ("--optimizer.lr=.inf", r"optimizer.lr: must be a finite number; got inf"),
        (
            "--optimizer.type=mun",
            r"optimizer.type: must be 'adamw' or 'muon'; got 'mun'; did you mean 'muon'\?",
        ),
        ("--optimizer.betas=[0.9]", r"optimizer.betas: list should have at least 2 items.*; got \[0.9\]"),
        ("--optimizer=3", r"optimizer: must be a mapping of keys .*; got 3"),
        ("--optimizer.lr.x=3", r"optimizer.lr: must be a valid number"),
        ("--run.steps=1e3", r"run.steps: must be a valid integer; got 1000.0"),
        ("--run.accumulation=3", r"run: batch must be a multiple of accumulation, 3; got 4"),
        ("--run.images=100", r"run: give either steps or images, not both"),
        ("--data.flip=on", r"data.flip: must be a valid boolean; got 'on'"),
        ("--data.held_out_fraction=1", r"data.held_out_fraction: must be less than 1; got 1"),
        ("--ema.decay=2", r"ema.decay: must be less than 1; got 2"),
        (
            "--autoencoder.image_size=[8,0]",
            r"autoencoder.image_size: .*; got \[8, 0\]\n.*autoencoder.image_size: must be greater than 0; got 0",
        ),
        (
            "--autoencoder.image_size=[]",
            r"autoencoder.image_size: .*; got \[\]\n.*autoencoder.image_size: .*at least 1 item.*; got \[\]",
        ),
        ("--autoencoder.channels=0", r"autoencoder.channels: must be greater than 0; got 0"),
        (
            "--autoencoder.encoder.type=cros_attention",
            r"autoencoder.encoder.type: must be .*; got 'cros_attention'; did you mean 'cross_attention'\?",
        ),
    ],
)
def test_invalid_overrides_name_key_value_and_choices(parse, override, message):
    with pytest.raises(InputError, match=f"^command line: {message}"):
        parse(override)


def test_rules_between_keys_of_an_objective(tmp_path, write):
    path = write("run.yaml", "autoencoder: runs/a\nrun: {folder: r, batch: 4, images: 10}\n")
    config = parse_command_line(DiffusionRun, "help", [str(path)])[0]
    assert config.run.num_steps == 3  # 10 images in batches of 4, rounded up
    with pytest.raises(
        InputError, match=r"^command line: diffusion.noise: beta_start must be below beta_end; got 0.5 and 0.02"
    ):
        parse_command_line(DiffusionRun, "help", [str(path), "--diffusion.noise.beta_start", "0.5"])


def test_a_key_that_is_not_a_string_is_named(parse):
    with pytest.raises(InputError, match=r"run.yaml: 1: keys must be names; got 1"):
        parse(text=STAGE1 + "1: 3\n")


def test_all_errors_are_reported_at_once_with_their_origin(write):
    base = write("base.yaml", STAGE1.replace("dim: 16", "dim: -3"))
    path = write("run.yaml", "base: base.yaml\noptimizer: {lr: abc}\nrun: {stepz: 3}\n")
    with pytest.raises(InputError) as error:
        parse_command_line(AutoencoderRun, "help", [str(path), "--run.seed", "x", "--data.flip=3"])
    assert {line.split(": ")[1]: line.split(": ")[0] for line in str(error.value).splitlines()} == {
        "autoencoder.encoder.dim": str(base), "optimizer.lr": str(path), "run.stepz": str(path), "run.seed": "command line", "data.flip": "command line",
    }  # fmt: skip


def test_a_missing_key_is_reported_for_the_file(parse):
    with pytest.raises(InputError, match=r"/run.yaml: run.batch: this key is required$"):
        parse(text=STAGE1.replace("batch: 4, ", ""))


def test_a_missing_key_is_reported_for_the_file_despite_overrides(parse):
    with pytest.raises(InputError, match=r"/run.yaml: run.batch: this key is required$"):
        parse("--run.seed", "3", text=STAGE1.replace("batch: 4, ", ""))


def test_a_dumped_config_reads_back_equal(parse, tmp_path):
    config = parse("--optimizer.lr", "1e-5", "--ema", "null", "--run.folder", "on", "--data.train_split", "train[:-5]")
    dump_config(config, tmp_path / "config.yaml")
    assert parse_command_line(AutoencoderRun, "help", [str(tmp_path / "config.yaml")])[0] == config


@pytest.mark.parametrize(
    "path", sorted((PROJECT / "configs").glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}-{path.stem}"
)
@pytest.mark.filterwarnings("error::FutureWarning")
def test_shipped_configs_are_valid(path):
    content = read_config(path)
    if "run" not in content:
        assert content.keys() in ({"data"}, {"folder", "stages"}), "a config without a run is an include, or a recipe"
        return
    kinds = {"field": FieldRun, "gan": GANRun, "classifier": ClassifierRun, "diffusion": DiffusionRun}
    stage1 = CloudRun if path.stem.startswith("arc") else AutoencoderRun
    kind = next((kind for key, kind in kinds.items() if key in content), stage1)
    assert parse_command_line(kind, "help", [str(path)])[0].run.num_steps > 0


# scripts


def test_run_script_prints_one_message_and_exits_with_2(capsys):
    def main():
        raise InputError("a.yaml: run.batch: got 0")

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 2
    assert capsys.readouterr() == ("", "error: a.yaml: run.batch: got 0\n")


def test_a_missing_extra_is_one_message(capsys, monkeypatch):
    def main():
        raise ModuleNotFoundError("No module named 'skimage'", name="skimage")

    monkeypatch.setattr(sys, "argv", ["train/field.py"])
    with pytest.raises(SystemExit) as stop:
        run_script(main)
    message = 'error: train/field.py needs scikit-image, which is not installed: pip install "genrep[train]"\n'
    assert (stop.value.code, capsys.readouterr().err) == (2, message)


@pytest.mark.parametrize("name", ["genrep.nothing", "skimage.nothing", "nothing"])
def test_other_missing_modules_raise(name):
    def main():
        raise ModuleNotFoundError(name=name)

    with pytest.raises(ModuleNotFoundError):
        run_script(main)


def test_run_script_does_not_hide_bugs():
    def main():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_script(main)


def test_an_interrupt_prints_no_traceback(capsys):
    def main():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped\n"


def test_a_script_with_a_bad_config_prints_no_traceback(write):
    path = write("run.yaml", STAGE1 + "optimiser: {}\n")
    process = subprocess.run(
        [sys.executable, PROJECT / "train/autoencoder.py", path, "--run.batch=0"], capture_output=True, text=True
    )
    assert (process.returncode, process.stdout) == (2, "")
    assert process.stderr.startswith("error: ") and "Traceback" not in process.stderr
    assert len(process.stderr.splitlines()) == 2
    assert (
        "optimiser: unknown key" in process.stderr
        and "command line: run.batch: must be greater than 0; got 0" in process.stderr
    )


def test_help_is_printed_in_encodings_without_mathematical_signs():
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}  # what a pipe has on Windows
    process = subprocess.run([sys.executable, PROJECT / "train/gan.py", "--help"], capture_output=True, env=environment)
    assert process.returncode == 0, process.stderr


HELP = """
import runpy, sys
script = sys.argv[1]
sys.argv = [script, "--help"]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as stop:
    assert not stop.code
heavy = sorted({"torch", "diffusers", "datasets", "accelerate", "numpy"} & sys.modules.keys())
print("imported:", *heavy)
"""


def keys_of(kind: type[Spec], at: str = ""):
    """All (dotted key, help) pairs of a spec."""
    for name, info in kind.model_fields.items():
        path = f"{at}.{name}" if at else name
        inner = specs_in(info.annotation)
        if not inner:
            yield path, info.description
        for spec in inner:
            yield from keys_of(spec, path)


def specs_in(annotation) -> list[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return [annotation]
    return [spec for part in get_args(annotation) for spec in specs_in(part)]


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("autoencoder", AutoencoderRun),
        ("diffusion", DiffusionRun),
        ("classifier", ClassifierRun),
        ("latents", DiffusionRun),
    ],
)
def test_help_mentions_every_key_and_imports_nothing_heavy(script, kind):
    process = subprocess.run(
        [sys.executable, "-c", HELP, PROJECT / f"train/{script}.py"], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    help_text = process.stdout
    assert help_text.endswith("imported:\n"), help_text[-200:]
    keys = dict(keys_of(kind))
    assert len(keys) > 40 and {"data.source", "optimizer.lr", "run.folder", "ema.decay"} < keys.keys()
    assert [key for key in keys if not re.search(rf"^  --{re.escape(key)} ", help_text, re.MULTILINE)] == []
    assert [key for key, meaning in keys.items() if meaning and meaning not in help_text] == []
    assert (
        "--optimizer.lr float = 0.0001\n" in help_text
        and "--run.folder text (required)\n" in help_text
        and "--data.flip true|false = false\n" in help_text
    )
    assert "--dry-run" in help_text


def test_a_key_in_yaml_or_as_an_override_gives_the_same_config(parse):
    nested = parse_yaml(STAGE1, "stage 1")
    flat = [f"--{section}.{key}={value}" for section in ("optimizer", "run") for key, value in nested[section].items()]
    assert parse(*flat, text="".join(STAGE1.splitlines(keepends=True)[:5])) == parse()


@pytest.mark.parametrize("fails", [False, True])
def test_a_stopped_run_says_so_even_if_it_cannot_save(fails, capsys):
    def save() -> str:
        if fails:
            raise InputError("checkpoints cannot be written: the disk is full")
        return "stopped after step 3"

    def main() -> None:
        raise Stopped(save)

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    output = capsys.readouterr().err
    assert (stop.value.code, output) == (
        (2, "error: checkpoints cannot be written: the disk is full\n")
        if fails
        else (STOPPED, "stopped after step 3\n")
    )
