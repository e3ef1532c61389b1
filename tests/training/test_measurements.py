"""What a comparison measures of each kind of run, and which configs it refuses to compare."""

import json

import pytest
import torch

from genrep.errors import InputError
from genrep.models.field import NeuralField
from genrep.specs import validate
from genrep.training.config import read_config
from genrep.training.measurements import (
    AUTOENCODERS,
    FIELDS,
    AutoencoderMeasurements,
    FieldMeasurements,
    common_kind,
    kind_of,
    measure_field,
    refuse_different_data,
)
from tests.scripts import PROJECT

CAMERA, DIGITS = PROJECT / "configs/camera/pe_mlp.yaml", PROJECT / "configs/digits/anr.yaml"


def test_a_field_is_measured_at_its_last_evaluation(tmp_path):
    """34 inputs (two coordinates, and their sine and cosine at eight octaves), two layers of 64, one value."""
    field = NeuralField({"type": "positional_mlp", "widths": [64, 64], "num_frequencies": 8}, (16, 16), 1)
    field.save_pretrained(tmp_path / "model")
    lines = [{"images": n, "seconds": n / 2, "psnr": 20.0 + n, "ssim": n / 10} for n in (1, 2)] + [{"loss": 1.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    measurements = measure_field(tmp_path, 10, torch.device("cpu"))
    inputs = next(iter(field.parameters())).shape[-1]
    products = inputs * 64 + 64 * 64 + 64
    assert measurements == FieldMeasurements(
        {"psnr": 22.0, "ssim": 0.2}, parameters=products + 64 + 64 + 1, multiply_adds=products
    )


def test_autoencoders_and_fields_have_different_columns():
    autoencoder = AutoencoderMeasurements({"psnr": 30.0}, 1_234_567, 89, [8, 16], 1000, 256)
    assert autoencoder.columns() == {"encoder + decoder parameters": "1,234,567 + 89", "representation": "8 × 16"}
    assert autoencoder.note().endswith("on 1,000 held-out images, the two columns after them on 256.")
    field = FieldMeasurements({"psnr": 30.0}, 140_417, 35_008)
    assert field.columns() == {"parameters": "140,417", "multiply-adds per point": "35,008"} and field.note() == ""


def test_the_kind_of_a_run_is_recognised_from_its_yaml():
    assert kind_of(CAMERA) is FIELDS and kind_of(DIGITS) is AUTOENCODERS
    assert common_kind([str(CAMERA), str(CAMERA)]) is FIELDS
    with pytest.raises(
        InputError, match=r"pe_mlp\.yaml and .*anr\.yaml must both train autoencoders, or both train fields"
    ):
        common_kind([str(CAMERA), str(DIGITS)])


@pytest.mark.parametrize(
    ("kind", "config", "section", "change", "key"),
    [
        (FIELDS, CAMERA, "signal", {"size": 64}, "signal"),
        (FIELDS, CAMERA, "run", {"steps": 7}, "run.steps"),
        (AUTOENCODERS, DIGITS, "run", {"evaluate_images": 7}, "run.evaluate_images"),
        (AUTOENCODERS, DIGITS, "autoencoder", {"image_size": 16}, "autoencoder.image_size"),
        (AUTOENCODERS, DIGITS, "data", {"flip": True}, "data"),
    ],
)
def test_configs_of_different_data_are_refused(kind, config, section, change, key):
    content = read_config(config)
    base = validate(kind.config, content)
    changed = validate(kind.config, {**content, section: {**content[section], **change}})
    comparable = validate(kind.config, {**content, "optimizer": {"lr": 0.5}})
    refuse_different_data(kind, {"base": base, "comparable": comparable})
    with pytest.raises(InputError, match=f"^base and changed differ in {key}, so their PSNR cannot be compared"):
        refuse_different_data(kind, {"base": base, "comparable": comparable, "changed": changed})
