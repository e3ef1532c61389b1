"""From a trained run to images: diffusers pipelines. The table of what there is; does not import torch."""

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
    """How a diffusion pipeline draws samples: in `sampling` of a run's YAML, in a saved pipeline, on sample/'s command line."""

    scheduler: Literal["ddpm", "ddim", "dpm_solver", "euler", "heun"] = "dpm_solver"
    """The diffusers scheduler that steps from noise to latents."""
    num_inference_steps: PositiveInt = 30
    """Sampling steps, at most the number of noise levels."""
    guidance_scale: NonNegativeFloat = 1.5
    """Scale of classifier-free guidance; 1 disables it."""
    guidance_interval: list[Annotated[float, Field(ge=0, le=1)]] = Field(default=[0.0, 1.0], min_length=2, max_length=2)
    """[low, high]: the share of the noise levels that is guided, from 0 at the clean end to 1 at the noisy one."""

    @model_validator(mode="after")
    def _ordered(self) -> "DiffusionSamplingSpec":
        if self.guidance_interval[0] > self.guidance_interval[1]:
            raise ValueError(f"guidance_interval {self.guidance_interval} runs backwards: give the lower end first")
        return self


class GANSamplingSpec(Spec):
    """How a GAN's pipeline draws samples: in `sampling` of a run's YAML, in a saved pipeline, on sample/'s command line."""

    truncation: NonNegativeFloat = 1.0
    """Factor on the noise: below 1 samples are more alike and nearer to the most likely one; 1 leaves the noise as it is."""


SamplingSpec = DiffusionSamplingSpec | GANSamplingSpec


@dataclasses.dataclass(frozen=True)
class PipelineKind:
    """What is known of a pipeline class without importing it.

    Attributes:
        module: where the class is.
        sampling: the spec of its settings, named like the arguments of its call and, for `scheduler`, its component.
        defaults: what its call does where the pipeline was made without settings. They are diffusers' habits; those of the
            spec are what a training run gives its pipeline.
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
    """The class of the pipeline in a run folder's `pipeline/`, or in a folder that `save_pretrained` wrote.

    InputError if none is there, or none of ours.
    """
    index = index_file(place)
    name = _read_index(place).get("_class_name")
    if name not in PIPELINES:
        raise InputError(f"{index}: a {name} is not one of {', '.join(PIPELINES)}")
    return str(name)


def pipeline_sampling(place: str | Path) -> dict[str, Any] | None:
    """How a saved pipeline draws unless told otherwise, by the keys of its kind's spec.

    A diffusion pipeline's `scheduler` is not among them: it is a component, which people swap, and is saved as one.
    None if the pipeline was saved by a version whose pipelines had no settings.
    """
    index = _read_index(place)
    if "sampling" not in index:
        return None
    settings = index["sampling"] or {}
    if not isinstance(settings, dict):
        raise InputError(f"{index_file(place)}: sampling: must be a mapping of keys; got {settings!r}")
    return {**PIPELINES[pipeline_name(place)].defaults, **settings}


def load_pipeline(place: str | Path) -> Any:
    """The pipeline that `pipeline_name` names, loaded."""
    name = pipeline_name(place)
    return getattr(importlib.import_module(PIPELINES[name].module), name).from_pretrained(_folder(place))


def index_file(place: str | Path) -> Path:
    """The file that says what a saved pipeline is made of."""
    return _folder(place) / "model_index.json"


def _read_index(place: str | Path) -> dict[str, Any]:
    index = index_file(place)
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
