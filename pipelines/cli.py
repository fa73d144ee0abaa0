"""The `rtnet` command: a verb, a recipe, overrides."""

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pipelines.credentials import redacted, refuse_credentials
from pipelines.options import OptionParser, add_overrides
from pipelines.packages import check_packages
from rtnet.errors import UserError

_IN_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # set by Ray where it runs a job's command

# Verbs that take a recipe; each is a module here with run(experiment).
VERBS = {
    "prepare": "frames and annotations -> flipped views and optical flow in a parquet dataset",
    "train": "parquet dataset -> checkpoints, a tracked run, a registered model",
    "predict": "parquet dataset and registered model -> maps, masks and overlays",
    "evaluate": "masks and annotations -> table of scores",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one verb. Returns 0, 2 after a user's mistake (one line on stderr), 1 after any other failure."""
    try:
        if _IN_A_JOB in os.environ:  # before anything else is imported
            check_packages()
    except UserError as error:
        print(f"rtnet: {error}", file=sys.stderr)
        return 2
    options = _parser().parse_args(arguments)
    try:
        with _terminated_as_interrupted():
            refuse_credentials(vars(options), "option ")
            _dispatch(options)
    except UserError as error:
        print(f"rtnet {options.verb}: {redacted(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        from pipelines.storage import is_away

        if not is_away(error):
            raise
        said = str(error).splitlines()[0]
        print(f"rtnet {options.verb}: a store does not answer ({said}); the same command continues", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"rtnet {options.verb}: stopped; the same command continues", file=sys.stderr)
        return 1
    return 0


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM, as `ray job stop` and schedulers send it, ends a verb as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _dispatch(options: argparse.Namespace) -> None:
    module = importlib.import_module(f"pipelines.{options.verb}")
    if options.verb not in VERBS:
        module.run_command(options)
        return
    from pipelines.config import load_experiment

    module.run(load_experiment(options.recipe, options.overrides))


def _parser() -> argparse.ArgumentParser:
    parser = OptionParser(prog="rtnet", description="Unsupervised video object segmentation on Ray.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, purpose in VERBS.items():
        command = verbs.add_parser(verb, help=purpose, description=purpose)
        command.add_argument("recipe", help="a recipe (YAML), such as experiments/smoke.yaml")
        add_overrides(command, "replaces a value of it")
    command = verbs.add_parser("tune", help="many trainings of one recipe, of which the best is registered")
    command.add_argument("sweep", help="a sweep (YAML), such as experiments/sweeps/backbones.yaml")
    add_overrides(command, "replaces a value of its recipe")
    import pipelines.demo as demo  # light: these import Ray, torch and MLflow late
    import pipelines.jobs as jobs
    import pipelines.models as models
    import pipelines.report as report
    import pipelines.segment as segment
    import pipelines.show as show
    import pipelines.submit as submit

    show.add_arguments(verbs.add_parser("show", help="what is in a prepared dataset, and a contact sheet of it"))
    report.add_arguments(verbs.add_parser("report", help="evaluations side by side, in one HTML file"))
    segment.add_arguments(verbs.add_parser("segment", help="any video -> its object tinted, masks, a contact sheet"))
    models.add_arguments(verbs.add_parser("models", help="look models up in the registry and promote them"))
    submit.add_arguments(
        verbs.add_parser("submit", help="run a verb as a job of a Ray cluster, with this code"), [*VERBS, "tune"]
    )
    jobs.add_arguments(verbs.add_parser("jobs", help="list a cluster's jobs, follow and stop them"))
    demo.add_arguments(verbs.add_parser("demo", help="prepare, train, predict and evaluate end to end"))
    return parser


if __name__ == "__main__":
    sys.exit(main())
