"""YAML with includes, dotted overrides on the command line (for train/ and sample/), and `--help` from the specs.

Does not import torch, so that `--help` stays fast.
"""

import argparse
import io
import os
import re
import runpy
import shlex
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from genrep.errors import InputError, Stopped
from genrep.files import FULL, explain, write_text
from genrep.lock import release_all
from genrep.specs import Spec, validate, variants

S = TypeVar("S", bound=Spec)

FORMER_KEYS = {"sampling.steps": "num_inference_steps"}
"""Dotted keys of earlier versions -> the key's present name within the same section."""


class _Constructor(SafeConstructor):
    """Leaves dates and the like as text: YAML 1.1 gave them types, the core schema of YAML 1.2 does not."""


for _tag in ("timestamp", "value", "merge"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_tag}", SafeConstructor.construct_yaml_str)


def parse_yaml(text: str, name: str) -> Any:
    """Parse YAML 1.2 into plain data: 1e-4 is a float, `on` is text, 010 is ten, and duplicate keys are refused.

    Args:
        text: YAML.
        name: what errors call it.

    Raises:
        InputError: not valid YAML; names the line.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = _Constructor
    try:
        return yaml.load(text)
    except ReaderError as error:
        line, problem = text.count("\n", 0, error.position) + 1, f"{error.reason} (#x{error.character:04x})"
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, problem = mark.line + 1, ": ".join(filter(None, (error.context, error.problem)))
    except (ValueError, KeyError) as error:  # a tag that does not fit its value, such as `!!int x`
        raise InputError(f"{name}: not valid YAML: {error}") from None
    raise InputError(f"{name}: not valid YAML: line {line}: {problem}")


def dump_yaml(content: Any) -> str:
    """Plain data as YAML 1.2 in block style, keys in their given order; `parse_yaml` reads back the same data."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment] # ruamel annotates it as None
    yaml.width = 1000
    stream = io.StringIO()
    yaml.dump(content, stream)
    return stream.getvalue()


def read_config(
    path: Path | str, origins: dict[str, str] | None = None, _above: tuple[Path, ...] = ()
) -> dict[str, Any]:
    """Read a YAML file on top of the files that its `base:` key includes, as plain data.

    Args:
        path: the file; `base` is relative to it and may be a list, in which later files win.
        origins: filled with dotted key -> the file that set it.

    Raises:
        InputError: the file does not exist, is not YAML, or includes itself.
    """
    path = Path(path)
    if not path.is_file():
        neighbours = ", ".join(sorted(map(str, path.parent.glob("*.yaml")))) if path.parent.is_dir() else ""
        raise InputError(f"{path}: no such config file" + (f"; that folder has {neighbours}" if neighbours else ""))
    if path.resolve() in _above:
        raise InputError(f"{path}: includes itself through `base`")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: a config must be a mapping of keys; got {type(content).__name__}")
    bases = content.pop("base", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InputError(f"{path}: base must be a file, or a list of files, relative to this one; got {bases!r}")
    merged: dict[str, Any] = {}
    for base in bases:
        merge(merged, read_config(path.parent / base, origins, (*_above, path.resolve())))
    merge(merged, content, str(path), origins)
    return merged


def merge(
    into: dict[str, Any], new: Mapping[Any, Any], origin: str = "", origins: dict[str, str] | None = None, at: str = ""
) -> None:
    """Overlay `new` on `into`, key by key. Changing a section's `type` drops the keys of the old type."""
    # configs/celeba/ipc.yaml, say, swaps the decoder of its base: the old decoder's keys would be unknown to the new one
    if "type" in new and "type" in into and new["type"] != into["type"]:
        into.clear()
    for key, value in new.items():
        path = f"{at}.{key}" if at else str(key)
        if not isinstance(key, str):
            raise InputError(f"{origin or 'command line'}: {path}: keys must be names; got {key!r}")
        if path in FORMER_KEYS:
            former, key = path, FORMER_KEYS[path]
            path = f"{at}.{key}"
            if key in new:
                raise InputError(
                    f"{origin or 'command line'}: {former} is the former name of {path}: give only one of them"
                )
            warnings.warn(f"{origin or 'command line'}: {former} is now {path}", FutureWarning, stacklevel=2)
        if isinstance(value, Mapping):
            if not isinstance(into.get(key), dict):
                into[key] = {}
            merge(into[key], value, origin, origins, path)
        else:
            into[key] = value
        if origins is not None and origin:
            origins[path] = origin


def parse_command_line(
    kind: type[S],
    description: str,
    argv: Sequence[str] | None = None,
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None,
) -> tuple[S, argparse.Namespace]:
    """Parse `script.py config.yaml --section.key value --flag` into the validated config and the script's own options.

    Args:
        kind: the spec of the config.
        description: the text that `--help` begins with.
        argv: arguments; None takes the process's own.
        add_options: adds the options that are not config keys.

    Raises:
        InputError: lists everything that is wrong with the file and the overrides.
    """
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.usage = "%(prog)s CONFIG.yaml [--section.key VALUE ...] [options]"
    parser.add_argument("config", help="YAML file of the run; override any of its keys with --section.key VALUE")
    add_options(parser)
    parser.epilog = "config keys (type, default, meaning):\n\n" + "\n".join(describe(kind))
    rest, overrides = split_overrides(kind, sys.argv[1:] if argv is None else argv)
    options = parse_options(parser, rest)
    origins: dict[str, str] = {}
    content = read_config(options.config, origins)
    return override(kind, content, overrides, str(options.config), origins), options


def parse_options(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """The options of a script that are not config keys. InputError names an unknown one."""
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        raise InputError(f"{unknown[0]}: unknown option; write config keys as --section.key VALUE, and see --help")
    return options


def override(
    kind: type[S],
    content: dict[str, Any],
    overrides: Sequence[tuple[str, str]],
    where: str,
    origins: dict[str, str] | None = None,
) -> S:
    """A config with the command line's overrides applied, validated.

    Args:
        kind: the spec of the config.
        content: the config as plain data; modified in place.
        overrides: (dotted key, value as YAML).
        where: the file that `content` comes from, for errors.
        origins: dotted key -> the file that set it, where that is an included one.
    """
    origins = {} if origins is None else origins
    # The overrides are merged with each other first: merged one by one, `--x.type` after `--x.size` would drop the size.
    merged_overrides: dict[str, Any] = {}
    for name, value in overrides:
        nested: Any = parse_yaml(value, f"--{name}")
        for key in reversed(name.split(".")):
            nested = {key: nested}
        merge(merged_overrides, nested)
    merge(content, merged_overrides, "command line", origins)
    return validate(kind, content, where=where, origins=origins)


def split_overrides(kind: type[Spec], argv: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Split arguments into those that are not config keys, and (key, value) pairs of those that are.

    Raises:
        InputError: a config key without a value.
    """
    rest, overrides = [], []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--") and ("." in name or name in kind.model_fields):
            if not equals:
                if not arguments or arguments[0].startswith("--"):
                    raise InputError(f"{argument} needs a value: write {argument} VALUE")
                value = arguments.pop(0)
            overrides.append((name, value))
        else:
            rest.append(argument)
    return rest, overrides


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """The options of every training script."""
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="check config and data, print model sizes, and exit without training",
    )
    parser.add_argument(
        "--restart", action="store_true", help="delete what an earlier run left in run.folder, and start over"
    )


def dump_config(config: Spec, path: Path) -> None:
    """Write the resolved config as YAML."""
    write_text(path, dump_yaml(config.model_dump(mode="json")))


def describe(kind: type[Spec], at: str = "", defaults: bool = True) -> list[str]:
    """Lines of `--help`: every key with its type, its meaning and, with `defaults`, its default."""
    lines = []
    for name, info in kind.model_fields.items():
        path = f"{at}.{name}" if at else name
        choices = variants(info.annotation)
        if not choices:
            if name != "type" or not _is_tag(info):
                default = _default(info) if defaults else ""
                lines.append(f"  --{path} {_type_name(info.annotation)}{default}\n        {info.description or ''}")
            continue
        optional = " (or null)" if type(None) in get_args(info.annotation) else ""
        lines.append(f"{path}: {info.description or ''}{optional}")
        for tag, choice in choices.items():
            if "type" in choice.model_fields and _is_tag(choice.model_fields["type"]):
                lines.append(f"  --{path}.type {tag}\n        {(choice.__doc__ or '').splitlines()[0]}")
            lines += describe(choice, path, defaults)
    return lines


def _is_tag(info: FieldInfo) -> bool:
    return get_origin(info.annotation) is Literal and len(get_args(info.annotation)) == 1


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return " (required)"
    default = info.default_factory() if info.default_factory else info.default  # type: ignore[call-arg]
    text = "null" if default is None else str(default).lower() if isinstance(default, bool) else default
    return f" = {text}"


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(map(str, get_args(annotation)))
    if origin in (Union, types.UnionType):
        return "|".join(_type_name(part) for part in get_args(annotation))
    if origin is list:
        return f"[{_type_name(get_args(annotation)[0])}, ...]"
    if origin is not None:  # Annotated
        return _type_name(get_args(annotation)[0])
    return {type(None): "null", str: "text", bool: "true|false"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


EXTRAS = {
    "accelerate": ("accelerate", "train"),
    "datasets": ("datasets", "train"),
    "matplotlib": ("matplotlib", "train"),
    "skimage": ("scikit-image", "train"),
    "sklearn": ("scikit-learn", "train"),
    "torch_fidelity": ("torch-fidelity", "eval"),
    "tensorboard": ("tensorboard", "tracking"),
    "av": ("av", "video"),
    "scipy": ("scipy", "shapes"),
    "trimesh": ("trimesh", "shapes"),
}
"""What scripts import beyond the core requirements: module -> (package, the extra in pyproject.toml that installs it)."""

STOPPED = 75
"""Exit status of a run that a signal ended after it saved a checkpoint: EX_TEMPFAIL, "try again later"."""


def run_script(main: Callable[[], None]) -> None:
    """Call a script's `main`; problems that the user can solve are printed as one message on stderr, without a traceback.

    The exit status is 2 after an InputError, when the disk or memory is full, and when a package that an extra installs is
    missing; 75 after a signal ended a run that saved its state; 130 after any other Ctrl-C. Folder locks are released.
    """
    # Must be set before torch is imported: waiting threads of GNU OpenMP spin for milliseconds, which made small models
    # 60 times slower on a machine whose cores were shared. A short spin costs nothing on an idle one.
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # without the line of code that gave it
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a Windows pipe may not encode √: print ? rather than fail
            stream.reconfigure(errors="replace")
    try:
        try:
            main()
        except Stopped as stop:  # inside the outer try, because saving can fail with the errors below
            print(stop.save(), file=sys.stderr)
            raise SystemExit(STOPPED) from None
    except InputError as error:
        raise _failure(str(error)) from None
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        package, extra = EXTRAS[error.name]
        raise _failure(
            f'{sys.argv[0]} needs {package}, which is not installed: pip install "genrep[{extra}]"'
        ) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise _failure(f"{error.filename or 'a file'} cannot be written: {explain(error)}") from None
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        request = re.search(r"ried to allocate ([\d.]+ \w+)", str(error))
        raise _failure(
            f"out of memory{f' (a single request was for {request[1]})' if request else ''}: use a smaller batch, size or model; in "
            "training, a larger run.accumulation computes the same batch in smaller parts"
        ) from None
    finally:
        release_all()


def _failure(message: str) -> SystemExit:
    """Print what went wrong, below any progress bar that is being drawn; returns the exit to raise."""
    if "tqdm" in sys.modules:
        sys.modules["tqdm"].tqdm.write(f"error: {message}", file=sys.stderr)
    else:
        print(f"error: {message}", file=sys.stderr)
    return SystemExit(2)


def _is_out_of_memory(error: Exception) -> bool:
    """Python's MemoryError, torch's error for a GPU (OutOfMemoryError), or for the CPU (a plain RuntimeError)."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator: " in str(error)
    )


def call_script(project: Path, script: str, *arguments: object) -> None:
    """Print a command of the project and run it in this process, which saves importing torch again (2 to 5 s).

    Args:
        project: the folder that holds `train/` and `sample/`.
        script: path of the script within it.
        arguments: its command line.

    Raises:
        SystemExit: the script failed, and has printed why.
    """
    words = [str(argument) for argument in arguments]
    print(f"\n$ python {shlex.join([script, *words])}", flush=True)
    if "accelerate.state" in sys.modules:  # accelerate would keep the first run's precision for all later ones
        from accelerate.state import AcceleratorState

        AcceleratorState._reset_state(reset_partial_state=True)
    saved_argv = sys.argv
    sys.argv = [script, *words]
    try:
        runpy.run_path(str(project / script), run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        sys.argv = saved_argv
