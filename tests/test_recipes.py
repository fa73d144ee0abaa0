"""Every shipped recipe loads, and its encoder exists."""

import re
from pathlib import Path

import pytest

from pipelines.config import load_experiment
from pipelines.sweep import load_sweep
from rtnet.model.backbones import BACKBONES

RECIPES = sorted((Path(__file__).parents[1] / "experiments").glob("*.yaml"))
SWEEPS = sorted((Path(__file__).parents[1] / "experiments" / "sweeps").glob("*.yaml"))


def test_there_are_recipes() -> None:
    assert {"smoke", "davis16_resnet34", "davis16_resnext50"} <= {path.stem for path in RECIPES}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_and_is_named_after_its_file(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem
    assert experiment.model.backbone in BACKBONES


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_sweep_loads_and_is_named_after_its_file(path: Path) -> None:
    sweep, base = load_sweep(path)
    assert sweep.name == base.name == path.stem


@pytest.mark.parametrize("path", RECIPES + SWEEPS, ids=lambda path: path.stem)
def test_every_recipe_opens_with_its_cost(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("# ") and "Cost: " in text.split("\nname: ")[0]


def test_the_readme_is_finished_and_what_it_shows_is_there() -> None:
    root = Path(__file__).parents[1]
    text = (root / "README.md").read_text()
    assert not re.search(r"@[A-Z]+@", text)
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (root / target).is_file(), target
