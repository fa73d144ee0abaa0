"""One training under fire, for faults.py: the command, the parts of its run, the processes that are killed in them.

This process adopts its descendants' orphans (Linux's child subreaper). So whatever a kill leaves behind, of however
many sessions of Ray, stays below it, and no other program's process is ever met.
"""

import ctypes
import math
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipelines.run_folder import RunFolder

PARTS: Mapping[str, float] = {  # about their seconds, on two cores
    "start-up": 25.0,
    "first steps": 2.5,
    "within an epoch": 3.0,
    "a checkpoint": 0.3,
    "validation": 1.5,
    "an epoch's end": 0.5,
    "registration": 6.0,
}
VICTIMS = ("worker", "driver", "raylet", "GCS", "SIGTERM", "SIGINT")
_PR_SET_CHILD_SUBREAPER = 36
_PATIENCE_S = 900.0  # for a part of the run to come, on a machine that is busy with other things
_STUCK_S = 300.0  # for a driver to end that something was done to


@dataclass(frozen=True)
class Kill:
    """Whom, and when: `place`, in [0, 1), of the part's length after it has begun."""

    part: str
    victim: str
    place: float


@dataclass(frozen=True)
class Struck:
    """A kill that was done."""

    part: str
    victim: str  # the driver where there was no process of the kind that was meant
    step: int  # which the newest checkpoint had reached
    seconds: float  # until the driver ended; 0 where it went on
    status: int | None  # with which it ended


@dataclass
class FaultRun:
    """A command that is begun again after each end until the training is finished."""

    command: list[str]
    environment: Mapping[str, str]
    folder: RunFolder
    steps_per_epoch: int
    epochs: int
    log: Path
    starts: int = 0
    struck: list[Struck] = field(default_factory=list)
    _buried: float = 0.0

    def run(self, kills: list[Kill]) -> None:
        """SystemExit where it makes no progress, or ends before all kills are done; nothing is left running then."""
        adopt_orphans()
        try:
            self._start()
            for kill in kills:
                self._await(kill)
                self._strike(kill)
            while self._wait_for_end(math.inf) or not self._finished():
                self._start()
        except BaseException:
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):
                    process.kill()
            raise

    def _start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            self._driver = subprocess.Popen(
                self.command, stdout=log, stderr=log, env=self.environment, start_new_session=True
            )
        self._look_anew()

    def _look_anew(self) -> None:
        """What the log and the folder hold by now tells nothing of what comes."""
        self._read = self.log.stat().st_size
        self._steps_before = self._steps()

    def _await(self, kill: Kill) -> None:
        begun: float | None = None
        deadline = time.monotonic() + _PATIENCE_S
        while begun is None or time.monotonic() < begun + kill.place * PARTS[kill.part]:
            if self._driver.poll() is not None:
                if self._finished():
                    raise SystemExit(f"the training ended before {kill}: give it more epochs or fewer kills")
                begun = None
                self._start()
            elif begun is None and self._has_begun(kill.part):
                begun = time.monotonic()
            if time.monotonic() > deadline:
                raise SystemExit(f"no {kill.part} within {_PATIENCE_S:.0f} s: see {self.log}")
            self._pause(0.01)

    def _has_begun(self, part: str) -> bool:
        with self.log.open("rb") as log:
            log.seek(self._read)
            said = log.read().decode(errors="replace")
        if part == "first steps":
            return "continuing " in said or self._steps() > self._steps_before
        if part == "within an epoch":
            return self._steps() > self._steps_before and bool(self.folder.steps())
        if part == "a checkpoint":
            return any(Path(self.folder.uri).rglob("*.pt.*.part"))
        if part == "validation":
            return f"step {self.steps_per_epoch}/{self.steps_per_epoch}" in said
        epochs = self.folder.epochs()
        if part == "an epoch's end":
            return Path(self.folder.uri, f"measured/{max(epochs, default=0) + 1:04d}").exists()
        return part == "start-up" or self.epochs in epochs

    def _strike(self, kill: Kill) -> None:
        found = [self._driver.pid] if kill.victim in ("driver", "SIGTERM", "SIGINT") else self._pids(kill.victim)
        victim, pid = (kill.victim, found[0]) if found else ("driver", self._driver.pid)
        step, started, status = self._steps(), time.monotonic(), None
        with suppress(ProcessLookupError):
            os.kill(pid, getattr(signal, victim, signal.SIGKILL))
        if victim != "worker":
            status = self._wait_for_end(_STUCK_S)
        self.struck.append(Struck(kill.part, victim, step, round(time.monotonic() - started, 1), status))
        print(f"{len(self.struck)}: {self.struck[-1]}", flush=True)
        if victim == "worker":
            self._look_anew()
        else:
            self._start()

    def _pids(self, kind: str) -> list[int]:
        found = []
        for process in psutil.Process(self._driver.pid).children(recursive=True):
            with suppress(psutil.Error):
                title = " ".join(process.cmdline()[:1])
                if kind == _KINDS.get(process.name()) or (kind == "worker" and "TrainWorker" in title):
                    found.append(process.pid)
        return found

    def _wait_for_end(self, patience: float) -> int:
        """The driver's status."""
        deadline = time.monotonic() + patience
        while self._driver.poll() is None:
            if time.monotonic() > deadline:
                raise SystemExit(f"the driver hangs: see {self.log}")
            self._pause(0.05)
        return self._driver.returncode

    def _pause(self, seconds: float) -> None:
        """Also buries the orphans: to a process that looks for its parent, one that nobody buries is alive."""
        time.sleep(seconds)
        if time.monotonic() < self._buried + 1:
            return
        self._buried = time.monotonic()
        for child in psutil.Process().children():
            with suppress(psutil.Error, ChildProcessError):
                if child.pid != self._driver.pid and child.status() == psutil.STATUS_ZOMBIE:
                    os.waitpid(child.pid, os.WNOHANG)

    def _finished(self) -> bool:
        return self.folder.read("finished.json") is not None

    def _steps(self) -> int:
        return max([0, *self.folder.steps(), *(epoch * self.steps_per_epoch for epoch in self.folder.epochs())])


_KINDS = {"raylet": "raylet", "gcs_server": "GCS"}


def adopt_orphans() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def left_behind(patience: float) -> list[str]:
    """The command lines of all descendants that still live after so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = psutil.Process().children(recursive=True)
        if not left or time.monotonic() > deadline:
            return [_title(process) for process in left]
        time.sleep(0.2)


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()) or process.name()
    except psutil.Error:
        return "gone"
