"""What a training reads: the schedule's pairs, decoded by Ray Data, each once, from any step on."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from experiments.benchmarks import loader as benchmark
from pipelines import loader, prepare
from pipelines.config import Experiment
from pipelines.dataset import Dataset
from pipelines.loader import Schedule, read_steps
from pipelines.train_checks import warn_of_mixed_flow
from rtnet.data.clip import write_clip
from tests.recipes import preparing

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def experiment(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """Two sources of different sizes, one with flow at half size and weight 1/2."""
    root = tmp_path_factory.mktemp("loader")
    write_clip(root / "one", {"train": ["a", "b"]}, frames=7, height=48, width=64)
    write_clip(root / "two", {"train": ["a"]}, frames=5, height=64, width=48)
    small = {"layout": "davis16", "path": str(root / "two"), "weight": 0.5, "flow": {"preset": "fast", "height": 32}}
    chosen = preparing(
        root / "dataset",
        {"one": root / "one", "two": small},
        training={"phases": [{"last_epoch": 2, "rate": 0.1}], "batch_size": 2, "heights": [32, 64]},
    )
    prepare.run(chosen)
    return chosen


def _schedule(experiment: Experiment, world: int) -> Schedule:
    return Schedule(Dataset(experiment.data.dataset), experiment.data, experiment.training, 3, world)


@pytest.mark.parametrize("world", [1, 2])
def test_every_step_is_what_reading_its_rows_one_by_one_gives(experiment: Experiment, world: int) -> None:
    schedule = _schedule(experiment, world)
    count = schedule.steps_per_epoch
    for rank in range(world):
        steps = list(read_steps(schedule, rank, count - 3, count + 3))  # over the end of an epoch
        assert len(steps) == 6
        for number, step in enumerate(steps, start=count - 3):
            rows = schedule.pairs(number // count + 1)[number % count, rank].reshape(-1)
            assert step.rows.tolist() == rows.tolist()
            for row, image, flow, annotation in zip(rows, step.images, step.flows, step.annotations, strict=True):
                view = schedule.dataset.read(int(row))
                assert np.array_equal(image, view.image)
                assert np.array_equal(np.concatenate(list(flow), axis=2), view.flow)
                assert view.annotation is not None and np.array_equal(annotation, view.annotation)
                assert image.dtype == flow.dtype == np.uint8


def test_steps_come_in_order_over_one_execution_after_the_other(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "_BLOCK_PAIRS", 2)
    monkeypatch.setattr(loader, "_BLOCKS_PER_EXECUTION", 3)
    monkeypatch.setattr(loader, "_BLOCKS_LEFT_AT_START", 2)
    schedule = _schedule(experiment, 1)
    count = schedule.steps_per_epoch
    read = [step.rows.tolist() for step in read_steps(schedule, 0, 0, 11)]
    assert read == [schedule.pairs(n // count + 1)[n % count].reshape(-1).tolist() for n in range(11)]


def test_each_pair_of_an_epoch_is_there_once_whatever_the_number_of_workers(experiment: Experiment) -> None:
    alone, pairs = _schedule(experiment, 1), _schedule(experiment, 2)
    rows = alone.rows
    full = rows[np.arange(len(rows))]
    names = alone.dataset.column("dataset")[full]
    for epoch in (1, 2):
        flat = alone.pairs(epoch).reshape(-1, 2)
        shared = pairs.pairs(epoch).reshape(-1, 2)
        assert np.array_equal(flat[: len(shared)], shared)
        times = Counter(flat[:, 0].tolist())
        assert set(times.values()) == {1}
        of_two = [row for row in times if alone.dataset.column("dataset")[row] == "two"]
        # Half of the second source's views, but for those of the incomplete last batch.
        assert abs(len(of_two) - 0.5 * int((names == "two").sum())) <= 2
    assert not np.array_equal(alone.pairs(1), alone.pairs(2))


def test_a_later_start_reads_only_what_is_still_needed(experiment: Experiment, tmp_path: Path) -> None:
    schedule = _schedule(experiment, 1)
    last = schedule.steps_per_epoch
    expected = [step.rows.tolist() for step in read_steps(schedule, 0, 0, last)]
    opened: list[int] = []
    original = Dataset.read_encoded

    assert len(list(read_steps(schedule, 0, 3 * last, 3 * last + 1))) == 1  # later epochs before earlier ones
    tail = list(read_steps(schedule, 0, last - 2, last))
    assert [step.rows.tolist() for step in tail] == expected[-2:]
    # In this process, where it can be watched, the block's reader opens the rows of its steps and no others.
    from pipelines.step_block import pack_steps

    def watched(self: Dataset, row: int) -> dict[str, bytes | None]:
        opened.append(row)
        return original(self, row)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Dataset, "read_encoded", watched)
        pack_steps(schedule.dataset, np.array(expected[-2:]))
    assert opened == [row for rows in expected[-2:] for row in rows]


def test_training_on_flow_of_several_estimators_is_said(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = Dataset(experiment.data.dataset)
    warn_of_mixed_flow(dataset, np.arange(dataset.index.num_rows))
    assert "mixture: dis-ultrafast" in capsys.readouterr().out
    warn_of_mixed_flow(dataset, np.flatnonzero(dataset.column("dataset") == "one"))
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_the_benchmark_of_the_loader_runs_and_ends_with_its_ratio(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_clip(tmp_path, {"train": ["a", "b"]}, frames=6, height=60, width=100)
    benchmark.main(["--data", str(tmp_path), "--sequences", "a,b", "--pairs", "6", "--rounds", "1"])
    assert capsys.readouterr().out.splitlines()[-1].startswith("ratio: ")
