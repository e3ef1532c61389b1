"""Loading that refuses what diffusers only warns about."""

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
"""SHA-256 of every file of weights in a model's folder: a flipped bit in them is a valid number like any other."""

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


class StrictLoading:
    """Mixin, before ModelMixin: `from_pretrained` of a folder that is missing, damaged or of another model is an error.

    diffusers takes a missing folder for a Hub id (and tries the network), and only logs missing or surplus weights.
    """

    def __getattr__(self, name: str) -> Any:
        # Submodules come first: diffusers would answer from the config, where `encoder` or `norm` is an argument.
        modules = self.__dict__.get("_modules", {})
        return modules[name] if name in modules else super().__getattr__(name)  # type: ignore[misc]

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Write `config.json`, the weights, and a hash of each file of weights, which `from_pretrained` checks."""
        super().save_pretrained(save_directory, **kwargs)  # type: ignore[misc]
        folder = Path(save_directory)
        hashes = {path.name: file_hash(path) for path in sorted(folder.glob("*.safetensors"))}
        write_json(folder / HASHES, hashes)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a folder that `save_pretrained` wrote, or a Hub id "owner/name" (a Path is always a folder).

        InputError if it is not whole.
        """
        place = _path(cls.__name__, pretrained_model_name_or_path)
        folder = place / kwargs["subfolder"] if kwargs.get("subfolder") else place
        looks_local = not _is_hub_id(pretrained_model_name_or_path)
        if looks_local and not (folder / "config.json").is_file():
            raise InputError(
                f"{folder}: no {cls.__name__} here (no config.json); give a folder that save_pretrained wrote"
            )
        if looks_local:
            cls._refuse_unknown_keys(folder)
            _refuse_changed_weights(folder)
        kwargs.setdefault("low_cpu_mem_usage", is_accelerate_available())  # else diffusers warns that it is not there
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            strict = {**kwargs, "output_loading_info": True, "use_safetensors": True}
            model, info = super().from_pretrained(place, **strict)  # type: ignore[misc]
        except InputError as error:
            raise InputError(f"{folder}/config.json: {error}") from None
        except Exception as error:
            if not looks_local:
                raise InputError(
                    f"{place}: no folder here, and no {cls.__name__} of that name that the Hub let us load ({error}); give a "
                    "folder that save_pretrained wrote, such as a run's model/"
                ) from error
            raise InputError(
                f"{folder}: this {cls.__name__} cannot be read, the file is damaged or not one ({error})"
            ) from error
        for fault in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
            if info[fault]:
                raise InputError(
                    f"{folder}: the weights do not fit the {cls.__name__} that config.json describes: "
                    f"{fault.replace('_', ' ')} {list(info[fault])[:4]}; {cls._remedy(info)}"
                )
        return (model, info) if wants_info else model

    @classmethod
    def _remedy(cls, info: Mapping[str, Any]) -> str:
        """What to do about weights that do not fit, given diffusers' loading info."""
        return "save the model again, or fix config.json"

    @classmethod
    def _refuse_unknown_keys(cls, folder: Path) -> None:
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
    """InputError if a file of weights is not the one that was saved. Models of earlier versions have no hashes."""
    if not (folder / HASHES).is_file():
        return
    try:
        hashes = dict(json.loads((folder / HASHES).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{folder / HASHES}: damaged ({error}); save the model again") from None
    for name, saved in hashes.items():
        file = folder / name
        if file.is_file() and file_hash(file) != saved:
            raise InputError(
                f"{file}: the file is damaged, its hash is not that of the weights that were saved; copy or save the model "
                f"again. If you changed them on purpose, delete {folder / HASHES}"
            )


def refuse_missing_pipeline(name: str, place: Any) -> None:
    """InputError if `place` is a local folder, or looks like one, and holds no pipeline."""
    path = _path(name, place)
    if (path / "model_index.json").is_file():
        return
    if not _is_hub_id(place):
        inside = "; it holds pipeline/, give that" if (path / "pipeline" / "model_index.json").is_file() else ""
        raise InputError(
            f"{path}: no {name} here (no model_index.json{inside}); give a folder that save_pretrained wrote, a run's pipeline/"
        )


def _is_hub_id(place: Any) -> bool:
    """Whether diffusers should look on the Hub, which takes it half a minute of retries where there is no network."""
    return isinstance(place, str) and not Path(place).exists() and bool(HUB_ID.fullmatch(place))


def _path(name: str, place: Any) -> Path:
    if not isinstance(place, str | os.PathLike):
        raise InputError(f"{name}.from_pretrained takes a folder or a Hub id; got {place!r}")
    return Path(place)
