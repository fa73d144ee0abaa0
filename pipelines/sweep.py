"""A sweep (YAML): a recipe, a space of its fields and how that is searched -> trials, each the recipe plus overrides.

All of the space is checked before anything starts.
"""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator

from pipelines.config import Experiment, apply_overrides, clause, expand_stages, parse_override, read_yaml, validate
from pipelines.sections import Count, Section
from rtnet.errors import UserError

Overrides = dict[str, Any]
Values = Annotated[list[Any], Field(min_length=1)]
Interval = Annotated[list[float], Field(min_length=2, max_length=2)]
Integers = Annotated[list[int], Field(min_length=2, max_length=2)]

_OF_THE_SWEEP = ("name", "storage", "stages", "stage", "tracking")


class Domain(Section):
    """What one field may be: exactly one of these."""

    grid: Values | None = None
    """Each of them, with each of the other fields' (search.method: grid)."""
    choice: Values | None = None
    """One of them, drawn (random, optuna)."""
    uniform: Interval | None = None
    """A number between these two, drawn."""
    loguniform: Interval | None = None
    """Likewise, its logarithm drawn evenly."""
    integers: Integers | None = None
    """A whole number from the first to the second, drawn."""

    @model_validator(mode="after")
    def _one_kind(self) -> "Domain":
        given = [kind for kind in type(self).model_fields if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"give one of {', '.join(type(self).model_fields)}")
        ends = self.uniform or self.loguniform or self.integers
        if ends and not (ends[0] < ends[1] and (ends[0] > 0 or not self.loguniform)):
            raise ValueError("the first must be below the second, and above 0 for loguniform")
        return self

    @property
    def listed(self) -> list[Any]:
        """All values, or the ends of a range."""
        return list(self.grid or self.choice or self.uniform or self.loguniform or self.integers or [])

    def draw(self, random: np.random.Generator) -> Any:
        """One value; not of a grid."""
        if self.choice:
            return self.choice[random.integers(len(self.choice))]
        if self.integers:
            return int(random.integers(self.integers[0], self.integers[1], endpoint=True))
        low, high = self.listed
        if self.uniform:
            return float(random.uniform(low, high))
        return float(np.exp(random.uniform(np.log(low), np.log(high))))


class Search(Section):
    method: Literal["grid", "random", "optuna"] = "grid"
    """Every point of a grid, points drawn at random, or drawn by Optuna (TPE) from what the earlier ones reached."""
    trials: Count = 10
    """How many are drawn; a grid has as many as it has points."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Scheduler(Section):
    method: Literal["asha", "none"] = "asha"
    """ASHA stops a trial that is behind at a rung. Rungs are epochs, each `reduction_factor` times the one before."""
    grace_period: Count = 1
    """The first rung: no trial is stopped before this epoch."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """One in so many goes on from a rung."""


class Sweep(Section):
    """A sweep loaded."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
    """Names the sweep: the same name continues it."""
    recipe: str
    """Path of the recipe, from the sweep's own file."""
    overrides: Overrides = Field(default_factory=dict)
    """Fields of the recipe (section.field: value) replaced in all trials."""
    space: Annotated[dict[str, Domain], Field(min_length=1)]
    """Fields of the recipe (section.field), and what they may be."""
    search: Search = Search()
    scheduler: Scheduler = Scheduler()
    metric: Literal["validation/JF", "validation/J", "validation/F"] = "validation/JF"
    """What trials are judged by, each at its best epoch; higher is better."""
    at_once: Count | None = None
    """Trials that run at the same time; null is as many as the cluster has room for."""

    @model_validator(mode="after")
    def _space_fits_the_search(self) -> "Sweep":
        grid = self.search.method == "grid"
        wrong = [field for field, domain in self.space.items() if (domain.grid is not None) != grid]
        if wrong:
            raise ValueError(
                f"search.method={self.search.method} takes "
                f"{'grids only' if grid else 'anything but grids'}: change space.{wrong[0]}"
            )
        return self


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Sweep, Experiment]:
    """The sweep of a file, and the experiment that all trials share: its recipe with its overrides and those given.

    Raises UserError naming the file, field, override or value at fault; every trial is checked.
    """
    values = read_yaml(path, "sweep")
    try:
        sweep = Sweep.model_validate(values)
    except ValidationError as error:
        raise UserError(f"sweep {path}: {'; '.join(clause(e, Sweep) for e in error.errors())}") from error
    recipe = Path(path).parent / sweep.recipe
    values = read_yaml(recipe, f"sweep {path}: recipe")
    apply_overrides(values, sweep.overrides)
    apply_overrides(values, dict(parse_override(override) for override in overrides))
    stages = expand_stages(validate(values, f"sweep {path}, recipe {recipe}"))
    if len(stages) > 1:
        names = ", ".join(stage.name.rsplit(".", 1)[-1] for stage in stages)
        raise UserError(
            f"sweep {path}: {recipe} has the stages {names}, and trials train one: set `stage` in the sweep's overrides"
        )
    base = stages[0].model_copy(update={"name": sweep.name})
    for candidate in candidates(sweep):
        trial_experiment(base, "candidate", candidate)
    return sweep, base


def trial_experiment(base: Experiment, name: str, overrides: Overrides) -> Experiment:
    """The experiment of one trial, whose run is named SWEEP.NAME; UserError where the overrides don't make one."""
    from rtnet.config import RTNetConfig

    origin = f"sweep {base.name}, {in_words(overrides)}"
    if taken := [field for field in overrides if field.split(".")[0] in _OF_THE_SWEEP]:
        raise UserError(f"{origin}: {taken[0]} is the whole sweep's: leave it out of the space")
    values = base.model_dump(mode="json", exclude={"stages", "stage"})
    try:
        apply_overrides(values, overrides)
        experiment = validate(values | {"name": f"{base.name}.{name}"}, origin)
        RTNetConfig(experiment.model.backbone, experiment.model.streams)
    except UserError as error:
        raise UserError(f"{origin}: {str(error).removeprefix(f'{origin}: ')}") from error
    return experiment


def points(sweep: Sweep) -> list[Overrides]:
    """The trials' overrides, each once, in order; none for Optuna, which draws as it goes."""
    if sweep.search.method == "grid":
        rows = itertools.product(*(domain.listed for domain in sweep.space.values()))
        found = [dict(zip(sweep.space, row, strict=True)) for row in rows]
    elif sweep.search.method == "random":
        found = [
            {
                field: domain.draw(np.random.default_rng([sweep.search.seed, number, place]))
                for place, (field, domain) in enumerate(sweep.space.items())
            }
            for number in range(sweep.search.trials)
        ]
    else:
        found = []
    return [point for number, point in enumerate(found) if point not in found[:number]]


def candidates(sweep: Sweep) -> list[Overrides]:
    """The points, and every value that the space names at least once, the other fields at their first."""
    first = {field: domain.listed[0] for field, domain in sweep.space.items()}
    return [first | {field: value} for field, domain in sweep.space.items() for value in domain.listed] + points(sweep)


def trial_name(number: int, overrides: Overrides) -> str:
    """Such as 003-resnet50-0.001."""
    values = "-".join(_short(value) for value in overrides.values()).replace("e+", "e")
    return f"{number:03d}-{re.sub('[^A-Za-z0-9_.-]+', '_', values)[:48]}"


def in_words(overrides: Overrides) -> str:
    """section.field=value, one after the other."""
    return " ".join(f"{field}={_short(value)}" for field, value in overrides.items())


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
