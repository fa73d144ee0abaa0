"""Region similarity J of the DAVIS 2016 benchmark (Perazzi et al., CVPR 2016)."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def region_similarity(mask: Mask, annotation: Mask) -> float:
    """J: intersection over union of two bool (H, W), in 0..1; 1 where both are empty.

    Raises ValueError where they differ in size or are not boolean.
    """
    check_masks(mask, annotation)
    union = np.count_nonzero(mask | annotation)
    return np.count_nonzero(mask & annotation) / union if union else 1.0


def check_masks(mask: Mask, annotation: Mask) -> None:
    """Raise ValueError unless both are bool (H, W) of one size: grey values would be taken for object silently."""
    if mask.ndim != 2 or mask.shape != annotation.shape:
        raise ValueError(f"mask {mask.shape} and annotation {annotation.shape} must be (H, W) of one size")
    if mask.dtype != np.bool_ or annotation.dtype != np.bool_:
        raise ValueError(f"mask ({mask.dtype}) and annotation ({annotation.dtype}) must be boolean")
