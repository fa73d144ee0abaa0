"""The capacity calculator: hand-calculated cases, what must grow and shrink, units, mistakes, limits."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from experiments.benchmarks import capacity, capacity_measure, capacity_measure_requests, network_case
from experiments.benchmarks import capacity_operations as operations
from experiments.benchmarks.capacity_demand import Demand, device_of
from experiments.benchmarks.capacity_inputs import (
    KNOWN,
    Cluster,
    Cost,
    Costs,
    DataSet,
    Footage,
    Known,
    Plan,
    load_plan,
)
from experiments.benchmarks.capacity_limits import Limit, limits
from experiments.benchmarks.capacity_operations import Operations
from experiments.benchmarks.capacity_train import epochs_of, train
from experiments.benchmarks.capacity_verbs import evaluate, predict, prepare
from pipelines.config import read_yaml, validate
from pipelines.dataset import INDEX_SCHEMA, Dataset
from pipelines.dataset_writer import write_index
from pipelines.loader import Schedule
from pipelines.storage import open_storage
from rtnet.config import RTNetConfig
from rtnet.data.clip import write_clip
from rtnet.data.layouts import read_layout
from rtnet.data.prediction_pairs import PairRule
from rtnet.model.rtnet import RTNet

SMOKE = "experiments/smoke.yaml"
ON_GPUS = ["scaling.use_gpu=true", "scaling.num_workers=4", "prediction.actors=4", "prediction.gpus_per_actor=1.0"]
SMALL = [*ON_GPUS, "data.dataset=s3://b/d", "prediction.output=s3://b/p"]


class FreeCosts(Costs):
    """What is not named costs nothing."""

    def __getitem__(self, name: str) -> float:
        return self.costs[name].value if name in self.costs else 0.0


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])


def plan_of(costs: dict[str, float], parts: list[dict[str, Any]], cluster: dict[str, Any], **sections: Any) -> Plan:
    """A plan whose every figure stands in the test."""
    values = {
        "name": "toy",
        "data": {"sources": {"clip": {"layout": "frames", "path": "/clip"}}, "dataset": "/dataset"},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}]},
    }
    nodes = {"nodes": 1, "gpus": 0, "gpu": None, "cores": 1, "memory_gb": 1.0, "network_gbit": 8e9, "price": 1.0}
    known = Known.model_validate(read_yaml(KNOWN, "file"))
    return Plan(
        "toy.yaml",
        validate(values | sections, "test"),
        "toy",
        DataSet.model_validate({"parts": [{"source": "clip", "split": "train", "annotated": 0} | p for p in parts]}),
        "toy",
        Cluster.model_validate(nodes | cluster),
        known,
        FreeCosts(machine="", command="", costs={name: Cost(value=v, unit="") for name, v in costs.items()}),
    )


ONE_VIDEO = [{"videos": 1, "frames": 40, "height": 1000, "width": 1000}]


def test_prepare_takes_what_the_frames_their_neighbours_and_four_views_take() -> None:
    costs = {"frame_read_ms": 10.0, "dis_ms": 100.0, "flow_picture_ms": 5.0, "planes_ms": 5.0, "row_ms": 1.0}
    row = prepare(plan_of(costs, ONE_VIDEO, {"cores": 10}))
    # Parts of 16, 16 and 8 frames read 17, 18 and 9, so 16, 17 and 8 flows in each view.
    milliseconds = 44 * 10 + 4 * 41 * 100 + 4 * 40 * (2 * (5 + 5) + 1)
    assert row.loads["CPU"] == pytest.approx(milliseconds / 1000 / 10)
    assert row.bottleneck == "CPU"


def test_flow_of_fewer_rows_takes_its_own_pixels() -> None:
    costs = {"frame_read_ms": 10.0, "dis_ms": 100.0}
    row = prepare(plan_of(costs, ONE_VIDEO, {}, flow={"height": 500}))
    assert row.loads["CPU"] == pytest.approx((44 * 10 + 4 * 41 * 100 / 4) / 1000)


def test_each_part_of_a_video_file_is_decoded_from_the_beginning() -> None:
    video = [{"videos": 2, "frames": 80, "height": 1000, "width": 1000, "kind": "video", "mbit": 8.0, "rate": 10.0}]
    row = prepare(plan_of({"video_read_ms": 1.0}, video, {}))
    decoded = 2 * (17 + 33 + 40)
    assert row.loads["CPU"] == pytest.approx(decoded / 1000)
    assert row.read == pytest.approx(decoded * 8e6 / 8 / 10)


def test_bytes_and_money_of_a_prepared_dataset() -> None:
    costs = {"frame_jpeg_bytes": 300e3, "flow_bytes": 100e3, "annotation_bytes": 50e3, "index_bytes": 100.0}
    parts = [{**ONE_VIDEO[0], "annotated": 20}]
    plan = plan_of(costs | {"s3_puts_per_file": 3.0}, parts, {"price": 3.6, "network_gbit": 8.0})
    plan = replace(plan, experiment=plan.experiment.model_copy(update={
        "data": plan.experiment.data.model_copy(update={"dataset": "s3://bucket/dataset"})
    }))  # fmt: skip
    row = prepare(plan)
    stored = 160 * (300e3 + 25e3 + 2 * 100e3)
    assert row.written == pytest.approx(stored)
    assert row.kept == pytest.approx(stored + 160 * 100)
    assert row.read == pytest.approx(44 * 300e3)
    assert row.loads["store bandwidth"] == pytest.approx((stored + 44 * 300e3) / 1e9)
    assert row.request_price == pytest.approx((3 * 3 * 0.005 + 3 * 3 * 0.0004) / 1000)


def test_predict_has_threads_beside_one_another_and_one_driver() -> None:
    costs = {
        "frame_read_ms": 20.0, "dis_ms": 30.0, "flow_picture_ms": 5.0, "map_png_ms": 6.0, "mask_png_ms": 2.0,
        "predictions_entry_us": 2e6, "core_gflops_prediction": 1e12,
    }  # fmt: skip
    options = {"input": "sources", "split": "train", "actors": 2, "overlays": 0}
    row = predict(plan_of(costs, [{**ONE_VIDEO[0], "videos": 4}], {"cores": 4}, prediction=options))
    assert row.loads["actors' decoding threads"] == pytest.approx(40 * 0.020 / 2)
    assert row.loads["actors' flow threads"] == pytest.approx(40 * 0.040 / 2)
    assert row.loads["actors' writing threads"] == pytest.approx(40 * 0.008 / (4 * 2))
    assert row.loads["CPU"] == pytest.approx(40 * 0.068 / 4, rel=1e-3)
    assert row.loads["driver"] == pytest.approx(4**2 * 2 / 2)  # each of 4 sequences rewrites half of them in the mean
    assert row.bottleneck == "driver"


def test_evaluate_counts_annotated_frames_of_its_split() -> None:
    parts: list[dict[str, Any]] = [{**ONE_VIDEO[0], "split": "val", "annotated": 10}, {**ONE_VIDEO[0], "annotated": 40}]
    plan = plan_of({"jf_ms": 20.0, "saliency_ms": 80.0}, parts, {"cores": 2})
    assert evaluate(plan).loads["CPU"] == pytest.approx(10 * 0.1 / 2)
    faster = plan.experiment.evaluation.model_copy(update={"saliency": False})
    plan = replace(plan, experiment=plan.experiment.model_copy(update={"evaluation": faster}))
    assert evaluate(plan).loads["CPU"] == pytest.approx(10 * 0.02 / 2)


def test_a_device_takes_its_share_of_the_peak_or_its_operators_calls() -> None:
    plan = plan_of({"core_gflops_training": 25.0}, ONE_VIDEO, {"gpus": 1, "gpu": "L4"})
    device = device_of(plan, True, "float32", "training")
    assert device.seconds(Operations(30.3e12 * 0.575, 1)) == pytest.approx(1)
    assert device.seconds(Operations(1.0, 1000)) == pytest.approx(0.007)
    assert device_of(plan, False, "float32", "training").seconds(Operations(25e9, 1)) == pytest.approx(1)


def test_what_works_beside_one_another_takes_as_long_as_the_slowest() -> None:
    demand = Demand(plan_of({}, ONE_VIDEO, {"cores": 2}), "verb")
    demand.start(10.0)
    demand.cores(8.0)
    demand.add("driver", 6.0)
    row = demand.row()
    assert (row.seconds, row.bottleneck) == (16.0, "driver")
    assert row.used("CPU") == pytest.approx(4 / 16)


def test_epochs_of_the_published_recipe_are_those_that_its_head_names() -> None:
    plan = load_plan("experiments/davis16_resnet34.yaml", "davis16", "aws-l4", [])
    from pipelines.config import expand_stages

    found = [epochs_of(replace(plan, experiment=stage)) for stage in expand_stages(plan.experiment)]
    assert [(epochs.pairs, epochs.total) for epochs in found] == [(50_528, 20), (8_316, 20), (8_316, 99)]
    assert [epochs.steps for epochs in found] == [50_528 // 16, 8_316 // 16, 8_316 // 4]
    assert found[0].scored == 1376 - 2 * 20


def test_steps_are_those_of_the_loaders_own_schedule(tmp_path: Path) -> None:
    sources = {
        "clip": {"layout": "frames", "path": "/clip", "weight": 0.5},
        "other": {"layout": "frames", "path": "/other"},
    }
    counts = {"clip": 9, "other": 7}
    sections = {
        "data": {"sources": sources, "dataset": str(tmp_path)},
        "scaling": {"num_workers": 2},
        "training": {"phases": [{"last_epoch": 1, "rate": 0.1}], "batch_size": 3},
    }
    parts = [{"source": name, "videos": 1, "frames": n, "annotated": n, "height": 8, "width": 8}
             for name, n in counts.items()]  # fmt: skip
    plan = plan_of({}, parts, {}, **sections)
    rows = [
        {"dataset": name, "split": "train", "sequence": "a", "frame": frame, "view": view, "annotated": True,
         "still": False, "estimator": "dis"}
        for name, count in counts.items() for view in ("as_is", "horizontal", "vertical", "both")
        for frame in range(count)
    ]  # fmt: skip
    system, root = open_storage(str(tmp_path))
    write_index(system, root, pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), "test")
    schedule = Schedule.of(plan.experiment, Dataset(str(tmp_path)), world=2)
    assert epochs_of(plan).steps == schedule.steps_per_epoch == (18 + 28) // 6


@pytest.mark.parametrize("both", [False, True])
def test_operations_counted_without_computing_are_those_of_the_network(both: bool) -> None:
    rule = PairRule(both=both)
    found = operations.prediction("resnet18", (48, 80), 1, rule)
    model = RTNet(RTNetConfig("resnet18")).eval()
    frames, flow, pairs = torch.randn(2, 3, 48, 80), torch.randn(2, 6, 48, 80), torch.tensor([[0, 1]])
    known = model.frame_features(frames, flow)
    of_frames = network_case._flop(lambda: model.frame_features(frames, flow)) / (1 if both else 2)
    assert found.flop == of_frames + network_case._flop(lambda: model.predict_pairs(known, pairs, both))
    assert operations.weights("resnet18", "both").parameters == sum(p.numel() for p in model.parameters())


def test_a_training_step_computes_about_three_times_its_forward_and_less_with_frozen_streams() -> None:
    model = RTNet(RTNetConfig("resnet18"))
    frames, flow = torch.randn(2, 2, 3, 48, 80), torch.randn(2, 2, 6, 48, 80)
    forward = network_case._flop(lambda: model(frames, flow))
    whole = operations.training("resnet18", "both", (48, 80), 2).flop
    assert 2.7 * forward < whole < 4 * forward
    assert forward < operations.training("resnet18", "both", (48, 80), 2, "interaction").flop < whole
    assert operations.training("resnet18", "appearance", (48, 80), 2).flop < whole / 2


@pytest.mark.parametrize("field", ["nodes", "gpus", "cores", "network_gbit"])
def test_twice_of_anything_never_takes_longer(field: str) -> None:
    plan = load_plan(SMOKE, "davis16", "aws-l4", SMALL)
    cluster = plan.cluster.model_copy(update={field: 2 * getattr(plan.cluster, field)})
    for once, twice in zip(capacity.verbs(plan), capacity.verbs(replace(plan, cluster=cluster)), strict=True):
        if field == "nodes" and once.name.startswith(("train", "validate")):
            continue  # the same workers on two nodes wait longer for one another
        assert twice.seconds <= once.seconds * 1.0001, once.name


def test_twice_the_workers_and_actors_on_twice_the_gpus_take_less() -> None:
    wide = ["scaling.num_workers=8", "prediction.actors=8", "cluster.gpus=8"]
    once = {row.name: row for row in capacity.verbs(load_plan(SMOKE, "davis16", "aws-l4", SMALL))}
    twice = {row.name: row for row in capacity.verbs(load_plan(SMOKE, "davis16", "aws-l4", [*SMALL, *wide]))}
    for name in ("predict", "validate smoke"):
        assert twice[name].work_s < once[name].work_s


def test_the_bottleneck_is_what_is_made_scarce() -> None:
    def bottlenecks(*overrides: str) -> set[str]:
        rows = capacity.verbs(load_plan(SMOKE, "davis16", "aws-l4", [*SMALL, *overrides]))
        return {row.bottleneck for row in rows}

    assert "store bandwidth" not in bottlenecks()
    assert bottlenecks("cluster.network_gbit=0.0001") == {"store bandwidth"}
    scarce = bottlenecks("cluster.cores=5")
    assert "CPU" in scarce


def test_the_worst_case_takes_longest_and_says_that_it_is_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    assert capacity.main([SMOKE, "--dataset", "davis16", "--cluster", "aws-l4", *SMALL, "model.backbone=resnet50"]) == 0
    lines = capsys.readouterr().out.splitlines()
    ranges = [line for line in lines if re.search(r"\| [\d.,]+ \([\d.,e-]+ to [\d.,e-]+\) \|", line)]
    assert ranges
    for line in lines:
        if "GPU" in line.split("|")[-2:][0] or line in ranges:
            assert "(GPU estimated)" in line, line
    assert any("all together (GPU estimated)" in line for line in lines)


def test_a_limit_breaks_where_its_value_meets_its_bound() -> None:
    linear = Limit("predict", "where", "what", size=100, of="videos", value=2.0, bound=10.0, unit="s")
    assert linear.breaks_at == 500 and not linear.broken
    square = replace(linear, power=2, bound=0.5)
    assert square.breaks_at == 50 and square.broken


def test_limits_of_ten_times_the_videos_break_at_the_same_size() -> None:
    overrides = ["prediction.output=s3://b/p"]
    plans = [load_plan("experiments/videos.yaml", "web10m", "aws-l4", [
        *overrides, f"dataset.parts.0.videos={10**n}", f"dataset.parts.0.frames={437 * 10**n}"
    ]) for n in (4, 5)]  # fmt: skip
    few, many = ({(x.where, x.what): x for x in limits(plan)} for plan in plans)
    assert few.keys() == many.keys()
    for key, limit in few.items():
        assert many[key].breaks_at == pytest.approx(limit.breaks_at), key
    assert any(limit.power == 2 for limit in few.values())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["experiments/none.yaml"], "experiments/none.yaml: No such file"),
        ([SMOKE, "--dataset", "davis61"], "--dataset davis61: no such dataset; capacity.yaml has davis16"),
        ([SMOKE, "--cluster", "moon"], "--cluster moon: no such cluster; capacity.yaml has aws-l4"),
        ([SMOKE, "cluster.gpu=B52"], "cluster.gpu=B52: no such kind; known are A100"),
        ([SMOKE, "cluster.nodes=0"], "clusters.aws-l4.nodes"),
        ([SMOKE, "dataset.parts.0.frames=0"], "datasets.davis16.parts.0.frames"),
        ([SMOKE, "cluster.node=2"], "unknown field 'clusters.aws-l4.node'; did you mean clusters.aws-l4.nodes? known"),
        ([SMOKE, "trainings.heights=[64]"], "unknown field 'trainings'"),
        ([SMOKE, "scaling.num_workers=5", "scaling.use_gpu=true"], "asks for 5 GPUs, and cluster aws-l4 has 4"),
        ([SMOKE, "prediction.actors=5", "prediction.gpus_per_actor=1.0"], "prediction asks for 5 GPUs"),
        ([SMOKE, "--cluster", "laptop", "scaling.use_gpu=true"], "has 0: set scaling.use_gpu=false, or choose another"),
        ([SMOKE, "--cluster", "laptop", "prediction.gpus_per_actor=1.0"], "has 0: set prediction.gpus_per_actor=0"),
        ([SMOKE, "--dataset", "web10m", "data.sources.b={layout: video, path: b}"], "has the sources davis16, b, and"),
        (["experiments/davis16_resnet34.yaml", "training.split=all"], "split 'all' of the data set has 0 annotated"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert capacity.main(arguments) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_a_sweep_takes_what_its_trials_take_in_turns() -> None:
    plan, rows_of = capacity._sweep("experiments/sweeps/toy.yaml", "davis16", "laptop", [])
    (row,) = rows_of(plan)
    assert row.name == "tune, 8 trials"
    assert row.loads["trials"] > 8 * plan.costs["trainer_start_s"] / 2


def test_the_costs_agree_with_a_small_run(tmp_path: Path) -> None:
    """Within what another processor may make of them."""
    write_clip(tmp_path / "clip", {"train": ["drift"]}, frames=18, height=480, width=854)
    (sequence,) = read_layout("davis16", tmp_path / "clip", "clip")
    kept = load_plan(SMOKE, "davis16", "aws-l4", []).costs
    for name, (value, unit) in (capacity_measure._frames(sequence) | capacity_measure._maps(sequence)).items():
        if unit.startswith("CPU-ms"):
            assert value / 6 < kept[name] < value * 6, name


def test_requests_of_a_file_are_counted_at_a_real_client() -> None:
    kept = load_plan(SMOKE, "davis16", "aws-l4", []).costs
    for name, (value, _) in capacity_measure_requests.requests().items():
        assert kept[name] == value, name


def test_every_cost_that_is_read_is_there() -> None:
    """FreeCosts above would hide a misspelt one."""
    text = "".join(path.read_text() for path in KNOWN.parent.glob("capacity_[!mi]*.py"))
    used = set(re.findall(r'costs\["(\w+)"\]', text))
    kept = load_plan(SMOKE, "davis16", "aws-l4", []).costs
    assert used <= kept.costs.keys()
    assert all(np.isfinite(cost.value) for cost in kept.costs.values())


def test_footage_knows_its_own_units() -> None:
    clip = Footage(source="a", split="train", videos=2, frames=100, annotated=0, height=500, width=1000, rate=25.0)
    assert (clip.length, clip.megapixels, clip.pieces(16)) == (50, 0.5, 8)
    assert clip.hours == pytest.approx(4 / 3600)
    assert [capacity._bytes(10.0**n) for n in (0, 3, 7, 16)] == ["1 B", "1 kB", "10 MB", "10 PB"]
    assert [capacity._number(x) for x in (0.012345, 1.26, 12.6, 123456.0)] == ["0.012", "1.3", "13", "120,000"]


def test_train_has_epochs_and_the_validations_for_which_they_pause() -> None:
    plan = load_plan(SMOKE, "davis16", "aws-l4", SMALL)
    names = [row.name for row in train(plan)]
    assert names == ["train smoke", "validate smoke"]
