"""What bfloat16 changes: maps, J and F of a network after a short training, against float32.

python -m experiments.benchmarks.precision --davis path/to/DAVIS     # real frames; a generated clip without it
python -m experiments.benchmarks.precision --davis path/to/DAVIS --device cuda --height 384 --steps 500

Trains on the first half of each sequence's frames, scores on all of them. It needs neither Ray nor MLflow. The
last line is the time of float32 over that of bfloat16.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.data.flow import dis, neighbour_flows
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import decode_annotation, decode_image
from rtnet.data.inputs import network_input
from rtnet.data.layouts import Sequence, read_layout
from rtnet.data.pairs import epoch_pairs, fixed_partners
from rtnet.metrics import contour_accuracy, region_similarity
from rtnet.model.rtnet import RTNet
from rtnet.prediction import Map, for_prediction, predict_maps
from rtnet.training import make_batch, make_optimizer, set_rate, train_step


@dataclass(frozen=True)
class View:
    image: np.ndarray
    flow: np.ndarray
    mask: np.ndarray


def main() -> None:
    options = _options()
    torch.set_flush_denormal(True)
    torch.set_num_threads(options.threads)
    size = (options.height, int(1.75 * options.height))
    sequences = _sequences(options, size)
    model = _train(options, sequences, size)
    maps, seconds = {}, {}
    for precision in ("float32", "bfloat16"):
        network = for_prediction(model, torch.device(options.device), precision)
        _predict(network, options, sequences[:1], size)  # the first call tunes
        start = time.perf_counter()
        maps[precision] = _predict(network, options, sequences, size)
        seconds[precision] = time.perf_counter() - start
    _print(sequences, maps, seconds)


def _train(options: argparse.Namespace, sequences: list[list[View]], size: tuple[int, int]) -> RTNet:
    torch.manual_seed(0)
    device = torch.device(options.device)
    model = RTNet(RTNetConfig(options.backbone)).to(device).train()
    optimizer = make_optimizer(model, momentum=0.9, weight_decay=5e-4)
    halves = [sequence[: max(2, len(sequence) // 2)] for sequence in sequences]
    views = [view for half in halves for view in half]
    groups = np.repeat(np.arange(len(halves)), [len(half) for half in halves])
    count = options.steps * options.batch
    pairs = np.concatenate([epoch_pairs(groups, 0, epoch) for epoch in range(count // len(views) + 1)])
    for step in range(options.steps):
        set_rate(optimizer, options.rate * min(1.0, (step + 1) / 5, (options.steps - step) / (0.4 * options.steps)))
        chosen = [views[row] for row in pairs[step * options.batch : (step + 1) * options.batch].reshape(-1)]
        batch = make_batch([v.image for v in chosen], [v.flow for v in chosen], [v.mask for v in chosen], size, device)
        losses = train_step(model, optimizer, batch, "float32")
        if step % 10 == 9:
            print(f"step {step + 1}/{options.steps}: loss {losses[1]:.3f} + {losses[3]:.3f}", flush=True)
    return model


def _predict(
    model: RTNet, options: argparse.Namespace, sequences: list[list[View]], size: tuple[int, int]
) -> list[list[Map]]:
    device = torch.device(options.device)
    maps = []
    for views in sequences:
        partners = fixed_partners(np.zeros(len(views), np.int64), seed=0)
        found: list[Map] = []
        for start in range(0, len(views), options.batch):
            places = range(start, min(start + options.batch, len(views)))
            rows = sorted({*places, *(int(partners[place]) for place in places)})
            found += predict_maps(
                model,
                network_input([views[row].image for row in rows], size, device),
                network_input([views[row].flow for row in rows], size, device),
                torch.tensor([[rows.index(place), rows.index(partners[place])] for place in places], device=device),
                [views[place].image.shape[:2] for place in places],
            )
        maps.append(found)
    return maps


def _print(sequences: list[list[View]], maps: dict[str, list[list[Map]]], seconds: dict[str, float]) -> None:
    pairs = zip(*([map_ for sequence in maps[p] for map_ in sequence] for p in ("float32", "bfloat16")), strict=True)
    differences = np.concatenate([np.abs(exact - rough).ravel() for exact, rough in pairs])
    print("\n| precision | J | F | J&F | s |\n|---|---|---|---|---|")
    for precision, found in maps.items():
        scores = [
            (region_similarity(map_ > 0.5, view.mask), contour_accuracy(map_ > 0.5, view.mask))
            for views, predicted in zip(sequences, found, strict=True)
            for view, map_ in zip(views, predicted, strict=True)
        ]
        region, contour = np.mean(scores, axis=0)
        print(
            f"| {precision} | {region:.4f} | {contour:.4f} | {(region + contour) / 2:.4f} | {seconds[precision]:.2f} |"
        )
    largest, most, mean = differences.max(), np.quantile(differences, 0.999), differences.mean()
    print(f"\nmaps differ by {mean:.5f} on average, {most:.4f} in 999 of 1000 pixels at most, {largest:.4f} at most")
    print(f"ratio: {seconds['float32'] / seconds['bfloat16']:.2f}")


def _sequences(options: argparse.Namespace, size: tuple[int, int]) -> list[list[View]]:
    if options.davis is not None:
        return [
            _views(x, options.frames, size)
            for x in read_layout("davis16", options.davis, "davis16")[: options.sequences]
        ]
    with tempfile.TemporaryDirectory() as folder:
        write_clip(Path(folder))
        return [
            _views(x, options.frames, size)
            for x in read_layout("davis16", Path(folder), "davis16")[: options.sequences]
        ]


def _views(sequence: Sequence, count: int, size: tuple[int, int]) -> list[View]:
    frames = [frame for frame in sequence.frames if frame.annotation is not None][:count]
    images = [decode_image(frame.image.read_bytes()) for frame in frames]
    views = []
    for frame, (image, *pair) in zip(frames, neighbour_flows(images, dis("fast"), height=size[0]), strict=True):
        black = np.zeros((size[0], round(image.shape[1] * size[0] / image.shape[0]), 3), np.uint8)
        flow = np.concatenate([black if x is None else flow_picture(x) for x in pair], axis=2)
        assert frame.annotation is not None
        views.append(View(image, flow, decode_annotation(frame.annotation.read_bytes())))
    return views


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--davis", type=Path, help="a folder in DAVIS 2016's layout; default: a generated clip")
    parser.add_argument("--backbone", default="resnet34")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--height", type=int, default=96)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--frames", type=int, default=16, help="of each sequence")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.02)
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
