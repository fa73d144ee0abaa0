"""The exchange of pairs after one stage: contrast within a frame, motion of a frame, coherence across the frames."""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from rtnet.model.attention import ATTENTIONS, AttentionForm
from rtnet.model.reciprocal import ReciprocalTransformation, SelfTransformation


class Frames(NamedTuple):
    """What an exchange needs of frames, each (N, C, H, W), whatever their partners are."""

    appearance: Tensor
    motion: Tensor
    appearance_alone: Tensor
    """All of the new appearance but coherence: its contrast, what it learns of the frame's motion, itself."""
    motion_alone: Tensor


class Exchange(nn.Module):
    """forward(appearance, motion) -> (appearance, motion): what replaces the level's features.

    All (2B, C, H, W): the frames of interest of B pairs, then their partners.
    """

    def __init__(self, channels: int, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.appearance_contrast = SelfTransformation(channels, heads, form)
        self.motion_contrast = SelfTransformation(channels, heads, form)
        self.appearance_motion = ReciprocalTransformation(channels, heads, form, shared=False)
        self.appearance_coherence = ReciprocalTransformation(channels, heads, form, shared=True)
        self.motion_coherence = ReciprocalTransformation(channels, heads, form, shared=True)

    def forward(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return self._exchange(appearance, motion)
        # Backward computes everything in between anew, but not the attentions, which cost the most.
        result: tuple[Tensor, Tensor] = checkpoint(
            self._exchange,
            appearance,
            motion,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=partial(create_selective_checkpoint_contexts, ATTENTIONS),
        )
        return result

    def within_frames(self, appearance: Tensor, motion: Tensor) -> Frames:
        """forward's part that is the same in all pairs of a frame; appearance and motion of any N frames."""
        by_motion, by_appearance = self.appearance_motion(appearance, motion)
        return Frames(
            appearance,
            motion,
            self.appearance_contrast(appearance) + by_motion + appearance,
            self.motion_contrast(motion) + by_appearance + motion,
        )

    def across_frames(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """forward's rest, of the 2B frames of B pairs."""
        return (
            _across_frames(self.appearance_coherence, frames.appearance) + frames.appearance_alone,
            _across_frames(self.motion_coherence, frames.motion) + frames.motion_alone,
        )

    def _exchange(self, appearance: Tensor, motion: Tensor) -> tuple[Tensor, Tensor]:
        return self.across_frames(self.within_frames(appearance, motion))

    def appearance_only(self, appearance: Tensor, motion: Tensor) -> Tensor:
        """forward's appearance for those frames alone whose motion is given.

        appearance (2B, C, H, W), motion (n, C, H, W) of the first n frames -> (n, C, H, W).
        """
        frames = motion.shape[0]
        coherence = _across_frames(self.appearance_coherence, appearance)[:frames]
        appearance = appearance[:frames]
        by_motion, _ = self.appearance_motion(appearance, motion)
        result: Tensor = coherence + self.appearance_contrast(appearance) + by_motion + appearance
        return result


def _across_frames(transformation: nn.Module, frames: Tensor) -> Tensor:
    """(2B, C, H, W) -> (2B, C, H, W)."""
    x, y = transformation(*frames.reshape(2, -1, *frames.shape[1:]))
    return torch.cat([x, y])
