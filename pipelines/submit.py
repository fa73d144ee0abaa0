"""`rtnet submit`: a verb as a job of a Ray cluster, with the code of this checkout.

The job's working folder carries the packages and the recipe, and no data. Ray puts it first on the path of the job's
processes, so that they run this code also where another version is installed. It is thrown away with the job: what a
verb writes needs a place of its own, an absolute path on the cluster or a URI. Nothing of this machine's environment
goes with it: a job's credentials are those of the cluster's nodes.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.job_client import add_address, check_cluster, open_client
from pipelines.options import add_overrides
from rtnet.errors import UserError

if TYPE_CHECKING:
    from pipelines.config import Experiment

_HERE = Path(__file__).resolve().parents[1]  # the checkout, or where the packages are installed
_CODE = ("rtnet", "pipelines", "pyproject.toml", "constraints.txt")
# A job that is stopped ends as by Ctrl-C: with its tracked run closed. Ray's own way is SIGKILL after 3 seconds.
_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}


def add_arguments(parser: argparse.ArgumentParser, verbs: Iterable[str]) -> None:
    """verbs: those that take a recipe."""
    parser.epilog = (
        "Paths in the recipe and the overrides are the cluster's. What is written needs an absolute path there or a "
        "URI, as the job's own folder is thrown away: storage=/shared/runs data.dataset=s3://bucket/dataset. "
        "The job runs the `python` of the head node's PATH."
    )
    parser.add_argument("job_verb", choices=list(verbs), metavar="VERB", help=", ".join(verbs))
    parser.add_argument("recipe", help="a recipe of this machine")
    add_overrides(parser, "replaces a value of it")
    parser.add_argument("--no-wait", action="store_true", help="don't follow the job's log to its end")
    add_address(parser)


def run_command(options: argparse.Namespace) -> None:
    """Submits and follows; exits with status 1 where the job did not succeed, 2 where it found a mistake of the user's.

    Where a job of the same recipe, overrides and verb is under way, that one is followed. Raises UserError for a bad
    recipe, for places that the job would lose, where one of the same name and another recipe is under way, and for what
    `open_client` says.
    """
    from pipelines.job_log import follow, next_steps, outcome
    from pipelines.job_names import start_or_join

    verb = options.job_verb
    experiment, recipes, digest = _load(verb, Path(options.recipe), options.overrides)
    _refuse_lost_places(experiment, verb)
    client = open_client(options)
    check_cluster(client)

    def submit(job: str, metadata: dict[str, str]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            recipe = _carry(Path(folder), recipes)
            command = ["python", "-m", "pipelines.cli", verb, recipe, *options.overrides]
            environment = {"working_dir": folder, "env_vars": _STOP}
            client.submit_job(
                entrypoint=shlex.join(command), submission_id=job, runtime_env=environment, metadata=metadata
            )

    job, new = start_or_join(client, f"{experiment.name}-{verb}", digest, submit)
    if new:
        print(f"job {job} is submitted to {client.get_address()}", flush=True)
    else:
        print(f"job {job} of the same recipe {outcome(client.get_job_info(job))}: nothing is started", flush=True)
    if options.no_wait:
        print(next_steps(client, job))
    elif status := follow(client, job):
        sys.exit(status)


def _load(verb: str, recipe: Path, overrides: list[str]) -> tuple["Experiment", list[Path], str]:
    """The experiment, the files that it is in, and a digest of its content.

    Of a sweep what its trials share, and its own file first.
    """
    from pipelines.config import load_experiment

    if verb != "tune":
        experiment = load_experiment(recipe, overrides)
        return experiment, [recipe], _digest(experiment.model_dump(mode="json"))
    from pipelines.sweep import load_sweep

    sweep, experiment = load_sweep(recipe, overrides)
    if Path(sweep.recipe).is_absolute():
        raise UserError(f"sweep {recipe}: recipe={sweep.recipe}: name it from the sweep's folder, so that both travel")
    content = [experiment.model_dump(mode="json"), sweep.model_dump(mode="json")]
    return experiment, [recipe, recipe.parent / sweep.recipe], _digest(content)


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _carry(folder: Path, recipes: list[Path]) -> str:
    """Fills a job's working folder; where the first recipe lies in it, the others beside it as they are here.

    The files alone decide the folder's name on the cluster: what is there is not sent again.
    """
    from pipelines.commit import CARRIED, commit_tags

    for name in _CODE:
        if (_HERE / name).is_dir():
            shutil.copytree(_HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        elif (_HERE / name).is_file():
            shutil.copy(_HERE / name, folder)
    (folder / CARRIED).write_text(json.dumps(commit_tags()))
    files = [recipe.parent.resolve() / recipe.name for recipe in recipes]
    top = Path(os.path.commonpath([file.parent for file in files]))
    places = [Path("recipes") / file.relative_to(top) for file in files]
    for file, place in zip(files, places, strict=True):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, folder / place)
    return str(places[0])


def _refuse_lost_places(experiment: "Experiment", verb: str) -> None:
    """UserError naming the fields whose relative path would lie in the job's own folder."""
    from pipelines.config import expand_stages
    from pipelines.places import places_of

    lost = dict.fromkeys(
        f"{place.field}={place.uri}"
        for one in (experiment, *expand_stages(experiment))
        for place in places_of(one, verb)
        if _relative(place.uri)
    )
    if lost:
        raise UserError(
            f"{', '.join(lost)}: a job's own folder is thrown away with it, and holds no data: give an absolute path "
            f"on the cluster, or a URI, as in {next(iter(lost)).split('=')[0]}=/shared/..."
        )


def _relative(place: str) -> bool:
    """Whether a place depends on the working folder; SQLAlchemy's URIs have their path behind three slashes."""
    scheme, separator, path = place.partition(":///")
    if separator and scheme.startswith("sqlite"):
        place = path
    return "://" not in place and not place.startswith(("/", "~"))
