"""Recipes and overrides."""

from pathlib import Path

import pytest

from pipelines.config import Experiment, load_experiment
from rtnet.errors import UserError
from rtnet.schedule import Phase, phase_of, rate_of

MINIMAL = """
name: tiny
data: {sources: {davis: {layout: davis16, path: davis}}, dataset: ds}
training:
  phases: [{last_epoch: 2, rate: 1e-3}]
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(MINIMAL)
    return path


def test_a_number_in_scientific_notation_is_a_number(recipe: Path) -> None:
    assert load_experiment(recipe).training.phases[0].rate == 1e-3
    assert load_experiment(recipe, ["training.momentum=5e-1"]).training.momentum == 0.5


def test_an_override_replaces_one_value_and_leaves_the_rest(recipe: Path) -> None:
    experiment = load_experiment(
        recipe, ["training.heights=[64, 96]", "data.sources.davis.sequences=[a b, ünder_score]"]
    )
    assert experiment.training.heights == [64, 96]
    assert experiment.data.sources["davis"].sequences == ["a b", "ünder_score"]
    assert experiment.training.batch_size == 1


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.hights=[64]", ["'training.hights'; did you mean training.heights? known are "]),
        ("data.sources.davis.layuot=x", ["did you mean data.sources.davis.layout?"]),
        ("training.xyz=1", ["'training.xyz'; known are "]),
        ("training.phases=[{last_epoch: 1, rate: 1, speed: 2}]", ["speed", "last_epoch", "decay"]),
        ("trainin.momentum=1", ["'trainin'; did you mean training? known are name, "]),
        ("training.momentum=fast", ["training.momentum", "fast"]),
        ("training.batch_size=0", ["training.batch_size", "0"]),
        ("training.batch_size=1.5", ["training.batch_size"]),
        ("training.phases=[{last_epoch: 2, rate: 1}, {last_epoch: 2, rate: 1}]", ["rising"]),
        ("name=a/b", ["name"]),
        ("name.first=a", ["name", "not a section"]),
        ("training.momentum", ["section.field=value"]),
        ("data=3", ["data"]),
        ("data.sources.davis.sequences=[]", ["data.sources.davis.sequences"]),
        ("storage=2026-13-45", ["storage=2026-13-45"]),
        ("training.aspect=.inf", ["training.aspect"]),
        ("tracking.model=a/b", ["tracking.model"]),
        ("tracking.alias=v1", ["tracking.alias", "v1"]),
    ],
)
def test_a_mistake_is_one_line_that_names_the_field(recipe: Path, override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load_experiment(recipe, [override])
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_recipe_that_is_missing_or_no_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml"):
        load_experiment(tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [")
    with pytest.raises(UserError, match=r"broken\.yaml is not YAML"):
        load_experiment(broken)
    broken.write_text("just words")
    with pytest.raises(UserError, match="sections"):
        load_experiment(broken)


def test_an_experiment_survives_its_way_to_a_worker(recipe: Path) -> None:
    experiment = load_experiment(recipe, ["flow.height=64"])
    assert Experiment.model_validate(experiment.model_dump(mode="json")) == experiment


def test_the_published_rates_of_the_joint_training() -> None:
    experiment = load_experiment(Path(__file__).parents[1] / "experiments" / "davis16_resnet34.yaml")
    phases = [Phase(**phase.model_dump()) for phase in experiment.training.phases]
    rates = {epoch: rate_of(phase_of(phases, epoch), epoch) for epoch in range(1, 100)}
    assert rates[1] == rates[4] == 1e-3
    assert rates[5] == rates[15] == 5e-4
    assert rates[16] == pytest.approx(7.62e-4, rel=1e-3)
    assert rates[20] == 5e-4
    assert rates[57] > 1e-5
    assert rates[58] == rates[99] == 1e-5
    assert [phase_of(phases, epoch).trained for epoch in (1, 4, 5, 99)] == ["interaction", "interaction", "all", "all"]
    with pytest.raises(ValueError, match="100"):
        phase_of(phases, 100)


def test_a_source_that_is_there_twice_is_refused(recipe: Path) -> None:
    recipe.write_text(recipe.read_text() + "\nname: again\n")
    with pytest.raises(UserError, match="'name' is there twice"):
        load_experiment(recipe)
