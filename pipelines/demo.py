"""`rtnet demo`: the whole way once, on a DAVIS folder or on a clip that it generates, small enough for a laptop."""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import yaml

from rtnet.errors import UserError

RECIPE = Path("experiments/smoke.yaml")
_SHARED = Path("../shared/data/davis-480p")
_WHOLE_SEQUENCES = ["car-shadow", "motocross-jump", "dog-agility", "rollerblade"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--davis", metavar="PATH", help="a folder in DAVIS 2016's layout")
    parser.add_argument("--output", metavar="PATH", default="runs/demo", help="where everything is written")


def run_command(options: argparse.Namespace) -> None:
    """Runs each verb as a command of its own, after printing it; ends with the scores and where to look."""
    output = Path(options.output)
    source, sequences = _source(options.davis, output)
    overrides = [f"storage={output}", f"data.source={source}", f"data.dataset={output}/dataset"]
    if sequences is not None:
        overrides.append(f"data.sequences={json.dumps(sequences, ensure_ascii=False)}")
    started = time.monotonic()
    for verb in ("prepare", "train", "predict", "evaluate"):
        _command("rtnet", verb, str(RECIPE), *overrides)
    _command("rtnet", "models", "list", "--tracking", f"sqlite:///{output}/mlflow.db")
    _closing(output, time.monotonic() - started)


def _source(davis: str | None, output: Path) -> tuple[Path, list[str] | None]:
    if davis:
        return Path(davis), None
    if _SHARED.is_dir():
        return _SHARED, _WHOLE_SEQUENCES
    from rtnet.data.clip import write_clip

    clip = output / "clip"
    if not clip.is_dir():
        print(f"no DAVIS folder given (make demo DAVIS=PATH): generating clips in {clip}")
        write_clip(clip)
    return clip, None


def _command(program: str, *arguments: str) -> None:
    print(f"\n$ {program} {' '.join(arguments)}", flush=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], env=environment, check=False)
    if done.returncode:
        raise UserError(f"`{program} {arguments[0]}` ended with status {done.returncode}; its own message is above")


def _closing(output: Path, seconds: float) -> None:
    name = yaml.safe_load(RECIPE.read_text())["name"]
    overlays = sorted((output / name / "predictions" / "overlays").rglob("*.jpg"))
    print(f"\nThe whole way took {seconds / 60:.1f} minutes. Scores: {output / name / 'evaluation'}")
    print("Overlays (mask red, annotation green):")
    for path in overlays:
        print(f"  {path}")
    print(f"MLflow store: {output / 'mlflow.db'}; to look at it:")
    print(f"  .venv/bin/mlflow ui --backend-store-uri sqlite:///{(output / 'mlflow.db').resolve()}")
