"""Four gloo workers with a pair each compute what one process with the four pairs does."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from rtnet.config import RTNetConfig
from rtnet.losses import side_map_loss
from rtnet.model.rtnet import RTNet, SideMaps
from rtnet.model.sync_batch_norm import SynchronisedBatchNorm2d, synchronise_batch_norm

WORKERS = 4


def _network() -> RTNet:
    torch.manual_seed(5)
    return RTNet(RTNetConfig("resnet18")).double()


def _inputs() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(6)
    frames = torch.randn(WORKERS, 2, 3, 64, 80).double()
    flow = torch.randn(WORKERS, 2, 6, 64, 80).double()
    masks = (torch.randn(WORKERS, 2, 1, 64, 80) > 0.5).double()
    return frames, flow, masks


def _loss(maps: SideMaps, masks: Tensor) -> Tensor:
    return side_map_loss(maps.appearance, masks) + side_map_loss(maps.motion, masks)


def _work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=WORKERS)
    network = synchronise_batch_norm(_network(), torch.device("cpu"))
    model = DistributedDataParallel(network)
    frames, flow, masks = (x[rank : rank + 1] for x in _inputs())
    loss = _loss(model(frames, flow), masks)
    loss.backward()  # type: ignore[no-untyped-call]
    loss = loss.detach()
    dist.all_reduce(loss)
    if rank == WORKERS - 1:
        gradients = {name: p.grad for name, p in network.named_parameters()}
        torch.save({"loss": loss / WORKERS, "gradients": gradients, "state": network.state_dict()}, f"{folder}/result")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def four_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("workers")
    spawn(_work, (str(folder),), nprocs=WORKERS)  # type: ignore[no-untyped-call]
    result: dict[str, Any] = torch.load(Path(folder) / "result")
    return result


@pytest.mark.slow
def test_four_workers_with_a_pair_each_equal_one_process_with_four_pairs(four_workers: dict[str, Any]) -> None:
    network = _network()
    frames, flow, masks = _inputs()
    loss = _loss(network(frames, flow), masks)
    loss.backward()  # type: ignore[no-untyped-call]

    torch.testing.assert_close(four_workers["loss"], loss.detach(), rtol=1e-12, atol=0)
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None
        error = (four_workers["gradients"][name] - parameter.grad).norm()
        # The keys' biases have no gradient in theory, only rounding.
        assert error <= 1e-9 * parameter.grad.norm() or parameter.grad.norm() < 1e-12, name
    for name, value in network.state_dict().items():
        torch.testing.assert_close(four_workers["state"][name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_synchronised_batch_norm_keeps_the_names_the_parameters_and_the_mode() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3, momentum=0.01))).eval()
    parameters, names = list(plain.parameters()), list(plain.state_dict())
    converted = synchronise_batch_norm(plain, torch.device("cpu"))
    norm = converted[1][0]  # type: ignore[index]
    assert isinstance(norm, SynchronisedBatchNorm2d)
    assert (norm.eps, norm.momentum, norm.training) == (1e-3, 0.01, False)
    assert list(converted.state_dict()) == names
    assert all(a is b for a, b in zip(converted.parameters(), parameters, strict=True))


def test_without_other_workers_it_is_batch_norm() -> None:
    x = torch.randn(3, 4, 5, 6)
    norm, plain = SynchronisedBatchNorm2d(4), nn.BatchNorm2d(4)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.eval()(x), plain.eval()(x))
