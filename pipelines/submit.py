"""`rtnet submit`: a verb as a job of a Ray cluster, with the code of this checkout.

The job's working folder carries the packages and the recipe, and no data. Ray puts it first on the path of the job's
processes, so that they run this code also where another version is installed. It is thrown away with the job: what a
verb writes needs a place of its own, an absolute path on the cluster or a URI.
"""

import argparse
import json
import secrets
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.job_client import add_address, open_client
from rtnet.errors import UserError

if TYPE_CHECKING:
    from pipelines.config import Experiment

_HERE = Path(__file__).resolve().parents[1]  # the checkout, or where the packages are installed
_CODE = ("rtnet", "pipelines", "pyproject.toml")


def add_arguments(parser: argparse.ArgumentParser, verbs: Iterable[str]) -> None:
    """verbs: those that take a recipe."""
    parser.epilog = (
        "Paths in the recipe and the overrides are the cluster's. What is written needs an absolute path there or a "
        "URI, as the job's own folder is thrown away: storage=/shared/runs data.dataset=s3://bucket/dataset. "
        "The job runs the `python` of the head node's PATH."
    )
    parser.add_argument("job_verb", choices=list(verbs), metavar="VERB", help=", ".join(verbs))
    parser.add_argument("recipe", help="a recipe of this machine")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="replaces a value of it")
    parser.add_argument("--no-wait", action="store_true", help="don't follow the job's log to its end")
    add_address(parser)


def run_command(options: argparse.Namespace) -> None:
    """Submits and follows; exits with status 1 where the job did not succeed.

    Raises UserError for a bad recipe, for places that the job would lose, and for what `open_client` says.
    """
    from pipelines.config import load_experiment
    from pipelines.job_log import follow, next_steps

    verb, recipe = options.job_verb, Path(options.recipe)
    experiment = load_experiment(recipe, options.overrides)
    _refuse_lost_places(experiment, verb)
    client = open_client(options)
    job = f"{experiment.name}-{verb}-{secrets.token_hex(3)}"
    with tempfile.TemporaryDirectory() as folder:
        _carry(Path(folder), recipe)
        command = ["python", "-m", "pipelines.cli", verb, f"recipes/{recipe.name}", *options.overrides]
        client.submit_job(entrypoint=shlex.join(command), submission_id=job, runtime_env={"working_dir": folder})
    print(f"job {job} is submitted to {client.get_address()}", flush=True)
    if options.no_wait:
        print(next_steps(client, job))
    elif status := follow(client, job):
        sys.exit(status)


def _carry(folder: Path, recipe: Path) -> None:
    """Fills a job's working folder. Its files alone decide its name on the cluster: what is there is not sent again."""
    from pipelines.commit import CARRIED, commit_tags

    for name in _CODE:
        if (_HERE / name).is_dir():
            shutil.copytree(_HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif (_HERE / name).is_file():
            shutil.copy(_HERE / name, folder)
    (folder / CARRIED).write_text(json.dumps(commit_tags()))
    (folder / "recipes").mkdir()
    shutil.copy(recipe, folder / "recipes")


def _refuse_lost_places(experiment: "Experiment", verb: str) -> None:
    """UserError naming the fields whose relative path would lie in the job's own folder."""
    from pipelines.config import expand_stages

    lost = dict.fromkeys(
        f"{field}={place}"
        for one in (experiment, *expand_stages(experiment))
        for field, place in _places(one, verb).items()
        if place is not None and _relative(place)
    )
    if lost:
        raise UserError(
            f"{', '.join(lost)}: a job's own folder is thrown away with it, and holds no data: give an absolute path "
            f"on the cluster, or a URI, as in {next(iter(lost)).split('=')[0]}=/shared/..."
        )


def _places(experiment: "Experiment", verb: str) -> dict[str, str | None]:
    """Field -> where a verb writes, or reads what is too big to be carried."""
    places = {
        "storage": experiment.storage,
        "data.dataset": experiment.data.dataset,
        "tracking.uri": experiment.tracking.uri,
        "prediction.output": experiment.prediction.output,
        "evaluation.masks": experiment.evaluation.masks,
        "evaluation.output": experiment.evaluation.output,
    }
    if verb == "prepare":
        for name, source in experiment.data.sources.items():
            places[f"data.sources.{name}.path"] = source.path
            places[f"data.sources.{name}.annotations"] = source.annotations
    return places


def _relative(place: str) -> bool:
    """Whether a place depends on the working folder; SQLAlchemy's URIs have their path behind three slashes."""
    scheme, separator, path = place.partition(":///")
    if separator and scheme.startswith("sqlite"):
        place = path
    return "://" not in place and not place.startswith(("/", "~"))
