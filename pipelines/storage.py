"""Paths and URIs: one way to open whatever pyarrow or fsspec can open.

An S3 store's credentials, endpoint and region come from the environment alone: AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_ENDPOINT_URL, AWS_DEFAULT_REGION, and what else the AWS libraries read. MLflow's client reads
the same.
"""

import errno
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from uuid import uuid4

import fsspec
import pyarrow as pa
from pyarrow import fs

from rtnet.errors import UserError

_S3_MEND = (
    "look at the bucket, at what these credentials may do, and at AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, "
    "AWS_ENDPOINT_URL and AWS_DEFAULT_REGION, on each node that reads or writes"
)


_AWAY = ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "INTERNAL_FAILURE", "UNKNOWN")

_TRIES = 10  # about a minute: a host that restarts, or a cable that is put in again, is not to end a long job
_TRIES_AT_FIRST = 3  # seconds


def open_storage(uri: str, tries: int = _TRIES) -> tuple[fs.FileSystem, str]:
    """(file system, path on it) of a local path or of a URI such as s3://bucket/folder; UserError where none opens.

    tries: how often an S3 store is asked that does not answer, each time after a longer pause.
    """
    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().resolve())
    if uri.startswith("s3://"):
        parts = urlsplit(uri)
        bucket = parts.netloc.rpartition("@")[2]
        check_bucket(uri, f"s3://{parts.path}")
        return _s3(bucket, parts.query, tries), f"{bucket}{unquote(parts.path)}".rstrip("/")
    try:
        # Its own limit is a quarter of an hour, in which nothing stops it.
        if uri.startswith("gs://") and "retry_limit_seconds" not in uri:
            uri = f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={6 * tries}"
        return fs.FileSystem.from_uri(uri)  # type: ignore[no-any-return]
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError):
        pass
    try:
        system, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise UserError(f"{uri}: neither pyarrow nor fsspec can open it ({error})") from error
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def check_bucket(uri: str, named: str) -> None:
    """UserError for s3:// without a bucket. named: what to call the place."""
    if uri.startswith("s3://") and not urlsplit(uri).netloc.rpartition("@")[2]:
        raise UserError(f"{named} names no bucket: write s3://BUCKET/FOLDER")


def absolute(uri: str) -> str:
    """The same place as seen from any working folder (Ray's workers have their own)."""
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def reach(uri: str, field: str) -> None:
    """UserError naming the recipe's field where an S3 or Google store does not answer, or does not let us look.

    What is not there yet is no fault.
    """
    system, path = open_storage(uri, _TRIES_AT_FIRST)
    if not isinstance(system, fs.S3FileSystem | fs.GcsFileSystem):
        return
    try:
        system.get_file_info(path)
    except OSError as error:
        mend = _S3_MEND if isinstance(system, fs.S3FileSystem) else "look at the place, and at the store's credentials"
        raise UserError(f"{field}={uri} can't be read ({_reason(error)[:200]}): {mend}") from error


def refuse_existing(uri: str) -> None:
    """UserError where something is at `uri` already, and where a store does not let us look."""
    system, path = open_storage(uri, _TRIES_AT_FIRST)
    try:
        found = system.get_file_info(path)
    except OSError as error:
        mend = _S3_MEND if isinstance(system, fs.S3FileSystem) else "give another name"
        raise UserError(f"{uri} can't be looked at ({_reason(error)}): {mend}") from error
    if found.type != fs.FileType.NotFound:
        raise UserError(f"{uri} is there already: delete it or give another name")


def is_away(error: OSError) -> bool:
    """Whether a store did not answer, or not now: what it holds may be well."""
    return any(f"AWS Error {kind}" in str(error) for kind in _AWAY)


def write_whole(system: fs.FileSystem, path: str, data: bytes | memoryview) -> None:
    """Writes `data`, all or nothing: who finds `path` finds all of it.

    Raises UserError where the place can't be written or is full.
    """
    with _writing(system, path):
        if isinstance(system, fs.LocalFileSystem):
            _write_aside(system, path, data)
        else:
            put(system, path, data)


def put(system: fs.FileSystem, path: str, data: bytes | memoryview) -> None:
    """Writes `data`, on an object store all or nothing, on a disk from its beginning on. Raises OSError."""
    if isinstance(system, fs.S3FileSystem):
        # A store shows nothing before a stream is closed, and then whatever was written. pyarrow closes it also when
        # Ctrl-C comes in between. That reaches the main thread alone; so another one writes, and is waited for.
        with ThreadPoolExecutor(1) as other:
            other.submit(_put, system, path, data).result()
        return
    system.create_dir(path.rsplit("/", 1)[0], recursive=True)
    _put(system, path, data)


def local_copy(uri: str, folder: Path) -> Path:
    """The file at a local path; that of a URI copied into `folder`. UserError where a URI's can't be read."""
    if "://" not in uri:
        return Path(uri).expanduser()
    system, path = open_storage(uri)
    target = folder / path.rsplit("/", 1)[-1]
    try:
        target.write_bytes(read_bytes(system, path))
    except OSError as error:
        raise UserError(f"{uri} can't be read ({_reason(error)})") from error
    return target


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


def _s3(bucket: str, query: str, tries: int) -> fs.FileSystem:
    given = dict(parse_qsl(query))
    if unknown := given.keys() - {"scheme", "endpoint_override", "region"}:
        raise UserError(f"s3://{bucket}/...?{query}: '{min(unknown)}' is none of scheme, endpoint_override and region")
    scheme, _, host = (os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", "")).rpartition(
        "://"
    )
    return _s3_system(
        bucket,
        given.get("scheme", scheme) or "https",
        given.get("endpoint_override", host.rstrip("/")),
        given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
        tries,
    )


@lru_cache(maxsize=64)
def _s3_system(bucket: str, scheme: str, endpoint: str, region: str | None, tries: int) -> fs.FileSystem:
    try:
        if region is None and not endpoint:
            region = fs.resolve_s3_region(bucket)
        # Opened late, a small file is one request, all or nothing, instead of three.
        return fs.S3FileSystem(
            scheme=scheme,
            endpoint_override=endpoint or None,
            region=region,
            allow_delayed_open=True,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=tries),
        )
    except OSError as error:
        raise UserError(f"s3://{bucket} can't be found ({_reason(error)}): {_S3_MEND}") from error


def _put(system: fs.FileSystem, path: str, data: bytes | memoryview) -> None:
    with system.open_output_stream(path) as stream:
        stream.write(data)


def _write_aside(system: fs.FileSystem, path: str, data: bytes | memoryview) -> None:
    aside = f"{path}.{uuid4().hex[:8]}.part"  # on a disk that several hosts mount, processes of one number may meet
    try:
        put(system, aside, data)
        system.move(aside, path)
    except BaseException:
        with suppress(OSError):
            system.delete_file(aside)
        raise


@contextmanager
def _writing(system: fs.FileSystem, path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        mend = "make room, or choose another place" if error.errno == errno.ENOSPC else "choose another place"
        if isinstance(system, fs.S3FileSystem):
            path, mend = f"s3://{path}", _S3_MEND
        raise UserError(f"{path} can't be written ({_reason(error)}): {mend}") from error


def _reason(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else (str(error).splitlines() or [type(error).__name__])[0]
