"""Frames of every kind of source come out checked, with their pixels."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rtnet.data.frames import read_frames
from rtnet.data.images import Mask, decode_mask
from rtnet.data.layouts import Sequence, read_layout
from rtnet.errors import UserError
from tests.conftest import SHARED_DATA

RNG = np.random.default_rng(5)
LABELS = np.kron(RNG.integers(0, 3, (4, 6)), np.ones((8, 8), np.int64)).astype(np.uint8)  # (32, 48): 0, 1, 2


def _photo(path: Path, height: int = 32, width: int = 48) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (height, width, 3), np.uint8)).save(path)
    return path


def _palette(path: Path, labels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, "P")
    image.putpalette(list(range(256)) * 3)
    image.save(path)
    return path


def _one(layout: str, root: Path, **options: object) -> Sequence:
    (sequence,) = read_layout(layout, root, "set", **options)  # type: ignore[arg-type]
    assert not sequence.fault
    return sequence


def _masks(sequence: Sequence) -> dict[int, Mask]:
    """Place -> mask, of the annotated frames."""
    encoded = enumerate(frame.annotation for frame, _ in read_frames(sequence))
    return {place: decode_mask(data) for place, data in encoded if data is not None}


def test_objects_of_davis_2017_are_merged_and_255_is_none(tmp_path: Path) -> None:
    labels = LABELS.copy()
    labels[:8] = 255
    _photo(tmp_path / "JPEGImages/480p/two cats/00000.jpg")
    _palette(tmp_path / "Annotations/480p/two cats/00000.png", labels)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/val.txt").write_text("two cats\n")
    sequence = _one("davis17", tmp_path)
    assert (sequence.split, sequence.name) == ("val", "two cats")
    assert np.array_equal(_masks(sequence)[0], (labels > 0) & (labels < 255))


def test_grey_labels_of_davis_2017_are_objects_as_well(tmp_path: Path) -> None:
    _photo(tmp_path / "JPEGImages/480p/a/00000.jpg")
    path = tmp_path / "Annotations/480p/a/00000.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(LABELS, "L").save(path)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/2017/train.txt").write_text("a\n")
    assert np.array_equal(_masks(_one("davis17", tmp_path))[0], LABELS > 0)


def test_255_is_object_in_davis_2016(tmp_path: Path) -> None:
    _photo(tmp_path / "JPEGImages/480p/a/00000.jpg")
    path = tmp_path / "Annotations/480p/a/00000.png"
    path.parent.mkdir(parents=True)
    Image.fromarray((LABELS > 1).astype(np.uint8) * 255).save(path)
    (tmp_path / "ImageSets/480p").mkdir(parents=True)
    line = "/JPEGImages/480p/a/00000.jpg /Annotations/480p/a/00000.png \n"
    (tmp_path / "ImageSets/480p/train.txt").write_text(line)
    assert np.array_equal(_masks(_one("davis16", tmp_path))[0], LABELS > 1)


def test_fbms_has_annotations_on_some_frames_and_any_colour_of_background(tmp_path: Path) -> None:
    folder = tmp_path / "Testset/cats01"
    for number in (1, 2, 10):
        _photo(folder / f"cats01_{number:04d}.jpg")
    colours = np.full((32, 48, 3), 255, np.uint8)
    colours[10:20, 10:30] = (40, 0, 120)
    colours[20:25, 12:18] = (0, 0, 0)
    (folder / "GroundTruth").mkdir()
    Image.fromarray(colours).save(folder / "GroundTruth/cats01_0010_gt.ppm")
    Image.fromarray(colours[..., 0]).save(folder / "GroundTruth/cats01_0010_gt.pgm")
    (folder / "GroundTruth/cats01Def.dat").write_text("Scale of region 0:\n16777215\nScale of region 1:\n0")
    sequence = _one("fbms59", tmp_path)
    assert sequence.split == "test"
    masks = _masks(sequence)
    assert list(masks) == [2]
    assert np.array_equal(masks[2], (colours != 255).any(axis=2))


def test_youtube_objects_names_its_shots_by_class_video_and_shot(tmp_path: Path) -> None:
    shots = [tmp_path / f"{kind}/data/{video}/shots/001" for kind, video in (("cat", "0001"), ("dog", "0001"))]
    for shot in shots:
        for number in (1, 11):
            _photo(shot / f"images/{number:08d}.jpg")
        (shot / "labels").mkdir()
        Image.fromarray((LABELS > 0).astype(np.uint8) * 255).save(shot / "labels/00000001.jpg", quality=95)
    sequences = read_layout("youtube_objects", tmp_path, "yto", split="val")
    assert [(s.name, s.split) for s in sequences] == [("cat_0001_001", "val"), ("dog_0001_001", "val")]
    masks = _masks(sequences[0])
    assert list(masks) == [0] and np.array_equal(masks[0], LABELS > 0)


@pytest.mark.skipif(SHARED_DATA is None, reason="needs the real DUTS")
def test_duts_is_stills_with_their_masks() -> None:
    assert SHARED_DATA is not None
    sequence = _one("stills", SHARED_DATA / "duts")
    assert sequence.kind == "stills" and len(sequence.frames) == 240
    for encoded, picture in read_frames(sequence, 100, 110):
        assert encoded.annotation is not None and encoded.frame.annotation is not None
        soft = np.asarray(Image.open(encoded.frame.annotation).convert("L"))
        assert np.array_equal(decode_mask(encoded.annotation), soft > soft.max() / 2)
        assert picture.shape[:2] == soft.shape


@pytest.mark.parametrize("name", ["with space", "dots.in.it", "under_score", "größe", "猫"])
def test_plain_folders_of_frames_are_read_in_natural_order(tmp_path: Path, name: str) -> None:
    for frame in ("frame10", "frame2", "frame1"):
        _photo(tmp_path / name / f"{frame}.PNG")
    (tmp_path / name / ".DS_Store").write_text("x")
    (tmp_path / name / "Thumbs.db").write_text("x")
    sequence = _one("frames", tmp_path)
    assert sequence.name == name
    assert [frame.name for frame in sequence.frames] == ["frame1", "frame2", "frame10"]
    assert _masks(sequence) == {}


def test_a_folder_of_frames_alone_is_one_sequence_and_masks_may_lie_elsewhere(tmp_path: Path) -> None:
    _photo(tmp_path / "clip/7.jpg")
    _palette(tmp_path / "masks/clip/7.png", LABELS)
    sequence = _one("frames", tmp_path / "clip", annotations=tmp_path / "masks")
    assert (sequence.name, sequence.frames[0].number) == ("clip", 7)
    assert np.array_equal(_masks(sequence)[0], LABELS > 0)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "I;16", "1"])
def test_frames_may_be_grey_have_alpha_a_palette_or_16_bits(tmp_path: Path, mode: str) -> None:
    values = RNG.integers(0, 256, (32, 48), np.uint8)
    if mode == "I;16":
        image = Image.fromarray(values.astype(np.uint16) * 257)
    elif mode == "P":
        image = Image.fromarray(np.stack([values] * 3, axis=2)).quantize(200)
    else:
        image = Image.fromarray(values).convert(mode)
    (tmp_path / "clip").mkdir()
    image.save(tmp_path / "clip/0.png")
    ((encoded, picture),) = read_frames(_one("frames", tmp_path))
    wanted = np.stack([values] * 3, axis=2) if mode == "I;16" else np.asarray(image.convert("RGB"))
    assert np.array_equal(picture, wanted)
    assert (encoded.height, encoded.width) == (32, 48)


def test_a_sequence_of_one_frame_is_one(tmp_path: Path) -> None:
    _photo(tmp_path / "clip/0.jpg")
    assert len(list(read_frames(_one("frames", tmp_path)))) == 1


@pytest.mark.parametrize("fault", ["vanished", "truncated", "empty", "resized"])
def test_a_bad_file_is_named(tmp_path: Path, fault: str) -> None:
    paths = [_photo(tmp_path / f"clip/{n}.jpg") for n in range(3)]
    sequence = _one("frames", tmp_path)
    if fault == "vanished":
        paths[1].unlink()
    elif fault == "resized":
        _photo(paths[1], 20, 20)
    else:
        paths[1].write_bytes(paths[1].read_bytes()[: -100 if fault == "truncated" else 0])
    with pytest.raises(UserError, match=r"clip/1\.jpg") as error:
        list(read_frames(sequence))
    assert "\n" not in str(error.value)


def test_a_part_begins_anywhere_and_is_what_reading_all_gives(davis480: Path) -> None:
    sequence = min(read_layout("davis16", davis480, "davis16"), key=lambda x: len(x.frames))
    whole = list(read_frames(sequence))
    for start, stop in ((0, 3), (3, None), (2, 99), (-2, None)):
        part = list(read_frames(sequence, start, stop))
        assert [encoded for encoded, _ in part] == [encoded for encoded, _ in whole[start:stop]]
    assert list(read_frames(sequence, 5, 5)) == []


def test_real_davis_frames_have_their_files_bytes_and_the_official_masks(davis480: Path) -> None:
    for sequence in read_layout("davis16", davis480, "davis16")[::3]:
        ((encoded, picture),) = read_frames(sequence, 1, 2)
        assert encoded.image == encoded.frame.image.read_bytes() and encoded.annotation and encoded.frame.annotation
        assert np.array_equal(picture, np.asarray(Image.open(encoded.frame.image).convert("RGB")))
        official = np.asarray(Image.open(encoded.frame.annotation).convert("L")) > 0
        assert np.array_equal(decode_mask(encoded.annotation), official)


def test_frames_are_read_one_at_a_time(tmp_path: Path) -> None:
    paths = [_photo(tmp_path / f"clip/{n}.png") for n in range(3)]
    reading = read_frames(_one("frames", tmp_path))
    next(reading)
    paths[2].unlink()
    next(reading)
    with pytest.raises(UserError, match=r"2\.png: vanished after it was listed"):
        next(reading)


def test_any_part_notices_another_size_than_the_first_frames_but_stills_differ(tmp_path: Path) -> None:
    for number in range(4):
        _photo(tmp_path / f"clip/{number}.png", *((32, 48) if number < 2 else (48, 32)))
    with pytest.raises(UserError, match=r"2\.png: has 32 x 48 pixels, the first frame 48 x 32"):
        list(read_frames(_one("frames", tmp_path), 2))
    assert len(list(read_frames(_one("stills", tmp_path / "clip")))) == 4


def test_an_annotation_of_another_size_is_named(tmp_path: Path) -> None:
    _photo(tmp_path / "clip/0.png")
    _photo(tmp_path / "GT/clip/0.png", 16, 24)
    with pytest.raises(UserError, match=r"GT/clip/0\.png: has 24 x 16 pixels, its image 48 x 32"):
        list(read_frames(_one("frames", tmp_path)))


@pytest.mark.parametrize("cut", [0, 40, -60])
def test_a_truncated_annotation_is_named(tmp_path: Path, cut: int) -> None:
    _photo(tmp_path / "clip/0.png")
    path = _photo(tmp_path / "GT/clip/0.png")
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UserError, match=r"GT/clip/0\.png: "):
        list(read_frames(_one("frames", tmp_path)))


def test_a_sequence_with_a_fault_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (sequence,) = read_layout("frames", tmp_path, "x")
    with pytest.raises(UserError, match="clip: holds no pictures"):
        next(read_frames(sequence))


def test_regions_of_fbms_that_are_no_background_are_one_object(tmp_path: Path) -> None:
    folder = tmp_path / "Testset/marple2"
    truth = _photo(folder / "marple2_01.jpg").parent / "GroundTruth/marple2_001.pgm"
    truth.parent.mkdir()
    regions = np.tile(np.arange(6, dtype=np.uint8) * 40, (32, 8))
    Image.fromarray(regions).save(truth)
    scales = "".join(f"Scale of region {region}:\n{region * 40}\n" for region in range(6))
    (truth.parent / "marple2Def.dat").write_text(f"Total number of regions:\n6\n{scales}")
    assert np.array_equal(_masks(_one("fbms59", tmp_path))[0], np.isin(regions, (40, 120, 200)))


def test_layouts_that_are_not_there_are_told_what_is_missing(tmp_path: Path) -> None:
    for layout in ("davis16", "davis17", "fbms59", "youtube_objects", "stills", "frames", "video"):
        with pytest.raises(UserError, match=str(tmp_path)) as error:
            read_layout(layout, tmp_path, "x")
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown layout 'davis'"):
        read_layout("davis", tmp_path, "x")
