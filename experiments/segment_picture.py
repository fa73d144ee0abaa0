"""The README's picture of `rtnet segment`: a generated clip by a network trained shortly on other generated ones.

    python -m experiments.segment_picture docs/segment.jpg

Two minutes on 2 CPU cores: 60 steps from random weights at 64 x 112. Only pictures made by `rtnet.data.clip` are seen.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from pipelines import cli
from rtnet.checkpoint import save_model
from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.data.flow import dis, neighbour_flows
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import decode_annotation, decode_image
from rtnet.data.layouts import Sequence, read_layout
from rtnet.data.pairs import epoch_pairs
from rtnet.model.rtnet import RTNet
from rtnet.training import make_batch, make_optimizer, set_rate, train_step

SIZE = (64, 112)
STEPS, BATCH, FRAMES = 60, 5, 12
TRAINED, SHOWN = [f"clip {number}" for number in range(5)], "round stone"


def main(target: str) -> None:
    torch.set_flush_denormal(True)  # before PyTorch starts its threads, which inherit it
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_clip(root, {"train": TRAINED}, FRAMES, 128, 224)
        write_clip(root / "shown", {"val": [SHOWN]}, 24, 240, 420)
        views = [_views(sequence) for sequence in read_layout("davis16", root, "generated")]
        save_model(root / "model.safetensors", _trained(views))
        frames, output = root / "shown/JPEGImages/480p" / SHOWN, root / "out.mp4"
        options = ["--model", f"{root}/model.safetensors", "--height", str(SIZE[0]), "--output", str(output)]
        if cli.main(["segment", str(frames), *options]) == 0:
            Path(target).write_bytes((root / "out-sheet.jpg").read_bytes())


def _views(sequence: Sequence) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    images = [decode_image(frame.image.read_bytes()) for frame in sequence.frames]
    masks = [decode_annotation(frame.annotation.read_bytes()) for frame in sequence.frames if frame.annotation]
    black = np.zeros_like(images[0])
    flows = [
        np.concatenate([black if flow is None else flow_picture(flow) for flow in pair], axis=2)
        for _, *pair in neighbour_flows(images, dis())
    ]
    return list(zip(images, flows, masks, strict=True))


def _trained(sequences: list[list[tuple[np.ndarray, np.ndarray, np.ndarray]]]) -> RTNet:
    """As in tests/test_learning.py."""
    views = [view for sequence in sequences for view in sequence]
    groups = np.repeat(np.arange(len(sequences)), FRAMES)
    pairs = np.concatenate([epoch_pairs(groups, 0, epoch) for epoch in range(STEPS * BATCH // len(views) + 1)])
    torch.manual_seed(0)
    model = RTNet(RTNetConfig("resnet18"))
    optimizer = make_optimizer(model, momentum=0.9, weight_decay=5e-4)
    model.train()
    for step in range(STEPS):
        set_rate(optimizer, 0.025 * min(1.0, (step + 1) / 5, (STEPS - step) / 40))
        chosen = [views[row] for row in pairs[step * BATCH : (step + 1) * BATCH].reshape(-1)]
        images, flows, masks = zip(*chosen, strict=True)
        losses = train_step(model, optimizer, make_batch(images, flows, masks, SIZE, torch.device("cpu")), "float32")
        if step % 10 == 9:
            print(f"step {step + 1}/{STEPS}: loss {float(losses.sum()):.2f}", flush=True)
    return model.eval()


if __name__ == "__main__":
    main(*sys.argv[1:])
