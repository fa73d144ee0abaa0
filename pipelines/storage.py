"""Paths and URIs: one way to open whatever pyarrow or fsspec can open."""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
from pyarrow import fs

from rtnet.errors import UserError


def open_storage(uri: str) -> tuple[fs.FileSystem, str]:
    """(file system, path on it) of a local path or of a URI such as s3://bucket/folder; UserError where none opens."""
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    try:
        return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        pass
    try:
        system, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"{uri}: neither pyarrow nor fsspec can open it ({error})") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def absolute(uri: str) -> str:
    """The same place as seen from any working folder (Ray's workers have their own)."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


@contextmanager
def whole_file(system: fs.FileSystem, path: str) -> Iterator[pa.NativeFile]:
    """A stream written aside and moved when the block ends well: who finds `path` finds all of it.

    Raises UserError where the place can't be written or is full.
    """
    aside = f"{path}.{os.getpid()}.part"
    with _writing(path):
        system.create_dir(path.rsplit("/", 1)[0], recursive=True)
        try:
            with system.open_output_stream(aside) as stream:
                yield stream
            system.move(aside, path)
        except BaseException:
            with suppress(OSError):
                system.delete_file(aside)
            raise


def write_whole(system: fs.FileSystem, path: str, data: bytes) -> None:
    """Writes `data`, all or nothing. Object stores can't move, and show nothing before all of it is there."""
    if isinstance(system, fs.LocalFileSystem):
        with whole_file(system, path) as stream:
            stream.write(data)
        return
    with _writing(path):
        system.create_dir(path.rsplit("/", 1)[0], recursive=True)
        with system.open_output_stream(path) as stream:
            stream.write(data)


@contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        mend = "make room, or choose another place" if error.errno == errno.ENOSPC else "choose another place"
        raise UserError(f"{path} can't be written ({reason}): {mend}") from error


def read_json(system: fs.FileSystem, path: str) -> dict[str, Any]:
    """A JSON file of ours; UserError naming it where it is damaged."""
    try:
        return dict(json.loads(read_bytes(system, path)))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): restore it, or delete it to begin anew") from error


def read_bytes(system: fs.FileSystem, path: str) -> bytes:
    """All of a file."""
    with system.open_input_file(path) as file:
        return bytes(file.read())
