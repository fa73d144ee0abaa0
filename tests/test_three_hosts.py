"""A cluster of three hosts, a client and MLflow with PostgreSQL and S3, each at an address of its own on this machine.

Jobs come from the client. What they make is what one machine makes, also where a host is cut off in the middle.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import predict, prepare, train
from pipelines.config import Experiment, load_experiment
from pipelines.dataset import Dataset
from pipelines.loader import Schedule
from pipelines.run_folder import RunFolder
from pipelines.show import content_digest
from rtnet.data.clip import write_clip
from tests.clusters import BUCKET, Cluster, three_hosts, wait_for
from tests.hosts import SHARED, why_not
from tests.services import missing_postgresql
from tests.stranger import METHODS

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.hosts]

RECIPE = """
name: hosts
seed: 3
data: {{sources: {{clip: {{layout: davis16, path: {shared}/clip}}}}, dataset: {storage}/dataset}}
flow: {{preset: medium}}
model: {{backbone: mobilenet_v3_large}}
training:
  phases:
    - {{last_epoch: 1, rate: 1e-3, trained: interaction}}
    - {{last_epoch: 2, rate: 1e-2}}
  heights: [32, 64]
  steps_per_epoch: 6
  checkpoint_every: 3
validation: {{height: 64, pictures: 2, every: 2}}
scaling: {{num_workers: 2, cpus_per_worker: 1.25, threads_per_worker: 1}}
prediction: {{split: train, height: 128, actors: 2, batch_size: 2}}
storage: {storage}/runs
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What can be had here to make hosts with, else the tests are left out."""
    if reason := why_not() or missing_postgresql():
        pytest.skip(reason)
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def clip(folder: Path) -> Path:
    write_clip(folder / "clip", {"train": ["a", "b"]}, frames=64, height=160, width=280)
    write_clip(folder / "clip", {"val": ["c"]}, frames=4, height=160, width=280)
    return folder / "clip"


@pytest.fixture(scope="module")
def one_machine(local_ray: None, clip: Path) -> Experiment:
    """The same on this machine alone: prepared, trained, predicted."""
    path = clip.parent / "one_machine.yaml"
    path.write_text(RECIPE.format(shared=clip.parent, storage=clip.parent / "one_machine"))
    experiment = load_experiment(path, ["scaling.cpus_per_worker=0.25"])
    for verb in (prepare, train, predict):
        verb.run(experiment)
    return experiment


@pytest.fixture(scope="module")
def cluster(folder: Path, clip: Path, one_machine: Experiment) -> Iterator[Cluster]:
    with three_hosts(folder, RECIPE) as made:
        shutil.copytree(clip, made.network.shared / "clip")
        yield made


@pytest.fixture(scope="module")
def prepared(cluster: Cluster) -> Dataset:
    """The dataset, made while a worker host was cut off for good."""
    job = cluster.submit("prepare")
    job.reaches(lambda: len(cluster.files("runs/dataset/parts")) >= 2)
    cluster.network.cut("worker1")
    job.reaches(lambda: "worker1" not in cluster.alive())
    job.end()
    cluster.network.mend("worker1")
    return Dataset(cluster.experiment().data.dataset)


@pytest.fixture(scope="module")
def trained(cluster: Cluster, prepared: Dataset) -> RunFolder:
    """A training by one worker on each of two hosts that nothing disturbed."""
    wait_for(lambda: cluster.alive() == {"head", "worker1", "worker2"})
    cluster.submit("train").end()
    return RunFolder.of(cluster.experiment())


def test_prepare_with_a_host_cut_off_in_its_middle_misses_nothing_and_doubles_nothing(
    prepared: Dataset, one_machine: Experiment, cluster: Cluster
) -> None:
    undisturbed = Dataset(one_machine.data.dataset)
    assert content_digest(prepared) == content_digest(undisturbed)
    assert [f"parts/{file}" for file in cluster.files("runs/dataset/parts")] == sorted(set(prepared.column("file")))


def test_training_on_two_hosts_is_training_on_one(
    trained: RunFolder, prepared: Dataset, one_machine: Experiment, cluster: Cluster
) -> None:
    """The same pairs, losses and weights."""
    alone, ours = (
        Schedule.of(experiment, Dataset(experiment.data.dataset), 2)
        for experiment in (one_machine, cluster.experiment())
    )
    folder = RunFolder.of(one_machine)
    for epoch in (1, 2):
        assert np.array_equal(ours.pairs(epoch), alone.pairs(epoch))
        steps, expected = (run.measured(epoch)["steps"] for run in (trained, folder))
        assert [step for step, _, _ in steps] == [step for step, _, _ in expected]
        assert np.allclose([losses for *_, losses in steps], [losses for *_, losses in expected], rtol=1e-6, atol=1e-6)


def test_a_training_that_loses_a_host_goes_on_with_another_to_the_same_weights(
    trained: RunFolder, cluster: Cluster
) -> None:
    lost = RunFolder.of(cluster.experiment("name=lost"))
    job = cluster.submit("train", "name=lost")
    job.reaches(lambda: max(lost.steps(), default=0) >= 2)
    cluster.network.cut("worker1")
    job.reaches(lambda: "worker1" not in cluster.alive())
    cluster.join("spare")
    said = job.end()
    cluster.network.mend("worker1")
    assert "continuing in epoch" in said
    assert lost.epochs() == trained.epochs() == [0, 1, 2]
    for epoch in (1, 2):
        ours, theirs = (run.read_epoch(epoch)["model"] for run in (lost, trained))
        assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
        ours, theirs = ([losses for *_, losses in run.measured(epoch)["steps"]] for run in (lost, trained))
        assert ours == theirs


def test_predict_with_a_host_cut_off_in_its_middle_makes_the_maps_of_one_machine(
    trained: RunFolder, one_machine: Experiment, cluster: Cluster
) -> None:
    """Each once. The model is looked up in the registry on PostgreSQL, and comes from S3."""
    job = cluster.submit("predict")
    job.reaches(lambda: len(cluster.files("runs/runs/hosts/predictions/maps")) >= 10)
    lost = cluster.busy("(MapBatches(Predictor))")[0]
    cluster.network.cut(lost)
    job.reaches(lambda: lost not in cluster.alive())
    job.end()
    cluster.network.mend(lost)
    alone = Path(one_machine.storage, one_machine.name, "predictions")
    expected = {str(path.relative_to(alone)): path for path in alone.rglob("*") if path.is_file()}
    assert cluster.files("runs/runs/hosts/predictions") == sorted(expected)
    for name, path in expected.items():
        if name.startswith(("maps/", "masks/", "statistics/")):
            assert cluster.read(f"runs/runs/hosts/predictions/{name}") == path.read_bytes(), name


def test_who_has_no_token_or_another_one_is_told_so_in_one_line(cluster: Cluster) -> None:
    submit = ["rtnet", "submit", "prepare", f"{SHARED}/hosts.yaml", "--address", "http://head:8265"]
    prepare_here = ["rtnet", "prepare", f"{SHARED}/hosts.yaml"]
    address = {"RAY_ADDRESS": f"{cluster.network.hosts['head'].address}:6379"}
    ways: dict[str, dict[str, str]] = {
        "none": {},
        "silent": {"RAY_AUTH_MODE": "disabled"},
        "wrong": {"RAY_AUTH_TOKEN": "f" * 32},
    }
    asked = {}
    for way, variables in ways.items():
        asked[f"submit {way}"] = cluster.begin("stranger", *submit, log=f"submit {way}", **variables)
        there = [*prepare_here, f"data.dataset=s3://{BUCKET}/{way}"]
        asked[f"prepare {way}"] = cluster.begin("stranger", *there, log=f"prepare {way}", **address, **variables)
    for name, process in asked.items():
        status, said = process.wait(120), (cluster.logs / name).read_text()
        *before, last = said.splitlines()
        assert status == 2 and "token" in last, f"{name}: {said}"
        assert all(line.startswith("preparing ") for line in before), f"{name}: {said}"


def test_without_a_token_a_host_tells_no_more_than_its_health_and_its_metrics(cluster: Cluster) -> None:
    """At every port of head and a worker each of Ray's services refuses; the dashboard's page is empty without data."""
    refused = set()
    for name in ("head", "worker1"):
        for port, question, answer in cluster.network.ask_all("stranger", name):
            if answer in ("401", "UNAUTHENTICATED"):
                refused.add(question)
            elif answer not in ("404", "UNIMPLEMENTED", "UNAVAILABLE"):
                harmless = question in _HARMLESS or answer.startswith(("200 # HELP", "200 <!doctype html>"))
                assert harmless, f"{name}, port {port}, {question}: {answer}"
    assert refused >= set(METHODS) - _HARMLESS, "these were not met with at any port"


_HARMLESS = {"/grpc.health.v1.Health/Check", "/api/healthz", "/api/local_raylet_healthz"}
