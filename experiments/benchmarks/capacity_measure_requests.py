"""What a request of others costs: of an object store, of MLflow, and a task of Ray's."""

import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from experiments.benchmarks.capacity_measure import Found, timed
from pipelines.storage import open_storage


def costs(scratch: Path) -> Found:
    return requests() | tracked_values(scratch / "tracking") | tasks()


def requests() -> Found:
    """At moto's S3, as its log counts them: of a small file, of a new folder with a file in it."""
    import boto3
    from moto.server import ThreadedMotoServer

    seen: list[str] = []
    logger, handler = logging.getLogger("werkzeug"), _Listening(seen)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        place = "{}:{}".format(*server.get_host_and_port())
        # Any will do; in the environment alone are credentials taken.
        for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            os.environ.setdefault(key, "testing")
        boto3.client("s3", endpoint_url=f"http://{place}", region_name="us-east-1").create_bucket(Bucket="measured")
        known = f"scheme=http&endpoint_override={place.replace(':', '%3A')}&region=us-east-1"
        system, bucket = open_storage(f"s3://measured?{known}")
        counts = []
        for step in (_folder("one"), _folder("another"), _put, _read):
            seen.clear()
            step(system, bucket)
            time.sleep(0.2)  # the log is the server's thread's
            verbs = [match[1] for line in seen if (match := re.search(r"(PUT|POST|GET|HEAD) /", line))]
            counts.append(
                (sum(verb in ("PUT", "POST") for verb in verbs), sum(verb in ("GET", "HEAD") for verb in verbs))
            )
    finally:
        server.stop()
        logger.removeHandler(handler)
    _, folder, file, read = counts
    return {
        "s3_puts_per_folder": (folder[0], "requests that write"),
        "s3_puts_per_file": (file[0], "requests that write"),
        "s3_gets_per_folder": (folder[1], "requests that read"),
        "s3_gets_per_read": (read[1], "requests that read, of a file that is opened for it"),
    }


def _folder(name: str) -> Callable[[pa.fs.FileSystem, str], None]:
    return lambda system, bucket: system.create_dir(f"{bucket}/masks/{name}", recursive=True)


def _put(system: pa.fs.FileSystem, bucket: str) -> None:
    with system.open_output_stream(f"{bucket}/masks/one/00000.png") as stream:
        stream.write(b"0" * 10_000)


def _read(system: pa.fs.FileSystem, bucket: str) -> None:
    system.open_input_file(f"{bucket}/masks/one/00000.png").read_at(1000, 100)


def tracked_values(root: Path) -> Found:
    from pipelines import tracking

    uri = f"sqlite:///{root}/mlflow.db"
    tracking.open_store(uri, create=True)
    run = tracking.start_plain_run(uri, "measured", {})
    series = [(f"step/{n % 4}", 0.5, n // 4, 0) for n in range(1000)]
    run.log_series(series)
    started = time.perf_counter()
    for _ in range(3):
        run.log_series(series)
    return {"mlflow_call_ms": (1000 * (time.perf_counter() - started) / 3, "ms a call with 1000 values, SQLite")}


def tasks() -> Found:
    """The driver's own processor time for a block that goes out as a task and comes back."""
    from pipelines.session import ray_session

    seconds = []
    with ray_session():
        import ray.data  # it reads its settings when it is imported

        for count in (20, 200, 600):  # the first starts the workers
            numbers = ray.data.from_items([{"number": n} for n in range(count)], override_num_blocks=count)
            seconds.append(timed(lambda: list(numbers.map(lambda row: row, num_cpus=1).iter_rows())))  # noqa: B023
    return {"driver_task_ms": (1000 * (seconds[2] - seconds[1]) / 400, "CPU-ms a block in the driver")}


class _Listening(logging.Handler):
    def __init__(self, seen: list[str]) -> None:
        super().__init__()
        self._seen = seen

    def emit(self, record: logging.LogRecord) -> None:
        self._seen.append(record.getMessage())
