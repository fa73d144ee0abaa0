"""The generated clip is a dataset like the real one, with an object that its motion gives away."""

from pathlib import Path

import numpy as np
import pytest

from rtnet.data.clip import SEQUENCES, write_clip
from rtnet.data.flow import dis
from rtnet.data.images import check_image, decode_annotation, decode_image
from rtnet.data.layouts import Sequence, read_layout


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> list[Sequence]:
    root = tmp_path_factory.mktemp("clip")
    write_clip(root)
    return read_layout("davis16", root, "davis16")


def test_the_clip_has_the_sequences_and_sizes_asked_for(tmp_path: Path) -> None:
    write_clip(tmp_path, {"train": ["a b"], "val": ["c", "d"]}, frames=3, height=50, width=70)
    sequences = read_layout("davis16", tmp_path, "davis16")
    assert [(one.split, one.name, len(one.frames)) for one in sequences] == [
        ("train", "a b", 3),
        ("val", "c", 3),
        ("val", "d", 3),
    ]
    for sequence in sequences:
        for frame in sequence.frames:
            assert frame.annotation is not None
            assert check_image(frame.image.read_bytes(), str(frame.image)) == (50, 70)
            assert check_image(frame.annotation.read_bytes(), str(frame.annotation)) == (50, 70)


def test_its_lists_have_the_official_quirks(tmp_path: Path) -> None:
    write_clip(tmp_path, {"train": ["a"]}, frames=1)
    text = (tmp_path / "ImageSets" / "480p" / "train.txt").read_text()
    assert text == "/JPEGImages/480p/a/00000.jpg /Annotations/480p/a/00000.png \n"


def test_writing_it_twice_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    contents = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_clip(tmp_path / name, {"val": ["leaf"]}, frames=2, seed=seed)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_a_sequence_does_not_depend_on_the_others(tmp_path: Path, clip: list[Sequence]) -> None:
    name = SEQUENCES["val"][0]
    write_clip(tmp_path, {"val": [name]})
    (alone,) = read_layout("davis16", tmp_path, "davis16")
    (together,) = (sequence for sequence in clip if sequence.name == name)
    assert [one.image.read_bytes() for one in alone.frames] == [one.image.read_bytes() for one in together.frames]


def test_object_and_background_move_differently_in_every_frame_and_dis_sees_it(clip: list[Sequence]) -> None:
    estimate = dis()
    for sequence in clip:
        images = [decode_image(frame.image.read_bytes()) for frame in sequence.frames]
        for number, frame in enumerate(sequence.frames[:-1]):
            assert frame.annotation is not None
            mask = decode_annotation(frame.annotation.read_bytes())
            flow = estimate(images[number], images[number + 1])
            assert np.linalg.norm(np.median(flow[mask], 0) - np.median(flow[~mask], 0)) > 1.5


def test_the_object_stays_within_the_frame_however_long_the_clip(tmp_path: Path) -> None:
    write_clip(tmp_path, {"val": ["x", "y"]}, frames=90)
    for sequence in read_layout("davis16", tmp_path, "davis16"):
        for frame in sequence.frames:
            assert frame.annotation is not None
            mask = decode_annotation(frame.annotation.read_bytes())
            assert 0.02 < mask.mean() < 0.2
            assert not (mask[[0, -1]].any() or mask[:, [0, -1]].any())
