"""Running the project's scripts from tests, as users do."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent

# options that make the shipped configs small
SMALL = ["--autoencoder.encoder.dim", 16, "--autoencoder.encoder.mlp_dim", 16, "--autoencoder.decoder.hidden_dim", 16]

SMALL_DENOISER = ["--denoiser.dim", 16, "--denoiser.depth", 1, "--denoiser.mlp_dim", 16]

AUTOENCODER = [
    "configs/digits/anr.yaml", *SMALL, "--run.batch", 16, "--run.report_every", 1, "--run.evaluate_images", 20,
]  # fmt: skip

DIFFUSION = [
    "configs/digits/diffusion.yaml", *SMALL_DENOISER, "--run.batch", 16, "--run.report_every", 1,
    "--run.evaluate_images", 20, "--sampling.num_inference_steps", 2,
]  # fmt: skip

LOCALITY = ["--autoencoder.encoder.dim", 16, "--autoencoder.encoder.mlp_dim", 16, "--run.batch", 16]
LOCALITY += ["--run.evaluate_images", 20, "--run.report_every", 1]


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
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
        str(PROJECT / script),
    ]  # fmt: skip
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def lines(folder: Path) -> list[dict]:
    """metrics.jsonl without the values that depend on timing or memory."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "images_per_second", "peak_memory_gib")}
        for row in rows
    ]


def diffusion(stage1, folder):
    return [
        *DIFFUSION, "--autoencoder", stage1, "--latents.folder", folder / "latents",
        "--run.folder", folder / "diffusion",
    ]  # fmt: skip
