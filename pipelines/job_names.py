"""What jobs are called: NAME-VERB-1, NAME-VERB-2, and so on; NAME-VERB alone means the newest."""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from pipelines.job_client import TakenError
from rtnet.errors import UserError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

_DIGEST = "rtnet_recipe"  # in a job's metadata


def start_or_join(
    client: "JobSubmissionClient", family: str, digest: str, submit: Callable[[str, dict[str, str]], object]
) -> tuple[str, bool]:
    """(the job of this family that now runs, whether it is a new one). At most one of a family runs at a time.

    family: NAME-VERB. digest: of the recipe with its overrides. submit: called with a new job's name and metadata.
    Raises UserError where one of another recipe runs.
    """
    from pipelines.job_log import outcome

    while True:
        last = newest(client, family)
        if last is not None and not last.status.is_terminal():
            job = str(last.submission_id)
            if (last.metadata or {}).get(_DIGEST) != digest:
                raise UserError(
                    f"job {job} {outcome(last)}, with another recipe or other overrides: stop it "
                    f"(rtnet jobs stop {job}), or give this recipe another name"
                )
            return job, False
        job = f"{family}-{_number(last, family) + 1}"
        try:
            submit(job, {_DIGEST: digest})
        except TakenError:  # somebody came first
            continue
        return job, True


def newest(client: "JobSubmissionClient", family: str) -> "JobDetails | None":
    """The job of this family with the highest number."""
    jobs = [job for job in client.list_jobs() if is_of(job, family)]
    return max(jobs, key=lambda job: _number(job, family), default=None)


def find_job(client: "JobSubmissionClient", name: str) -> str:
    """A job's id, or the newest one's of that NAME-VERB; another name as it is."""
    if any(job.submission_id == name for job in client.list_jobs()):
        return name
    found = newest(client, name)
    return name if found is None else str(found.submission_id)


def is_of(job: "JobDetails", family: str) -> bool:
    """Whether it is a job of this NAME-VERB."""
    return _number(job, family) > 0


def _number(job: "JobDetails | None", family: str) -> int:
    """0 where it is none of the family."""
    found = job and re.fullmatch(rf"{re.escape(family)}-([1-9][0-9]*)", job.submission_id or "")
    return int(found[1]) if found else 0
