"""FBMS, YouTube-Objects, stills and plain frames are found in every form they come in."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rtnet.data.images import encode_png
from rtnet.data.layouts import read_layout
from rtnet.errors import UserError
from tests.test_layouts import annotated, touch

_DEFINITION = """\
Ground truth definition file; do not change!

Total number of regions:
4

Scale of region 0:
{0}

Scale of region 1:
255

Scale of region 2:
7

Scale of region 3:
65280
"""


def test_fbms_as_released_has_two_sets_and_a_background_for_each_sequence(tmp_path: Path) -> None:
    bear, cars = tmp_path / "Trainingset/bear01", tmp_path / "Testset/cars1"
    touch(bear, *(f"bear01_{number:04d}.jpg" for number in (1, 2, 12)))
    touch(bear / "GroundTruth", "bear01_0001_gt.ppm", "bear01_0012_gt.ppm", "bear01_0012_PROB_gt.ppm", "Thumbs.db")
    (bear / "GroundTruth/bear01Def.dat").write_text(_DEFINITION.format(16777215))
    touch(cars, *(f"cars1_{number:02d}.jpg" for number in (1, 2)))
    touch(cars / "GroundTruth", "cars1_002.pgm")
    train, test = read_layout("fbms59", tmp_path, "fbms")
    assert [(x.split, x.name, x.background) for x in (train, test)] == [
        ("train", "bear01", (0xFFFFFF,)),
        ("test", "cars1", (0,)),
    ]
    assert annotated(train) == {
        "bear01_0001": "bear01_0001_gt.ppm",
        "bear01_0002": None,
        "bear01_0012": "bear01_0012_gt.ppm",
    }
    assert annotated(test) == {"cars1_01": None, "cars1_02": "cars1_002.pgm"}
    assert read_layout("fbms59", tmp_path, "fbms", "test") == [test]


def test_in_four_sequences_of_fbms_a_further_region_is_background(tmp_path: Path) -> None:
    for name in ("marple1", "marple10"):
        folder = touch(tmp_path / "Trainingset" / name, f"{name}_001.jpg", f"GroundTruth/{name}_001.pgm")
        (folder / "GroundTruth" / f"{name}Def.dat").write_text(_DEFINITION.format(0))
    assert [x.background for x in read_layout("fbms59", tmp_path, "x")] == [(0,), (0, 7)]


def test_fbms_as_converted_knows_its_splits_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "JPEGImages/cats01/00001.jpg", "JPEGImages/cats01/00002.jpg", "Annotations/cats01/00002.png")
    touch(tmp_path, "JPEGImages/cats02/00001.jpg")
    test, train = read_layout("fbms59", tmp_path, "x")
    assert [(x.split, x.name, x.background) for x in (test, train)] == [
        ("test", "cats01", None),
        ("train", "cats02", None),
    ]
    assert annotated(test) == {"00001": None, "00002": "00002.png"}


def test_an_annotation_without_its_frame_is_a_fault(tmp_path: Path) -> None:
    touch(
        tmp_path / "Testset/cats01", "cats01_01.jpg", "GroundTruth/cats01_0001_gt.ppm", "GroundTruth/cats01_0009_gt.ppm"
    )
    (sequence,) = read_layout("fbms59", tmp_path, "x")
    assert "cats01_0009_gt.ppm: an annotation without its frame" in sequence.fault


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("cat/data/0001/shots/003/images/frame{:04d}.jpg", "cat/data/0001/shots/003/labels/{:05d}.jpg"),
        ("cat/data/0001/shots/003/frame{:04d}.jpg", "cat/data/0001/shots/003/labels/{:05d}.jpg"),
        ("cat/0001_003/JPEGImages/{:05d}.jpg", "cat/0001_003/Annotations/{:05d}.png"),
        ("JPEGImages/cat/0001_003/{:05d}.jpg", "Annotations/cat/0001_003/{:05d}.png"),
        ("Data/cat_0001_003/frame{:04d}.jpg", "GT/cat_0001_003/{:05d}.png"),
    ],
)
def test_youtube_objects_is_found_in_every_form_it_goes_around_in(tmp_path: Path, images: str, labels: str) -> None:
    touch(tmp_path, *(images.format(number) for number in (1, 2, 11)), *(labels.format(number) for number in (1, 11)))
    if images.startswith("cat/0"):
        touch(tmp_path, "cat/thumb.jpg", "cat/0001_003/JPEGFlows/00001.jpg")
    (sequence,) = read_layout("youtube_objects", tmp_path, "yto")
    assert (sequence.name, sequence.split) == ("cat_0001_003", "train")
    assert [bool(mask) for mask in annotated(sequence).values()] == [True, False, True]


def test_shots_of_one_number_in_several_videos_have_names_of_their_own(tmp_path: Path) -> None:
    for shot in ("cat/data/0001/shots/001", "cat/data/0002/shots/001", "dog/data/0001/shots/001"):
        touch(tmp_path / shot, "images/frame0001.jpg")
    names = [sequence.name for sequence in read_layout("youtube_objects", tmp_path, "yto")]
    assert names == ["cat_0001_001", "cat_0002_001", "dog_0001_001"]


def test_stills_come_in_groups_of_256(tmp_path: Path) -> None:
    names = [f"ILSVRC_{number}" for number in range(1, 301)]
    touch(tmp_path, *(f"Imgs/{name}.jpg" for name in names), *(f"GT/{name}.png" for name in names))
    first, second = read_layout("stills", tmp_path, "duts", sequences=["00001", "00000"])
    assert [(x.kind, x.name, len(x.frames)) for x in (first, second)] == [
        ("stills", "00000", 256),
        ("stills", "00001", 44),
    ]
    assert [frame.name for x in (first, second) for frame in x.frames] == names
    assert [frame.number for frame in second.frames] == list(range(44))
    assert all(frame.annotation == tmp_path / "GT" / f"{frame.name}.png" for frame in first.frames)


def test_stills_may_have_no_masks_at_all_or_masks_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "a.jpg", "b.JPEG", "._a.jpg", "@eaDir/a.jpg/thumb.jpg")
    assert annotated(read_layout("stills", tmp_path / "photos", "x")[0]) == {"a": None, "b": None}
    touch(tmp_path / "masks", "a.png", "b.png", "c.png")
    (group,) = read_layout("stills", tmp_path / "photos", "x", annotations=tmp_path / "masks")
    assert annotated(group) == {"a": "a.png", "b": "b.png"}


def test_an_image_without_its_mask_is_its_groups_fault(tmp_path: Path) -> None:
    touch(tmp_path, "X-Image/a.jpg", "X-Image/b.jpg", "X-Mask/a.png")
    (group,) = read_layout("stills", tmp_path, "x")
    assert "b.jpg" in group.fault and "X-Mask" in group.fault


def test_two_images_of_one_name_are_a_fault_of_their_group(tmp_path: Path) -> None:
    touch(tmp_path, "img/a.jpg", "img/a.png", "img/b.jpg")
    assert "frame 'a' is there twice" in read_layout("stills", tmp_path, "x")[0].fault


@pytest.mark.parametrize("images", ["", "JPEGImages/", "Images/", "frames/"])
@pytest.mark.parametrize("masks", ["Annotations", "Masks", "GT"])
def test_plain_frames_may_lie_in_a_tree_with_masks_beside_it(tmp_path: Path, images: str, masks: str) -> None:
    touch(tmp_path, f"{images}a-gt/0.jpg", f"{images}a-gt/1.PNG", f"{images}b/0.jpg", f"{masks}/a-gt/1.png")
    a, b = read_layout("frames", tmp_path, "x", "val")
    assert [(x.name, x.split, x.kind) for x in (a, b)] == [("a-gt", "val", "frames"), ("b", "val", "frames")]
    assert annotated(a) == {"0": None, "1": "1.png"}
    assert annotated(b) == {"0": None}


@pytest.mark.parametrize(
    ("files", "numbers"),
    [
        (["10.jpg", "9.jpg", "0100.jpg"], [("9", 9), ("10", 10), ("0100", 100)]),
        (["f10.jpg", "f9.jpg", "f9b.jpg"], [("f9", 0), ("f9b", 1), ("f10", 2)]),
        (["1 2.jpg", "1 10.jpg", "été.jpg", "a.b.jpg"], [("1 2", 0), ("1 10", 1), ("a.b", 2), ("été", 3)]),
    ],
)
def test_frames_have_a_natural_order(tmp_path: Path, files: list[str], numbers: list[tuple[str, int]]) -> None:
    (sequence,) = read_layout("frames", touch(tmp_path, *files), "x")
    assert [(frame.name, frame.number) for frame in sequence.frames] == numbers
    assert sequence.name == tmp_path.name


def test_an_empty_folder_and_a_link_to_nothing_are_faults(tmp_path: Path) -> None:
    touch(tmp_path, "a/0.jpg", "c/0.jpg")
    (tmp_path / "b").mkdir()
    (tmp_path / "c/1.jpg").symlink_to(tmp_path / "gone.jpg")
    (tmp_path / "d").symlink_to(tmp_path / "a")
    faults = {sequence.name: sequence.fault for sequence in read_layout("frames", tmp_path, "x")}
    assert not faults["a"] and not faults["d"]
    assert "b: holds no pictures" in faults["b"] and "1.jpg: a link that leads nowhere" in faults["c"]


def test_masks_that_fit_nothing_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "in/a/0.jpg", "other/b/0.png", "stills/x.jpg")
    with pytest.raises(UserError, match="other: holds no folder named like a sequence"):
        read_layout("frames", tmp_path / "in", "x", annotations=tmp_path / "other")
    with pytest.raises(UserError, match="b: holds no mask named like an image"):
        read_layout("stills", tmp_path / "stills", "x", annotations=tmp_path / "other" / "b")
    with pytest.raises(UserError, match="nowhere: no such folder"):
        read_layout("frames", tmp_path / "in", "x", annotations=tmp_path / "nowhere")
    with pytest.raises(UserError, match="leave this folder out"):
        read_layout("davis16", tmp_path / "in", "x", annotations=tmp_path / "other")


_AS_ANYBODY = """
import os, sys
from pathlib import Path
from rtnet.data.frames import read_frames
from rtnet.data.layouts import read_layout
from rtnet.errors import UserError
if os.getuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    for sequence in read_layout(sys.argv[1], Path(sys.argv[2]), "x"):
        print(sequence.name, len(sequence.frames), sequence.fault, sep="|")
        list(read_frames(sequence)) if len(sys.argv) > 3 else None
except UserError as error:
    print(f"UserError|{error}")
"""


def _as_anybody(*arguments: str | Path) -> list[list[str]]:
    """What reading a layout gives to a user who is not root, whom no permission binds."""
    for parent in Path(arguments[1]).parents:
        if parent.owner() != "root" or parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", _AS_ANYBODY, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return [line.split("|") for line in done.stdout.splitlines()]


def test_what_may_not_be_read_is_a_fault_of_its_sequence_or_named(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("a", "b"):
        (touch(root, f"{name}/0.png") / name / "0.png").write_bytes(encode_png(np.zeros((4, 6), np.uint8)))
    (root / "a").chmod(0)
    assert _as_anybody("frames", root) == [
        ["a", "0", f"{root / 'a'}: cannot be read (Permission denied): allow it or leave it out"],
        ["b", "1", ""],
    ]
    (root / "a").chmod(0o755)
    (root / "a/0.png").chmod(0)
    assert _as_anybody("frames", root, "read")[1] == [
        "UserError",
        f"{root / 'a' / '0.png'}: cannot be read (Permission denied): allow it or leave it out",
    ]
    root.chmod(0)
    try:
        for layout in ("frames", "stills", "youtube_objects", "video"):
            ((what, message),) = _as_anybody(layout, root)
            assert (what, message.startswith(f"{root}: cannot be read (Permission denied)")) == ("UserError", True)
    finally:
        root.chmod(0o755)
