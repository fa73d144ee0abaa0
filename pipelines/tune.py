"""`rtnet tune`: a sweep -> each trial a tracked run within the sweep's, a table, a picture, the best registered.

A trial is a training like any other, the recipe plus overrides, and continues from its own run folder. What Tune hears
is kept in the sweep's folder, so that the same command continues a sweep that was killed: trials that ended are not
repeated, and the scheduler and the search are told what is known before they decide anything. (Tune's own way to
restore a sweep forgets up to ten seconds, and all that ASHA knew.)

Population-based training is not offered: it copies a good trial's checkpoint into a bad one's, and Train's second
version gives Tune no checkpoints to copy.
"""

import argparse
import json
import os
from contextlib import suppress
from typing import Any, Literal

from pipelines import tracking, train
from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.lock import sole_writer
from pipelines.places import check_reachable, check_shared, places_of
from pipelines.resources import check_resources, resources_needed
from pipelines.run_folder import RunFolder, decisive_settings
from pipelines.session import ray_session
from pipelines.storage import absolute, open_storage
from pipelines.sweep import Sweep, candidates, load_sweep, points, trial_experiment
from pipelines.train_checks import check_data
from pipelines.trials import SweepFolder, Trial, as_csv, as_text, table
from rtnet.errors import UserError

_SETTINGS = {  # read by Tune: paths mean the same in trials, and its files and messages are ours already
    "RAY_AIR_NEW_OUTPUT": "0",  # the new one can't be silenced
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


def run_command(options: argparse.Namespace) -> None:
    """Runs the sweep of a file."""
    run(*load_sweep(options.sweep, options.overrides))


def run(sweep: Sweep, base: Experiment) -> None:
    """Runs the trials that have not ended, then prints and tracks the table and registers the best.

    base: what all trials share. Raises UserError where the sweep can't begin, and where no trial reached its end.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    base = _absolute(base)
    places = places_of(base, "tune")
    check_reachable(places)
    folder = SweepFolder(f"{base.storage}/{sweep.name}")
    dataset = Dataset(base.data.dataset)
    system, path = open_storage(folder.uri)
    with sole_writer(system, path, f"sweep {folder.uri}"):
        settings = _settings(sweep, base, dataset.digest)
        folder.refuse_other_settings(settings)
        if facts := folder.read("finished.json"):
            print(f"sweep {folder.uri} is finished: {facts['model']} is its trial {facts['trial']}; nothing to do")
            return
        with ray_session():
            check_data(base, dataset)
            at_once = _at_once(sweep, base)
            check_shared(places)
            parent = _parent_run(sweep, base, folder)
            print(f"sweep {sweep.name} in {folder.uri}, tracked in {parent.uri}", flush=True)
            try:
                folder.claim(settings)
                trials = _search(sweep, base, folder, at_once, parent)
                rows = _show(sweep, folder, parent, trials)
                _register_best(sweep, base, folder, parent, rows)
            except BaseException as failure:
                for trial in folder.trials():
                    _close_run(base, trial)
                parent.try_finish("KILLED" if isinstance(failure, KeyboardInterrupt) else "FAILED")
                raise


def _absolute(base: Experiment) -> Experiment:
    """Trials run elsewhere."""
    data = base.data.model_copy(update={"dataset": absolute(base.data.dataset)})
    return base.model_copy(update={"data": data, "storage": absolute(base.storage)})


def _settings(sweep: Sweep, base: Experiment, dataset_digest: str) -> dict[str, Any]:
    """What decides the trials and their results, flat: dotted field -> value."""
    kept = sweep.model_dump(mode="json", include={"space", "search", "scheduler", "metric"}, exclude_none=True)
    of_the_sweep = {
        f"{section}.{field}": value
        for section in ("space", "search", "scheduler")
        for field, value in kept[section].items()
    }
    return decisive_settings(base, dataset_digest) | of_the_sweep | {"metric": kept["metric"]}


def _parent_run(sweep: Sweep, base: Experiment, folder: SweepFolder) -> tracking.Run:
    """The sweep's MLflow run, in which the trials' are nested: a new one, or the one that the folder names."""
    uri = tracking.tracking_uri(base)
    known = folder.read("tracking.json")
    run_id = known["run_id"] if known.get("uri") == uri else None
    with tracking.explained(uri):
        parent = tracking.start_run(base, sweep.name, run_id, {"sweep": folder.uri})
        folder.write("tracking.json", json.dumps({"uri": parent.uri, "run_id": parent.run_id}).encode())
        parent.log_bytes(sweep.model_dump_json(indent=2, exclude_none=True).encode(), "sweep.json")
    return parent


def _search(sweep: Sweep, base: Experiment, folder: SweepFolder, at_once: int, parent: tracking.Run) -> list[Trial]:
    """All trials, each ended."""
    from pipelines.trial_search import run_trials

    known = {trial.name: trial for trial in folder.trials()}
    ended, total = sum(trial.ended for trial in known.values()), len(points(sweep)) or sweep.search.trials
    print(f"{total} trials, of which {ended} have ended; at most {at_once} at the same time", flush=True)
    if ended < total:
        run_trials(sweep, base, folder, known, at_once, parent.run_id, lambda trial: _close_run(base, trial))
    for trial in known.values():  # a kill may have come between a trial's end and this
        _close_run(base, trial)
    return list(known.values())


def _at_once(sweep: Sweep, base: Experiment) -> int:
    """How many trials run at the same time; UserError where there is no room for one, or for those wanted."""
    import ray

    scalings = [trial_experiment(base, "candidate", overrides).scaling for overrides in candidates(sweep)]
    for scaling in dict.fromkeys(scalings):
        check_resources(scaling, sweep.at_once or 1)
    if sweep.at_once is not None:
        return sweep.at_once
    there = ray.cluster_resources()
    return max(1, min(int(there[kind] / n) for one in scalings for kind, n in resources_needed(one).items()))


def _close_run(base: Experiment, trial: Trial) -> None:
    """Says in a trial's MLflow run how it ended, or that the sweep was stopped: the trial may not have come to it.

    Nor to logging its last epochs. Whoever else still logs them at this moment logs the same.
    """
    from pipelines.track_epochs import track_epochs

    statuses: dict[str, Literal["FAILED", "KILLED"]] = {"failed": "FAILED", "stopped": "KILLED", "begun": "KILLED"}
    run_folder = RunFolder.of(trial_experiment(base, trial.name, trial.overrides))
    kept = json.loads(run_folder.read("tracking.json") or b"{}")
    if trial.outcome not in statuses or "run_id" not in kept:
        return
    tracked, status = tracking.Run(kept["uri"], kept["run_id"]), statuses[trial.outcome]
    with suppress(Exception), tracking.impatient():  # the table says it as well
        if tracking.client(tracked.uri).get_run(tracked.run_id).info.status != status:
            tracked.finish(status)
        if trial.ended:
            tracked.set_tags({"trial.outcome": trial.outcome, "trial.reason": trial.reason})
        track_epochs(tracked, run_folder)


def _show(sweep: Sweep, folder: SweepFolder, parent: tracking.Run, trials: list[Trial]) -> list[dict[str, Any]]:
    """Prints, keeps and tracks the table and the picture; the table's rows, the best first."""
    from pipelines.parallel_coordinates import parallel_coordinates

    rows = table(trials, sweep.metric)
    print(as_text(rows), flush=True)
    files = {
        "trials.csv": as_csv(rows).encode(),
        "parallel_coordinates.png": parallel_coordinates(rows, list(sweep.space), sweep.metric),
    }
    with tracking.explained(f"{parent.uri}: all trials have ended, the same command logs them"):
        for name, data in files.items():
            folder.write(name, data)
            parent.log_bytes(data, name)
    return rows


def _register_best(
    sweep: Sweep, base: Experiment, folder: SweepFolder, parent: tracking.Run, rows: list[dict[str, Any]]
) -> None:
    finished = [row for row in rows if row["outcome"] == "finished"]
    if not finished:
        raise UserError(
            f"sweep {folder.uri}: no trial went to its end, for the reasons in the table: mend them and give the sweep "
            "another name, or delete that folder and its trials'"
        )
    best = finished[0]
    experiment = trial_experiment(base, best["trial"], {field: best[field] for field in sweep.space})
    trained = train.train_one(experiment, parent=parent.run_id, register=False)
    model = train.register_best(experiment, trained, Dataset(experiment.data.dataset).digest)
    with tracking.explained(parent.uri):
        parent.log_metrics({f"best/{name}": value for name, value in best.items() if name.startswith("validation/")})
        parent.set_tags({"best.trial": best["trial"], "best.model": model})
        parent.finish()
    folder.write("finished.json", json.dumps({"model": model, "trial": best["trial"]}).encode())
    print(f"{model} (alias {experiment.tracking.alias}) is trial {best['trial']}", flush=True)
