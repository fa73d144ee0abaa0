"""Batch inference over a prepared clip, by model actors."""

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from pyarrow import fs

from pipelines import cli, evaluate, predict, prepare, registry, tracking
from pipelines.config import Experiment, validate
from pipelines.dataset import Dataset
from pipelines.storage import open_storage, read_bytes
from rtnet.checkpoint import load_model, save_model
from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.data.flow import dis
from rtnet.data.frames import read_pictures
from rtnet.data.inputs import network_input
from rtnet.data.layouts import read_layout
from rtnet.data.pairs import fixed_partners
from rtnet.data.prediction_pairs import PairRule
from rtnet.errors import UserError
from rtnet.model.rtnet import RTNet
from rtnet.prediction import predict_maps
from rtnet.segmenter import Segmenter

FRAMES = 5
SEQUENCES = ("drift", "turn")


def _experiment(root: Path, clip: dict[str, Any] | None = None, **prediction: Any) -> Experiment:
    sections = {
        "name": "toy",
        "storage": str(root / "runs"),
        "data": {
            "sources": {"clip": clip or {"layout": "davis16", "path": str(root / "clip")}},
            "dataset": str(root / "dataset"),
        },
        "flow": {"preset": "ultrafast"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}], "reach": 2},
        "prediction": {"height": 48, "batch_size": 2, **prediction},
    }
    return validate(sections, "test")


def _save_network(path: Path, dataset: Dataset) -> None:
    """A network whose statistics fit the dataset, so that its maps vary with what it sees, as a trained one's do."""
    torch.manual_seed(0)
    model = RTNet(RTNetConfig("resnet18"))
    torch.nn.init.zeros_(model.get_parameter("appearance.heads.s4.logits.bias"))  # masks neither empty nor full
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    views = [dataset.read(row) for row in dataset.rows("val", views=["as_is"])]
    frames = network_input([view.image for view in views], (48, 84), torch.device("cpu"))
    flow = network_input([view.flow for view in views], (48, 84), torch.device("cpu"))
    with torch.no_grad():
        model(frames.reshape(-1, 2, *frames.shape[1:]), flow.reshape(-1, 2, *flow.shape[1:]))
        model.state_dict()["appearance.heads.s4.logits.bias"] -= 0.4
    save_model(path, model)


@pytest.fixture(scope="module")
def root(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared clip of two sequences and a registered model."""
    root = tmp_path_factory.mktemp("predict")
    write_clip(root / "clip", {"val": SEQUENCES}, frames=FRAMES, height=40, width=70)
    experiment = _experiment(root)
    (root / "model").mkdir()
    prepare.run(experiment)
    _save_network(root / "model" / registry.MODEL_FILE, Dataset(experiment.data.dataset))
    registry.register_model(tracking.start_run(experiment, "toy"), root / "model", "rtnet", "best")
    return root


@pytest.fixture(scope="module")
def output(root: Path) -> Path:
    """The predictions with default options."""
    predict.run(_experiment(root))
    return root / "runs" / "toy" / "predictions"


@pytest.fixture(scope="module")
def expected(root: Path) -> dict[str, np.ndarray]:
    """SEQUENCE/FRAME -> map, one pair at a time in this process."""
    dataset = Dataset(str(root / "dataset"))
    model = load_model(root / "model" / registry.MODEL_FILE).eval()
    rows = dataset.rows("val", views=["as_is"])
    partners = rows[fixed_partners(dataset.groups(rows), 0, 2)]
    maps = {}
    for row, partner in zip(rows.tolist(), partners.tolist(), strict=True):
        views = [dataset.read(row), dataset.read(partner)]
        frames = network_input([view.image for view in views], (48, 84), torch.device("cpu"))
        flow = network_input([view.flow for view in views], (48, 84), torch.device("cpu"))
        facts = dataset.describe(row)
        (maps[f"{facts['sequence']}/{facts['name']}"],) = predict_maps(
            model, frames, flow, torch.tensor([[0, 1]]), [(40, 70)]
        )
    return maps


def _grey(path: Path) -> np.ndarray:
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None
    return np.asarray(picture)


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _same(first: Path, second: Path, levels: int = 1) -> None:
    """The same maps, up to where rounding to levels fell."""
    assert _files(first / "maps") == _files(second / "maps") != []
    for file in _files(first / "maps"):
        assert np.abs(_grey(first / "maps" / file).astype(int) - _grey(second / "maps" / file)).max() <= levels


pytestmark = pytest.mark.ray


def test_maps_and_masks_are_those_of_a_plain_loop_in_one_process(output: Path, expected: dict[str, np.ndarray]) -> None:
    assert len(expected) == len(SEQUENCES) * FRAMES
    assert _files(output / "maps") == _files(output / "masks") == sorted(f"{name}.png" for name in expected)
    for name, map_ in expected.items():
        levels = _grey(output / "maps" / f"{name}.png")
        assert levels.dtype == np.uint8
        assert levels.shape == (40, 70)
        assert np.abs(levels - map_ * 255).max() < 0.5 + 255 * 1e-5
        mask = _grey(output / "masks" / f"{name}.png")
        sure = np.abs(map_ - 0.5) > 1e-5
        assert np.array_equal(mask[sure], 255 * (map_ > 0.5)[sure])


def test_the_maps_tell_frames_apart(expected: dict[str, np.ndarray]) -> None:
    """Else the comparison above would prove little."""
    first, second, *_ = expected.values()
    assert np.abs(first - second).max() > 0.05
    assert 0.01 < (first > 0.5).mean() < 0.99


def test_two_overlays_of_each_sequence_are_written(output: Path) -> None:
    for sequence in SEQUENCES:
        overlays = _files(output / "overlays" / sequence)
        assert len(overlays) == 2
        assert _grey(output / "overlays" / sequence / overlays[0]).shape == (40, 70, 3)


def test_the_index_names_the_version_its_run_and_every_whole_sequence(output: Path, root: Path) -> None:
    index = json.loads((output / "predictions.json").read_text())
    assert index["complete"]
    assert {name: entry["frames"] for name, entry in index["sequences"].items()} == dict.fromkeys(SEQUENCES, FRAMES)
    assert index["model"]["uri"] == "models:/rtnet/1"
    version = registry.resolve_model(index["model"]["tracking"], "rtnet@best")
    assert (index["model"]["run_id"], index["made_by"]["model.digest"]) == (version.run_id, version.digest)
    assert index["dataset"] == Dataset(str(root / "dataset")).digest


def test_batches_and_actors_do_not_change_the_maps(output: Path, root: Path) -> None:
    predict.run(_experiment(root, output=str(root / "other"), batch_size=3, actors=2))
    _same(output, root / "other")


def test_predicting_again_does_nothing_and_says_so(
    output: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {file: (output / file).stat().st_mtime_ns for file in _files(output)}
    predict.run(_experiment(root, batch_size=1))
    assert "nothing to do" in capsys.readouterr().out
    changed = [file for file, time in before.items() if (output / file).stat().st_mtime_ns != time]
    assert changed == []


def test_a_sequence_that_is_not_in_the_index_is_made_again_and_no_other(
    output: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = root / "interrupted"
    shutil.copytree(output, copy)
    index = json.loads((copy / "predictions.json").read_text())
    del index["sequences"]["turn"]
    (copy / "predictions.json").write_text(json.dumps(index | {"complete": False}))
    shutil.rmtree(copy / "masks" / "turn")
    before = {path: path.stat().st_mtime_ns for path in (copy / "masks" / "drift").iterdir()}
    predict.run(_experiment(root, output=str(copy)))
    assert f"predicting {FRAMES} frames" in capsys.readouterr().out
    assert json.loads((copy / "predictions.json").read_text())["complete"]
    assert _files(copy / "masks" / "turn") == _files(output / "masks" / "turn")
    assert {path: path.stat().st_mtime_ns for path in (copy / "masks" / "drift").iterdir()} == before


def test_a_sequence_that_lost_a_file_is_made_again_and_one_that_was_changed_is_not_lost(
    output: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = root / "handled"
    shutil.copytree(output, copy)
    lost, changed = copy / "masks" / "turn" / "00003.png", copy / "maps" / "drift" / "00002.png"
    whole = changed.read_bytes()
    lost.unlink()
    predict.run(_experiment(root, output=str(copy)))
    told = capsys.readouterr().out
    assert "'turn' has lost 1 files" in told and f"predicting {FRAMES} frames" in told
    _same(output, copy)
    changed.write_bytes(b"by hand")
    with pytest.raises(UserError, match=r"maps or masks of 'drift' were changed .*delete .*masks/drift"):
        predict.run(_experiment(root, output=str(copy)))
    assert changed.read_bytes() == b"by hand"
    shutil.rmtree(copy / "masks" / "drift")
    predict.run(_experiment(root, output=str(copy)))
    assert changed.read_bytes() == whole


def test_another_model_or_option_in_the_same_output_is_refused_by_name(output: Path, root: Path) -> None:
    before = (output / "predictions.json").read_bytes()
    other = root / "other.safetensors"
    save_model(other, RTNet(RTNetConfig("resnet18")))
    with pytest.raises(UserError, match=r"model\.digest models:/rtnet/1, .*other\.safetensors"):
        predict.run(_experiment(root, model=str(other)))
    with pytest.raises(UserError, match=r"prediction\.threshold 0\.5, now asked for with 0\.25"):
        predict.run(_experiment(root, threshold=0.25))
    assert (output / "predictions.json").read_bytes() == before


def test_a_missing_alias_a_missing_file_or_a_missing_gpu_is_one_line_and_writes_nothing(root: Path) -> None:
    target = root / "nothing"
    with pytest.raises(UserError, match=r"no alias 'worst'.*1 \(best\)"):
        predict.run(_experiment(root, output=str(target), model="models:/rtnet@worst"))
    with pytest.raises(UserError, match=r"nowhere\.safetensors"):
        predict.run(_experiment(root, output=str(target), model=str(root / "nowhere.safetensors")))
    with pytest.raises(UserError, match=r"split 'test'"):
        predict.run(_experiment(root, output=str(target), split="test"))
    assert not target.exists()
    with pytest.raises(UserError, match=r"prediction\.actors=99 and the cluster has \d+ CPUs"):
        predict.run(_experiment(root, output=str(target), actors=99))
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="1 GPUs, and the cluster has 0"):
            predict.run(_experiment(root, output=str(target), gpus_per_actor=1.0))
    assert not (target / "masks").exists()


def test_what_an_actor_finds_wrong_with_the_dataset_is_one_line(root: Path) -> None:
    copy = root / "damaged"
    shutil.copytree(root / "dataset", copy)
    (part,) = (copy / "parts").rglob("turn/00000.parquet")
    part.unlink()
    experiment = _experiment(root, output=str(root / "half"), batch_size=1)
    experiment = experiment.model_copy(update={"data": experiment.data.model_copy(update={"dataset": str(copy)})})
    with pytest.raises(UserError, match=r"turn/00000\.parquet"):
        predict.run(experiment)
    assert not json.loads((root / "half" / "predictions.json").read_text())["complete"]


def test_frames_that_nobody_prepared_have_the_maps_of_the_dataset_and_changed_ones_are_predicted_again(
    output: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip, target = root / "unprepared", root / "of-files"
    shutil.copytree(root / "clip", clip)
    experiment = _experiment(
        root, {"layout": "davis16", "path": str(clip)}, output=str(target), input="sources", batch_size=3
    )
    predict.run(experiment)
    _same(output, target)
    assert [len(_files(target / "overlays" / sequence)) for sequence in SEQUENCES] == [2, 2]
    rows, same = (pq.read_table(str(folder / "statistics")) for folder in (target, output))
    assert rows["name"] == same["name"]
    assert np.allclose(rows["mean"], same["mean"], atol=1e-5)
    kept = (target / "maps" / "drift" / "00000.png").stat().st_mtime_ns
    pictures = clip / "JPEGImages" / "480p"
    shutil.copy(pictures / "drift" / "00000.jpg", pictures / "turn" / "00003.jpg")
    capsys.readouterr()
    predict.run(experiment)
    assert f"predicting {FRAMES} frames" in capsys.readouterr().out
    assert (target / "maps" / "drift" / "00000.png").stat().st_mtime_ns == kept


def test_an_object_store_holds_the_same_predictions_and_scores_as_a_disk(
    output: Path, root: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def experiment(storage: str) -> Experiment:
        sections = _experiment(root).model_dump(mode="json") | {"storage": storage}
        dataset = {"dataset": f"{bucket}/predict/dataset"} if storage != str(root / "runs") else {}
        sections["data"] |= dataset
        sections["tracking"]["uri"] = f"sqlite:///{root}/runs/mlflow.db"
        return validate(sections, "test")

    remote, local = experiment(f"{bucket}/predict/runs"), experiment(str(root / "runs"))
    for verb in (prepare, predict, evaluate):
        verb.run(remote)
    evaluate.run(local)
    predict.run(remote)
    assert "nothing to do" in capsys.readouterr().out
    system, place = open_storage(f"{bucket}/predict/runs/toy")
    found = system.get_file_info(fs.FileSelector(place, recursive=True))
    there = {info.path.removeprefix(f"{place}/") for info in found if info.type == fs.FileType.File}
    assert there == {f"predictions/{name}" for name in _files(output)} | {
        "evaluation/scores.csv",
        "evaluation/scores.json",
    }
    for name in there - {"evaluation/scores.json"}:
        assert read_bytes(system, f"{place}/{name}") == (root / "runs" / "toy" / name).read_bytes(), name
    assert cli.main(["report", f"{bucket}/predict/runs/toy/evaluation", "--output", f"{bucket}/report.html"]) == 0
    assert b"toy" in read_bytes(*open_storage(f"{bucket}/report.html"))


def test_the_statistics_say_of_every_frame_what_its_map_and_mask_say(
    output: Path, expected: dict[str, np.ndarray]
) -> None:
    rows = pq.read_table(str(output / "statistics")).to_pylist()
    assert [f"{row['sequence']}/{row['name']}" for row in rows] == list(expected)
    for row in rows:
        map_ = expected[f"{row['sequence']}/{row['name']}"]
        mask = _grey(output / "masks" / row["sequence"] / f"{row['name']}.png") > 0
        where = np.argwhere(mask)
        assert row["mean"] == pytest.approx(map_.mean(), abs=1e-5)
        assert row["area"] == pytest.approx(mask.mean(), abs=1e-6)
        assert (row["top"], row["left"]) == tuple(where.min(axis=0))
        assert (row["bottom"], row["right"]) == tuple(where.max(axis=0))


def test_several_partners_and_flips_are_those_of_the_segmenter(root: Path) -> None:
    """Whose maps tests/test_segmenter.py compares with a plain loop's."""
    target, views = root / "mean", ["as_is", "vertical"]
    predict.run(_experiment(root, output=str(target), partners=2, views=views))
    model = load_model(root / "model" / registry.MODEL_FILE).eval()
    segmenter = Segmenter(
        model, torch.device("cpu"), PairRule(2, 2), tuple(views), (48, 84), estimator=dis("ultrafast")
    )
    for sequence in read_layout("davis16", root / "clip", "clip"):
        for frame, map_ in zip(sequence.frames, segmenter.segment(read_pictures(sequence)), strict=True):
            levels = _grey(target / "maps" / sequence.name / f"{frame.name}.png")
            assert np.abs(levels - map_ * 255).max() < 0.5 + 255 * 1e-5


def test_a_list_of_videos_is_predicted_and_a_broken_one_is_left_out_by_name(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos, target = root / "videos", root / "of-videos"
    videos.mkdir()
    for name in ("first", "second"):
        writer = cv2.VideoWriter(str(videos / f"{name}.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (70, 40))
        for file in sorted((root / "clip" / "JPEGImages" / "480p" / "drift").iterdir()):
            writer.write(np.asarray(cv2.imread(str(file))))
        writer.release()
    (videos / "broken.avi").write_bytes(b"no video")
    (root / "list.txt").write_text("videos/first.avi\n\nvideos/broken.avi\n")
    source = {"layout": "video", "path": str(root / "list.txt"), "split": "val"}
    with pytest.raises(UserError, match=r"sequence 'broken'.*broken\.avi.*on_error=skip"):
        predict.run(_experiment(root, source, output=str(target), input="sources"))
    assert not target.exists()
    predict.run(_experiment(root, source, output=str(target), input="sources", on_error="skip"))
    assert "left out: broken: " in capsys.readouterr().out
    assert _files(target / "masks") == [f"first/{number:05d}.png" for number in range(FRAMES)]
    index = json.loads((target / "predictions.json").read_text())
    assert list(index["skipped"]) == ["broken"]
    assert index["complete"]
