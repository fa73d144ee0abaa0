"""Scores of a folder of masks against a clip's annotations."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from pipelines import evaluate, tracking
from pipelines.config import Experiment, validate
from pipelines.scoring import Job, score_sequence
from rtnet.data.clip import write_clip
from rtnet.data.layouts import read_layout
from rtnet.errors import UserError
from rtnet.metrics import SaliencyMeasures, contour_accuracy, region_similarity

FRAMES = 6
SIZE = (40, 70)
SEQUENCES = ("drift", "turn")


def _experiment(root: Path, sequences: list[str] | None = None, split: str = "val", **evaluation: Any) -> Experiment:
    sections = {
        "name": "toy",
        "storage": str(root / "runs"),
        "data": {
            "sources": {"clip": {"layout": "davis16", "path": str(root / "clip"), "sequences": sequences}},
            "dataset": "none",
        },
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        "evaluation": {"split": split, **evaluation},
    }
    return validate(sections, "test")


def _annotation(root: Path, sequence: str, frame: str) -> np.ndarray:
    picture = cv2.imread(str(root / "clip" / "Annotations" / "480p" / sequence / f"{frame}.png"), 0)
    assert picture is not None
    return np.asarray(picture) > 127


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, and the predictions of a method that is shifted and noisy."""
    root = tmp_path_factory.mktemp("evaluate")
    write_clip(root / "clip", {"train": ["other"], "val": SEQUENCES}, frames=FRAMES, height=SIZE[0], width=SIZE[1])
    rng = np.random.default_rng(0)
    for sequence in SEQUENCES:
        for number in range(FRAMES):
            truth = _annotation(root, sequence, f"{number:05d}")
            map_ = np.clip(0.7 * np.roll(truth, number, axis=1) + 0.4 * rng.random(SIZE), 0, 1)
            for kind, picture in (
                ("maps", (255 * map_).astype(np.uint8)),
                ("masks", (map_ > 0.5).astype(np.uint8) * np.uint8(255)),
            ):
                folder = root / "predictions" / kind / sequence
                folder.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / f"{number:05d}.png"), picture)
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(made, tmp_path / "copy", ignore=shutil.ignore_patterns("runs")))


def _job(root: Path, maps: bool = True) -> Job:
    (sequence,) = read_layout("davis16", root / "clip", "davis16", None, ["turn"])
    predictions = root / "predictions"
    return Job(sequence, str(predictions / "masks"), str(predictions / "maps") if maps else None, 0.5)


def _result(job: Job) -> dict[str, Any]:
    found = score_sequence(job)
    assert found["error"] == ""
    return dict(json.loads(found["result"]))


@pytest.mark.ray
def test_the_scores_are_those_of_the_measures_called_directly(
    made: Path, local_ray: None, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate.run(_experiment(made, masks=str(made / "predictions" / "masks")))
    told = capsys.readouterr().out
    folder = made / "runs" / "toy" / "evaluation"
    scores = json.loads((folder / "scores.json").read_text())
    for sequence in SEQUENCES:
        saliency = SaliencyMeasures()
        for number in range(FRAMES):
            truth = _annotation(made, sequence, f"{number:05d}")
            map_, mask = (
                cv2.imread(str(made / "predictions" / kind / sequence / f"{number:05d}.png"), 0)
                for kind in ("maps", "masks")
            )
            saliency.add(np.asarray(map_), truth)
            kept = scores["frames"][sequence].get(f"{number:05d}")
            if number in (0, FRAMES - 1):
                assert kept is None
            else:
                found = np.asarray(mask) > 127
                assert kept == {"J": region_similarity(found, truth), "F": contour_accuracy(found, truth)}
        (row,) = (row for row in scores["scores"] if row["sequence"] == sequence)
        assert row["J mean"] == pytest.approx(np.mean([frame["J"] for frame in scores["frames"][sequence].values()]))
        assert {key: row[key] for key in saliency.results()} == pytest.approx(saliency.results())
    of_set = scores["scores"][-1]
    for key in ("J mean", "F decay", "mae"):
        assert of_set[key] == pytest.approx(np.mean([row[key] for row in scores["scores"][:-1]]))
    with (folder / "scores.csv").open() as file:
        assert [float(row["F mean"]) for row in csv.DictReader(file)] == [row["F mean"] for row in scores["scores"]]
    assert f"saliency on {made / 'predictions' / 'maps'}" in told
    assert f"{of_set['J mean']:.3f}" in told
    assert str(folder) in told
    _check_logged_to_a_run_of_its_own(made, of_set["J mean"])


def _check_logged_to_a_run_of_its_own(made: Path, region: float) -> None:
    client = MlflowClient(tracking.tracking_uri(_experiment(made)))
    (run,) = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    assert run.info.run_name == "toy-evaluation"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["evaluation/val/J mean"] == pytest.approx(region)
    artifacts = {entry.path for entry in client.list_artifacts(run.info.run_id, "evaluation/val")}
    assert artifacts == {"evaluation/val/scores.csv", "evaluation/val/scores.json"}


@pytest.mark.ray
def test_scores_of_predictions_go_to_the_run_of_their_model(made: Path, local_ray: None) -> None:
    experiment = _experiment(made)
    predictions = made / "runs" / "toy" / "predictions"
    shutil.copytree(made / "predictions", predictions)
    trained = tracking.start_run(experiment, "training")
    model = {"uri": "models:/rtnet/1", "run_id": trained.run_id, "tracking": trained.uri}
    (predictions / "predictions.json").write_text(json.dumps({"model": model, "complete": True}))
    evaluate.run(experiment)
    assert 0 < MlflowClient(trained.uri).get_run(trained.run_id).data.metrics["evaluation/val/F mean"] < 1


@pytest.mark.ray
def test_an_oddly_sized_mask_is_named_and_nothing_is_written(root: Path, local_ray: None) -> None:
    cv2.imwrite(str(root / "predictions" / "masks" / "turn" / "00003.png"), np.zeros((41, 70), np.uint8))
    with pytest.raises(UserError, match=r"turn/00003\.png has 70 x 41 pixels, its annotation 70 x 40"):
        evaluate.run(_experiment(root, masks=str(root / "predictions" / "masks")))
    assert not (root / "runs").exists()


def _refused(root: Path, match: str, **options: Any) -> None:
    with pytest.raises(UserError, match=match):
        evaluate.run(_experiment(root, **{"masks": str(root / "predictions" / "masks"), **options}))
    assert not (root / "runs" / "toy" / "evaluation").exists()
    assert not (root / "runs" / "mlflow.db").exists()


def test_a_missing_mask_is_named(root: Path) -> None:
    (root / "predictions" / "masks" / "drift" / "00005.png").unlink()
    _refused(root, r"drift/00005\.png is missing:")


def test_a_missing_sequence_is_named_with_how_much_is_missing(root: Path) -> None:
    shutil.rmtree(root / "predictions" / "masks" / "turn")
    _refused(root, r"turn/00000\.png is missing, and 5 more")


@pytest.mark.parametrize("extra", ["turn/00006.png", "turn/00001.jpg", "another/00000.png", "notes.txt"])
def test_a_file_that_belongs_to_no_frame_is_named(root: Path, extra: str) -> None:
    path = root / "predictions" / "masks" / extra
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    _refused(root, rf"{extra} belongs to no frame")


def test_a_missing_map_beside_whole_masks_is_named(root: Path) -> None:
    (root / "predictions" / "maps" / "drift" / "00002.png").unlink()
    _refused(root, r"maps/drift/00002\.png is missing")


def test_masks_of_sequences_that_the_recipe_leaves_out_do_no_harm(root: Path) -> None:
    sequences = read_layout("davis16", root / "clip", "davis16", None, ["turn"])
    evaluate._check_names(str(root / "predictions" / "masks"), sequences, chosen=True)
    with pytest.raises(UserError, match="drift"):
        evaluate._check_names(str(root / "predictions" / "masks"), sequences, chosen=False)


def test_files_that_the_system_hides_are_no_masks(root: Path) -> None:
    (root / "predictions" / "masks" / "turn" / ".DS_Store").write_bytes(b"")
    evaluate._check_names(
        str(root / "predictions" / "masks"),
        read_layout("davis16", root / "clip", "davis16", None, SEQUENCES),
        chosen=False,
    )


def test_what_is_not_there_to_be_scored_is_named(root: Path) -> None:
    _refused(root, "no predictions in .*run `rtnet predict`", masks=None)
    _refused(root, "nowhere: no such folder", masks=str(root / "nowhere"))
    _refused(root, "no sequences in split 'test'; there are some in train, val", split="test")
    (root / "predictions" / "predictions.json").write_text(json.dumps({"model": {}, "complete": False}))
    _refused(root, r"predictions\.json: the predictions are not finished")


def test_a_sequence_with_nothing_between_its_first_and_last_frame_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", {"val": ["short"]}, frames=2, height=40, width=70)
    _refused(tmp_path, "sequence 'short' has no annotated frame between")


def test_a_truncated_mask_is_named_and_no_traceback(root: Path) -> None:
    path = root / "predictions" / "masks" / "turn" / "00002.png"
    path.write_bytes(path.read_bytes()[:-40])
    error = score_sequence(_job(root))["error"]
    assert str(path) in error
    assert "truncated" in error
    assert "\n" not in error


def test_without_maps_saliency_is_measured_on_the_masks(made: Path) -> None:
    on_masks = SaliencyMeasures()
    for number in range(FRAMES):
        mask = cv2.imread(str(made / "predictions" / "masks" / "turn" / f"{number:05d}.png"), 0)
        on_masks.add(np.asarray(mask) > 127, _annotation(made, "turn", f"{number:05d}"))
    found = _result(_job(made, maps=False))["saliency"]
    assert found == pytest.approx(on_masks.results())
    assert found != _result(_job(made))["saliency"]


def test_palette_masks_score_as_the_grey_ones_do(root: Path) -> None:
    before = _result(_job(root))
    for path in (root / "predictions" / "masks" / "turn").iterdir():
        labels = Image.fromarray((np.asarray(Image.open(path)) > 127).astype(np.uint8)).convert("P")
        labels.putpalette([0, 0, 0, 128, 0, 0])
        labels.save(path)
    assert _result(_job(root)) == before


def test_a_grey_mask_is_cut_at_the_threshold(root: Path) -> None:
    shutil.rmtree(root / "predictions" / "masks")
    shutil.copytree(root / "predictions" / "maps", root / "predictions" / "masks")
    path = root / "predictions" / "maps" / "turn" / "00002.png"
    expected = region_similarity(np.asarray(Image.open(path)) > 0.5 * 255, _annotation(root, "turn", "00002"))
    assert _result(_job(root))["frames"]["00002"]["J"] == expected
