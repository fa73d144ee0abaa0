"""The exchange of a pair after one stage: contrast within a frame, motion of a frame, coherence across the frames."""

import torch
from torch import Tensor, nn

from rtnet.model.attention import AttentionForm
from rtnet.model.layers import each_frame, in_pairs
from rtnet.model.reciprocal import ReciprocalTransformation, SelfTransformation


class Exchange(nn.Module):
    """forward(appearance, motion) -> (appearance, motion), all (B, 2, C, H, W): what replaces the level's features."""

    def __init__(self, channels: int, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.appearance_contrast = SelfTransformation(channels, heads, form)
        self.motion_contrast = SelfTransformation(channels, heads, form)
        self.appearance_motion = ReciprocalTransformation(channels, heads, form, shared=False)
        self.appearance_coherence = ReciprocalTransformation(channels, heads, form, shared=True)
        self.motion_coherence = ReciprocalTransformation(channels, heads, form, shared=True)

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        by_motion, by_appearance = self._within_frames(appearance, motion)
        coherence = _across_frames(self.appearance_coherence, appearance)
        contrast = each_frame(self.appearance_contrast, appearance)
        motion_coherence = _across_frames(self.motion_coherence, motion)
        motion_contrast = each_frame(self.motion_contrast, motion)
        return (
            coherence + contrast + by_motion + appearance,
            motion_coherence + motion_contrast + by_appearance + motion,
        )

    def appearance_only(self, appearance: Tensor, motion: Tensor) -> Tensor:
        """forward's appearance for those frames alone whose motion is given.

        appearance (B, 2, C, H, W), motion (B, n, C, H, W) of the first n frames -> (B, n, C, H, W).
        """
        frames = motion.shape[1]
        coherence = _across_frames(self.appearance_coherence, appearance)[:, :frames]
        appearance = appearance[:, :frames]
        by_motion, _ = self._within_frames(appearance, motion)
        return coherence + each_frame(self.appearance_contrast, appearance) + by_motion + appearance

    def _within_frames(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        frames = motion.shape[1]
        appearance, motion = self.appearance_motion(appearance.flatten(0, 1), motion.flatten(0, 1))
        return in_pairs(appearance, frames), in_pairs(motion, frames)


def _across_frames(transformation: ReciprocalTransformation, pair: Tensor) -> Tensor:
    """(B, 2, C, H, W) -> (B, 2, C, H, W)."""
    return torch.stack(transformation(pair[:, 0], pair[:, 1]), 1)
