"""Scores of a folder of masks against a clip's annotations."""

import csv
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from PIL import Image

from experiments.benchmarks import evaluate as benchmark
from pipelines import evaluate, registry, tracking
from pipelines.config import Experiment, validate
from pipelines.mask_folder import Folders, list_masks
from pipelines.scoring import Rule, SetScores, combine, cut_jobs, score_job
from rtnet.data.clip import write_clip
from rtnet.data.layouts import Frame, Sequence, read_layout
from rtnet.errors import UserError
from rtnet.metrics import SaliencyMeasures, contour_accuracy, region_similarity
from tests.conftest import SHARED_DATA
from tests.test_metrics import SALIENCY_NAMES

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


def _scores(root: Path, maps: bool = True, rule: Rule = "davis", **replaced: Any) -> SetScores:
    """Of the sequence "turn", in this process; UserError for the first wrong mask."""
    (sequence,) = read_layout("davis16", root / "clip", "davis16", None, ["turn"])
    predictions = root / "predictions"
    folders = Folders(str(predictions / "masks"), str(predictions / "maps") if maps else None)
    jobs = cut_jobs([replace(sequence, **replaced)], folders, rule, 0.5, saliency=True, chosen=True)
    results = [score_job(job) for job in jobs]
    for result in results:
        if result["error"]:
            raise UserError(result["error"])
    return combine(jobs, [result["result"] for result in results])


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
        assert {key: row[key] for key in saliency.results()} == pytest.approx(saliency.results(), abs=1e-12)
    of_set = scores["scores"][-1]
    for key in ("J mean", "F decay", "mae"):
        assert of_set[key] == pytest.approx(np.mean([row[key] for row in scores["scores"][:-1]]))
    with (folder / "scores.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [float(row["F mean"]) for row in written] == [row["F mean"] for row in scores["scores"]]
    assert {(row["rule"], row["threshold"]) for row in written} == {("davis", "0.5")}
    assert f"saliency on {made / 'predictions' / 'maps'}" in told
    assert "value / 255 > 0.5" in told
    assert "first and last frame are left out" in told
    _check_facts(scores)
    assert f"{of_set['J mean']:.3f}" in told
    assert str(folder) in told
    _check_logged_to_a_run_of_its_own(made, of_set["J mean"])


def _check_facts(scores: dict[str, Any]) -> None:
    assert {key: scores[key] for key in ("name", "evaluation", "split", "threshold", "rule", "model", "dataset")} == {
        "name": "toy",
        "evaluation": "clip-val",
        "split": "val",
        "threshold": 0.5,
        "rule": "davis",
        "model": {},
        "dataset": None,
    }
    assert scores["sources"]["clip"]["layout"] == "davis16"
    assert len(scores["content"]) == 64
    assert datetime.fromisoformat(scores["created"]).utcoffset() == timedelta(0)


def _check_logged_to_a_run_of_its_own(made: Path, region: float) -> None:
    client = MlflowClient(tracking.tracking_uri(_experiment(made)))
    (run,) = client.search_runs([client.get_experiment_by_name("rtnet").experiment_id])
    assert run.info.run_name == "toy-evaluation"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["evaluation/val/J mean"] == pytest.approx(region)
    artifacts = {entry.path for entry in client.list_artifacts(run.info.run_id, "evaluation/val")}
    assert artifacts == {"evaluation/val/scores.csv", "evaluation/val/scores.json"}
    scores = json.loads((made / "runs" / "toy" / "evaluation" / "scores.json").read_text())
    assert scores["run"] == {"tracking": tracking.tracking_uri(_experiment(made)), "run_id": run.info.run_id}


@pytest.mark.ray
def test_scores_of_predictions_go_to_the_run_and_the_version_of_their_model(
    made: Path, tmp_path: Path, local_ray: None
) -> None:
    experiment = _experiment(made, name="ours", saliency=False)
    predictions = made / "runs" / "toy" / "predictions"
    shutil.copytree(made / "predictions", predictions)
    trained = tracking.start_run(experiment, "training")
    (tmp_path / registry.MODEL_FILE).write_bytes(b"1")
    registry.register_model(trained, tmp_path, "rtnet", "best")
    model = {"uri": "models:/rtnet/1", "run_id": trained.run_id, "tracking": trained.uri}
    made_by = {"model.digest": "1", "prediction.threshold": 0.25}
    index = {"model": model, "complete": True, "dataset": "abc", "made_by": made_by}
    (predictions / "predictions.json").write_text(json.dumps(index))
    _keep_digests(predictions)
    evaluate.run(experiment)
    scores = json.loads((made / "runs" / "toy" / "evaluation" / "scores.json").read_text())
    assert (scores["model"], scores["run"]["run_id"], scores["dataset"]) == (model, trained.run_id, "abc")
    region, contour = (scores["scores"][-1][f"{key} mean"] for key in "JF")
    metrics = MlflowClient(trained.uri).get_run(trained.run_id).data.metrics
    assert metrics["evaluation/val/F mean"] == pytest.approx(contour)
    assert "evaluation/val/mae" not in metrics
    assert registry.resolve_model(trained.uri, "rtnet@best").evaluations == {
        "ours": {
            "J": region,
            "F": contour,
            "JF": (region + contour) / 2,
            "frames": 2 * (FRAMES - 2),
            "content": scores["content"],
            "made_with": {"prediction.threshold": 0.25, "evaluation.rule": "davis", "evaluation.threshold": 0.5},
        }
    }
    shutil.copy(made / "clip" / "Annotations" / "480p" / "turn" / "00003.png", predictions / "masks" / "turn")
    with pytest.raises(UserError, match=r"masks/turn/00003\.png is not what `rtnet predict` wrote"):
        evaluate.run(experiment)


def _keep_digests(predictions: Path) -> None:
    """As `predict` keeps them."""
    for sequence in SEQUENCES:
        names = [f"{number:05d}" for number in range(FRAMES)]
        kept: dict[str, list[str]] = {"name": names}
        for kind in ("mask", "map"):
            files = [(predictions / f"{kind}s" / sequence / f"{name}.png").read_bytes() for name in names]
            kept[f"{kind}_digest"] = [hashlib.sha256(data).hexdigest() for data in files]
        (predictions / "statistics").mkdir(exist_ok=True)
        pq.write_table(pa.table(kept), predictions / "statistics" / f"{sequence}.parquet")


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


@pytest.mark.parametrize("extra", ["turn/00006.png", "turn/00001.bmp", "another/00000.png", "picture.jpg"])
def test_a_file_that_belongs_to_no_frame_is_named(root: Path, extra: str) -> None:
    path = root / "predictions" / "masks" / extra
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    _refused(root, rf"{extra} belongs to no frame")


def test_a_missing_map_beside_whole_masks_is_named(root: Path) -> None:
    (root / "predictions" / "maps" / "drift" / "00002.png").unlink()
    _refused(root, r"maps/drift/00002\.png is missing")


def test_a_second_mask_of_one_frame_is_named(root: Path) -> None:
    (root / "predictions" / "masks" / "turn" / "00001.jpg").write_bytes(b"")
    _refused(root, r"turn/00001\.png is a second mask of one frame beside turn/00001\.jpg")


def test_masks_of_sequences_that_the_recipe_leaves_out_do_no_harm(root: Path) -> None:
    sequences = read_layout("davis16", root / "clip", "davis16", None, ["turn"])
    assert len(list_masks(str(root / "predictions" / "masks"), sequences, chosen=True)) == FRAMES
    with pytest.raises(UserError, match="drift"):
        list_masks(str(root / "predictions" / "masks"), sequences, chosen=False)


def test_files_that_are_no_pictures_or_that_the_system_hides_are_no_masks(root: Path) -> None:
    for name in (".DS_Store", "._00001.png", "Thumbs.db", "README.txt"):
        (root / "predictions" / "masks" / "turn" / name).write_bytes(b"")
    sequences = read_layout("davis16", root / "clip", "davis16", None, SEQUENCES)
    assert len(list_masks(str(root / "predictions" / "masks"), sequences, chosen=False)) == 2 * FRAMES


def test_what_is_not_there_to_be_scored_is_named(root: Path) -> None:
    _refused(root, "no predictions in .*run `rtnet predict`", masks=None)
    _refused(root, "nowhere: no such folder", masks=str(root / "nowhere"))
    _refused(root, "no sequences in split 'test'; there are some in train, val", split="test")
    (root / "predictions" / "predictions.json").write_text(json.dumps({"model": {}, "complete": False}))
    _refused(root, r"predictions\.json: the predictions are not finished")


def test_a_model_version_that_is_gone_is_told_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    folders = Folders("masks", None, {"uri": "models:/toy/7", "run_id": "1", "tracking": uri})
    assert evaluate._version(uri, folders) is None
    assert "kept with no model version" in capsys.readouterr().out
    assert evaluate._version("sqlite:///another", folders) is None


def test_a_sequence_with_nothing_between_its_first_and_last_frame_is_named(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", {"val": ["short"]}, frames=2, height=40, width=70)
    (tmp_path / "masks").mkdir()
    with pytest.raises(UserError, match=r"sequence 'short' has no annotated frame between .*evaluation\.rule"):
        evaluate.run(_experiment(tmp_path, masks=str(tmp_path / "masks")))


# Which frames count


def test_the_rule_is_davis_only_where_every_frame_is_annotated(made: Path) -> None:
    dense = read_layout("davis16", made / "clip", "davis16")
    assert evaluate._customary(dense) == "davis"
    assert evaluate._customary([*dense[:-1], replace(dense[-1], frames=_sparse(dense[-1]))]) == "annotated"
    assert evaluate._customary([replace(each, kind="stills") for each in dense]) == "annotated"


def _sparse(sequence: Sequence) -> tuple[Frame, ...]:
    """Every second frame annotated, from the first on."""
    return tuple(f if f.number % 2 == 0 else replace(f, annotation=None) for f in sequence.frames)


def test_of_sparse_annotations_each_counts_also_at_the_ends(made: Path) -> None:
    (sequence,) = read_layout("davis16", made / "clip", "davis16", None, ["turn"])
    sparse = _sparse(sequence)
    dense = _scores(made, rule="annotated")
    assert list(dense.frames["turn"]) == [f"{number:05d}" for number in range(FRAMES)]
    found = _scores(made, rule="annotated", frames=sparse)
    assert found.frames["turn"] == {name: dense.frames["turn"][name] for name in ("00000", "00002", "00004")}
    assert list(_scores(made, rule="davis", frames=sparse).frames["turn"]) == ["00002", "00004"]


def test_the_content_tells_other_frames_and_other_annotations_apart(root: Path) -> None:
    before = _scores(root).content
    shutil.rmtree(root / "predictions" / "masks" / "drift")
    for path in (root / "predictions" / "masks" / "turn").iterdir():
        cv2.imwrite(str(path), np.zeros(SIZE, np.uint8))
    assert _scores(root).content == before  # whatever the results are
    assert _scores(root, rule="annotated").content != before
    path = root / "clip" / "Annotations" / "480p" / "turn" / "00002.png"
    annotation = _annotation(root, "turn", "00002")
    annotation[0, 0] ^= True
    cv2.imwrite(str(path), annotation.astype(np.uint8) * 255)
    assert _scores(root).content != before


def test_void_counts_for_nothing_whatever_a_mask_says_there(root: Path) -> None:
    """By J and F of masks and annotations in which the void pixels are background."""
    path = root / "clip" / "Annotations" / "480p" / "turn" / "00002.png"
    truth = _annotation(root, "turn", "00002")
    void = np.zeros(SIZE, bool)
    void[10:30, 15:40] = True
    cv2.imwrite(str(path), np.where(void, 255, truth.astype(np.uint8)))
    mask = np.asarray(Image.open(root / "predictions" / "masks" / "turn" / "00002.png")) > 127
    assert (mask & void).any()
    inner = (mask & ~void, truth & ~void)
    found = _scores(root, void=255).frames["turn"]["00002"]
    assert found == {"J": region_similarity(*inner), "F": contour_accuracy(*inner)}


# How masks are read


def test_a_truncated_mask_is_named_and_no_traceback(root: Path) -> None:
    path = root / "predictions" / "masks" / "turn" / "00002.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"truncated") as caught:
        _scores(root)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_maps_saliency_is_measured_on_the_masks(made: Path) -> None:
    on_masks = SaliencyMeasures()
    for number in range(FRAMES):
        mask = cv2.imread(str(made / "predictions" / "masks" / "turn" / f"{number:05d}.png"), 0)
        on_masks.add(np.asarray(mask) > 127, _annotation(made, "turn", f"{number:05d}"))
    found = _scores(made, maps=False).saliency["turn"]
    assert found == pytest.approx(on_masks.results(), abs=1e-12)
    assert found != _scores(made).saliency["turn"]


def _rewrite(root: Path, write: Callable[[Path, np.ndarray], None]) -> None:
    for path in sorted((root / "predictions" / "masks" / "turn").iterdir()):
        mask = np.asarray(Image.open(path)) > 127
        path.unlink()
        write(path, mask)


def _palette(path: Path, mask: np.ndarray) -> None:
    labels = Image.fromarray(mask.astype(np.uint8)).convert("P")
    labels.putpalette([0, 0, 0, 128, 0, 0])
    labels.save(path)


def _two_objects(path: Path, mask: np.ndarray) -> None:
    """Grey 1 and 2 in the upper and the lower half, as tools for several objects write them."""
    Image.fromarray(mask.astype(np.uint8) * np.where(np.arange(SIZE[0]) < 20, 1, 2)[:, None].astype(np.uint8)).save(
        path
    )


FORMS: dict[str, Callable[[Path, np.ndarray], None]] = {
    "palette": _palette,
    "one bit": lambda path, mask: Image.fromarray(mask).save(path),
    "0 and 1": lambda path, mask: Image.fromarray(mask.astype(np.uint8)).save(path),
    "labels in grey": _two_objects,
    "JPEG": lambda path, mask: Image.fromarray(mask.astype(np.uint8) * 255).save(path.with_suffix(".jpg"), quality=95),
    "colour": lambda path, mask: Image.fromarray(mask[..., None] * np.array([250, 90, 0], np.uint8)).save(path),
    "grey and alpha": lambda path, mask: Image.fromarray(mask.astype(np.uint8) * 255).convert("LA").save(path),
    "16 bits": lambda path, mask: Image.fromarray(mask.astype(np.uint16) * 65535).save(path),
}


@pytest.mark.parametrize("form", FORMS)
def test_masks_score_alike_however_they_are_written(root: Path, form: str) -> None:
    before = _scores(root)
    _rewrite(root, FORMS[form])
    after = _scores(root)
    assert after.frames == before.frames
    assert after.saliency == before.saliency
    assert after.content == before.content
    assert ("read as labels" in after.note) == (form in ("0 and 1", "labels in grey"))
    assert after.threshold == (0 if after.note else 0.5)


def test_labels_without_maps_are_masks_to_the_saliency_measures_too(root: Path) -> None:
    before = _scores(root, maps=False).saliency
    _rewrite(root, _two_objects)
    assert _scores(root, maps=False).saliency == before


def test_a_dark_mask_among_bright_ones_is_a_map_that_shows_nothing_and_is_told(root: Path) -> None:
    path = root / "predictions" / "masks" / "turn" / "00002.png"
    Image.fromarray((np.asarray(Image.open(path)) > 127).astype(np.uint8)).save(path)
    found = _scores(root)
    assert found.frames["turn"]["00002"] == {"J": 0, "F": 0}
    assert found.note.startswith("turn/00002 have no grey value above 20 of 255")


def test_masks_that_are_all_empty_are_told(root: Path) -> None:
    _rewrite(root, lambda path, mask: Image.fromarray(mask.astype(np.uint8) * 120).save(path))
    found = _scores(root)
    assert {frame["J"] for frame in found.frames["turn"].values()} == {0}
    assert found.note.startswith("the masks' largest value is 120 of 255: with evaluation.threshold=0.5 all are empty")


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_a_photograph_in_a_masks_place_is_named(root: Path, ending: str) -> None:
    path = root / "predictions" / "masks" / "turn" / "00002.png"
    path.unlink()
    Image.open(root / "clip" / "JPEGImages" / "480p" / "turn" / "00002.jpg").save(path.with_suffix(ending))
    with pytest.raises(UserError, match=rf"turn/00002\{ending} is a photograph in colour"):
        _scores(root)


def test_labels_in_a_jpeg_of_low_quality_are_no_photograph(root: Path) -> None:
    def write(path: Path, mask: np.ndarray) -> None:
        coloured = mask[..., None] * np.array([250, 90, 0], np.uint8)
        coloured[:, 30:] = coloured[:, 30:, ::-1]
        Image.fromarray(coloured).save(path.with_suffix(".jpg"), quality=50)

    _rewrite(root, write)
    assert list(_scores(root).frames["turn"]) == [f"{number:05d}" for number in range(1, FRAMES - 1)]


def test_a_grey_mask_is_cut_at_the_threshold(root: Path) -> None:
    shutil.rmtree(root / "predictions" / "masks")
    shutil.copytree(root / "predictions" / "maps", root / "predictions" / "masks")
    path = root / "predictions" / "maps" / "turn" / "00002.png"
    expected = region_similarity(np.asarray(Image.open(path)) > 0.5 * 255, _annotation(root, "turn", "00002"))
    assert _scores(root).frames["turn"]["00002"]["J"] == expected
    assert _scores(root, maps=False).saliency == _scores(root).saliency  # on the grey values, not on what is cut


# The official values


@pytest.mark.ray
@pytest.mark.skipif(SHARED_DATA is None, reason="needs the official results and scores")
@pytest.mark.parametrize("method", ["fst", "nlc"])
def test_j_and_f_equal_the_official_values_per_frame_and_in_statistics(
    method: str, tmp_path: Path, local_ray: None
) -> None:
    official = _oracle("scores.json")[method]
    found = _evaluate_oracle(tmp_path, method, list(official), saliency=False)
    assert found["rule"] == "davis"
    for row in found["scores"][:-1]:
        for key in "JF":
            expected = official[row["sequence"]][key]
            values = [frame[key] for frame in found["frames"][row["sequence"]].values()]
            np.testing.assert_allclose(values, expected["raw"], atol=1e-12, rtol=0)
            for statistic in ("mean", "recall", "decay"):
                assert row[f"{key} {statistic}"] == pytest.approx(expected[statistic], abs=1e-12)


@pytest.mark.slow
@pytest.mark.ray
def test_the_benchmark_gives_what_the_definition_gives(local_ray: None, capsys: pytest.CaptureFixture[str]) -> None:
    benchmark.main(["--frames", "24"])
    first, difference, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("24 frames")
    assert difference == "largest difference of a J or F: 0.0e+00"
    assert re.fullmatch(r"ratio: \d+\.\d\d", last)


@pytest.mark.ray
@pytest.mark.skipif(SHARED_DATA is None, reason="needs the official results and scores")
def test_the_saliency_measures_equal_those_of_pysodmetrics(tmp_path: Path, local_ray: None) -> None:
    row, _ = _evaluate_oracle(tmp_path, "nlc", ["libby"])["scores"]
    expected = _oracle("saliency_scores.json")["nlc/libby"]
    assert {SALIENCY_NAMES[key]: row[key] for key in SALIENCY_NAMES} == pytest.approx(expected, abs=1e-12)


def _oracle(name: str) -> Any:
    assert SHARED_DATA is not None
    return json.loads((SHARED_DATA / "oracle" / name).read_text())


def _evaluate_oracle(root: Path, method: str, sequences: list[str], **evaluation: Any) -> dict[str, Any]:
    assert SHARED_DATA is not None
    truth = str(SHARED_DATA / "oracle" / "ground-truth")
    source = {"layout": "frames", "path": truth, "annotations": truth, "split": "val", "sequences": sequences}
    sections = {
        "name": method,
        "storage": str(root),
        "data": {"sources": {"davis16": source}, "dataset": "none"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        "evaluation": {"masks": str(SHARED_DATA / "oracle" / method), **evaluation},
    }
    evaluate.run(validate(sections, "test"))
    return dict(json.loads((root / method / "evaluation" / "scores.json").read_text()))
