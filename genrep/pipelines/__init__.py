"""From a trained run to images: a table of the diffusers pipelines. Does not import torch."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from genrep.errors import InputError
from genrep.specs import NonNegativeFloat, PositiveInt, Spec


class DiffusionSamplingSpec(Spec):
    """How a diffusion pipeline draws samples: `sampling` in a run's YAML, in a saved pipeline and on sample/'s command line."""

    scheduler: Literal["ddpm", "ddim", "dpm_solver", "euler", "heun"] = "dpm_solver"
    """The diffusers scheduler that steps from noise to latents."""
    num_inference_steps: PositiveInt = 30
    """Number of sampling steps, at most the number of noise levels."""
    guidance_scale: NonNegativeFloat = 1.5
    """Scale of guidance: classifier-free or, with a guide, autoguidance; 1 disables it."""
    guidance_interval: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[0.0, 1.0], min_length=2, max_length=2)
    """[low, high]: the range of noise levels that is guided, from 0 at the clean end to 1 at the noisy end."""

    @model_validator(mode="after")
    def _ordered(self) -> "DiffusionSamplingSpec":
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError(f"guidance_interval must be [low, high] with low <= high; got {self.guidance_interval}")
        return self


class GANSamplingSpec(Spec):
    """How a GAN's pipeline draws samples: `sampling` in a run's YAML, in a saved pipeline and on sample/'s command line."""

    truncation: NonNegativeFloat = 1.0
    """Factor on the noise: below 1 samples are less varied and more typical; 1 disables it."""


SamplingSpec = DiffusionSamplingSpec | GANSamplingSpec


@dataclasses.dataclass(frozen=True)
class PipelineKind:
    """What is known about a pipeline class without importing it.

    Attributes:
        module: the module of the class.
        sampling: the spec of its settings, named like the arguments of its call and, for `scheduler`, its component.
        defaults: the settings of a pipeline that was made without any, as diffusers has them. The defaults of the spec are
            those that a training run gives its pipeline.
    """

    module: str
    sampling: type[DiffusionSamplingSpec] | type[GANSamplingSpec]
    defaults: Mapping[str, Any]


PIPELINES = {
    "LatentDiffusionPipeline": PipelineKind(
        "genrep.pipelines.diffusion",
        DiffusionSamplingSpec,
        {"num_inference_steps": 50, "guidance_scale": 1.0, "guidance_interval": [0.0, 1.0]},
    ),
    "GANPipeline": PipelineKind("genrep.pipelines.gan", GANSamplingSpec, {"truncation": 1.0}),
}


def pipeline_name(place: str | Path) -> str:
    """The class name of the pipeline in a run folder's `pipeline/`, or in a folder written by `save_pretrained`.

    InputError if there is no pipeline, or one of an unknown class.
    """
    index = index_file(place)
    name = _read_index(place).get("_class_name")
    if name not in PIPELINES:
        raise InputError(f"{index}: the pipeline must be one of {', '.join(PIPELINES)}; got {name}")
    return str(name)


def pipeline_sampling(place: str | Path) -> dict[str, Any] | None:
    """The default settings of a saved pipeline, by the keys of its spec; None if it was saved by a version without settings.

    A diffusion pipeline's `scheduler` is not among them: it is a component, saved as such.
    """
    index = _read_index(place)
    if "sampling" not in index:
        return None
    settings = index["sampling"] or {}
    if not isinstance(settings, dict):
        raise InputError(f"{index_file(place)}: sampling: must be a mapping of keys; got {settings!r}")
    return {**PIPELINES[pipeline_name(place)].defaults, **settings}


def load_pipeline(place: str | Path) -> Any:
    """Load the pipeline of a run or pipeline folder."""
    name = pipeline_name(place)
    return getattr(importlib.import_module(PIPELINES[name].module), name).from_pretrained(_folder(place))


def index_file(place: str | Path) -> Path:
    """The file that lists the components of a saved pipeline."""
    return _folder(place) / "model_index.json"


def _read_index(place: str | Path) -> dict[str, Any]:
    index = index_file(place)
    if not index.is_file():
        raise InputError(
            f"{place}: no pipeline here (no {index}); give the folder of a finished run of stage 2, or its pipeline/"
        )
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        return {**content, "_class_name": content["_class_name"]}
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{index}: damaged ({error!r}); save the pipeline again") from None


def _folder(place: str | Path) -> Path:
    return Path(place) / "pipeline" if (Path(place) / "pipeline").is_dir() else Path(place)
