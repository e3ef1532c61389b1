"""Reading the folders of earlier stages: models and configs."""

from pathlib import Path
from typing import TypeVar

from genrep.data import BaseDataSpec, DataSpec
from genrep.data.signals import SignalData, check_signal, check_whole
from genrep.errors import InputError
from genrep.files import folder_hash
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.classifier import ImageClassifier
from genrep.models.specs import AutoencoderSpec
from genrep.specs import Spec, validate
from genrep.training.config import read_config
from genrep.training.specs import AutoencoderRun, CloudRun

S = TypeVar("S", bound=Spec)


def model_folder(place: str | Path, name: str = "model") -> Path:
    """The folder to load from: `place/model` of a run folder, or `place` itself."""
    return Path(place) / name if (Path(place) / name).is_dir() else Path(place)


def load_autoencoder(place: str, config_path: str | None = None) -> INRAutoencoder:
    """Stage 1's model, frozen, from a run or model folder. If there is none, InputError tells how to train it."""
    folder = model_folder(place)
    if not (folder / "config.json").exists():
        stage1_config = _stage1_config(place, config_path)
        advice = (
            f"train it first: python {_script(stage1_config)} {stage1_config}, or name a trained one with --autoencoder RUN"
            if stage1_config
            else "give the run or model folder of stage 1"
        )
        raise InputError(f"autoencoder {place!r}: no model there (no {folder / 'config.json'}); {advice}")
    return INRAutoencoder.from_pretrained(folder).freeze()


def load_classifier(place: str, data: SignalData, key: str) -> tuple[ImageClassifier, str]:
    """A convolutional classifier, frozen, from a run or model folder, and the hash of its files.

    InputError, which names the config's `key`, if there is none, or one that does not fit the data's signals.
    """
    folder = model_folder(place)
    if not (folder / "config.json").exists():
        raise InputError(
            f"{key} {place!r}: no model there (no {folder / 'config.json'}); train one with train/classifier.py"
        )
    classifier = ImageClassifier.from_pretrained(folder).eval().requires_grad_(False)
    check_signal(classifier, data)
    check_whole(data, key)
    channels, num_axes = classifier.config["channels"], len(classifier.image_shape)
    if (channels, num_axes) != (data.channels, len(data.shape)):
        raise InputError(
            f"{key} {place!r} is for signals of {channels} channels and {num_axes} axes, but the data have {data.channels} and "
            f"{len(data.shape)}"
        )
    if min(data.shape) < classifier.smallest_side:
        raise InputError(
            f"{key} {place!r} halves signals of at least {classifier.smallest_side} points along every axis; these have "
            f"{' × '.join(map(str, data.shape))}"
        )
    return classifier, folder_hash(folder)


def describe_autoencoder(place: str, config_path: str) -> AutoencoderSpec:
    """The spec of stage 1's model, for a dry run: from its folder or, before it is trained, from its YAML."""
    folder = model_folder(place)
    if (folder / "config.json").exists():
        config = INRAutoencoder.load_config(folder)
        return validate(
            AutoencoderSpec,
            {key: value for key, value in config.items() if key in AutoencoderSpec.model_fields},
            where=str(folder),
        )
    stage1_config = _stage1_config(place, config_path)
    if stage1_config is None:
        raise InputError(
            f"autoencoder {place!r}: no model there, and no YAML next to {config_path} trains one; give the run or model folder "
            "of stage 1"
        )
    print(f"autoencoder {place} is not trained yet; sizes are taken from {stage1_config}")
    kind: type[AutoencoderRun] | type[CloudRun] = CloudRun if _is_of_clouds(stage1_config) else AutoencoderRun
    return validate(kind, read_config(stage1_config), where=str(stage1_config)).autoencoder


def run_config(folder: Path | str, kind: type[S]) -> S:
    """The config of a run folder. InputError if the folder has none."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(
            f"{folder}: not a run folder (it has no config.yaml); give the folder that a training script wrote"
        )
    return validate(kind, read_config(path), where=str(path))


def run_data(folder: Path | str, instead: str = "") -> BaseDataSpec:
    """The `data` section of any run's config.

    Args:
        folder: a run folder.
        instead: what the user may give otherwise, appended to the error.

    Raises:
        InputError: not a run folder, or signals of different sizes (`data.native_size`).
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no config.yaml there to name the data set; give a run folder{instead}")
    data = validate(_WithData, {"data": read_config(path).get("data", {})}, where=str(path)).data
    data.check_one_size("this script")
    return data


class _WithData(Spec):
    data: DataSpec


def _is_of_clouds(config: Path) -> bool:
    encoder = read_config(config)["autoencoder"].get("encoder")
    return isinstance(encoder, dict) and encoder.get("type") == "fit"


def _script(config: Path) -> str:
    """The script that trains the stage 1 of a YAML."""
    return "train/clouds.py" if _is_of_clouds(config) else "train/autoencoder.py"


def _stage1_config(place: str, config_path: str | None) -> Path | None:
    """The stage-1 YAML in the folder of `config_path` whose run folder is `place`."""
    for path in sorted(Path(config_path).parent.glob("*.yaml")) if config_path else []:
        content = read_config(path)
        if isinstance(content.get("autoencoder"), dict) and Path(content.get("run", {}).get("folder", "")) == Path(
            place
        ):
            return path
    return None
