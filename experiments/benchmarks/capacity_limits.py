"""What of today's design breaks first as the data set grows: each limit with the function that it lies in.

A limit has a value at the plan's size, which grows with the size or its square, and a bound; where the two meet it
breaks.
"""

from dataclasses import dataclass, replace
from math import ceil

from experiments.benchmarks import capacity_operations as operations
from experiments.benchmarks.capacity_demand import latency
from experiments.benchmarks.capacity_inputs import Footage, Plan
from experiments.benchmarks.capacity_train import epochs_of
from experiments.benchmarks.capacity_verbs import FRAMES_PER_REPORT, VIEW_COUNT
from pipelines.config import expand_stages
from pipelines.preparer import FRAMES_PER_PART

PATIENCE_S = 24 * 3600.0
"""A driver that does nothing else for so long counts as broken."""
_ARTIFACT = 0.8e9  # bytes: uploads through MLflow's server beyond it time out (mlflow issue 7564)


@dataclass(frozen=True)
class Limit:
    verb: str
    where: str
    what: str
    size: float
    of: str  # what the size counts
    value: float  # at this size
    bound: float
    unit: str
    power: int = 1
    """The value grows with this power of the size."""

    @property
    def breaks_at(self) -> float:
        """The size at which the value is the bound."""
        return float(self.size * (self.bound / self.value) ** (1 / self.power)) if self.value else float("inf")

    @property
    def broken(self) -> bool:
        return self.breaks_at <= self.size


class _Limits:
    """Of some parts of a plan's data set, in videos of the whole, as it grows with all its parts."""

    def __init__(self, plan: Plan, parts: list[Footage]) -> None:
        self._plan, self._parts, self.found = plan, parts, list[Limit]()
        self.videos = sum(part.videos for part in parts)
        self.all_videos = plan.dataset.videos
        self.frames = sum(part.frames for part in parts)
        self.memory = plan.cluster.memory_gb * 1e9

    def add(self, verb: str, where: str, what: str, value: float, bound: float, unit: str, power: int = 1) -> None:
        self.found.append(Limit(verb, where, what, self.all_videos, "videos", value, bound, unit, power))

    def serial(self, verb: str, where: str, what: str, seconds: float, power: int = 1) -> None:
        """Work that the driver does alone, one thing after the other."""
        self.add(verb, where, what, seconds, PATIENCE_S, "s", power)


def limits(plan: Plan) -> list[Limit]:
    """Those of the verbs that the plan's recipe asks for, what breaks first first."""
    options = plan.experiment.prediction
    predicted = [part for part in plan.dataset.parts if part.split == options.split]
    found = []
    if options.input == "dataset":
        prepared = _Limits(plan, plan.dataset.parts)
        _listing(prepared, plan, "prepare")
        _prepare(prepared, plan)
        found += prepared.found
        if any(part.annotated for part in plan.dataset.parts):
            found += _train(plan)
    of_predict = _Limits(plan, predicted)
    if predicted:
        if options.input == "sources":
            _listing(of_predict, plan, "predict")
        _predict(of_predict, plan)
    return sorted(found + of_predict.found, key=lambda limit: limit.breaks_at / limit.size)


def _listing(limits: _Limits, plan: Plan, verb: str) -> None:
    costs, videos = plan.costs, [part for part in limits._parts if part.kind == "video"]
    limits.add(
        verb, "layouts.read_layout", "an object for each frame in the driver's memory",
        limits.frames * costs["manifest_bytes"], limits.memory, "bytes",
    )  # fmt: skip
    if videos:
        megapixels = sum(part.frames * part.megapixels for part in videos)
        limits.serial(
            verb, "layouts.video._count", "the driver decodes every video to count its frames",
            megapixels * costs["video_count_ms"] / 1000,
        )  # fmt: skip
        count = sum(part.videos for part in videos)
        limits.serial(
            verb, "layouts.video.list_videos", "every name is compared with every other",
            count**2 * costs["video_names_ns"] * 1e-9, power=2,
        )  # fmt: skip
    files = sum(part.videos if part.kind == "video" else part.frames for part in limits._parts)
    limits.serial(
        verb, "preparer._stamp, prediction_units", "the driver asks for every file's size and time",
        files * costs["stamp_us"] * 1e-6,
    )  # fmt: skip


def _prepare(limits: _Limits, plan: Plan) -> None:
    costs, parts = plan.costs, sum(part.pieces(FRAMES_PER_PART) for part in limits._parts)
    cluster = plan.cluster
    limits.serial(
        "prepare", "prepare._make, from_items", f"one block, task and result for each part of {FRAMES_PER_PART} frames",
        parts * costs["driver_task_ms"] / 1000,
    )  # fmt: skip
    limits.add(
        "prepare", "prepare._make", "the driver keeps a small table for each part until the end",
        parts * costs["made_bytes"], limits.memory, "bytes",
    )  # fmt: skip
    limits.add(
        "prepare", "prepare._stream", "every worker of a node holds the list of all parts",
        limits.frames * costs["manifest_bytes"] * cluster.cores, limits.memory, "bytes",
    )  # fmt: skip
    if cluster.gpus == 0 or not plan.experiment.flow.estimator.startswith("raft"):
        limits.add(
            "prepare", "prepare._stream", "each task unpacks the list of all parts, for longer than its own work takes",
            limits.frames * costs["parts_unpickle_us"] * 1e-6, _part_s(limits, plan), "s",
        )  # fmt: skip
    limits.add(
        "train", "train._tracked_run", "provenance.json, a line for each part, goes to MLflow in one upload",
        parts * costs["provenance_bytes"], _ARTIFACT, "bytes",
    )  # fmt: skip
    for part in limits._parts:
        if part.kind == "video":
            per_frame = costs["video_read_ms"] * part.megapixels / 1000
            own = _part_s(limits, plan) / FRAMES_PER_PART
            again = part.length / (2 * FRAMES_PER_PART) * per_frame
            what = "each part decodes its video from the beginning, for longer than its own work takes"
            limits.found.append(
                Limit(
                    "prepare", "frames._video_frames", what, part.length, "frames of a video", again, own, "s a frame"
                )
            )


def _train(plan: Plan) -> list[Limit]:
    """Of the index, which every process holds, and of MLflow."""
    costs, cluster = plan.costs, plan.cluster
    limits = _Limits(plan, plan.dataset.parts)
    rows = limits.frames * VIEW_COUNT
    workers = min(plan.experiment.scaling.num_workers, max(1, cluster.gpus or cluster.cores))
    processes = cluster.cores + workers
    limits.add(
        "train", "dataset.Dataset, loader.Schedule",
        f"the index and an epoch's table in each of a node's {processes} reading and training processes",
        rows * costs["index_process_bytes"] * processes, limits.memory, "bytes",
    )  # fmt: skip
    steps = epochs_of(replace(plan, experiment=expand_stages(plan.experiment)[-1])).steps
    calls = ceil(4 * steps / 1000) + 2
    per_epoch = calls * costs["mlflow_call_ms"] / 1000
    shortest = max(1e-9, _shortest_epoch_s(plan, steps))
    what = "calls of MLflow take as long as an epoch, one SQLite writer at a time"
    limits.found.append(Limit("train", "track_epochs", what, 1, "trainings at once", per_epoch, shortest, "s an epoch"))
    return limits.found


def _predict(limits: _Limits, plan: Plan) -> None:
    costs, options, cluster = plan.costs, plan.experiment.prediction, plan.cluster
    output = options.output or plan.experiment.storage
    on_node = ceil(options.actors / cluster.nodes)
    limits.add(
        "predict", "predict._predict, Predictor", f"each of a node's {on_node} actors unpacks the list of all units",
        limits.frames * costs["unit_bytes"] * on_node, limits.memory, "bytes",
    )  # fmt: skip
    reports = limits.frames / FRAMES_PER_REPORT
    limits.serial(
        "predict", "predict._predict, from_items", f"a report for every {FRAMES_PER_REPORT} frames comes to the driver",
        reports * costs["driver_task_ms"] / 1000 + limits.frames * costs["report_us"] * 1e-6,
    )  # fmt: skip
    limits.serial(
        "predict", "predictions.Predictions.add", "predictions.json is read and written anew for every sequence",
        limits.videos**2 * costs["predictions_entry_us"] / 2 * 1e-6, power=2,
    )  # fmt: skip
    limits.serial(
        "predict", "predict._Progress.add", "each line sums up the frames of all sequences",
        limits.videos**2 * costs["progress_total_us"] * 1e-6, power=2,
    )  # fmt: skip
    per_video = latency(plan, output, 2 * costs["s3_puts_per_file"] + 3) + costs["predictions_add_ms"] / 1000
    limits.serial(
        "predict", "predictions.Predictions.add", "requests for each sequence, one after the other",
        limits.videos * per_video,
    )  # fmt: skip
    if plan.is_remote(output):
        puts = 2 * limits.frames * costs["s3_puts_per_file"]
        limits.serial(
            "predict", "predictor._put", "a map and a mask of each frame as files, at one prefix's rate of requests",
            puts / plan.known.store.puts_per_s,
        )  # fmt: skip
    listed = latency(plan, output, 2 * limits.frames / plan.known.store.keys_per_list)
    limits.serial(
        "evaluate", "mask_folder.list_masks", "all masks and maps are listed, annotated or not",
        listed + 2 * limits.frames * costs["list_masks_us"] * 1e-6,
    )  # fmt: skip


def _part_s(limits: _Limits, plan: Plan) -> float:
    """Processor time of one part's own work, frames of the mean size, DIS."""
    costs = plan.costs
    pixels = sum(part.frames * part.megapixels for part in limits._parts) / limits.frames
    view = costs["dis_ms"] + 2 * (costs["flow_picture_ms"] + costs["planes_ms"])
    return FRAMES_PER_PART * pixels * (costs["frame_read_ms"] + VIEW_COUNT * view) / 1000


def _shortest_epoch_s(plan: Plan, steps: int) -> float:
    """What an epoch takes at least: its operators' calls."""
    training, model = plan.experiment.training, plan.experiment.model
    height = min(training.heights)
    size = (height, int(training.aspect * height))
    work = operations.training(model.backbone, "both", size, training.batch_size)
    return steps * work.operators * plan.known.launch_us.likely * 1e-6
