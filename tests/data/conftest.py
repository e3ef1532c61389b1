"""Small pictures as a folder and as a table, and the digits."""

import datasets
import pytest

from genrep.data import ImageDataSpec
from tests.data.pictures import SIZES, random_image


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    """Keep the caches of `datasets` in a folder of the test run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        datasets.disable_progress_bars()
        yield
        datasets.enable_progress_bars()


@pytest.fixture(scope="module")
def pictures():
    """Ten images in five sizes, grey and RGB, and their labels: five cats, five dogs."""
    return [random_image(*SIZES[n % 5], mode="L" if n % 3 == 0 else "RGB", seed=n) for n in range(10)], [
        n // 5 for n in range(10)
    ]


@pytest.fixture
def folder(pictures, tmp_path):
    """The pictures as a folder of images, one subfolder per class."""
    for number, (image, label) in enumerate(zip(*pictures, strict=True)):
        place = tmp_path / "pictures" / ("cat", "dog")[label]
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{number}.png")
    return tmp_path / "pictures"


@pytest.fixture(scope="module")
def table(pictures):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    return datasets.Dataset.from_dict({"image": pictures[0], "label": pictures[1]}, features=features)


@pytest.fixture(scope="module")
def digits():
    return tuple(ImageDataSpec().open(split, (8, 8), 1) for split in ("train", "held_out"))
