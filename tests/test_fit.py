"""How often a training's workers are begun again."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import fit
from pipelines.config import Experiment, validate
from pipelines.run_folder import RunFolder
from pipelines.tracking import Run
from rtnet.errors import UserError


class LostError(Exception):
    """Stands for what Ray raises when workers die."""


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What each try does: it loses its workers, where True after another checkpoint. After the last, all is done."""
    tries: list[bool] = []

    def try_it(experiment: Experiment, folder: RunFolder, *_: Any) -> Exception | None:
        if not tries:
            return None
        if tries.pop(0):
            folder.write(f"steps/{folder.furthest()[1] + 1:09d}.pt", b"")
        return LostError("the node has died")

    monkeypatch.setattr(fit, "_try", try_it)
    monkeypatch.setattr(fit, "await_room", lambda scaling: None)
    monkeypatch.setattr(fit, "lost_workers", str)
    yield tries


def _fit(folder: Path, max_failures: int) -> None:
    sections = {
        "name": "run",
        "data": {"sources": {"clip": {"layout": "davis16", "path": "clip"}}, "dataset": "dataset"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
        "scaling": {"max_failures": max_failures},
        "storage": str(folder),
    }
    experiment = validate(sections, "test")
    fit.fit(experiment, RunFolder.of(experiment), Run("", ""), [])


def test_a_training_that_gets_further_each_time_outlives_any_number_of_lost_hosts(
    begun: list[bool], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun += [True] * 7
    _fit(tmp_path, max_failures=1)
    assert not begun
    assert capsys.readouterr().out.count("the node has died; it goes on from its newest checkpoint") == 7


def test_a_training_that_gets_no_further_is_given_up_and_says_how_to_go_on(begun: list[bool], tmp_path: Path) -> None:
    begun += [True, False, False, True]
    with pytest.raises(UserError, match=r"has lost its workers, the last time so: the node has died; the same command"):
        _fit(tmp_path, max_failures=2)
    assert begun == [True]


def test_a_training_may_be_forbidden_to_begin_its_workers_again(begun: list[bool], tmp_path: Path) -> None:
    begun += [True]
    with pytest.raises(UserError, match="has lost its workers"):
        _fit(tmp_path, max_failures=0)
