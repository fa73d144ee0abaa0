"""Sixteen trials that log to one MLflow store at once, against one alone.

    python -m experiments.benchmarks.tracking_writers

A call is what a trial makes at the end of a step or an epoch: the values of one step, as one request. Writers are
threads of at most four processes; each logs to a run of its own, call after call, for some seconds. Stores: MLflow's
server with users, on PostgreSQL; the same with two workers; the same where it checks the password of every call anew;
and the SQLite file of one machine, which the writers open themselves. Everything runs on this machine: the server, its
database and the writers share its processors. Afterwards every value is looked up: `lost` are those that a call
brought without an error and that are not there. The last line is the ratio of the calls a second of sixteen writers,
all together, to those of one, on the server.

`--model MEGABYTES` measures instead how long a model of that size takes into the bucket and back: through MLflow's
server, as ours go, and by S3's own client; its last line is the ratio of the sums.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.services import missing_postgresql, mlflow_server, object_store, postgresql

if TYPE_CHECKING:
    from pipelines.tracking import Run

SQLITE = "SQLite file"
STORES = {  # workers, and seconds for which a password that was right is not checked again
    "server": (1, 60),
    "server, two workers": (2, 60),
    "server, every password checked": (1, 0),
    SQLITE: (0, 0),
}
VALUES = ("loss/total", "loss/bce", "loss/ssim", "loss/iou", "rate")
PROCESSES = 4


@dataclass(frozen=True)
class Written:
    """What one writer did, and how many of its values are kept."""

    run: str
    calls: int
    failed: int
    slowest: float  # seconds
    first: float  # seconds since 1970
    last: float


@dataclass(frozen=True)
class Row:
    store: str
    writers: int
    per_second: float
    slowest: float  # milliseconds
    failed: int
    lost: int


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="for which each number of writers logs")
    parser.add_argument("--writers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--model", type=int, metavar="MEGABYTES", help="measure a model's way into the bucket and back")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help=argparse.SUPPRESS)  # of a process of writers
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.runs:
        _write(options.uri, options.runs, options.seconds)
        return
    if missing := missing_postgresql():
        sys.exit(missing)
    if options.model:
        _carry_model(options.model)
        return
    _report([row for store in STORES for row in _measure(store, options.writers, options.seconds)])


def _measure(store: str, counts: Sequence[int], seconds: float) -> Iterator[Row]:
    from pipelines import tracking

    with _opened(store) as uri:
        tracking.open_store(uri, create=True)
        for count in counts:
            runs = [tracking.start_plain_run(uri, f"writer {number}", {}).run_id for number in range(count)]
            written = _write_at_once(uri, runs, seconds)
            span = max(each.last for each in written) - min(each.first for each in written)
            yield Row(
                store,
                count,
                sum(each.calls for each in written) / span,
                1000 * max(each.slowest for each in written),
                sum(each.failed for each in written),
                sum(_lost(uri, each) for each in written),
            )


@contextmanager
def _opened(store: str) -> Iterator[str]:
    """The URI of a new store, for whose server this process and those that it starts are the administrator."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        if store == SQLITE:
            yield f"sqlite:///{folder}/mlflow.db"
            return
        (workers, cache), files = STORES[store], str(folder / "files")
        with (
            postgresql(folder) as database,
            mlflow_server(folder, backend=database, artifacts=files, workers=workers, login_cache=cache) as server,
        ):
            os.environ.update(server.environment())
            yield server.uri


def _write_at_once(uri: str, runs: Sequence[str], seconds: float) -> list[Written]:
    processes = []
    for group in filter(None, (runs[first::PROCESSES] for first in range(PROCESSES))):
        command = [sys.executable, "-m", "experiments.benchmarks.tracking_writers", "--uri", uri]
        command += ["--seconds", str(seconds), "--runs", *group]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [json.loads(process.communicate()[0]) for process in processes]
    return [Written(**each) for group in said for each in group]


def _write(uri: str, runs: Sequence[str], seconds: float) -> None:
    """One process of writers."""
    from pipelines import tracking

    tracking.open_store(uri)
    print("ready", flush=True)
    sys.stdin.readline()
    with ThreadPoolExecutor(len(runs)) as threads:
        written = list(threads.map(lambda run: _log(tracking.Run(uri, run), seconds), runs))
    print(json.dumps([asdict(each) for each in written]))


def _log(run: "Run", seconds: float) -> Written:
    calls, failed, slowest, first = 0, 0, 0.0, time.time()
    while (began := time.time()) < first + seconds:
        step = calls + failed
        try:
            run.log_metrics({name: step + place / 7 for place, name in enumerate(VALUES)}, step)
            calls += 1
        except Exception:  # whatever MLflow and its store come up with under load is what is counted
            failed += 1
        slowest = max(slowest, time.time() - began)
    return Written(run.run_id, calls, failed, slowest, first, time.time())


def _lost(uri: str, written: Written) -> int:
    from pipelines import tracking

    store = tracking.client(uri)
    return sum(max(0, written.calls - len(store.get_metric_history(written.run, name))) for name in VALUES)


def _report(rows: Sequence[Row]) -> None:
    print("| store | writers | calls/s | against one | slowest call ms | failed calls | lost values |")
    print("|---|---|---|---|---|---|---|")
    ratios = {}
    for row in rows:
        alone = next(each for each in rows if each.store == row.store)
        ratios[row.store, row.writers] = ratio = row.per_second / alone.per_second
        print(
            f"| {row.store} | {row.writers} | {row.per_second:.1f} | {ratio:.2f} x | {row.slowest:.0f} | {row.failed} "
            f"| {row.lost} |"
        )
    print(f"ratio: {ratios['server', max(row.writers for row in rows)]:.2f}")


def _carry_model(megabytes: int) -> None:
    """Through the server and by S3's own client, in turns; prints medians of three."""
    with tempfile.TemporaryDirectory() as scratch, postgresql(Path(scratch)) as database, object_store() as objects:
        folder, model = Path(scratch), Path(scratch) / "model.safetensors"
        model.write_bytes(os.urandom(megabytes << 20))
        files, store = objects.bucket("mlflow"), objects.environment()
        os.environ.update(store)
        with mlflow_server(folder, backend=database, artifacts=files, environment=store) as server:
            os.environ.update(server.environment())
            rounds = [_carried(server.uri, model, folder, number) for number in range(3)]
    print(f"| way of {megabytes} MB | seconds | MB/s |\n|---|---|---|")
    medians = {way: statistics.median(each[way] for each in rounds) for way in rounds[0]}
    for way, seconds in medians.items():
        print(f"| {way} | {seconds:.2f} | {megabytes / seconds:.0f} |")
    ours, direct = (sum(s for way, s in medians.items() if way.startswith(who)) for who in ("server", "S3"))
    print(f"ratio: {ours / direct:.2f}")


def _carried(uri: str, model: Path, folder: Path, number: int) -> dict[str, float]:
    """Seconds of each way."""
    import boto3

    from pipelines import tracking

    run, direct, bucket = tracking.start_plain_run(uri, f"model {number}", {}), boto3.client("s3"), "mlflow"
    began = [time.perf_counter()]
    run.log_file(model)
    began.append(time.perf_counter())
    there = tracking.fetch(uri, f"runs:/{run.run_id}/{model.name}", folder / "down")
    began.append(time.perf_counter())
    direct.upload_file(str(model), bucket, f"direct/{number}")
    began.append(time.perf_counter())
    direct.download_file(bucket, f"direct/{number}", str(folder / "direct"))
    began.append(time.perf_counter())
    assert there.read_bytes() == (folder / "direct").read_bytes() == model.read_bytes()
    ways = ("server, up", "server, down", "S3, up", "S3, down")
    return {way: after - before for way, (before, after) in zip(ways, pairwise(began), strict=True)}


if __name__ == "__main__":
    main()
