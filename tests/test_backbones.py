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


@pytest.mark.parametrize("backbone", [point["model.backbone"] for point in points(SWEEP)])
def test_an_encoder_is_built_trained_saved_and_loaded(backbone: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = RTNet(RTNetConfig(backbone))
    batch = Batch(torch.randn(1, 2, 3, 64, 96), torch.randn(1, 2, 6, 64, 96), torch.rand(1, 2, 1, 64, 96).round())
    optimizer = make_optimizer(network, momentum=0.0, weight_decay=0.0)
    set_rate(optimizer, 1e-3)
    first = train_step(network, optimizer, batch, "float32")
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert train_step(network, optimizer, batch, "float32").sum() < first.sum()

    network.zero_grad()
    save_model(tmp_path / "model.safetensors", network)
    loaded = load_model(tmp_path / "model.safetensors")
    assert loaded.config == network.config
    assert batch.frames is not None and batch.flow is not None
    with torch.no_grad():
        maps = [model.eval().predict(batch.frames, batch.flow) for model in (network, loaded)]
    assert torch.equal(*maps)
