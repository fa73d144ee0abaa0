"""Flow that was computed elsewhere is read as it is, and its files are found."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from rtnet.data.flow_files import check_pattern, flow_file, has_views, read_flo, read_flow_picture, write_flo
from rtnet.data.flow_picture import flow_picture
from rtnet.data.images import encode_png
from rtnet.errors import UserError
from tests.conftest import SHARED_DATA

FLOW = (np.random.default_rng(0).normal(size=(33, 120, 2)) * 30).astype(np.float32)
needs_true_flow = pytest.mark.skipif(SHARED_DATA is None, reason="needs real frames with their true flow")


def test_flo_files_come_back_bit_for_bit(tmp_path: Path) -> None:
    flow = FLOW
    write_flo(tmp_path / "a.flo", flow)
    assert np.array_equal(read_flo(tmp_path / "a.flo"), flow)
    assert (tmp_path / "a.flo").read_bytes()[:4] == b"PIEH"
    assert cv2.readOpticalFlow(str(tmp_path / "a.flo")).shape == flow.shape


@needs_true_flow
def test_flo_files_are_read_as_opencv_reads_them() -> None:
    assert SHARED_DATA is not None
    for name in ("RubberWhale_flow10.flo", "00001_flow.flo"):
        path = SHARED_DATA / "flow" / name
        assert np.array_equal(read_flo(path), cv2.readOpticalFlow(str(path)))


@pytest.mark.parametrize("cut", [0, 3, 11, 50])
def test_a_flo_file_cut_short_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    write_flo(tmp_path / "a.flo", FLOW)
    (tmp_path / "b.flo").write_bytes((tmp_path / "a.flo").read_bytes()[:cut])
    with pytest.raises(UserError, match=r"b\.flo: not a whole"):
        read_flo(tmp_path / "b.flo")


def test_a_flo_file_becomes_a_picture_and_a_picture_stays_one(tmp_path: Path) -> None:
    write_flo(tmp_path / "a.flo", FLOW)
    assert np.array_equal(read_flow_picture(tmp_path / "a.flo", FLOW.shape[:2]), flow_picture(FLOW))
    (tmp_path / "a.png").write_bytes(encode_png(flow_picture(FLOW)))
    assert np.array_equal(read_flow_picture(tmp_path / "a.png", FLOW.shape[:2]), flow_picture(FLOW))
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:-50])
    for name in ("b.png", "c.png", "c.flo"):
        with pytest.raises(UserError, match=name):
            read_flow_picture(tmp_path / name, FLOW.shape[:2])


@pytest.mark.parametrize(("size", "fits"), [((66, 240), True), ((17, 60), True), ((33, 90), False), ((120, 33), False)])
def test_flow_is_of_its_frames_proportions(tmp_path: Path, size: tuple[int, int], fits: bool) -> None:
    write_flo(tmp_path / "a.flo", FLOW)
    if fits:
        assert read_flow_picture(tmp_path / "a.flo", size).shape == (*FLOW.shape[:2], 3)
    else:
        with pytest.raises(UserError, match=rf"a\.flo: 120 x 33, and its frame is {size[1]} x {size[0]}"):
            read_flow_picture(tmp_path / "a.flo", size)


def test_flow_of_which_nothing_is_known_is_refused(tmp_path: Path) -> None:
    for value in (np.nan, 2e9):
        write_flo(tmp_path / "a.flo", np.full_like(FLOW, value))
        with pytest.raises(UserError, match=r"a\.flo: no pixel"):
            read_flow_picture(tmp_path / "a.flo", FLOW.shape[:2])


def test_a_pattern_gives_each_flow_its_file_whatever_is_in_the_names() -> None:
    pattern = "/flow/{view}/{sequence}/{frame}_{neighbour}.flo"
    assert has_views(pattern) and not has_views("/flow/{frame}.flo")
    path = flow_file(pattern, "a.b {frame}", "0 1", "0.2", "both")
    assert path == Path("/flow/both/a.b {frame}/0 1_0.2.flo")


@pytest.mark.parametrize("pattern", ["/x/{name}.flo", "/x/{sequence}.flo", "/x/{frame.flo", "/x/flow.flo"])
def test_a_pattern_that_cannot_tell_frames_apart_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="flow files"):
        check_pattern(pattern)
    check_pattern("/x/{frame}.flo")
