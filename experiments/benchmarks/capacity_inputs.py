"""What capacity.py is given, a recipe, a data set and a cluster, and what it knows: costs, GPUs, prices."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError, model_validator

from pipelines.config import Experiment, apply_overrides, clause, load_experiment, parse_override, read_yaml
from pipelines.sections import Count, Flow, Section, Source
from rtnet.errors import UserError

HERE = Path(__file__).parent
KNOWN, COSTS = HERE / "capacity.yaml", HERE / "costs.yaml"

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Case = Literal["worst", "likely", "best"]


class Gpu(Section):
    """Peaks in TFLOP/s."""

    float32: Positive
    tf32: Positive
    bfloat16: Positive
    float16: Positive
    memory_gb: Positive


class Cluster(Section):
    """Nodes that are alike; the driver and the head are on one of them."""

    nodes: Count
    gpus: Annotated[int, Field(ge=0)]
    """Of one node, like all that follows."""
    gpu: str | None
    """Their kind, one of `gpus` in capacity.yaml."""
    cores: Count
    memory_gb: Positive
    network_gbit: Positive
    """To the other nodes and to the store."""
    price: NotNegative
    """Dollars an hour."""
    type: str = ""

    @model_validator(mode="after")
    def _gpus_have_a_kind(self) -> "Cluster":
        if self.gpus and not self.gpu:
            raise ValueError("gpus is not 0, so gpu must name their kind")
        return self

    @property
    def all_gpus(self) -> int:
        return self.nodes * self.gpus

    @property
    def all_cores(self) -> int:
        return self.nodes * self.cores

    @property
    def bytes_per_s(self) -> float:
        """Of all nodes together."""
        return self.nodes * self.network_gbit * 1e9 / 8


class Footage(Section):
    """Videos that are alike, or stills: then `videos` are the groups of 256 that the layout makes."""

    source: str
    """The recipe's source that reads it; a part that it does not read is left out."""
    split: str
    kind: Literal["frames", "video", "stills"] = "frames"
    videos: Count
    frames: Count
    """Of all videos together."""
    annotated: Annotated[int, Field(ge=0)]
    """So many of the frames."""
    height: Count
    width: Count
    rate: Positive = 25.0
    """Frames a second."""
    mbit: Positive = 1.0
    """A second of a video file."""

    @model_validator(mode="after")
    def _counts_fit(self) -> "Footage":
        if self.annotated > self.frames or self.frames < self.videos:
            raise ValueError("annotated is at most frames, and videos too")
        return self

    @property
    def length(self) -> float:
        """Frames of one video, in the mean."""
        return self.frames / self.videos

    @property
    def megapixels(self) -> float:
        """Of one frame."""
        return self.height * self.width / 1e6

    @property
    def hours(self) -> float:
        return 0.0 if self.kind == "stills" else self.frames / self.rate / 3600

    def pieces(self, size: int) -> int:
        """So many pieces of `size` frames, the last of each video shorter."""
        return self.videos * ceil(self.length / size)


class DataSet(Section):
    parts: Annotated[list[Footage], Field(min_length=1)]

    @property
    def videos(self) -> int:
        """Stills are none, unless there is nothing else."""
        return sum(p.videos for p in self.parts if p.kind != "stills") or sum(p.videos for p in self.parts)


class Store(Section):
    """An object store: dollars for 1000 requests and for a GB a month, requests a second of one prefix."""

    put_price: NotNegative
    get_price: NotNegative
    gb_month_price: NotNegative
    puts_per_s: Positive
    gets_per_s: Positive
    latency_ms: NotNegative
    keys_per_list: Count


class Cases(Section):
    """What is not known, from the worst case to the best."""

    worst: Positive
    likely: Positive
    best: Positive


class Latency(Section):
    """Microseconds."""

    within: NotNegative
    between: NotNegative


class Known(Section):
    """capacity.yaml, but for what is chosen of it by name."""

    gpus: dict[str, Gpu]
    shares: dict[Literal["float32", "tf32", "bfloat16", "float16"], Cases]
    launch_us: Cases
    all_reduce_us: Latency
    clusters: dict[str, Cluster]
    store: Store
    datasets: dict[str, DataSet]


class Cost(Section):
    value: NotNegative
    unit: str
    of: str = ""
    """The command that printed it, where it is not the file's own."""


class Costs(Section):
    """costs.yaml."""

    machine: str
    command: str
    costs: dict[str, Cost]

    def __getitem__(self, name: str) -> float:
        if name not in self.costs:
            raise UserError(f"{COSTS.name} lacks {name}: run `python -m experiments.benchmarks.capacity --measure`")
        return self.costs[name].value


@dataclass(frozen=True)
class Plan:
    """All that is known of one question."""

    recipe: str
    experiment: Experiment
    dataset_name: str
    dataset: DataSet
    cluster_name: str
    cluster: Cluster
    known: Known
    costs: Costs
    case: Case = "likely"

    @cached_property
    def gpu(self) -> Gpu | None:
        return self.known.gpus[self.cluster.gpu] if self.cluster.gpu and self.cluster.gpus else None

    def source(self, part: Footage) -> Source:
        return self.experiment.data.sources[part.source]

    def flow(self, part: Footage) -> Flow:
        """As `pipelines.sources.flow_of`."""
        return self.source(part).flow or self.experiment.flow

    def is_remote(self, uri: str) -> bool:
        """Whether it lies in the object store; else it is a shared file system, whose requests cost nothing here."""
        return "://" in uri


def load_plan(recipe: str, dataset: str, cluster: str, overrides: Sequence[str]) -> Plan:
    """Raises UserError naming the file, name, field or override at fault."""
    values = read_yaml(KNOWN, "benchmarks' file")
    of_recipe: list[str] = []
    for override in overrides:
        key, value = parse_override(override)
        section, _, field = key.partition(".")
        if section in ("cluster", "dataset"):
            name = cluster if section == "cluster" else dataset
            _check_name(name, values[f"{section}s"], section)
            apply_overrides(values, {f"{section}s.{name}.{field}": value})
        else:
            of_recipe.append(override)
    for section, name in (("cluster", cluster), ("dataset", dataset)):
        _check_name(name, values[f"{section}s"], section)
    known = _validated(values, Known, KNOWN.name)
    costs = _validated(read_yaml(COSTS, "benchmarks' file"), Costs, COSTS.name)
    experiment = load_experiment(recipe, of_recipe)
    data = _read_by(recipe, experiment, known.datasets[dataset])
    chosen = known.clusters[cluster]
    if chosen.gpu is not None and chosen.gpu not in known.gpus:
        raise UserError(f"cluster.gpu={chosen.gpu}: no such kind; known are {', '.join(known.gpus)}")
    return Plan(recipe, experiment, dataset, data, cluster, chosen, known, costs)


def _check_name(name: str, known: Mapping[str, Any], what: str) -> None:
    if name not in known:
        raise UserError(f"--{what} {name}: no such {what}; {KNOWN.name} has {', '.join(known)}")


def _read_by(recipe: str, experiment: Experiment, data: DataSet) -> DataSet:
    """The parts that the recipe's sources read; a recipe with one source of another name reads all with it."""
    sources = list(experiment.data.sources)
    named = [part for part in data.parts if part.source in sources]
    if not named and len(sources) == 1:
        named = [part.model_copy(update={"source": sources[0]}) for part in data.parts]
    if not named:
        there = ", ".join(dict.fromkeys(part.source for part in data.parts))
        raise UserError(
            f"recipe {recipe} has the sources {', '.join(sources)}, and the data set {there}: "
            "set dataset.parts.0.source"
        )
    return DataSet(parts=named)


def _validated(values: Mapping[str, Any], kind: type[BaseModel], origin: str) -> Any:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{origin}: {'; '.join(clause(e, kind) for e in error.errors())}") from error
