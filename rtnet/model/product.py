"""The product of two matrices; on processors by oneDNN: MKL, which torch.mm calls, is slow on those of AMD."""

import torch
from torch import Tensor


def product(first: Tensor, second: Tensor) -> Tensor:
    """first @ second.T: (M, K), (N, K) -> (M, N)."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    if there and first.device.type == "cpu" and first.dtype == torch.float32:
        by_onednn: Tensor = torch.ops.mkldnn._linear_pointwise(first, second, None, "none", [], "")
        return by_onednn
    return first @ second.T
