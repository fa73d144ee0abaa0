"""Standard attention on a processor without gradients: PyTorch's own computes its products by MKL there."""

import torch
from torch import Tensor

from rtnet.model.product import product

SCORES_AT_ONCE = 2**20
"""How many scores are held: few enough to stay in a processor's cache, and for their memory to be used again."""


@torch.library.custom_op("rtnet::standard_attention", mutates_args=())
def standard_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """out_i = sum_j A_ij v_j with A_ij = softmax_j(q_i . k_j / sqrt(d)); each (N, heads, P, d) -> (N, heads, P, d).

    Some rows of A at a time: they are complete, so their softmax is exact. It has no gradient.
    """
    pixels, width = query.shape[2:]
    rows = max(1, SCORES_AT_ONCE // pixels)
    out = torch.empty_like(value, memory_format=torch.contiguous_format)
    # One matrix after the other, whose products all threads share.
    matrices = (x.flatten(0, 1) for x in (query * width**-0.5, key, value, out))
    for one_query, one_key, one_value, one_out in zip(*matrices, strict=True):
        keys, columns = one_key.contiguous(), one_value.T.contiguous()
        for start in range(0, pixels, rows):
            scores = product(one_query[start : start + rows].contiguous(), keys)
            torch.softmax(scores, 1, out=scores)
            one_out[start : start + rows] = product(scores, columns)
    return out


standard_attention.register_fake(
    lambda query, key, value: torch.empty_like(value, memory_format=torch.contiguous_format)
)
