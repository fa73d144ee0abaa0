"""`rtnet demo`: the whole way once, on a DAVIS folder or on a clip that it generates, small enough for a laptop."""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rtnet.errors import UserError

RECIPE = Path(__file__).parents[1] / "experiments" / "smoke.yaml"
_SHARED = Path("../shared/data/davis-480p")
_KNOWN_SEQUENCES = ["car-shadow", "motocross-jump", "dog-agility", "rollerblade"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--davis", metavar="PATH", help="a folder in DAVIS 2016's layout")
    parser.add_argument("--output", metavar="PATH", help="where everything is written; default: runs/demo")


def run_command(options: argparse.Namespace) -> None:
    """Runs each verb as a command of its own, after printing it; ends with the scores and where to look."""
    default = "runs/demo" if options.davis is None else f"runs/demo-{Path(options.davis).resolve().name}"
    output = Path(options.output or default)
    source = _source(options.davis, output)
    places = {"storage": output, "data.sources.davis16.path": source, "data.dataset": output / "dataset"}
    overrides = [f"{field}={json.dumps(str(place), ensure_ascii=False)}" for field, place in places.items()]
    overrides.append(f"data.sources.davis16.sequences={json.dumps(_few_sequences(source), ensure_ascii=False)}")
    started = time.monotonic()
    for verb in ("prepare", "train"):
        _command("rtnet", verb, str(RECIPE), *overrides)
    for split, what in (("train", "the sequences it was trained on"), ("val", "sequences it has never seen")):
        print(f"\n# Masks and scores of {what}, after a very short training from random weights")
        choice = [f"{section}.split={split}" for section in ("prediction", "evaluation")]
        for field, place in (("prediction", ""), ("evaluation", "/scores")):
            choice.append(f"{field}.output={json.dumps(f'{_predictions(output, split)}{place}', ensure_ascii=False)}")
        for verb in ("predict", "evaluate"):
            _command("rtnet", verb, str(RECIPE), *overrides, *choice)
    _command("rtnet", "models", "list", "--tracking", f"sqlite:///{output}/mlflow.db")
    _closing(output, time.monotonic() - started)


def _source(davis: str | None, output: Path) -> Path:
    if davis is not None:
        return Path(davis)
    if _SHARED.is_dir():
        return _SHARED
    from rtnet.data.clip import write_clip

    clip = output / "clip"
    if not clip.is_dir():
        print(f"no DAVIS folder given (make demo DAVIS=PATH): generating clips in {clip}")
        aside = clip.with_name("clip.part")
        shutil.rmtree(aside, ignore_errors=True)
        write_clip(aside)
        aside.rename(clip)
    return clip


def _few_sequences(source: Path) -> list[str]:
    """Four of a folder's sequences, two to train on and two to score: the known ones, else the longest."""
    from rtnet.data.layouts import read_layout

    chosen: list[str] = []
    found = read_layout("davis16", source, "davis16")
    for split in ("train", "val"):
        known = [s for s in found if s.split == split]
        known.sort(key=lambda s: (s.name not in _KNOWN_SEQUENCES, -len(s.frames), s.name))
        chosen += [sequence.name for sequence in known[:2]]
    return chosen


def _contact_sheet(pictures: list[Path], target: Path, width: int = 320, columns: int = 4) -> Path:
    """The pictures in rows, each `width` wide and with the first one's proportions."""
    import cv2
    import numpy as np

    images = [image for path in pictures if (image := cv2.imread(str(path))) is not None]
    size = (width, round(width * images[0].shape[0] / images[0].shape[1]))
    tiles = [cv2.resize(image, size, interpolation=cv2.INTER_AREA) for image in images]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    cv2.imwrite(str(target), np.vstack(rows))
    return target


def _predictions(output: Path, split: str) -> Path:
    return output / f"predictions-{split}"


def _command(program: str, *arguments: str) -> None:
    print(f"\n$ {shlex.join([program, *arguments])}", flush=True)
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    done = subprocess.run([sys.executable, "-m", "pipelines.cli", *arguments], env=environment, check=False)
    if done.returncode:
        raise UserError(f"`{program} {arguments[0]}` ended with status {done.returncode}; its own message is above")


def _closing(output: Path, seconds: float) -> None:
    print(f"\nThe whole way took {seconds / 60:.1f} minutes.")
    print(f"Scores: {_predictions(output, 'val')}/scores")
    print("Overlays (mask red, annotation green):")
    overlays = [
        path for s in ("train", "val") for path in sorted((_predictions(output, s) / "overlays").rglob("*.jpg"))
    ]
    for path in overlays:
        print(f"  {path}")
    print(f"  all of them: {_contact_sheet(overlays, output / 'overlays.png')}")
    print(f"MLflow store: {output / 'mlflow.db'}; to look at it:")
    print(f"  .venv/bin/mlflow ui --backend-store-uri sqlite:///{(output / 'mlflow.db').resolve()}")
