"""`rtnet predict` against a plain loop as published test scripts work, in the same run.

    python -m experiments.benchmarks.predict --data path/to/DAVIS         # speed; the last line is the ratio
    python -m experiments.benchmarks.predict --memory                     # the actor's memory over ten times the frames
    python -m experiments.benchmarks.predict --kills 10 --seed 0          # files after kills against those of one go

The plain loop reads two frames and four flow pictures from files, computes all eight maps of the pair by the plain
network of tests/plain.py, keeps one and writes it; ours reads the prepared dataset. Neither counts its start: ours from
the actors' first frames on. Speed is of resnet34 with random weights, which depends neither on them nor on the frames.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from experiments.benchmarks.faults_run import adopt_orphans, left_behind

_RIVAL_FRAMES = 4
_KILLED_FRAMES = 12  # of each sequence: a few seconds' work
_SPEED = re.compile(r"\[(\d+)/\d+\] .*, ([\d.]+) frames/s")
_VICTIMS = ("driver", "SIGTERM", "SIGINT", "actor", "raylet")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="DAVIS 2016's layout; default: generated clips of 480 x 854")
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--height", type=int, default=384)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell begins behind itself ignores Ctrl-C
    with tempfile.TemporaryDirectory(prefix="predict-") as scratch:
        root = Path(scratch)
        if options.memory:
            return _memory(root)
        if options.kills is not None:
            return _kills(root, options.kills, options.seed)
        return _speed(root, options)


# speed


def _speed(root: Path, options: argparse.Namespace) -> int:
    source = _clip(root / "clip", options.frames, 480, 854) if options.data is None else options.data.resolve()
    names = _longest(source, options.frames)
    recipe = _recipe(root, source, names, options.height)
    _network(root / "model.safetensors", "resnet34")
    _rtnet("prepare", recipe)
    rival = _plain_loop(root, source, names[0], options.height)
    print(f"{len(names)} sequences at {options.height} rows, {os.cpu_count()} cores\n")
    print("| way | frames | frames/s | speed | decode | flow | network | encode |\n|---|---|---|---|---|---|---|---|")
    print(_row("plain loop", _RIVAL_FRAMES, rival["speed"], 1.0, rival["shares"]), flush=True)
    ratios = []
    for way, given in (
        ("predict", {}),
        ("predict, both maps of a pair", {"both": True}),
        ("predict, from the files", {"input": "sources"}),
    ):
        output = root / way
        text = _rtnet("predict", recipe, output=str(output), **given)
        frames, speed = _last_speed(text)
        ratios.append(speed / rival["speed"])
        print(_row(way, frames, speed, ratios[-1], _shares(text)), flush=True)
    print(f"\nratio with both maps used: {ratios[1]:.2f}\nratio: {ratios[0]:.2f}")
    return 0


def _plain_loop(root: Path, source: Path, name: str, height: int) -> dict[str, Any]:
    """Frames a second, and seconds by stage, of one pair after the other from files."""
    import cv2
    import numpy as np
    import torch

    from pipelines.dataset import Dataset
    from rtnet.checkpoint import load_model
    from rtnet.data.images import encode_png
    from rtnet.spent import Spent
    from tests.networks import plain_network

    dataset = Dataset(str(root / "dataset"))
    rows = [r for r in dataset.rows("val", views=["as_is"]) if dataset.column("sequence")[r] == name]
    folder = root / "published"
    folder.mkdir()
    for number, row in enumerate(rows):  # flow as published: pictures beside the frames
        pictures = dataset.read(int(row)).flow
        for part in (0, 1):
            (folder / f"{number:05d}-{part}.png").write_bytes(encode_png(pictures[..., 3 * part : 3 * part + 3]))
    frames = sorted((source / "JPEGImages" / "480p" / name).iterdir())
    network = plain_network(load_model(root / "model.safetensors").eval())
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    spent, size = Spent(), (int(1.75 * height), height)

    def read(path: Path) -> torch.Tensor:
        picture = cv2.resize(np.asarray(cv2.imread(str(path)))[..., ::-1], size) / 255
        return torch.from_numpy((picture - mean) / deviation).float().permute(2, 0, 1)

    started = time.perf_counter()
    for number in range(_RIVAL_FRAMES + 1):
        if number == 1:  # the first one pays for memory and plans
            started, _ = time.perf_counter(), spent.take()
        pair = (number, number + 1)
        with spent.on("decode"):
            video = torch.stack([read(frames[i]) for i in pair])
            flow = torch.stack([torch.cat([read(folder / f"{i:05d}-{part}.png") for part in (0, 1)]) for i in pair])
        with spent.on("network"), torch.inference_mode():
            map_ = network.side_maps(video, flow)["appearance"][0][0, 0].numpy()
        with spent.on("encode"):
            full = cv2.resize(map_, (854, 480))
            full = (full - full.min()) / (full.max() - full.min() + 1e-8)
            cv2.imwrite(str(root / "plain.png"), (255 * full).astype(np.uint8))
    seconds = spent.take()
    speed = _RIVAL_FRAMES / (time.perf_counter() - started)
    return {"speed": speed, "shares": {stage: value / sum(seconds.values()) for stage, value in seconds.items()}}


def _row(way: str, frames: int, speed: float, ratio: float, shares: dict[str, float]) -> str:
    stages = " | ".join(f"{shares.get(stage, 0.0):.0%}" for stage in ("decode", "flow", "network", "encode"))
    return f"| {way} | {frames} | {speed:.3f} | {ratio:.2f} x | {stages} |"


def _last_speed(text: str) -> tuple[int, float]:
    frames, speed = _SPEED.findall(text)[-1]
    return int(frames), float(speed)


def _shares(text: str) -> dict[str, float]:
    (line,) = re.findall(r"the actors' time: (.*)", text)
    return {stage: int(share) / 100 for stage, share in re.findall(r"(\w+) (\d+) %", line)}


# memory


def _memory(root: Path) -> int:
    """Of the actor, over a video and over one ten times as long, frames of 480 x 854."""
    _network(root / "model.safetensors", "resnet18")
    peaks = []
    for frames in (60, 600):
        clip = _video(root / f"{frames}.avi", frames)
        recipe = _recipe(root, clip, None, 64, {"layout": "video", "split": "val"})
        process = _start(recipe, input="sources", output=str(root / f"of-{frames}"), batch_size=4)
        peak = 0.0
        while process.poll() is None:
            peak = max([peak, *(_resident(actor) for actor in _processes(process, "actor"))])
            time.sleep(0.2)
        if process.returncode:
            raise SystemExit(f"`rtnet predict` ended with status {process.returncode}")
        print(f"{frames} frames: the actor's memory at its peak {peak / 1e6:.0f} MB", flush=True)
        peaks.append(peak)
    print(f"ratio: {peaks[1] / peaks[0]:.3f}")
    return 0


def _resident(process: psutil.Process) -> float:
    try:
        return float(process.memory_full_info().uss)
    except psutil.Error:
        return 0.0


# kills


def _kills(root: Path, kills: int, seed: int) -> int:
    adopt_orphans()
    _clip(root / "clip", _KILLED_FRAMES, 96, 168, count=3 * kills)
    _network(root / "model.safetensors", "resnet18")
    recipe = _recipe(root, root / "clip", None, 128)
    _rtnet("predict", recipe, input="sources", output=str(root / "alone"))
    choice, output, starts, struck = random.Random(seed), root / "killed", 0, 0
    while True:
        process, starts = _start(recipe, input="sources", output=str(output)), starts + 1
        while struck < kills and process.poll() is None:
            victim, before, earliest = choice.choice(_VICTIMS), _files(output), time.monotonic()
            if choice.random() < 0.8:  # within the work; the rest at any moment of the start
                while process.poll() is None and _files(output) <= before:
                    time.sleep(0.05)
                earliest = time.monotonic()
            latest = earliest + choice.uniform(0.2, 6)
            while process.poll() is None and time.monotonic() < latest:
                time.sleep(0.05)
            if process.poll() is None and _strike(process, victim):
                struck += 1
                whole = len(_index(output).get("sequences", {}))
                print(f"{struck}: {victim} killed after {_files(output)} files, {whole} whole sequences", flush=True)
                if victim != "actor":
                    break
        if process.wait() == 0:
            break
    if struck < kills:
        raise SystemExit(f"it was done after {struck} kills: try another --seed")
    left = left_behind(60)
    names = {path.relative_to(root / "alone") for path in (root / "alone").rglob("*") if path.is_file()}
    same = names == {path.relative_to(output) for path in output.rglob("*") if path.is_file()}
    there = [(name, root / "alone" / name, output / name) for name in sorted(names) if same]
    differing = [name for name, alone, killed in there if alone.read_bytes() != killed.read_bytes()]
    print(f"{struck} kills, {starts} commands; {len(names)} files, {len(differing)} differ; left running: {len(left)}")
    if not same or differing or left:
        print("\n".join([*map(str, differing[:5]), *left]))
        return 1
    print("every file is that of the undisturbed run, byte for byte")
    return 0


def _files(output: Path) -> int:
    return sum(1 for _ in output.rglob("*.png"))


def _index(output: Path) -> dict[str, Any]:
    path = output / "predictions.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _strike(process: subprocess.Popen[str], victim: str) -> bool:
    found = [psutil.Process(process.pid)] if victim in ("driver", "SIGTERM", "SIGINT") else _processes(process, victim)
    if not found:
        return False
    with suppress(psutil.Error):
        found[0].send_signal(getattr(signal, victim, signal.SIGKILL))
    return True


def _processes(process: subprocess.Popen[str], kind: str) -> list[psutil.Process]:
    """The driver's raylet, or the actors that hold a network."""
    found = []
    with suppress(psutil.Error):
        for child in psutil.Process(process.pid).children(recursive=True):
            with suppress(psutil.Error):
                title = " ".join(child.cmdline()[:1])
                if (kind == "raylet" and child.name() == "raylet") or (kind == "actor" and "MapWorker" in title):
                    found.append(child)
    return found


# what is predicted


def _recipe(
    root: Path, source: Path, names: list[str] | None, height: int, layout: dict[str, str] | None = None
) -> Path:
    recipe = root / "recipe.yaml"
    given: dict[str, Any] = {"path": str(source), "sequences": names, **(layout or {"layout": "davis16"})}
    values = {
        "name": "benchmark",
        "storage": str(root / "runs"),
        "data": {"sources": {"clip": given}, "dataset": str(root / "dataset")},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        "prediction": {"model": str(root / "model.safetensors"), "height": height, "overlays": 0},
    }
    recipe.write_text(json.dumps(values))
    return recipe


def _network(path: Path, backbone: str) -> None:
    from rtnet.checkpoint import save_model
    from tests.networks import random_network

    save_model(path, random_network(backbone).float())


def _clip(root: Path, frames: int, height: int, width: int, count: int = 1) -> Path:
    from rtnet.data.clip import write_clip

    write_clip(root, {"val": [f"clip-{number}" for number in range(count)]}, frames, height, width)
    return root


def _video(path: Path, frames: int) -> Path:
    import cv2
    import numpy as np

    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25, (854, 480))
    picture = cv2.resize(np.random.default_rng(0).integers(0, 256, (24, 43, 3), np.uint8), (854, 480))
    for number in range(frames):
        writer.write(np.roll(picture, 2 * number, 1))
    writer.release()
    return path


def _longest(source: Path, frames: int) -> list[str]:
    """Sequences of the val split, the longest first, until there are so many frames."""
    from rtnet.data.layouts import read_layout

    found = sorted(read_layout("davis16", source, "davis16", "val"), key=lambda s: -len(s.frames))
    names, count = [], 0
    for sequence in found:
        if count < frames:
            names.append(sequence.name)
            count += len(sequence.frames)
    return names


def _rtnet(verb: str, recipe: Path, **options: Any) -> str:
    done = subprocess.run(_command(verb, recipe, options), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"`rtnet {verb}` ended with status {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _start(recipe: Path, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        _command("predict", recipe, options), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, text=True
    )


def _command(verb: str, recipe: Path, options: dict[str, Any]) -> list[str]:
    overrides = [f"prediction.{key}={json.dumps(value)}" for key, value in options.items()]
    return [sys.executable, "-m", "pipelines.cli", verb, str(recipe), *overrides]


if __name__ == "__main__":
    sys.exit(main())
