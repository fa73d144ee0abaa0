"""A recipe (YAML) and its overrides -> an Experiment: typed, frozen, with every default written out.

A recipe names values, never classes. Each section is read by the verbs that need it; unknown keys are refused. There is
one mechanism for variants: dotted fields set to other values, whether on the command line, in a recipe's stages or by a
sweep's trials.
"""

import copy
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from pipelines.credentials import refuse_credentials
from pipelines.sections import (
    Data,
    Evaluation,
    Flow,
    Model,
    Prediction,
    Preparation,
    Scaling,
    Section,
    StageName,
    Tracking,
    Training,
    Validation,
)
from rtnet.errors import UserError


class Experiment(Section):
    """A recipe loaded."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Names the run: the same name continues it."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    storage: str = "runs"
    """Folder or URI of all that runs write."""
    data: Data
    flow: Flow = Flow()
    prepare: Preparation = Preparation()
    model: Model = Model()
    training: Training = Training()
    validation: Validation = Validation()
    scaling: Scaling = Scaling()
    tracking: Tracking = Tracking()
    prediction: Prediction = Prediction()
    evaluation: Evaluation = Evaluation()
    stages: dict[StageName, dict[str, Any]] = Field(default_factory=dict)
    """Trainings that follow one another, each this recipe with these fields (section.field: value) replaced."""
    stage: str | None = None
    """`train` runs this stage alone; null runs all."""

    @model_validator(mode="after")
    def _phases_fit_the_streams(self) -> "Experiment":
        if self.model.streams != "both" and any(phase.trained == "interaction" for phase in self.training.phases):
            raise ValueError(f"model.streams={self.model.streams} has no interaction modules: its phases train 'all'")
        return self

    @property
    def registered_model(self) -> str:
        """The name under which its model is registered."""
        streams = self.model.streams
        return self.tracking.model if streams == "both" else f"{self.tracking.model}-{streams}"


def load_experiment(recipe: str | Path, overrides: list[str] | None = None) -> Experiment:
    """The experiment of a recipe file and `section.field=value` overrides, the latter read as YAML.

    Raises UserError naming the file, field or override at fault; its stages are checked too.
    """
    values = read_yaml(recipe, "recipe")
    for override in overrides or []:
        key, value = parse_override(override)
        apply_overrides(values, {key: value})
    experiment = validate(values, f"recipe {recipe}")
    expand_stages(experiment)
    return experiment


def expand_stages(experiment: Experiment) -> list[Experiment]:
    """One experiment for each stage that is to be trained, named NAME.STAGE; the experiment itself if it has none.

    Raises UserError where a stage does not exist, overrides what it can't, or starts from a stage that is not earlier.
    """
    if experiment.stage is not None and experiment.stage not in experiment.stages:
        known = ", ".join(experiment.stages) or "none"
        raise UserError(f"stage={experiment.stage}: {experiment.name} has no such stage; its stages: {known}")
    if not experiment.stages:
        if any(start.startswith("stage:") for start in experiment.model.starts):
            raise UserError(f"model.start_from={experiment.model.start_from}: {experiment.name} has no stages")
        return [experiment]
    expanded: dict[str, Experiment] = {}
    for stage, overrides in experiment.stages.items():
        origin = f"{experiment.name}, stage '{stage}'"
        if clash := [key for key in overrides if key.split(".")[0] in ("name", "storage", "stages", "stage")]:
            raise UserError(f"{origin}: {clash[0]} is the whole recipe's; set it there")
        values = experiment.model_dump(mode="json", exclude={"stages", "stage"})
        apply_overrides(values, overrides)
        values["name"] = f"{experiment.name}.{stage}"
        own = validate(values, origin)
        own = own.model_copy(update={"model": _from_earlier_runs(own.model, expanded, origin)})
        expanded[stage] = own
    return list(expanded.values()) if experiment.stage is None else [expanded[experiment.stage]]


def read_yaml(path: str | Path, what: str) -> dict[str, Any]:
    """A YAML file of named sections; UserError naming `what` it was to be and the file where it is none."""
    try:
        values = yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Yaml)  # noqa: S506 - it is a SafeLoader
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{what} {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UserError(f"{what} {path}: expected sections such as 'data:' and 'training:' at its top")
    return values


def validate(values: dict[str, Any], origin: str) -> Experiment:
    """An Experiment from plain values; UserError with one clause for each field at fault."""
    refuse_credentials(values, f"{origin}: ")
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {'; '.join(clause(e, Experiment) for e in error.errors())}") from error


def parse_override(text: str) -> tuple[str, Any]:
    """`section.field=value` as (dotted field, plain value); the value is YAML."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"override '{text}': write it as section.field=value")
    try:
        return key, yaml.load(value, Loader=_Yaml)  # noqa: S506
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"override '{text}': the value is not YAML") from error


def apply_overrides(values: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Sets dotted fields in a recipe's plain values; a list's entries are named by their numbers from 0.

    Raises UserError where a field lies within a value, or a list has no such entry.
    """
    for key, value in overrides.items():
        *sections, field = key.split(".")
        place: Any = values
        for section in sections:
            place = _inner(place, section, key)
        if isinstance(place, list):
            place[_number(place, field, key)] = copy.deepcopy(value)
        else:
            place[field] = copy.deepcopy(value)


def clause(error: Any, top: type[BaseModel]) -> str:
    """One of pydantic's complaints about a `top`, in words."""
    field = ".".join(str(part) for part in error["loc"]) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"unknown field '{field}'; {_known(error['loc'], top)}"
    if error["type"] == "missing":
        return f"field '{field}' is missing"
    said = str(error["msg"]).removeprefix("Value error, ")
    if field == "recipe" or isinstance(error["input"], dict):
        return said if field == "recipe" else f"section '{field}': {said}"
    return f"field '{field}': {said} (it is {error['input']!r})"


def _from_earlier_runs(model: Model, earlier: Mapping[str, Experiment], origin: str) -> Model:
    """stage:NAME as the run that the stage is."""
    starts = []
    for start in model.starts:
        stage = start.removeprefix("stage:")
        if stage != start and stage not in earlier:
            raise UserError(f"{origin}: model.start_from={start}: earlier are {', '.join(earlier) or 'none'}")
        starts.append(start if stage == start else f"run:{earlier[stage].name}")
    return model.model_copy(update={"start_from": starts})


def _inner(place: Any, section: str, key: str) -> Any:
    inner = place[_number(place, section, key)] if isinstance(place, list) else place.setdefault(section, {})
    if not isinstance(inner, dict | list):
        raise UserError(f"override '{key}': '{section}' is a value, not a section")
    return inner


def _number(entries: list[Any], text: str, key: str) -> int:
    if not text.isdecimal() or int(text) >= len(entries):
        raise UserError(f"override '{key}': '{text}' is none of that list's {len(entries)} entries, counted from 0")
    return int(text)


def _known(location: tuple[int | str, ...], top: type[BaseModel]) -> str:
    """The fields of the section at fault, the one most like it first.

    A list's number or a dict's key on the way leads to what it holds.
    """
    section: Any = top
    for part in location[:-1]:
        fields = getattr(section, "model_fields", {})
        annotation = fields[part].annotation if part in fields else section
        while arguments := [a for a in getattr(annotation, "__args__", ()) if a is not type(None)]:
            annotation = arguments[-1]
            if hasattr(annotation, "__metadata__"):
                annotation = annotation.__origin__
        section = annotation
    close = get_close_matches(str(location[-1]), section.model_fields, n=1)
    hint = f"did you mean {'.'.join(map(str, (*location[:-1], *close)))}? " if close else ""
    return f"{hint}known are {', '.join(section.model_fields)}"


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 takes 1e-3 for a word; recipes mean the number. Of a key given twice it drops the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise ValueError(f"'{twice[0]}' is there twice, again in line {node.start_mark.line + 1} or below")
        return super().construct_mapping(node, deep)


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)([eE][-+]?\d+)$"),
    list("-+.0123456789"),
)
