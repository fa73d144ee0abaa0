"""Attention between two feature maps, standard or transposed, in memory linear in the number of pixels."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rtnet.data.inputs import resize
from rtnet.model.layers import spatial_size
from rtnet.model.standard_attention import standard_attention
from rtnet.model.transposed_attention import at_once, transposed_attention

_aten = torch.ops.aten
ATTENTIONS = [
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.rtnet.transposed_attention.default,
    torch.ops.rtnet.standard_attention.default,
]
"""The operators that attention comes down to on some device."""


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
            pooled = F.max_pool2d(x, 3, stride=2, padding=1)
            x, y = pooled, pooled if y is x else F.max_pool2d(y, 3, stride=2, padding=1)
        query, key, value = self._tokens(self.query(x)), self._tokens(self.key(y)), self._tokens(self.value(y))
        out: Tensor = self._form(query)(query, key, value)  # (N, heads, H * W, C / heads)
        if torch.compiler.is_exporting():
            out = out.mT.reshape(x.shape)
        else:
            out = out.transpose(1, 2).reshape(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2)
        return resize(out, size) if self.form.pooled else out

    def _form(self, query: Tensor) -> Callable[..., Tensor]:
        if self.form.transposed:
            return at_once if torch.compiler.is_exporting() else transposed_attention
        plain = torch.is_grad_enabled() or torch.compiler.is_compiling()
        if query.device.type == "cpu" and query.dtype == torch.float32 and not plain:
            return standard_attention
        return F.scaled_dot_product_attention

    def _tokens(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, heads, H * W, C / heads): a view, with each token's channels side by side in memory.

        Without that, scaled_dot_product_attention silently falls back to writing the whole matrix.
        """
        if torch.compiler.is_exporting():  # the same, without conditions on the strides of maps of any size
            channels_last: Tensor = x.flatten(2).unflatten(1, (self.heads, -1)).mT  # type: ignore[no-untyped-call]
            return channels_last.contiguous()
        x = x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)
        return x.reshape(x.shape[0], -1, self.heads, x.shape[3] // self.heads).transpose(1, 2)
