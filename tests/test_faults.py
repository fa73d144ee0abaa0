"""What goes wrong while a dataset is prepared: one line that says so, and nothing good is lost or doubled."""

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import prepare
from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.show import content_digest
from rtnet.data.clip import write_clip
from rtnet.errors import UserError
from tests.recipes import kill_a_worker, preparing

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
NAMES = ("good one", "bad.one")
BAD = f"JPEGImages/480p/{NAMES[1]}"


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_clip(tmp_path / "clip", {"train": NAMES}, frames=5, height=48, width=64)
    return tmp_path / "clip"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digest of the clip's dataset when nothing goes wrong."""
    root = tmp_path_factory.mktemp("undisturbed")
    write_clip(root / "clip", {"train": NAMES}, frames=5, height=48, width=64)
    return _undisturbed(root / "clip")


def _experiment(clip: Path, on_error: str = "stop") -> Experiment:
    return preparing(clip.parent / "dataset", {"clip": clip}, prepare={"on_error": on_error})


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def _other_size(path: Path) -> None:
    cv2.imwrite(str(path), np.zeros((10, 20), np.uint8))


FAULTS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "truncated image": (f"{BAD}/00002.jpg", _truncate),
    "empty image": (f"{BAD}/00002.jpg", lambda path: path.write_bytes(b"")),
    "empty annotation": (f"{BAD}/00002.png".replace("JPEGImages", "Annotations"), lambda path: path.write_bytes(b"")),
    "missing annotation": (f"{BAD}/00002.png".replace("JPEGImages", "Annotations"), Path.unlink),
    "annotation of another size": (f"{BAD}/00002.png".replace("JPEGImages", "Annotations"), _other_size),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_file_stops_or_its_sequence_is_left_out_and_listed(
    clip: Path, undisturbed: str, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, spoil = FAULTS[fault]
    whole = {path: path.read_bytes() for path in clip.rglob("*") if path.is_file()}
    spoil(clip / name)
    with pytest.raises(UserError) as error:
        prepare.run(_experiment(clip))
    assert name in str(error.value) and "\n" not in str(error.value)
    target = clip.parent / "dataset"
    assert not (target / "index.parquet").exists()

    prepare.run(_experiment(clip, "skip"))
    assert set(Dataset(str(target)).column("sequence")) == {NAMES[0]}
    assert name in (target / "provenance.json").read_text()
    assert name in capsys.readouterr().out.split("left out (prepare.on_error=skip)")[-1]
    prepare.run(_experiment(clip, "skip"))
    printed = capsys.readouterr().out
    assert "nothing to do" in printed and name in printed

    (clip / name).write_bytes(whole[clip / name])
    prepare.run(_experiment(clip))
    assert set(Dataset(str(target)).column("sequence")) == set(NAMES)
    assert content_digest(Dataset(str(target))) == undisturbed


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "cut"])
def test_a_part_that_went_missing_since_is_made_again(
    clip: Path, gone: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare.run(_experiment(clip))
    target = clip.parent / "dataset"
    expected, part = content_digest(Dataset(str(target))), next(target.rglob("parts/**/*.parquet"))
    if gone:
        part.unlink()
    else:
        part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    capsys.readouterr()
    prepare.run(_experiment(clip))
    printed = capsys.readouterr().out
    assert "1 parts" in printed and part.name in printed
    assert content_digest(Dataset(str(target))) == expected


def test_a_folder_that_holds_other_things_is_not_written_into(clip: Path) -> None:
    target = clip.parent / "dataset"
    target.mkdir()
    (target / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds mine\.txt"):
        prepare.run(_experiment(clip))
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


def test_a_torn_part_is_made_again(clip: Path) -> None:
    prepare.run(_experiment(clip))
    target = clip.parent / "dataset"
    expected = content_digest(Dataset(str(target)))
    part = next(target.rglob("parts/**/*.parquet"))
    part.write_bytes(part.read_bytes()[: part.stat().st_size // 2])
    with pytest.raises(UserError, match=part.name):
        content_digest(Dataset(str(target)))
    (target / "index.parquet").unlink()  # as the message says
    prepare.run(_experiment(clip))
    assert content_digest(Dataset(str(target))) == expected


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_sequence_that_vanishes_during_the_run(clip: Path, on_error: str, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def vanishing() -> Iterator[None]:
        shutil.rmtree(clip / BAD)
        yield

    monkeypatch.setattr(prepare, "ray_session", vanishing)
    outcome: AbstractContextManager[object] = (
        nullcontext() if on_error == "skip" else pytest.raises(UserError, match=rf"{BAD}.*vanished")
    )
    with outcome:
        prepare.run(_experiment(clip, on_error))
    if on_error == "skip":
        assert set(Dataset(str(clip.parent / "dataset")).column("sequence")) == {NAMES[0]}


def test_workers_killed_ten_times_lose_and_double_nothing(clip: Path) -> None:
    shutil.rmtree(clip)
    write_clip(clip, {"train": NAMES}, frames=33, height=160, width=280)  # so much that it takes longer than the kills
    killed = 0
    finished = threading.Event()

    def kill() -> None:
        nonlocal killed
        while killed < 10 and not finished.wait(0.05):
            killed += kill_a_worker(finished)

    killer = threading.Thread(target=kill)
    killer.start()
    prepare.run(_experiment(clip))
    finished.set()
    killer.join()
    assert killed == 10
    assert content_digest(Dataset(str(clip.parent / "dataset"))) == _undisturbed(clip)


def test_a_part_that_always_kills_its_worker_ends_with_one_line(
    clip: Path, undisturbed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "_TRIES", 1)
    finished = threading.Event()

    def kill() -> None:
        while not finished.wait(0.02):
            kill_a_worker(finished)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        with pytest.raises(UserError, match=r"killed, or ran out of memory, 2 times.*same command continues"):
            prepare.run(_experiment(clip))
    finally:
        finished.set()
        killer.join()
    prepare.run(_experiment(clip))
    assert content_digest(Dataset(str(clip.parent / "dataset"))) == undisturbed


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_said_and_what_is_whole_stays(clip: Path, undisturbed: str) -> None:
    disk = clip.parent / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", str(disk)], check=True)
    try:
        target = disk / "dataset"
        with pytest.raises(UserError, match=r"can't be written \(No space left on device\)"):
            prepare.run(preparing(target, {"clip": clip}))
        assert not (target / "index.parquet").exists()
        assert not list(target.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        prepare.run(preparing(target, {"clip": clip}))
        assert content_digest(Dataset(str(target))) == undisturbed
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


@pytest.mark.parametrize("locked", ["the target", "a sequence's folder"])
def test_an_ordinary_user_is_told_what_may_not_be_read_or_written(clip: Path, locked: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o755)
        shutil.copytree(clip, place / "clip")
        (place / "out").mkdir()
        (place / "out").chmod(0o755 if locked == "the target" else 0o777)
        closed = place / "clip" / BAD
        closed.chmod(0o755 if locked == "the target" else 0o000)
        recipe = place / "recipe.yaml"
        recipe.write_text(_experiment(place / "clip").model_dump_json().replace(f"{place}/dataset", f"{place}/out/ds"))
        done = _as_ordinary_user(recipe)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert (str(place / "out") if locked == "the target" else str(closed)) in line
    assert "ermission denied" in line


def test_the_second_of_two_preparers_says_so_and_the_first_is_not_disturbed(clip: Path, undisturbed: str) -> None:
    errors: list[str] = []

    def run() -> None:
        try:
            prepare.run(_experiment(clip))
        except UserError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 1 and "is being written by process" in errors[0]
    assert content_digest(Dataset(str(clip.parent / "dataset"))) == undisturbed


def _undisturbed(clip: Path) -> str:
    target = clip.parent / "undisturbed"
    prepare.run(preparing(target, {"clip": clip}))
    return content_digest(Dataset(str(target)))


def _as_ordinary_user(recipe: Path) -> subprocess.CompletedProcess[str]:
    """Imports first: the interpreter itself may lie where only root may read."""
    code = (
        "import os, sys, email.parser, encodings.utf_8_sig; from pipelines import cli, prepare; cli._parser()\n"
        "if os.geteuid() == 0: os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "sys.exit(cli.main(['prepare', sys.argv[1]]))"
    )
    command = [sys.executable, "-c", code, str(recipe)]
    return subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
