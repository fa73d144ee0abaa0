"""The exchange of pairs after one stage: contrast within a frame, motion of a frame, coherence across the frames."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from rtnet.model.attention import ATTENTIONS, AttentionForm
from rtnet.model.layers import of_pairs
from rtnet.model.reciprocal import ReciprocalTransformation, SelfTransformation


class Exchange(nn.Module):
    """forward(appearance, motion) -> (appearance, motion): what replaces the level's features.

    All (2B, C, H, W): the frames of interest of B pairs, then their partners. Contrast and motion of a frame are the
    same in all its pairs, so appearance and motion may also be of N distinct frames, with places (2B,) saying which
    frame stands at which place of the pairs.
    """

    def __init__(self, channels: int, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.appearance_contrast = SelfTransformation(channels, heads, form)
        self.motion_contrast = SelfTransformation(channels, heads, form)
        self.appearance_motion = ReciprocalTransformation(channels, heads, form, shared=False)
        self.appearance_coherence = ReciprocalTransformation(channels, heads, form, shared=True)
        self.motion_coherence = ReciprocalTransformation(channels, heads, form, shared=True)

    def forward(self, appearance: Tensor, motion: Tensor, places: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if not torch.is_grad_enabled():
            return self._exchange(appearance, motion, places)
        # Backward computes everything in between anew, but not the attentions, which cost the most.
        result: tuple[Tensor, Tensor] = checkpoint(
            self._exchange,
            appearance,
            motion,
            places,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=partial(create_selective_checkpoint_contexts, ATTENTIONS),
        )
        return result

    def _exchange(self, appearance: Tensor, motion: Tensor, places: Tensor | None) -> tuple[Tensor, Tensor]:
        within = (
            self.appearance_contrast(appearance),
            self.motion_contrast(motion),
            *self.appearance_motion(appearance, motion),
            appearance,
            motion,
        )
        contrast, motion_contrast, by_motion, by_appearance, appearance, motion = (of_pairs(x, places) for x in within)
        return (
            _across_frames(self.appearance_coherence, appearance) + contrast + by_motion + appearance,
            _across_frames(self.motion_coherence, motion) + motion_contrast + by_appearance + motion,
        )

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
