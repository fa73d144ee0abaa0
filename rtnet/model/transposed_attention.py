"""Transposed attention: what the published checkpoints were trained with, exactly, in memory linear in the pixels."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from rtnet.model.product import product
from rtnet.model.standard_attention import SCORES_AT_ONCE


@torch.library.custom_op("rtnet::transposed_attention", mutates_args=())
def transposed_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """out_j = sum_i A_ij v_i with A_ij = softmax_j(q_i . k_j / sqrt(d)); each (N, heads, P, d) -> (N, heads, P, d).

    The rows of A are normalised, but the sum runs over them, so the values belong to the queries' places and the result
    to the keys'. Unlike cross-attention, it changes when keys and values are permuted jointly.
    """
    if query.is_cuda and query.dtype in (torch.bfloat16, torch.float16):
        return in_two_passes(query, key, value, _compiled_flex_attention())
    return in_chunks(query, key, value)


def in_chunks(query: Tensor, key: Tensor, value: Tensor, scores_at_once: int = SCORES_AT_ONCE) -> Tensor:
    """Some rows of A at a time: they are complete, so their softmax is exact, and only the sum over rows is cut."""
    pixels, width = query.shape[2:]
    rows = min(pixels, max(1, scores_at_once // pixels))
    # (N, heads, d, P); 16 bits are too few to add up many chunks in.
    out = value.new_zeros(value.mT.shape, dtype=torch.promote_types(value.dtype, torch.float32))
    # One matrix after the other: a product of many that are long and thin is shared out badly among a CPU's threads.
    matrices = (x.flatten(0, 1) for x in (query * width**-0.5, key, value, out))
    for one_query, one_key, one_value, one_out in zip(*matrices, strict=True):
        keys = one_key.contiguous()
        for start in range(0, pixels, rows):
            some = slice(start, start + rows)
            scores = product(one_query[some].contiguous(), keys)
            torch.softmax(scores, 1, out=scores)
            one_out += product(one_value[some].T.contiguous(), scores.T)
    return out.mT.to(value.dtype).contiguous()


def at_once(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """The same in common operators, which any runtime knows, with all of A in memory: for exported graphs."""
    scores = (query * query.shape[3] ** -0.5) @ key.mT
    result: Tensor = scores.softmax(-1).mT @ value
    return result


def in_two_passes(query: Tensor, key: Tensor, value: Tensor, attend: Callable[..., Any] = flex_attention) -> Tensor:
    """Two fused attentions: one for the logarithm of each row's sum, one from the keys' side with the rows so divided.

    The second returns the mean over i with weights exp(s_ij - lse_i); times the sum of these weights it is the result.
    """
    shape = value.shape
    # As one head each: what is compiled for one number of heads serves for all.
    query, key, value = (x.flatten(0, 1)[:, None] for x in (query, key, value))
    with torch.no_grad():
        _, rows = attend(query, key, value[..., :16], return_aux=AuxRequest(lse=True))  # its values are not needed
        out, columns = attend(
            key,
            query,
            value,
            score_mod=lambda score, n, head, j, i: score - rows.lse[n, head, i],
            return_aux=AuxRequest(lse=True),
        )
        result: Tensor = out * columns.lse.exp()[..., None].to(out.dtype)
    return result.view(shape).contiguous()


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """By the fused kernels of standard attention, forward and backward.

    Transposed attention is the gradient of standard attention with respect to its values: with S(w) = sum_j A_ij w_j,
    A^T v is the gradient of <S(w), v>. So its own gradient with respect to v is S(gradient), and those with respect to
    queries and keys are the ones of <S(gradient), v>.
    """
    query, key, value = ctx.saved_tensors
    with torch.enable_grad():
        query, key = query.detach().requires_grad_(), key.detach().requires_grad_()
        standard = F.scaled_dot_product_attention(query, key, gradient.contiguous())
        to_query, to_key = torch.autograd.grad(standard, (query, key), value)
    return to_query, to_key, standard.detach()


def _keep(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@cache
def _compiled_flex_attention() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=True)


transposed_attention.register_fake(
    lambda query, key, value: torch.empty_like(value, memory_format=torch.contiguous_format)
)
transposed_attention.register_autograd(_gradients, setup_context=_keep)
