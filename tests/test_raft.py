"""RAFT is torchvision's, with each frame's features computed once; its weights come from anywhere they are kept."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import optical_flow

from experiments.benchmarks import flow as benchmark
from rtnet.data.raft import raft
from rtnet.errors import UserError

Picture = NDArray[np.uint8]
BUILD = {"large": optical_flow.raft_large, "small": optical_flow.raft_small}


def _textured(height: int, width: int, seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).random((height // 6 + 2, width // 6 + 2, 3)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255, np.uint8)


def _weights(size: str, path: Path) -> Path:
    torch.manual_seed(0)
    torch.save(BUILD[size](weights=None).state_dict(), path)
    return path


def _plain(model: nn.Module, first: Picture, second: Picture) -> NDArray[np.float32]:
    """One call of torchvision's network, as its documentation shows."""
    height, width = first.shape[:2]
    below, beside = max(-height % 8, 128 - height), max(-width % 8, 128 - width)
    padded = [np.pad(frame, ((0, below), (0, beside), (0, 0)), mode="edge") for frame in (first, second)]
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 127.5 - 1 for frame in padded]
    with torch.inference_mode():
        flow: torch.Tensor = model(*tensors)[-1][0].permute(1, 2, 0)[:height, :width]
    return flow.numpy()


@pytest.mark.parametrize(("size", "batch"), [("small", 1), ("small", 3), ("large", 3)])
def test_shared_features_give_the_flow_of_two_plain_calls(size: str, batch: int, tmp_path: Path) -> None:
    path = _weights(size, tmp_path / "weights.pth")
    model = BUILD[size](weights=None).eval()
    model.load_state_dict(torch.load(path, weights_only=True))
    scene = _textured(150, 190)
    frames = [np.ascontiguousarray(scene[i : 130 + i, 3 * i : 170 + 3 * i]) for i in range(5)]
    flows = list(raft(size, str(path), batch=batch).flows(frames))
    assert len(flows) == 4
    for place, (forth, back) in enumerate(flows):
        for flow, pair in ((forth, frames[place : place + 2]), (back, frames[place : place + 2][::-1])):
            expected = _plain(model, *pair)
            assert np.abs(expected).max() > 1
            assert np.abs(flow - expected).max() < 1e-4


def test_features_are_computed_once_for_each_frame(small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = raft("small", str(small_weights), updates=1, batch=2)
    counts = {"feature_encoder": 0, "context_encoder": 0}
    for name in counts:

        def count(module: nn.Module, inputs: tuple[torch.Tensor], name: str = name) -> None:
            counts[name] += len(inputs[0])

        getattr(estimator.model, name).register_forward_pre_hook(count)
    assert len(list(estimator.flows([_textured(128, 128, n) for n in range(6)]))) == 5
    assert counts == {"feature_encoder": 6, "context_encoder": 6}


def test_frames_are_read_a_batch_at_a_time(small_weights: Path) -> None:
    read: list[int] = []

    def reading() -> Iterator[Picture]:
        for number in range(50):
            read.append(number)
            yield _textured(128, 128, number)

    next(raft("small", str(small_weights), updates=1, batch=3).flows(reading()))
    assert len(read) == 4


def test_half_precision_comes_close(small_weights: Path) -> None:
    frames = [_textured(128, 136)[:, 2 * n :][:, :128].copy() for n in range(2)]
    ((exact, _),) = raft("small", str(small_weights)).flows(frames)
    ((close, _),) = raft("small", str(small_weights), precision="bfloat16").flows(frames)
    assert close.dtype == np.float32 and not np.array_equal(close, exact)
    assert np.median(np.abs(close - exact)) < 0.05 * np.abs(exact).max()


# The published names, written out: (ours, theirs) of one layer of each kind.
BLOCK = {
    "convnormrelu1.0": "conv1",
    "convnormrelu2.0": "conv2",
    "convnormrelu3.0": "conv3",
    "downsample.0": "downsample.0",
}
BLOCK |= {"convnormrelu1.1": "norm1", "convnormrelu2.1": "norm2", "downsample.1": "downsample.1"}
UPDATE = {
    "update_block.motion_encoder.convcorr1.0": "update_block.encoder.convc1",
    "update_block.motion_encoder.convcorr2.0": "update_block.encoder.convc2",
    "update_block.motion_encoder.convflow1.0": "update_block.encoder.convf1",
    "update_block.motion_encoder.convflow2.0": "update_block.encoder.convf2",
    "update_block.motion_encoder.conv.0": "update_block.encoder.conv",
    "update_block.flow_head.conv1": "update_block.flow_head.conv1",
    "update_block.flow_head.conv2": "update_block.flow_head.conv2",
    "mask_predictor.convrelu.0": "update_block.mask.0",
    "mask_predictor.conv": "update_block.mask.2",
}


def _published(size: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict as the paper's authors keep it."""
    found = {}
    for name, value in state.items():
        layer, entry = name.rsplit(".", 1)
        parts = layer.split(".")
        if parts[0] in ("feature_encoder", "context_encoder"):
            encoder = {"feature_encoder": "fnet", "context_encoder": "cnet"}[parts[0]]
            outer = {"convnormrelu.0": "conv1", "convnormrelu.1": "norm1", "conv": "conv2"}.get(".".join(parts[1:]))
            published = f"{encoder}.{outer or '.'.join([*parts[1:3], BLOCK['.'.join(parts[3:])]])}"
            if published.endswith("downsample.1"):  # they hold it twice
                found[f"module.{published.replace('downsample.1', 'norm3')}.{entry}"] = value
        elif "convgru" in layer:
            number = "" if size == "small" else parts[2][-1]
            published = f"update_block.gru.{parts[3]}{number}"
        else:
            published = UPDATE[layer]
        found[f"module.{published}.{entry}"] = value
    return found


@pytest.mark.parametrize("size", ["small", "large"])
def test_published_checkpoints_load(size: str, tmp_path: Path) -> None:
    state = torch.load(_weights(size, tmp_path / "ours.pth"), weights_only=True)
    published = _published(size, state)
    assert len(published) >= len(state)
    torch.save(published, tmp_path / "raft-things.pth")
    loaded = raft(size, str(tmp_path / "raft-things.pth")).model.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_weights_are_fetched_from_a_url_once(
    small_weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    first = raft("small", small_weights.as_uri())
    (kept,) = (tmp_path / "hub").rglob("*.pth")
    modified = kept.stat().st_mtime_ns
    assert raft("small", small_weights.as_uri()).digest == first.digest == raft("small", str(small_weights)).digest
    assert kept.stat().st_mtime_ns == modified
    with pytest.raises(UserError, match=r"absent\.pth could not be downloaded"):
        raft("small", (tmp_path / "absent.pth").as_uri())


@pytest.mark.parametrize("option", [{"updates": 3}, {"precision": "bfloat16"}])
def test_the_digest_tells_options_and_weights_apart_but_not_batches(
    option: dict[str, object], small_weights: Path, tmp_path: Path
) -> None:
    usual = raft("small", str(small_weights))
    assert raft("small", str(small_weights), **option).digest != usual.digest  # type: ignore[arg-type]
    assert raft("small", str(small_weights), batch=7).digest == usual.digest
    other = torch.load(small_weights, weights_only=True)
    next(iter(other.values())).add_(1)
    torch.save(other, tmp_path / "other.pth")
    assert raft("small", str(tmp_path / "other.pth")).digest != usual.digest
    assert pickle.loads(pickle.dumps(usual)).digest == usual.digest


@pytest.mark.slow
def test_the_benchmark_of_flow_runs_and_ends_with_its_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--height", "128", "--frames", "3", "--rounds", "1", "--updates", "2"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine RAFT's threads mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _weights("small", tmp_path_factory.mktemp("raft") / "small.pth")


@pytest.mark.parametrize("size", [(128, 136), (131, 90)])
def test_raft_gives_what_torchvision_gives_for_frames_padded_to_its_sizes(
    small_weights: Path, size: tuple[int, int]
) -> None:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    height, width = size
    first, second = _textured(height, width, 1), _textured(height, width, 2)
    model = raft_small(weights=None).eval()
    model.load_state_dict(torch.load(small_weights, weights_only=True))
    below, beside = max(-height % 8, 128 - height), max(-width % 8, 128 - width)
    padded = [np.pad(frame, ((0, below), (0, beside), (0, 0)), mode="edge") for frame in (first, second)]
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in padded]
    with torch.inference_mode():
        expected = model(*Raft_Small_Weights.DEFAULT.transforms()(*tensors))[-1][0].permute(1, 2, 0)
    ((flow, _),) = raft("small", str(small_weights)).flows([first, second])
    assert flow.dtype == np.float32
    assert flow.shape == (height, width, 2)
    torch.testing.assert_close(torch.from_numpy(flow), expected[:height, :width], atol=1e-4, rtol=1e-4)


def _no_network(*arguments: object, **options: object) -> None:
    raise URLError("no route to host")


def test_weights_that_cannot_be_downloaded_are_an_error_that_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    for size, weights, entry in (
        ("large", None, Raft_Large_Weights.DEFAULT),
        ("small", "default", Raft_Small_Weights.DEFAULT),
        ("large", "C_T_V1", Raft_Large_Weights.C_T_V1),
    ):
        with pytest.raises(UserError, match="no route to host") as error:
            raft(size, weights)
        assert entry.url in str(error.value)
        assert "path" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_download_by_name_is_fetched_once_with_its_checksum_and_then_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_weights: Path
) -> None:
    from torchvision.models.optical_flow import Raft_Small_Weights

    calls = []

    def fetch(url: str, path: str, checksum: str | None, progress: bool) -> None:
        calls.append((url, checksum))
        Path(path).write_bytes(small_weights.read_bytes())

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    by_name, again = raft("small", "c_t_v2"), raft("small")
    url = Raft_Small_Weights.C_T_V2.url
    assert calls == [(url, url.removesuffix(".pth").split("-")[-1])]
    assert by_name.digest == again.digest == raft("small", str(small_weights)).digest


def test_a_weights_file_that_is_missing_broken_or_of_another_network_is_named(
    tmp_path: Path, small_weights: Path
) -> None:
    (tmp_path / "noise.pth").write_bytes(b"noise")
    torch.save([1, 2], tmp_path / "list.pth")
    for size, path, reason in (
        ("small", tmp_path / "absent.pth", "no such file"),
        ("small", tmp_path / "noise.pth", "can't read"),
        ("small", tmp_path / "list.pth", "not weights of raft_small"),
        ("large", small_weights, "not weights of raft_large"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            raft(size, str(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_weights_that_would_run_code_are_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Touch()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="can't read"):
        raft("small", str(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()


def test_an_unknown_raft_is_refused() -> None:
    with pytest.raises(UserError, match="'huge': one of large, small"):
        raft("huge")
