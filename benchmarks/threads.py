"""How fast a run trains with the number of CPU threads that it chooses, compared with every number it could have chosen.

    python benchmarks/threads.py configs/digits/gan_latents.yaml --steps 600
    python benchmarks/threads.py configs/digits/gan_latents.yaml --steps 600 --busy 1

Trains the config with each number of threads (OMP_NUM_THREADS) and without the variable, in turn, and reads images per
second from the last line of metrics. --busy runs other processes that compute at the same time, as on a shared machine. What
the config depends on, such as a trained autoencoder, must exist; further options with a dot are config keys.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from genrep.errors import InputError
from genrep.options import non_negative, positive
from genrep.training.config import read_config, run_script
from genrep.training.threads import ENVIRONMENT, candidates

PROJECT = Path(__file__).resolve().parent.parent
BUSY = "while True: sum(range(10**6))"
SCRIPTS = {"gan": "gan.py", "diffusion": "diffusion.py", "classifier": "classifier.py", "field": "field.py"}


def script_of(config: Path) -> str:
    """The script in train/ that a config is for, recognised by its sections."""
    content = read_config(config)
    return next((script for section, script in SCRIPTS.items() if section in content), "autoencoder.py")


def images_per_second(command: list[str], folder: Path, threads: int | None) -> tuple[float, str]:
    """The rate in a run's last report, and what the run printed about threads."""
    environment = {key: value for key, value in os.environ.items() if key not in ENVIRONMENT}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    process = subprocess.run(
        [sys.executable, *command, "--run.folder", str(folder)],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise InputError(f"a run of {command[1]} failed: {process.stderr.strip().removeprefix('error: ')}")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    rate = next(line["images_per_second"] for line in reversed(lines) if "images_per_second" in line)
    about_threads = [line for line in (process.stdout + process.stderr).splitlines() if line.startswith("threads: ")]
    return float(rate), about_threads[-1] if about_threads else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML of a run")
    parser.add_argument(
        "--steps", type=positive, default=600, help="steps per run; the rate is of the second half (default 600)"
    )
    parser.add_argument("--runs", type=positive, default=3, help="runs per number of threads (default 3)")
    parser.add_argument(
        "--busy", type=non_negative, default=0, help="other processes that compute at the same time (default 0)"
    )
    options, keys = parser.parse_known_args()

    if options.steps < 2:
        raise InputError(f"--steps must be at least 2, as the rate is that of the second half; got {options.steps}")
    # Two reports, so that the last covers the second half: the first includes the choice of threads and warming up.
    half = str(options.steps // 2)
    schedule = ["--run.steps", str(options.steps), "--run.report_every", half, "--run.preview_every", "1000000"]
    command = [str(PROJECT / "train" / script_of(options.config)), str(options.config.resolve()), *schedule, *keys]
    variants = {f"{count} thread{'s' * (count > 1)}": count for count in candidates(os.cpu_count() or 1)}
    rates: dict[str, list[float]] = {name: [] for name in [*variants, "chosen"]}
    busy_processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.busy)]
    try:
        with tempfile.TemporaryDirectory() as place:
            for number in range(options.runs):
                for name, threads in [*variants.items(), ("chosen", None)]:
                    folder = Path(place) / f"{name}-{number}".replace(" ", "_")
                    rate, about_threads = images_per_second(command, folder, threads)
                    rates[name].append(rate)
                    print(f"{name:12} {rate:10,.1f} images/s  {about_threads}", flush=True)
    finally:
        for process in busy_processes:
            process.kill()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    best = max(value for name, value in medians.items() if name != "chosen")
    print(f"\nmedians of {options.runs} runs with {options.busy} busy processes, {os.cpu_count()} cores:")
    for name, value in medians.items():
        print(f"{name:12} {value:10,.1f} images/s   {value / best:.2f} of the best number of threads")


if __name__ == "__main__":
    run_script(main)
