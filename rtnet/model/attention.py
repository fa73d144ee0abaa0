"""Attention between two feature maps, standard or transposed, in memory linear in the number of pixels."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rtnet.data.inputs import resize
from rtnet.model.layers import spatial_size


@dataclass(frozen=True)
class AttentionForm:
    """Which of the published forms one level uses."""

    transposed: bool = False
    """Sum over the queries, so that the result lies at the keys (see transposed_attention)."""
    bias: bool = False
    """The projections have a bias."""
    pooled: bool = False
    """A 3x3 stride-2 max-pool before the projections; the result is resized back."""


class Attention(nn.Module):
    """T of the reciprocal transformation: no output projection, no residual.

    forward(x, y), each (N, C, H, W): queries from x, keys and values from y -> (N, C, H, W).
    """

    def __init__(self, channels: int, heads: int, form: AttentionForm) -> None:
        super().__init__()
        self.heads = heads
        self.form = form
        self.query = nn.Conv2d(channels, channels, 1, bias=form.bias)
        self.key = nn.Conv2d(channels, channels, 1, bias=form.bias)
        self.value = nn.Conv2d(channels, channels, 1, bias=form.bias)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        size = spatial_size(x)
        if self.form.pooled:
            x, y = (F.max_pool2d(source, 3, stride=2, padding=1) for source in (x, y))
        query, key, value = self._tokens(self.query(x)), self._tokens(self.key(y)), self._tokens(self.value(y))
        attend = transposed_attention if self.form.transposed else F.scaled_dot_product_attention
        out: Tensor = attend(query, key, value)  # (N, heads, H * W, C / heads)
        return resize(out.transpose(2, 3).reshape(x.shape), size)

    def _tokens(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, heads, H * W, C / heads)."""
        # The kernels that do without the P x P matrix want each token's channels side by side in memory.
        return x.reshape(x.shape[0], self.heads, -1, x.shape[2] * x.shape[3]).transpose(2, 3).contiguous()


QUERIES_PER_CHUNK = 1024


def transposed_attention(
    query: Tensor, key: Tensor, value: Tensor, queries_per_chunk: int = QUERIES_PER_CHUNK
) -> Tensor:
    """out_j = sum_i A_ij v_i with A_ij = softmax_j(q_i . k_j / sqrt(d)); each (N, heads, P, d) -> (N, heads, P, d).

    What the published checkpoints were trained with: the rows of A are normalised, but the sum runs over them, so
    the values belong to the queries' places and the result to the keys'. Unlike cross-attention, it changes when
    keys and values are permuted jointly.
    """
    if query.shape[2] <= queries_per_chunk:
        return _share_of(query, key, value)
    # Rows of A are complete in every chunk, hence its softmax exact; only the sum over rows is cut. Backward computes
    # a chunk's rows anew, so that no more than one chunk's are ever held.
    out = torch.zeros_like(value)
    for start in range(0, query.shape[2], queries_per_chunk):
        some = slice(start, start + queries_per_chunk)
        out = out + checkpoint(
            _share_of, query[:, :, some], key, value[:, :, some], use_reentrant=False, preserve_rng_state=False
        )
    return out


def _share_of(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """What some of the queries add to the result: (N, heads, p, d), (N, heads, P, d), (N, heads, p, d)."""
    scores: Tensor = query @ key.transpose(2, 3) * query.shape[3] ** -0.5  # (N, heads, p, P)
    return scores.softmax(3).transpose(2, 3) @ value
