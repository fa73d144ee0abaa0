"""A DAVIS folder becomes the parquet dataset."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipelines import cli, prepare
from pipelines.config import Experiment, validate
from pipelines.dataset import Dataset
from pipelines.session import ray_session
from rtnet.data.clip import write_clip
from rtnet.data.flips import VIEWS, flip
from rtnet.data.flow import dis, flow_picture
from rtnet.data.images import decode_annotation, decode_image
from rtnet.data.layouts import Sequence, davis16
from rtnet.errors import UserError

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session():
        yield


def recipe(source: Path, target: Path, sequences: list[str] | None = None, **flow: object) -> Experiment:
    return validate(
        {
            "name": "test",
            "data": {"source": str(source), "dataset": str(target), "sequences": sequences},
            "flow": {"preset": "fast", "height": 120} | flow,
            "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        },
        "test",
    )


@pytest.fixture(scope="module")
def real(davis480: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[Sequence]]:
    """Two short real sequences, prepared."""
    names = [sequence.name for sequence in davis16(davis480) if len(sequence.frames) <= 12]
    chosen = [name for name in names if name in ("bear", "blackswan")] or names[:2]
    target = tmp_path_factory.mktemp("prepared") / "dataset"
    prepare.run(recipe(davis480, target, chosen))
    return Dataset(str(target)), davis16(davis480, chosen)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip", frames=4, height=48, width=64)
    return tmp_path / "clip"


def test_there_is_one_row_for_each_view_of_each_frame_in_frame_order(
    real: tuple[Dataset, list[Sequence]],
) -> None:
    dataset, sequences = real
    rows = [dataset.describe(row) for row in range(dataset.index.num_rows)]
    expected = [(s.split, s.name, v, f.number, f.name) for s in sequences for v in VIEWS for f in s.frames]
    assert [(r["split"], r["sequence"], r["view"], r["frame"], r["name"]) for r in rows] == expected


def test_a_row_is_the_flipped_original_to_the_last_bit(real: tuple[Dataset, list[Sequence]]) -> None:
    dataset, sequences = real
    frames = {(s.name, f.name): f for s in sequences for f in s.frames}
    for row in range(0, dataset.index.num_rows, 5):
        what, view = dataset.describe(row), dataset.read(row)
        frame = frames[what["sequence"], what["name"]]
        assert frame.annotation is not None and view.annotation is not None
        image, annotation = frame.image.read_bytes(), frame.annotation.read_bytes()
        assert np.array_equal(view.image, flip(decode_image(image), what["view"]))
        assert np.array_equal(view.annotation, flip(decode_annotation(annotation), what["view"]))
        assert (what["height"], what["width"]) == view.image.shape[:2]


def test_flow_is_that_of_the_flipped_frames_and_black_where_there_is_no_neighbour(
    real: tuple[Dataset, list[Sequence]],
) -> None:
    dataset, sequences = real
    estimate, frames = dis("fast").estimate, sequences[0].frames
    for row in range(dataset.index.num_rows):
        what = dataset.describe(row)
        if what["sequence"] != sequences[0].name or what["view"] not in ("as_is", "both"):
            continue
        place = [frame.name for frame in frames].index(what["name"])
        flow = dataset.read(row).flow
        for neighbour, picture in ((place + 1, flow[..., :3]), (place - 1, flow[..., 3:])):
            if neighbour not in range(len(frames)):
                assert not picture.any()
                continue
            first, second = (_small(frames[i].image, what["view"]) for i in (place, neighbour))
            assert np.array_equal(picture, flow_picture(estimate(first, second)))


def test_one_row_is_read_alone(real: tuple[Dataset, list[Sequence]]) -> None:
    dataset, _ = real
    place = dataset.describe(3)
    metadata = pq.read_metadata(Path(dataset.uri) / place["file"])
    assert metadata.num_row_groups == metadata.num_rows
    assert metadata.row_group(place["row_group"]).num_rows == 1


def test_preparing_twice_does_nothing_and_says_so(
    real: tuple[Dataset, list[Sequence]], davis480: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset, sequences = real
    prepare.run(recipe(davis480, Path(dataset.uri), [s.name for s in sequences]))
    assert "nothing to do" in capsys.readouterr().out


def test_what_a_kill_left_is_completed_and_equals_one_run(clip: Path, tmp_path: Path) -> None:
    once, resumed = tmp_path / "once", tmp_path / "resumed"
    prepare.run(recipe(clip, once))
    shutil.copytree(once, resumed)
    (resumed / "index.parquet").unlink()
    parts = sorted(resumed.rglob("parts/*/*/*.parquet"))
    kept, torn, lost = parts[0], parts[1], parts[2]
    torn.write_bytes(torn.read_bytes()[:-100])
    lost.rename(lost.with_name(f"{lost.name}.part"))
    before = kept.stat().st_mtime_ns
    with pytest.raises(UserError, match="prepare"):
        Dataset(str(resumed))
    prepare.run(recipe(clip, resumed))
    assert kept.stat().st_mtime_ns == before
    assert (resumed / "index.parquet").read_bytes() == (once / "index.parquet").read_bytes()
    for path in once.rglob("*.parquet"):
        assert (resumed / path.relative_to(once)).read_bytes() == path.read_bytes()


def test_more_sequences_add_only_theirs(clip: Path, tmp_path: Path) -> None:
    names = [sequence.name for sequence in davis16(clip)]
    target = tmp_path / "dataset"
    prepare.run(recipe(clip, target, names[:1]))
    first = {path: path.stat().st_mtime_ns for path in target.rglob("parts/*/*/*.parquet")}
    prepare.run(recipe(clip, target, names[:2]))
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert set(Dataset(str(target)).index["sequence"].to_pylist()) == set(names[:2])


def test_another_flow_into_the_same_dataset_is_refused(clip: Path, tmp_path: Path) -> None:
    target, names = tmp_path / "dataset", [davis16(clip)[0].name]
    prepare.run(recipe(clip, target, names))
    index = (target / "index.parquet").read_bytes()
    with pytest.raises(UserError, match=r"data\.dataset"):
        prepare.run(recipe(clip, target, names, preset="medium"))
    assert (target / "index.parquet").read_bytes() == index


@pytest.mark.parametrize("mistake", ["truncated image", "missing annotation", "oddly sized annotation", "no sequences"])
def test_a_bad_folder_is_one_line_that_names_the_file_and_leaves_nothing_whole(
    clip: Path, tmp_path: Path, mistake: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image = sorted((clip / "JPEGImages").rglob("*.jpg"))[1]
    annotation = sorted((clip / "Annotations").rglob("*.png"))[1]
    culprit = {"truncated image": image, "no sequences": clip}.get(mistake, annotation)
    if mistake == "truncated image":
        image.write_bytes(image.read_bytes()[:-300])
    elif mistake == "missing annotation":
        annotation.unlink()
    elif mistake == "oddly sized annotation":
        cv2.imwrite(str(annotation), np.zeros((10, 20), np.uint8))
    else:
        shutil.rmtree(clip / "JPEGImages")
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: test\ndata: {{source: {clip}, dataset: {tmp_path}/dataset}}\n"
                    "training: {phases: [{last_epoch: 1, rate: 0.1}]}")  # fmt: skip
    assert cli.main(["prepare", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(culprit) in lines[0]
    assert not (tmp_path / "dataset" / "index.parquet").exists()


def _small(path: Path, view: str) -> np.ndarray:
    frame = flip(decode_image(path.read_bytes()), view)
    width = round(frame.shape[1] * 120 / frame.shape[0])
    return np.asarray(cv2.resize(frame, (width, 120), interpolation=cv2.INTER_AREA))
