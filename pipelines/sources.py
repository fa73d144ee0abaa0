"""A recipe's sources -> the sequences that they hold."""

from collections.abc import Mapping
from pathlib import Path

from pipelines.config import Experiment
from pipelines.sections import Flow, Source
from rtnet.data.layouts import Sequence, read_layout


def read_sources(experiment: Experiment) -> list[Sequence]:
    """The sequences of all sources, in the recipe's order; a bad one says so in its `fault`. Nothing is decoded."""
    return list_sources(experiment.data.sources)


def list_sources(sources: Mapping[str, Source]) -> list[Sequence]:
    """Likewise of the sources named, without their recipe."""
    return [
        sequence
        for name, source in sources.items()
        for sequence in read_layout(
            source.layout,
            Path(source.path).expanduser().resolve(),
            name,
            source.split,
            source.sequences,
            Path(source.annotations).expanduser().resolve() if source.annotations else None,
        )
    ]


def flow_of(experiment: Experiment, dataset: str) -> Flow:
    """The flow of the source of that name."""
    return experiment.data.sources[dataset].flow or experiment.flow
