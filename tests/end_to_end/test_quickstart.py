"""The quickstart, whole: minutes."""

import json

import pytest

from tests.scripts import run


@pytest.mark.slow
@pytest.mark.parametrize("representation", ["anr", "locality"])
def test_the_quickstart_passes_its_bars(representation, tmp_path):
    run("train/quickstart.py", "--representation", representation, "--folder", tmp_path / "quickstart")
    report = json.loads((tmp_path / "quickstart" / "report.json").read_text())
    assert report["reconstruction"]["psnr"] > 29 and report["reconstruction"]["psnr_64"] > 30
    assert report["classifier"]["accuracy"] > 0.97 and report["generation"]["class_agreement"] > 0.95
    assert report["generation"]["fd_classifier"] < 3 * report["generation"]["fd_floor"]
