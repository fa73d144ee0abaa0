"""`rtnet jobs`: the jobs of a cluster, what they say, and their end."""

import argparse
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipelines.job_client import add_address, open_client
from pipelines.job_names import find_job, is_of

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_STOPPING = 60.0  # seconds; a job that does not end by itself is killed before


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The actions list, status, logs and stop."""
    add_address(parser)
    shared = argparse.ArgumentParser(add_help=False)
    add_address(shared)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", help="list, where none is given")
    action = actions.add_parser("list", parents=[shared], help="all jobs, or those of NAME-VERB, the latest last")
    action.add_argument("job", metavar="NAME-VERB", nargs="?")
    one = argparse.ArgumentParser(add_help=False, parents=[shared])
    one.add_argument("job", metavar="JOB", help="such as smoke-train-2; smoke-train is the newest of its kind")
    actions.add_parser("status", parents=[one], help="all that is known of one job")
    action = actions.add_parser("logs", parents=[one], help="what a job has printed")
    action.add_argument("--follow", action="store_true", help="on to its end; exits with 0 only if it succeeds")
    actions.add_parser("stop", parents=[one], help="end a job; its verb continues when it is submitted again")


def run_command(options: argparse.Namespace) -> None:
    """Does one action. Raises UserError for an unknown job and for what `open_client` says."""
    from pipelines.job_log import follow

    client = open_client(options)
    if options.action in (None, "list"):
        _print_list(client, getattr(options, "job", None))
        return
    job = find_job(client, options.job)
    if options.action == "status":
        _print_status(client, job)
    elif options.action == "logs" and options.follow:
        if status := follow(client, job):
            sys.exit(status)
    elif options.action == "logs":
        print(client.get_job_logs(job), end="")
    else:
        _stop(client, job)


def _print_list(client: "JobSubmissionClient", family: str | None) -> None:
    from pipelines.job_log import duration

    jobs = [job for job in client.list_jobs() if job.submission_id and (family is None or is_of(job, family))]
    found = sorted(jobs, key=lambda job: job.start_time or 0)
    if not found:
        print(f"no jobs{f' {family}' if family else ''} at {client.get_address()}")
        return
    rows = [("job", "status", "submitted (UTC)", "duration", "command")]
    for job in found:
        rows.append((job.submission_id, job.status.lower(), _time(job), str(duration(job)), job.entrypoint))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _print_status(client: "JobSubmissionClient", job: str) -> None:
    from pipelines.job_log import outcome

    found = client.get_job_info(job)
    print(f"job        {found.submission_id}\nstatus     {outcome(found)}")
    print(f"submitted  {_time(found)} UTC\ncommand    {found.entrypoint}")


def _stop(client: "JobSubmissionClient", job: str) -> None:
    """Waits until it has ended."""
    from pipelines.job_log import outcome

    asked = client.stop_job(job)
    deadline = time.monotonic() + _STOPPING
    while not (found := client.get_job_info(job)).status.is_terminal() and time.monotonic() < deadline:
        time.sleep(0.5)
    print(f"job {job} {'' if asked else 'had ended: it '}{outcome(found)}")


def _time(job: "JobDetails") -> str:
    return datetime.fromtimestamp((job.start_time or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
