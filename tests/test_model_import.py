"""Files into the registry and models out of it: by `rtnet models`, by Python, by plain MLflow; nothing runs code."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import rtnet
from pipelines import cli, models, registry
from rtnet.checkpoint import load_network, save_model
from rtnet.config import RTNetConfig
from rtnet.errors import UserError
from rtnet.model.network import build_network
from rtnet.model.stream import Stream
from rtnet.weights import to_published
from tests.networks import random_network


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store that is not there yet."""
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/runs/mlflow.db"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "ours.safetensors"
    save_model(path, random_network("mobilenet_v3_large").float())
    return path


@pytest.fixture
def imported(uri: str, file: Path) -> registry.ModelVersion:
    assert cli.main(["models", "import", str(file), "--name", "mine", "--tracking", uri]) == 0
    return registry.resolve_model(uri, "mine/1")


@pytest.fixture
def tampered(uri: str, imported: registry.ModelVersion, tmp_path: Path) -> Iterator[registry.ModelVersion]:
    """Its file changed by one byte where it is stored."""
    root = Path(uri.removeprefix("sqlite:///")).parent
    (kept,) = root.rglob(f"{imported.digest[:12]}/{registry.MODEL_FILE}")
    with kept.open("r+b") as stored:
        stored.seek(-1, os.SEEK_END)
        last = stored.read(1)
        stored.seek(-1, os.SEEK_END)
        stored.write(bytes([last[0] ^ 1]))
        stored.flush()
        yield imported
        stored.seek(-1, os.SEEK_END)
        stored.write(last)


def _clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (3, 24, 40, 3), np.uint8)


def test_the_same_file_is_registered_once(
    uri: str, file: Path, imported: registry.ModelVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["models", "import", str(file), "--name", "mine", "--alias", "champion", "--tracking", uri]
    assert cli.main(words) == 0
    assert "nothing new" in capsys.readouterr().out
    (only,) = registry.list_versions(uri, "mine")
    assert (only.aliases, only.tags["origin"]) == (("champion",), "ours.safetensors")
    assert only.tags["origin.sha256"] == registry.file_digest(file)
    assert (only.tags["backbone"], only.tags["streams"]) == ("mobilenet_v3_large", "both")


def test_an_alias_that_another_version_has_is_left_to_promote(
    uri: str, file: Path, imported: registry.ModelVersion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_alias(uri, imported, "held")
    other = tmp_path / "other.safetensors"
    save_model(other, build_network(RTNetConfig("mobilenet_v3_large")))
    assert cli.main(["models", "import", str(other), "--name", "mine", "--alias", "held", "--tracking", uri]) == 2
    assert "promote" in capsys.readouterr().err
    assert len(registry.list_versions(uri, "mine")) == 1


def test_a_stream_goes_to_a_model_of_its_own(uri: str, tmp_path: Path) -> None:
    path = tmp_path / "motion.safetensors"
    save_model(path, build_network(RTNetConfig("mobilenet_v3_large", "motion")))
    assert cli.main(["models", "import", str(path), "--name", "parts", "--tracking", uri]) == 0
    assert registry.resolve_model(uri, "parts-motion/1").tags["streams"] == "motion"


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--name", "a/b", "--name 'a/b': a model's name is of letters a-z, digits, '.', '_', '-' and spaces"),
        ("--name", "a:b", "--name 'a:b': "),
        ("--name", "a@b", "--name 'a@b': "),
        ("--name", "", "--name '': "),
        ("--alias", "bad alias!", "--alias 'bad alias!': an alias is of letters, digits, '_' and '-'"),
        ("--alias", "latest", "--alias 'latest': MLflow keeps 'latest'"),
    ],
)
def test_a_name_that_mlflow_does_not_take_is_told_before_the_file_is_read(
    uri: str, option: str, value: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["models", "import", "none.pth", option, value, "--tracking", uri]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rtnet models: {said}")


@pytest.mark.slow
def test_a_published_stream_is_imported_to_the_last_bit(uri: str, tmp_path: Path) -> None:
    stream = Stream("resnet34", 3)
    torch.save({f"module.{name}": value for name, value in to_published(stream).items()}, tmp_path / "spatial_R34.pth")
    assert cli.main(["models", "import", str(tmp_path / "spatial_R34.pth"), "--tracking", uri]) == 0
    found = registry.resolve_model(uri, "rtnet-appearance/1")
    again = load_network(registry.download_model(uri, found, tmp_path)).state_dict()
    assert all(torch.equal(again[name], value) for name, value in stream.state_dict().items())


def test_files_that_hold_code_or_are_damaged_are_refused_in_one_line(
    uri: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"state_dict": Trap()}, tmp_path / "code.pth")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:-100])
    (tmp_path / "graph.onnx").write_bytes(b"\x08\x0a")
    for name in ("code.pth", "cut.safetensors", "graph.onnx", "none.pth"):
        assert cli.main(["models", "import", str(tmp_path / name), "--name", "refused", "--tracking", uri]) == 2
        said = capsys.readouterr().err
        assert name in said and len(said.splitlines()) == 1
        assert ("export for ONNX Runtime" in said and ".safetensors" in said) == (name == "graph.onnx")
    assert not (tmp_path / "ran").exists()
    if Path(uri.removeprefix("sqlite:///")).exists():
        assert "refused" not in registry.model_names(uri)


def test_python_and_plain_mlflow_give_the_maps_of_the_file(
    uri: str, file: Path, imported: registry.ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    clip = _clip()
    expected = np.stack(list(rtnet.load(file, "cpu", height=96).segment(clip)))
    assert np.array_equal(np.stack(list(models.load("models:/mine/1", uri, "cpu", height=96).segment(clip))), expected)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    mlflow.set_tracking_uri(uri)
    try:
        loaded = mlflow.pyfunc.load_model("models:/mine/1", model_config={"height": 96})
    finally:
        mlflow.set_tracking_uri(None)
    assert np.array_equal(loaded.predict(clip), expected)
    (given,), (made,) = loaded.metadata.signature.inputs.inputs, loaded.metadata.signature.outputs.inputs
    assert (given.shape, given.type, made.shape, made.type) == ((-1, -1, -1, 3), np.uint8, (-1, -1, -1), np.float32)
    with pytest.raises(mlflow.exceptions.MlflowException):
        loaded.predict(clip.astype(np.float32))


def test_a_version_holds_no_pickle(uri: str, imported: registry.ModelVersion) -> None:
    root = Path(uri.removeprefix("sqlite:///")).parent
    (folder,) = root.rglob(f"models/{imported.digest[:12]}")
    names = {path.name for path in folder.rglob("*")}
    assert names == {"MLmodel", "model.safetensors", "pyfunc_model.py", "requirements.txt"}


def test_a_tampered_file_is_refused_whoever_loads_it(
    uri: str, tampered: registry.ModelVersion, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    with pytest.raises(UserError, match=r"models:/mine/1.*changed"):
        models.load("mine/1", uri)
    assert cli.main(["models", "export", "mine/1", str(tmp_path / "out.safetensors"), "--tracking", uri]) == 2
    assert "changed" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    mlflow.set_tracking_uri(uri)
    try:
        with pytest.raises(ValueError, match="the file was changed"):
            mlflow.pyfunc.load_model("models:/mine/1")
    finally:
        mlflow.set_tracking_uri(None)


@pytest.mark.slow
def test_an_export_of_a_version_is_its_network(
    uri: str, file: Path, imported: registry.ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rtnet.export.SIZES", ((64, 112),))
    output = tmp_path / "out.safetensors"
    assert cli.main(["models", "export", "mine/1", str(output), "--tracking", uri]) == 0
    again, first = load_network(output), load_network(file)
    assert again.config == first.config
    assert all(torch.equal(again.state_dict()[name], value) for name, value in first.state_dict().items())
