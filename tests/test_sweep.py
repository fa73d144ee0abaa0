"""Sweeps: their files, the trials that they mean, what is kept and shown of these; all without Ray."""

import csv
import io
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from pipelines.parallel_coordinates import parallel_coordinates
from pipelines.sweep import Overrides, Sweep, load_sweep, points, trial_experiment, trial_name
from pipelines.trials import LAST_EPOCH, SweepFolder, Trial, as_csv, as_text, table
from rtnet.errors import UserError

RECIPE = """
name: base
data: {sources: {davis: {layout: davis16, path: davis}}, dataset: ds}
training: {phases: [{last_epoch: 2, rate: 1e-3}, {last_epoch: 9, rate: 1e-4}]}
"""
GRID = {"model.backbone": {"grid": ["resnet18", "resnet50"]}, "training.phases.1.rate": {"grid": [1e-3, 1e-4, 1e-5]}}
DRAWN = {
    "model.backbone": {"choice": ["resnet18", "convnext_tiny"]},
    "training.phases.0.rate": {"loguniform": [1e-4, 1e-1]},
    "training.momentum": {"uniform": [0.5, 0.9]},
    "training.reach": {"integers": [1, 3]},
}


def _write(folder: Path, space: object, **fields: object) -> Path:
    (folder / "base.yaml").write_text(RECIPE)
    (folder / "sweeps").mkdir(exist_ok=True)
    path = folder / "sweeps" / "sweep.yaml"
    path.write_text(yaml.safe_dump({"name": "mine", "recipe": "../base.yaml", "space": space} | fields))
    return path


def _load(folder: Path, space: object, **fields: object) -> Sweep:
    return load_sweep(_write(folder, space, **fields))[0]


def test_a_grid_is_every_combination_and_a_trial_the_recipe_with_it(tmp_path: Path) -> None:
    path = _write(tmp_path, GRID, overrides={"training.momentum": 0.5, "seed": 4})
    sweep, base = load_sweep(path, ["training.momentum=0.6"])
    found = points(sweep)
    assert len(found) == 6 and found[1] == {"model.backbone": "resnet18", "training.phases.1.rate": 1e-4}
    name = trial_name(4, found[4])
    assert name == "004-resnet50-0.0001"
    experiment = trial_experiment(base, name, found[4])
    assert (experiment.name, experiment.model.backbone) == (f"mine.{name}", "resnet50")
    assert [phase.rate for phase in experiment.training.phases] == [1e-3, 1e-4]
    assert (experiment.training.momentum, experiment.seed) == (0.6, 4)


def test_random_points_lie_in_the_space_and_depend_on_the_seed_and_their_number_alone(tmp_path: Path) -> None:
    few, many, other = (
        points(_load(tmp_path, DRAWN, search={"method": "random", "trials": trials, "seed": seed}))
        for trials, seed in ((10, 1), (40, 1), (10, 2))
    )
    assert few == many[:10] and few != other
    for point in many:
        assert 1e-4 <= point["training.phases.0.rate"] <= 1e-1 and 0.5 <= point["training.momentum"] <= 0.9
    assert {point["training.reach"] for point in many} == {1, 2, 3}
    assert {point["model.backbone"] for point in many} == {"resnet18", "convnext_tiny"}
    logarithms = [math.log10(point["training.phases.0.rate"]) for point in many]
    assert -3.0 < float(np.mean(logarithms)) < -2.0


def test_equal_points_are_one_trial(tmp_path: Path) -> None:
    space = {"training.reach": {"choice": [1, 2]}}
    assert len(points(_load(tmp_path, space, search={"method": "random", "trials": 30}))) == 2


@pytest.mark.parametrize(
    ("space", "fields", "words"),
    [
        ({"training.rat": {"grid": [1]}}, {}, ["unknown field 'training.rat'", "momentum"]),
        ({"trainin.rate": {"grid": [1]}}, {}, ["unknown field 'trainin'"]),
        ({"training.phases.2.rate": {"grid": [1e-3]}}, {}, ["'2'", "2 entries"]),
        ({"model.backbone": {"grid": ["resnet18", "resnet17"]}}, {}, ["resnet17", "convnext_tiny"]),
        ({"model.backbone": {"choice": ["resnet17"]}}, {"search": {"method": "optuna"}}, ["resnet17"]),
        (
            {"training.momentum": {"uniform": [0.5, 1.5]}},
            {"search": {"method": "optuna"}},
            ["training.momentum", "1.5"],
        ),
        ({"training.phases.0.last_epoch": {"grid": [1, 9]}}, {}, ["rising"]),
        ({"tracking.uri": {"grid": ["a"]}}, {}, ["tracking.uri", "whole sweep's"]),
        ({"name": {"grid": ["a"]}}, {}, ["name", "whole sweep's"]),
        ({"training.reach": {"grid": []}}, {}, ["space.training.reach.grid"]),
        ({"training.reach": {"grid": [1], "choice": [1]}}, {}, ["space.training.reach", "give one of grid, choice"]),
        ({"training.reach": {"integers": [3, 1]}}, {"search": {"method": "random"}}, ["below the second"]),
        ({"training.momentum": {"loguniform": [0, 1]}}, {"search": {"method": "random"}}, ["above 0"]),
        ({"training.reach": {"choice": [1]}}, {}, ["search.method=grid", "training.reach"]),
        ({"training.reach": {"grid": [1]}}, {"search": {"method": "optuna"}}, ["anything but grids"]),
        ({}, {}, ["space"]),
        (GRID, {"metrik": "validation/J"}, ["metrik", "metric"]),
        (GRID, {"metric": "loss"}, ["metric", "validation/JF"]),
        (GRID, {"recipe": "nowhere.yaml"}, ["nowhere.yaml", "No such file"]),
        (GRID, {"overrides": {"training.speed": 1}}, ["training.speed"]),
        (GRID, {"overrides": {"stages": {"a": {}, "b": {}}}}, ["stages a, b", "`stage`"]),
    ],
)
def test_a_mistake_is_one_line_that_names_its_place(
    tmp_path: Path, space: Overrides, fields: Overrides, words: list[str]
) -> None:
    path = _write(tmp_path, space, **fields)
    with pytest.raises(UserError) as caught:
        load_sweep(path)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


def test_a_sweep_of_one_stage_starts_from_the_recipes_own_runs(tmp_path: Path) -> None:
    stages = {
        "first": {"model.streams": "appearance"},
        "last": {"model.streams": "motion", "model.start_from": "stage:first"},
    }
    path = _write(tmp_path, GRID, overrides={"stages": stages, "stage": "last"})
    base = load_sweep(path)[1]
    assert (base.name, base.model.starts) == ("mine", ["run:base.first"])


def _trials() -> list[Trial]:
    def report(epoch: int, score: float) -> dict[str, float]:
        return {"epoch": epoch, "validation/JF": score, "validation/J": score + 0.1, "validation/F": score - 0.1}

    final = report(2, 0.8) | {LAST_EPOCH: 3}
    return [
        Trial("000-a", {"x": "a", "y": 1e-3}, "failed", "the loss is not finite, in step 3", 9.6),
        Trial("001-b", {"x": "b", "y": 1e-2}, "stopped", "", 20.0, [report(1, 0.5), report(2, 0.4)]),
        Trial("002-c", {"x": "c", "y": 1e-1}, "finished", "", 30.0, [report(1, 0.7), report(2, 0.8), final]),
    ]


def test_the_table_has_the_best_trial_first_and_the_reasons_of_those_that_failed() -> None:
    rows = table(_trials(), "validation/JF")
    assert [row["trial"] for row in rows] == ["002-c", "001-b", "000-a"]
    assert [(row["best epoch"], row["epochs"]) for row in rows] == [(2, 3), (1, 2), (None, 0)]
    read = list(csv.DictReader(io.StringIO(as_csv(rows))))
    assert float(read[0]["validation/JF"]) == 0.8 and read[2]["reason"] == "the loss is not finite, in step 3"
    lines = as_text(rows).splitlines()
    assert len(lines) == 4 and lines[3].endswith("failed    the loss is not finite, in step 3")


def test_what_is_known_of_trials_survives_in_the_sweeps_folder(tmp_path: Path) -> None:
    folder = SweepFolder(str(tmp_path / "sweep"))
    assert folder.trials() == []
    for trial in reversed(_trials()):
        folder.keep(trial)
    assert folder.trials() == _trials()


def test_a_sweep_is_not_continued_with_other_settings_nor_in_a_runs_folder(tmp_path: Path) -> None:
    folder = SweepFolder(str(tmp_path / "sweep"))
    folder.refuse_other_settings({"seed": 3})
    folder.claim({"space.x": {"grid": [1]}, "seed": 0})
    folder.refuse_other_settings({"space.x": {"grid": [1]}, "seed": 0})
    with pytest.raises(UserError, match=r"begun with seed = 0, now it is 1"):
        folder.refuse_other_settings({"space.x": {"grid": [1]}, "seed": 1})
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").write_text('{"seed": 0}')
    with pytest.raises(UserError, match="folder of a run"):
        SweepFolder(str(tmp_path / "run")).refuse_other_settings({"seed": 0})


def test_the_picture_shows_every_trial_that_has_a_score() -> None:
    pictures = []
    for trials in (_trials(), _trials()[:2], _trials()[:1]):
        data = parallel_coordinates(table(trials, "validation/JF"), ["x", "y"], "validation/JF")
        pictures.append(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))
    colours = [len(np.unique(picture.reshape(-1, 3), axis=0)) for picture in pictures if picture is not None]
    assert len(colours) == 3 and colours[0] > colours[2] and colours[1] > colours[2]
