"""Generated signals on disk, as they are kept: the same N whatever the batch size, number of processes or restarts."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Shaped
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from genrep.errors import InputError
from genrep.files import make_folder, replacing, write_json

CHUNK_IMAGES = 250


class GeneratedImages(Dataset):
    """N images with labels i mod `num_classes`, generated if missing; memory-mapped chunks on disk.

    Args:
        folder: the parent folder; images are in a subfolder named by a hash of `settings`.
        settings: everything that the images depend on, as plain data.
        num_images: N.
        num_classes: classes of the balanced labels; 0 is without labels.

    Raises:
        InputError: `num_images` below 1.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], num_images: int, num_classes: int):
        if num_images < 1:
            raise InputError(f"num_images must be a positive integer; got {num_images}")
        # Chunks of other settings stay valid in other folders; N is not among the settings, so a larger N adds to them.
        text = json.dumps(settings, sort_keys=True)
        self.folder = folder / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.settings, self.num_images, self.num_classes = settings, num_images, num_classes
        self._chunks: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return self.num_images

    def __getitem__(self, index: int) -> Shaped[Tensor, "channels *shape"]:
        number = index // CHUNK_IMAGES
        if number not in self._chunks:  # mapped, not loaded: 50,000 images at 256² are 10 GB
            self._chunks[number] = self._read(number)
        return self._chunks[number][index % CHUNK_IMAGES]

    @property
    def labels(self) -> Int[Tensor, " images"] | None:
        """The class label that each image was generated for."""
        return torch.arange(self.num_images) % self.num_classes if self.num_classes else None

    def make(self, draw: Callable[[list[int], list[int] | None], Tensor], process: tuple[int, int] = (0, 1)) -> None:
        """Generate the missing chunks; every process generates its own share.

        Args:
            draw: (indices, labels) => images, or other signals as they are kept, `[n, C, *shape]`.
            process: (rank, number of processes).
        """
        rank, num_processes = process
        make_folder(self.folder)
        if rank == 0:
            write_json(self.folder / "settings.json", self.settings)
        chunks = range(0, self.num_images, CHUNK_IMAGES)[rank::num_processes]
        parts = [range(start, min(start + CHUNK_IMAGES, self.num_images)) for start in chunks]
        with tqdm(total=sum(map(len, parts)), desc="generating", unit=" images", disable=rank > 0) as bar:
            for indices in parts:
                number = indices.start // CHUNK_IMAGES
                if not self._holds(number, len(indices)):
                    labels = [index % self.num_classes for index in indices] if self.num_classes else None
                    images = draw(list(indices), labels)
                    with replacing(self._path(number)) as partial:
                        save_file({"images": images}, partial)
                bar.update(len(indices))

    def _path(self, number: int) -> Path:
        return self.folder / f"images-{number:05d}.safetensors"

    def _holds(self, number: int, count: int) -> bool:
        # The last chunk of a smaller N is on disk, but too short.
        return self._path(number).exists() and len(self._read(number)) >= count

    def _read(self, number: int) -> Tensor:
        path = self._path(number)
        try:
            return load_file(path)["images"]
        except (SafetensorError, KeyError) as error:
            raise InputError(f"{path}: damaged ({error}); delete it to generate it again") from error
