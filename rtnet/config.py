"""All that is needed to rebuild a network."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from rtnet.errors import UserError


@dataclass(frozen=True)
class RTNetConfig:
    """What decides the network's parameters; part of every checkpoint.

    Raises UserError for an encoder that is not in rtnet.model.backbones.BACKBONES.
    """

    backbone: str = "resnet34"
    """The encoder of both streams, by torchvision's name: resnet34 and resnext50_32x4d are the published variants."""
    streams: Literal["both", "appearance", "motion"] = "both"
    """Both, which is RTNet, or one stream alone."""

    def __post_init__(self) -> None:
        from rtnet.model.backbones import BACKBONES  # late: torch and torchvision take seconds to import

        if self.backbone not in BACKBONES:
            raise UserError(f"unknown backbone {self.backbone!r}; there are {', '.join(BACKBONES)}")
        if self.streams not in ("both", "appearance", "motion"):
            raise UserError(f"unknown streams {self.streams!r}; there are both, appearance, motion")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as a checkpoint keeps them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RTNetConfig":
        """The inverse of to_dict. Raises UserError for a key or a backbone that does not exist."""
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"unknown network setting {key!r}; there are {', '.join(known)}")
        return cls(**values)
