"""`rtnet report`: evaluations side by side in one HTML file that needs no network."""

import argparse
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rtnet.errors import UserError

if TYPE_CHECKING:
    from pipelines.report_scores import Evaluation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "evaluations",
        metavar="EVALUATION",
        nargs="+",
        help="folder or URI that `rtnet evaluate` filled; the others' differences are to the first",
    )
    parser.add_argument("--output", metavar="PATH", default="report.html", help="default: %(default)s, here")
    parser.add_argument("--tracking", metavar="URI", help="MLflow's tracking URI, in place of those in the scores")


def run_command(options: argparse.Namespace) -> None:
    """Writes the report, then logs it to the runs of the evaluations.

    Raises UserError for what is no evaluation, an output that can't be written, and a run that can't be reached: the
    report is written then.
    """
    from pipelines.code_version import code_commit
    from pipelines.report_origin import read_origin
    from pipelines.report_page import page
    from pipelines.report_pictures import worst_frames
    from pipelines.report_scores import read_evaluations
    from pipelines.storage import absolute, open_storage, write_whole

    comparison = read_evaluations(options.evaluations)
    origins = [read_origin(each, options.tracking) for each in comparison.evaluations]
    facts = {"Made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "by code": code_commit() or "of an unknown commit"}
    html = page(comparison, worst_frames(comparison), origins, facts)
    target = absolute(options.output)
    write_whole(*open_storage(target), html)
    print(f"report of {len(comparison.evaluations)} evaluations, {len(html) / 1e6:.1f} MB: {target}", flush=True)
    for warning in comparison.warnings:
        print(f"note: {warning}", flush=True)
    artifact = f"report/{target.rpartition('/')[2]}"
    failures = [_log(each, options.tracking, html, artifact) for each in comparison.evaluations]
    if told := next(filter(None, failures), ""):
        raise UserError(f"{target} is written, but not logged to every run: {told}")


def _log(evaluation: "Evaluation", store: str | None, html: bytes, artifact: str) -> str:
    """To the evaluation's run; why not, where it can't be."""
    from pipelines import tracking

    named = evaluation.scores.run
    if not named.get("run_id"):
        print(f"not logged for {evaluation.label}, whose scores name no run", flush=True)
        return ""
    uri = tracking.absolute_store(store or named["tracking"])
    try:
        with tracking.impatient(), tracking.explained(uri):
            tracking.open_store(uri)
            run = tracking.find_run(uri, named["run_id"])
            if run is None:
                return f"{uri} has no run {named['run_id']}: name its store with --tracking"
            run.log_bytes(html, artifact)
    except UserError as error:
        return str(error)
    print(f"logged to run {run.run_id} in {uri} as {artifact}", flush=True)
    return ""
