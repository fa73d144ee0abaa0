"""prepare, predict and evaluate -> rows of capacity.py. Each names the functions whose work it counts."""

from math import ceil

from experiments.benchmarks import capacity_operations as operations
from experiments.benchmarks.capacity_demand import Demand, Row, device_of, latency
from experiments.benchmarks.capacity_inputs import Footage, Plan
from pipelines.prediction_units import pair_rule
from pipelines.preparer import FRAMES_PER_PART
from pipelines.sections import Flow
from rtnet.data.flips import VIEWS

VIEW_COUNT = len(VIEWS)
WRITERS = 4  # threads of a predictor that encode and write
FRAMES_PER_REPORT = 8


def flow_megapixels(part: Footage, flow: Flow) -> float:
    """Of one flow picture."""
    rows = min(part.height, flow.height or part.height)
    return part.megapixels * (rows / part.height) ** 2


def row_bytes(plan: Plan, part: Footage, flow: Flow) -> float:
    """One row's pictures in the dataset, in the mean."""
    costs, pixels = plan.costs, part.megapixels
    frame = costs["frame_png_bytes"] if part.kind == "video" else costs["frame_jpeg_bytes"]
    pictures = 0.0 if part.kind == "stills" else 2 * costs["flow_bytes"] * flow_megapixels(part, flow)
    return frame * pixels + costs["annotation_bytes"] * pixels * part.annotated / part.frames + pictures


def source_bytes(plan: Plan, part: Footage) -> float:
    """One frame in its own file."""
    if part.kind == "video":
        return part.mbit * 1e6 / 8 / part.rate
    return plan.costs["frame_jpeg_bytes"] * part.megapixels


def listing_s(plan: Plan, parts: list[Footage]) -> float:
    """rtnet.data.layouts and the stamps, on the driver, before anything else: every file is looked at, every video
    decoded once to count its frames, every name compared with every other."""
    costs, seconds = plan.costs, 0.0
    for part in parts:
        seconds += part.frames * costs["manifest_us"] * 1e-6
        if part.kind == "video":
            seconds += part.frames * part.megapixels * costs["video_count_ms"] / 1000
            seconds += part.videos**2 * costs["video_names_ns"] * 1e-9
    return seconds


def prepare(plan: Plan) -> Row:
    """`pipelines.preparer.make_part` for every part, `pipelines.prepare` on the driver."""
    demand, costs, experiment = Demand(plan, "prepare"), plan.costs, plan.experiment
    target, pieces_of_all = experiment.data.dataset, 0
    actors = _preparers(plan)
    for part in plan.dataset.parts:
        flow = plan.flow(part)
        pieces, small = part.pieces(FRAMES_PER_PART), flow_megapixels(part, flow)
        neighbours = part.kind != "stills" and flow.estimator != "files"
        read = part.frames + (2 * (pieces - part.videos) if neighbours else 0)
        decoded, views = float(read), part.frames * VIEW_COUNT
        processor = read * costs["frame_read_ms"] * part.megapixels
        if part.kind == "video":  # each part decodes its video from the beginning
            decoded = part.videos * sum(min(FRAMES_PER_PART * k + 1, part.length) for k in _parts_of(part))
            processor = (decoded * costs["video_read_ms"] + read * costs["frame_png_ms"]) * part.megapixels
        processor += views * costs["row_ms"]
        if part.kind != "stills":
            processor += 2 * views * (costs["flow_picture_ms"] + costs["planes_ms"]) * small
        pairs = (read - pieces) * VIEW_COUNT if neighbours else 0
        if flow.estimator == "dis":
            processor += pairs * costs["dis_ms"] * small
        if flow.estimator.startswith("raft") and pairs:
            _raft(plan, demand, part, flow, pairs, processor / 1000, actors)
        demand.cores(processor / 1000)
        stored = views * row_bytes(plan, part, flow)
        demand.store(plan.source(part).path, read=decoded * source_bytes(plan, part))
        demand.store(target, written=stored, kept=stored + views * costs["index_bytes"])
        pieces_of_all += pieces
    rows = sum(part.frames for part in plan.dataset.parts) * VIEW_COUNT
    demand.requests(target, pieces_of_all * costs["s3_puts_per_file"], pieces_of_all * 3)  # looked for, opened, read
    demand.add("driver", pieces_of_all * costs["driver_task_ms"] / 1000)
    if not actors:  # each task unpacks the list of all parts
        frames = sum(part.frames for part in plan.dataset.parts)
        demand.cores(pieces_of_all * frames * costs["parts_unpickle_us"] * 1e-6)
    demand.start(costs["session_start_s"] + listing_s(plan, plan.dataset.parts))
    demand.start(rows * costs["index_row_us"] * 1e-6)
    return demand.row()


def predict(plan: Plan) -> Row:
    """`pipelines.predictor.Predictor`: decoding, flow, network and writing beside one another in every actor."""
    demand, costs, experiment = Demand(plan, "predict"), plan.costs, plan.experiment
    options, from_sources = experiment.prediction, experiment.prediction.input == "sources"
    actors, views = options.actors, len(options.views)
    parts = [part for part in plan.dataset.parts if part.split == options.split]
    output = experiment.prediction.output or experiment.storage
    size = (options.height, int(experiment.training.aspect * options.height))
    device = device_of(plan, options.gpus_per_actor > 0, options.precision, "prediction")
    for part in parts:
        flow = plan.flow(part)
        rule, pixels, small = pair_rule(experiment), part.megapixels, flow_megapixels(part, flow)
        batch = operations.prediction(experiment.model.backbone, size, options.batch_size, rule)
        pairs = part.frames * views * (0.5 if rule.both else rule.partners)
        network = pairs / options.batch_size * device.seconds(batch)
        writing = (costs["map_png_ms"] + costs["mask_png_ms"]) * pixels / 1000
        if from_sources:
            reading = costs["video_read_ms" if part.kind == "video" else "frame_read_ms"] * pixels / 1000
            flowing = views * (costs["dis_ms"] + 2 * costs["flow_picture_ms"]) * small / 1000
            demand.store(plan.source(part).path, part.frames * source_bytes(plan, part))
        else:
            reading = views * (costs["dataset_read_ms"] * pixels / 1000 + latency(plan, experiment.data.dataset, 1))
            flowing = 0.0
            demand.store(experiment.data.dataset, part.frames * views * row_bytes(plan, part, flow))
            demand.requests(experiment.data.dataset, gets=part.frames * views)
        waiting = latency(plan, output, 2 * costs["s3_puts_per_file"])
        if device.is_gpu:
            demand.add("GPU", network / (actors * options.gpus_per_actor), estimated=True)
        else:
            demand.cores(network)
        demand.add("actors' decoding threads", part.frames * reading / actors)
        demand.add("actors' flow threads", part.frames * flowing / actors)
        demand.add("actors' writing threads", part.frames * (writing + waiting) / (WRITERS * actors))
        demand.cores(part.frames * (reading + flowing + writing - _waits(plan, from_sources, views)))
        _results(plan, demand, part, output)
    demand.start(costs["session_start_s"] + (listing_s(plan, parts) if from_sources else 0.0))
    return demand.row()


def evaluate(plan: Plan) -> Row:
    """`pipelines.scoring.score_job` in tasks of 16 frames."""
    demand, costs, experiment = Demand(plan, "evaluate"), plan.costs, plan.experiment
    masks = experiment.evaluation.masks or experiment.prediction.output or experiment.storage
    for part in plan.dataset.parts:
        if part.split != experiment.evaluation.split or not part.annotated:
            continue
        each = costs["jf_ms"] + (costs["saliency_ms"] if experiment.evaluation.saliency else 0.0)
        files = 1 + experiment.evaluation.saliency
        demand.cores(part.annotated * each * part.megapixels / 1000)
        waiting = part.annotated * latency(plan, masks, 2 * files)
        demand.add("waiting for the store", waiting / plan.cluster.all_cores)
        demand.store(masks, part.annotated * files * costs["map_png_bytes"] * part.megapixels)
        demand.requests(masks, gets=part.annotated * 2 * files)
        demand.add("driver", ceil(part.annotated / 16) * costs["driver_task_ms"] / 1000)
        listed = 2 * part.frames / plan.known.store.keys_per_list
        demand.start(latency(plan, masks, listed) + 2 * part.frames * costs["list_masks_us"] * 1e-6)
    demand.start(costs["session_start_s"])
    return demand.row()


def _preparers(plan: Plan) -> int:
    """How many RAFT actors there are; 0 where tasks on cores do the work."""
    flows = [source.flow or plan.experiment.flow for source in plan.experiment.data.sources.values()]
    if plan.gpu is None or not any(flow.estimator.startswith("raft") for flow in flows):
        return 0
    return max(1, int(plan.cluster.all_gpus / plan.experiment.prepare.gpus_per_actor))


def _raft(plan: Plan, demand: Demand, part: Footage, flow: Flow, pairs: float, processor_s: float, actors: int) -> None:
    rows = min(part.height, flow.height or part.height)
    size = (rows, round(part.width * rows / part.height))
    work = operations.raft(flow.estimator, size, flow.updates, flow.batch)
    device = device_of(plan, plan.gpu is not None, flow.precision, "prediction")
    seconds = pairs / flow.batch * device.seconds(work)
    if not device.is_gpu:
        demand.cores(seconds)
        return
    demand.add("GPU", seconds / plan.cluster.all_gpus, estimated=True)
    # An actor does one thing after the other.
    demand.add("preparing actors", (seconds + processor_s) / actors, estimated=True)


def _results(plan: Plan, demand: Demand, part: Footage, output: str) -> None:
    """What is written, and `pipelines.predict._Progress` with `pipelines.predictions.Predictions.add` on the driver."""
    costs, overlays = plan.costs, plan.experiment.prediction.overlays
    maps = part.frames * (costs["map_png_bytes"] + costs["mask_png_bytes"]) * part.megapixels
    shown = part.videos * min(overlays, part.length)
    written = maps + shown * costs["frame_jpeg_bytes"] * part.megapixels + part.frames * costs["statistics_bytes"]
    demand.store(output, written=written, kept=written)
    files = 2 * part.frames + shown + 2 * part.videos
    folders = part.videos * (3 if overlays else 2)
    demand.requests(output, files * costs["s3_puts_per_file"] + folders * costs["s3_puts_per_folder"])
    reports = part.frames / FRAMES_PER_REPORT
    demand.add("driver", reports * costs["driver_task_ms"] / 1000 + part.frames * costs["report_us"] * 1e-6)
    per_video = latency(plan, output, 2 * costs["s3_puts_per_file"] + 3) + costs["predictions_add_ms"] / 1000
    demand.add("driver", part.videos * per_video)
    growing = costs["predictions_entry_us"] / 2 + costs["progress_total_us"]
    demand.add("driver", part.videos**2 * growing * 1e-6)


def _parts_of(part: Footage) -> range:
    return range(1, ceil(part.length / FRAMES_PER_PART) + 1)


def _waits(plan: Plan, from_sources: bool, views: int) -> float:
    """Seconds of reading that are no processor time."""
    return 0.0 if from_sources else views * latency(plan, plan.experiment.data.dataset, 1)
