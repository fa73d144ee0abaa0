"""Flow points where things go, is the same on every run, and its pictures are those of the Middlebury colour wheel."""

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rtnet.data.flips import flip
from rtnet.data.flow import (
    DIS_PRESETS,
    FlowEstimator,
    dis,
    flow_picture,
    neighbour_flows,
    raft,
    read_flo,
    write_flo,
)
from rtnet.data.images import decode_image
from rtnet.data.layouts import davis16
from rtnet.errors import UserError
from tests.conftest import SHARED_DATA

Picture = NDArray[np.uint8]
Flow = NDArray[np.float32]
needs_true_flow = pytest.mark.skipif(SHARED_DATA is None, reason="needs real frames with their true flow")


def _textured(height: int, width: int, seed: int = 0) -> Picture:
    noise = np.random.default_rng(seed).random((height // 6 + 2, width // 6 + 2, 3)).astype(np.float32)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1) * 255, np.uint8)


@pytest.fixture(scope="module")
def frames(davis480: Path) -> list[Picture]:
    return [decode_image(frame.image.read_bytes()) for frame in davis16(davis480)[0].frames[:3]]


@pytest.fixture(scope="module")
def rubber_whale() -> tuple[Picture, Picture, Flow]:
    assert SHARED_DATA is not None
    folder = SHARED_DATA / "flow"
    first, second = (decode_image((folder / f"RubberWhale_frame{number}.png").read_bytes()) for number in (10, 11))
    return first, second, read_flo(folder / "RubberWhale_flow10.flo")


# Anchoring


def _difference(first: Picture, second: Picture) -> Flow:
    """A stand-in for an estimator: it tells which frame came first and which second."""
    return np.array([[[first[0, 0, 0], second[0, 0, 0]]]], np.float32)


def test_forward_is_to_the_next_frame_and_backward_to_the_last_both_from_the_frame_itself() -> None:
    pictures = [np.full((16, 16, 3), number, np.uint8) for number in range(4)]
    results = list(neighbour_flows(pictures, _difference))
    assert [frame[0, 0, 0] for frame, _, _ in results] == [0, 1, 2, 3]
    assert [None if flow is None else flow[0, 0].tolist() for _, flow, _ in results] == [[0, 1], [1, 2], [2, 3], None]
    assert [None if flow is None else flow[0, 0].tolist() for _, _, flow in results] == [None, [1, 0], [2, 1], [3, 2]]


def test_a_single_frame_has_no_flow_and_no_frames_give_nothing() -> None:
    picture = _textured(16, 16)
    assert [(forward, backward) for _, forward, backward in neighbour_flows([picture], dis())] == [(None, None)]
    assert list(neighbour_flows([], dis())) == []


def test_frames_are_read_only_as_they_are_needed() -> None:
    read: list[int] = []

    def reading() -> Iterator[Picture]:
        for number in range(100):
            read.append(number)
            yield np.full((16, 16, 3), number, np.uint8)

    results = neighbour_flows(reading(), _difference)
    next(results), next(results)
    assert read == [0, 1, 2]


def test_frames_that_differ_in_size_are_refused() -> None:
    with pytest.raises(UserError, match=r"\(16, 16\), then \(16, 20\)"):
        list(neighbour_flows([_textured(16, 16), _textured(16, 20)], dis()))


# DIS


@pytest.mark.parametrize("preset", DIS_PRESETS)
def test_dis_finds_a_shift_with_its_sign_right_and_down_positive(preset: str) -> None:
    scene = _textured(120, 160)
    first, second = scene[10:100, 10:140], scene[8:98, 15:145]  # what is seen moves left by 5 and down by 2
    flow = dis(preset)(first, second)
    assert flow.dtype == np.float32
    assert flow.shape == (90, 130, 2)
    assert np.allclose(np.median(flow, (0, 1)), (-5, 2), atol=0.2)
    ((_, forward, _), (_, _, backward)) = neighbour_flows([first, second], dis(preset))
    assert forward is not None
    assert backward is not None
    assert np.array_equal(forward, flow)
    assert np.allclose(np.median(backward, (0, 1)), (5, -2), atol=0.2)


@needs_true_flow
@pytest.mark.parametrize(("preset", "bound"), [("ultrafast", 0.6), ("fast", 0.5), ("medium", 0.25)])
def test_dis_errs_by_less_than_a_pixel_on_rubber_whale(
    rubber_whale: tuple[Picture, Picture, Flow], preset: str, bound: float
) -> None:
    first, second, true = rubber_whale
    known = (np.abs(true) < 1e9).all(2)
    error = np.linalg.norm(dis(preset)(first, second) - true, axis=2)[known]
    still = np.linalg.norm(true, axis=2)[known]
    assert error.mean() < bound < still.mean() / 2  # zero flow would err by 1.26


@pytest.mark.parametrize("preset", DIS_PRESETS)
def test_dis_gives_the_same_bits_with_any_number_of_threads(frames: list[Picture], preset: str) -> None:
    threads = cv2.getNumThreads()
    results = []
    try:
        for number in (1, 2, 3, 7):
            cv2.setNumThreads(number)
            results.append(dis(preset)(frames[0], frames[1]))
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(result, results[0]) for result in results)


def test_dis_remembers_nothing_of_earlier_frames(frames: list[Picture]) -> None:
    estimate = dis("medium")
    expected = estimate(frames[0], frames[1])
    estimate(frames[1], frames[2])
    assert np.array_equal(estimate(frames[0], frames[1]), expected)


def test_dis_of_mirrored_frames_is_the_mirrored_motion_though_not_bit_for_bit(frames: list[Picture]) -> None:
    straight = dis()(frames[0], frames[1])
    mirrored = dis()(flip(frames[0], "horizontal"), flip(frames[1], "horizontal"))
    expected = flip(straight, "horizontal") * np.array([-1, 1], np.float32)
    assert not np.array_equal(mirrored, expected)
    assert np.median(np.linalg.norm(mirrored - expected, axis=2)) < 0.5


def test_at_a_working_height_flow_has_that_size_and_is_in_its_pixels() -> None:
    scene = _textured(250, 420)
    first, second = scene[10:210, 10:360], scene[10:210, 18:368]
    ((frame, forward, _), _) = neighbour_flows([first, second], dis(), height=100)
    assert frame is first
    assert forward is not None
    assert forward.shape == (100, 175, 2)
    assert np.allclose(np.median(forward, (0, 1)), (-4, 0), atol=0.2)


def test_frames_are_reduced_by_area_averaging() -> None:
    stripes = np.zeros((40, 60, 3), np.uint8)
    stripes[:, ::2] = 200
    ((_, forward, _), _) = neighbour_flows([stripes, stripes], _difference, height=20)
    assert forward is not None
    assert forward.tolist() == [[[100, 100]]]


def test_a_frame_too_small_for_dis_is_refused() -> None:
    with pytest.raises(UserError, match="at least 12 x 12"):
        dis()(_textured(8, 100), _textured(8, 100))


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(UserError, match="'slow': one of ultrafast, fast, medium"):
        dis("slow")


# RAFT, with random weights: its arithmetic is torchvision's, ours is what goes in and comes out


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine RAFT's threads mostly wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def small_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchvision.models.optical_flow import raft_small

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("raft") / "small.pth"
    torch.save(raft_small(weights=None).state_dict(), path)
    return path


@pytest.mark.parametrize("size", [(128, 136), (131, 90)])
def test_raft_gives_what_torchvision_gives_for_frames_padded_to_its_sizes(
    small_weights: Path, size: tuple[int, int]
) -> None:
    from torchvision.models.optical_flow import Raft_Small_Weights, raft_small

    height, width = size
    first, second = _textured(height, width, 1), _textured(height, width, 2)
    model = raft_small(weights=None).eval()
    model.load_state_dict(torch.load(small_weights, weights_only=True))
    below, beside = max(-height % 8, 128 - height), max(-width % 8, 128 - width)
    padded = [np.pad(frame, ((0, below), (0, beside), (0, 0)), mode="edge") for frame in (first, second)]
    tensors = [torch.from_numpy(frame).permute(2, 0, 1)[None] for frame in padded]
    with torch.inference_mode():
        expected = model(*Raft_Small_Weights.DEFAULT.transforms()(*tensors))[-1][0].permute(1, 2, 0)
    flow = raft("small", str(small_weights))(first, second)
    assert flow.dtype == np.float32
    assert flow.shape == (height, width, 2)
    torch.testing.assert_close(torch.from_numpy(flow), expected[:height, :width], atol=1e-4, rtol=1e-4)


def _no_network(*arguments: object, **options: object) -> None:
    raise URLError("no route to host")


def test_weights_that_cannot_be_downloaded_are_an_error_that_says_how_to_get_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", _no_network)
    for size, weights, entry in (
        ("large", None, Raft_Large_Weights.DEFAULT),
        ("small", "default", Raft_Small_Weights.DEFAULT),
        ("large", "C_T_V1", Raft_Large_Weights.C_T_V1),
    ):
        with pytest.raises(UserError, match="no route to host") as error:
            raft(size, weights)
        assert entry.url in str(error.value)
        assert "path" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_download_by_name_is_fetched_once_with_its_checksum_and_then_found(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, small_weights: Path
) -> None:
    from torchvision.models.optical_flow import Raft_Small_Weights

    calls = []

    def fetch(url: str, path: str, checksum: str, progress: bool) -> None:
        calls.append((url, checksum))
        Path(path).write_bytes(small_weights.read_bytes())

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    by_name, again = raft("small", "c_t_v2"), raft("small")
    url = Raft_Small_Weights.C_T_V2.url
    assert calls == [(url, url.removesuffix(".pth").split("-")[-1])]
    assert by_name.digest == again.digest == raft("small", str(small_weights)).digest


def test_a_weights_file_that_is_missing_broken_or_of_another_network_is_named(
    tmp_path: Path, small_weights: Path
) -> None:
    (tmp_path / "noise.pth").write_bytes(b"noise")
    torch.save([1, 2], tmp_path / "list.pth")
    for size, path, reason in (
        ("small", tmp_path / "absent.pth", "no such file"),
        ("small", tmp_path / "noise.pth", "can't read"),
        ("small", tmp_path / "list.pth", "not weights of raft_small"),
        ("large", small_weights, "not weights of raft_large"),
    ):
        with pytest.raises(UserError, match=reason) as error:
            raft(size, str(path))
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_weights_that_would_run_code_are_not_run(tmp_path: Path) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
            return Path.touch, (tmp_path / "ran",)

    torch.save({"weight": Touch()}, tmp_path / "bad.pth")
    with pytest.raises(UserError, match="can't read"):
        raft("small", str(tmp_path / "bad.pth"))
    assert not (tmp_path / "ran").exists()


def test_an_unknown_raft_is_refused() -> None:
    with pytest.raises(UserError, match="'huge': one of large, small"):
        raft("huge")


# Identity


def test_a_digest_tells_methods_options_and_weights_apart_and_nothing_else(small_weights: Path, tmp_path: Path) -> None:
    other = torch.load(small_weights, weights_only=True)
    next(iter(other.values())).add_(1)
    torch.save(other, tmp_path / "other.pth")
    estimators = [dis(preset) for preset in DIS_PRESETS]
    estimators += [raft("small", str(small_weights)), raft("small", str(tmp_path / "other.pth"))]
    assert len({estimator.digest for estimator in estimators}) == len(estimators)
    assert dis("fast").digest == dis("fast").digest
    (tmp_path / "copy.pth").write_bytes(small_weights.read_bytes())
    assert raft("small", str(tmp_path / "copy.pth")).digest == estimators[3].digest
    assert [estimator.name for estimator in estimators[1:4]] == ["dis-fast", "dis-medium", "raft-small"]


def test_estimators_can_be_sent_to_another_process(small_weights: Path) -> None:
    first, second = _textured(40, 50, 1), _textured(40, 50, 2)
    copy: FlowEstimator = pickle.loads(pickle.dumps(dis("fast")))
    assert np.array_equal(copy(first, second), dis("fast")(first, second))
    estimator = raft("small", str(small_weights))
    assert pickle.loads(pickle.dumps(estimator)).digest == estimator.digest


# Pictures


def _field(kind: str) -> Flow:
    rng = np.random.default_rng(0)
    v, u = np.mgrid[-40:40, -60:60].astype(np.float32)
    fields = {
        "every direction": np.dstack([u, v]),
        "noise": rng.normal(size=(80, 120, 2)) * 30,
        "slow": rng.normal(size=(80, 120, 2)) * 0.3,
    }
    return fields[kind].astype(np.float32)


@pytest.mark.parametrize("kind", ["every direction", "noise", "slow"])
def test_flow_pictures_agree_with_torchvision(kind: str) -> None:
    from torchvision.utils import flow_to_image

    flow = _field(kind)
    expected = flow_to_image(torch.from_numpy(flow).permute(2, 0, 1)).permute(1, 2, 0).numpy()
    difference = np.abs(flow_picture(flow).astype(int) - expected)
    # torchvision adds 1e-7 to the radius where the published pictures add 1e-5: a level may round the other way.
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.005


def test_zero_flow_is_white() -> None:
    assert np.array_equal(flow_picture(np.zeros((5, 7, 2), np.float32)), np.full((5, 7, 3), 255))


@pytest.mark.parametrize(
    ("direction", "colour"),
    [((1, 0), (255, 0, 0)), ((0, 1), (255, 229, 0)), ((-1, 0), (0, 209, 255)), ((0, -1), (88, 0, 255))],
    ids=["right is red", "down is yellow", "left is cyan", "up is violet"],
)
def test_the_wheels_colours_lie_where_baker_et_al_put_them(
    direction: tuple[int, int], colour: tuple[int, int, int]
) -> None:
    picture = flow_picture(np.full((2, 2, 2), direction, np.float32) * 3)
    assert np.abs(picture.astype(int) - colour).max() <= 1


def test_a_flow_and_its_double_give_the_same_picture() -> None:
    flow = _field("noise")
    assert np.abs(flow_picture(flow).astype(int) - flow_picture(2 * flow)).max() <= 1


def test_unknown_flow_is_black_and_does_not_dim_the_rest() -> None:
    flow = _field("noise")
    known = flow_picture(flow)
    holes = flow.copy()
    for row, value in enumerate((1.7e9, -1.7e9, np.nan, np.inf, -np.inf)):
        holes[row + 10, 5:9, row % 2] = value
    picture = flow_picture(holes)
    black = np.zeros(flow.shape[:2], bool)
    black[10:15, 5:9] = True
    assert not picture[black].any()
    assert np.linalg.norm(flow[black], axis=1).max() < np.linalg.norm(flow, axis=2).max()
    assert np.array_equal(picture[~black], known[~black])
    assert not flow_picture(np.full((3, 4, 2), np.nan, np.float32)).any()


@needs_true_flow
def test_a_true_flow_is_drawn_as_torchvision_draws_it_where_it_is_known(
    rubber_whale: tuple[Picture, Picture, Flow],
) -> None:
    from torchvision.utils import flow_to_image

    flow = rubber_whale[2]
    known = np.linalg.norm(flow, axis=2) < 1e9
    assert 0 < (~known).sum() < known.sum()
    picture = flow_picture(flow)
    filled = torch.from_numpy(np.where(known[..., None], flow, 0)).permute(2, 0, 1)
    expected = flow_to_image(filled).permute(1, 2, 0).numpy()
    assert np.abs(picture.astype(int) - expected)[known].max() <= 1
    assert not picture[~known].any()


# Files


def test_flo_files_come_back_bit_for_bit(tmp_path: Path) -> None:
    flow = _field("noise")[:33]
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
    write_flo(tmp_path / "a.flo", _field("slow"))
    (tmp_path / "b.flo").write_bytes((tmp_path / "a.flo").read_bytes()[:cut])
    with pytest.raises(UserError, match=r"b\.flo: not a whole"):
        read_flo(tmp_path / "b.flo")
