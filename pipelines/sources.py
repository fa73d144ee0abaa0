"""A recipe's sources -> the sequences that they hold."""

from pathlib import Path

from pipelines.config import Experiment
from pipelines.sections import Flow
from rtnet.data.layouts import Sequence, read_layout


def read_sources(experiment: Experiment) -> list[Sequence]:
    """The sequences of all sources, in the recipe's order; a bad one says so in its `fault`. Nothing is decoded."""
    return [
        sequence
        for name, source in experiment.data.sources.items()
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
