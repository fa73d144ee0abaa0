"""`rtnet segment`: what it writes against a plain loop; whole or not at all; one line for each mistake."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

import rtnet.segmenter
from pipelines import cli, memory
from pipelines.clip_sheet import ClipSheet
from rtnet.checkpoint import save_model
from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.data.footage import footage_of_pictures, open_footage
from rtnet.data.images import decode_image, decode_mask, overlay
from rtnet.data.video_writer import VideoWriter
from rtnet.model.network import build_network
from rtnet.prediction import grey_levels
from rtnet.segmenter import Segmenter
from tests.networks import random_network

FRAMES, HEIGHT, WIDTH = 6, 45, 63
RATE = Fraction(30000, 1001)
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip/ with six frames, clip.mp4 of them, model.safetensors."""
    root = tmp_path_factory.mktemp("segment")
    write_clip(root / "davis", {"val": ["drift"]}, frames=FRAMES, height=HEIGHT, width=WIDTH)
    (root / "davis/JPEGImages/480p/drift").rename(root / "clip")
    _video(root / "clip.mp4", _pictures(root / "clip"))
    save_model(root / "model.safetensors", random_network("resnet18").float())
    return root


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Segmenter]:
    """Every network is loaded once, and sees frames at 48 x 84 where no height is given."""
    real = rtnet.segmenter.load

    def load(path: Path, height: int = 384) -> Segmenter:
        key = str(path)
        if key not in _LOADED:
            _LOADED[key] = real(path)
        height = 48 if height == 384 else height
        return replace(_LOADED[key], size=(height, int(1.75 * height)))

    monkeypatch.setattr(rtnet.segmenter, "load", load)
    return load


_LOADED: dict[str, Segmenter] = {}


def _pictures(folder: Path) -> list[np.ndarray]:
    return [decode_image(path.read_bytes()) for path in sorted(folder.iterdir())]


def _video(
    path: Path,
    pictures: list[np.ndarray],
    turn: int | None = None,
    mirrored: bool = False,
    times: list[int] | None = None,
) -> Path:
    """Encoded by PyAV alone, of even size; with a display matrix, and with times in hundredths of a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"crf": "1"})
        height, width = (length + length % 2 for length in pictures[0].shape[:2])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        if turn is not None:
            stream.set_display_rotation(turn, hflip=mirrored)
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for number, picture in enumerate(pictures):
            padding = ((0, height - picture.shape[0]), (0, width - picture.shape[1]), (0, 0))
            frame = av.VideoFrame.from_ndarray(np.pad(picture, padding, mode="edge"), format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[number], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def _decoded(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _segment(root: Path, *words: str | Path) -> int:
    return cli.main(["segment", *map(str, words), "--model", str(root / "model.safetensors")])


def _line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.splitlines()
    return line


def _visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def _nothing_in(folder: Path) -> bool:
    return not folder.exists() or not list(folder.iterdir())


def test_masks_maps_and_overlays_are_those_of_a_plain_loop(
    root: Path, tmp_path: Path, small: Callable[[Path], Segmenter]
) -> None:
    frames = _decoded(root / "clip.mp4")
    maps = list(small(root / "model.safetensors").segment(frames))
    threshold = float(np.median(np.stack(maps)).round(3))
    output = tmp_path / "out.mp4"
    assert _segment(root, root / "clip.mp4", "--output", output, "--maps", "--threshold", str(threshold)) == 0
    names = [f"{number:05d}.png" for number in range(FRAMES)]
    assert sorted(path.name for path in (tmp_path / "out-masks").iterdir()) == names
    shown = _decoded(output)
    assert len(shown) == FRAMES
    far_from_overlays, far_from_frames = 0.0, 0.0
    for name, frame, map_, seen in zip(names, frames, maps, shown, strict=True):
        mask = map_ > threshold
        assert mask.any() and not mask.all()
        assert np.array_equal(decode_mask((tmp_path / "out-masks" / name).read_bytes()), mask)
        grey = cv2.imread(str(tmp_path / "out-maps" / name), cv2.IMREAD_UNCHANGED)
        assert grey is not None and np.array_equal(grey, grey_levels(map_))
        far_from_overlays += _distance(_halved(seen), _halved(overlay(frame, mask)))
        far_from_frames += _distance(_halved(seen), _halved(frame))
    assert far_from_overlays < 0.6 * far_from_frames
    assert _visible(tmp_path) == ["out-maps", "out-masks", "out-sheet.jpg", "out.mp4"]


def test_the_video_is_what_browsers_play_at_the_rate_of_the_original(root: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.mp4"
    assert _segment(root, root / "clip.mp4", "--output", output) == 0
    with av.open(str(output)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert (stream.frames, stream.average_rate, stream.height, stream.width) == (FRAMES, RATE, 46, 64)
    data = output.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # plays before all of it is there


def test_a_folder_keeps_its_names_and_its_odd_size(root: Path, tmp_path: Path) -> None:
    frames = tmp_path / "odd"
    frames.mkdir()
    for number, path in enumerate(sorted((root / "clip").iterdir())):
        (frames / f"frame{number + 8}.jpg").write_bytes(path.read_bytes())  # frame8, frame9, frame10: a natural order
    assert _segment(root, frames, "--output", tmp_path / "out.mp4", "--rate", "12.5") == 0
    masks = sorted((tmp_path / "out-masks").iterdir(), key=lambda path: int(path.stem.removeprefix("frame")))
    assert [path.stem for path in masks] == [f"frame{number + 8}" for number in range(FRAMES)]
    assert decode_mask(masks[0].read_bytes()).shape == (HEIGHT, WIDTH)
    shown = _decoded(tmp_path / "out.mp4")
    assert shown[0].shape == (HEIGHT + 1, WIDTH + 1, 3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].average_rate == Fraction(25, 2)
    assert _segment(root, frames / "*.jpg", "--output", tmp_path / "pattern.mp4", "--rate", "12.5") == 0
    for path in masks:
        assert (tmp_path / "pattern-masks" / path.name).read_bytes() == path.read_bytes()


def test_height_is_what_the_network_sees(root: Path, tmp_path: Path, small: Callable[[Path], Segmenter]) -> None:
    segmenter = replace(small(root / "model.safetensors"), size=(40, 70))
    options = ("--output", tmp_path / "out.mp4", "--maps", "--height", "40")
    assert _segment(root, root / "clip", *options) == 0
    for path, map_ in zip(
        sorted((tmp_path / "out-maps").iterdir()), segmenter.segment(_pictures(root / "clip")), strict=True
    ):
        assert np.array_equal(decode_image(path.read_bytes())[..., 0], grey_levels(map_))


@pytest.mark.parametrize("turn", [-90, 90, 180])
def test_a_phones_video_is_upright_as_opencv_shows_it(root: Path, tmp_path: Path, turn: int) -> None:
    video = _video(tmp_path / "phone.mp4", _pictures(root / "clip"), turn)
    capture = cv2.VideoCapture(str(video))
    for frame in open_footage(video).frames():
        done, bgr = capture.read()
        assert done and bgr.shape == frame.picture.shape
        assert _distance(frame.picture, np.asarray(bgr[..., ::-1])) < 3


def test_a_mirrored_and_turned_video_is_shown_as_its_matrix_says(root: Path, tmp_path: Path) -> None:
    stored = _decoded(_video(tmp_path / "plain.mp4", _pictures(root / "clip")))[0]
    (frame, *_) = open_footage(_video(tmp_path / "mirrored.mp4", _pictures(root / "clip"), -90, mirrored=True)).frames()
    turned = np.rot90(stored, 3)
    assert min(_distance(frame.picture, turned[:, ::-1]), _distance(frame.picture, turned[::-1])) < 1


def test_frames_keep_times_that_vary(root: Path, tmp_path: Path) -> None:
    times = [0, 4, 8, 30, 31, 60]
    video = _video(tmp_path / "vary.mp4", _pictures(root / "clip"), times=times)
    assert _segment(root, video, "--output", tmp_path / "out.mp4") == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx([t / 100 for t in times], abs=1e-4)


def test_sound_is_copied_or_said_to_be_left_out(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for codec, name in (("aac", "loud.mp4"), ("pcm_s16le", "raw.mkv")):
        _with_sound(tmp_path / name, _pictures(root / "clip"), codec)
        assert _segment(root, tmp_path / name, "--output", tmp_path / f"out-{name}.mp4") == 0
    assert _packets(tmp_path / "out-loud.mp4.mp4") == _packets(tmp_path / "loud.mp4") != []
    assert _packets(tmp_path / "out-raw.mkv.mp4") == []
    assert "without sound: pcm_s16le" in capsys.readouterr().out


def test_several_clips_continue_and_a_broken_one_stops_none(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clips, output = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    (clips / "a.mp4").write_bytes((root / "clip.mp4").read_bytes())
    (clips / "b.mp4").write_text("hello\n" * 100)
    (clips / "c.mp4").write_bytes((root / "clip.mp4").read_bytes())
    assert _segment(root, clips, "--output", output) == 2
    assert "1 of 3 clips" in (line := _line(capsys)) and "b.mp4" in line
    assert _visible(output) == sorted(f"{name}{ending}" for name in "ac" for ending in ("-masks", "-sheet.jpg", ".mp4"))
    before = {path: path.stat().st_mtime_ns for path in output.iterdir()}
    (clips / "b.mp4").write_bytes((root / "clip.mp4").read_bytes())
    assert _segment(root, clips / "*.mp4", "--output", output) == 0
    text = capsys.readouterr().out
    assert text.count("nothing to do") == 2 and (output / "b.mp4").is_file()
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())


def test_what_is_there_is_neither_taken_for_another_result_nor_lost(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (root / "clip.mp4", "--output", tmp_path / "out.mp4")
    (tmp_path / "out-masks").mkdir()
    (tmp_path / "out-masks" / "mine.txt").write_text("mine")
    assert _segment(root, *words) == 2
    assert "out-masks is there already" in _line(capsys)
    assert [path.name for path in tmp_path.rglob("*")] == ["out-masks", "mine.txt"]
    (tmp_path / "out-masks" / "mine.txt").unlink()
    (tmp_path / "out-masks").rmdir()
    assert _segment(root, *words) == 0
    assert _segment(root, _video(tmp_path / "other.mp4", _pictures(root / "clip")[2:]), *words[1:]) == 2
    assert "made of another clip" in _line(capsys)
    (tmp_path / "other.mp4").unlink()
    first = (tmp_path / "out-masks" / "00003.png").read_bytes()
    capsys.readouterr()
    assert _segment(root, *words, "--threshold", "0.9") == 2
    assert "made otherwise" in (line := _line(capsys)) and "threshold 0.5" in line
    assert _segment(root, *words, "--threshold", "0.0", "--overwrite") == 0
    assert (tmp_path / "out-masks" / "00003.png").read_bytes() != first
    assert _visible(tmp_path) == ["out-masks", "out-sheet.jpg", "out.mp4"]


def test_what_was_lost_is_made_anew_and_what_was_changed_is_not_taken_for_whole(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (root / "clip.mp4", "--output", tmp_path / "out.mp4")
    lost = [tmp_path / "out-masks" / "00003.png", tmp_path / "out-sheet.jpg"]
    assert _segment(root, *words) == 0
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
        assert _segment(root, *words) == 0
    assert [path.read_bytes() for path in lost] == before
    capsys.readouterr()
    for path in (tmp_path / "out.mp4", lost[0]):
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        assert _segment(root, *words) == 2
        assert f"{path} was changed since it was made" in _line(capsys)
        path.write_bytes(whole)
    assert _segment(root, *words) == 0
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["rename", "encode"])
def test_a_stop_leaves_nothing_that_looks_whole_and_the_same_command_mends_it(
    root: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (root / "clip.mp4", "--output", tmp_path / "out.mp4")
    with monkeypatch.context() as patched:
        if name == "encode":
            patched.setattr(VideoWriter, "write", _stopped_after(3, VideoWriter.write))
        else:
            patched.setattr(Path, "rename", _stopped_after(2, Path.rename))
        assert _segment(root, *words) == 1
    assert "stopped" in _line(capsys) and not (tmp_path / "out.mp4").exists()
    if name == "encode":
        assert _nothing_in(tmp_path)
    assert _segment(root, *words) == 0
    assert _visible(tmp_path) == ["out-masks", "out-sheet.jpg", "out.mp4"]


def test_one_frame_is_segmented_with_a_word_of_warning(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = _video(tmp_path / "one.mp4", _pictures(root / "clip")[:1])
    assert _segment(root, video, "--output", tmp_path / "out.mp4") == 0
    assert "single frame" in capsys.readouterr().out and len(_decoded(tmp_path / "out.mp4")) == 1


def _cut(path: Path, share: float) -> Callable[[Path], None]:
    return lambda target: _bytes(target, path.read_bytes()[: int(path.stat().st_size * share)])


def _bytes(target: Path, data: bytes) -> None:
    target.write_bytes(data)


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("missing", "no such file"),
        ("empty", "the file is empty"),
        ("text", "not a video that FFmpeg can open"),
        ("no head", "not a video that FFmpeg can open"),
        ("cut", "breaks off after"),
        ("cut mkv", "breaks off after"),
        ("grown", "frame4.png: has 64 x 46 pixels, the first frame 63 x 45"),
        ("tiny", "at least 12 x 12"),
        ("tiny picture", "bad/culprit.png: "),
        ("neither", "neither pictures nor videos"),
        ("both", "pictures and videos"),
    ],
)
def test_what_cannot_be_segmented_is_named_in_one_line_and_leaves_nothing(
    root: Path, tmp_path: Path, case: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    culprit = tmp_path / "culprit.mp4"
    pictures = _pictures(root / "clip")
    if case == "empty":
        culprit.touch()
    elif case == "text":
        culprit.write_text("hello world\n" * 100)
    elif case == "no head":
        data = (root / "clip.mp4").read_bytes()
        culprit.write_bytes(data[: len(data) // 2])
    elif case.startswith("cut"):
        culprit = culprit.with_suffix(".mkv" if case == "cut mkv" else ".mp4")
        whole = tmp_path / "whole" / culprit.name
        whole.parent.mkdir()
        noise = [np.random.default_rng(n).integers(0, 256, (48, 64, 3), np.uint8) for n in range(30)]
        with VideoWriter(whole, footage_of_pictures(whole, [], Fraction(25))) as writer:
            for number, picture in enumerate(noise):
                writer.write(picture, number)
        culprit.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    elif case == "tiny":
        _video(culprit, [picture[:10, :10] for picture in pictures])
    elif case == "tiny picture":
        culprit = tmp_path / "bad" / "culprit.png"
        culprit.parent.mkdir()
        cv2.imwrite(str(culprit), pictures[0][:10, :10])
    elif case in ("grown", "neither", "both"):
        culprit = tmp_path / "culprit"
        culprit.mkdir()
        for number in range(5 if case == "grown" else case == "both"):
            grown = np.pad(pictures[0], ((0, 1), (0, 1), (0, 0))) if number == 4 else pictures[number]
            cv2.imwrite(str(culprit / f"frame{number}.png"), grown)
        if case == "both":
            (culprit / "a.mp4").write_bytes((root / "clip.mp4").read_bytes())
    assert _segment(root, culprit, "--output", tmp_path / "out" / "out.mp4") == 2
    assert words in (line := _line(capsys)) and "culprit" in line
    assert _nothing_in(tmp_path / "out")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output", "OUT.webm"], "*.webm can't hold H.264"),
        (["--output", "/proc/here/out.mp4"], "/proc/here: cannot be written"),
        (["clip2.mp4", "--output", "OUT.mp4"], "there are 2 clips: give a folder"),
        (["--output", "clip.mp4", "--overwrite"], "clip.mp4 is one of the clips and would be lost"),
        (["clip2.mp4", "--output", ".", "--overwrite"], "clip.mp4 is one of the clips and would be lost"),
        (["--output", "OUT.mp4", "--model", "changed.safetensors"], "its weights are not those that were written"),
        (["--output", "OUT.mp4", "--model", "none.safetensors"], "none.safetensors: no such weights file"),
        (["--output", "OUT.mp4", "--model", "damaged.safetensors"], "damaged.safetensors is not a model file"),
        (["--output", "OUT.mp4", "--model", "stream.safetensors"], "holds the appearance stream alone"),
        (["--output", "OUT.mp4", "--model", "graph.ONNX"], "graph.ONNX is an export for ONNX Runtime"),
        (["--output", "OUT.mp4", "--model", "graph.pt2"], "graph.pt2 is an export for torch.export"),
        (["--output", "OUT.mp4", "--model", "models:/rtnet@best"], "no MLflow store at sqlite:///"),
        (["--output", "OUT.mp4", "--model", "models:/rtnet"], "models:/NAME@ALIAS"),
    ],
)
def test_options_that_cannot_be_met_are_named_in_one_line(
    root: Path,
    tmp_path: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in ("clip.mp4", "clip2.mp4"):
        (tmp_path / name).write_bytes((root / "clip.mp4").read_bytes())
    (tmp_path / "damaged.safetensors").write_bytes((root / "model.safetensors").read_bytes()[:5000])
    for name in ("graph.ONNX", "graph.pt2"):
        (tmp_path / name).write_bytes(b"PK")
    changed = bytearray((root / "model.safetensors").read_bytes())
    changed[-8:] = bytes(8)
    (tmp_path / "changed.safetensors").write_bytes(changed)
    if "stream.safetensors" in words:
        save_model(tmp_path / "stream.safetensors", build_network(RTNetConfig("resnet18", streams="appearance")))
    model = [] if "--model" in words else ["--model", str(root / "model.safetensors")]
    tracking = ["--tracking", f"sqlite:///{tmp_path}/none.db"]
    assert cli.main(["segment", "clip.mp4", *words, *model, *tracking]) == 2
    assert said in _line(capsys)
    assert not list(tmp_path.glob("OUT*"))


def test_frames_too_large_for_the_memory_are_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "free_memory", lambda: 300_000_000)
    assert _segment(root, root / "clip.mp4", "--output", tmp_path / "out.mp4") == 2
    assert "frames of 64 x 46 need about" in (line := _line(capsys)) and "0.3 GB are free" in line
    assert _nothing_in(tmp_path)


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    machine = memory.free_memory(tmp_path)
    for name, text in (("max", "3000\n"), ("current", "1000\n"), ("stat", "anon 600\ninactive_file 400\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert memory.free_memory(tmp_path) == 2400 < machine
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free_memory(tmp_path) > 2400


def test_ten_times_the_frames_need_no_more_memory(tmp_path: Path) -> None:
    peaks = [_peak_mb(tmp_path, frames) for frames in (80, 800)]
    assert peaks[1] < peaks[0] + 15  # the frames would be 53 MB, their maps 71


def test_neither_ray_nor_mlflow_is_loaded_with_a_weights_file(root: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pipelines.cli import main
main(["segment", {str(root / "clip.mp4")!r}, "--output", {str(tmp_path / "a.webm")!r}, "--model", "x"])
import pipelines.clip_sheet, pipelines.memory, rtnet.segmenter, rtnet.data.video_writer
print(sorted({{"ray", "mlflow", "pyarrow"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("count", [1, 3, 5, 12, 47, 48, 500])
def test_the_sheet_shows_frames_spread_over_the_clip_whatever_its_length(count: int) -> None:
    sheet = ClipSheet()
    for number in range(count):
        colour = np.full((90, 160, 3), round(255 * number / count), np.uint8)
        sheet.add(str(number), colour if sheet.wants else None)
    picture = decode_image(sheet.jpeg())
    rows, columns = picture.shape[0] // 198, picture.shape[1] // 320
    shown = [
        float(picture[198 * row + 100, 320 * column + 160].mean()) / 255
        for row in range(rows)
        for column in range(columns)
    ][: min(count, 12)]
    assert (rows, columns) == (-(-min(count, 12) // 4), min(count, 4))
    assert shown == pytest.approx(np.linspace(0, shown[-1], len(shown)), abs=0.06)
    assert shown[-1] > 1 - 1.1 / count - 0.07


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean difference of grey levels."""
    return float(np.abs(first.astype(float) - second.astype(float)).mean())


def _halved(picture: np.ndarray) -> np.ndarray:
    """As yuv420p keeps colours: at half the size."""
    return np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))


def _stopped_after(calls: int, function: Callable[..., object]) -> Callable[..., object]:
    left = [calls]

    def stopping(*arguments: object) -> object:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return function(*arguments)

    return stopping


def _with_sound(path: Path, pictures: list[np.ndarray], codec: str) -> None:
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=5)
        video.width, video.height, video.pix_fmt = 64, 46, "yuv420p"
        sound = container.add_stream(codec, rate=16000)
        assert isinstance(sound, av.AudioStream)
        sound.layout = "mono"
        for picture in pictures:
            frame = av.VideoFrame.from_ndarray(np.pad(picture, ((0, 1), (0, 1), (0, 0))), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = (3000 * np.sin(np.arange(1024) / 5)).astype(np.int16)[None]
        for number in range(19):
            piece = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
            piece.sample_rate, piece.pts, piece.time_base = 16000, 1024 * number, Fraction(1, 16000)
            container.mux(sound.encode(piece))
        container.mux(sound.encode())


def _packets(path: Path) -> list[tuple[float, bytes]]:
    """When the sound's packets play, and what they hold."""
    with av.open(str(path)) as container:
        found = []
        for packet in container.demux(audio=0) if container.streams.audio else ():
            if packet.pts is not None and packet.time_base is not None:
                found.append((round(float(packet.pts * packet.time_base), 4), bytes(packet)))
        return found


def _peak_mb(folder: Path, frames: int) -> float:
    """Of a process that segments so many frames of 128 x 192 by maps that cost nothing."""
    code = f"""
import resource
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
import numpy as np
from pipelines.clips import Clip
from pipelines.segment import segment_clip
from pipelines.segment_outputs import Making, Outputs
from rtnet.data.footage import footage_of_pictures
from rtnet.data.video_writer import VideoWriter

class Ahead:
    def segment(self, frames):
        frames = iter(frames)
        ahead = list(islice(frames, 14))
        for frame in chain(ahead, frames):
            yield np.full(frame.shape[:2], frame[0, 0, 0] / 255, np.float32)

video = Path({str(folder / f"{frames}.mp4")!r})
rows = np.arange(128, dtype=np.uint8)[:, None, None] + np.zeros((128, 192, 3), np.uint8)
with VideoWriter(video, footage_of_pictures(video, [], Fraction(25))) as writer:
    for number in range({frames}):
        writer.write(np.roll(rows, number, 0), number)
outputs = Outputs(video.with_name("{frames}-out.mp4"), True)
segment_clip(Ahead(), Clip("a", video), outputs, 0.5, Fraction(25), Making("", ""))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.splitlines()[-1])
