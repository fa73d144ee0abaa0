"""What is in a dataset can be seen."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import cli, prepare
from pipelines.dataset import Dataset
from pipelines.show import content_digest
from rtnet.data.clip import write_clip
from rtnet.data.images import decode_image
from rtnet.errors import UserError
from tests.recipes import preparing

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def prepared(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("show")
    write_clip(root / "one", {"train": ["grün 1", "b"], "val": ["c"]}, frames=5, height=48, width=64)
    write_clip(root / "two", {"train": ["b"]}, frames=1, height=64, width=64)
    stills = {"layout": "stills", "path": str(root / "one/JPEGImages/480p/b")}
    prepare.run(preparing(root / "dataset", {"one": root / "one", "two": root / "two", "three": stills}))
    return root / "dataset"


def _shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["show", *arguments]) == 0
    return capsys.readouterr().out


def test_the_numbers_are_those_of_the_sources(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = _shown(capsys, str(prepared), "--sheet", str(tmp_path / "sheet.png"))
    lines = {line.split(":")[0]: line for line in text.splitlines()}
    assert "2 sequences, 10 frames (10 annotated), 40 views, 64x48" in lines["one, train"]
    assert "1 sequences, 1 frames (1 annotated), 4 views, 64x64" in lines["two, train"]
    assert "1 sequences, 5 frames (0 annotated), 20 views" in lines["three, train"]
    assert "flow: none" in lines["three, train"]
    assert "5 sequences, 21 frames (16 annotated), 84 views, 64x48 to 64x64" in lines["all"]
    assert cv2.imread(str(tmp_path / "sheet.png")) is not None


def test_the_sheet_holds_frame_and_flows(prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "sheet.png"
    text = _shown(capsys, str(prepared), "three/train/00000", "--sheet", str(target))
    assert "not annotated" in text and str(target) in text
    sheet = decode_image(target.read_bytes())
    dataset = Dataset(str(prepared))
    row = int(np.flatnonzero(dataset.column("dataset") == "three")[0])
    frame = cv2.resize(dataset.read(row).image, (320, 240), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(sheet[18:258, :320], frame)
    assert not sheet[18:258, 320:].any()  # no flow
    assert sheet.shape == (8 * 258, 960, 3)  # five frames, three more views of one


def test_names_are_found_by_their_last_part_where_it_is_enough(
    prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "one/train/grün 1: 1 sequences" in _shown(capsys, str(prepared), "grün 1", "--sheet", f"{tmp_path}/a.png")
    for name, words in (("b", "one/train/b, two/train/b"), ("grun 1", "similar are grün 1")):
        assert cli.main(["show", str(prepared), name]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_the_digest_is_of_the_content_and_notices_a_changed_byte(
    prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(str(prepared))
    assert _shown(capsys, str(prepared), "--digest") == f"digest {content_digest(dataset)}\n"
    place = dataset.describe(30)
    part = prepared / place["file"]
    data = bytearray(part.read_bytes())
    before = hashlib.sha256(data).hexdigest()
    data[place["image_start"] + 100] ^= 1
    part.write_bytes(data)
    with pytest.raises(UserError, match=part.name):
        content_digest(dataset)
    data[place["image_start"] + 100] ^= 1
    part.write_bytes(data)
    assert hashlib.sha256(part.read_bytes()).hexdigest() == before


def test_what_is_no_dataset_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["show", str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
