"""Recipes that tests prepare datasets from, and how they disturb it."""

import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from pipelines.config import Experiment, validate


def preparing(target: Path | str, sources: dict[str, Any], **sections: Any) -> Experiment:
    """An experiment whose dataset is `target`; sources as in a recipe, or a path in DAVIS 2016's layout."""
    given = {
        name: {"layout": "davis16", "path": str(source)} if isinstance(source, Path) else source
        for name, source in sources.items()
    }
    values = {
        "name": "test",
        "data": {"sources": given, "dataset": str(target)},
        "flow": {"preset": "ultrafast"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
    }
    return validate(values | sections, "test")


def kill_a_worker(finished: threading.Event | None = None) -> bool:
    """Waits for a process that runs a task of Ray Data's maps and kills it; False where it is `finished` before.

    One of those below this process: other sessions of Ray on the machine are none of its business.
    """
    finished = finished or threading.Event()
    while not finished.wait(0.02):
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "ray::Map" in " ".join(process.cmdline()):
                    process.kill()
                    return True
    return False
