"""A DAVIS folder becomes the parquet dataset."""

import contextlib
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from pipelines import cli, prepare
from pipelines.config import Experiment, load_experiment
from pipelines.dataset import PICTURES, Dataset
from pipelines.show import content_digest
from rtnet.data.clip import write_clip
from rtnet.data.flips import VIEWS, flip
from rtnet.data.flow import dis
from rtnet.data.flow_files import read_flo, write_flo
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import decode_annotation, decode_image
from rtnet.data.layouts import Sequence, read_layout
from rtnet.errors import UserError
from tests.recipes import kill_a_worker, preparing

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def recipe(source: Path, target: Path, sequences: list[str] | None = None, **flow: object) -> Experiment:
    given = {"layout": "davis16", "path": str(source), "sequences": sequences}
    return preparing(target, {"clip": given}, flow=FLOW | flow)


@pytest.fixture(scope="module")
def real(davis480: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, list[Sequence]]:
    """Two short real sequences, prepared."""
    names = [sequence.name for sequence in _davis(davis480) if len(sequence.frames) <= 12]
    chosen = [name for name in names if name in ("bear", "blackswan")] or names[:2]
    target = tmp_path_factory.mktemp("prepared") / "dataset"
    prepare.run(recipe(davis480, target, chosen))
    return Dataset(str(target)), _davis(davis480, chosen)


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
    estimate, frames = dis("fast"), sequences[0].frames
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


def test_any_parquet_reader_finds_what_the_index_points_to(real: tuple[Dataset, list[Sequence]]) -> None:
    dataset, _ = real
    for row in range(0, dataset.index.num_rows, 7):
        place = dataset.describe(row)
        table = pq.read_table(Path(dataset.uri) / place["file"]).to_pylist()
        (found,) = (r for r in table if (r["frame"], r["view"]) == (place["frame"], place["view"]))
        assert {name: found[name] for name in PICTURES} == {
            name: None if data is None else bytes(data) for name, data in dataset.read_encoded(row).items()
        }


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
    parts = sorted(resumed.rglob("parts/**/*.parquet"))
    kept, torn, lost = parts[0], parts[1], parts[2]
    torn.write_bytes(torn.read_bytes()[:-100])
    lost.rename(lost.with_name(f"{lost.name}.1234.part"))
    before = kept.stat().st_mtime_ns
    with pytest.raises(UserError, match="prepare"):
        Dataset(str(resumed))
    prepare.run(recipe(clip, resumed))
    assert kept.stat().st_mtime_ns == before
    assert (resumed / "index.parquet").read_bytes() == (once / "index.parquet").read_bytes()
    assert not list(resumed.rglob("*.part"))
    for path in once.rglob("*.parquet"):
        assert (resumed / path.relative_to(once)).read_bytes() == path.read_bytes()


def test_more_sequences_add_only_theirs(clip: Path, tmp_path: Path) -> None:
    names = [sequence.name for sequence in _davis(clip)]
    target = tmp_path / "dataset"
    prepare.run(recipe(clip, target, names[:1]))
    first = {path: path.stat().st_mtime_ns for path in target.rglob("parts/**/*.parquet")}
    prepare.run(recipe(clip, target, names[:2]))
    assert {path: path.stat().st_mtime_ns for path in first} == first
    assert set(Dataset(str(target)).index["sequence"].to_pylist()) == set(names[:2])


def test_another_flow_into_the_same_dataset_is_refused(clip: Path, tmp_path: Path) -> None:
    target, names = tmp_path / "dataset", [_davis(clip)[0].name]
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
    path.write_text(recipe(clip, tmp_path / "dataset").model_dump_json())
    assert cli.main(["prepare", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and str(culprit) in lines[0]
    assert not (tmp_path / "dataset" / "index.parquet").exists()


def _davis(root: Path, sequences: list[str] | None = None) -> list[Sequence]:
    return read_layout("davis16", root, "clip", None, sequences)


def _small(path: Path, view: str) -> np.ndarray:
    frame = flip(decode_image(path.read_bytes()), view)
    width = round(frame.shape[1] * 120 / frame.shape[0])
    return np.asarray(cv2.resize(frame, (width, 120), interpolation=cv2.INTER_AREA))


@pytest.mark.slow
def test_a_dataset_made_with_three_kills_of_all_of_ray_and_of_a_worker_is_that_of_one_go(tmp_path: Path) -> None:
    write_clip(tmp_path / "clip", {"train": ["a", "b"], "val": ["c"]}, frames=40, height=160, width=280)
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe(tmp_path / "clip", tmp_path / "killed", preset="medium").model_dump_json())
    for number, kill in enumerate((_kill_all, _kill_ray), start=1):
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli", "prepare", str(path)], start_new_session=True, env=_own_ray()
        )
        while len(list((tmp_path / "killed").rglob("parts/**/*.parquet"))) < 2 * number:
            assert process.poll() is None, "it was to be killed before it ended"
            time.sleep(0.02)
        kill(process)
        assert process.wait(timeout=120) != 0
        assert not (tmp_path / "killed" / "index.parquet").exists()
    killer = threading.Thread(target=kill_a_worker)
    killer.start()
    prepare.run(load_experiment(path))
    killer.join()
    prepare.run(recipe(tmp_path / "clip", tmp_path / "once", preset="medium"))
    assert content_digest(Dataset(str(tmp_path / "killed"))) == content_digest(Dataset(str(tmp_path / "once")))


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """The driver and, as a machine's failure would, its Ray."""
    for each in [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()


def _kill_ray(process: subprocess.Popen[bytes]) -> None:
    for each in psutil.Process(process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if each.name() == "raylet":
                each.kill()


def _own_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


def test_an_object_store_holds_the_same_dataset_as_a_disk(
    clip: Path, tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [sequence.name for sequence in _davis(clip)]
    local, remote = tmp_path / "dataset", f"{bucket}/datasets/clip"
    prepare.run(recipe(clip, local))
    prepare.run(preparing(remote, {"clip": _source(clip, names[:1])}, flow=FLOW))
    prepare.run(preparing(remote, {"clip": _source(clip, names)}, flow=FLOW))
    assert content_digest(Dataset(remote)) == content_digest(Dataset(str(local)))
    capsys.readouterr()
    prepare.run(preparing(remote, {"clip": _source(clip, names)}, flow=FLOW))
    assert "nothing to do" in capsys.readouterr().out
    kept = Dataset(remote).read(5)
    assert np.array_equal(kept.image, Dataset(str(local)).read(5).image)


FLOW = {"preset": "fast", "height": 120}


def _source(clip: Path, sequences: list[str]) -> dict[str, object]:
    return {"layout": "davis16", "path": str(clip), "sequences": sequences}


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Path]:
    """Four sources of different kinds in one dataset: a clip, single images, a video, and a clip with its own flow."""
    root = tmp_path_factory.mktemp("mixture")
    write_clip(root / "clip", {"train": ["a.b c"]}, frames=20, height=48, width=64)
    write_clip(root / "other", {"val": ["a.b c"]}, frames=4, height=48, width=64)
    frames = sorted((root / "clip").rglob("*.jpg"))
    for folder, ending in (("Image", "jpg"), ("Mask", "png")):
        (root / "stills" / f"X-{folder}").mkdir(parents=True)
        for path in sorted((root / "clip").rglob(f"*.{ending}"))[:3]:
            shutil.copy(path, root / "stills" / f"X-{folder}")
    (root / "videos").mkdir()
    writer = cv2.VideoWriter(str(root / "videos/größe 1.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25, (64, 48))
    for path in frames[:5]:
        writer.write(decode_image(path.read_bytes()))
    writer.release()
    for number in range(4):
        for direction in ("fw", "bw"):
            (root / "flow" / direction / "a.b c").mkdir(parents=True, exist_ok=True)
            flow = np.full((48, 64, 2), number + 1, np.float32) * np.array(
                [1, -1 if direction == "fw" else 1], np.float32
            )
            flow[:10] = 0
            write_flo(root / "flow" / direction / "a.b c" / f"{number:05d}.flo", flow)
    own = {"forward": f"{root}/flow/fw/{{sequence}}/{{frame}}.flo"}
    own |= {"estimator": "files", "backward": f"{root}/flow/bw/{{sequence}}/{{neighbour}}.flo"}  # by the earlier frame
    prepare.run(
        preparing(
            root / "dataset",
            {
                "clip": root / "clip",
                "stills": {"layout": "stills", "path": str(root / "stills")},
                "videos": {"layout": "video", "path": str(root / "videos"), "split": "val"},
                "own": {"layout": "davis16", "path": str(root / "other"), "flow": own},
            },
        )
    )
    return Dataset(str(root / "dataset")), root


def test_sources_of_all_kinds_are_mixed_into_one_dataset(mixture: tuple[Dataset, Path]) -> None:
    dataset, _ = mixture
    made = Counter(zip(dataset.column("dataset"), dataset.column("split"), dataset.column("sequence"), strict=True))
    assert made == {
        ("clip", "train", "a.b c"): 20 * 4,
        ("stills", "train", "00000"): 3 * 4,
        ("videos", "val", "größe 1"): 5 * 4,
        ("own", "val", "a.b c"): 4,
    }
    assert set(dataset.column("estimator")[dataset.column("still")]) == {""}
    named = {(d, e.split(",")[0]) for d, e in zip(dataset.column("dataset"), dataset.column("estimator"), strict=True)}
    assert named == {("clip", "dis-ultrafast"), ("stills", ""), ("videos", "dis-ultrafast"), ("own", "files")}
    assert dataset.column("annotated").sum() == 24 * 4 - 3 * 4 + 3 * 4 - 4 * 3 + 3 * 4


def test_views_of_a_sequence_are_a_group_and_every_still_is_one(mixture: tuple[Dataset, Path]) -> None:
    dataset, _ = mixture
    groups = Counter(dataset.groups(np.arange(dataset.index.num_rows)).tolist())
    assert sorted(groups.values()) == sorted([20] * 4 + [1] * 12 + [5] * 4 + [4])


def test_frames_lie_in_order_though_they_were_made_in_parts(mixture: tuple[Dataset, Path]) -> None:
    dataset, _ = mixture
    rows = dataset.rows("train", views=["vertical"])
    frames = [dataset.describe(int(row)) for row in rows]
    assert [f["frame"] for f in frames if f["dataset"] == "clip"] == list(range(20))
    missing = [(f["frame"], n) for f in frames for n in ("forward_flow", "backward_flow") if not f[f"{n}_size"]]
    assert missing == [(0, "backward_flow"), (19, "forward_flow")] + [(n, d) for n in range(3) for d in (
        "forward_flow", "backward_flow")]  # fmt: skip


def test_flow_that_was_computed_elsewhere_is_taken_as_it_is_for_the_view_as_it_is(
    mixture: tuple[Dataset, Path],
) -> None:
    dataset, root = mixture
    rows = np.flatnonzero(dataset.column("dataset") == "own")
    assert list(dataset.column("view")[rows]) == ["as_is"] * 4
    for number, row in enumerate(rows):
        flow = dataset.read(int(row)).flow
        if number < 3:
            path = root / f"flow/fw/a.b c/{number:05d}.flo"
            assert np.array_equal(flow[..., :3], flow_picture(read_flo(path)))
        if number > 0:
            path = root / f"flow/bw/a.b c/{number - 1:05d}.flo"
            assert np.array_equal(flow[..., 3:], flow_picture(read_flo(path)))


def test_flow_files_that_are_missing_are_named(clip: Path, tmp_path: Path) -> None:
    own = {"estimator": "files", "forward": f"{tmp_path}/{{frame}}.flo", "backward": f"{tmp_path}/b{{frame}}.flo"}
    with pytest.raises(UserError, match=rf"{tmp_path}/b?0000\d\.flo"):
        prepare.run(preparing(tmp_path / "dataset", {"clip": clip}, flow=own))
