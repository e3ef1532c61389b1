"""Loading that treats as errors what diffusers only warns about."""

import inspect
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers.utils import is_accelerate_available

from genrep.errors import InputError, did_you_mean
from genrep.files import file_hash, write_json

HASHES = "weights.sha256.json"
"""SHA-256 of every weights file in a model's folder; safetensors would load a flipped bit as just another number."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class StrictLoading:
    """Mixin, to stand before ModelMixin: loading a folder that is missing, damaged or of another model is an error.

    diffusers takes a missing folder for a Hub id and tries the network, and only logs missing or surplus weights.
    """

    def __getattr__(self, name: str) -> Any:
        # Submodules first: diffusers would look into the config, where `encoder` and `norm` are constructor arguments.
        modules = self.__dict__.get("_modules", {})
        return modules[name] if name in modules else super().__getattr__(name)  # type: ignore[misc]

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write `config.json`, the weights, and a hash of each weights file, which `from_pretrained` checks."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        folder = Path(save_directory)
        hashes = {path.name: file_hash(path) for path in sorted(folder.glob("*.safetensors"))}
        write_json(folder / HASHES, hashes)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a folder written by `save_pretrained`, or a Hub id "owner/name" (a Path is always a folder).

        InputError if it is missing, damaged or of another model.
        """
        place = _path(cls.__name__, pretrained_model_name_or_path)
        folder = place / kwargs["subfolder"] if kwargs.get("subfolder") else place
        looks_local = not _is_hub_id(pretrained_model_name_or_path)
        if looks_local and not (folder / "config.json").is_file():
            inside = ", but there is one in model/" if (folder / "model" / "config.json").is_file() else ""
            raise InputError(
                f"{folder}: no {cls.__name__} here (no config.json{inside}); give a folder written by save_pretrained"
            )
        if looks_local:
            cls._refuse_unknown_keys(folder)
            _refuse_changed_weights(folder)
        kwargs.setdefault(
            "low_cpu_mem_usage", is_accelerate_available()
        )  # else diffusers warns that accelerate is missing
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            strict = {**kwargs, "output_loading_info": True, "use_safetensors": True}
            model, info = super().from_pretrained(place, **strict)  # type: ignore[misc]
        except InputError as error:
            raise InputError(f"{folder}/config.json: {error}") from None
        except Exception as error:
            if not looks_local:
                raise InputError(
                    f"{place}: no such folder, and the Hub gave no {cls.__name__} of that name ({error}); give a folder written "
                    "by save_pretrained, such as a run's model/"
                ) from error
            raise InputError(f"{folder}: this {cls.__name__} is damaged or of another kind ({error})") from error
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if info[fault]:
                raise InputError(
                    f"{folder}: the weights do not fit the {cls.__name__} that config.json describes: "
                    f"{fault.replace('_', ' ')} {list(info[fault])[:4]}; {cls._remedy(info)}"
                )
        return (model, info) if wants_info else model

    @classmethod
    def _remedy(cls, info: Mapping[str, Any]) -> str:
        """What to do about weights that do not fit, from diffusers' loading info."""
        return "save the model again, or fix config.json"

    @classmethod
    def _refuse_unknown_keys(cls, folder: Path) -> None:
        # `from_config` only logs a misspelt key, and builds the model with the default in its place.
        try:
            keys = dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
            allowed = inspect.signature(cls.__init__).parameters
            unknown = [key for key in keys if not key.startswith("_") and key not in allowed]
        except (ValueError, TypeError) as error:
            raise InputError(f"{folder}/config.json: damaged ({error}); save the model again") from None
        if unknown:
            near = did_you_mean(unknown[0], allowed)
            raise InputError(f"{folder}/config.json: {cls.__name__} has no argument {unknown[0]!r}{near}")


def _refuse_changed_weights(folder: Path) -> None:
    """InputError if a weights file is not the one that was saved."""
    if not (folder / HASHES).is_file():  # a model of an earlier version
        return
    try:
        hashes = dict(json.loads((folder / HASHES).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / HASHES}: damaged ({error}); save the model again") from None
    for name, saved in hashes.items():
        file = folder / name
        if file.is_file() and file_hash(file) != saved:
            raise InputError(
                f"{file}: damaged, its hash differs from that of the saved weights; copy or save the model again, or delete "
                f"{folder / HASHES} if you changed the weights on purpose"
            )


def refuse_missing_pipeline(name: str, place: Any) -> None:
    """InputError if `place` is a local folder, or looks like one, and has no pipeline in it."""
    path = _path(name, place)
    if (path / "model_index.json").is_file():
        return
    if not _is_hub_id(place):
        inside = ", but there is one in pipeline/" if (path / "pipeline" / "model_index.json").is_file() else ""
        raise InputError(
            f"{path}: no {name} here (no model_index.json{inside}); give a folder written by save_pretrained, such as a run's "
            "pipeline/"
        )


def _is_hub_id(place: Any) -> bool:
    """Whether to look on the Hub, which takes diffusers half a minute of retries without a network."""
    return isinstance(place, str) and not Path(place).exists() and bool(HUB_ID.fullmatch(place))


def _path(name: str, place: Any) -> Path:
    if not isinstance(place, str | os.PathLike):
        raise InputError(f"{name}.from_pretrained takes a folder or a Hub id; got {place!r}")
    return Path(place)
