"""The network learns: a short training on two real sequences segments its own frames."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rtnet.config import RTNetConfig
from rtnet.data.flow import dis, neighbour_flows
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import decode_annotation, decode_image
from rtnet.data.inputs import network_input
from rtnet.data.layouts import Sequence, read_layout
from rtnet.data.pairs import epoch_pairs
from rtnet.metrics import region_similarity
from rtnet.model.rtnet import RTNet
from rtnet.prediction import predict_maps
from rtnet.training import make_batch, make_optimizer, set_rate, train_step

SIZE = (64, 112)
STEPS, BATCH, FRAMES = 60, 5, 8


def _views(sequence: Sequence, count: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    frames = sequence.frames[:count]
    images = [decode_image(frame.image.read_bytes()) for frame in frames]
    masks = [decode_annotation(frame.annotation.read_bytes()) for frame in frames if frame.annotation is not None]
    flows = []
    for image, *pair in neighbour_flows(images, dis("fast"), height=SIZE[0]):
        black = np.zeros((SIZE[0], round(image.shape[1] * SIZE[0] / image.shape[0]), 3), np.uint8)
        flows.append(np.concatenate([black if f is None else flow_picture(f) for f in pair], axis=2))
    return list(zip(images, flows, masks, strict=True))


@pytest.mark.slow
def test_sixty_steps_on_two_sequences_reach_a_region_similarity_of_080_on_their_own_frames(davis480: Path) -> None:
    known = {sequence.name: sequence for sequence in read_layout("davis16", davis480, "davis16")}
    names = ["car-shadow", "motocross-jump"] if "car-shadow" in known else list(known)[:2]
    parts = [_views(known[name], FRAMES) for name in names]
    views = [view for part in parts for view in part]
    groups = np.repeat(np.arange(len(parts)), [len(part) for part in parts])

    torch.manual_seed(0)
    model = RTNet(RTNetConfig("resnet18"))
    optimizer = make_optimizer(model, momentum=0.9, weight_decay=5e-4)
    device = torch.device("cpu")
    pairs = np.concatenate([epoch_pairs(groups, 0, epoch) for epoch in range(STEPS * BATCH // len(views) + 1)])
    model.train()
    for step in range(STEPS):
        set_rate(optimizer, 0.025 * min(1.0, (step + 1) / 5, (STEPS - step) / 25))
        chosen = [views[row] for row in pairs[step * BATCH : (step + 1) * BATCH].reshape(-1)]
        images, flows, masks = zip(*chosen, strict=True)
        losses = train_step(model, optimizer, make_batch(images, flows, masks, SIZE, device), "float32")
        assert losses.isfinite().all()

    model.eval()
    partners = dict(epoch_pairs(groups, 1, 0).tolist())
    scores = []
    for row, (image, flow_pictures, mask) in enumerate(views):
        pair = [(image, flow_pictures), views[partners[row]][:2]]
        frames = network_input([view[0] for view in pair], SIZE, device)
        flow = network_input([view[1] for view in pair], SIZE, device)
        (map_,) = predict_maps(model, frames, flow, torch.tensor([[0, 1]]), [image.shape[:2]])
        scores.append(region_similarity(map_ > 0.5, mask))
    assert np.mean(scores) > 0.8
