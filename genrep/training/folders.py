"""What lies in the folders of earlier stages: models, configs."""

from pathlib import Path
from typing import TypeVar

from genrep.data import BaseDataSpec, DataSpec
from genrep.errors import InputError
from genrep.models.autoencoder import INRAutoencoder
from genrep.models.specs import AutoencoderSpec
from genrep.specs import Spec, validate
from genrep.training.config import read_config
from genrep.training.specs import AutoencoderRun, CloudRun

S = TypeVar("S", bound=Spec)


def model_folder(place: str | Path, name: str = "model") -> Path:
    """The folder to load from: `place/model` of a run folder, or `place` itself."""
    return Path(place) / name if (Path(place) / name).is_dir() else Path(place)


def load_autoencoder(place: str, config_path: str | None = None) -> INRAutoencoder:
    """Stage 1's model, frozen, from a run or model folder. InputError says how to train it if it is not there."""
    folder = model_folder(place)
    if not (folder / "config.json").exists():
        maker = _maker(place, config_path)
        how = f"train it first: python {_script(maker)} {maker}" if maker else "give the run or model folder of stage 1"
        raise InputError(f"autoencoder {place!r}: no model there (no {folder / 'config.json'}); {how}")
    return INRAutoencoder.from_pretrained(folder).freeze()


def describe_autoencoder(place: str, config_path: str) -> AutoencoderSpec:
    """What stage 1's model is, for a dry run: from its folder or, if it is not trained yet, from the YAML that makes it."""
    folder = model_folder(place)
    if (folder / "config.json").exists():
        config = INRAutoencoder.load_config(folder)
        return validate(
            AutoencoderSpec,
            {key: value for key, value in config.items() if key in AutoencoderSpec.model_fields},
            where=str(folder),
        )
    maker = _maker(place, config_path)
    if maker is None:
        raise InputError(
            f"autoencoder {place!r}: no model there, and no YAML beside {config_path} makes one; give the run or model folder of stage 1"
        )
    print(f"autoencoder {place} is not trained yet; sizes are taken from {maker}")
    kind: type[AutoencoderRun] | type[CloudRun] = CloudRun if _is_of_clouds(maker) else AutoencoderRun
    return validate(kind, read_config(maker), where=str(maker)).autoencoder


def run_config(folder: Path | str, kind: type[S]) -> S:
    """The config of a run folder. InputError if there is none."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(
            f"{folder}: no run folder (no config.yaml there); give the folder that a training script wrote"
        )
    return validate(kind, read_config(path), where=str(path))


def run_data(folder: Path | str, instead: str = "") -> BaseDataSpec:
    """The `data` part of any run's config. InputError if the folder is no run's; `instead` is what else may be given."""
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise InputError(f"{folder}: no config.yaml, which says what the real signals are; give a run folder{instead}")
    return validate(_WithData, {"data": read_config(path).get("data", {})}, where=str(path)).data


class _WithData(Spec):
    data: DataSpec


def _is_of_clouds(maker: Path) -> bool:
    encoder = read_config(maker)["autoencoder"].get("encoder")
    return isinstance(encoder, dict) and encoder.get("type") == "fit"


def _script(maker: Path) -> str:
    """What trains the stage 1 of a YAML."""
    return "train/clouds.py" if _is_of_clouds(maker) else "train/autoencoder.py"


def _maker(place: str, config_path: str | None) -> Path | None:
    """The stage-1 YAML beside `config_path` whose run folder is `place`."""
    for path in sorted(Path(config_path).parent.glob("*.yaml")) if config_path else []:
        content = read_config(path)
        if isinstance(content.get("autoencoder"), dict) and Path(content.get("run", {}).get("folder", "")) == Path(
            place
        ):
            return path
    return None
