"""One writer of a folder at a time, on any storage: object stores know no locks, so each writer leaves a claim.

A claim is a small file in FOLDER/claims that its owner renews while it lives. Who comes makes its claim, waits until
every other that may have come at the same time can see it, and then holds the folder if no living claim is held or
older.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

import psutil
from pyarrow import fs

from pipelines.storage import read_bytes, write_whole
from rtnet.errors import UserError

_SETTLES = 1.0  # seconds in which a claim that was written is seen by all, and by which one that is held has said so
_RENEWED_EVERY = 20.0
_DEAD_AFTER = 120.0  # seconds without renewal, for an owner on another machine


class BeingWrittenError(UserError):
    """Another writer holds the folder, or died on another machine so lately that it is taken for alive."""


@contextmanager
def sole_writer(system: fs.FileSystem, folder: str, what: str) -> Iterator[None]:
    """Holds `folder` until the block ends. Raises BeingWrittenError, naming the other writer, where one holds it."""
    mine = {"id": uuid4().hex, "since": time.time(), "held": False, "host": socket.gethostname(), "pid": os.getpid()}
    mine["born"] = psutil.Process().create_time()
    path = f"{folder}/claims/{mine['id']}.json"
    _write(system, path, mine)
    done = threading.Event()
    try:
        time.sleep(_SETTLES)
        rivals = [claim for claim in _claims(system, folder) if claim["id"] != mine["id"]]
        if first := [c for c in rivals if c["held"] or (c["since"], c["id"]) < (mine["since"], mine["id"])]:
            raise BeingWrittenError(
                f"{what} is being written by process {first[0]['pid']} on {first[0]['host']}: "
                "wait for it, or stop it and run this again"
            )
        mine["held"] = True
        _write(system, path, mine)
        renewing = threading.Thread(target=_renew, args=(system, path, mine, done), daemon=True)
        renewing.start()
        yield
    finally:
        done.set()
        with suppress(OSError):
            system.delete_file(path)


def _claims(system: fs.FileSystem, folder: str) -> list[dict[str, Any]]:
    """The claims of owners that live; those of the dead are removed."""
    alive = []
    for info in system.get_file_info(fs.FileSelector(f"{folder}/claims", allow_not_found=True)):
        if not info.path.endswith(".json"):
            continue
        try:
            claim = json.loads(read_bytes(system, info.path))
        except (OSError, ValueError):  # just removed
            continue
        if _lives(claim):
            alive.append(claim)
        else:
            with suppress(OSError):
                system.delete_file(info.path)
    return alive


def _lives(claim: dict[str, Any]) -> bool:
    if claim["host"] != socket.gethostname():
        return bool(time.time() - claim["renewed"] < _DEAD_AFTER)
    try:
        owner = psutil.Process(claim["pid"])
        # Dead, and its parent has not asked how it ended; in a container without an init nobody ever does.
        return bool(owner.create_time() == claim["born"] and owner.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _write(system: fs.FileSystem, path: str, claim: dict[str, Any]) -> None:
    write_whole(system, path, json.dumps(claim | {"renewed": time.time()}).encode())


def _renew(system: fs.FileSystem, path: str, claim: dict[str, Any], done: threading.Event) -> None:
    while not done.wait(_RENEWED_EVERY):
        with suppress(UserError):
            _write(system, path, claim)
