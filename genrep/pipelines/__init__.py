"""From a trained run to images: diffusers pipelines. Light; the table of what there is."""

import importlib
import json
from pathlib import Path
from typing import Any

from genrep.errors import InputError

PIPELINES = {"LatentDiffusionPipeline": "genrep.pipelines.diffusion", "GANPipeline": "genrep.pipelines.gan"}


def has_pipeline(place: str | Path) -> bool:
    """Whether a pipeline lies in a run folder's `pipeline/`, or in this folder."""
    return (_folder(place) / "model_index.json").is_file()


def pipeline_name(place: str | Path) -> str:
    """The class of the pipeline in a run folder's `pipeline/`, or in a folder that `save_pretrained` wrote.

    InputError if none is there, or none of ours.
    """
    index = _folder(place) / "model_index.json"
    name = _read_index(place).get("_class_name")
    if name not in PIPELINES:
        raise InputError(f"{index}: a {name} is not one of {', '.join(PIPELINES)}")
    return str(name)


def pipeline_sampling(place: str | Path) -> dict[str, Any]:
    """How a saved pipeline draws unless told otherwise, by the names of its arguments; empty from earlier versions."""
    settings = _read_index(place).get("sampling") or {}
    if not isinstance(settings, dict):
        raise InputError(f"{_folder(place) / 'model_index.json'}: sampling must be a mapping; got {settings!r}")
    return settings


def load_pipeline(place: str | Path) -> Any:
    """The pipeline that `pipeline_name` names, loaded."""
    name = pipeline_name(place)
    return getattr(importlib.import_module(PIPELINES[name]), name).from_pretrained(_folder(place))


def _read_index(place: str | Path) -> dict[str, Any]:
    index = _folder(place) / "model_index.json"
    if not index.is_file():
        raise InputError(
            f"{place}: no pipeline there (no {index}); give a run folder of stage 2 that has finished, or its pipeline/"
        )
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return {**content, "_class_name": content["_class_name"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: damaged ({error!r}); save the pipeline again") from None


def _folder(place: str | Path) -> Path:
    return Path(place) / "pipeline" if (Path(place) / "pipeline").is_dir() else Path(place)
