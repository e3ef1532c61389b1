"""The metrics log of a run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genrep.files import replacing, writing_to


class RunLog:
    """`metrics.jsonl`, one JSON object per line.

    Opening it removes the lines after `step` and incomplete ones: leftovers of a run that was killed after its checkpoint.
    """

    def __init__(self, path: Path, step: int):
        with writing_to(path):
            resumes = path.exists() and step > 0
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if resumes else []
            kept = [line for line in lines if _step_of(line) <= step]
            with replacing(path) as partial:
                partial.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            self.path, self.file = path, path.open("a", buffering=1, encoding="utf-8")

    def write(self, line: Mapping[str, Any]) -> None:
        with writing_to(self.path):
            self.file.write(json.dumps(dict(line)) + "\n")


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62  # an incomplete line counts as later than any step
