"""One writer at a time, and none that is dead in the way."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import fs

from pipelines import lock
from pipelines.lock import sole_writer
from rtnet.errors import UserError

LOCAL = fs.LocalFileSystem()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_SETTLES", 0.2)


def test_who_comes_second_is_told_who_holds_it(tmp_path: Path) -> None:
    with (
        sole_writer(LOCAL, str(tmp_path), "it"),
        pytest.raises(UserError, match=r"it is being written by process \d+"),
        sole_writer(LOCAL, str(tmp_path), "it"),
    ):
        pass


def test_it_is_free_again_afterwards_also_after_a_failure(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), sole_writer(LOCAL, str(tmp_path), "it"):
        raise KeyboardInterrupt
    with sole_writer(LOCAL, str(tmp_path), "it"):
        assert len(list((tmp_path / "claims").iterdir())) == 1
    assert not list((tmp_path / "claims").iterdir())


def test_of_many_that_come_at_once_exactly_one_wins(tmp_path: Path) -> None:
    outcomes: list[str] = []

    def come() -> None:
        try:
            with sole_writer(LOCAL, str(tmp_path), "it"):
                outcomes.append("won")
                time.sleep(1)
        except UserError:
            outcomes.append("lost")

    threads = [threading.Thread(target=come) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["lost"] * 5 + ["won"]


def test_a_writer_that_was_killed_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pyarrow import fs; from pipelines.lock import sole_writer\n"
        "with sole_writer(fs.LocalFileSystem(), sys.argv[1], 'it'): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(UserError), sole_writer(LOCAL, str(tmp_path), "it"):
        pass
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet waited for
    with sole_writer(LOCAL, str(tmp_path), "it"):
        pass
    other.wait()


@pytest.mark.parametrize(("silent_for", "free"), [(10, False), (1000, True)])
def test_a_writer_on_another_machine_holds_it_while_it_renews_its_claim(
    tmp_path: Path, silent_for: float, free: bool
) -> None:
    claim = {"id": "0", "since": 1.0, "held": True, "host": "elsewhere", "pid": 1, "born": 1.0}
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "0.json").write_text(json.dumps(claim | {"renewed": time.time() - silent_for}))
    if free:
        with sole_writer(LOCAL, str(tmp_path), "it"):
            pass
    else:
        with pytest.raises(UserError, match="elsewhere"), sole_writer(LOCAL, str(tmp_path), "it"):
            pass
