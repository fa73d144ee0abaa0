"""Dataset folders become manifests, and what is wrong with a folder is said in one line."""

from pathlib import Path

import pytest

from rtnet.data.clip import write_clip
from rtnet.data.layouts import Sequence, read_layout
from rtnet.errors import UserError
from tests.conftest import SHARED_DATA


def davis16(root: Path, sequences: list[str] | None = None) -> list[Sequence]:
    return read_layout("davis16", root, "davis16", sequences=sequences)


def _folder(root: Path, frames: dict[str, list[str]], split: str = "train") -> Path:
    """An official-looking folder of empty files; `frames` gives the stems of each sequence in the list's order."""
    lines = ""
    for name, stems in frames.items():
        for stem in stems:
            for folder, extension in (("JPEGImages", "jpg"), ("Annotations", "png")):
                path = root / folder / "480p" / name / f"{stem}.{extension}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
                lines += f"/{folder}/480p/{name}/{stem}.{extension} "
            lines += "\n"
    _list(root, split).parent.mkdir(parents=True, exist_ok=True)
    _list(root, split).write_text(lines, encoding="utf-8")
    return root


def _list(root: Path, split: str) -> Path:
    return root / "ImageSets" / "480p" / f"{split}.txt"


def test_every_listed_frame_is_in_the_manifest_once_with_files_that_exist(davis480: Path) -> None:
    sequences = davis16(davis480)
    files = [(frame.image, frame.annotation) for sequence in sequences for frame in sequence.frames]
    listed = sum(
        len([line for line in _list(davis480, split).read_text().splitlines() if line.strip()])
        for split in ("train", "val")
    )
    assert len(files) == len(set(files)) == listed > 0
    assert all(image.is_file() and annotation is not None and annotation.is_file() for image, annotation in files)
    assert {sequence.split for sequence in sequences} == {"train", "val"}
    assert {sequence.dataset for sequence in sequences} == {"davis16"}


@pytest.mark.skipif(SHARED_DATA is None, reason="needs the real DAVIS")
def test_the_real_lists_give_2079_training_and_1376_validation_frames_whatever_other_lists_there_are() -> None:
    assert SHARED_DATA is not None
    frames = {"train": 0, "val": 0}
    for sequence in davis16(SHARED_DATA / "davis-256"):
        frames[sequence.split] += len(sequence.frames)
        assert [frame.number for frame in sequence.frames] == list(range(len(sequence.frames)))
    assert frames == {"train": 2079, "val": 1376}


def test_blank_lines_windows_line_ends_and_missing_slashes_change_nothing(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"bear": ["00000", "00001"], "dog": ["00000"]})
    expected = davis16(root)
    path = _list(root, "train")
    path.write_text("\r\n\r\n" + path.read_text().replace(" \n", "\r\n\r\n").replace("/JPEG", "JPEG"), encoding="utf-8")
    assert davis16(root) == expected


@pytest.mark.parametrize("name", ["bmx_trees_2", "two words", "v1.2", "chaudière", "熊", " a.jpg b"])
def test_a_sequence_may_have_any_name_that_a_folder_can_have(tmp_path: Path, name: str) -> None:
    name = name.strip()
    (sequence,) = davis16(_folder(tmp_path, {name: ["00000", "00001"]}))
    assert sequence.name == name
    assert [frame.image.parent.name for frame in sequence.frames] == [name, name]


def test_frames_are_ordered_by_the_number_in_their_names_not_by_line_or_letters(tmp_path: Path) -> None:
    (sequence,) = davis16(_folder(tmp_path, {"bear": ["10", "9", "0100"]}))
    assert [(frame.number, frame.name) for frame in sequence.frames] == [(9, "9"), (10, "10"), (100, "0100")]


def test_frames_without_numbers_are_numbered_by_their_place_in_the_list(tmp_path: Path) -> None:
    (sequence,) = davis16(_folder(tmp_path, {"bear": ["z", "a", "7"]}))
    assert [(frame.number, frame.name) for frame in sequence.frames] == [(0, "z"), (1, "a"), (2, "7")]


def test_only_the_sequences_asked_for_are_given(davis480: Path) -> None:
    wanted = [sequence.name for sequence in davis16(davis480)][1::2]
    assert [sequence.name for sequence in davis16(davis480, wanted)] == wanted


def test_one_of_the_two_lists_is_enough(tmp_path: Path) -> None:
    assert [sequence.split for sequence in davis16(_folder(tmp_path, {"bear": ["0"]}, split="val"))] == ["val"]


def test_an_unknown_sequence_is_refused_with_the_names_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sequence 'wolf': there are bear, dog"):
        davis16(_folder(tmp_path, {"dog": ["0"], "bear": ["0"]}), ["dog", "wolf"])


def test_a_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        davis16(tmp_path / "nowhere")


def test_a_folder_without_images_has_no_sequences(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sequences"):
        davis16(tmp_path)


def test_lists_without_lines_have_no_sequences(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"bear": ["0"]})
    _list(root, "train").write_text("\n \n")
    with pytest.raises(UserError, match="no sequences"):
        davis16(root)


def test_missing_lists_are_named(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"bear": ["0"]})
    _list(root, "train").unlink()
    with pytest.raises(UserError, match=r"ImageSets/480p/train.txt and .*val.txt are missing"):
        davis16(root)


@pytest.mark.parametrize(("folder", "file"), [("JPEGImages", "1.jpg"), ("Annotations", "1.png")])
def test_a_listed_file_that_is_missing_is_its_sequences_fault(tmp_path: Path, folder: str, file: str) -> None:
    root = _folder(tmp_path, {"bear": ["0", "1"]})
    (root / folder / "480p" / "bear" / file).unlink()
    (sequence,) = davis16(root)
    assert f"{folder}/480p/bear/{file}: " in sequence.fault and "missing" in sequence.fault


def test_a_line_with_one_path_is_refused_with_its_number(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"bear": ["0"]})
    with _list(root, "train").open("a") as file:
        file.write("/JPEGImages/480p/bear/0.jpg\n")
    with pytest.raises(UserError, match=r"train\.txt: line 2"):
        davis16(root)


@pytest.mark.parametrize("stems", [["0", "1", "0"], ["1", "00001"], ["a", "b", "a"]])
def test_a_frame_listed_twice_is_a_fault(tmp_path: Path, stems: list[str]) -> None:
    (sequence,) = davis16(_folder(tmp_path, {"bear": stems}))
    assert not sequence.frames
    assert f"frame {stems[-1]!r} is there twice" in sequence.fault


def test_a_sequence_in_both_splits_is_refused(tmp_path: Path) -> None:
    _folder(tmp_path, {"bear": ["0"]}, split="train")
    with pytest.raises(UserError, match=r"'bear' is in both train\.txt and val\.txt"):
        davis16(_folder(tmp_path, {"bear": ["0"]}, split="val"))


def test_errors_are_one_line(tmp_path: Path) -> None:
    write_clip(tmp_path, frames=2)
    (tmp_path / "Annotations" / "480p" / "paper_boat" / "00001.png").unlink()
    (fault,) = [sequence.fault for sequence in davis16(tmp_path) if sequence.fault]
    assert "00001.png" in fault and "\n" not in fault


def touch(root: Path, *names: str) -> Path:
    """Make empty files below root, and their folders."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def annotated(sequence: Sequence) -> dict[str, str | None]:
    """Frame name -> its annotation's file name."""
    assert not sequence.fault
    return {frame.name: frame.annotation.name if frame.annotation else None for frame in sequence.frames}


def test_a_sequence_with_a_fault_does_not_keep_the_others_from_being_used(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"bear": ["0", "1"], "dog": ["0"]})
    (root / "JPEGImages/480p/bear/1.jpg").unlink()
    bear, dog = davis16(root)
    assert (bear.name, bear.frames, len(dog.frames), dog.fault) == ("bear", (), 1, "")


@pytest.mark.parametrize("split", ["train", "val"])
def test_only_the_split_asked_for_is_given(davis480: Path, split: str) -> None:
    expected = [sequence for sequence in davis16(davis480) if sequence.split == split]
    assert read_layout("davis16", davis480, "davis16", split) == expected


def test_a_split_that_is_none_or_has_no_list_is_refused(tmp_path: Path) -> None:
    root = _folder(tmp_path, {"bear": ["0"]})
    with pytest.raises(UserError, match="no split 'test': one of train, val"):
        read_layout("davis16", root, "x", "test")
    with pytest.raises(UserError, match=r"val\.txt: missing"):
        read_layout("davis16", root, "x", "val")


def test_of_many_names_the_first_twenty_are_said(tmp_path: Path) -> None:
    root = _folder(tmp_path, {f"s{number:02d}": ["0"] for number in range(23)})
    with pytest.raises(UserError, match=r"s18, s19 and 3 more$"):
        davis16(root, ["wolf"])


def _davis17(root: Path, **lists: str) -> Path:
    (root / "ImageSets" / "2017").mkdir(parents=True)
    for name, text in lists.items():
        (root / "ImageSets" / "2017" / f"{name.replace('_', '-')}.txt").write_text(text)
    return root


@pytest.mark.parametrize("annotations", ["Annotations", "Annotations_unsupervised"])
@pytest.mark.parametrize("size", ["480p", "Full-Resolution"])
def test_davis17_takes_what_it_finds_of_two_sizes_and_two_kinds_of_annotation(
    tmp_path: Path, annotations: str, size: str
) -> None:
    root = _davis17(tmp_path, train="dogs-jump\n\n", val="lab-coat\n")
    for name in ("dogs-jump", "lab-coat"):
        touch(root, f"JPEGImages/{size}/{name}/00000.jpg", f"{annotations}/{size}/{name}/00000.png")
    train, val = read_layout("davis17", root, "d17")
    assert [(x.dataset, x.split, x.name, x.void) for x in (train, val)] == [
        ("d17", "train", "dogs-jump", 255),
        ("d17", "val", "lab-coat", 255),
    ]
    assert val.frames[0].annotation == root / annotations / size / "lab-coat" / "00000.png"
    assert read_layout("davis17", root, "d17", "val") == [val]


def test_davis17_frames_must_be_annotated_but_in_a_test_split(tmp_path: Path) -> None:
    root = _davis17(tmp_path, val="a\nb\nc\n", test_dev="t\nu\n")
    for name in "abtu":
        touch(root, f"JPEGImages/480p/{name}/00000.jpg", f"JPEGImages/480p/{name}/00001.jpg")
    touch(root, "Annotations/480p/a/00000.png", "Annotations/480p/t/00000.png")
    a, b, c, t, u = read_layout("davis17", root, "x")
    assert "a/00001.png: annotation missing" in a.fault
    assert "Annotations/480p/b: no such folder" in b.fault
    assert "480p/c" in c.fault
    assert annotated(t) == {"00000": "00000.png", "00001": None}
    assert annotated(u) == {"00000": None, "00001": None}


def test_davis17_lists_hold_names_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'a' is in both train\.txt and val\.txt"):
        read_layout("davis17", touch(_davis17(tmp_path / "1", train="a\n", val="a"), "JPEGImages/480p/a/0.jpg"), "x")
    with pytest.raises(UserError, match=r"'a' is twice in train\.txt"):
        read_layout("davis17", touch(_davis17(tmp_path / "2", train="a\na"), "JPEGImages/480p/a/0.jpg"), "x")
    with pytest.raises(UserError, match=r"train\.txt: line 2 is not a sequence's name"):
        read_layout("davis17", touch(_davis17(tmp_path / "3", train="a\n/b/c.jpg"), "JPEGImages/480p/a/0.jpg"), "x")
