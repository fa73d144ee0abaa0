"""Exported files give the network's own maps, or are not kept."""

from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rtnet.export
from rtnet.checkpoint import load_network, save_model
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.export import TOLERANCE, export_model, inputs, largest_difference, maps_of
from rtnet.model.network import build_network
from rtnet.model.rtnet import RTNet
from rtnet.model.transposed_attention import at_once, in_chunks
from tests.networks import random_inputs, random_network

SIZES = ((64, 112), (96, 160))


@pytest.fixture(scope="module")
def small() -> RTNet:
    return random_network("mobilenet_v3_large").float()


@pytest.fixture(scope="module")
def frames(davis480: Path) -> Path:
    return min(path for path in (davis480 / "JPEGImages" / "480p").iterdir() if path.is_dir())


def _run_onnx(path: Path, frames: Tensor, flow: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (maps,) = session.run(["probabilities"], {"frames": frames.numpy(), "flow": flow.numpy()})
    return torch.from_numpy(maps)


def _run_torch(path: Path, frames: Tensor, flow: Tensor) -> Tensor:
    maps: Tensor = torch.export.load(path).module()(frames, flow)
    return maps


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet34", "resnext50_32x4d"])
def test_a_graph_gives_the_networks_maps_at_any_size_and_batch(
    backbone: str, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both formats hold one graph, and to trace it takes longest."""
    monkeypatch.setattr(rtnet.export, "_exported", lru_cache(rtnet.export._exported))
    network = random_network(backbone).float()
    # A size and a batch that neither the export nor its check has seen.
    frames_, flow = (x.float() for x in random_inputs(3, (70, 131)))
    expected = network.predict(frames_, flow)[:, 0].sigmoid()
    for suffix, run in ((".pt2", _run_torch), (".onnx", _run_onnx)):
        output = tmp_path / f"model{suffix}"
        assert export_model(network, output, frames, SIZES) < TOLERANCE
        assert list(tmp_path.iterdir()) == [output]
        maps = run(output, frames_, flow)
        assert maps.shape == (3, 1, 72, 132)
        assert (maps - expected).abs().max() < TOLERANCE
        output.unlink()


def test_what_export_sees_of_the_network_computes_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    network, given = random_network("resnet34"), random_inputs(2)
    expected = network.predict(*given)
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    torch.testing.assert_close(network.predict(*given), expected, rtol=0, atol=1e-9)


def test_transposed_attention_at_once_is_that_in_chunks() -> None:
    query, key, value = torch.randn(3, 2, 3, 41, 8, dtype=torch.float64)
    torch.testing.assert_close(at_once(query, key, value), in_chunks(query, key, value), rtol=0, atol=1e-12)


def test_a_safetensors_export_rebuilds_the_very_network(small: RTNet, frames: Path, tmp_path: Path) -> None:
    output = tmp_path / "new" / "model.safetensors"
    assert export_model(small, output, frames, SIZES) == 0
    again = load_network(output)
    assert again.config == small.config
    (tmp_path / "plain").touch()
    assert output.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert all(torch.equal(again.state_dict()[name], value) for name, value in small.state_dict().items())


def test_a_stream_alone_is_exported_to_safetensors_and_to_nothing_else(tmp_path: Path) -> None:
    stream = build_network(RTNetConfig("mobilenet_v3_large", "motion"))
    assert export_model(stream, tmp_path / "motion.safetensors", sizes=SIZES) == 0
    with pytest.raises(UserError, match=r"motion\.onnx.*stream alone"):
        export_model(stream, tmp_path / "motion.onnx")


def test_an_export_that_gives_other_maps_is_not_kept(
    small: RTNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "model.safetensors"
    output.write_bytes(b"the one before")

    def write_other(_: object, path: Path) -> None:
        save_model(path, build_network(small.config))

    _, opened = rtnet.export._FORMATS[".safetensors"]
    monkeypatch.setitem(rtnet.export._FORMATS, ".safetensors", (write_other, opened))
    with pytest.raises(UserError, match=r"not kept.*above 0\.001"):
        export_model(small, output, sizes=SIZES)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(output.name, b"the one before")]


def test_maps_that_are_no_numbers_do_not_pass(small: RTNet) -> None:
    broken = lambda frames, flow: torch.full((len(frames), 1, *frames.shape[-2:]), torch.nan)  # noqa: E731
    pictures = rtnet.export._pictures(None)
    assert not largest_difference(maps_of(small), broken, inputs(pictures, SIZES[:1])) <= TOLERANCE


@pytest.mark.parametrize("name", ["model", "model.pth"])
def test_an_unknown_suffix_names_those_there_are(small: RTNet, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"\.safetensors, \.pt2 .* \.onnx"):
        export_model(small, tmp_path / name)


def test_a_clip_too_short_or_none_is_refused_before_anything_is_written(
    small: RTNet, frames: Path, tmp_path: Path
) -> None:
    short = tmp_path / "short"
    short.mkdir()
    for path in sorted(frames.iterdir())[:2]:
        (short / path.name).write_bytes(path.read_bytes())
    with pytest.raises(UserError, match=r"short: holds 2 frames"):
        export_model(small, tmp_path / "out" / "model.safetensors", short)
    with pytest.raises(UserError, match="none: no such folder"):
        export_model(small, tmp_path / "out" / "model.safetensors", tmp_path / "none")
    assert not (tmp_path / "out").exists()
