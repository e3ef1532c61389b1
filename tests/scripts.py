"""Running the project's scripts from tests, as a person would."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def run(script: str, *arguments: object, expect: int = 0) -> None:
    """Run a script in this process."""
    before = sys.argv
    sys.argv = [script, *map(str, arguments)]
    code: object = 0
    try:
        runpy.run_path(str(PROJECT / script), run_name="__main__")
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        sys.argv = before
    assert code == expect, f"{script} exited with {code}"


def launch(processes: int, script: str, *arguments: object) -> str:
    """Run a script on several processes, on the CPU; returns what it printed."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(processes),
        str(PROJECT / script),
    ]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(folder: Path) -> list[dict]:
    """metrics.jsonl without what the clock decides."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second", "peak_memory_gib")}
        for row in rows
    ]
