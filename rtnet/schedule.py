"""Epoch -> learning rate and what is trained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Phase:
    """Epochs up to `last_epoch` (the first epoch is 1) with one rule.

    The rate in epoch e is max(floor, rate * decay ** (e - decay_origin)). 'interaction' trains the exchange and
    fusion modules alone.
    """

    last_epoch: int
    rate: float
    trained: Literal["all", "interaction"] = "all"
    decay: float = 1.0
    decay_origin: int = 0
    floor: float = 0.0


def phase_of(phases: Sequence[Phase], epoch: int) -> Phase:
    """The phase that an epoch lies in; ValueError beyond the last."""
    for phase in phases:
        if epoch <= phase.last_epoch:
            return phase
    raise ValueError(f"epoch {epoch} lies beyond the last phase, which ends with {phases[-1].last_epoch}")


def rate_of(phase: Phase, epoch: int) -> float:
    """The learning rate of an epoch."""
    return max(phase.floor, phase.rate * phase.decay ** (epoch - phase.decay_origin))
