"""What all tests share: one Ray, an S3 server, where the real data lies, and a generated clip where it does not."""

import ctypes
import gc
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from xdist.scheduler import LoadScopeScheduling

# What a shell begins behind itself ignores Ctrl-C, and so would all that the tests start and stop.
signal.signal(signal.SIGINT, signal.default_int_handler)

_SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SHARED_DATA: Path | None = _SHARED if _SHARED.is_dir() else None

with socket.create_server(("127.0.0.1", 0)) as _free:
    S3_PORT = _free.getsockname()[1]
# Before Ray starts: its processes have the environment of their beginning, and what else names no store.
os.environ |= {
    "AWS_ENDPOINT_URL": f"http://127.0.0.1:{S3_PORT}",
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """s3://NAME of a bucket on an S3 server of this machine, which the environment names."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", S3_PORT, verbose=False)
    server.start()
    boto3.client("s3").create_bucket(Bucket="bucket")
    yield "s3://bucket"
    server.stop()


@pytest.fixture(scope="session")
def davis480(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in DAVIS 2016's layout: real sequences at 854 x 480 where they are at hand, else a generated clip."""
    if SHARED_DATA is not None:
        return SHARED_DATA / "davis-480p"
    from rtnet.data.clip import write_clip

    root = tmp_path_factory.mktemp("davis")
    write_clip(root)
    return root


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """A local Ray, the same for all: to start it and its workers takes longer than most tests.

    Tests import Ray within it, as it reads its settings when it is imported.
    """
    from pipelines.session import ray_session

    with ray_session():
        yield


@pytest.fixture(scope="module", autouse=True)
def memory_is_given_back() -> Iterator[None]:
    """The C library keeps what PyTorch's threads freed: gigabytes, over the whole suite."""
    yield
    gc.collect()
    with suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


class _OneProcessForRay(LoadScopeScheduling):  # type: ignore[misc]
    """Modules are shared out between processes, but all that use Ray go to one, to the one Ray that they share."""

    def _split_scope(self, nodeid: str) -> str:
        module = str(super()._split_scope(nodeid))
        text = Path(self.config.rootpath, module).read_text()
        return "ray" if "mark.ray" in text or "local_ray" in text else module


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling:
    return _OneProcessForRay(config, log)
