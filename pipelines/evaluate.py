"""`rtnet evaluate`: masks and annotations -> J, F and the saliency measures, per sequence and over the set."""

import json
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Any

from pipelines import registry, tracking
from pipelines.code_version import code_commit
from pipelines.config import Experiment
from pipelines.mask_folder import Folders, find_folders
from pipelines.places import check_reachable, check_shared, places_of
from pipelines.score_table import Row, as_csv, as_text, table
from pipelines.scoring import Job, Rule, SetScores, combine, cut_jobs, score_job
from pipelines.session import ray_session
from pipelines.sources import read_sources
from pipelines.storage import absolute, open_storage, write_whole
from rtnet.data.layouts import Sequence
from rtnet.errors import UserError
from rtnet.metrics import scored

_RULES = {
    "davis": "rule davis: a sequence's first and last frame are left out of J and F",
    "annotated": "rule annotated: J and F count every annotated frame",
}


def run(experiment: Experiment) -> None:
    """Scores every sequence, prints the table, writes and logs it. Writes nothing where a mask is not as it must be.

    scores.json holds all that others need: "scores", the table's rows, and "frames", each counted frame's J and F;
    what was scored ("name", "evaluation", "masks", "maps", "saliency_on", "model", "split", "threshold", "rule",
    "sources", "dataset", the digest of a prediction's dataset, and "content", the digest of the counted frames' names
    and annotations); and how: "run", "commit", "created". Scores with the same "content" and "rule" compare.
    """
    options = experiment.evaluation
    places = places_of(experiment, "evaluate")
    check_reachable(places)
    sequences, folders = _sequences(experiment), find_folders(experiment)
    rule = options.rule or _customary(sequences)
    _check_counted(sequences, rule)
    chosen = any(source.sequences for source in experiment.data.sources.values())
    jobs = cut_jobs(sequences, folders, rule, options.threshold, options.saliency, chosen)
    tracking.reach_store(tracking.tracking_uri(experiment))
    print(f"scoring {folders.masks}: {_RULES[rule]}; an object where value / 255 > {options.threshold}", flush=True)
    if options.saliency:
        print(
            f"saliency on {folders.maps or 'the same files, as no maps lie beside them'}, all annotated frames, "
            "each map first stretched to 0..1 as PySODMetrics does; max: over 256 thresholds",
            flush=True,
        )
    with ray_session():
        check_shared(places)
        scores = combine(jobs, _score_all(jobs))
    if scores.note:
        print(f"note: {scores.note}")
    rows = table(scores.frames, scores.saliency)
    print(as_text(rows), flush=True)
    _keep(experiment, folders, rule, scores, rows)


def evaluation_name(experiment: Experiment) -> str:
    """What the scores are called among those of a model's version."""
    return experiment.evaluation.name or f"{'_'.join(experiment.data.sources)}-{experiment.evaluation.split}"


def _score_all(jobs: list[Job]) -> list[str]:
    """The results of all jobs, in order; UserError for the first wrong mask that is found."""
    import ray.data

    def score(item: dict[str, Any]) -> dict[str, Any]:
        return {"number": item["number"], **score_job(jobs[item["number"]])}

    numbers = [{"number": number} for number in range(len(jobs))]
    left = Counter(job.sequence.name for job in jobs)
    counts: Counter[str] = Counter()
    results, frames, started = [""] * len(jobs), 0, time.monotonic()
    scored_jobs = ray.data.from_items(numbers, override_num_blocks=len(jobs)).map(score, num_cpus=1)
    # Results are small: what Ray Data holds back for them would leave processors idle, on two cores one of them.
    scored_jobs.context.op_resource_reservation_enabled = False
    for row in scored_jobs.iter_rows():
        if row["error"]:
            raise UserError(row["error"])
        job = jobs[row["number"]]
        results[row["number"]], name = row["result"], job.sequence.name
        left[name] -= 1
        counts[name] += len(job.files)
        frames += len(job.files)
        if not left[name]:
            done, rate = sum(not count for count in left.values()), frames / (time.monotonic() - started)
            print(f"[{done}/{len(left)}] {name}: {counts[name]} frames, {rate:.1f} frames/s", flush=True)
    return results


def _sequences(experiment: Experiment) -> list[Sequence]:
    found, split = read_sources(experiment), experiment.evaluation.split
    wanted = [sequence for sequence in found if sequence.split == split]
    if not wanted:
        splits = ", ".join(sorted({sequence.split for sequence in found}))
        raise UserError(f"no sequences in split '{split}'; there are some in {splits}: set evaluation.split")
    names = [sequence.name for sequence in wanted]
    for sequence in wanted:
        if sequence.fault:
            raise UserError(sequence.fault)
        if names.count(sequence.name) > 1:
            raise UserError(
                f"two sources have a sequence '{sequence.name}' in split '{split}', and its masks one folder: "
                "leave one of the sources out"
            )
    return wanted


def _customary(sequences: list[Sequence]) -> Rule:
    """DAVIS's rule where every frame is annotated, as there.

    Papers that score FBMS-59 and YouTube-Objects, of which about every tenth or twentieth frame is annotated, count
    each of those, as their first and last are no given masks. (Our row of the set is the mean over sequences; that of
    YouTube-Objects' tables is the mean over its ten classes.) Single images have no first and last.
    """
    whole = all(frame.annotation for sequence in sequences for frame in sequence.frames)
    return "davis" if whole and not any(sequence.kind == "stills" for sequence in sequences) else "annotated"


def _check_counted(sequences: list[Sequence], rule: Rule) -> None:
    for sequence in sequences:
        counted = scored(sequence.frames) if rule == "davis" else sequence.frames
        if any(frame.annotation for frame in counted):
            continue
        raise UserError(
            f"{sequence.dataset}: sequence '{sequence.name}' has no annotated frame"
            + (" between its first and last: set evaluation.rule to annotated, or" if rule == "davis" else ":")
            + f" leave it out of data.sources.{sequence.dataset}.sequences"
        )


def _keep(experiment: Experiment, folders: Folders, rule: Rule, scores: SetScores, rows: list[Row]) -> None:
    """In files, in the run of the model that made the masks, or else in a new one, and with the model's version."""
    uri, split = tracking.tracking_uri(experiment), experiment.evaluation.split
    version = _version(uri, folders)
    known = folders.model.get("run_id") if folders.model.get("tracking") == uri else None
    tracked = tracking.find_run(uri, known) if known else None
    fresh = tracked is None
    if tracked is None:
        tracked = tracking.start_run(experiment, f"{experiment.name}-evaluation", tags={"masks": folders.masks})
    facts = _facts(experiment, folders, rule, scores, rows) | {"run": {"tracking": uri, "run_id": tracked.run_id}}
    how = {"rule": rule, "threshold": scores.threshold}
    files = {
        "scores.csv": as_csv([row | how for row in rows]).encode(),
        "scores.json": json.dumps(facts, indent=2).encode(),
    }
    target = absolute(experiment.evaluation.output or f"{experiment.storage}/{experiment.name}/evaluation")
    try:
        system, root = open_storage(target)
        for name, data in files.items():
            write_whole(system, f"{root}/{name}", data)
        tracked.log_metrics({f"evaluation/{split}/{k}": v for k, v in rows[-1].items() if isinstance(v, float)})
        for name, data in files.items():
            tracked.log_bytes(data, f"evaluation/{split}/{name}")
    except BaseException:
        if fresh:
            tracked.try_finish("FAILED")
        raise
    if fresh:
        tracked.finish()
    print(f"written to {target}/scores.csv and scores.json, logged to run {tracked.run_id} in {uri}", flush=True)
    if version is not None:
        region, contour = rows[-1]["J mean"], rows[-1]["F mean"]
        measures = {"J": region, "F": contour, "JF": (region + contour) / 2}
        made_with = dict(folders.made_with) | {"evaluation.rule": rule, "evaluation.threshold": scores.threshold}
        kept = measures | {"frames": rows[-1]["frames"], "content": scores.content, "made_with": made_with}
        registry.record_evaluation(uri, version, evaluation_name(experiment), kept)
        print(f"kept with {version.uri} as evaluation {evaluation_name(experiment)}", flush=True)


def _facts(experiment: Experiment, folders: Folders, rule: Rule, scores: SetScores, rows: list[Row]) -> dict[str, Any]:
    return {
        "name": experiment.name,
        "evaluation": evaluation_name(experiment),
        "masks": folders.masks,
        "maps": folders.maps,
        "saliency_on": folders.maps or folders.masks,
        "model": dict(folders.model),
        "split": experiment.evaluation.split,
        "threshold": scores.threshold,
        "rule": rule,
        "content": scores.content,
        "sources": {name: source.model_dump(mode="json") for name, source in experiment.data.sources.items()},
        "commit": code_commit(),
        "dataset": folders.dataset,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "scores": rows,
        "frames": scores.frames,
    }


def _version(uri: str, folders: Folders) -> registry.ModelVersion | None:
    """The registered version that made the masks, where this store has it."""
    model = folders.model.get("uri", "")
    if folders.model.get("tracking") != uri or not model.startswith("models:/"):
        return None
    try:
        return registry.resolve_model(uri, model)
    except UserError as error:
        print(f"note: the scores are kept with no model version: {error}", flush=True)
        return None
