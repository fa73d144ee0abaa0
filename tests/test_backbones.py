"""Every encoder of the shipped sweep is built, trained by a step, saved and loaded."""

from pathlib import Path

import pytest
import torch

from pipelines.sweep import load_sweep, points
from rtnet.checkpoint import load_model, save_model
from rtnet.config import RTNetConfig
from rtnet.model.rtnet import RTNet
from rtnet.training import Batch, make_optimizer, set_rate, train_step

SWEEP, _ = load_sweep(Path(__file__).parents[1] / "experiments" / "sweeps" / "backbones.yaml")
RATE = 1e-12  # so small that the loss falls as its gradient says: the deep encoders' random weights curve it


@pytest.mark.parametrize("backbone", [point["model.backbone"] for point in points(SWEEP)])
def test_an_encoder_is_built_trained_saved_and_loaded(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RTNet(RTNetConfig(backbone)).double()
    frames, flow = torch.randn(1, 2, 3, 64, 96).double(), torch.randn(1, 2, 6, 64, 96).double()
    batch = Batch(frames, flow, torch.rand(1, 2, 1, 64, 96).double().round())
    optimizer = make_optimizer(network, momentum=0.0, weight_decay=0.0)
    set_rate(optimizer, RATE)

    def loss_of_step() -> float:
        torch.manual_seed(1)  # the blocks that ConvNeXt leaves out
        _, appearance, _, motion = train_step(network, optimizer, batch, "float32")
        return float(appearance + motion)

    first = loss_of_step()
    slope = sum(float(p.grad.square().sum()) for p in network.parameters() if p.grad is not None)
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert first - loss_of_step() == pytest.approx(RATE * slope, rel=0.05)

    network.float().zero_grad()
    save_model(tmp_path / "model.safetensors", network)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == network.config
    with torch.no_grad():
        maps = [model.eval().predict(frames.float(), flow.float()) for model in (network, loaded)]
    assert torch.equal(*maps)
