"""A job's log, followed to the job's end whatever happens to the connection."""

import asyncio
import sys
import time
from contextlib import aclosing
from datetime import timedelta
from textwrap import shorten
from typing import TYPE_CHECKING

from pipelines.job_client import UnknownJobError, UnreachableError, reason
from rtnet.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_SILENCE = 60.0  # seconds without a line after which the connection is made anew: it may be dead without saying so
_PATIENCE = 120.0  # seconds to try for where nobody answers any more; a head node takes less to come back, if it does


def follow(client: "JobSubmissionClient", job: str) -> int:
    """Prints a job's log from its beginning, then how the job ended.

    Returns 0 where it succeeded, 2 where it found a mistake of the user's, else 1, also after Ctrl-C, which leaves the
    job alone. Raises UserError where the cluster has no such job, or is away for minutes.
    """
    try:
        found = asyncio.run(_Log(client, job).follow())
    except KeyboardInterrupt:
        print(f"\njob {job} goes on\n{next_steps(client, job)}", file=sys.stderr)
        return 1
    print(f"job {job} {outcome(found)}")
    if found.status == "SUCCEEDED":
        return 0
    return 2 if found.driver_exit_code == 2 else 1  # 2 is a mistake of the user's, wherever the verb runs


def next_steps(client: "JobSubmissionClient", job: str) -> str:
    """How to look at a job that goes on, and how to end it."""
    address = f"--address {client.get_address()}"
    return f"  follow it: rtnet jobs logs {job} --follow {address}\n  stop it:   rtnet jobs stop {job} {address}"


def outcome(found: "JobDetails") -> str:
    """How a job ended, or that it has not, with the last that it said where it failed."""
    if not found.status.is_terminal():
        return f"is {found.status.lower()} for {duration(found)}"
    words = "was stopped" if found.status == "STOPPED" else found.status.lower()
    said = (found.message or "").strip()
    if found.status == "FAILED":
        if found.driver_exit_code is not None:  # then the message holds the log's last lines, and these the reason
            words, said = f"{words} with exit status {found.driver_exit_code}", shorten(said.splitlines()[-1], 500)
        return f"{words} after {duration(found)}: {said}"
    return f"{words} after {duration(found)}"


def duration(found: "JobDetails") -> timedelta:
    """From its submission to its end, or until now; whole seconds."""
    end = found.end_time or time.time() * 1000
    return timedelta(seconds=int(end - (found.start_time or end)) // 1000)


class _Log:
    """Printed once, though each connection sends it from its beginning."""

    def __init__(self, client: "JobSubmissionClient", job: str) -> None:
        self._client, self._job = client, job
        self._shown = 0  # characters
        self._known = False
        self._lost: float | None = None  # since when nobody answers

    async def follow(self) -> "JobDetails":
        import aiohttp

        whole = False
        while True:
            try:
                found = self._client.get_job_info(self._job)
                self._known = True
                if found.status.is_terminal() and whole:
                    return found
                whole = await self._print()
                self._lost = None
            except UnknownJobError as error:
                if not self._known:
                    raise
                raise UserError(
                    f"{self._client.get_address()} knows no job {self._job} any more: its head node was begun anew, "
                    "and the job ended with the old one; submitted again it continues"
                ) from error
            except (UnreachableError, aiohttp.ClientError, OSError, RuntimeError) as error:
                whole = False
                self._be_patient(error)
            await asyncio.sleep(1)

    async def _print(self) -> bool:
        """One connection's part of the log. Whether the other side ended it, as it does when the job has ended."""
        sent = 0
        async with aclosing(self._client.tail_job_logs(self._job)) as chunks:
            while True:
                try:
                    async with asyncio.timeout(_SILENCE):
                        chunk = await anext(chunks, None)
                except TimeoutError:
                    return False
                if chunk is None:
                    return True
                print(chunk[max(0, self._shown - sent) :], end="", flush=True)
                sent += len(chunk)
                self._shown = max(self._shown, sent)
                self._lost = None

    def _be_patient(self, error: Exception) -> None:
        address = self._client.get_address()
        if self._lost is None:
            self._lost = time.monotonic()
            print(f"lost {address} ({reason(error)}); trying again", file=sys.stderr)
        elif time.monotonic() - self._lost > _PATIENCE:
            raise UnreachableError(
                f"nobody answers at {address} for {_PATIENCE:.0f} seconds: if its head node has died, job {self._job} "
                f"has too, and continues when it is submitted again; else rtnet jobs logs {self._job} --follow takes "
                "it up"
            ) from error
