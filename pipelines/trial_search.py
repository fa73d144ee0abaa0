"""Tune's part of a sweep: the scheduler and the search, told what is known, and the function that runs one trial.

Imported within a Ray session.
"""

import logging
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from pipelines import train
from pipelines.config import Experiment
from pipelines.lock import BeingWrittenError
from pipelines.storage import open_storage
from pipelines.sweep import Domain, Overrides, Sweep, points, trial_experiment, trial_name
from pipelines.trial_reports import ReportEpochs, WriteTrials, report_of
from pipelines.trials import LAST_EPOCH, SweepFolder, Trial

# Of the process that waits for a trial's workers, which reserve their own: a byte, as Tune does not take nothing.
_RESOURCES = {"memory": 1.0}
_DRAWN_BLINDLY = 10  # trials at most, before Optuna goes by what the earlier ones reached


def run_trials(
    sweep: Sweep,
    base: Experiment,
    folder: SweepFolder,
    known: dict[str, Trial],
    at_once: int,
    parent: str,
    ended: Callable[[Trial], None],
) -> None:
    """Runs the trials that have not ended, at most `at_once` at the same time.

    known: the trials by name, changed as they go. parent: the sweep's MLflow run. ended: called with each that ends.
    """
    for name in ("ray.tune.tune", "ray.tune.analysis.experiment_analysis"):  # of failed trials and files not wanted
        logging.getLogger(name).setLevel(logging.CRITICAL)
    system, path = open_storage(folder.uri)
    plan = points(sweep)
    left = [number for number, point in enumerate(plan) if not _has_ended(known, trial_name(number, point))]
    drawn = sweep.search.trials - sum(trial.ended for trial in known.values())
    half = {name: trial.reports for name, trial in known.items() if not trial.ended}
    last_epoch = (
        max(_last_epoch(trial_experiment(base, "candidate", point)) for point in plan) if plan else _last_epoch(base)
    )
    tune.Tuner(
        tune.with_resources(_trainable(sweep.metric, base, plan, half, parent), _RESOURCES),
        param_space={"number": tune.grid_search(left)} if plan else {},
        tune_config=tune.TuneConfig(
            search_alg=None if plan else optuna_of(sweep, list(known.values())),
            scheduler=scheduler_of(sweep, last_epoch, list(known.values())),
            num_samples=1 if plan else drawn,
            max_concurrent_trials=at_once,
            trial_name_creator=_namer(folder, plan, known),
            trial_dirname_creator=str,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=path,
            storage_filesystem=system,
            verbose=0,
            callbacks=[WriteTrials(folder, known, sweep.metric, ended)],
        ),
    ).fit()


def scheduler_of(sweep: Sweep, last_epoch: int, known: Sequence[Trial]) -> ASHAScheduler | None:
    """ASHA that has heard all that the ended trials reported; none where no rung comes before the last epoch."""
    wanted = sweep.scheduler
    if wanted.method == "none" or wanted.grace_period >= last_epoch:
        return None
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=sweep.metric,
        mode="max",
        max_t=last_epoch - 1,
        grace_period=wanted.grace_period,
        reduction_factor=wanted.reduction_factor,
        stop_last_trials=False,
    )
    for trial in (trial for trial in known if trial.ended):
        told = SimpleNamespace(trial_id=trial.name)
        scheduler.on_trial_add(None, told)
        for report in (report for report in trial.reports if LAST_EPOCH not in report):
            scheduler.on_trial_result(None, told, report)
    return scheduler


def optuna_of(sweep: Sweep, known: Sequence[Trial]) -> OptunaSearch:
    """A search that begins with the trials that were begun and knows what the ended ones reached."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    blindly = min(_DRAWN_BLINDLY, 1 + sweep.search.trials // 3)
    # A sampler begins its random numbers anew: with the same seed it would draw the first trials again.
    sampler = optuna.samplers.TPESampler(seed=(sweep.search.seed + len(known)) % 2**32, n_startup_trials=blindly)
    space = {"overrides": {field: _tune_domain(domain) for field, domain in sweep.space.items()}}
    search = OptunaSearch(
        OptunaSearch.convert_search_space(space),
        metric=sweep.metric,
        mode="max",
        sampler=sampler,
        points_to_evaluate=[_point(trial) for trial in known if not trial.ended],
    )
    for trial in (trial for trial in known if trial.ended):
        score = trial.best(sweep.metric).get(sweep.metric)
        failed = trial.outcome == "failed" or score is None
        search.add_evaluated_point(_point(trial), None if failed else score, error=failed)
    return search


def _has_ended(known: dict[str, Trial], name: str) -> bool:
    return name in known and known[name].ended


def _last_epoch(experiment: Experiment) -> int:
    return experiment.training.phases[-1].last_epoch


def _trainable(
    metric: str, base: Experiment, plan: Sequence[Overrides], half: dict[str, Any], parent: str
) -> Callable[[dict[str, Any]], None]:
    """What Tune runs in a process of its own for each trial. half: what those that were begun have reported."""

    def trial(config: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_name()
        for report in half.get(name, []):
            tune.report(report)
        experiment = trial_experiment(base, name, _overrides(config, plan))
        last_epoch = _last_epoch(experiment)
        trained = _train(experiment, parent, ReportEpochs(metric, last_epoch))
        tune.report(report_of(trained.values) | {"epoch": trained.epoch, LAST_EPOCH: last_epoch})

    return trial


def _train(experiment: Experiment, parent: str, callback: ReportEpochs) -> train.Trained:
    """The writer of a run folder that died on another machine is taken for alive for a while."""
    while True:
        try:
            return train.train_one(experiment, parent=parent, callbacks=[callback], register=False)
        except BeingWrittenError as error:
            print(f"{experiment.name} waits: {error}", flush=True)
            time.sleep(30)


def _overrides(config: dict[str, Any], plan: Sequence[Overrides]) -> Overrides:
    return plan[config["number"]] if plan else dict(config["overrides"])


def _namer(folder: SweepFolder, plan: Sequence[Overrides], known: dict[str, Trial]) -> Callable[[Any], str]:
    """Tune's trial -> the name of ours: of one that was begun with these overrides, else of a new one."""
    waiting = [trial for trial in known.values() if not trial.ended]

    def name(trial: Any) -> str:
        overrides = _overrides(trial.config, plan)
        for begun in waiting:
            if begun.overrides == overrides:
                waiting.remove(begun)
                return begun.name
        fresh = Trial(trial_name(trial.config.get("number", len(known)), overrides), overrides)
        known[fresh.name] = fresh
        folder.keep(fresh)
        return fresh.name

    return name


def _point(trial: Trial) -> dict[str, Any]:
    return {f"overrides/{field}": value for field, value in trial.overrides.items()}


def _tune_domain(domain: Domain) -> Any:
    if domain.choice:
        return tune.choice(domain.choice)
    if domain.integers:
        return tune.randint(domain.integers[0], domain.integers[1] + 1)
    return tune.uniform(*domain.uniform) if domain.uniform else tune.loguniform(*(domain.loguniform or []))
